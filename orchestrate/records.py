"""What the controller remembers: plans, approvals, runs, intents, the ladder, the lease and the audit log.

`Records` is kept twice, in the fleet database (`orchestrate.database`) and in memory (`orchestrate.memory`, which
simulations of many histories use); one suite of tests holds for both. Every step of a run is written under a
lease: one that is no longer the newest is refused, so that a controller which was stopped and wakes up late cannot
act beside its successor. Every write but a renewed lease and the verdicts of a look is told in the audit log, in the
same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from orchestrate.inventory import VmRef
from orchestrate.plan import Plan, Step
from reports.verdicts import Verdict


class StaleLease(Exception):
    """Another controller has taken over, or the lease ran out: nothing was written and nothing may be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to act.

    Args: token: greater than that of every lease before. expires_s: nothing is done after it.
    """

    holder: str
    token: int
    expires_s: float


class Rung(StrEnum):
    """How far a VM has come down the ladder, in order. There is none below STOP: nothing is ever deleted."""

    REPORT = "report"
    MARK = "mark"
    NOTIFY = "notify"
    SUSPEND = "suspend"
    STOP = "stop"


RUNGS = tuple(Rung)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where one VM stands on the ladder. A VM that is not on it has none.

    Args:
        since_s: when it came to the rung.
        marked_s, notified_s: None: not yet.
        group: whose rules it went by.
        due_s: the next rung is not before it, whatever the settings are by then: the owner was told so.
        boot: of the agent when the VM was marked; None where not known.
        owner: whose it was when it was marked or told of; empty: nobody's that was known; None: not noted.
        run_id: of the run that brought it there.
    """

    ref: VmRef
    vm_id: str
    rung: Rung
    since_s: float
    group: str
    marked_s: float | None = None
    notified_s: float | None = None
    due_s: float | None = None
    boot: str | None = None
    owner: str | None = None
    run_id: str | None = None


class Outcome(StrEnum):
    """What became of an action."""

    DONE = "done"
    # The live state, an exemption or a limit had changed: nothing was asked of the hypervisor.
    SKIPPED = "skipped"
    # The hypervisor said no, and the VM is as it was.
    FAILED = "failed"
    # It may have been done. A person looks and says so: `fallow-orchestrate resolve`.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One step of one run. Written before anything is asked of a hypervisor, settled after.

    Args:
        action_id: given by `intend`.
        lease_token: under which it was begun.
        outcome: None: intended, and nothing is known of the rest.
        words: what happened, for people.
    """

    action_id: int
    run_id: str
    step: Step
    begun_s: float
    lease_token: int
    outcome: Outcome | None = None
    settled_s: float | None = None
    words: str | None = None

    @property
    def is_disruptive(self) -> bool:
        """It takes something from the VM's users, so that limits count it."""
        return self.step.is_disruptive


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A plan being applied, or that was. `words`: why nothing was done, where that is so."""

    run_id: str
    plan_sha256: str
    kind: str
    by: str
    begun_s: float
    ended_s: float | None = None
    words: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Somebody's yes to a plan.

    Args: account: with which the person logged in, the same as `by`; None: `by` says so, and nobody checked it.
    """

    plan_sha256: str
    by: str
    at_s: float
    account: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The last verdict that was taken as true of a VM: against it one sees how many changed at once."""

    verdict: Verdict
    seen_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Capacity promised on a host and not visible there yet: a placement, or a migration under way.

    Args: what: of the new VM or the VM on its way, for people. expires_s: it counts no longer than that.
    """

    hold_id: str
    driver: str
    host_id: str
    vcpus: float
    mem_bytes: int
    what: str
    made_s: float
    expires_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One line of the audit log.

    Args: body: canonical JSON. sha256: over the previous entry's hash, number, time, who, what and body.
    """

    number: int
    at_s: float
    who: str
    what: str
    body: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """A line of the audit log as somebody noted it: that line must still be there, and be the same."""

    number: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.number}:{self.sha256}"


class Records(Protocol):
    """All of it. Blocking; times are Unix seconds of the caller's clock.

    Methods that take a lease raise StaleLease when it is not the newest or has run out at `now_s`.
    """

    def acquire(self, holder: str, *, now_s: float, life_s: float) -> Lease | None:
        """The lease, if nobody else's holds; the holder's own is given anew with a greater token."""

    def renew(self, lease: Lease, *, now_s: float, life_s: float) -> Lease:
        """The same lease with a later end. Raises: StaleLease."""

    def release(self, lease: Lease, *, now_s: float) -> None:
        """Gives it up; nothing where it is stale."""

    def leader(self) -> Lease | None:
        """The newest lease, whether it still holds or not."""

    def add_plan(self, plan: Plan) -> str:
        """Keeps it, once; its hash."""

    def plans(self, *, limit: int = 20) -> Sequence[Plan]:
        """The newest first."""

    def find_plans(self, prefix: str) -> Sequence[Plan]:
        """Those whose hash begins so."""

    def approve(self, approval: Approval) -> None:
        """Notes it; a second one of the same person changes nothing, but that a checked one replaces an unchecked."""

    def approvals(self, plan_sha256: str) -> Sequence[Approval]:
        """In the order in which they came."""

    def begin_run(self, run: Run, lease: Lease, *, now_s: float) -> None:
        """Notes that a plan is being applied.

        One that was refused whole may be applied again: its run has ended, and did not begin a single step.

        Raises: StaleLease; ValueError: this plan was applied before.
        """

    def end_run(self, run_id: str, lease: Lease, *, now_s: float, words: str | None = None) -> None:
        """Notes its end."""

    def runs(self, *, limit: int = 20) -> Sequence[Run]:
        """The newest first."""

    def find_run(self, run_id: str) -> Run | None:
        """By its whole id."""

    def intend(self, run_id: str, step: Step, lease: Lease, *, now_s: float) -> Action:
        """Writes down, durably, that the step is about to be done."""

    def settle(
        self, action: Action, outcome: Outcome, words: str, *, by: str, now_s: float, entry: Entry | None = None
    ) -> Action:
        """What became of it; with `entry`, where the VM now stands on the ladder.

        Without a lease: what happened has happened, and a controller that lost its lease in between still says so.
        The ladder changes with DONE alone; the VM's entry goes where `entry` is None and the step is UNMARK, RESUME
        or START. An action that has an outcome already keeps it, but for UNKNOWN; where the two contradict each
        other it becomes UNKNOWN.

        Returns: the action as it now stands. Raises: ValueError: there is no such action.
        """

    def actions(self, run_id: str) -> Sequence[Action]:
        """Of a run, in the order of doing."""

    def unsettled(self) -> Sequence[Action]:
        """Intended and without an outcome, or with UNKNOWN: nothing is done to their VMs until that is cleared up."""

    def actions_since(self, since_s: float) -> Sequence[Action]:
        """Begun at `since_s` or later, in the order of doing: what limits count."""

    def last_order(self, ref: VmRef) -> Action | None:
        """The newest that reached the VM's hypervisor, or may have; None: none ever did."""

    def entries(self) -> Mapping[VmRef, Entry]:
        """The ladder."""

    def find_entry(self, ref: VmRef) -> Entry | None:
        """Where one VM stands."""

    def put_entry(self, entry: Entry, *, by: str, now_s: float) -> None:
        """Where a VM stands."""

    def drop_entry(self, ref: VmRef, *, by: str, now_s: float, words: str) -> None:
        """Takes a VM off the ladder: its owner objected, or it is in use again."""

    def seen(self) -> Mapping[str, Seen]:
        """By the agent's id."""

    def put_seen(self, seen: Mapping[str, Seen]) -> None:
        """Replaces all of it."""

    def holds(self, now_s: float) -> Sequence[Hold]:
        """Those that count at `now_s`, by id."""

    def put_hold(self, hold: Hold, *, by: str) -> None:
        """One more, or the same with another end."""

    def drop_hold(self, hold_id: str, *, by: str, now_s: float) -> None:
        """Nothing where there is none."""

    def note(self, what: str, body: Mapping[str, object], *, who: str, now_s: float) -> None:
        """A line of the audit log of its own: a refusal, a stop, a link that was used."""

    def audit(self, *, after: int = 0, limit: int = 1000) -> Sequence[AuditEntry]:
        """By number, rising."""

    def anchors(self) -> Sequence[Anchor]:
        """Lines of the audit log as plans and runs remember them, by number: a log cut short lacks some of them."""
