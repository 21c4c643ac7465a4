"""Judging a whole fleet: each VM once, by one policy or by all, and stored under the very settings it was made with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from aggregator.fleet_db import open_fleet_read_only
from reports.exemption_table import Exemptions
from reports.exemptions import ExemptionIndex, ExemptionKind
from reports.facts import DAY_S, Facts
from reports.fleet import snapshot
from reports.judging import (
    judge_by_all,
    judge_fleet,
    judged_days,
    read_exemptions,
    scope_of,
    settings_sha256,
    store_verdicts,
)
from reports.policies import DEFAULT_POLICY, POLICIES
from reports.policy import All, Either, at_most
from reports.report import RECLAIMABLE, Totals
from reports.savings import Prices
from reports.schema import open_report_db
from reports.sizing import SizingLimits
from reports.tables import verdict
from reports.tally import Tally, decode_totals, encode_totals
from reports.timetable import TimetableLimits
from reports.verdicts import Cause, Judged, Limits, Settings, Verdict, judge
from tests.postgres import postgres_database
from tests.reports.fleets import (
    NOW_S,
    VERDICTS_OF_EACH,
    Spec,
    facts_of,
    one_of_each,
    specs,
    stored,
    write_fleet,
)

POLICY = POLICIES[DEFAULT_POLICY]
NOTHING = ExemptionIndex(())


def verdicts_of(engine: sa.Engine) -> dict[str, Verdict]:
    """Every VM's, and a failure where one is judged twice."""
    found: list[tuple[str, Verdict]] = []
    with snapshot(engine) as connection:
        for facts, judged, _ in judge_fleet(connection, POLICY, Settings(), NOW_S, read_exemptions(connection, NOW_S)):
            found += [(vm.vm_id, judged.cause(row).verdict) for row, vm in enumerate(facts.vms)]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_every_vm_is_judged() -> None:
    """Each gets the verdict that it was made for."""
    assert verdicts_of(stored(one_of_each())) == VERDICTS_OF_EACH


@pytest.mark.parametrize("vms", [0, 1])
def test_small_fleets(vms: int) -> None:
    """None and one are fleets too."""
    assert len(verdicts_of(stored(one_of_each()[:vms]))) == vms


@pytest.mark.parametrize("chunk_vms", [1, 3, 10, 11])
def test_chunks_make_no_difference(chunk_vms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many VMs are read at a time, none is left out and none is judged twice."""
    monkeypatch.setattr("reports.fleet.CHUNK_VMS", chunk_vms)
    assert verdicts_of(stored(one_of_each())) == VERDICTS_OF_EACH


@settings(max_examples=40)
@given(fleet=specs(max_vms=12))
def test_totals_are_the_sum_over_the_vms(fleet: list[Spec]) -> None:
    """Each VM counts once, under its verdict alone, and so does what it frees."""
    facts = facts_of(fleet)
    prices = Prices(currency="EUR", vcpu_hour=0.02, mem_gib_hour=0.003, disk_gib_month=0.05, kwh=0.3)
    judged = judge(facts, POLICY, Settings(prices=prices), now_s=NOW_S)
    tally = Tally()
    half = len(fleet) // 2
    for part in (fleet[:half], fleet[half:]):
        some = facts_of(part)
        tally.add(some, judge(some, POLICY, Settings(prices=prices), now_s=NOW_S))
    totals = tally.totals(priced=True)
    assert totals.vms == len(fleet)
    assert totals.by_cause == {cause: int(np.count_nonzero(judged.of(cause))) for cause in Cause}
    together = totals.freed_together
    assert together.vcpus == pytest.approx(np.nansum(judged.freed.vcpus))
    assert together.mem_bytes == pytest.approx(np.nansum(judged.freed.mem_bytes))
    assert together.disk_bytes == pytest.approx(np.nansum(judged.freed.disk_bytes))
    assert together.kwh_per_month == pytest.approx(np.sum(judged.worth.kwh_per_month))
    assert together.money_per_month == pytest.approx(np.sum(judged.worth.money_per_month))
    sizeless = [spec.vcpus is None or spec.mem_gib is None for spec in fleet]
    reclaimable = [judged.cause(row).verdict in RECLAIMABLE for row in range(len(fleet))]
    assert totals.unknown_size == sum(map(min, sizeless, reclaimable))


def test_no_prices_are_no_money() -> None:
    """Rather than an amount of zero."""
    tally = Tally()
    totals = tally.totals(priced=False)
    assert totals.freed_together.money_per_month is None
    assert totals.vms == 0


@settings(max_examples=20)
@given(fleet=specs())
def test_totals_survive_their_text(fleet: list[Spec]) -> None:
    """What is stored of a run is what it came to."""
    facts, tally = facts_of(fleet), Tally()
    tally.add(facts, judge(facts, POLICY, Settings(), now_s=NOW_S))
    totals = tally.totals(priced=len(fleet) % 2 == 0)
    assert decode_totals(encode_totals(totals)) == totals


@given(text=st.sampled_from(["", "[]", "{}", '{"by_cause": []}', "null", '{"by_cause":{"IDLE":1},"freed":{}}', "1"]))
def test_other_texts_are_no_totals(text: str) -> None:
    """A run of another version is not understood by halves."""
    with pytest.raises(ValueError, match=r"."):
        decode_totals(text)


@settings(max_examples=30)
@given(fleet=specs())
def test_all_policies_at_once_judge_as_each_alone(fleet: list[Spec]) -> None:
    """What is shared between them changes no verdict, no figure and no order."""
    facts, policies = facts_of(fleet), tuple(POLICIES.values())
    exempt = {vm.vm_id for vm in facts.vms[::3]}
    together = judge_by_all(facts, policies, Settings(), now_s=NOW_S, exempt=exempt)
    assert len(together) == len(policies)
    for policy, judged in zip(policies, together, strict=True):
        alone = judge(facts_of(fleet), policy, Settings(), now_s=NOW_S, exempt=exempt)
        for one, other in zip(numbers(judged), numbers(alone), strict=True):
            np.testing.assert_array_equal(one, other)


def numbers(judged: Judged) -> Iterator[np.ndarray]:
    yield from (judged.codes, judged.confidence_ratio, judged.score)
    yield from (*judged.freed, *judged.worth, *judged.answer, *judged.sizes, *judged.timetables)


@settings(max_examples=40)
@given(fleet=specs())
def test_database_and_values_judge_alike(fleet: list[Spec]) -> None:
    """A fleet read from its database has the verdicts of the same fleet as values."""
    facts = facts_of(fleet)
    judged = judge(facts, POLICY, Settings(), now_s=NOW_S)
    expected = {vm.vm_id: judged.cause(row).verdict for row, vm in enumerate(facts.vms)}
    assert verdicts_of(stored(fleet)) == expected


def test_windows_of_every_policy_are_read() -> None:
    """Those of its rules, and the one that is asked for."""
    assert judged_days((POLICIES["azure"],), Settings()) == (3, 7, 14)
    assert judged_days((POLICIES["classic"], POLICIES["bmc"]), Settings(window_days=30)) == (7, 30)


def test_exempt_vms_are_excluded_and_say_why(tmp_path: Path) -> None:
    """By id, by tag and by name; the words name owner, reason and end."""
    write_fleet(
        tmp_path,
        [
            Spec(vm_id="vm-a"),
            Spec(vm_id="vm-b", tags=("db",)),
            Spec(vm_id="vm-c", hostname="Web-1"),
            Spec(vm_id="vm-d"),
        ],
    )
    writer = open_report_db(None, tmp_path)
    table = Exemptions(writer)
    for kind, subject in ((ExemptionKind.VM, "vm-a"), (ExemptionKind.TAG, "db"), (ExemptionKind.NAME, "web-*")):
        table.add(kind, subject, reason="closing", owner="ann", until_s=NOW_S + DAY_S, now_s=NOW_S)
    with snapshot(writer) as connection:
        index = read_exemptions(connection, NOW_S)
        ((_, judged, kept),) = judge_fleet(connection, POLICY, Settings(), NOW_S, index)
        later = read_exemptions(connection, NOW_S + 2 * DAY_S)
    writer.dispose()
    assert [judged.cause(row) for row in range(4)] == [Cause.EXEMPT] * 3 + [Cause.IDLE]
    assert kept == dict.fromkeys(("vm-a", "vm-b", "vm-c"), "until 2026-11-17 12:06 UTC by ann: closing")
    assert later.match("vm-a", None, None, ()) is None


def changed(value: object) -> object:
    """Another value of the same kind."""
    if isinstance(value, tuple):
        return (*value, "x")
    if isinstance(value, int | float):
        return value + 1
    return "other"


PARTS: Mapping[str, Any] = {
    "limits": Limits(),
    "sizing": SizingLimits(),
    "timetable": TimetableLimits(),
    "prices": Prices(),
}


def test_hash_tells_settings_apart() -> None:
    """Every single field of the settings and of the policy counts, and equal numbers are equal."""
    base = Settings()
    seen = {settings_sha256(POLICY, base), settings_sha256(POLICY, replace(base, window_days=7))}
    count = 2
    for name, part in PARTS.items():
        for field in fields(part):
            other: Any = replace(part, **{field.name: changed(getattr(part, field.name))})
            seen.add(settings_sha256(POLICY, replace(base, **{name: other})))
            count += 1
    rule = at_most("cpu_busy.mean", 0.1)
    for expression in (All((rule,)), Either((rule,)), rule, at_most("cpu_busy.mean", 0.1, days=7)):
        seen.add(settings_sha256(replace(POLICY, idle_when=expression), base))
        count += 1
    assert len(seen) == count
    assert settings_sha256(POLICY, Settings(limits=Limits(silent_after_s=3600))) == settings_sha256(POLICY, base)


def test_scope_names_policy_and_window() -> None:
    """People read it in the database."""
    assert scope_of(POLICY, Settings(window_days=7)) == "fallow-balanced/7d"


def test_run_stores_the_totals_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a row for each VM, in transactions of a chunk each; no reading lasts longer than a chunk either."""
    monkeypatch.setattr("reports.fleet.CHUNK_VMS", 3)
    write_fleet(tmp_path, one_of_each())
    reader, writer = open_fleet_read_only(None, tmp_path), open_report_db(None, tmp_path)
    commits: list[int] = []

    @sa.event.listens_for(writer, "commit")
    def count(connection: sa.Connection) -> None:
        commits.append(connection.scalar(sa.select(sa.func.count()).select_from(verdict)) or 0)

    reads_that_ended: list[int] = []
    sa.event.listen(reader, "rollback", lambda _connection: reads_that_ended.append(len(commits)))
    totals = store_verdicts(reader, writer, POLICY, Settings(), NOW_S)
    assert set(reads_that_ended) >= {2, 3, 4, 5}
    with writer.connect() as connection:
        by_id = {row.vm_id: row.verdict for row in connection.execute(sa.select(verdict))}
    reader.dispose()
    writer.dispose()
    assert by_id == {vm_id: one.value for vm_id, one in VERDICTS_OF_EACH.items()}
    assert {one: totals.of(one) for one in Verdict} == {
        one: list(VERDICTS_OF_EACH.values()).count(one) for one in Verdict
    }
    assert commits == [0, 3, 6, 9, 10, 10]


@pytest.mark.real
def test_database_that_goes_away_is_an_operational_error(
    pytestconfig: pytest.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller hears of it, with some of the fleet judged and the rest not."""
    monkeypatch.setattr("reports.fleet.CHUNK_VMS", 2)
    with postgres_database(pytestconfig) as url:
        write_fleet(tmp_path, one_of_each(), url=url)
        reader = open_fleet_read_only(url, tmp_path)
        with snapshot(reader) as connection:
            chunks = judge_fleet(connection, POLICY, Settings(), NOW_S, NOTHING)
            assert isinstance(next(chunks).facts, Facts)
            killer = sa.create_engine(url, isolation_level="AUTOCOMMIT")
            with killer.connect() as killing:
                killing.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                    "AND datname = current_database()"
                )
            with pytest.raises(OperationalError):
                next(chunks)
        killer.dispose()
        reader.dispose()


def test_totals_type_is_whole() -> None:
    """All causes are there, with 0 too."""
    totals: Totals = Tally().totals(priced=True)
    assert set(totals.by_cause) == set(Cause)
    assert set(totals.freed) == set(RECLAIMABLE)
