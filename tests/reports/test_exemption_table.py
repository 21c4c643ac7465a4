"""Exemptions in the fleet database: SQLite and PostgreSQL alike."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from aggregator.fleet import vm, vm_summary
from aggregator.fleet_db import migrate, open_fleet, open_fleet_read_only
from reports import tables
from reports.exemption_table import Exemptions
from reports.exemptions import (
    AmbiguousVm,
    Exemption,
    ExemptionKind,
    ExemptionRefused,
    Kept,
    NotFound,
    UnknownVm,
)
from reports.schema import open_report_db
from tests.postgres import postgres_database

NOW_S = 1_795_000_000.0
DAY_S = 86_400
SUMMARY = {"oldest_s": 0, "newest_s": 60, "received_s": 60, "skew_s": 0, "interval_s": 60, "conflicts": 0}


def a_fleet(url: str | None, data_dir: Path) -> None:
    """Three VMs, two of one name, and one that has a summary alone."""
    engine = open_fleet(url, data_dir)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(vm).values(vm_id="vm-a", name="web", hostname="a.example.org"))
        connection.execute(sa.insert(vm).values(vm_id="vm-b", name="db", hostname="b.example.org"))
        connection.execute(sa.insert(vm).values(vm_id="vm-c", name="db", hostname="vm-a"))
        connection.execute(sa.insert(vm_summary).values(vm_id="vm-silent", **SUMMARY, updated_s=60))
    engine.dispose()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    """A fleet with the report's tables."""
    data_dir = tmp_path_factory.mktemp("data")
    with ExitStack() as stack:
        url = stack.enter_context(postgres_database(request.config)) if request.param == "postgresql" else None
        a_fleet(url, data_dir)
        made = open_report_db(url, data_dir)
        yield made
        made.dispose()


@pytest.fixture
def engine(opened: sa.Engine) -> sa.Engine:
    """The same without any exemption."""
    clear(opened)
    return opened


def clear(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        for table in (tables.exemption, tables.reclaim_event):
            connection.execute(sa.delete(table))


def keep(exemptions: Exemptions, subject: str = "vm-a", **changes: Any) -> Kept:
    values: dict[str, Any] = {
        "kind": ExemptionKind.VM,
        "reason": "audit",
        "owner": "ann",
        "until_s": NOW_S + DAY_S,
        "now_s": NOW_S,
    }
    return exemptions.add(subject=subject, **{**values, **changes})


def events(engine: sa.Engine) -> list[tuple[Any, ...]]:
    table = tables.reclaim_event
    columns = (table.c.at_s, table.c.vm_id, table.c.kind, table.c.by, table.c.reason)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(table.c.id))]


@pytest.mark.parametrize(
    ("kind", "subject"),
    [(ExemptionKind.VM, "vm-a"), (ExemptionKind.TAG, "production"), (ExemptionKind.NAME, "build-*")],
)
def test_what_is_added_is_in_force(engine: sa.Engine, kind: ExemptionKind, subject: str) -> None:
    """Every field comes back as it was given, with an id of eight hex digits and nobody who ended it."""
    exemptions = Exemptions(engine)
    kept = keep(exemptions, f" {subject} ", kind=kind)
    assert not kept.is_renewal
    assert len(bytes.fromhex(kept.exemption.id)) == 4
    expected = Exemption(
        id=kept.exemption.id,
        kind=kind,
        subject=subject,
        reason="audit",
        owner="ann",
        created_s=NOW_S,
        until_s=NOW_S + DAY_S,
    )
    assert kept.exemption == expected
    assert exemptions.in_force(NOW_S) == exemptions.history() == [expected]
    assert exemptions.in_force(NOW_S)[0].kind is kind
    assert exemptions.in_force(NOW_S + DAY_S) == []


def test_keeping_again_renews(engine: sa.Engine) -> None:
    """A subject in force gets the new end, owner and reason, and no second exemption; a tag of that text is another."""
    exemptions = Exemptions(engine)
    first = keep(exemptions).exemption
    tagged = keep(exemptions, "vm-a", kind=ExemptionKind.TAG).exemption
    again = keep(exemptions, reason="more audit", owner="bob", until_s=NOW_S + 9 * DAY_S, now_s=NOW_S + 5)
    assert again.is_renewal
    assert (again.exemption.id, again.exemption.created_s) == (first.id, NOW_S)
    assert (again.exemption.owner, again.exemption.reason) == ("bob", "more audit")
    assert exemptions.in_force(NOW_S) == [tagged, again.exemption]


def test_after_the_end_a_new_one_begins(engine: sa.Engine) -> None:
    """Neither an expired nor an ended exemption is brought back by keeping anew: what was stays as it was."""
    exemptions = Exemptions(engine)
    expired = keep(exemptions).exemption
    second = keep(exemptions, now_s=NOW_S + DAY_S, until_s=NOW_S + 2 * DAY_S)
    exemptions.end(second.exemption.id, "bob", now_s=NOW_S + DAY_S + 1)
    third = keep(exemptions, now_s=NOW_S + DAY_S + 2, until_s=NOW_S + 3 * DAY_S)
    assert not second.is_renewal
    assert not third.is_renewal
    history = exemptions.history()
    assert [one.id for one in history] == [third.exemption.id, second.exemption.id, expired.id]
    assert (history[1].ended_s, history[1].ended_by) == (NOW_S + DAY_S + 1, "bob")
    assert history[2] == expired


def test_a_vm_that_is_kept_is_an_event(engine: sa.Engine) -> None:
    """Keeping a VM and renewing are told with who and why; tags and names are no one VM; an end is no event."""
    exemptions = Exemptions(engine)
    kept = keep(exemptions).exemption
    keep(exemptions, "production", kind=ExemptionKind.TAG)
    exemptions.renew(kept.id, NOW_S + 2 * DAY_S, now_s=NOW_S + 7)
    exemptions.end(kept.id, None, now_s=NOW_S + 8)
    assert events(engine) == [(at_s, "vm-a", "kept", "ann", "audit") for at_s in (NOW_S, NOW_S + 7)]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"owner": " "}, "owner: is empty"),
        ({"reason": ""}, "reason: is empty"),
        ({"subject": "", "kind": ExemptionKind.TAG}, "tag: is empty"),
        ({"until_s": NOW_S}, "until: .* is past"),
        ({"until_s": NOW_S + 4_000 * DAY_S}, "until: .* more than ten years ahead"),
        ({"subject": "Not an id", "allow_unknown": True}, "'Not an id' is not a VM id"),
    ],
)
def test_what_may_not_be_is_refused(engine: sa.Engine, changes: dict[str, Any], problem: str) -> None:
    """The message says what is wrong, and nothing is written."""
    exemptions = Exemptions(engine)
    with pytest.raises(ExemptionRefused, match=problem):
        keep(exemptions, **changes)
    assert exemptions.history() == []
    assert events(engine) == []


def test_a_vm_that_is_not_in_the_fleet_is_refused_unless_told(engine: sa.Engine) -> None:
    """A typing mistake keeps nothing; a summary alone makes a VM known; who means it may keep an unknown one."""
    exemptions = Exemptions(engine)
    with pytest.raises(UnknownVm, match="vm-x: no such VM"):
        keep(exemptions, "vm-x")
    assert exemptions.history() == []
    kept = keep(exemptions, "vm-x", allow_unknown=True).exemption
    assert exemptions.find("vm-x") == kept
    assert keep(exemptions, "vm-silent").exemption.subject == "vm-silent"


def test_renewing_moves_the_end_alone(engine: sa.Engine) -> None:
    """Sooner or later, but in the future; what has expired comes back; what was ended does not."""
    exemptions = Exemptions(engine)
    kept = keep(exemptions).exemption
    sooner = exemptions.renew(kept.id, NOW_S + 60, now_s=NOW_S)
    assert exemptions.in_force(NOW_S) == [sooner]
    assert (sooner.until_s, sooner.reason, sooner.id) == (NOW_S + 60, "audit", kept.id)
    with pytest.raises(ExemptionRefused, match="is past"):
        exemptions.renew(kept.id, NOW_S + 30, now_s=NOW_S + 30)
    back = exemptions.renew(kept.id, NOW_S + 200, now_s=NOW_S + 100)
    assert exemptions.in_force(NOW_S + 100) == [back]
    exemptions.end(kept.id, "bob", now_s=NOW_S + 110)
    with pytest.raises(NotFound, match=r"was ended 2026-.* by bob"):
        exemptions.renew(kept.id, NOW_S + 300, now_s=NOW_S + 120)


def test_a_vm_never_has_two_in_force(engine: sa.Engine) -> None:
    """What has expired does not come back beside what took its place."""
    exemptions = Exemptions(engine)
    expired = keep(exemptions, until_s=NOW_S + 1).exemption
    current = keep(exemptions, now_s=NOW_S + 2).exemption
    with pytest.raises(ExemptionRefused, match=f"{expired.id}: has expired, and {current.id} is in force"):
        exemptions.renew(expired.id, NOW_S + DAY_S, now_s=NOW_S + 3)
    assert exemptions.in_force(NOW_S + 3) == [current]


def test_ending_takes_effect_at_once_and_once(engine: sa.Engine) -> None:
    """Who ended it and when stays; the second end, an expired and an unknown id are told apart."""
    exemptions = Exemptions(engine)
    kept, short = keep(exemptions).exemption, keep(exemptions, "vm-b", until_s=NOW_S + 1).exemption
    ended = exemptions.end(kept.id, "bob", now_s=NOW_S + 5)
    assert (ended.ended_s, ended.ended_by) == (NOW_S + 5, "bob")
    assert exemptions.in_force(NOW_S + 5) == []
    for unfit, problem in ((kept.id, "was ended"), (short.id, "expired"), ("0bad1dea", "no such exemption")):
        with pytest.raises(NotFound, match=f"{unfit}: {problem}"):
            exemptions.end(unfit, "eve", now_s=NOW_S + 6)
    assert exemptions.find(kept.id) == ended


def test_vms_are_found_by_id_name_and_host_name(engine: sa.Engine) -> None:
    """A name that several have, and one that none has, are said to be that; an id goes before names."""
    exemptions = Exemptions(engine)
    assert [exemptions.find_vm(text) for text in ("vm-a", "web", "b.example.org")] == ["vm-a", "vm-a", "vm-b"]
    with pytest.raises(AmbiguousVm, match=r"db: is the name of 2 VMs \(vm-b, vm-c\)"):
        exemptions.find_vm("db")
    for unknown in ("", "nobody", "\x00", "\udcff", "x" * 1_000):
        with pytest.raises(UnknownVm):
            exemptions.find_vm(unknown)


def test_an_exemption_is_found_by_its_id_or_its_vm(engine: sa.Engine) -> None:
    """Of a VM's several the one that is in force, else was last; a tag on a VM is not the VM's own."""
    exemptions = Exemptions(engine)
    old = keep(exemptions, until_s=NOW_S + 1).exemption
    new = keep(exemptions, now_s=NOW_S + 2, until_s=NOW_S + 9).exemption
    for text in (new.id, "vm-a", "web"):
        assert exemptions.find(text) == new
    assert exemptions.find(old.id) == old
    back = exemptions.renew(old.id, NOW_S + 20, now_s=NOW_S + 10)
    assert exemptions.find("web") == back
    with pytest.raises(NotFound, match="vm-b: has no exemption of its own"):
        exemptions.find("vm-b")
    with pytest.raises(AmbiguousVm):
        exemptions.find("db")


def test_an_id_that_is_taken_is_not_given_again(engine: sa.Engine) -> None:
    """The second exemption gets another id where chance repeats itself."""
    ids = iter(["aaaa", "aaaa", "bbbb"])
    exemptions = Exemptions(engine, make_id=lambda: next(ids))
    assert [keep(exemptions, subject).exemption.id for subject in ("vm-a", "vm-b")] == ["aaaa", "bbbb"]


def test_two_that_keep_a_vm_at_once_make_one_exemption(engine: sa.Engine) -> None:
    """All but the first find it and renew it."""
    results: list[bool] = []
    together = threading.Barrier(4)

    def start() -> None:
        exemptions = Exemptions(engine)
        together.wait()
        results.append(keep(exemptions).is_renewal)

    threads = [threading.Thread(target=start) for _ in range(together.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, True, True, True]
    assert len(Exemptions(engine).history()) == 1


def test_a_fleet_that_never_had_one_keeps_nothing(tmp_path: Path) -> None:
    """A reader on a database without the report's tables finds no exemption, and VMs all the same."""
    a_fleet(None, tmp_path)
    reader = open_fleet_read_only(None, tmp_path)
    exemptions = Exemptions(reader)
    assert exemptions.in_force(NOW_S) == exemptions.history() == []
    assert exemptions.find_vm("web") == "vm-a"
    reader.dispose()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["keep", "renew", "end"]),
        st.sampled_from(["vm-a", "vm-b"]),
        st.integers(1, 20),
        st.integers(0, 10),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def in_a_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    """A fleet with the report's tables, on SQLite."""
    data_dir = tmp_path_factory.mktemp("steps")
    a_fleet(None, data_dir)
    made = open_report_db(None, data_dir)
    yield made
    made.dispose()


@given(steps=STEPS)
def test_whatever_people_do_a_vm_has_one_at_most(in_a_file: sa.Engine, steps: list[tuple[str, str, int, int]]) -> None:
    """After any keeping, renewing, ending and waiting: what is in force is what the steps say, once a VM."""
    clear(in_a_file)
    exemptions, now_s = Exemptions(in_a_file), NOW_S
    expected: dict[str, float] = {}
    for action, subject, length_s, wait_s in steps:
        now_s += wait_s
        try:
            if action == "keep":
                keep(exemptions, subject, until_s=now_s + length_s, now_s=now_s)
            else:
                found = exemptions.find(subject)
                if action == "renew":
                    exemptions.renew(found.id, now_s + length_s, now_s=now_s)
                else:
                    exemptions.end(found.id, "bob", now_s=now_s)
        except NotFound:
            if action == "end":
                assert expected.get(subject, 0) <= now_s
            continue
        expected[subject] = now_s if action == "end" else now_s + length_s
    held = [(one.subject, one.until_s) for one in exemptions.in_force(now_s)]
    assert sorted(held) == sorted((subject, until_s) for subject, until_s in expected.items() if until_s > now_s)
