"""What each page of the controller shows: one frozen value a page, named `view` in its template. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrate.approvals import State
from reports.web.views import ErrorView, Form, Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMark:
    """How far a plan has come.

    Attributes:
        slug: `waits`, `good`, `over` or `done`: how it looks.
        words: with the run that applied it, where one did.
    """

    state: State
    slug: str
    words: str
    run_href: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLine:
    """One plan of a list.

    Attributes:
        steps: `2 mark and 2 notify`. taken: from how many VMs it takes something, in words.
        count: `1 of 2`; empty where no approval is needed.
        by: whose yes it has.
    """

    href: str
    digits: str
    kind: str
    steps: str
    taken: str
    made_s: float
    made_by: str
    expires_s: float
    count: str
    by: tuple[str, ...]
    mark: StateMark


@dataclass(frozen=True, slots=True, kw_only=True)
class PlansView:
    """`/` (template `plans.html.j2`). `more_href`: None where all are listed."""

    frame: Frame
    rows: tuple[PlanLine, ...]
    waiting: int
    more_href: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureLine:
    """One piece of evidence. `sign`: what is wrong with it, if anything."""

    rule: str
    value: str
    limit: str
    sign: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLine:
    """One step.

    Attributes:
        what: the verb, and where to. now: the state that is expected of it, and where.
        owner: empty: nobody known.
        same_as: the number of the step before, on whose evidence this one rests; None: its own.
        then: how long nothing more is done; empty for no time.
        undone_by: empty where it changes nothing.
    """

    number: int
    what: str
    takes: bool
    name: str
    ref: str
    owner: str
    now: str
    reason: str
    figures: tuple[FigureLine, ...]
    same_as: int | None
    then: str
    undone_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalLine:
    """One yes. `counts`: whether it is one of those that the plan needs."""

    by: str
    at_s: float
    logged_in: bool
    counts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """One run. `took_s`: None: it has not ended."""

    href: str
    run_id: str
    kind: str
    by: str
    begun_s: float
    took_s: float | None
    outcome: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """`/plans/{hash}` (template `plan.html.j2`).

    Attributes:
        need: how many have to approve it and who has, as a sentence.
        gives: what it gives back, empty for nothing. limits: what it takes of them.
        approve: fields `seen` and `reason`; None where the reader cannot approve it, for the reason `why_not`.
        undo: what to type to bring back what a run took; empty for nothing.
    """

    frame: Frame
    sha256: str
    kind: str
    made_s: float
    made_by: str
    expires_s: float
    steps_words: str
    mark: StateMark
    need: str
    gives: str
    limits: str
    undoes: str | None
    notes: tuple[str, ...]
    approvals: tuple[ApprovalLine, ...]
    steps: tuple[StepLine, ...]
    runs: tuple[RunLine, ...]
    approve: Form | None
    why_not: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsView:
    """`/runs` (template `runs.html.j2`)."""

    frame: Frame
    rows: tuple[RunLine, ...]
    more_href: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionLine:
    """One step as it was done. `needs_person`: what to type once one knows what became of it; empty otherwise."""

    number: int
    what: str
    name: str
    ref: str
    begun_s: float
    took_s: float | None
    outcome: str
    slug: str
    words: str
    needs_person: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """`/runs/{run}` (template `run.html.j2`).

    Attributes:
        plan_href: None: its plan is not kept.
        undo: what brings back what it took, to be typed; empty where it took nothing.
    """

    frame: Frame
    run: RunLine
    plan_href: str | None
    plan_digits: str
    actions: tuple[ActionLine, ...]
    undo: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A field of a line of the audit log. `href`: None: there is no page of it."""

    name: str
    value: str
    href: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """One line of the audit log."""

    number: int
    at_s: float
    who: str
    what: str
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLine:
    """What became of a check. `head`: the last line, as one notes it elsewhere; empty for an empty log."""

    is_good: bool
    words: str
    head: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditView:
    """`/audit` (template `audit.html.j2`).

    Attributes:
        check: None: nobody asked.
        newer_href, older_href: None at either end.
    """

    frame: Frame
    rows: tuple[AuditLine, ...]
    check: CheckLine | None
    check_href: str
    newer_href: str | None
    older_href: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopView:
    """`/stop` (template `stop.html.j2`).

    Attributes:
        stop: what the switch says; None: it is off.
        pull: field `reason`; None where it is on, or the reader may not.
        let_go: field `seen`; None where it is off, or the reader may not.
        why_not: what the reader may not do, and who may; empty for nothing.
    """

    frame: Frame
    stop: str | None
    path: str
    pull: Form | None
    let_go: Form | None
    why_not: str


View = PlansView | PlanView | RunsView | RunView | AuditView | StopView | ErrorView

TEMPLATES: Mapping[type[View], str] = {
    PlansView: "plans.html.j2",
    PlanView: "plan.html.j2",
    RunsView: "runs.html.j2",
    RunView: "run.html.j2",
    AuditView: "audit.html.j2",
    StopView: "stop.html.j2",
    ErrorView: "error.html.j2",
}
