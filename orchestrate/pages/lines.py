"""Plans, runs and lines of the audit log as the pages write them. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from orchestrate.approvals import Standing, State, count_of
from orchestrate.cli_parts import PROGRAM
from orchestrate.driver import Verb
from orchestrate.pages.views import (
    ActionLine,
    ApprovalLine,
    AuditLine,
    FigureLine,
    PlanLine,
    RunLine,
    Said,
    StateMark,
    StepLine,
)
from orchestrate.plan import Step
from orchestrate.records import Action, AuditEntry, Outcome, Run
from orchestrate.words import outcome_words, short
from reports.words import count_words, duration_words, listed_words, printable

_SLUGS = {
    State.WAITING: "waits",
    State.ONE_OF_TWO: "waits",
    State.APPROVED: "good",
    State.UNDER_WAY: "good",
    State.APPLIED: "done",
    State.EXPIRED: "done",
    State.NEEDS_NONE: "done",
}
_OUTCOMES = {Outcome.DONE: "good", Outcome.SKIPPED: "done", Outcome.FAILED: "bad", Outcome.UNKNOWN: "bad"}
_SIGNS = {True: "", False: "broken", None: "not known"}
_HASH_CHARS = 64
_MAX_SAID_CHARS = 400


def plan_href(sha256: str) -> str:
    """The page of a plan."""
    return f"/plans/{quote(sha256, safe='')}"


def run_href(run_id: str) -> str:
    """The page of a run."""
    return f"/runs/{quote(run_id, safe='')}"


def state_mark(standing: Standing, now_s: float) -> StateMark:
    """How far a plan has come, in words."""
    state, run = standing.state(now_s), standing.applied_by
    if run is None:
        return StateMark(state=state, slug=_SLUGS[state], words=state.value, run_href=None)
    return StateMark(
        state=state, slug=_SLUGS[state], words=f"{state.value} by run {run.run_id}", run_href=run_href(run.run_id)
    )


def plan_line(standing: Standing, now_s: float) -> PlanLine:
    """A plan in a list."""
    plan = standing.plan
    return PlanLine(
        href=plan_href(plan.sha256),
        digits=short(plan.sha256),
        kind=plan.kind.value,
        steps=verb_words(plan.steps),
        taken=count_words(standing.taken, "VM") if standing.taken else "nothing",
        made_s=plan.made_s,
        made_by=printable(plan.made_by),
        expires_s=plan.expires_s,
        count=count_of(standing),
        by=tuple(printable(each.by) for each in standing.approvals),
        mark=state_mark(standing, now_s),
    )


def verb_words(steps: Iterable[Step]) -> str:
    """`2 mark and 1 suspend`."""
    counts = Counter(step.verb for step in steps)
    return listed_words([f"{count} {verb}" for verb, count in counts.items()])


def approval_lines(standing: Standing) -> Iterable[ApprovalLine]:
    """Every yes, in the order in which they came."""
    left = set(standing.counting)
    for each in standing.approvals:
        counts = each.by in left
        left.discard(each.by)
        yield ApprovalLine(by=printable(each.by), at_s=each.at_s, logged_in=each.account is not None, counts=counts)


def step_lines(steps: Sequence[Step]) -> Iterable[StepLine]:
    """Steps with their evidence, which is not told twice for one VM."""
    for before, step in zip((None, *steps), steps, strict=False):
        is_same = before is not None and bool(step.figures) and (before.ref, before.figures) == (step.ref, step.figures)
        yield StepLine(
            number=step.number,
            what=_what(step),
            takes=step.is_disruptive,
            name=printable(step.name),
            ref=str(step.ref),
            owner=printable(step.owner or ""),
            now=f"{step.expected.state} on {printable(step.expected.host_id)}",
            reason=printable(step.reason),
            figures=() if is_same else tuple(_figures(step)),
            same_as=before.number if is_same and before is not None else None,
            then="" if step.grace_s is None else f"then nothing for {duration_words(step.grace_s)} at least",
            undone_by="" if step.inverse is None else step.inverse.value,
        )


def run_line(run: Run, actions: Iterable[Action]) -> RunLine:
    """One run with what came of it."""
    return RunLine(
        href=run_href(run.run_id),
        run_id=run.run_id,
        kind=run.kind,
        by=printable(run.by),
        begun_s=run.begun_s,
        took_s=None if run.ended_s is None else max(run.ended_s - run.begun_s, 0.0),
        outcome=outcome_words(actions) or ("nothing done" if run.ended_s is not None else "nothing yet"),
        words=printable(run.words or ""),
    )


def action_line(action: Action) -> ActionLine:
    """One step as it was done."""
    step, is_open = action.step, action.outcome in {None, Outcome.UNKNOWN}
    resolve = f"{PROGRAM} resolve {action.action_id} done|failed --reason TEXT"
    return ActionLine(
        number=step.number,
        what=_what(step),
        name=printable(step.name),
        ref=str(step.ref),
        begun_s=action.begun_s,
        took_s=None if action.settled_s is None else max(action.settled_s - action.begun_s, 0.0),
        outcome="under way, or left open" if action.outcome is None else action.outcome.value,
        slug="waits" if action.outcome is None else _OUTCOMES[action.outcome],
        words=printable(action.words or ""),
        needs_person=resolve if is_open else "",
    )


def undo_words(run: Run, actions: Iterable[Action]) -> str:
    """What to type to bring back what a run took; empty where it took nothing."""
    took = any(
        action.outcome is Outcome.DONE and isinstance(action.step.verb, Verb) and action.step.is_disruptive
        for action in actions
    )
    return f"{PROGRAM} undo {run.run_id}" if took else ""


def audit_line(entry: AuditEntry) -> AuditLine:
    """One line of the log; what its body says, field by field."""
    return AuditLine(
        number=entry.number,
        at_s=entry.at_s,
        who=printable(entry.who),
        what=printable(entry.what),
        said=tuple(_said(entry.body)),
    )


def _said(body: str) -> Iterable[Said]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        # Somebody changed it: it is shown as it is, and a check tells where.
        yield Said(name="", value=_cut(body), href=None)
        return
    for name, value in document.items():
        if value is None or value == "":
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        if name == "plan" and len(text) == _HASH_CHARS:
            yield Said(name=name, value=short(text), href=plan_href(text))
        elif name == "run":
            yield Said(name=name, value=_cut(text), href=run_href(text))
        else:
            yield Said(name=_cut(name), value=_cut(text), href=None)


def _cut(text: str) -> str:
    return printable(text if len(text) <= _MAX_SAID_CHARS else f"{text[:_MAX_SAID_CHARS]}…")


def _what(step: Step) -> str:
    return f"{step.verb}" + ("" if step.target_host_id is None else f" to {printable(step.target_host_id)}")


def _figures(step: Step) -> Iterable[FigureLine]:
    for figure in step.figures:
        yield FigureLine(
            rule=printable(figure.rule),
            value=printable(figure.value),
            limit=printable(figure.limit or ""),
            sign=_SIGNS[figure.holds],
        )
