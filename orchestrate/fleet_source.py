"""The agents' side of the fleet: verdicts out of the fleet database, the last minutes out of the aggregator. Blocking.

Every VM is judged by what its summary says; only those that come out idle keep their minutes, and only those that a
plan takes up are explained, so that a look at a fleet of 100,000 takes seconds and fits in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import sqlalchemy as sa

from aggregator.admin_client import AdminUnavailable
from aggregator.fleet import vm as vms
from aggregator.histogram import Floats
from orchestrate.live_source import Live, LiveVm, PartlyUnavailable
from orchestrate.sighting import Figure, Fleet, Sighting
from reports.facts import DAY_S, Facts, Vm
from reports.fleet import CHUNK_VMS, FleetDamaged, read_facts, snapshot
from reports.fleet_report import read_vms
from reports.judgement import Figure as ReportFigure
from reports.judgement import Judgement
from reports.judging import find_kept, judge_by_all, judged_columns, judged_days, read_exemptions
from reports.policy import Policy
from reports.quantities import limit_words
from reports.savings_words import known_savings
from reports.verdicts import Judged, Settings, Verdict
from reports.words import duration_words, number

# Told beside the figures that decided. Age and clock have limits of the controller's own, which its guards tell.
_COVERAGE = "coverage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """By what the fleet is judged.

    Args:
        policies: the first is for all whose group names none.
        choose: the name of the policy that holds for a VM, which is given as the first policy sees it.
    """

    settings: Settings
    policies: tuple[Policy, ...]
    choose: Callable[[Sighting], str]

    def policy(self, name: str) -> Policy:
        """Raises: KeyError: it is none of them."""
        return {policy.name: policy for policy in self.policies}[name]


class _Columns(NamedTuple):
    """Of many VMs, one row each; None is not known."""

    days: Sequence[float | None]
    coverage_ratio: Sequence[float | None]
    newest_s: Sequence[float | None]
    skew_s: Sequence[float | None]


class _Addresses(NamedTuple):
    macs: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()


def read_fleet(
    engine: sa.Engine, live: Live, judging: Judging, *, clock: Callable[[], float], all_minutes: bool = False
) -> Fleet:
    """Every VM of the catalogue, judged and seen now.

    An aggregator that does not answer is told of in the fleet: what is stored is still shown, and nothing is done. Of
    several that are asked, the VMs of those that do not answer are silent.

    Args:
        engine: of `aggregator.fleet_db.open_fleet_read_only`.
        clock: Unix seconds.
        all_minutes: of every VM, as the loads of hosts need them; else of the idle alone, which takes less memory.

    Raises:
        ConfigError: the report's tables are those of another version.
        reports.fleet.FleetDamaged: the fleet database holds what no aggregator wrote.
        sqlalchemy.exc.DBAPIError: it cannot be read.
    """
    found = _judged(engine, judging, clock())
    problem, is_live = None, True
    unheard = set(found)
    try:
        idle = {vm_id for vm_id, known in found.items() if all_minutes or known.verdict is Verdict.IDLE}
        for vm_id, seen in live.read(idle):
            unheard.discard(vm_id)
            if (known := found.get(vm_id)) is not None:
                found[vm_id] = _with_live(known, seen)
    except PartlyUnavailable as error:
        problem = error.reason
    except AdminUnavailable as error:
        problem, is_live = error.reason, False
    return Fleet(
        read_s=clock(),
        sightings=found,
        live=is_live,
        problem=problem,
        unheard=frozenset(unheard) if is_live and problem is not None else frozenset(),
    )


def read_sighting(engine: sa.Engine, live: Live, vm_id: str, judging: Judging, *, now_s: float) -> Sighting | None:
    """One VM judged and seen anew, its minutes too; None: the catalogue does not hold it.

    Raises: AdminUnavailable: the aggregator does not answer. Else as `read_fleet`.
    """
    sighting = _judged(engine, judging, now_s, (vm_id,)).get(vm_id)
    if sighting is None:
        return None
    seen = live.read_one(vm_id)
    return sighting if seen is None else _with_live(sighting, seen)


def read_evidence(
    engine: sa.Engine, sightings: Iterable[Sighting], judging: Judging, *, now_s: float
) -> dict[str, Sighting]:
    """The same VMs, by id, with what their verdicts rest on; those that are not idle stay as they are.

    The fleet may have changed since they were seen: the later verdict holds.

    Raises: as `read_fleet`.
    """
    found = {sighting.vm_id: sighting for sighting in sightings}
    for policy, ids in _idle_batches(found.values(), judging):
        for judgement in read_vms(engine, ids, policy, judging.settings, now_s):
            found[judgement.vm.vm_id] = _with_evidence(found[judgement.vm.vm_id], judgement)
    return found


def _with_live(sighting: Sighting, seen: LiveVm) -> Sighting:
    """What memory knows better than the last flush."""
    known = [each for each in (sighting.newest_s, seen.newest_s) if each is not None]
    return replace(
        sighting,
        newest_s=max(known, default=None),
        skew_s=seen.skew_s,
        boot=seen.boot,
        flags=tuple(dict.fromkeys((*sighting.flags, *seen.flags))),
        minutes=seen.minutes,
    )


def _judged(
    engine: sa.Engine, judging: Judging, now_s: float, vm_ids: Sequence[str] | None = None
) -> dict[str, Sighting]:
    """By id, without evidence."""
    settings = judging.settings
    days, columns = judged_days(judging.policies, settings), judged_columns(judging.policies, settings)
    found: dict[str, Sighting] = {}
    with snapshot(engine) as connection:
        exemptions = read_exemptions(connection, now_s)
        for facts in read_facts(connection, days, columns=columns, vm_ids=vm_ids):
            kept = find_kept(facts, exemptions)
            by_policy = judge_by_all(facts, judging.policies, settings, now_s=now_s, exempt=kept)
            addresses = _read_addresses(connection, [vm.vm_id for vm in facts.vms])
            columns_of = _columns(facts, settings)
            for row, vm in enumerate(facts.vms):
                sightings = (
                    _sighting(vm, row, columns_of, policy, judged, kept.get(vm.vm_id), addresses.get(vm.vm_id))
                    for policy, judged in zip(judging.policies, by_policy, strict=True)
                )
                found[vm.vm_id] = _chosen(sightings, judging)
    return found


def _chosen(sightings: Iterator[Sighting], judging: Judging) -> Sighting:
    """The one by the policy that holds for the VM. Raises: KeyError: there is none by that."""
    first = next(sightings)
    name = judging.choose(first)
    if name == first.policy:
        return first
    return {sighting.policy: sighting for sighting in sightings}[name]


def _columns(facts: Facts, settings: Settings) -> _Columns:
    window = facts.windows.get(settings.window_days)
    return _Columns(
        days=_known((facts.newest_s - facts.oldest_s) / DAY_S),
        coverage_ratio=[None] * len(facts.vms) if window is None else _known(window.coverage_ratio),
        newest_s=_known(facts.newest_s),
        skew_s=_known(facts.skew_s),
    )


def _sighting(
    vm: Vm,
    row: int,
    columns: _Columns,
    policy: Policy,
    judged: Judged,
    kept: str | None,
    addresses: _Addresses | None,
) -> Sighting:
    """A VM without evidence."""
    cause = judged.cause(row)
    macs, ips = addresses or _Addresses()
    return Sighting(
        vm_id=vm.vm_id,
        name=vm.name or vm.hostname,
        owner=vm.owner,
        mail=vm.mail,
        tags=vm.tags,
        macs=macs,
        addresses=ips,
        policy=policy.name,
        verdict=cause.verdict,
        cause=cause.words,
        sentence=cause.words,
        score=float(judged.score[row]),
        confidence_ratio=float(judged.confidence_ratio[row]),
        days=columns.days[row],
        coverage_ratio=columns.coverage_ratio[row],
        newest_s=columns.newest_s[row],
        skew_s=columns.skew_s[row],
        kept=kept,
        flags=vm.flags,
    )


def _known(values: Floats) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def _idle_batches(sightings: Iterable[Sighting], judging: Judging) -> Iterator[tuple[Policy, list[str]]]:
    """Idle VMs by their policy, so many at a time that their evidence fits in memory."""
    by_policy: dict[str, list[str]] = {}
    for sighting in sightings:
        if sighting.verdict is Verdict.IDLE:
            by_policy.setdefault(sighting.policy, []).append(sighting.vm_id)
    for name, ids in by_policy.items():
        for start in range(0, len(ids), CHUNK_VMS):
            yield judging.policy(name), ids[start : start + CHUNK_VMS]


def _with_evidence(sighting: Sighting, judgement: Judgement) -> Sighting:
    """The same with what its verdict rests on."""
    freed = known_savings(judgement)
    return replace(
        sighting,
        verdict=judgement.verdict,
        cause=judgement.cause.words,
        sentence=judgement.reason,
        score=judgement.score,
        confidence_ratio=judgement.confidence_ratio,
        figures=tuple(_figure(each) for each in judgement.figures if each.decides or each.name == _COVERAGE),
        freed_vcpus=freed.vcpus,
        freed_mem_bytes=freed.mem_bytes,
        money_per_month=freed.money_per_month,
    )


def _figure(figure: ReportFigure) -> Figure:
    # Some figures have their window in their words.
    days = "" if figure.days is None or " days" in figure.words else f" in {figure.days} d"
    return Figure(
        rule=f"{figure.words}{days}",
        value=number(figure.value, figure.unit, beside=figure.limit),
        limit=f"{figure.comparison.value} {_limit_words(figure)}",
        holds=None if figure.value is None else figure.ok,
    )


def _limit_words(figure: ReportFigure) -> str:
    return duration_words(figure.limit) if figure.unit == "s" else limit_words(figure.limit, figure.unit)


def _read_addresses(connection: sa.Connection, vm_ids: Sequence[str]) -> Mapping[str, _Addresses]:
    """What the agents said at enrolment, of those that said something."""
    query = sa.select(vms.c.vm_id, vms.c.macs, vms.c.ips).where(
        vms.c.vm_id.in_(vm_ids), sa.or_(vms.c.macs != "[]", vms.c.ips != "[]")
    )
    return {
        vm_id: _Addresses(tuple(mac.lower() for mac in _texts(macs, vm_id)), _texts(ips, vm_id))
        for vm_id, macs, ips in connection.execute(query)
    }


def _texts(text: str, vm_id: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise FleetDamaged(f"addresses of {vm_id}: {text!r} is not a JSON list of texts")
    return tuple(found)
