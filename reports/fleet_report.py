"""Reports: from stored verdicts where they are fresh, else judged on the spot. And one VM by every policy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import sqlalchemy as sa

from aggregator.fleet import vm as vms
from reports.events import read_changes
from reports.exemption_table import has_changed
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
from reports.ranking import rank, wanted_verdicts
from reports.report import RECLAIMABLE, Listed, Question, Report, Totals
from reports.tally import Tally
from reports.verdict_table import Stored, read_page, read_stored
from reports.verdicts import Cause, Judged, Settings

FRESH_S = 7200.0
# Fleets up to this size are judged for each report and page, so that it shows what holds now: a tenth of a second.
ON_THE_SPOT_VMS = 500
# When so many pages of stored verdicts do not fill a list, they are worth nothing.
_MAX_PAGES = 5


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
    engine: sa.Engine,
    question: Question,
    *,
    fresh_s: float = FRESH_S,
    since_s: float | None = None,
    on_the_spot_vms: int = ON_THE_SPOT_VMS,
) -> Report:
    """The answer to a question, out of one snapshot of the fleet.

    Verdicts stored by `judging.store_verdicts` with the same policy and settings give totals and order; the listed VMs
    are judged anew at `question.now_s`, those that do not have the verdict asked for any more are left out, and the
    next of the order take their places. When an exemption has changed since they were stored, the totals would be
    wrong: the whole fleet is judged now, which is right but slow for a large one.

    Args:
        fresh_s: stored verdicts that are older are not used, and the whole fleet is judged now; 0 uses none. Infinite:
            they are used whatever has changed, and no VM takes the place of one that is left out. That is for pages,
            which must not wait and must not show a VM twice.
        on_the_spot_vms: fleets up to this size are judged now, unless `fresh_s` is infinite.
        since_s: of the report before: tell what was reclaimed, kept and objected to from then on.

    Raises:
        ConfigError: the report's tables are those of another version.
        sqlalchemy.exc.DBAPIError: the fleet database cannot be read.
    """
    with snapshot(engine) as connection:
        stored = find_stored(connection, question, fresh_s=fresh_s, on_the_spot_vms=on_the_spot_vms)
        answer = None if stored is None else _from_stored(connection, stored, question, fill=not math.isinf(fresh_s))
        judged_s, totals, listed, matching = _judge_now(connection, question) if answer is None else answer
        changes = None if since_s is None else read_changes(connection, since_s, settings=question.settings)
    return Report(
        question=question,
        judged_s=judged_s,
        totals=totals,
        listed=listed,
        matching=matching,
        changes=changes,
    )


def find_stored(
    connection: sa.Connection,
    question: Question,
    *,
    fresh_s: float = FRESH_S,
    on_the_spot_vms: int = ON_THE_SPOT_VMS,
) -> Stored | None:
    """The verdicts that a report on this question is made from; None: it has to judge the fleet itself.

    Args: fresh_s, on_the_spot_vms: as for `make_report`.
    """
    policy, settings = question.policy, question.settings
    stored = read_stored(connection, scope_of(policy, settings), settings_sha256(policy, settings))
    if stored is None or math.isinf(fresh_s):
        return stored
    judged_s = stored.run.judged_s
    # A clock that was set back is no reason to trust what the future stored.
    if abs(question.now_s - judged_s) >= fresh_s or stored.totals.vms <= on_the_spot_vms:
        return None
    return None if has_changed(connection, judged_s, question.now_s) else stored


class _Answer(NamedTuple):
    """What a report says of the fleet, and from when its totals are, Unix seconds."""

    judged_s: float
    totals: Totals
    listed: tuple[Listed, ...]
    matching: int


def _from_stored(connection: sa.Connection, stored: Stored, question: Question, *, fill: bool) -> _Answer | None:
    """The answer by stored verdicts; None: too little of them still holds.

    Args: fill: further VMs take the places of those that are left out.
    """
    page = read_page(connection, stored, question)
    wanted = wanted_verdicts(question)
    top = question.top
    stand: list[Judgement] = []
    part, pages = page, 1
    while True:
        judged = _judgements(connection, question.policy, question.settings, question.now_s, part.vm_ids)
        for judgement in judged:
            if judgement.verdict in wanted:
                stand.append(judgement)
            elif fill and judgement.cause is Cause.EXEMPT:
                return None
        if not fill or top is None or len(stand) >= top or len(part.vm_ids) < top:
            break
        if pages == _MAX_PAGES:
            return None
        part = read_page(connection, stored, replace(question, offset=question.offset + pages * top))
        pages += 1
    return _Answer(stored.run.judged_s, stored.totals, _ranked(question, stand[:top]), page.matching)


def _judge_now(connection: sa.Connection, question: Question) -> _Answer:
    tally = Tally()

    def counted() -> Iterator[tuple[Facts, Judged]]:
        exemptions = read_exemptions(connection, question.now_s)
        for facts, judged, _ in judge_fleet(connection, question.policy, question.settings, question.now_s, exemptions):
            tally.add(facts, judged)
            yield facts, judged

    page = rank(counted(), question)
    totals = tally.totals(priced=question.settings.prices.currency is not None)
    found = _judgements(connection, question.policy, question.settings, question.now_s, page.vm_ids)
    return _Answer(question.now_s, totals, _ranked(question, tuple(found)), page.matching)


def _ranked(question: Question, found: Sequence[Judgement]) -> tuple[Listed, ...]:
    """Ranks are places in the list that is shown."""
    return tuple(
        Listed(rank=place if judgement.verdict in RECLAIMABLE else None, judgement=judgement)
        for place, judgement in enumerate(found, question.offset + 1)
    )


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
