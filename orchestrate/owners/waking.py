"""Gives VMs back to owners who ask for them: one plan and one run each, under the lease of whoever leads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from orchestrate.control import Control
from orchestrate.driver import AFTER, DriverError, NotFound, Verb
from orchestrate.executor import Result
from orchestrate.inventory import Vm, VmState
from orchestrate.live_source import LiveVm
from orchestrate.owners.wakes import Wake, Wakes, WakeState, newest_of, time_to_sample
from orchestrate.plan import Plan
from orchestrate.records import Lease, Outcome, StaleLease
from orchestrate.undo import plan_wake

BY = "the owner's link"
TAKEN = frozenset({Verb.SUSPEND, Verb.STOP})
# For owners: what went wrong inside is for whoever runs the cloud, who find it in the log.
GONE = "It is not there any more. Please ask whoever runs this cloud."
UNREACHABLE = "It cannot be reached at present. Please try again in some minutes."
OCCUPIED = "Something else is being done with it just now. Please try again in a minute."
STOPPED = "Nothing can be done at present: whoever runs this cloud has stopped all changes."
UNCLEAR = "It is not certain that it runs again. Please ask whoever runs this cloud."
NOT_DONE = "It could not be brought back. Please ask whoever runs this cloud."
NOT_OURS = "It was not put to sleep for being unused. Please ask whoever runs this cloud."
BUSY = "Another run is at work. It is the next to be seen to."


class Waker:
    """Sees to wakes.

    Args:
        pause: waits so many seconds between two looks for the guest's next sample.
        ending: whether the program is being stopped.
        log: told a line of what went wrong.
    """

    def __init__(
        self,
        control: Control,
        wakes: Wakes,
        *,
        pause: Callable[[float], object],
        ending: Callable[[], bool],
        log: Callable[[str], object],
    ) -> None:
        self._control = control
        self._wakes = wakes
        self._pause = pause
        self._ending = ending
        self._log = log

    def has_waiting(self) -> bool:
        """Whether a wake waits, and may be seen to."""
        return not self._ending() and self._wakes.has_waiting()

    def postpone(self) -> None:
        """Those that wait are told why."""
        self._wakes.postpone(BUSY)

    def wake_all(self, lease: Lease) -> None:
        """Every wake that waits, one after the other. Raises: StaleLease: the rest waits on."""
        while not self._ending() and (wake := self._wakes.take()) is not None:
            try:
                ended, before = self._wake(wake, lease)
            except StaleLease:
                self._wakes.put(replace(wake, state=WakeState.WAITING, words=BUSY))
                raise
            except Exception as error:  # whatever it is, the owner is not left waiting for nothing
                self._log(f"wake of {wake.ref}: {type(error).__name__}: {error}")
                ended, before = replace(wake, state=WakeState.FAILED, words=NOT_DONE), None
            self._wakes.put(ended)
            if ended.state is WakeState.AWAKE:
                threading.Thread(target=self._listen, args=(ended, before), daemon=True).start()

    def _wake(self, wake: Wake, lease: Lease) -> tuple[Wake, LiveVm | None]:
        """What became of it, and what was known of its guest before. Raises: StaleLease."""
        control = self._control
        failed = replace(wake, state=WakeState.FAILED)
        driver = control.sites.drivers.get(wake.ref.driver)
        if driver is None:
            return replace(failed, words=GONE), None
        try:
            vm = driver.find(wake.ref.uuid, control.timeouts.find_s)
        except DriverError as error:
            self._log(f"wake of {wake.ref}: {error}")
            return replace(failed, words=GONE if isinstance(error, NotFound) else UNREACHABLE), None
        if vm.state is VmState.RUNNING:
            return replace(wake, state=WakeState.RUNNING), None
        before = newest_of(lambda: control.sources.live.read_one(wake.vm_id))
        plan = self._plan(wake, vm)
        if isinstance(plan, str):
            return replace(failed, words=plan), None
        result = control.apply(plan, lease, by=BY, notify=control.notifier())
        words = _trouble(result)
        if words is not None:
            said = "; ".join(action.words or "" for action in result.actions) or result.run.words
            self._log(f"wake of {wake.ref}, run {result.run.run_id}: {said}")
            return replace(failed, words=words), None
        return replace(wake, state=WakeState.AWAKE, awake_s=control.clock()), before

    def _plan(self, wake: Wake, vm: Vm) -> Plan | str:
        """How it comes back, or why it does not."""
        control = self._control
        try:
            plan = plan_wake(
                vm,
                now_s=control.clock(),
                made_by=BY,
                settings_sha256=control.config.settings_sha256,
                vm_id=wake.vm_id,
            )
        except ValueError:
            return OCCUPIED
        # A link gives back what this controller took; what somebody else put to sleep stays as they left it.
        last = control.records.last_order(wake.ref)
        if last is None or not any(last.step.verb is verb and AFTER[verb] is vm.state for verb in TAKEN):
            return NOT_OURS
        return plan

    def _listen(self, wake: Wake, before: LiveVm | None) -> None:
        control = self._control
        after_s = time_to_sample(
            lambda: control.sources.live.read_one(wake.vm_id),
            before,
            asked_s=wake.asked_s,
            clock=control.clock,
            pause=self._pause,
            is_over=self._ending,
        )
        state = WakeState.SILENT if after_s is None else WakeState.HEARD
        self._wakes.put(replace(wake, state=state, heard_after_s=after_s))


def _trouble(result: Result) -> str | None:
    """For the owner; None: it runs."""
    if result.refusals:
        return STOPPED
    outcomes = {action.outcome for action in result.actions}
    if Outcome.DONE in outcomes:
        return None
    return UNCLEAR if not outcomes or outcomes & {None, Outcome.UNKNOWN} else NOT_DONE
