"""A report on facts that are at hand, without a database. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from reports.compare import Comparison, compare
from reports.explain import explain
from reports.facts import Facts
from reports.judging import judge_by_all
from reports.policy import Policy
from reports.ranking import rank
from reports.report import RECLAIMABLE, Listed, Question, Report
from reports.tally import Tally
from reports.verdicts import Settings, judge


def report_of(facts: Facts, question: Question) -> Report:
    """The answer to a question about these VMs, judged at `question.now_s`."""
    policy, settings, now_s = question.policy, question.settings, question.now_s
    judged = judge(facts, policy, settings, now_s=now_s)
    tally = Tally()
    tally.add(facts, judged)
    page = rank([(facts, judged)], question)
    judgements = {one.vm.vm_id: one for one in explain(facts, judged, policy, settings, now_s=now_s)}
    return Report(
        question=question,
        judged_s=now_s,
        totals=tally.totals(priced=settings.prices.currency is not None),
        listed=tuple(
            Listed(
                rank=question.offset + place if judgements[vm_id].verdict in RECLAIMABLE else None,
                judgement=judgements[vm_id],
            )
            for place, vm_id in enumerate(page.vm_ids, 1)
        ),
        matching=page.matching,
    )


def comparison_of(
    facts: Facts, policies: Sequence[Policy], settings: Settings, *, now_s: float, top: int
) -> Comparison:
    """These VMs by several policies, side by side. Args: top: how many VMs are named on which policies differ."""
    judged = judge_by_all(facts, policies, settings, now_s=now_s)
    return compare([(facts, judged)], policies, settings, now_s=now_s, top=top)
