"""A report says the same from stored verdicts as from judging the fleet on the spot, and never more than holds now."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator import fleet as fleet_tables
from reports.events import Event, EventKind, read_events, record_event
from reports.exemption_table import Exemptions
from reports.exemptions import Exemption, ExemptionKind
from reports.facts import DAY_S
from reports.fleet import snapshot
from reports.fleet_report import FRESH_S, ON_THE_SPOT_VMS, make_report, read_owners, read_vm, read_vms
from reports.ingest_health import read_ingest_health
from reports.judging import store_verdicts
from reports.mail import subject
from reports.policies import POLICIES
from reports.report import RECLAIMABLE, Question, Report, Sort
from reports.savings import Prices
from reports.schema import open_report_db
from reports.verdicts import Cause, Settings, Verdict
from tests.postgres import postgres_database
from tests.reports.fleets import (
    NOW_S,
    VERDICTS_OF_EACH,
    Spec,
    clear,
    one_of_each,
    question,
    specs,
    store,
    stored,
    write_fleet,
)

PRICED = Settings(prices=Prices(currency="EUR", vcpu_hour=0.02, mem_gib_hour=0.003, disk_gib_month=0.05, kwh=0.3))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    """A fleet with a VM of each verdict, of which nothing is stored yet; it reads and writes."""
    write_fleet(tmp_path, one_of_each())
    found = open_report_db(None, tmp_path)
    yield found
    found.dispose()


def ids(report: Report) -> list[str]:
    return [listed.judgement.vm.vm_id for listed in report.listed]


def store_run(engine: sa.Engine, asked: Question, now_s: float) -> None:
    store_verdicts(engine, engine, asked.policy, asked.settings, now_s)


def stored_report(engine: sa.Engine, asked: Question, **how: Any) -> Report:
    """As a large fleet has it: by stored verdicts while they hold."""
    return make_report(engine, asked, on_the_spot_vms=-1, **how)


def keep(engine: sa.Engine, kind: ExemptionKind, subject: str) -> Exemption:
    until_s = NOW_S + DAY_S
    made = Exemptions(engine).add(kind, subject, reason="audit", owner="ann", until_s=until_s, now_s=NOW_S)
    return made.exemption


@st.composite
def questions(draw: st.DrawFn) -> Question:
    return question(
        settings=PRICED,
        verdict=draw(st.none() | st.sampled_from(Verdict)),
        reclaimable=draw(st.booleans()),
        search=draw(st.sampled_from(["", "", "web", "%"])),
        owner=draw(st.sampled_from([None, None, "ann"])),
        sort=draw(st.sampled_from(Sort)),
        ascending=draw(st.booleans()),
        offset=draw(st.sampled_from([0, 0, 1])),
        top=draw(st.sampled_from([None, 1, 3])),
    )


def test_stored_and_judged_reports_are_equal(engine: sa.Engine) -> None:
    """Totals, list, ranks and numbers: everything but the time they were judged at."""

    @settings(max_examples=25)
    @given(fleet=specs(), asked=st.lists(questions(), min_size=4, max_size=4))
    def check(fleet: list[Spec], asked: list[Question]) -> None:
        clear(engine)
        store(engine, fleet)
        store_run(engine, asked[0], NOW_S - 1)
        for each in asked:
            from_stored, judged = stored_report(engine, each), make_report(engine, each, fresh_s=0)
            assert (from_stored.judged_s, judged.judged_s) == (NOW_S - 1, NOW_S)
            assert replace(from_stored, judged_s=NOW_S) == judged

    check()


@settings(max_examples=40)
@given(fleet=specs())
def test_totals_are_those_of_the_listed(fleet: list[Spec]) -> None:
    """A list of all VMs names each once, and what they free together is what the totals say."""
    report = make_report(stored(fleet), question(settings=PRICED))
    listed = [each.judgement for each in report.listed]
    assert sorted(ids(report)) == sorted(spec.vm_id for spec in fleet)
    assert report.matching == report.totals.vms == len(fleet)
    for verdict in RECLAIMABLE:
        own = [judgement.savings for judgement in listed if judgement.verdict is verdict]
        freed = report.totals.freed[verdict]
        assert report.totals.of(verdict) == len(own)
        assert freed.vcpus == pytest.approx(sum(savings.vcpus for savings in own))
        assert freed.mem_bytes == pytest.approx(sum(savings.mem_bytes for savings in own))
        assert freed.money_per_month == pytest.approx(sum(savings.money_per_month or 0 for savings in own))
    assert not any(judgement.savings.vcpus for judgement in listed if judgement.verdict not in RECLAIMABLE)


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("vms", [0, 1])
def test_small_fleets(vms: int, is_stored: bool, tmp_path: Path) -> None:
    """None and one are fleets too."""
    write_fleet(tmp_path, one_of_each()[:vms])
    engine = open_report_db(None, tmp_path)
    asked = question(reclaimable=True, top=50)
    if is_stored:
        store_run(engine, asked, NOW_S)
    report = stored_report(engine, asked)
    engine.dispose()
    assert (report.totals.vms, report.matching, len(report.listed)) == (vms, vms, vms)


def test_list_is_ranked_by_what_is_worth_most(engine: sa.Engine) -> None:
    """Reclaimable VMs first, by score, with ranks that go on from page to page; the others have none."""
    report = make_report(engine, question())
    assert ids(report)[:4] == ["vm-oversized", "vm-idle", "vm-scheduled", "vm-active"]
    assert [listed.rank for listed in report.listed] == [1, 2, 3] + [None] * 7
    scores = [listed.judgement.score for listed in report.listed[:3]]
    assert scores == sorted(scores, reverse=True)
    page = make_report(engine, question(offset=2, top=2))
    assert [(listed.rank, listed.judgement.vm.vm_id) for listed in page.listed] == [
        (3, "vm-scheduled"),
        (None, "vm-active"),
    ]
    assert page.matching == 10


def test_values_that_are_not_known_come_last(engine: sa.Engine) -> None:
    """Whichever way round a list is ordered."""
    clear(engine)
    store(engine, [Spec(vm_id="vm-a", vcpus=None, owner=None), Spec(vm_id="vm-b", owner="ann")])
    store_run(engine, question(), NOW_S)
    for sort in (Sort.VCPUS, Sort.OWNER):
        for ascending in (False, True):
            for fresh_s in (0.0, FRESH_S):
                report = stored_report(engine, question(sort=sort, ascending=ascending), fresh_s=fresh_s)
                assert ids(report) == ["vm-b", "vm-a"]


def test_stale_verdicts_are_not_used(engine: sa.Engine) -> None:
    """Nor those from the future: the fleet is judged anew."""
    asked = question()
    for judged_s, is_used in (
        (NOW_S - FRESH_S, False),
        (NOW_S - FRESH_S + 1, True),
        (NOW_S + FRESH_S, False),
        (NOW_S + 5, True),
    ):
        store_run(engine, asked, judged_s)
        assert (stored_report(engine, asked).judged_s == judged_s) is is_used


def test_verdicts_by_other_settings_are_not_used(engine: sa.Engine) -> None:
    """Neither another policy's, window's nor limit's."""
    store_run(engine, question(), NOW_S - 1)
    for asked in (question("p95"), question(settings=Settings(window_days=7)), question(settings=PRICED)):
        assert stored_report(engine, asked).judged_s == NOW_S


def test_vm_that_is_not_idle_any_more_is_not_listed(engine: sa.Engine) -> None:
    """Its stored verdict is some minutes old; what it does now counts."""
    asked = question(verdict=Verdict.IDLE)
    store_run(engine, asked, NOW_S - 200)
    assert ids(stored_report(engine, asked)) == ["vm-idle"]
    with engine.begin() as connection:
        connection.execute(sa.update(fleet_tables.vm_window).values(disk_io_p95_bytes_per_s=1e9))
    assert ids(stored_report(engine, asked)) == []
    assert stored_report(engine, asked).totals.of(Verdict.IDLE) == 1


def test_vm_that_is_gone_is_not_listed(engine: sa.Engine) -> None:
    """A verdict outlives its VM until the next run."""
    store_run(engine, question(), NOW_S - 1)
    with engine.begin() as connection:
        connection.execute(sa.delete(fleet_tables.vm).where(fleet_tables.vm.c.vm_id == "vm-idle"))
    assert "vm-idle" not in ids(stored_report(engine, question()))


def test_vms_left_out_make_room_for_the_next(engine: sa.Engine) -> None:
    """A list of a large fleet is as long as was asked, while so many stand; ranks go on without a gap."""
    clear(engine)
    store(engine, [Spec(vm_id=f"vm-{place}", vcpus=16 - place) for place in range(6)])
    asked = question(verdict=Verdict.IDLE, top=2)
    store_run(engine, asked, NOW_S - 200)
    gone = sa.delete(fleet_tables.vm).where(fleet_tables.vm.c.vm_id.in_(["vm-0", "vm-1", "vm-3"]))
    with engine.begin() as connection:
        connection.execute(gone)
    report = stored_report(engine, asked)
    assert report.judged_s == NOW_S - 200
    assert [(one.rank, one.judgement.vm.vm_id) for one in report.listed] == [(1, "vm-2"), (2, "vm-4")]
    assert ids(stored_report(engine, replace(asked, top=5))) == ["vm-2", "vm-4", "vm-5"]
    assert ids(stored_report(engine, asked, fresh_s=math.inf)) == []


def test_stored_verdicts_of_which_little_stands_are_not_used(engine: sa.Engine) -> None:
    """Rather than reading through all of them."""
    clear(engine)
    store(engine, [Spec(vm_id=f"vm-{place}", vcpus=16 - place) for place in range(9)])
    asked = question(verdict=Verdict.IDLE, top=1)
    store_run(engine, asked, NOW_S - 200)
    with engine.begin() as connection:
        connection.execute(sa.delete(fleet_tables.vm).where(fleet_tables.vm.c.vm_id < "vm-8"))
    report = stored_report(engine, asked)
    assert (report.judged_s, report.totals.vms, ids(report)) == (NOW_S, 1, ["vm-8"])


@pytest.mark.parametrize("on_the_spot_vms", [-1, ON_THE_SPOT_VMS])
def test_list_totals_and_subject_know_who_is_kept(engine: sa.Engine, on_the_spot_vms: int) -> None:
    """Whatever the size of the fleet: VMs kept since the verdicts were stored neither shorten the list nor count."""
    clear(engine)
    store(engine, [Spec(vm_id=f"vm-{place}", vcpus=16 - place) for place in range(6)])
    asked = question(reclaimable=True, top=3)
    store_run(engine, asked, NOW_S - 60)
    for vm_id in ("vm-0", "vm-1", "vm-2"):
        keep(engine, ExemptionKind.VM, vm_id)
    report = make_report(engine, asked, on_the_spot_vms=on_the_spot_vms)
    assert [(one.rank, one.judgement.vm.vm_id) for one in report.listed] == [(1, "vm-3"), (2, "vm-4"), (3, "vm-5")]
    assert (report.totals.of(Verdict.IDLE), report.totals.of(Verdict.EXCLUDED), report.matching) == (3, 3, 3)
    assert subject(report).startswith("fallow: 3 of 6 VMs ")


def test_small_fleets_are_judged_on_the_spot(engine: sa.Engine) -> None:
    """What was stored an hour ago counts in large fleets only."""
    store_run(engine, question(), NOW_S - 200)
    assert make_report(engine, question()).judged_s == NOW_S
    assert make_report(engine, question(), on_the_spot_vms=9).judged_s == NOW_S - 200
    assert make_report(engine, question(), on_the_spot_vms=10).judged_s == NOW_S


def test_any_change_of_an_exemption_counts(engine: sa.Engine) -> None:
    """Made, ended, run out, or in force again: what was stored before is not used; what was stored after is."""
    asked = question()
    store_run(engine, asked, NOW_S - 60)
    assert stored_report(engine, asked).judged_s == NOW_S - 60
    kept = keep(engine, ExemptionKind.NAME, "nothing-has-this-name")
    assert stored_report(engine, asked).judged_s == NOW_S
    store_run(engine, asked, NOW_S + 1)
    later = replace(asked, now_s=NOW_S + 2)
    assert stored_report(engine, later).judged_s == NOW_S + 1
    run_out = replace(asked, now_s=kept.until_s)
    store_run(engine, asked, kept.until_s - 1)
    assert stored_report(engine, run_out).judged_s == run_out.now_s
    Exemptions(engine).end(kept.id, "ann", now_s=kept.until_s - 0.5)
    store_run(engine, asked, kept.until_s - 0.7)
    assert stored_report(engine, run_out).judged_s == run_out.now_s
    store_run(engine, asked, kept.until_s - 0.2)
    assert stored_report(engine, run_out).judged_s == kept.until_s - 0.2


def test_an_expired_exemption_that_is_renewed_counts(engine: sa.Engine) -> None:
    """It was made long before the verdicts were stored; a listed VM that it keeps tells of it."""
    asked = question(reclaimable=True)
    exemptions = Exemptions(engine)
    until_s, now_s = NOW_S - DAY_S, NOW_S - 2 * DAY_S
    made = exemptions.add(ExemptionKind.NAME, "vm-idle", reason="audit", owner="ann", until_s=until_s, now_s=now_s)
    store_run(engine, asked, NOW_S - 60)
    assert "vm-idle" in ids(stored_report(engine, asked))
    exemptions.renew(made.exemption.id, NOW_S + DAY_S, now_s=NOW_S - 1)
    report = stored_report(engine, asked)
    assert report.judged_s == NOW_S
    assert report == make_report(engine, asked, fresh_s=0)


def test_exemption_counts_at_once(engine: sa.Engine) -> None:
    """A VM that somebody keeps is not offered, whatever was stored, and its own page says who keeps it."""
    asked = question(reclaimable=True)
    store_run(engine, asked, NOW_S - 1)
    Exemptions(engine).add(
        ExemptionKind.VM, "vm-idle", reason="migration", owner="ann", until_s=NOW_S + DAY_S, now_s=NOW_S
    )
    assert ids(stored_report(engine, asked)) == ids(make_report(engine, asked, fresh_s=0))
    assert "vm-idle" not in ids(stored_report(engine, asked, fresh_s=math.inf))
    found = read_vm(engine, "vm-idle", (asked.policy,), asked.settings, NOW_S)
    assert found is not None
    (judgement,) = found.judgements.values()
    assert judgement.cause is Cause.EXEMPT
    assert "until 2026-11-17 12:06 UTC by ann: migration" in judgement.reason


def test_one_vm_by_every_policy(engine: sa.Engine) -> None:
    """Each policy's verdict with its own figures, all windows, and the facts that they rest on."""
    found = read_vm(engine, "vm-idle", tuple(POLICIES.values()), Settings(), NOW_S)
    assert found is not None
    assert list(found.judgements) == list(POLICIES)
    assert [vm.vm_id for vm in found.facts.vms] == ["vm-idle"]
    for name, judgement in found.judgements.items():
        assert [figure.name for figure in judgement.figures[:-3]] == [
            rule.measure.name for rule in POLICIES[name].rules()
        ]
        assert [line.days for line in judgement.windows] == [1, 7, 14, 30]
    assert read_vm(engine, "nobody", tuple(POLICIES.values()), Settings(), NOW_S) is None


def test_some_vms_in_the_order_asked(engine: sa.Engine) -> None:
    """Those that are there."""
    asked = question()
    found = read_vms(engine, ("vm-off", "nobody", "vm-active"), asked.policy, asked.settings, NOW_S)
    assert [(one.vm.vm_id, one.verdict) for one in found] == [
        (vm_id, VERDICTS_OF_EACH[vm_id]) for vm_id in ("vm-off", "vm-active")
    ]


def test_owners_with_most_vms_come_first(engine: sa.Engine) -> None:
    """And no more than are asked for."""
    with snapshot(engine) as connection:
        assert read_owners(connection) == (("ann", 2), ("bob", 1), ("cleo", 1))
        assert read_owners(connection, top=1) == (("ann", 2),)


def test_changes_are_told_when_asked_for(engine: sa.Engine) -> None:
    """From the time of the report before."""
    assert make_report(engine, question(), since_s=0).changes is None
    with engine.begin() as connection:
        record_event(connection, Event(at_s=NOW_S, vm_id="vm-a", kind=EventKind.RECLAIMED, by="ann", vcpus=4))
    assert make_report(engine, question()).changes is None
    changes = make_report(engine, question(), since_s=NOW_S - 1).changes
    assert changes is not None
    assert (changes.reclaimed, changes.realised.vcpus) == (1, 4)


@pytest.mark.real
def test_postgresql_says_the_same(engine: sa.Engine, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Whatever is asked of the fleet, with and without stored verdicts."""
    with postgres_database(pytestconfig) as url:
        write_fleet(tmp_path, one_of_each(), url=url)
        server = open_report_db(url, tmp_path)
        answers = [list(everything(each)) for each in (engine, server)]
        server.dispose()
    assert answers[0] == answers[1]


def everything(engine: sa.Engine) -> Iterator[object]:
    """All that pages and commands ask of a fleet."""
    with engine.begin() as connection:
        record_event(connection, Event(at_s=NOW_S, vm_id="vm-a", kind=EventKind.RECLAIMED, by="ann", vcpus=4))
    for _ in range(2):
        for sort in Sort:
            for reclaimable in (False, True):
                asked = question(settings=PRICED, sort=sort, reclaimable=reclaimable, search="v", top=4, offset=1)
                yield stored_report(engine, asked, since_s=0)
        store_run(engine, asked, NOW_S)
    yield read_vm(engine, "vm-idle", (asked.policy,), PRICED, NOW_S).judgements  # type: ignore[union-attr]
    with snapshot(engine) as connection:
        yield read_owners(connection)
        yield read_events(connection, "vm-a")
        yield read_ingest_health(connection, NOW_S, PRICED.limits)
