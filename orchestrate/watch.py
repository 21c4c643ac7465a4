"""The watch: turns in which plans that may be applied are, and VMs given back that their owners ask for.

A turn: what was left open → wakes → approved plans → the aggregator is told which VMs exist → hot hosts → what is idle.
It looks without leading, as a person's `plan` does, and leads by lease from the beginning to the end of each thing it
does; so a person's `apply` and another watch have their chance in between, and what either did is in the records by
then. While another leads it stands by. While a run is at work, wakes are seen to between its steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from orchestrate.approvals import standing_of
from orchestrate.control import Control, LeaseHeld
from orchestrate.groups import Approve
from orchestrate.guards import check_plan
from orchestrate.hotspots.host_loads import Loads
from orchestrate.known_vms import tell_aggregator
from orchestrate.owners.waking import Waker
from orchestrate.plan import Plan, PlanKind
from orchestrate.planning import Planned, plan_moving, plan_reclaiming
from orchestrate.reclaim import plan_reclaim
from orchestrate.records import Lease, Outcome, StaleLease
from orchestrate.watch_state import Turn, TurnEnd, WatchSettings
from orchestrate.words import short
from orchestrate.world import World
from reports.words import count_words, listed_words

BY = "fallow-orchestrate watch"
_APPLIED = frozenset({PlanKind.RECLAIM, PlanKind.RELIEF, PlanKind.CONSOLIDATE})
# A plan is good for a day: those that still are have their place among so many.
_NEWEST_PLANS = 200
_NEWEST_RUNS = 500
_NEVER_S = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """An approved plan that may not be applied as things are. Args: until_s: not looked at again before."""

    until_s: float
    words: str


@dataclass(slots=True)
class _Note:
    """What a turn is told by."""

    words: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)


class Watch:
    """One process's watch over the fleet.

    Args:
        waker: sees to wakes under a lease.
        log: told a line of everything that went wrong, and of every run.
    """

    def __init__(
        self, control: Control, settings: WatchSettings, waker: Waker, *, log: Callable[[str], object]
    ) -> None:
        self._control = control
        self._settings = settings
        self._waker = waker
        self._log = log
        # Drivers and the lease serve one thread of a process at a time.
        self._acting = threading.Lock()
        self._held: dict[str, _Held] = {}
        # Of hosts and VMs, minute by minute, as far as looks before this one saw them.
        self._loads: Mapping[str, Loads] = {}
        self._reclaim_due_s = _NEVER_S
        self._relief_due_s = _NEVER_S
        self._telling_due_s = _NEVER_S

    def turn(self) -> Turn:
        """One turn, whole. Blocking; raises nothing that can happen to a program that runs on."""
        with self._acting:
            turn = self._turn()
        # Somebody may have asked after the turn's last look.
        self.see_to_wakes()
        return turn

    def see_to_wakes(self) -> None:
        """Wakes that wait, now: where a turn is at work it sees to them itself, between two steps."""
        while self._waker.has_waiting() and self._acting.acquire(blocking=False):
            try:
                with self._control.leading() as lease:
                    self._waker.wake_all(lease)
            except (LeaseHeld, StaleLease) as error:
                self._waker.postpone()
                self._log(f"a wake waits: {error}")
                return
            except Exception as error:  # the boundary of the service: the database may be back in a moment
                self._waker.postpone()
                self._log(f"a wake waits: {_words_of(error)}")
                return
            finally:
                self._acting.release()

    def _turn(self) -> Turn:
        control, note = self._control, _Note()
        began_s, end = control.clock(), TurnEnd.DONE
        try:
            if not self._is_stopped(note):
                self._do_parts(note)
            if control.sources.stopped() is not None:
                end = TurnEnd.STOPPED
        except LeaseHeld as error:
            end = TurnEnd.STANDBY
            note.words.append(str(error))
        except StaleLease as error:
            end = TurnEnd.LOST
            note.problems.append(str(error))
        except Exception as error:  # the boundary of the service: a turn that fails does not end it
            end = TurnEnd.FAILED
            note.problems.append(_words_of(error))
        for line in (*note.words, *note.problems) if end is not TurnEnd.STANDBY else ():
            self._log(line)
        problems = [*note.problems, *(held.words for held in self._held.values())]
        return Turn(
            began_s=began_s,
            ended_s=control.clock(),
            end=end,
            words=tuple(note.words),
            problem="; ".join(problems) or None,
            runs=tuple(note.runs),
        )

    def _is_stopped(self, note: _Note) -> bool:
        stopped = self._control.sources.stopped()
        if stopped is not None:
            note.words.append(f"nothing is done: {stopped}")
        return stopped is not None

    def _do_parts(self, note: _Note) -> None:
        """Raises: LeaseHeld: another leads; StaleLease; whatever reading the world does."""
        control = self._control
        leader = control.records.leader()
        if leader is not None and leader.holder != control.holder and control.clock() < leader.expires_s:
            raise LeaseHeld(leader)
        for part in (
            self._clear_up,
            self._wake,
            self._apply_approved,
            self._tell_aggregator,
            self._relieve,
            self._reclaim,
        ):
            if control.sources.stopped() is not None:
                return
            part(note)

    def _clear_up(self, _note: _Note) -> None:
        """Whoever leads finds out first what became of what was left open."""
        records = self._control.records
        if any(action.outcome is None for action in records.unsettled()) or any(
            run.ended_s is None for run in records.runs(limit=_NEWEST_RUNS)
        ):
            with self._control.leading():
                pass

    def _wake(self, _note: _Note) -> None:
        if self._waker.has_waiting():
            with self._control.leading() as lease:
                self._waker.wake_all(lease)

    def _tell_aggregator(self, note: _Note) -> None:
        """What exists, so that nobody enrols as a VM that does not; a site that is away is asked again next time."""
        control, now_s = self._control, self._control.clock()
        if now_s < self._telling_due_s:
            return
        self._telling_due_s = now_s + self._settings.retry_s
        try:
            tell_aggregator(control.report_engine, control.sites.look().inventories, now_s=now_s)
        except sa.exc.DBAPIError as error:
            # An aggregator that was not upgraded yet has no such table, and reclaiming does not need it.
            note.problems.append(f"the aggregator is not told which VMs exist: {_words_of(error)}")

    def _apply_approved(self, note: _Note) -> None:
        """Plans that somebody said yes to; one that may not be applied now is held, and looked at again later."""
        control, now_s = self._control, self._control.clock()
        approved = tuple(self._approved(now_s))
        hashes = {plan.sha256 for plan in approved}
        self._held = {sha256: held for sha256, held in self._held.items() if sha256 in hashes}
        for plan in approved:
            held = self._held.get(plan.sha256)
            if control.sources.stopped() is not None or (held is not None and now_s < held.until_s):
                continue
            refusals = check_plan(
                plan,
                self._look(note),
                control.config.reclaim,
                settings_sha256=control.config.settings_sha256,
                approvals=control.records.approvals(plan.sha256),
            )
            self._held.pop(plan.sha256, None)
            if refusals:
                reasons = "; ".join(each.words for each in refusals)
                words = f"the approved plan {short(plan.sha256)} waits: {reasons}"
                self._held[plan.sha256] = _Held(until_s=now_s + self._settings.retry_s, words=words)
            else:
                self._apply(plan, note)

    def _approved(self, now_s: float) -> Iterator[Plan]:
        """The oldest first; one that still waits for somebody's yes is not among them."""
        records, above = self._control.records, self._control.config.reclaim.two_persons_above
        runs = {run.plan_sha256: run for run in records.runs(limit=_NEWEST_RUNS)}
        for plan in reversed(records.plans(limit=_NEWEST_PLANS)):
            if plan.kind not in _APPLIED or not now_s < plan.expires_s:
                continue
            given = records.approvals(plan.sha256)
            if not given or not standing_of(plan, given, (), None, above=above).is_approved:
                continue
            run = runs.get(plan.sha256)
            # One that was refused whole did nothing, and may be tried again.
            if run is None or (run.ended_s is not None and not records.actions(run.run_id)):
                yield plan

    def _relieve(self, note: _Note) -> None:
        control, now_s = self._control, self._control.clock()
        rules = control.config.reclaim.relief
        if not rules.allowed or now_s < self._relief_due_s:
            return
        if rules.approve is Approve.PERSON and self._waits(PlanKind.RELIEF, now_s):
            return
        world = self._look(note, all_minutes=True)
        planned = plan_moving(control, world, PlanKind.RELIEF, made_by=BY, past=self._loads)
        self._loads = planned.loads
        note.words += [f"{host.host_id} is hot: {host.words}" for host in planned.hot]
        if planned.plan.steps and not self._do(planned, rules.approve, note):
            # The host is as hot in a minute, and the plan would be the same.
            self._relief_due_s = now_s + self._settings.retry_s

    def _waits(self, kind: PlanKind, now_s: float) -> bool:
        """Whether a plan of this kind waits for somebody's yes."""
        records = self._control.records
        begun = {run.plan_sha256 for run in records.runs(limit=_NEWEST_RUNS)}
        plans = records.plans(limit=_NEWEST_PLANS)
        return any(plan.kind is kind and now_s < plan.expires_s and plan.sha256 not in begun for plan in plans)

    def _reclaim(self, note: _Note) -> None:
        control, now_s, settings = self._control, self._control.clock(), self._settings
        if now_s < self._reclaim_due_s:
            return
        world = self._look(note)
        planned = plan_reclaiming(control, world, made_by=BY, approve=Approve.AUTO)
        if planned.stopped:
            self._reclaim_due_s = now_s + min(settings.retry_s, settings.reclaim_every_s)
            note.problems += [f"nothing is reclaimed: {each.words}" for each in planned.stopped]
            return
        self._reclaim_due_s = now_s + settings.reclaim_every_s
        self._propose(world, note)
        if planned.plan.steps:
            self._do(planned, Approve.AUTO, note)

    def _propose(self, world: World, note: _Note) -> None:
        """A plan of what waits for a person's yes, unless the same one waits already."""
        config, records = self._control.config, self._control.records
        made = plan_reclaim(
            world,
            config.reclaim,
            made_by=BY,
            settings_sha256=config.settings_sha256,
            approve=Approve.PERSON,
            evidence=self._control.sources.evidence,
        )
        orders = _orders(made.plan)
        known = (plan for plan in records.plans(limit=_NEWEST_PLANS) if world.now_s < plan.expires_s)
        same = (plan for plan in known if plan.settings_sha256 == made.plan.settings_sha256)
        if not orders or any(_orders(plan) == orders for plan in same):
            return
        sha256 = records.add_plan(made.plan)
        note.words.append(f"plan {short(sha256)} waits for somebody's yes: {count_words(len(orders), 'step')}")

    def _do(self, planned: Planned, approve: Approve, note: _Note) -> bool:
        """Applies what the settings let the watch apply by itself; whether it did."""
        name = f"plan {short(planned.plan.sha256)}"
        if planned.refusals:
            reasons = "; ".join(each.words for each in planned.refusals)
            note.problems.append(f"{name} is not applied: {reasons}")
            return False
        if approve is not Approve.AUTO:
            note.words.append(f"{name} waits for somebody's yes: {count_words(len(planned.plan.steps), 'step')}")
            return False
        self._apply(planned.plan, note)
        return True

    def _apply(self, plan: Plan, note: _Note) -> None:
        """Raises: LeaseHeld; StaleLease: nothing was done."""
        control = self._control
        try:
            with control.leading() as lease:
                result = control.apply(
                    plan,
                    lease,
                    by=BY,
                    notify=control.notifier(),
                    unattended=True,
                    on_step=lambda _action: self._between_steps(lease),
                )
        except ValueError as error:
            note.words.append(f"plan {short(plan.sha256)}: {error}")
            return
        counts = [(result.count(outcome), outcome.value) for outcome in Outcome]
        told = listed_words([f"{count} {name}" for count, name in counts if count]) or "nothing done"
        ended = f": {result.run.words}" if result.run.words else ""
        note.runs.append(result.run.run_id)
        note.words.append(f"run {result.run.run_id} of plan {short(plan.sha256)}: {told}{ended}")
        if unclear := result.count(Outcome.UNKNOWN) + result.count(None):
            note.problems.append(f"what became of {count_words(unclear, 'action')} is not known: somebody has to look")

    def _between_steps(self, lease: Lease) -> None:
        try:
            self._waker.wake_all(lease)
        except StaleLease as error:
            # The run finds out by itself, and says so in its words.
            self._log(str(error))

    def _look(self, note: _Note, *, all_minutes: bool = False) -> World:
        """The world now; who does not answer is noted once."""
        world = self._control.sources.world(all_minutes=all_minutes)
        lines = [f"{name} does not answer: {why}" for name, why in world.unread.items()]
        if world.fleet.live and world.fleet.problem is not None:
            lines.append(f"some agents' last minutes are not known: {world.fleet.problem}")
        note.problems += [line for line in lines if line not in note.problems]
        return world


def _orders(plan: Plan) -> frozenset[tuple[str, str]]:
    return frozenset((step.verb.value, str(step.ref)) for step in plan.steps)


def _words_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
