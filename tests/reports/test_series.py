"""A chart's data reach the report from the aggregator or from the disk, and it says which, or why not."""

from __future__ import annotations

import copy
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread

from aggregator.admin_client import AdminClient
from aggregator.rows import unpack_rows
from aggregator.series import SERIES, Curve, Series, Span
from aggregator.service import ADMIN_ADDRESS_FILE
from aggregator.store_series import read_series
from reports.series import (
    AdminSeries,
    FirstOf,
    LocalSeries,
    SeriesSource,
    SeriesUnavailable,
    UnknownVm,
    parse_series,
)
from tests.aggregator.admin_door import Door, open_door, token_file
from tests.aggregator.door_fakes import TS
from tests.aggregator.service_fakes import running
from tests.aggregator.store_fakes import HOUR_S, START_S, fill, minutes

VM = "vm-1"
END_S = START_S + HOUR_S
SPAN = Span(from_s=START_S, to_s=END_S, points=100)


def some_series() -> Series:
    """Twelve minutes of a VM without a disk."""
    return read_series(Path("/nonexistent.db"), VM, SPAN, list(unpack_rows(minutes(START_S + 60, 12))))


DOCUMENT: dict[str, Any] = some_series().document()


def unavailable(source: SeriesSource, vm_id: str = VM) -> str:
    with pytest.raises(SeriesUnavailable) as caught:
        source.read(vm_id, START_S, END_S, 100)
    return caught.value.reason


# From the aggregator.


@pytest.fixture
def door() -> Iterator[Door]:
    with open_door() as opened:
        yield opened


@pytest.fixture
def admin(door: Door, tmp_path: Path) -> AdminSeries:
    return AdminSeries(AdminClient(door.url, token_file(tmp_path)))


@pytest.mark.real
def test_the_aggregator_is_asked(admin: AdminSeries, door: Door) -> None:
    """For this VM, span and number of points; what it answers comes back as it was."""
    door.say(200, DOCUMENT)
    assert admin.read(VM, START_S, END_S, 100) == some_series()
    assert [target for target, _ in door.asked] == [f"/v1/vms/{VM}/series?from={START_S}&to={END_S}&points=100"]


@pytest.mark.real
def test_a_vm_that_the_aggregator_does_not_know(admin: AdminSeries, door: Door) -> None:
    """Its 404 is UnknownVm; the 404 of an aggregator without this route is not."""
    door.say(404, {"type": "urn:fallow:problem:unknown-vm", "detail": "vm-1: no such VM"})
    door.say(404, {"type": "urn:fallow:problem:not-found", "detail": "no such path"})
    with pytest.raises(UnknownVm, match="vm-1: no such VM"):
        admin.read(VM, START_S, END_S)
    assert unavailable(admin) == f"the aggregator at {door.url} answered 404: no such path"


@pytest.mark.real
@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b"{}", "refused the token"),
        (422, b'{"detail": "from: too long"}', "answered 422: from: too long"),
        (200, b"<html>", "something that is not JSON"),
        (200, b"[]", "what is no series: it is no object"),
        (200, b'{"series": {}, "vm": "vm-1", "ends_s": []}', "what is no series: from_s"),
    ],
)
def test_an_aggregator_that_cannot_tell(admin: AdminSeries, door: Door, status: int, body: bytes, words: str) -> None:
    """SeriesUnavailable with a reason that names the aggregator."""
    door.answers.append((status, body))
    reason = unavailable(admin)
    assert door.url in reason
    assert words in reason


def test_an_aggregator_that_does_not_run(tmp_path: Path) -> None:
    """So is one that is not there; its token may be missing too."""
    assert "cannot be read" in unavailable(AdminSeries(AdminClient("http://127.0.0.1:9", tmp_path / "admin.token")))


@pytest.mark.parametrize("vm_id", ["", "../../etc/passwd", "a/b", "a?b", "A", "x" * 65])
@pytest.mark.parametrize("kind", ["admin", "local"])
def test_an_id_that_is_none_reaches_nobody(tmp_path: Path, kind: str, vm_id: str) -> None:
    """It is no VM, and neither a URL nor a path is made of it."""
    source = AdminSeries(AdminClient("http://127.0.0.1:9", tmp_path)) if kind == "admin" else LocalSeries(tmp_path)
    with pytest.raises(UnknownVm):
        source.read(vm_id, START_S, END_S)


@pytest.mark.parametrize("kind", ["admin", "local"])
def test_a_span_that_cannot_be_is_the_callers_mistake(tmp_path: Path, kind: str) -> None:
    """ValueError, before anybody is asked."""
    source = AdminSeries(AdminClient("http://127.0.0.1:9", tmp_path)) if kind == "admin" else LocalSeries(tmp_path)
    with pytest.raises(ValueError, match="from_s"):
        source.read(VM, END_S, START_S)
    with pytest.raises(ValueError, match="points"):
        source.read(VM, START_S, END_S, 1)


# The document.


def test_a_series_survives_the_way_through_json() -> None:
    """What the aggregator encodes, the report decodes to the same."""
    assert parse_series(json.loads(json.dumps(DOCUMENT))) == some_series()


def test_figures_of_a_newer_aggregator_are_left_out() -> None:
    """One more figure does no harm; one less does."""
    newer = {**DOCUMENT, "series": {**DOCUMENT["series"], "gpu_ratio": {}}, "more": 1}
    assert parse_series(newer) == some_series()
    older = {**DOCUMENT, "series": {name: DOCUMENT["series"][name] for name in SERIES[:-1]}}
    with pytest.raises(ValueError, match=r"series\.users: is missing"):
        parse_series(older)


@given(data=st.data())
def test_a_document_of_another_shape_is_refused(data: st.DataObject) -> None:
    """Whatever single part is replaced by something of another type or length, ValueError says so, and nothing else."""
    document = copy.deepcopy(DOCUMENT)
    other: object = data.draw(st.sampled_from([None, "x", 1.5, [], [1], ["x"] * 12, {}, True]))
    path = data.draw(
        st.one_of(
            st.sampled_from([("vm",), ("from_s",), ("to_s",), ("step_s",), ("ends_s",), ("series",)]),
            st.tuples(st.just("series"), st.sampled_from(SERIES)),
            st.tuples(st.just("series"), st.sampled_from(SERIES), st.sampled_from(["min", "mean", "max"])),
        )
    )
    place: Any = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = other
    if path == ("vm",) and other == "x":
        assert parse_series(document).vm == "x"
    else:
        with pytest.raises(ValueError, match=r"is (no|missing)|holds something"):
            parse_series(document)


# From the disk.


def test_the_disk_answers_without_an_aggregator(tmp_path: Path) -> None:
    """The same values as the aggregator would give of the same rows, and nothing is written."""
    fill(tmp_path, VM, minutes(START_S + 60, 12))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert LocalSeries(tmp_path).read(VM, START_S, END_S, 100) == some_series()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_store_that_is_not_there_is_an_unknown_vm(tmp_path: Path) -> None:
    """An absent store, and an absent data directory, know no VM; none is made."""
    for data_dir in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UnknownVm):
            LocalSeries(data_dir).read(VM, START_S, END_S)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_store_is_unavailable(tmp_path: Path) -> None:
    """A file that is no database, and one without its tables, have a reason that names the VM."""
    path = fill(tmp_path, VM, minutes(START_S + 60, 12))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE hour")
    assert unavailable(LocalSeries(tmp_path)).startswith("the store of vm-1 cannot be read: ")
    path.write_bytes(b"damaged" * 2000)
    assert "not a database" in unavailable(LocalSeries(tmp_path))
    path.unlink()
    path.mkdir()
    assert unavailable(LocalSeries(tmp_path)).startswith("the store of vm-1 cannot be read: ")


# One after the other.


@dataclass
class FakeSource:
    """Answers, or raises what it is given."""

    name: str
    error: Exception | None = None
    asked: list[tuple[str, int, int, int]] = field(default_factory=list)

    def read(self, vm_id: str, from_s: int, to_s: int, points: int = 7) -> Series:
        self.asked.append((vm_id, from_s, to_s, points))
        if self.error is not None:
            raise self.error
        curves = {name: Curve(min=[], mean=[], max=[]) for name in SERIES}
        return Series(vm=self.name, from_s=from_s, to_s=to_s, step_s=60, ends_s=[], series=curves)


def test_the_first_that_answers_is_taken() -> None:
    """Those before it are passed with their reasons, those after it are not asked."""
    down = FakeSource("down", SeriesUnavailable("it is down"))
    empty = FakeSource("empty", UnknownVm(VM))
    good, spare = FakeSource("good"), FakeSource("spare")
    first = FirstOf([down, empty, good, spare])
    found = first.find(VM, 1, 2, 3)
    assert (found.source, found.series.vm) == ("good", "good")
    assert found.passed == ("it is down", "empty knows no such VM")
    assert (good.asked, spare.asked) == ([(VM, 1, 2, 3)], [])
    assert first.read(VM, 1, 2, 3) == found.series
    assert first.name == "down, else empty, else good, else spare"


def test_a_vm_is_unknown_when_everybody_says_so() -> None:
    """While one source cannot tell, the VM may exist."""
    unknown, down = FakeSource("a", UnknownVm(VM)), FakeSource("b", SeriesUnavailable("b is down"))
    with pytest.raises(UnknownVm):
        FirstOf([unknown, FakeSource("c", UnknownVm(VM))]).read(VM, 1, 2)
    assert unavailable(FirstOf([unknown, down])) == "a knows no such VM; b is down"
    assert unavailable(FirstOf([down, unknown])) == "b is down; a knows no such VM"
    assert unavailable(FirstOf([])) == "no source of series is set up"


def test_a_mistake_of_the_caller_is_not_passed_on() -> None:
    """A ValueError of the first source ends it: the next would say the same."""
    spare = FakeSource("spare")
    with pytest.raises(ValueError, match="points"):
        FirstOf([FakeSource("a", ValueError("points: 1")), spare]).read(VM, 1, 2)
    assert spare.asked == []


# Once with everything real.


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_a_running_aggregator_and_its_disk(tmp_path: Path) -> None:
    """It knows the minutes that are not stored; when it has stopped, the disk has the rest."""
    times = range(TS - 300, TS + 60, 60)
    async with running(tmp_path) as house:
        await house.push("web-1", *times[:3], cpu=0.5)
        await house.flush()
        await house.push("web-1", *times[3:], cpu=0.25)
        url = f"http://{(tmp_path / ADMIN_ADDRESS_FILE).read_text().strip()}"
        both = FirstOf([AdminSeries(AdminClient(url, tmp_path / "admin.token")), LocalSeries(tmp_path)])
        found = await deferToThread(both.find, "web-1", TS - 3600, TS)
        assert found.source == f"the aggregator at {url}"
        assert (found.series.ends_s, found.passed) == (list(times), ())
        assert found.series.series["cpu_busy_ratio"].max == [0.5] * 3 + [0.25] * 3
        with pytest.raises(UnknownVm):
            await deferToThread(both.read, "nobody", TS - 3600, TS)
    found = await deferToThread(both.find, "web-1", TS - 3600, TS)
    assert found.source == "the store on this disk"
    assert found.passed == (f"the aggregator at {url} does not run: nothing listens there",)
    assert found.series.ends_s == list(times[:3])
