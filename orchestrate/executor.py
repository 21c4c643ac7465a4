"""Applies a plan: exactly its steps, in their order, each re-checked just before it.

For every step: kill switch → lease → the VM as it is now → every rule once more → the intent, on disk → kill switch →
the order → the VM as it is then → the outcome. What is refused before the order is SKIPPED. An outcome that nobody can
tell is UNKNOWN and ends the run: a person looks before anything else is done. When the lease is lost, nothing more is
asked of anybody; an order that is under way then keeps its intent, and the next leader finds out what became of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from orchestrate.driver import Driver, Verb
from orchestrate.inventory import Vm
from orchestrate.orders import Carried, Timeouts, carry_out, error_words
from orchestrate.outcomes import mismatch
from orchestrate.plan import Mark, Plan, PlanKind, Step
from orchestrate.records import Action, Lease, Outcome, Records, Run, StaleLease
from orchestrate.refusal import Refusal, Rule
from orchestrate.settling import plain, settle

# A lease lasts for so many slices of waiting: one that fails to be renewed in time still holds.
_SLICES = 3
_OFF_LADDER = frozenset({Mark.MARK, Mark.UNMARK})


class Checks(Protocol):
    """Every rule, asked anew from what can be read at that moment."""

    def of_plan(self, plan: Plan, *, now_s: float) -> Sequence[Refusal]:
        """Why nothing of the plan may be done; empty: it may."""

    def of_step(self, step: Step, plan: Plan, live: Vm | None, *, now_s: float) -> Sequence[Refusal]:
        """Why the step may not be done. Args: live: read just now; None for UNMARK, which asks no hypervisor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run came to.

    Args:
        run: without an end where the lease was lost; the next leader ends it.
        actions: in the order of doing. Steps that a lost lease left over have none.
        refusals: why nothing at all was done.
    """

    run: Run
    actions: tuple[Action, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    def count(self, outcome: Outcome | None) -> int:
        """Actions that ended so; None: whose end is not known yet."""
        return sum(action.outcome is outcome for action in self.actions)


class Executor:
    """Applies plans, one at a time.

    Args:
        drivers: by name.
        notify: tells an owner; what it did in words. Raises anything: it was not delivered.
        clock: Unix seconds.
        stopped: what the kill switch says; None: there is none.
        lease_life_s: longer than `timeouts.begin_s`, so that no order is given beyond the end of a lease.
        make_id: of a run; hardly ever the same twice.

    Raises: ValueError: `lease_life_s` is too short.
    """

    def __init__(
        self,
        records: Records,
        drivers: Mapping[str, Driver],
        checks: Checks,
        *,
        notify: Callable[[Step, Plan], str],
        clock: Callable[[], float],
        stopped: Callable[[], str | None],
        timeouts: Timeouts,
        lease_life_s: float,
        make_id: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> None:
        if not lease_life_s > timeouts.begin_s:
            raise ValueError(f"a lease of {lease_life_s:g} s is not longer than a call of {timeouts.begin_s:g} s")
        self._records = records
        self._drivers = drivers
        self._checks = checks
        self._notify = notify
        self._clock = clock
        self._stopped = stopped
        self._timeouts = timeouts
        self._life_s = lease_life_s
        self._make_id = make_id

    def apply(
        self, plan: Plan, lease: Lease, *, by: str, on_step: Callable[[Action], object] = lambda _action: None
    ) -> Result:
        """Does all of the plan, or what can be done of it, or nothing at all where a rule over the whole forbids it.

        Args: on_step: told of each action once it has an outcome.

        Raises: StaleLease: the lease was lost before anything began; ValueError: the plan was applied before.
        """
        run = Run(
            run_id=self._make_id(),
            plan_sha256=self._records.add_plan(plan),
            kind=plan.kind,
            by=by,
            begun_s=self._clock(),
        )
        self._records.begin_run(run, lease, now_s=run.begun_s)
        refusals = self._refusals(plan)
        if not refusals:
            return self._do_all(plan, run, lease, on_step)
        words = plain("; ".join(refusal.words for refusal in refusals))
        told = [{"rule": each.rule, "words": each.words, "vm": each.ref and str(each.ref)} for each in refusals]
        body = {"run": run.run_id, "plan": run.plan_sha256, "refusals": told}
        self._records.note("refused", body, who=by, now_s=self._clock())
        return Result(run=self._end(run, lease, f"refused, nothing was done: {words}"), refusals=refusals)

    def _refusals(self, plan: Plan) -> tuple[Refusal, ...]:
        stopped = self._stopped()
        if stopped is not None:
            return (Refusal(rule=Rule.IRREVERSIBLE, words=_stop_words(stopped)),)
        return tuple(self._checks.of_plan(plan, now_s=self._clock()))

    def _do_all(self, plan: Plan, run: Run, lease: Lease, on_step: Callable[[Action], object]) -> Result:
        actions: list[Action] = []
        stop: str | None = None
        try:
            for step in plan.steps:
                for _ in range(self._timeouts.attempts):
                    action, again, stop = self._attempt(step, plan, run, lease, stop)
                    actions.append(action)
                    on_step(action)
                    if not again:
                        break
        except _Lost as lost:
            if lost.action is not None:
                actions.append(lost.action)
            self._records.note("lease lost", {"run": run.run_id, "words": str(lost)}, who=run.by, now_s=self._clock())
            return Result(run=replace(run, words=str(lost)), actions=tuple(actions))
        return Result(run=self._end(run, lease, stop), actions=tuple(actions))

    def _attempt(
        self, step: Step, plan: Plan, run: Run, lease: Lease, stop: str | None
    ) -> tuple[Action, bool, str | None]:
        """One action of a step.

        Args: stop: why nothing more is to be done in this run.
        Returns: the action; whether the same may be tried again; `stop` from now on.
        Raises: _Lost.
        """
        self._keep(lease)
        stop = stop or self._kill_words()
        problem = stop or self._unfit(step, plan, run)
        try:
            action = self._records.intend(run.run_id, step, lease, now_s=self._clock())
        except StaleLease as error:
            raise _Lost(str(error), None) from error
        carried, stop = self._carry_out(action, plan, run, lease, problem, stop)
        settled = self._settle(action, run, carried)
        if settled.outcome is Outcome.UNKNOWN:
            stop = f"nothing more was done after step {step.number}, whose outcome is not known"
        return settled, carried.again, stop

    def _carry_out(
        self, action: Action, plan: Plan, run: Run, lease: Lease, problem: str | None, stop: str | None
    ) -> tuple[Carried, str | None]:
        if problem is not None:
            return _skipped(problem), stop
        # Writing the intent took time, and others may have used it.
        try:
            self._keep(lease)
        except _Lost as lost:
            raise _Lost(str(lost), self._settle(action, run, _skipped(str(lost)))) from lost
        if (stop := self._kill_words()) is not None:
            return _skipped(stop), stop
        step = action.step
        if step.verb is Mark.NOTIFY:
            return self._tell_owner(step, plan), None
        if isinstance(step.verb, Mark):
            return Carried(outcome=Outcome.DONE, words=f"{step.verb}ed"), None
        driver = self._drivers[step.ref.driver]
        try:
            carried = carry_out(
                driver,
                step,
                step.verb,
                timeouts=self._timeouts,
                slice_s=self._life_s / _SLICES,
                keep=lambda: self._keep(lease),
                stopped=self._stopped,
            )
        except _Lost as lost:
            raise _Lost(f"{lost}; an order was under way", action) from lost
        return carried, None

    def _unfit(self, step: Step, plan: Plan, run: Run) -> str | None:
        """Why the step is not to be done now; None: it may be."""
        open_actions = [action for action in self._records.unsettled() if action.step.ref == step.ref]
        if open_actions:
            return f"what became of action {open_actions[0].action_id} is not cleared up"
        # What an owner or another look took off the ladder since the plan was made goes no further down it.
        if plan.kind is PlanKind.RECLAIM and not self._is_on_ladder(step, run):
            return "it is no longer on the ladder"
        live: Vm | None = None
        if step.verb is not Mark.UNMARK:
            found = self._find(step)
            if isinstance(found, str):
                return found
            live = found
        refusals = self._checks.of_step(step, plan, live, now_s=self._clock())
        return "; ".join(f"{refusal.rule}: {refusal.words}" for refusal in refusals) or None

    def _is_on_ladder(self, step: Step, run: Run) -> bool:
        if step.verb in _OFF_LADDER or self._records.find_entry(step.ref) is not None:
            return True
        # A suspended VM is woken in order to be shut down, which took it off the ladder a moment ago.
        return step.verb is Verb.STOP and any(
            action.step.ref == step.ref and action.step.verb is Verb.RESUME and action.outcome is Outcome.DONE
            for action in self._records.actions(run.run_id)
        )

    def _find(self, step: Step) -> Vm | str:
        """The VM just now where it is as the step expects it, else what is wrong."""
        driver = self._drivers.get(step.ref.driver)
        if driver is None:
            return f"there is no driver {step.ref.driver}"
        if isinstance(step.verb, Verb) and step.verb not in driver.capabilities.verbs:
            return f"the driver {step.ref.driver} cannot {step.verb}"
        try:
            live = driver.find(step.ref.uuid, self._timeouts.find_s)
        except Exception as error:  # a driver's bug, too, leaves a VM that is not known
            return f"could not be read: {error_words(error)}"
        # A mark or a notice holds wherever the VM runs; the rules say what state it has to be in.
        wrong = mismatch(step, live) if isinstance(step.verb, Verb) or live.ref != step.ref else None
        return live if wrong is None else wrong

    def _tell_owner(self, step: Step, plan: Plan) -> Carried:
        try:
            return Carried(outcome=Outcome.DONE, words=self._notify(step, plan))
        except Exception as error:  # whatever kept the notice back: the VM stays where it is
            return Carried(outcome=Outcome.FAILED, words=f"the notice could not be sent: {error_words(error)}")

    def _settle(self, action: Action, run: Run, carried: Carried) -> Action:
        now_s = self._clock()
        return settle(self._records, action, carried.outcome, carried.words, kind=run.kind, by=run.by, now_s=now_s)

    def _kill_words(self) -> str | None:
        stopped = self._stopped()
        return None if stopped is None else _stop_words(stopped)

    def _keep(self, lease: Lease) -> None:
        """Raises: _Lost."""
        try:
            self._records.renew(lease, now_s=self._clock(), life_s=self._life_s)
        except StaleLease as error:
            raise _Lost(str(error), None) from error

    def _end(self, run: Run, lease: Lease, words: str | None) -> Run:
        now_s = self._clock()
        try:
            self._records.end_run(run.run_id, lease, now_s=now_s, words=words)
        except StaleLease as error:
            return replace(run, words=f"{words}; {error}" if words else str(error))
        return replace(run, ended_s=now_s, words=words)


class _Lost(Exception):
    """The lease is gone. `action`: the one that was being done."""

    def __init__(self, words: str, action: Action | None) -> None:
        self.action = action
        super().__init__(words)


def _skipped(words: str) -> Carried:
    return Carried(outcome=Outcome.SKIPPED, words=words)


def _stop_words(stopped: str) -> str:
    return f"the kill switch is set: {stopped}"
