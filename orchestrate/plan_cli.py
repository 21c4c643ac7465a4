"""`fallow-orchestrate plan | plans | show | approve`: what would be done and why, and somebody's yes. Nothing is done.

What reads fleets and hypervisors loads when a command needs it, so that `--help` stays light.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from agent.settings import ConfigError, parse_count, parse_text
from orchestrate.approvals import (
    TWO,
    NotApprovable,
    Standing,
    approval_document,
    check_approvable,
    count_of,
    expiry_words,
    need_words,
    read_standing,
    read_standings,
    standing_of,
)
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
from orchestrate.records import Approval, Records
from orchestrate.surroundings import Surroundings
from orchestrate.token_file import VARIABLE, TokenRefused, approver_of
from orchestrate.words import plan_lines, plan_title, short
from reports.program import DONE, FAILED, UNREACHABLE
from reports.report_cli import option
from reports.words import count_words, printable, time_words

if TYPE_CHECKING:
    from orchestrate.planning import Planned

# Undoing and waking are commands of their own, which plan and do at once.
PLANNED = (PlanKind.RECLAIM, PlanKind.RELIEF, PlanKind.CONSOLIDATE)
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
  fallow-orchestrate approve 3f9c2b1e0d3a --api-token-file ann.token   as the account whose token it is
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
    parser.add_argument(
        "--api-token-file",
        metavar="FILE",
        type=option(parse_text),
        help="an API token of scope approve, of whose account this is then the checked approval "
        f"(default: ${VARIABLE}); not together with --by",
    )


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
    if planned.plan.steps and not options.json:
        around.out.write(f"{need_words(_fresh(planned.plan, config))}\n")
    if planned.stopped:
        return FAILED
    return DONE if world.inventories else UNREACHABLE


def _fresh(plan: Plan, config: OrchestrateConfig) -> Standing:
    """A plan that nobody has approved yet."""
    return standing_of(plan, (), (), None, above=config.reclaim.two_persons_above)


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
        plans = records.plans(limit=options.limit)
        found = read_standings(records, plans, above=config.reclaim.two_persons_above)
    if options.json:
        told = [{**plan_document(each.plan, each.approvals), **approval_document(each, now_s)} for each in found]
        around.out.write(to_text({"plans": told}))
        return DONE
    around.out.write(_text([_plan_words(each, now_s) for each in found] or ["There has been no plan yet."]))
    return DONE


def _plan_words(standing: Standing, now_s: float) -> str:
    names = ", ".join(printable(each.by) for each in standing.approvals)
    # With one, its name says enough.
    count = f", {count_of(standing)} approvals" if standing.needed >= TWO else ""
    run = standing.applied_by
    return (
        plan_title(standing.plan, now_s=now_s)
        + count
        + (f", approved by {names}" if names else "")
        + (f", applied by run {run.run_id}" if run is not None else "")
    )


def run_show(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Prints one plan whole. Returns: 1: there is no such plan."""
    from orchestrate.control import open_records  # noqa: PLC0415
    from orchestrate.documents import plan_document, run_document, to_text  # noqa: PLC0415

    now_s = around.clock()
    with open_records(config) as records:
        try:
            plan = find_plan(records, options.hash)
        except Unfound as error:
            return fail(around, error)
        standing = read_standing(records, plan, above=config.reclaim.two_persons_above)
        if options.json:
            told = [run_document(run, records.actions(run.run_id)) for run in standing.runs]
            document = {**plan_document(plan, standing.approvals), **approval_document(standing, now_s), "runs": told}
            around.out.write(to_text(document))
            return DONE
    currency = config.report.prices.currency
    lines = list(plan_lines(plan, now_s=now_s, approvals=standing.approvals, currency=currency))
    lines += ["", need_words(standing)]
    lines += [f"run {run.run_id} of {time_words(run.begun_s)}" for run in standing.runs]
    if standing.applied_by is None and now_s < plan.expires_s:
        command = "apply" if standing.is_approved else "approve"
        lines += ["", f"Next: {next_command(around, command, short(plan.sha256))}"]
    around.out.write(_text(lines))
    return DONE


def run_approve(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Notes somebody's yes.

    Returns: 1: there is no such plan, it is too late for it, or the token's account may not approve it.

    Raises: ConfigError: `--by` beside a token, or no usable token file.
    """
    from orchestrate.control import open_records  # noqa: PLC0415

    if options.api_token_file is not None and options.by is not None:
        raise ConfigError(f"--by: a token says who approves (--api-token-file or ${VARIABLE}): leave one out")
    by, now_s = "" if options.api_token_file is not None else who(options), around.clock()
    with open_records(config) as records:
        try:
            plan = find_plan(records, options.hash)
            if options.api_token_file is None:
                account = None
                if (expired := expiry_words(plan, now_s=now_s)) is not None:
                    return fail(around, expired)
            else:
                account = by = _checked(options, config, records, plan, now_s)
        except (Unfound, NotApprovable, TokenRefused) as error:
            return fail(around, error)
        records.approve(Approval(plan_sha256=plan.sha256, by=by, at_s=now_s, account=account))
        standing = read_standing(records, plan, above=config.reclaim.two_persons_above)
    around.out.write(_approved_text(standing, by, account, around))
    return DONE


def _checked(options: argparse.Namespace, config: OrchestrateConfig, records: Records, plan: Plan, now_s: float) -> str:
    """The account that approves. Raises: ConfigError, TokenRefused, NotApprovable."""
    account = approver_of(Path(options.api_token_file), config.report, now_s=now_s)
    standing = read_standing(records, plan, above=config.reclaim.two_persons_above)
    if standing.find(account) is None:
        try:
            check_approvable(standing, account, now_s=now_s)
        except NotApprovable as error:
            body = {"asked": "approve", "why": str(error), "via": "api-token", "plan": plan.sha256}
            records.note("refused", body, who=account, now_s=now_s)
            raise
    return account


def _approved_text(standing: Standing, by: str, account: str | None, around: Surroundings) -> str:
    plan = standing.plan
    steps = count_words(len(plan.steps), "step")
    lines = [f"approved {short(plan.sha256)}: {plan.kind}, {steps}, by {printable(by)}"]
    if standing.needed >= TWO:
        lines.append(need_words(standing))
        if account is None:
            lines.append("This approval does not count for that: nobody checked the name.")
    if standing.is_approved:
        lines += [
            f"Next: {next_command(around, 'apply', short(plan.sha256))}",
            "Where the service runs (fallow-orchestrate watch), its next turn does it.",
        ]
    return _text(lines)
