"""`fallow-orchestrate plan | plans | show | approve`: what would be done and why, and somebody's yes. Nothing is done.

What reads fleets and hypervisors loads when a command needs it, so that `--help` stays light.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from agent.settings import ConfigError, parse_count
from orchestrate.cli_parts import (
    MIN_HASH_DIGITS,
    Unfound,
    add_by,
    fail,
    find_plan,
    find_vms,
    fits_all,
    next_command,
    parse_hash,
    who,
)
from orchestrate.config import OrchestrateConfig
from orchestrate.plan import Plan, PlanKind
from orchestrate.records import Approval
from orchestrate.refusal import Rule
from orchestrate.surroundings import Surroundings
from orchestrate.words import known, left_out_lines, limit_line, plan_lines, plan_title, refusal_lines, short
from reports.program import DONE, FAILED
from reports.report_cli import option
from reports.words import count_words, printable, time_words

if TYPE_CHECKING:
    from orchestrate.planning import Planned
    from orchestrate.reclaim import Reclaim

# Undoing and waking are commands of their own, which plan and do at once.
PLANNED = (PlanKind.RECLAIM, PlanKind.RELIEF, PlanKind.CONSOLIDATE)
_NOTHING_DONE = "This was a dry run: nothing was done."

_PLAN_EXAMPLES = """\
examples:
  fallow-orchestrate plan --config orchestrate.toml        the best of what is due, with its evidence
  fallow-orchestrate plan --top 3                          the three most worthwhile VMs alone
  fallow-orchestrate plan --vm build-7 --vm 'test-*'       these VMs, by name, UUID, agent's id or pattern
  fallow-orchestrate plan --all --json                     all that is due, for programs
  fallow-orchestrate plan --kind relief                    moves that relieve hot hosts
"""
_PLANS_EXAMPLES = """\
examples:
  fallow-orchestrate plans
  fallow-orchestrate plans --limit 100 --json
"""
_SHOW_EXAMPLES = """\
examples:
  fallow-orchestrate show 3f9c2b                           a plan by the first digits of its hash
  fallow-orchestrate show 3f9c2b1e0d3a --json
"""
_APPROVE_EXAMPLES = """\
examples:
  fallow-orchestrate approve 3f9c2b
  fallow-orchestrate approve 3f9c2b1e0d3a --by ann
"""


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `plan` takes."""
    parser.epilog = _PLAN_EXAMPLES
    kinds = ", ".join(PLANNED)
    parser.add_argument(
        "--kind", metavar="KIND", choices=PLANNED, default=PlanKind.RECLAIM, help=f"{kinds} (default: reclaim)"
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--top", metavar="N", type=option(parse_count), help="the best N VMs instead of the batch")
    amount.add_argument("--all", action="store_true", help="every VM that is due, whatever the batch is")
    parser.add_argument(
        "--vm",
        metavar="VM",
        action="append",
        default=[],
        help="this VM alone: name, UUID, agent's id, or a pattern such as 'dev-*'; may be said again",
    )
    add_by(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_plans_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `plans` takes."""
    parser.epilog = _PLANS_EXAMPLES
    parser.add_argument("--limit", metavar="20", type=option(parse_count), default=20, help="at most so many")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_show_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `show` takes."""
    parser.epilog = _SHOW_EXAMPLES
    add_hash(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_approve_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `approve` takes."""
    parser.epilog = _APPROVE_EXAMPLES
    add_hash(parser)
    add_by(parser)


def add_hash(parser: argparse.ArgumentParser) -> None:
    """The plan that is meant."""
    parser.add_argument(
        "hash",
        metavar="HASH",
        type=option(parse_hash),
        help=f"of the plan, or its beginning of {MIN_HASH_DIGITS} digits at least",
    )


def run_plan(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Looks at everything and prints the plan; the records keep it.

    Returns: 0 there is a plan, or nothing is due; 1 the look was stopped, as by an outage, or no such VM.

    Raises: ConfigError: `--vm '*'` without `--all`, or of the configuration; sqlalchemy.exc.DBAPIError.
    """
    from orchestrate.control import open_control  # noqa: PLC0415
    from orchestrate.planning import NO_END, plan_moving, plan_reclaiming  # noqa: PLC0415

    if any(map(fits_all, options.vm)) and not options.all:
        raise ConfigError("--vm: a pattern that every VM fits needs --all beside it")
    made_by = who(options)
    moves = options.kind != PlanKind.RECLAIM
    if moves and (options.vm or options.top or options.all):
        raise ConfigError(f"plan: --vm, --top and --all are for reclaim, not for {options.kind}")
    with open_control(config, clock=around.clock, pause=around.pause) as control:
        world = control.sources.world(all_minutes=moves)
        try:
            only = find_vms(world, options.vm) if options.vm else None
        except Unfound as error:
            return fail(around, error)
        if moves:
            planned = plan_moving(control, world, PlanKind(options.kind), made_by=made_by)
        else:
            top = NO_END if options.all else options.top
            planned = plan_reclaiming(control, world, made_by=made_by, top=top, only=only)
    text = _plan_json(planned, around) if options.json else _plan_text(planned, config, around, world.now_s)
    around.out.write(text)
    return FAILED if planned.stopped else DONE


def _plan_json(planned: Planned, around: Surroundings) -> str:
    from orchestrate.documents import plan_document, refusal_document, to_text  # noqa: PLC0415

    made = planned.reclaim
    return to_text(
        {
            **plan_document(planned.plan),
            "kept": bool(planned.plan.steps),
            "stopped": [refusal_document(each) for each in planned.stopped],
            "refusals": [refusal_document(each) for each in planned.refusals],
            **({"hot": [asdict(each) for each in planned.hot]} if made is None else _reclaim_document(made)),
            "next": _next_words(planned.plan, around),
        }
    )


def _reclaim_document(made: Reclaim) -> dict[str, object]:
    from orchestrate.documents import refusal_document  # noqa: PLC0415
    from orchestrate.reclaim import counted  # noqa: PLC0415

    return {
        "left_out": [
            {
                "vm_id": each.vm_id,
                "name": each.name,
                "vm": None if each.ref is None else str(each.ref),
                "refusals": [refusal_document(one) for one in each.refusals],
            }
            for each in made.left_out
        ],
        "left_out_by_rule": {rule.value: count for rule, count in counted(made.left_out).items()},
        "waiting": [
            {"vm": str(each.ref), "name": each.name, "next": each.next_verb, "due_s": each.due_s}
            for each in made.waiting
        ],
        "later": [str(ref) for ref in made.later],
        "dropped": [{"vm": str(each.ref), "words": each.words} for each in made.drops],
    }


def _plan_text(planned: Planned, config: OrchestrateConfig, around: Surroundings, now_s: float) -> str:
    plan, made = planned.plan, planned.reclaim
    if planned.stopped:
        return _text(
            ["Nothing is planned: the look at the fleet is not to be believed.", *refusal_lines(planned.stopped)]
        )
    lines = [f"hot: {known(each.host_id)}: {printable(each.words)}" for each in planned.hot]
    lines += [""] if lines else []
    if plan.steps:
        lines += plan_lines(plan, now_s=now_s, approvals=(), currency=config.report.prices.currency)
        lines += [limit_line(plan.steps, config.reclaim.limits)]
    else:
        lines += ["Nothing is due." if made is not None else "No move helps.", *map(printable, plan.notes)]
    lines += [] if made is None else [*_left_out(made), *_waiting(made)]
    if planned.refusals:
        lines += ["", "As it stands, it would be refused whole:", *refusal_lines(planned.refusals)]
    lines += ["", _NOTHING_DONE]
    if (following := _next_words(plan, around)) is not None:
        lines += [f"Next: {following}"]
    return _text(lines)


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _left_out(made: Reclaim) -> list[str]:
    by_rule: dict[Rule, list[tuple[str, str]]] = {}
    for each in sorted(made.left_out, key=lambda one: list(Rule).index(one.refusals[0].rule)):
        first = each.refusals[0]
        by_rule.setdefault(first.rule, []).append((each.name, first.words))
    lines = list(left_out_lines(by_rule))
    return ["", *lines] if lines else []


def _waiting(made: Reclaim) -> list[str]:
    lines = [
        f"  {printable(each.name)} ({each.ref}): {each.next_verb} from {time_words(each.due_s)} on"
        for each in made.waiting
    ]
    return ["", "Not due yet:", *lines] if lines else []


def _next_words(plan: Plan, around: Surroundings) -> str | None:
    return next_command(around, "approve", short(plan.sha256)) if plan.steps else None


def run_plans(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Lists the newest plans."""
    from orchestrate.control import open_records  # noqa: PLC0415
    from orchestrate.documents import plan_document, to_text  # noqa: PLC0415

    now_s = around.clock()
    with open_records(config) as records:
        found = [(plan, records.approvals(plan.sha256)) for plan in records.plans(limit=options.limit)]
    if options.json:
        around.out.write(to_text({"plans": [plan_document(plan, approvals) for plan, approvals in found]}))
        return DONE
    lines = []
    for plan, approvals in found:
        names = ", ".join(printable(each.by) for each in approvals)
        lines.append(plan_title(plan, now_s=now_s) + (f", approved by {names}" if names else ""))
    around.out.write(_text(lines or ["There has been no plan yet."]))
    return DONE


def run_show(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Prints one plan whole. Returns: 1: there is no such plan."""
    from orchestrate.control import open_records  # noqa: PLC0415
    from orchestrate.documents import plan_document, run_document, to_text  # noqa: PLC0415

    with open_records(config) as records:
        try:
            plan = find_plan(records, options.hash)
        except Unfound as error:
            return fail(around, error)
        approvals = records.approvals(plan.sha256)
        runs = [run for run in records.runs(limit=1000) if run.plan_sha256 == plan.sha256]
        if options.json:
            told = [run_document(run, records.actions(run.run_id)) for run in runs]
            around.out.write(to_text({**plan_document(plan, approvals), "runs": told}))
            return DONE
    currency = config.report.prices.currency
    lines = list(plan_lines(plan, now_s=around.clock(), approvals=approvals, currency=currency))
    lines += [f"run {run.run_id} of {time_words(run.begun_s)}" for run in runs]
    if not runs and around.clock() < plan.expires_s:
        command = "apply" if approvals else "approve"
        lines += ["", f"Next: {next_command(around, command, short(plan.sha256))}"]
    around.out.write(_text(lines))
    return DONE


def run_approve(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Notes somebody's yes. Returns: 1: there is no such plan, or it is too late for it."""
    from orchestrate.control import open_records  # noqa: PLC0415

    by, now_s = who(options), around.clock()
    with open_records(config) as records:
        try:
            plan = find_plan(records, options.hash)
        except Unfound as error:
            return fail(around, error)
        if not now_s < plan.expires_s:
            return fail(around, f"{short(plan.sha256)}: expired {time_words(plan.expires_s)}: make a new plan")
        records.approve(Approval(plan_sha256=plan.sha256, by=by, at_s=now_s))
    steps = count_words(len(plan.steps), "step")
    around.out.write(
        f"approved {short(plan.sha256)}: {plan.kind}, {steps}, by {printable(by)}\n"
        f"Next: {next_command(around, 'apply', short(plan.sha256))}\n"
    )
    return DONE
