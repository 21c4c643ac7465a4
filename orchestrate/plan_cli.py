"""`fallow-orchestrate plan | plans | show | approve`: what would be done and why, and somebody's yes. Nothing is done.

What reads fleets and hypervisors loads when a command needs it, so that `--help` stays light.
"""

from __future__ import annotations

import argparse
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
from orchestrate.plan import PlanKind
from orchestrate.records import Approval
from orchestrate.surroundings import Surroundings
from orchestrate.words import plan_lines, plan_title, short
from reports.program import DONE, FAILED, UNREACHABLE
from reports.report_cli import option
from reports.words import count_words, printable, time_words

if TYPE_CHECKING:
    from orchestrate.planning import Planned

# Undoing and waking are commands of their own, which plan and do at once.
PLANNED = (PlanKind.RECLAIM, PlanKind.RELIEF, PlanKind.CONSOLIDATE)
# Enough to find those of plans that are still good.
_RUNS = 1000
_FITS_ALL = "--vm: a pattern that every VM fits needs --all beside it"

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
    kinds = [kind.value for kind in PLANNED]
    parser.add_argument(
        "--kind",
        metavar="KIND",
        choices=kinds,
        default=PlanKind.RECLAIM.value,
        help=f"{', '.join(kinds)} (default: reclaim)",
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
    parser.add_argument(
        "--limit", metavar="N", type=option(parse_count), default=20, help="at most so many (default: 20)"
    )
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

    Returns: 0 there is a plan, or nothing is due; 1 the look was stopped, as by an outage, or no such VM; 69 no
        hypervisor answers.

    Raises: ConfigError: a pattern that fits all VMs without `--all`, or of the configuration;
        sqlalchemy.exc.DBAPIError.
    """
    from orchestrate.control import open_control  # noqa: PLC0415
    from orchestrate.owners.notify import NotifySettings  # noqa: PLC0415
    from orchestrate.plan_answers import plan_json, plan_text  # noqa: PLC0415
    from orchestrate.planning import NO_END, plan_moving, plan_reclaiming  # noqa: PLC0415

    if any(map(fits_all, options.vm)) and not options.all:
        raise ConfigError(_FITS_ALL)
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
        if only is not None and len(only) == len(world.vms) > len(options.vm) and not options.all:
            raise ConfigError(_FITS_ALL)
        if moves:
            planned = plan_moving(control, world, PlanKind(options.kind), made_by=made_by)
        else:
            top = NO_END if options.all else options.top
            planned = plan_reclaiming(control, world, made_by=made_by, top=top, only=only)
        currency, following = config.report.prices.currency, _next_words(planned, around)
        if options.json:
            text = plan_json(planned, world, following=following)
        else:
            text = plan_text(
                planned,
                world,
                limits=config.reclaim.limits,
                tells=config.owners.notify != NotifySettings(),
                currency=currency,
                following=following,
            )
    around.out.write(text)
    if planned.stopped:
        return FAILED
    return DONE if world.inventories else UNREACHABLE


def _next_words(planned: Planned, around: Surroundings) -> str | None:
    """None: there is nothing to approve, or it would be of no use."""
    if not planned.plan.steps or planned.refusals:
        return None
    return next_command(around, "approve", short(planned.plan.sha256))


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def run_plans(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Lists the newest plans."""
    from orchestrate.control import open_records  # noqa: PLC0415
    from orchestrate.documents import plan_document, to_text  # noqa: PLC0415

    now_s = around.clock()
    with open_records(config) as records:
        found = [(plan, records.approvals(plan.sha256)) for plan in records.plans(limit=options.limit)]
        listed = {plan.sha256 for plan, _ in found}
        # A run without an action refused its plan, which may be applied again.
        runs = (run for run in records.runs(limit=_RUNS) if run.plan_sha256 in listed and records.actions(run.run_id))
        applied = {run.plan_sha256: run.run_id for run in runs}
    if options.json:
        around.out.write(to_text({"plans": [plan_document(plan, approvals) for plan, approvals in found]}))
        return DONE
    lines = []
    for plan, approvals in found:
        names = ", ".join(printable(each.by) for each in approvals)
        run_id = applied.get(plan.sha256)
        lines.append(
            plan_title(plan, now_s=now_s)
            + (f", approved by {names}" if names else "")
            + (f", applied by run {run_id}" if run_id is not None else "")
        )
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
        runs = [run for run in records.runs(limit=_RUNS) if run.plan_sha256 == plan.sha256]
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
        "Where the service runs (fallow-orchestrate watch), its next turn does it.\n"
    )
    return DONE
