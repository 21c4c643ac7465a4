"""The fleet database, read; and the SQL that counts held against the Python that explains."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import registry

from aggregator import fleet
from aggregator.fleet_db import migrate, open_fleet, open_fleet_read_only
from aggregator.summary import WINDOWS_DAYS
from reports.candidates import DAY_S, Candidate, Summary, Window
from reports.policies import POLICIES, Comparison, Policy, Rule
from reports.query import Listed, Question, Report, cause_code, read_report, read_window_days, snapshot
from reports.verdicts import Cause, Limits, Verdict, judge
from tests.reports.fleets import (
    DAYS,
    LOW,
    NEWEST_S,
    NOW_S,
    START_S,
    VERDICTS_OF_EACH,
    candidate,
    empty_fleet,
    one_of_each,
    question,
    store,
    stored,
    summary,
    window,
)

LENGTH_S = NEWEST_S - START_S
ODD = Policy(
    name="odd",
    summary="every comparison there is",
    source="this test",
    rules=(
        Rule(column="cpu_busy_mean_ratio", words="mean CPU", comparison=Comparison.BELOW, limit=0.1),
        Rule(column="mem_used_mean_ratio", words="mean memory", comparison=Comparison.AT_LEAST, limit=0.05),
    ),
)


def ask(engine: sa.Engine, asked: Question) -> Report:
    with snapshot(engine) as connection:
        return read_report(connection, asked)


def ids(report: Report) -> list[str]:
    return [listed.candidate.vm_id for listed in report.listed]


def test_every_vm_is_listed_with_its_verdict() -> None:
    """All VMs of the catalogue are there, those without a sample too, ordered by verdict."""
    report = ask(stored(one_of_each()), question())
    assert {listed.candidate.vm_id: listed.judgement.verdict for listed in report.listed} == VERDICTS_OF_EACH
    places = [list(Verdict).index(listed.judgement.verdict) for listed in report.listed]
    assert places == sorted(places)


def test_what_is_read_is_what_was_stored() -> None:
    """Every field of a VM comes back as it was, absent figures as None."""
    full = dict.fromkeys(_statistic_columns()) | {"users_s": 0} | LOW
    kept = [replace(one, window=one.window and replace(one.window, statistics=full)) for one in one_of_each()]
    report = ask(stored(kept), question())
    assert {listed.candidate.vm_id: listed.candidate for listed in report.listed} == {one.vm_id: one for one in kept}


def test_totals_count_the_whole_fleet_whatever_is_listed() -> None:
    """Neither a filter nor a top changes the totals, and every verdict is counted."""
    engine = stored(one_of_each())
    everything = ask(engine, question())
    for asked in (question(verdict=Verdict.ACTIVE), question(top=1), question(verdict=Verdict.EXCLUDED, top=1)):
        assert ask(engine, asked).totals == everything.totals
    assert [everything.totals.of(verdict) for verdict in Verdict] == [1, 1, 2, 1]
    assert everything.totals.vms == 5
    assert everything.totals.by_cause[Cause.SILENT] == 1
    assert everything.totals.by_cause[Cause.GAPS] == 0


def test_reclaimable_is_the_size_of_idle_vms_alone() -> None:
    """vCPU and memory of idle VMs are added up; a size that is not known is counted apart, not as zero."""
    fleet_of = [
        candidate(vm_id="a"),
        candidate(vm_id="b", summary=summary(cpu_count=None)),
        candidate(vm_id="c", window=window({**LOW, "cpu_busy_mean_ratio": 0.5})),
    ]
    totals = ask(stored(fleet_of), question(top=1)).totals
    assert (totals.reclaimable_vcpus, totals.reclaimable_mem_bytes) == (4, 16 * 2**30)
    assert totals.idle_of_unknown_size == 1


def test_a_filter_lists_one_verdict() -> None:
    """Only VMs of the verdict are listed, and how many there are is told beside how many are shown."""
    report = ask(stored(one_of_each()), question(verdict=Verdict.INSUFFICIENT, top=1))
    assert len(report.listed) == 1
    assert report.listed[0].judgement.verdict is Verdict.INSUFFICIENT
    assert report.matching == 2


def test_idle_vms_rank_by_capacity_then_use_then_id() -> None:
    """More vCPU first, then more memory, then less use, then the id; an unknown size comes last."""
    less = window({**LOW, "cpu_busy_mean_ratio": 0.01})
    fleet_of = [
        candidate(vm_id="e", summary=summary(cpu_count=None)),
        candidate(vm_id="d"),
        candidate(vm_id="c"),
        candidate(vm_id="b", window=less),
        candidate(vm_id="a", summary=summary(cpu_count=2)),
        candidate(vm_id="f", summary=summary(mem_total_bytes=2**40)),
        candidate(vm_id="g", summary=summary(cpu_count=16, mem_total_bytes=1)),
    ]
    engine = stored(fleet_of)
    assert ids(ask(engine, question())) == ["g", "f", "b", "c", "d", "a", "e"]
    assert ids(ask(engine, question(verdict=Verdict.IDLE, top=3))) == ["g", "f", "b"]


def test_only_idle_vms_have_a_rank() -> None:
    """Ranks count the reclaimable VMs from 1 without gaps; nothing else is ranked."""
    report = ask(stored([*one_of_each(), candidate(vm_id="vm-second")]), question())
    assert [listed.rank for listed in report.listed] == [1, 2, None, None, None, None]


def test_another_window_is_not_mixed_in() -> None:
    """A VM that has figures for other windows alone has none for the one asked for."""
    report = ask(stored([candidate(window=window(days=7))]), question())
    assert report.listed[0].judgement.cause is Cause.NO_WINDOW
    assert ask(stored([candidate(window=window(days=7))]), question(window_days=7)).totals.of(Verdict.IDLE) == 1


def test_windows_are_those_that_the_summaries_hold() -> None:
    """The choice is what is there, rising; the usual windows as long as nothing is."""
    with snapshot(empty_fleet()) as connection:
        assert read_window_days(connection) == WINDOWS_DAYS
    engine = stored([candidate(vm_id=f"vm-{days}", window=window(days=days)) for days in (14, 2, 90, 2)[:3]])
    with snapshot(engine) as connection:
        assert read_window_days(connection) == (2, 14, 90)


def test_an_empty_fleet_has_totals_of_zero() -> None:
    """No VM is no error."""
    report = ask(empty_fleet(), question())
    assert report.totals.vms == report.totals.reclaimable_vcpus == report.matching == len(report.listed) == 0


def test_tags_are_compared_whole_in_the_database_too() -> None:
    """Quotes, commas and escapes inside tags make no other tag out of them."""
    tags = ('x"fallow:keep', 'fallow:keep"', "fallow:keep, b", "Fallow:keep", "fallow:kéep", "fallow_keep", "[]")
    fleet_of = [candidate(vm_id=f"vm-{place}", tags=(tag,)) for place, tag in enumerate(tags)]
    assert ask(stored(fleet_of), question()).totals.of(Verdict.EXCLUDED) == 0
    limits = Limits(exclude_tags=("fallow:kéep", 'x"fallow:keep'))
    assert ask(stored(fleet_of), question(limits=limits)).totals.of(Verdict.EXCLUDED) == 2


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_the_same_questions_can_be_asked_of_postgresql(policy: Policy) -> None:
    """The cause is an expression that PostgreSQL's dialect can say, tags through jsonb."""
    code = cause_code(question(policy), dialect_name="postgresql")
    text = str(code.compile(dialect=registry.load("postgresql")()))
    assert "jsonb_array_elements_text(CAST(vm.tags AS JSONB))" in text
    assert "json_each" not in text


def _statistic_columns() -> list[str]:
    keys = {"window_days", "vm_id", "start_s", "end_s", "covered_s"}
    return [column.name for column in fleet.vm_window.c if column.name not in keys]


def near(*edges: int) -> st.SearchStrategy[int]:
    """Whole numbers at edges and next to them."""
    return st.sampled_from([edge + step for edge in edges for step in (-1, 0, 1)])


ratios = st.none() | st.sampled_from((0.0, 0.05, 0.1, 0.1 + 2**-55, 0.1000001, 0.109, 1.0)) | st.floats(0, 1)
windows = st.builds(
    Window,
    days=st.sampled_from((DAYS, DAYS, DAYS, 7)),
    start_s=st.just(START_S) | st.just(NEWEST_S),
    end_s=st.just(NEWEST_S),
    covered_s=st.just(LENGTH_S) | near(round(LENGTH_S * 0.95), 1) | st.integers(0, LENGTH_S),
    statistics=st.fixed_dictionaries(dict.fromkeys(LOW, ratios)),
)
summaries = st.builds(
    Summary,
    oldest_s=st.just(0) | near(START_S + DAYS * DAY_S // 20),
    newest_s=st.just(NEWEST_S) | near(NOW_S - 3600, NOW_S + 60),
    skew_s=st.just(0.0) | st.sampled_from((120.0, -120.0, 120.00001, -120.00001, -7200.0)),
    flags=st.just(())
    | st.lists(st.sampled_from(("clock_skew", "identity_conflict", "not_clock_skew")), unique=True).map(tuple),
    cpu_count=st.none() | st.integers(1, 3),
    mem_total_bytes=st.none() | st.integers(1, 2),
)
tag_texts = st.sampled_from(("fallow:keep", 'x"fallow:keep', "prod", "été", ""))
candidates = st.builds(
    Candidate,
    vm_id=st.text("abcdef0123456789-", min_size=1, max_size=4),
    tags=st.just(()) | st.lists(tag_texts, max_size=2).map(tuple),
    power_state=st.sampled_from((None, None, "on", "off")),
    enrolled_s=st.none() | st.just(START_S),
    summary=st.none() | summaries | summaries,
    window=st.none() | windows | windows,
)


def order_key(listed: Listed, policy: Policy) -> tuple[object, ...]:
    """The order of a report, said in Python: absent figures after all others."""
    facts, figures = listed.candidate.summary, listed.candidate.window
    cpu_count = facts.cpu_count if facts else None
    mem_bytes = facts.mem_total_bytes if facts else None
    use = figures.statistics[policy.rules[0].column] if figures else None
    return (
        list(Verdict).index(listed.judgement.verdict),
        (cpu_count is None, -(cpu_count or 0)),
        (mem_bytes is None, -(mem_bytes or 0)),
        (use is None, use or 0.0),
        listed.candidate.vm_id,
    )


@given(
    vms=st.lists(candidates, max_size=8, unique_by=lambda one: one.vm_id),
    policy=st.sampled_from((*POLICIES.values(), ODD)),
    tags=st.sampled_from((("fallow:keep",), (), ("prod", "été"))),
)
def test_the_database_and_python_agree(vms: list[Candidate], policy: Policy, tags: tuple[str, ...]) -> None:
    """Counts, filters, order and totals of the SQL are those of judging each VM in Python, on any rows."""
    asked = question(policy, limits=Limits(exclude_tags=tags))
    in_window = [replace(one, window=one.window if one.window and one.window.days == DAYS else None) for one in vms]
    causes = {one.vm_id: judge(one, policy, asked.limits, now_s=NOW_S).cause for one in in_window}
    engine = empty_fleet()
    with engine.connect() as connection:
        store(connection, vms)
        report = read_report(connection, asked)
        filtered = {verdict: read_report(connection, replace(asked, verdict=verdict, top=2)) for verdict in Verdict}
    assert {cause: count for cause, count in report.totals.by_cause.items() if count} == Counter(causes.values())
    assert {listed.candidate.vm_id: listed.judgement.cause for listed in report.listed} == causes
    assert list(report.listed) == sorted(report.listed, key=lambda listed: order_key(listed, policy))
    idle = [one.summary for one in in_window if causes[one.vm_id] is Cause.IDLE and one.summary]
    assert report.totals.reclaimable_vcpus == sum(facts.cpu_count or 0 for facts in idle)
    assert report.totals.reclaimable_mem_bytes == sum(facts.mem_total_bytes or 0 for facts in idle)
    for verdict, part in filtered.items():
        of_verdict = [vm_id for vm_id in ids(report) if causes[vm_id].verdict is verdict]
        assert ids(part) == of_verdict[:2]
        assert part.matching == len(of_verdict)


def test_a_snapshot_is_of_one_moment(tmp_path: Path) -> None:
    """What the aggregator writes while a report is read is in no part of it, and the report holds nobody up."""
    writer = open_fleet(None, tmp_path)
    migrate(writer)
    with writer.begin() as connection:
        store(connection, [candidate()])
    reader = open_fleet_read_only(None, tmp_path)
    with snapshot(reader) as connection:
        before = read_report(connection, question())
        with writer.begin() as other:
            store(other, [candidate(vm_id="vm-later")])
        assert read_report(connection, question()) == before
    assert ids(ask(reader, question())) == ["vm-a", "vm-later"]
    reader.dispose()
    writer.dispose()
