"""Whose yes a plan has, whose it still needs, and how far it has come: for the commands and for the pages.

Only `read_standing` and `read_standings` read; all else is pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from orchestrate.plan import Plan
from orchestrate.records import Approval, Records, Run
from orchestrate.step_rules import GIVES_BACK
from orchestrate.words import short
from reports.words import count_words, listed_words, printable, time_words

TWO = 2
# Enough to find those of plans that are still good.
_RUNS = 1000


class State(StrEnum):
    """How far a plan has come."""

    WAITING = "waiting for approval"
    ONE_OF_TWO = "one of two approvals"
    APPROVED = "approved"
    UNDER_WAY = "being applied"
    APPLIED = "applied"
    EXPIRED = "expired"
    NEEDS_NONE = "needs no approval"


class Hindrance(StrEnum):
    """Why a yes cannot be taken."""

    OWN_PLAN = "own-plan"
    APPLIED = "applied"
    EXPIRED = "expired"
    NEEDS_NONE = "needs-none"


class NotApprovable(Exception):
    """A yes that cannot be taken; the text says why, for people."""

    def __init__(self, hindrance: Hindrance, words: str) -> None:
        self.hindrance = hindrance
        super().__init__(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A plan with what has become of it.

    Args:
        approvals: in the order in which they came.
        runs: the newest first, those that were refused whole among them.
        applied_by: the run that did something of it, or is at it; None: there is none.
        taken: from how many VMs it takes something.
        needed: how many have to approve it: none, one, or two who log in.
    """

    plan: Plan
    approvals: tuple[Approval, ...]
    runs: tuple[Run, ...]
    applied_by: Run | None
    taken: int
    needed: int

    @property
    def counting(self) -> tuple[str, ...]:
        """Whose yes counts, each once, in the order in which they came."""
        if self.needed < TWO:
            return tuple(dict.fromkeys(each.by for each in self.approvals))
        # Of two who have to be two people, a name that nobody checked is none, nor is whoever made the plan.
        logged_in = (each.account for each in self.approvals)
        return tuple(dict.fromkeys(each for each in logged_in if each is not None and not made_by(self.plan, each)))

    @property
    def is_approved(self) -> bool:
        """Whether nobody else has to be asked."""
        return len(self.counting) >= self.needed

    def state(self, now_s: float) -> State:
        """How far it has come."""
        if self.applied_by is not None:
            return State.UNDER_WAY if self.applied_by.ended_s is None else State.APPLIED
        if not now_s < self.plan.expires_s:
            return State.EXPIRED
        if not self.needed:
            return State.NEEDS_NONE
        if self.is_approved:
            return State.APPROVED
        return State.ONE_OF_TWO if self.counting else State.WAITING

    def find(self, account: str) -> Approval | None:
        """The yes of somebody who logged in."""
        return next((each for each in self.approvals if each.account == account), None)

    def fingerprint(self, stop: str | None) -> str:
        """64 hex digits over everything that whoever approves has to have seen. Args: stop: of the kill switch."""
        seen = [
            self.plan.sha256,
            [asdict(each) for each in self.approvals],
            [asdict(each) for each in self.runs],
            self.needed,
            stop,
        ]
        return hashlib.sha256(json.dumps(seen, sort_keys=True, allow_nan=False).encode()).hexdigest()


def standing_of(
    plan: Plan, approvals: Sequence[Approval], runs: Sequence[Run], applied_by: Run | None, *, above: int | None
) -> Standing:
    """Args: above: `ReclaimSettings.two_persons_above`."""
    taken = sum(step.is_disruptive for step in plan.steps)
    of_taking = TWO if above is not None and taken > above else 1
    return Standing(
        plan=plan,
        approvals=tuple(approvals),
        runs=tuple(runs),
        applied_by=applied_by,
        taken=taken,
        needed=0 if plan.kind in GIVES_BACK else of_taking,
    )


def read_standing(records: Records, plan: Plan, *, above: int | None) -> Standing:
    """What has become of one plan."""
    return read_standings(records, [plan], above=above)[0]


def read_standings(records: Records, plans: Sequence[Plan], *, above: int | None) -> Sequence[Standing]:
    """What has become of each. Args: above: `ReclaimSettings.two_persons_above`."""
    runs_of: dict[str, list[Run]] = {plan.sha256: [] for plan in plans}
    for run in records.runs(limit=_RUNS):
        if run.plan_sha256 in runs_of:
            runs_of[run.plan_sha256].append(run)
    found = []
    for plan in plans:
        runs = runs_of[plan.sha256]
        # A run that ended without an action refused its plan, which may be applied again.
        applied = (run for run in runs if run.ended_s is None or records.actions(run.run_id))
        approvals = records.approvals(plan.sha256)
        found.append(standing_of(plan, approvals, runs, next(applied, None), above=above))
    return found


def made_by(plan: Plan, account: str) -> bool:
    """Whether an account asked for the plan; names of accounts are in lower case, those of shells as they are."""
    return plan.made_by.strip().casefold() == account.casefold()


def check_approvable(standing: Standing, by: str, *, now_s: float) -> None:
    """Whether somebody who logged in may say yes now. Args: by: the account. Raises: NotApprovable."""
    plan = standing.plan
    if made_by(plan, by):
        words = f"{printable(by)} made this plan: somebody else has to approve it"
        raise NotApprovable(Hindrance.OWN_PLAN, words)
    if not standing.needed:
        raise NotApprovable(Hindrance.NEEDS_NONE, f"a plan of the kind {plan.kind} gives back: it needs no approval")
    if standing.applied_by is not None:
        raise NotApprovable(Hindrance.APPLIED, f"it was applied, by run {standing.applied_by.run_id}")
    if (words_of_expiry := expiry_words(plan, now_s=now_s)) is not None:
        raise NotApprovable(Hindrance.EXPIRED, words_of_expiry)


def expiry_words(plan: Plan, *, now_s: float) -> str | None:
    """That it is too late for it; None while it is not."""
    if now_s < plan.expires_s:
        return None
    return f"{short(plan.sha256)}: expired {time_words(plan.expires_s)}: make a new plan"


def need_words(standing: Standing) -> str:
    """How many have to approve it, and whose approval counts, as a sentence."""
    if not standing.needed:
        return "It gives back, and needs no approval."
    counting = [printable(each) for each in standing.counting]
    if standing.needed < TWO:
        return f"Approved by {listed_words(counting)}." if counting else "It needs one approval, and has none."
    taken = count_words(standing.taken, "VM")
    if standing.is_approved:
        return f"Approved by {listed_words(counting)}: two people, as it takes something from {taken}."
    maker = printable(standing.plan.made_by)
    so_far = f"so far {listed_words(counting)}" if counting else "so far nobody"
    return (
        f"It takes something from {taken}: two people who log in have to approve it, other than {maker}, who made it "
        f"({len(counting)} of {TWO}, {so_far})."
    )


def count_of(standing: Standing) -> str:
    """`1 of 2`; empty where no approval is needed."""
    return f"{min(len(standing.counting), standing.needed)} of {standing.needed}" if standing.needed else ""


def approval_document(standing: Standing, now_s: float) -> dict[str, object]:
    """The same for programs."""
    return {
        "state": standing.state(now_s),
        "approvals_needed": standing.needed,
        "approvals_counting": list(standing.counting),
        "applied_by": None if standing.applied_by is None else standing.applied_by.run_id,
    }
