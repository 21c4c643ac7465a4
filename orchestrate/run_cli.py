"""`fallow-orchestrate apply | undo | wake | resolve`: what changes something, and a person's word on its outcome."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from agent.settings import ConfigError, parse_count
from orchestrate.cli_parts import Unfound, add_by, fail, find_plan, find_vms, next_command, who
from orchestrate.config import OrchestrateConfig
from orchestrate.driver import DriverError
from orchestrate.inventory import Vm, VmRef
from orchestrate.plan import Plan
from orchestrate.plan_cli import PLANNED, add_hash
from orchestrate.records import Action, Outcome, StaleLease
from orchestrate.surroundings import Surroundings
from orchestrate.words import action_line, outcome_words, plan_lines, plan_title, refusal_lines
from reports.program import DONE, FAILED
from reports.report_cli import option
from reports.words import count_words, duration_words, printable

if TYPE_CHECKING:
    from orchestrate.control import Control
    from orchestrate.executor import Result

_SETTLED = {"done": Outcome.DONE, "failed": Outcome.FAILED}

_APPLY_EXAMPLES = """\
examples:
  fallow-orchestrate apply 3f9c2b                          exactly this plan, each step re-checked just before it
  fallow-orchestrate apply 3f9c2b1e0d3a --by ann --json
"""
_UNDO_EXAMPLES = """\
examples:
  fallow-orchestrate undo 5b1c88e0                         brings back everything that this run took
  fallow-orchestrate undo 5b1c88e0 --dry-run               tells what that would be
"""
_WAKE_EXAMPLES = """\
examples:
  fallow-orchestrate wake build-7                          resumes or starts it, and tells when its next sample came
  fallow-orchestrate wake lab/6f9c2b1e-0d3a-4a53-9d6e-0c5d1f2a7b11 --by ann
"""
_RESOLVE_EXAMPLES = """\
examples:
  fallow-orchestrate resolve 17 done --by ann --reason "the hypervisor shows it suspended"
  fallow-orchestrate resolve 17 failed --by ann --reason "it runs as before"
"""


def add_apply_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `apply` takes."""
    parser.epilog = _APPLY_EXAMPLES
    add_hash(parser)
    add_by(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def add_undo_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `undo` takes."""
    parser.epilog = _UNDO_EXAMPLES
    parser.add_argument("run_id", metavar="RUN", help="as apply and status tell it")
    parser.add_argument("--dry-run", action="store_true", help="tell what would be brought back, and do nothing")
    add_by(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def add_wake_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `wake` takes."""
    parser.epilog = _WAKE_EXAMPLES
    parser.add_argument("vm", metavar="VM", help="name, UUID, or agent's id")
    parser.add_argument("--no-wait", action="store_true", help="do not wait for the guest's next sample")
    add_by(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def add_resolve_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `resolve` takes."""
    parser.epilog = _RESOLVE_EXAMPLES
    parser.add_argument("action_id", metavar="ACTION", type=option(parse_count), help="its number, as status tells it")
    parser.add_argument("outcome", choices=sorted(_SETTLED), help="what became of it")
    parser.add_argument("--reason", metavar="TEXT", required=True, help="how one knows")
    add_by(parser)


def run_apply(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Applies one plan. Returns: 0: every step was done; 1: refused, or not all of it was done."""
    from orchestrate.control import open_control  # noqa: PLC0415

    by = who(options)
    with open_control(config, clock=around.clock, pause=around.pause) as control:
        try:
            plan = find_plan(control.records, options.hash)
        except Unfound as error:
            return fail(around, error)
        return _apply(control, plan, around, by=by, as_json=options.json)


def run_undo(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Brings back what a run took. Returns: 0: all of it; 1: there is no such run, or not all came back."""
    from orchestrate.control import open_control  # noqa: PLC0415
    from orchestrate.undo import plan_undo  # noqa: PLC0415

    by = who(options)
    with open_control(config, clock=around.clock, pause=around.pause) as control:
        run = control.records.find_run(options.run_id)
        if run is None:
            return fail(around, f"{options.run_id}: there is no such run")
        actions = control.records.actions(run.run_id)
        plan = plan_undo(
            actions,
            _live(control, {action.step.ref for action in actions}),
            run_id=run.run_id,
            now_s=around.clock(),
            made_by=by,
            settings_sha256=config.settings_sha256,
            later=[one for one in control.records.actions_since(run.begun_s) if one.run_id != run.run_id],
        )
        if not plan.steps:
            notes = "".join(f": {printable(note)}" for note in plan.notes)
            return fail(around, f"{run.run_id}: there is nothing to bring back{notes}")
        if options.dry_run:
            lines = plan_lines(plan, now_s=around.clock(), approvals=(), currency=None)
            around.out.write("\n".join((*lines, "", "This was a dry run: nothing was done.")) + "\n")
            return DONE
        code = _apply(control, plan, around, by=by, as_json=options.json)
    # What is not as the run left it stays as it is, and somebody should know.
    return code or (FAILED if plan.notes else DONE)


def run_wake(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Gives one VM back, and tells how long the guest took to be heard of again.

    Returns: 0: it runs; 1: there is no such VM, nothing to wake, or it did not wake.
    """
    from orchestrate.control import open_control  # noqa: PLC0415
    from orchestrate.undo import plan_wake  # noqa: PLC0415

    by, asked_s = who(options), around.clock()
    with open_control(config, clock=around.clock, pause=around.pause) as control:
        world = control.sources.world(outside=False)
        try:
            found = find_vms(world, [options.vm])
            if len(found) != 1:
                raise Unfound(f"{options.vm}: fits {count_words(len(found), 'VM')}: say which")
            scene = world.scene(next(iter(found)))
            assert scene.vm is not None
            vm_id = None if scene.match is None else scene.match.vm_id
            plan = plan_wake(
                scene.vm,
                now_s=around.clock(),
                made_by=by,
                settings_sha256=config.settings_sha256,
                vm_id=vm_id,
                owner=scene.owner,
                mail=scene.mail,
            )
        except (Unfound, ValueError) as error:
            return fail(around, error)
        heard = None if vm_id is None or options.no_wait else _Listener(control, vm_id, asked_s)
        result = _do(control, plan, around, by=by, as_json=options.json)
        if result is None:
            return FAILED
        woke = _all_done(result, plan)
        after_s = heard.wait(around) if woke and heard is not None else None
    if options.json:
        around.out.write(_json(result, heard_after_s=after_s))
    elif after_s is not None:
        around.out.write(f"its next sample came {duration_words(after_s)} after the call\n")
    elif woke and heard is not None:
        around.out.write("no sample of it has come yet\n")
    return DONE if woke else FAILED


class _Listener:
    """Waits for a guest's next sample. Made before the order, so that it knows what came before.

    Args: asked_s: when somebody asked for the VM.
    """

    def __init__(self, control: Control, vm_id: str, asked_s: float) -> None:
        from orchestrate.owners.wakes import newest_of  # noqa: PLC0415

        self._read = lambda: control.sources.live.read_one(vm_id)
        self._before = newest_of(self._read)
        self._asked_s = asked_s

    def wait(self, around: Surroundings) -> float | None:
        """Seconds from the call to the sample; None: it did not come in time."""
        from orchestrate.owners.wakes import time_to_sample  # noqa: PLC0415

        return time_to_sample(self._read, self._before, asked_s=self._asked_s, clock=around.clock, pause=around.pause)


def run_resolve(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Notes what a person found. Returns: 1: there is no such open action."""
    from orchestrate.control import open_records  # noqa: PLC0415
    from orchestrate.reconcile import resolve  # noqa: PLC0415
    from orchestrate.report_events import tell_report  # noqa: PLC0415
    from reports.schema import open_report_db  # noqa: PLC0415

    by = who(options)
    if not options.reason.strip():
        raise ConfigError("--reason: is empty")
    with open_records(config) as records:
        try:
            action = resolve(
                records,
                options.action_id,
                _SETTLED[options.outcome],
                by=by,
                reason=options.reason,
                now_s=around.clock(),
            )
        except ValueError as error:
            return fail(around, error)
        run = records.find_run(action.run_id)
    engine = open_report_db(config.report.fleet_url, config.report.data_dir)
    try:
        tell_report(engine, [action], kind="" if run is None else run.kind, by=by)
    finally:
        engine.dispose()
    around.out.write(f"{action_line(action)}\n")
    return DONE


def _live(control: Control, refs: set[VmRef]) -> Mapping[VmRef, Vm]:
    """The VMs as their hypervisors show them just now; those that cannot be found are absent."""
    found: dict[VmRef, Vm] = {}
    for ref in sorted(refs):
        driver = control.sites.drivers.get(ref.driver)
        if driver is None:
            continue
        try:
            found[ref] = driver.find(ref.uuid, control.timeouts.find_s)
        except DriverError:
            continue
    return found


def _apply(control: Control, plan: Plan, around: Surroundings, *, by: str, as_json: bool) -> int:
    result = _do(control, plan, around, by=by, as_json=as_json)
    if result is None:
        return FAILED
    if as_json:
        around.out.write(_json(result))
    return DONE if _all_done(result, plan) else FAILED


def _do(control: Control, plan: Plan, around: Surroundings, *, by: str, as_json: bool) -> Result | None:
    """Applies the plan, telling each step as it is done unless the answer is JSON; None: nothing began, told on err."""
    from orchestrate.control import LeaseHeld  # noqa: PLC0415

    say = _silent if as_json else _teller(around)
    say(plan_title(plan, now_s=around.clock()))
    try:
        with control.leading() as lease:
            result = control.apply(
                plan, lease, by=by, notify=control.notifier(), on_step=lambda action: say(action_line(action))
            )
    except (LeaseHeld, StaleLease, ValueError) as error:
        fail(around, error)
        return None
    if not as_json:
        _tell_end(result, plan, around)
    return result


def _all_done(result: Result, plan: Plan) -> bool:
    done = {action.step.number for action in result.actions if action.outcome is Outcome.DONE}
    return not result.refusals and len(done) == len(plan.steps)


def _silent(_line: str) -> None:
    """For programs there is one answer, at the end."""


def _teller(around: Surroundings) -> Callable[[str], None]:
    def say(line: str) -> None:
        # Each step as it is done: a run may take an hour.
        around.out.write(f"{line}\n")
        around.out.flush()

    return say


def _tell_end(result: Result, plan: Plan, around: Surroundings) -> None:
    run = result.run
    if result.refusals:
        lines = "\n".join(refusal_lines(result.refusals))
        around.out.write(f"Refused whole, nothing was done:\n{lines}\n")
        return
    words = outcome_words(result.actions) or "nothing done"
    around.out.write(f"run {run.run_id}: {words}" + (f": {printable(run.words)}" if run.words else "") + "\n")
    around.out.writelines(f"{printable(note)}\n" for note in plan.notes)
    if any(_is_open(action) for action in result.actions):
        around.out.write("Somebody has to look: fallow-orchestrate resolve ACTION done|failed --reason TEXT\n")
    # What gave back is not taken again by an undo.
    if plan.kind in PLANNED and result.count(Outcome.DONE):
        around.out.write(f"Undo: {next_command(around, 'undo', run.run_id)}\n")


def _is_open(action: Action) -> bool:
    return action.outcome in {None, Outcome.UNKNOWN}


def _json(result: Result, **others: object) -> str:
    from orchestrate.documents import refusal_document, run_document, to_text  # noqa: PLC0415

    refusals = [refusal_document(each) for each in result.refusals]
    return to_text({**run_document(result.run, result.actions), "refusals": refusals, **others})
