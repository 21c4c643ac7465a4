"""Plans, runs and refusals as people read them in a terminal. Pure: lines of text without colour.

Names, owners and messages come from others: none of them moves a cursor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from orchestrate.limits import Limits
from orchestrate.plan import Plan, Step
from orchestrate.records import Action, Approval, Entry, Outcome, Run, Rung
from orchestrate.refusal import Refusal, Rule
from orchestrate.sighting import Figure
from reports.words import (
    NOT_MEASURED,
    count_words,
    duration_words,
    gib,
    listed_words,
    money_words,
    printable,
    time_words,
    vcpu_words,
)

# So many digits of a hash are typed and shown.
HASH_DIGITS = 12
_EXAMPLES = 3
_RUNGS = {Rung.MARK: "marked", Rung.NOTIFY: "owner told", Rung.SUSPEND: "suspended", Rung.STOP: "stopped"}


def short(sha256: str) -> str:
    """The beginning of a hash, as people type it."""
    return sha256[:HASH_DIGITS]


def plan_lines(
    plan: Plan, *, now_s: float, approvals: Sequence[Approval], currency: str | None, notes: bool = True
) -> Iterator[str]:
    """A plan whole: each step with its evidence and what undoes it, then what all of it gives back.

    Args: notes: its notes too; else whoever asks tells the same in more words.
    """
    yield plan_title(plan, now_s=now_s)
    for approval in approvals:
        checked = "" if approval.account is None else " (logged in)"
        yield f"approved by {printable(approval.by)}{checked}, {time_words(approval.at_s)}"
    for before, step in zip((None, *plan.steps), plan.steps, strict=False):
        yield ""
        yield from step_lines(step, before)
    if plan.notes and notes:
        yield ""
        yield from (printable(note) for note in plan.notes)
    freed = freed_words(plan.steps, currency)
    if freed:
        yield ""
        yield f"Gives back: {freed}."


def plan_title(plan: Plan, *, now_s: float) -> str:
    """`plan 3f9c2b1e0d3a: reclaim, 3 steps, by ann, 2026-11-16 12:06 UTC, good for 24 h`."""
    left_s = plan.expires_s - now_s
    good = f"good for {duration_words(left_s)}" if left_s > 0 else f"expired {time_words(plan.expires_s)}"
    steps = count_words(len(plan.steps), "step")
    return f"plan {short(plan.sha256)}: {plan.kind}, {steps}, by {printable(plan.made_by)}, " + (
        f"{time_words(plan.made_s)}, {good}"
    )


def step_lines(step: Step, before: Step | None = None) -> Iterator[str]:
    """A step: what, to whom, why, by which figures, and what undoes it.

    Args: before: the step before it, whose evidence is not told twice.
    """
    target = f" to {printable(step.target_host_id)}" if step.target_host_id is not None else ""
    owner = printable(step.owner) if step.owner else "nobody known"
    yield f"{step.number:>3}. {step.verb}{target}: {printable(step.name)} ({step.ref}), owner {owner}"
    yield f"     now {step.expected.state} on {printable(step.expected.host_id)}"
    if before is not None and (before.ref, before.figures) == (step.ref, step.figures) and step.figures:
        yield f"     on the evidence of step {before.number}"
    else:
        yield f"     {printable(step.reason)}"
        yield from (f"       {_figure_words(figure)}" for figure in step.figures)
    if step.grace_s is not None:
        yield f"     then nothing for {duration_words(step.grace_s)} at least"
    yield f"     undone by: {step.inverse or 'nothing, as it changes nothing'}"


def _figure_words(figure: Figure) -> str:
    sign = {True: "", False: " (broken)", None: " (not known)"}[figure.holds]
    limit = f", limit {printable(figure.limit)}" if figure.limit else ""
    return f"{printable(figure.rule)}: {printable(figure.value)}{limit}{sign}"


def freed_words(steps: Iterable[Step], currency: str | None) -> str:
    """What the disruptive steps give back, `8 vCPU, 16.0 GiB of memory and 40.00 EUR a month`; empty for nothing."""
    acting = [step for step in steps if step.is_disruptive and step.target_host_id is None]
    vcpus = sum(step.freed_vcpus or 0.0 for step in acting)
    mem_bytes = sum(step.freed_mem_bytes or 0.0 for step in acting)
    money = sum(step.money_per_month or 0.0 for step in acting)
    parts = [
        f"{vcpu_words(vcpus)} vCPU" if vcpus else "",
        f"{gib(mem_bytes)} of memory" if mem_bytes else "",
        f"{money_words(money, currency)} a month" if money and currency is not None else "",
    ]
    return listed_words([part for part in parts if part])


def left_out_lines(left_out: Mapping[Rule, Sequence[tuple[str, str]]]) -> Iterator[str]:
    """By rule, how many VMs and a few of them. Args: left_out: rule -> name of each VM and the first reason."""
    count = sum(map(len, left_out.values()))
    if not count:
        return
    yield f"Left out: {count_words(count, 'idle VM')}. The controller never"
    for rule, each in left_out.items():
        yield f"  {rule}: {count_words(len(each), 'VM')}"
        for name, words in each[:_EXAMPLES]:
            yield f"    {printable(name)}: {printable(words)}"
        if len(each) > _EXAMPLES:
            yield f"    and {len(each) - _EXAMPLES:,} more"


def limit_line(steps: Iterable[Step], limits: Limits) -> str:
    """What the plan takes of the limits of a run, host and owner."""
    acting = [step for step in steps if step.is_disruptive]
    hosts = Counter(step.expected.host_id for step in acting)
    owners = Counter(step.owner for step in acting)
    return (
        f"Limits: {len(acting)} of {limits.run} a run ({limits.hour} an hour), "
        f"{max(hosts.values(), default=0)} of {limits.host} on one host, "
        f"{max(owners.values(), default=0)} of {limits.owner} of one owner."
    )


def refusal_lines(refusals: Iterable[Refusal]) -> Iterator[str]:
    """Why something is not done, a line each."""
    for refusal in refusals:
        whom = f" ({refusal.ref})" if refusal.ref is not None else ""
        yield f"  never {refusal.rule}: {printable(refusal.words)}{whom}"


def action_line(action: Action) -> str:
    """`12. suspend web (lab/6f9c…): done: suspended on h1`."""
    outcome = action.outcome or "under way, or left open"
    words = f": {printable(action.words)}" if action.words else ""
    step = action.step
    return f"{step.number:>3}. {step.verb} {printable(step.name)} ({step.ref}): {outcome}{words}"


def run_line(run: Run, actions: Sequence[Action]) -> str:
    """`run 3f9c2b1e: reclaim, by ann, 2026-11-16 12:06 UTC, took 41 s: 3 done`."""
    end = f"took {duration_words(max(run.ended_s - run.begun_s, 0.0))}" if run.ended_s is not None else "has not ended"
    words = "; ".join(filter(None, (outcome_words(actions), printable(run.words or ""))))
    told = f": {words}" if words else ""
    return f"run {run.run_id}: {run.kind}, by {printable(run.by)}, {time_words(run.begun_s)}, {end}{told}"


def outcome_words(actions: Iterable[Action]) -> str:
    """`3 done and 1 failed`, by the last action of each step; empty for none."""
    last = {action.step.number: action.outcome for action in actions}
    counts = Counter(last.values())
    told = [f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]]
    return listed_words(told + ([f"{counts[None]} open"] if counts[None] else []))


def entry_line(entry: Entry, name: str, *, now_s: float) -> str:
    """`web (lab/6f9c…): owner told 3 d ago, group dev, nothing more before 2026-11-20 …`."""
    due = f", nothing more before {time_words(entry.due_s)}" if entry.due_s is not None and entry.due_s > now_s else ""
    since = duration_words(max(now_s - entry.since_s, 0.0))
    rung = _RUNGS.get(entry.rung, entry.rung)
    return f"{printable(name)} ({entry.ref}): {rung} {since} ago, group {printable(entry.group)}{due}"


def known(value: object | None) -> str:
    """A cell of a table; a dash for what is not known."""
    return NOT_MEASURED if value is None or value == "" else printable(str(value))
