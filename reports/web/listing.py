"""VMs by their ids as they are now, and a list made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from reports.explain import SHOWN_DAYS, explain
from reports.fleet import read_facts
from reports.judgement import Judgement
from reports.judging import find_kept, judged_days, read_exemptions
from reports.policy import Policy
from reports.ranking import Page, wanted_verdicts
from reports.report import RECLAIMABLE, Listed, Question
from reports.verdicts import Settings, judge


def judge_vms(
    connection: sa.Connection, policy: Policy, settings: Settings, now_s: float, vm_ids: Sequence[str]
) -> Iterator[Judgement]:
    """Their verdicts with evidence, in no order; VMs that are gone are left out.

    Args: connection: of `reports.fleet.snapshot`.
    """
    exemptions = read_exemptions(connection, now_s)
    for facts in read_facts(connection, {*judged_days((policy,), settings), *SHOWN_DAYS}, vm_ids=vm_ids):
        kept = find_kept(facts, exemptions)
        judged = judge(facts, policy, settings, now_s=now_s, exempt=kept)
        yield from explain(facts, judged, policy, settings, now_s=now_s, kept=kept)


def list_page(connection: sa.Connection, question: Question, page: Page) -> tuple[Listed, ...]:
    """The VMs of a page in its order; those whose verdict is not asked for any more are left out."""
    judged = judge_vms(connection, question.policy, question.settings, question.now_s, page.vm_ids)
    by_id = {judgement.vm.vm_id: judgement for judgement in judged}
    wanted = wanted_verdicts(question)
    found = [by_id[vm_id] for vm_id in page.vm_ids if vm_id in by_id and by_id[vm_id].verdict in wanted]
    return tuple(
        Listed(rank=place if judgement.verdict in RECLAIMABLE else None, judgement=judgement)
        for place, judgement in enumerate(found, question.offset + 1)
    )
