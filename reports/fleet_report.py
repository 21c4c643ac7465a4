"""Reports: from stored verdicts where they are fresh, else judged on the spot. And one VM by every policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from aggregator.fleet import vm as vms
from reports.events import read_changes
from reports.explain import SHOWN_DAYS, explain
from reports.facts import Facts
from reports.fleet import read_facts, snapshot
from reports.judgement import Judgement
from reports.judging import (
    find_kept,
    judge_by_all,
    judge_fleet,
    judged_days,
    read_exemptions,
    scope_of,
    settings_sha256,
)
from reports.policy import Policy
from reports.ranking import Page, rank, wanted_verdicts
from reports.report import RECLAIMABLE, Listed, Question, Report, Totals
from reports.tally import Tally
from reports.verdict_table import Stored, read_page, read_stored
from reports.verdicts import Judged, Settings

FRESH_S = 7200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VmReport:
    """One VM as every policy sees it.

    Attributes:
        facts: of this VM alone, with its evidence.
        judgements: by the name of the policy, in the order in which they were asked.
    """

    facts: Facts
    judgements: Mapping[str, Judgement]


def make_report(
    engine: sa.Engine, question: Question, *, fresh_s: float = FRESH_S, since_s: float | None = None
) -> Report:
    """The answer to a question, out of one snapshot of the fleet.

    Verdicts stored by `judging.store_verdicts` with the same policy and settings give totals and order; the listed VMs
    are judged anew at `question.now_s`, and those that do not have the verdict asked for any more are left out.

    Args:
        fresh_s: stored verdicts that are older are not used, and the whole fleet is judged now; 0 uses none.
        since_s: of the report before: tell what was reclaimed, kept and objected to from then on.

    Raises:
        ConfigError: the report's tables are those of another version.
        sqlalchemy.exc.DBAPIError: the fleet database cannot be read.
    """
    with snapshot(engine) as connection:
        stored = find_stored(connection, question, fresh_s=fresh_s)
        if stored is None:
            page, totals = _judge_now(connection, question)
            judged_s = question.now_s
        else:
            page, totals = read_page(connection, stored, question), stored.totals
            judged_s = stored.run.judged_s
        listed = _list(connection, question, page)
        changes = None if since_s is None else read_changes(connection, since_s, settings=question.settings)
    return Report(
        question=question,
        judged_s=judged_s,
        totals=totals,
        listed=listed,
        matching=page.matching,
        changes=changes,
    )


def find_stored(connection: sa.Connection, question: Question, *, fresh_s: float = FRESH_S) -> Stored | None:
    """The verdicts that a report on this question is made from; None: it has to judge the fleet itself."""
    policy, settings = question.policy, question.settings
    stored = read_stored(connection, scope_of(policy, settings), settings_sha256(policy, settings))
    # A clock that was set back is no reason to trust what the future stored.
    return stored if stored is not None and abs(question.now_s - stored.run.judged_s) < fresh_s else None


def _judge_now(connection: sa.Connection, question: Question) -> tuple[Page, Totals]:
    tally = Tally()

    def counted() -> Iterator[tuple[Facts, Judged]]:
        exemptions = read_exemptions(connection, question.now_s)
        for facts, judged, _ in judge_fleet(connection, question.policy, question.settings, question.now_s, exemptions):
            tally.add(facts, judged)
            yield facts, judged

    page = rank(counted(), question)
    return page, tally.totals(priced=question.settings.prices.currency is not None)


def _list(connection: sa.Connection, question: Question, page: Page) -> tuple[Listed, ...]:
    """The VMs of a page with their evidence, as they are now."""
    wanted = wanted_verdicts(question)
    listed: list[Listed] = []
    for judgement in _judgements(connection, question.policy, question.settings, question.now_s, page.vm_ids):
        if judgement.verdict not in wanted:
            continue
        place = question.offset + len(listed) + 1
        listed.append(Listed(rank=place if judgement.verdict in RECLAIMABLE else None, judgement=judgement))
    return tuple(listed)


def _judgements(
    connection: sa.Connection, policy: Policy, settings: Settings, now_s: float, vm_ids: Sequence[str]
) -> Iterator[Judgement]:
    """In the order of the ids; VMs that are gone are left out."""
    by_id = {
        judgement.vm.vm_id: judgement
        for _, (found,) in _explained(connection, (policy,), settings, now_s, vm_ids)
        for judgement in found
    }
    return (by_id[vm_id] for vm_id in vm_ids if vm_id in by_id)


def _explained(
    connection: sa.Connection, policies: Sequence[Policy], settings: Settings, now_s: float, vm_ids: Sequence[str]
) -> Iterator[tuple[Facts, list[tuple[Judgement, ...]]]]:
    """Some VMs at a time: their facts, and by each policy their judgements."""
    exemptions = read_exemptions(connection, now_s)
    days = {*judged_days(policies, settings), *SHOWN_DAYS}
    for facts in read_facts(connection, days, vm_ids=vm_ids):
        kept = find_kept(facts, exemptions)
        by_policy = judge_by_all(facts, policies, settings, now_s=now_s, exempt=kept)
        yield (
            facts,
            [
                explain(facts, judged, policy, settings, now_s=now_s, kept=kept)
                for policy, judged in zip(policies, by_policy, strict=True)
            ],
        )


def read_vm(
    engine: sa.Engine, vm_id: str, policies: Sequence[Policy], settings: Settings, now_s: float
) -> VmReport | None:
    """One VM by each of the policies, as it is now; None: there is no such VM.

    Raises: ConfigError, sqlalchemy.exc.DBAPIError: as `make_report`.
    """
    with snapshot(engine) as connection:
        for facts, by_policy in _explained(connection, policies, settings, now_s, (vm_id,)):
            names = (policy.name for policy in policies)
            return VmReport(
                facts=facts,
                judgements={name: judgement for name, (judgement,) in zip(names, by_policy, strict=True)},
            )
    return None


def read_vms(
    engine: sa.Engine, vm_ids: Sequence[str], policy: Policy, settings: Settings, now_s: float
) -> tuple[Judgement, ...]:
    """Some VMs as they are now, in the order of their ids; those that are not there are left out.

    Raises: ConfigError, sqlalchemy.exc.DBAPIError: as `make_report`.
    """
    with snapshot(engine) as connection:
        return tuple(_judgements(connection, policy, settings, now_s, vm_ids))


def read_owners(connection: sa.Connection, *, top: int = 200) -> tuple[tuple[str, int], ...]:
    """Owners and how many VMs each has, at most `top` of them, those with the most first."""
    count = sa.func.count()
    query = sa.select(vms.c.owner, count).where(vms.c.owner.is_not(None)).group_by(vms.c.owner)
    return tuple(
        (owner, number) for owner, number in connection.execute(query.order_by(count.desc(), vms.c.owner).limit(top))
    )
