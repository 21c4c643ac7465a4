"""Watches everything that reaches a hypervisor in a history, and says when it was forbidden.

Written from the nine rules alone, over what is true and not over what the controller believes: it shares no code with
the guards, the ladder, the limits or the executor. Times are true ones; the controllers' clock may be off by so much
that their samples still count as fresh, and no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from orchestrate.driver import AFTER, BEFORE, Order, Verb
from orchestrate.drivers.simulated_values import Job, JobState
from orchestrate.groups import Approve
from orchestrate.histories.rules import (
    AT_ONCE_S,
    CLOCK_SLACK_S,
    LOOK_S,
    Forbidden,
    check_doubt,
    check_exempt,
    check_guest,
    check_pinned,
    is_in_use,
    outage_of,
)
from orchestrate.histories.taken import TAKING, Takings
from orchestrate.histories.truth import DAY_S, Agent, Truth
from orchestrate.inventory import VmState
from orchestrate.plan import Plan, PlanKind
from orchestrate.records import Action, Lease, Outcome, Rung
from orchestrate.refusal import Rule
from reports.verdicts import Verdict

_UNDONE_BY = {
    Verb.SUSPEND: Verb.RESUME,
    Verb.RESUME: Verb.SUSPEND,
    Verb.STOP: Verb.START,
    Verb.START: Verb.STOP,
    Verb.MIGRATE_LIVE: Verb.MIGRATE_LIVE,
    Verb.MIGRATE_COLD: Verb.MIGRATE_COLD,
}
_STILL = frozenset({VmState.SUSPENDED, VmState.OFF})
_GIVES_BACK = frozenset({PlanKind.UNDO, PlanKind.WAKE})
_ORDER = (Rung.REPORT, Rung.MARK, Rung.NOTIFY, Rung.SUSPEND, Rung.STOP)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Applying:
    """A plan that a controller applies just now. Args: outage: there was one at its last look."""

    plan: Plan
    sha256: str
    unattended: bool
    outage: str | None
    limits: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """A VM's live state was read. Args: wall_s: by the reader's clock. newest_s: of what its agent had told by then."""

    uuid: str
    at_s: float
    wall_s: float
    newest_s: float | None


@dataclass(slots=True, kw_only=True)
class Oracle:
    """Sees each order before the hypervisor does. All methods raise Forbidden.

    Args:
        leader, unsettled: of the records.
        counts: how many orders of each kind there were; notices too.
    """

    truth: Truth
    leader: Callable[[], Lease | None]
    unsettled: Callable[[], Sequence[Action]]
    counts: Counter[str] = field(default_factory=Counter)
    _applying: dict[str, _Applying] = field(default_factory=dict)
    _previewed: dict[str, Plan] = field(default_factory=dict)
    _approved: set[str] = field(default_factory=set)
    # Of each VM: when its owner was told, how long he was told to have, and in which boot of the VM.
    _told: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    # Of each VM that a controller put to sleep: by what.
    _asleep: dict[str, Job] = field(default_factory=dict)
    # When a controller woke it, whatever for; and those that were woken to be stopped, by which plan.
    _roused: dict[str, float] = field(default_factory=dict)
    _woken: dict[str, tuple[str, float]] = field(default_factory=dict)
    # Of each agent: its verdict at the last look that was believed, and at those shortly before, with their times.
    _believed: dict[str, tuple[tuple[Verdict, float], ...]] = field(default_factory=dict)
    _takings: Takings = field(init=False)
    _ordered: set[int] = field(default_factory=set)
    # Of each controller: what it looked at last.
    _looked_at: dict[str, _Look] = field(default_factory=dict)
    # Of each controller: when it looked at the whole fleet.
    _saw_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._takings = Takings(self.truth)

    # What the history tells of.

    def looked(self, wall_s: float, *, believed: bool) -> None:
        """A controller looked at the whole fleet, to make a plan and to take off the ladder whoever is in use.

        Args: believed: it took what it saw for true; a look that it did not believe is nothing to compare with.
        """
        if not believed or self._outage(wall_s) is not None:
            return
        for agent in self.truth.agents.values():
            if is_in_use(self.truth, agent, wall_s):
                self._told.pop(agent.uuid, None)
            looks = [
                (told, at_s) for told, at_s in self._believed.get(agent.vm_id, ()) if 0 <= wall_s - at_s < AT_ONCE_S
            ]
            self._believed[agent.vm_id] = (*looks, (agent.told_verdict(wall_s), wall_s))

    def previewed(self, plan: Plan) -> None:
        """A plan was shown, or written down by the service."""
        self._previewed[plan.sha256] = plan

    def approved(self, sha256: str) -> None:
        """Somebody said yes."""
        self._approved.add(sha256)

    def begins(self, who: str, plan: Plan, *, unattended: bool, wall_s: float) -> None:
        """A controller sets out to apply a plan."""
        self._applying[who] = _Applying(
            plan=plan,
            sha256=plan.sha256,
            unattended=unattended,
            outage=self._outage(wall_s),
            limits=self._takings.too_many(plan),
        )
        self._looked_at.pop(who, None)

    def saw(self, who: str, wall_s: float) -> None:
        """It has read the whole world; while it applies a plan, that is when an outage has to be seen."""
        self._saw_s[who] = self.truth.time.true_s
        if (now := self._applying.get(who)) is not None:
            self._applying[who] = replace(now, outage=self._outage(wall_s))

    def ends(self, who: str) -> None:
        """It came back from it, or died."""
        self._applying.pop(who, None)

    def returned(self, uuid: str) -> None:
        """Somebody brought a VM into another state: one that slept begins anew."""
        guest = self.truth.guest(uuid)
        if (guest is None or guest.state not in _STILL) and self._asleep.pop(uuid, None) is not None:
            self._told.pop(uuid, None)

    def found(self, who: str, uuid: str) -> None:
        """A controller read the live state of a VM."""
        time, agents = self.truth.time, self.truth.agents_of(uuid)
        newest_s = agents[0].newest_s if agents else None
        self._looked_at[who] = _Look(uuid=uuid, at_s=time.true_s, wall_s=time.wall_s(), newest_s=newest_s)

    def delivered(self, who: str, uuid: str, grace_s: float | None) -> None:
        """A notice reached an owner."""
        now = self._during(who, uuid, "a notice")
        self._refuse_unwanted(now, uuid, Rung.NOTIFY)
        if grace_s is None:
            # It said of no suspension.
            self._told.pop(uuid, None)
        else:
            self._told[uuid] = (self.truth.time.true_s, grace_s, self._boot(uuid))
        self.counts["notice"] += 1

    def ordered(self, who: str, order: Order, wall_s: float) -> None:
        """A controller is about to give an order."""
        uuid, verb = order.uuid, order.verb
        self.counts[verb] += 1
        now = self._during(who, uuid, verb)
        look = self._check_twice(who, order, wall_s)
        self._check_surprise(now, order, look.wall_s)
        if now.plan.kind in _GIVES_BACK:
            if verb in {Verb.SUSPEND, Verb.STOP}:
                raise Forbidden(Rule.BY_DEFAULT, f"{verb} of {uuid} by a plan that gives back")
            return
        since_s = self.truth.time.true_s - self._saw_s.get(who, 0.0)
        if since_s > LOOK_S:
            raise Forbidden(Rule.IN_OUTAGE, f"{verb} of {uuid}, and the fleet was last looked at {since_s:.0f} s ago")
        if verb.is_migration:
            self._refuse_move(now, uuid)
            check_pinned(self.truth, uuid)
            self._takings.check(uuid)
            return
        if now.plan.kind is not PlanKind.RECLAIM:
            raise Forbidden(Rule.BY_DEFAULT, f"{verb} of {uuid} by a plan that moves")
        self._refuse_unwanted(now, uuid, Rung.STOP if verb in {Verb.STOP, Verb.RESUME} else Rung.SUSPEND)
        check_exempt(self.truth, uuid, wall_s)
        if verb is Verb.SUSPEND:
            check_doubt(self.truth, uuid, wall_s=look.wall_s, newest_s=look.newest_s)
            check_guest(self.truth, uuid)
            self._check_told(uuid)
        elif verb is Verb.RESUME:
            self._check_slept(uuid)
            self._woken[uuid] = (now.sha256, self.truth.time.true_s)
            self._told.pop(uuid, None)
        elif verb is Verb.STOP:
            sha256, at_s = self._woken.get(uuid, ("", 0.0))
            if sha256 != now.sha256 or self.truth.time.true_s - at_s > CLOCK_SLACK_S:
                raise Forbidden(Rule.SURPRISE, f"{uuid} is stopped and was not woken for that")
        if verb in TAKING:
            self._takings.check(uuid)

    def took(self, job: Job, host_id: str) -> None:
        """The hypervisor accepted an order, whatever it answered."""
        self._takings.add(job, host_id)
        if job.order.verb is Verb.SUSPEND:
            self._asleep[job.order.uuid] = job
        elif job.order.verb in {Verb.RESUME, Verb.START}:
            self._roused[job.order.uuid] = self.truth.time.true_s

    def settled(self, action: Action, by_person: bool) -> None:
        """An outcome was written down."""
        verb, uuid = action.step.verb, action.step.ref.uuid
        if not isinstance(verb, Verb):
            return
        guest = self.truth.guest(uuid)
        if by_person and action.outcome is Outcome.FAILED:
            self._takings.forget(uuid)
        if by_person or guest is None:
            return
        is_there = not verb.is_migration or guest.host_id == action.step.target_host_id
        is_done = guest.state is AFTER[verb] and guest.job is None and is_there
        if action.outcome is Outcome.DONE and not is_done:
            raise Forbidden(Rule.TWICE, f"{verb} of {uuid} is told as done, and it is {guest.state}")
        if action.outcome is Outcome.FAILED and (is_done or guest.job is not None):
            raise Forbidden(Rule.TWICE, f"{verb} of {uuid} is told as failed, and it is {guest.state}")
        if action.outcome is Outcome.DONE and verb in {Verb.RESUME, Verb.START} and uuid not in self._woken:
            self.returned(uuid)

    # The rules.

    def _during(self, who: str, uuid: str, what: str) -> _Applying:
        """Rule 1: nothing happens but by a plan that is being applied; rule 8: nor while the kill switch is set."""
        now = self._applying.get(who)
        if now is None:
            raise Forbidden(Rule.BY_DEFAULT, f"{what} of {uuid} although no plan is applied")
        if self.truth.stop is not None:
            raise Forbidden(Rule.IRREVERSIBLE, f"{what} of {uuid} although the kill switch is set")
        return now

    def _refuse_move(self, now: _Applying, uuid: str) -> None:
        """Rules 1, 3 and 4 of moves."""
        relief = self.truth.settings.relief
        if now.plan.kind is not PlanKind.RELIEF or not relief.allowed:
            raise Forbidden(Rule.BY_DEFAULT, f"{uuid} is moved, which the settings do not allow")
        if now.sha256 not in self._approved and not (now.unattended and relief.approve is Approve.AUTO):
            raise Forbidden(Rule.BY_DEFAULT, f"{uuid} is moved although nobody approved it")
        self._refuse_whole(now, uuid, "a move")

    def _refuse_unwanted(self, now: _Applying, uuid: str, rung: Rung) -> None:
        """Rules 1, 3 and 4, as far as they are of the whole plan."""
        agents = self.truth.agents_of(uuid)
        group = self.truth.group_of(agents[0]) if agents else None
        if group is None or _ORDER.index(group.up_to) < _ORDER.index(rung):
            raise Forbidden(Rule.BY_DEFAULT, f"{rung} of {uuid}, which goes up to {group and group.up_to}")
        if now.sha256 not in self._approved:
            planned = {step.group for step in now.plan.steps}
            automatic = {each.name for each in self.truth.settings.groups if each.approve is Approve.AUTO}
            if not now.unattended or not planned <= automatic:
                raise Forbidden(Rule.BY_DEFAULT, f"{rung} of {uuid} although nobody approved it")
        self._refuse_whole(now, uuid, rung)

    def _refuse_whole(self, now: _Applying, uuid: str, what: str) -> None:
        if now.outage is not None:
            raise Forbidden(Rule.IN_OUTAGE, f"{what} of {uuid}: {now.outage}")
        if now.limits is not None:
            raise Forbidden(Rule.OVER_LIMIT, f"{what} of {uuid} by a plan over a limit: {now.limits}")

    def _check_surprise(self, now: _Applying, order: Order, wall_s: float) -> None:
        """Rule 6: what runs is what was shown, not long ago, and looked at once more just before."""
        plan = now.plan
        if self._previewed.get(now.sha256) != plan:
            raise Forbidden(Rule.SURPRISE, f"{order.verb} of {order.uuid} by a plan that nobody was shown")
        if wall_s - plan.made_s > DAY_S:
            raise Forbidden(
                Rule.SURPRISE, f"{order.verb} of {order.uuid} by a plan of {wall_s - plan.made_s:.0f} s ago"
            )
        steps = {(step.verb, step.ref.uuid, step.target_host_id) for step in plan.steps}
        if (order.verb, order.uuid, order.target_host_id) not in steps:
            raise Forbidden(Rule.SURPRISE, f"{order.verb} of {order.uuid} is not in the plan")

    def _check_told(self, uuid: str) -> None:
        """Rule 6: its owner knew, and had the time that he was promised."""
        told = self._told.get(uuid)
        if told is None or told[2] != self._boot(uuid):
            raise Forbidden(Rule.SURPRISE, f"{uuid} is suspended and its owner was not told")
        group = self.truth.group_of(self.truth.agents_of(uuid)[0])
        waited_s, promised_s = self.truth.time.true_s - told[0], max(told[1], group.grace_s if group else 0.0)
        if waited_s < promised_s - CLOCK_SLACK_S:
            raise Forbidden(Rule.SURPRISE, f"{uuid} is suspended after {waited_s:.0f} s of {promised_s:.0f}")

    def _boot(self, uuid: str) -> int:
        """As far as anybody was told."""
        return next((agent.boot for agent in self.truth.agents_of(uuid)), 0)

    def _check_slept(self, uuid: str) -> None:
        """Rule 6: what is woken to be stopped was asleep by a controller's doing, for as long as it was promised."""
        job = self._asleep.get(uuid)
        group = self.truth.group_of(self.truth.agents_of(uuid)[0])
        if job is None or job.state is not JobState.DONE or group is None:
            raise Forbidden(Rule.SURPRISE, f"{uuid} is woken to be stopped and was not put to sleep by a controller")
        slept_s = self.truth.time.true_s - job.ends_s
        if slept_s < group.stop_grace_s - CLOCK_SLACK_S:
            raise Forbidden(Rule.SURPRISE, f"{uuid} is stopped after {slept_s:.0f} s of {group.stop_grace_s:.0f}")

    def _check_twice(self, who: str, order: Order, wall_s: float) -> _Look:
        """Rules 7 and 8: one leader, one intent written down with its inverse, one order, on what was read.

        Returns: when and how it was read.
        """
        uuid, lease = order.uuid, self.leader()
        if lease is None or lease.holder != who or wall_s >= lease.expires_s:
            raise Forbidden(Rule.TWICE, f"{who} gives {order.verb} of {uuid} without the lease: {lease}")
        of_vm = [action for action in self.unsettled() if action.step.ref.uuid == uuid]
        if len(of_vm) != 1 or of_vm[0].outcome is not None:
            raise Forbidden(Rule.TWICE, f"{order.verb} of {uuid} with {len(of_vm)} open actions on it")
        (action,) = of_vm
        if action.step.verb != order.verb or action.lease_token != lease.token:
            raise Forbidden(Rule.TWICE, f"{order.verb} of {uuid} without an intent of this lease")
        if action.action_id in self._ordered:
            raise Forbidden(Rule.TWICE, f"{order.verb} of {uuid} was given before for the same intent")
        self._ordered.add(action.action_id)
        if action.step.inverse != _UNDONE_BY[order.verb]:
            raise Forbidden(Rule.IRREVERSIBLE, f"{order.verb} of {uuid} and its inverse is {action.step.inverse}")
        look = self._looked_at.pop(who, None)
        if look is None or look.uuid != uuid or self.truth.time.true_s - look.at_s > LOOK_S:
            raise Forbidden(Rule.TWICE, f"{order.verb} of {uuid} whose live state was not read just before")
        guest = self.truth.guest(uuid)
        if guest is None or guest.state is not BEFORE[order.verb] or guest.job is not None:
            raise Forbidden(Rule.TWICE, f"{order.verb} of {uuid}, which is {guest and guest.state}")
        return look

    def _outage(self, wall_s: float) -> str | None:
        awake: list[Agent] = []
        asleep: list[Agent] = []
        roused: list[Agent] = []
        since_s = self.truth.time.true_s - self.truth.settings.fresh_s - CLOCK_SLACK_S
        for agent in self.truth.agents.values():
            guest = self.truth.guest(agent.uuid)
            if agent.uuid in self._asleep and guest is not None and guest.state in _STILL:
                asleep.append(agent)
            else:
                (roused if self._roused.get(agent.uuid, 0.0) > since_s else awake).append(agent)
        return outage_of(self.truth, awake, asleep, roused, self._believed, wall_s)
