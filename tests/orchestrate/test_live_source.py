"""What the aggregator's memory tells of VMs, page by page, and when it is not believed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from aggregator.admin_client import AdminAnswer, AdminUnavailable
from orchestrate.live_source import LiveSource

NOW_S = 1_790_000_000.0


def sample(ts: int, **others: object) -> dict[str, object]:
    return {"ts": ts, "interval_s": 60, "cpu_busy_ratio": 0.01, "mem_used_bytes": 1024, **others}


def seen(vm: str, *samples: dict[str, object], **others: object) -> dict[str, object]:
    return {"vm": vm, "last_seen_s": NOW_S - 1, "skew_s": 0.2, "flags": [], "samples": list(samples), **others}


class FakeDoor:
    """An admin door that knows these VMs; `pages` False: one of a version without pages."""

    place = "the aggregator at there"

    def __init__(self, *vms: dict[str, Any], now_s: float = NOW_S, pages: bool = True, page_vms: int = 2) -> None:
        self.vms = sorted(vms, key=lambda each: str(each["vm"]))
        self.now_s = now_s
        self.pages = pages
        self.page_vms = page_vms
        self.asked: list[str] = []

    def get(self, target: str) -> AdminAnswer:
        self.asked.append(target)
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        if query and not self.pages:
            return AdminAnswer(status=422, body=b"{}")
        found = [each for each in self.vms if str(each["vm"]) > query.get("after", "")]
        if "vm" in query:
            found = [each for each in found if each["vm"] == query["vm"]]
        page = found[: self.page_vms] if "limit" in query else found
        following = page[-1]["vm"] if len(found) > len(page) else None
        document = {"now_s": self.now_s, "vms": page, "next": following}
        return AdminAnswer(status=200, body=json.dumps(document).encode())

    def decoded(self, answer: AdminAnswer) -> object:
        return json.loads(answer.body)


def source(door: FakeDoor) -> LiveSource:
    return LiveSource(door, clock=lambda: NOW_S)


def test_every_page_is_read() -> None:
    """All VMs come, whatever the size of a page."""
    door = FakeDoor(*(seen(f"vm-{number}", sample(60)) for number in range(5)))
    assert [vm_id for vm_id, _ in source(door).read()] == [f"vm-{number}" for number in range(5)]
    assert len(door.asked) == 3


def test_an_aggregator_without_pages_is_read_at_once() -> None:
    """An older aggregator refuses the parameters and is asked for everything."""
    door = FakeDoor(seen("a", sample(60)), seen("b", sample(60)), seen("c"), pages=False)
    assert [vm_id for vm_id, _ in source(door).read()] == ["a", "b", "c"]
    one = source(door).read_one("b")
    assert one is not None
    assert one.newest_s == 60.0


def test_minutes_come_oldest_first_and_missing_stays_missing() -> None:
    """None is not measured; the sum of disk traffic is not known when a part is not."""
    door = FakeDoor(seen("a", sample(120, users=0, disk_read_bytes_per_s=1.0), sample(60), boot="b7"))
    one = source(door).read_one("a")
    assert one is not None
    assert [minute.ts_s for minute in one.minutes] == [60.0, 120.0]
    assert (one.minutes[0].users, one.minutes[1].users) == (None, 0)
    assert one.minutes[1].disk_bytes_per_s is None
    assert (one.newest_s, one.boot) == (120.0, "b7")


def test_a_vm_that_memory_does_not_know_is_none() -> None:
    """Nothing is made up of a VM that has not pushed lately."""
    assert source(FakeDoor()).read_one("a") is None


@pytest.mark.parametrize(("off_s", "words"), [(61.0, "ahead of"), (-3600.0, "behind")])
def test_clocks_that_are_apart_are_not_believed(off_s: float, words: str) -> None:
    """No age can be told between two clocks that differ by more than a minute."""
    with pytest.raises(AdminUnavailable, match=words):
        source(FakeDoor(seen("a"), now_s=NOW_S + off_s)).read_one("a")


@pytest.mark.parametrize(
    "document",
    [[], {}, {"now_s": NOW_S}, {"now_s": NOW_S, "vms": [{"vm": "a"}]}, {"now_s": NOW_S, "vms": [], "next": 3}],
)
def test_an_answer_of_another_shape_is_told_plainly(document: object) -> None:
    """It becomes the same problem as no answer, and no traceback."""

    class Odd(FakeDoor):
        def decoded(self, answer: AdminAnswer) -> object:
            return document

    with pytest.raises(AdminUnavailable, match="cannot be read"):
        list(source(Odd()).read())


def test_reading_is_lazy() -> None:
    """A page is asked for when the one before was used up: memory holds one at a time."""
    door = FakeDoor(*(seen(f"vm-{number}") for number in range(6)))
    found: Iterator[object] = source(door).read()
    next(found)
    assert len(door.asked) == 1
