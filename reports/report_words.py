"""What stands above and below the VMs of a report, in words that its text outputs share. Pure."""

from __future__ import annotations

from reports.report import RECLAIMABLE, Question, Report
from reports.savings_words import savings_words
from reports.verdicts import Cause, Verdict
from reports.words import count_words, listed_words, printable, time_words, vcpu_words

EMPTY_FLEET = (
    "The fleet is empty: no VM has been enrolled or imported yet. "
    "Make a join token with `fallow-aggregator join-token` and give it to the agents."
)


def head_lines(report: Report) -> list[str]:
    """When and by what the VMs were judged."""
    question = report.question
    policy = question.policy
    lines = [
        f"Fallow VMs, {time_words(question.now_s)}",
        f"Judged on {count_words(question.settings.window_days, 'day')} by the policy {printable(policy.name)}: "
        f"{printable(policy.summary)}.",
    ]
    if report.judged_s < question.now_s:
        lines.append(f"Totals and order are of {time_words(report.judged_s)}; each VM listed is judged anew.")
    return lines


def total_lines(report: Report, *, more: str = "") -> list[str]:
    """How much of the list is shown, what can be given back, how the fleet divides.

    Args: more: a sentence on how to see the VMs that are left out.
    """
    lines = [_listed(report, more), _reclaimable(report), _fleet(report)]
    if report.changes is not None:
        changes, currency = report.changes, report.question.settings.prices.currency
        counts = [
            f"{count:,} {words}"
            for count, words in (
                (changes.reclaimed, "reclaimed"),
                (changes.kept, "kept"),
                (changes.objected, "objected to"),
                (changes.returned, "given back to their owners"),
            )
        ]
        lines.append(
            f"Since {time_words(changes.since_s)}: {listed_words(counts)}. "
            f"Realised: {savings_words(changes.realised, currency)}."
        )
    return lines


def _listed(report: Report, more: str) -> str:
    which = _which(report.question)
    if report.matching == 0:
        return f"There is no {which.format('VM')}."
    listed = f"Listed {len(report.listed):,} of {which.format(count_words(report.matching, 'VM'))}."
    return f"{listed} {more}".rstrip() if len(report.listed) < report.matching else listed


def _which(question: Question) -> str:
    """The VMs that a question lists; `{}` stands for `VM` and how many."""
    words = "{}"
    if question.verdict is Verdict.INSUFFICIENT:
        words += " with insufficient data"
    elif question.verdict is not None:
        words += f" with the verdict {question.verdict.value}"
    elif question.reclaimable:
        words += " that can give capacity back"
    if question.owner is not None:
        words += f" of the owner {_literal(question.owner)}"
    if question.search:
        words += f" with “{_literal(question.search)}” in id, names, owner or tags"
    return words


def _literal(text: str) -> str:
    return printable(text).replace("{", "{{").replace("}", "}}")


def _reclaimable(report: Report) -> str:
    totals = report.totals
    if not totals.reclaimable:
        return "Reclaimable: nothing."
    parts = [
        f"{totals.of(verdict):,} {verdict.value} ({vcpu_words(totals.freed[verdict].vcpus)} vCPU)"
        for verdict in RECLAIMABLE
        if totals.of(verdict)
    ]
    words = savings_words(totals.freed_together, report.question.settings.prices.currency)
    line = f"Reclaimable: {words} in {count_words(totals.reclaimable, 'VM')}: {listed_words(parts)}."
    if totals.unknown_size:
        line += f" The size of {totals.unknown_size:,} of them is not known and counts as nothing."
    return line


def _fleet(report: Report) -> str:
    counts = listed_words([_count(report, verdict) for verdict in Verdict])
    return f"The fleet has {count_words(report.totals.vms, 'VM')}: {counts}."


def _count(report: Report, verdict: Verdict) -> str:
    by_cause = report.totals.by_cause
    causes = [cause for cause in Cause if cause.verdict is verdict]
    parts = [f"{by_cause[cause]:,} {cause.words}" for cause in causes if by_cause[cause]]
    detail = f" ({', '.join(parts)})" if len(causes) > 1 and parts else ""
    with_ = "with " if verdict is Verdict.INSUFFICIENT else ""
    return f"{report.totals.of(verdict):,} {with_}{verdict.value}{detail}"
