"""Reading all drivers at once: what is not known is told, and counters become rates only over a fitting time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from orchestrate.driver import Capabilities, Driver, Order, Task, Unreachable
from orchestrate.inventory import Counters, Inventory, Vm, VmCounters, VmRef
from orchestrate.sites import MAX_SPAN_S, MIN_SPAN_S, Sites


@dataclass
class FakeSite:
    """A driver of one VM, `u`, whose process takes half a core; `problem` is raised by every question."""

    name: str = "lab"
    counts: bool = True
    problem: Exception | None = None
    now_s: list[float] = field(default_factory=lambda: [1000.0])
    held: threading.Event | None = None
    closed: bool = False

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(verbs=frozenset(), vm_counters=self.counts)

    def _speak(self) -> None:
        if self.held is not None:
            self.held.wait()
        if self.problem is not None:
            raise self.problem

    def inventory(self, timeout_s: float) -> Inventory:
        self._speak()
        return Inventory(driver=self.name, read_s=self.now_s[0], hosts=(), vms=())

    def find(self, uuid: str, timeout_s: float) -> Vm:
        raise AssertionError

    def counters(self, timeout_s: float) -> Counters:
        self._speak()
        at_s = self.now_s[0]
        return Counters(hosts={}, vms={"u": VmCounters(uuid="u", host_id="h", at_s=at_s, cpu_s=at_s / 2)})

    def begin(self, order: Order, timeout_s: float) -> Task:
        raise AssertionError

    def close(self) -> None:
        self.closed = True


def sites(*drivers: Driver, now_s: list[float] | None = None, timeout_s: float = 60.0) -> Sites:
    now = now_s or [1000.0]

    def pause(seconds: float) -> None:
        now[0] += seconds

    return Sites({driver.name: driver for driver in drivers}, clock=lambda: now[0], pause=pause, timeout_s=timeout_s)


def test_a_driver_that_fails_is_told_of_and_the_others_are_read() -> None:
    """One site out of reach says nothing of the others; a mistake in a driver is no crash."""
    look = sites(
        FakeSite(name="a"),
        FakeSite(name="b", problem=Unreachable("no route")),
        FakeSite(name="c", problem=KeyError("x")),
    ).look()
    assert [inventory.driver for inventory in look.inventories] == ["a"]
    assert look.problems == {"b": "no route", "c": "KeyError: 'x'"}


def test_a_driver_that_hangs_is_left_alone_until_it_comes_back() -> None:
    """No second thread enters a driver that has not answered yet, and it is not closed under it."""
    site = FakeSite(held=threading.Event())
    read = sites(site, timeout_s=-5.0)
    assert "no answer" in read.look().problems["lab"]
    assert "still unanswered" in read.look().problems["lab"]
    read.close()
    assert not site.closed
    assert site.held is not None
    site.held.set()


def test_the_first_measuring_waits_between_two_readings() -> None:
    """Counters become a rate: half a core busy is half a core."""
    now_s = [1000.0]
    found = sites(FakeSite(now_s=now_s), now_s=now_s).outside()
    outside = found[VmRef("lab", "u")]
    assert (outside.span_s, outside.cpu_cores) == (MIN_SPAN_S, 0.5)


def test_later_measurings_use_the_reading_before() -> None:
    """A service that looks every minute need not wait; the span is the time between its looks."""
    now_s = [1000.0]
    read = sites(FakeSite(now_s=now_s), now_s=now_s)
    read.outside()
    now_s[0] += 60.0
    before_s = now_s[0]
    assert read.outside()[VmRef("lab", "u")].span_s == 60.0
    assert now_s[0] == before_s


def test_two_questions_at_once_do_not_tell_of_no_time() -> None:
    """A reading right after another is compared with the one before that."""
    now_s = [1000.0]
    read = sites(FakeSite(now_s=now_s), now_s=now_s)
    read.outside()
    now_s[0] += 1.0
    outside = read.outside_of(VmRef("lab", "u"))
    assert outside is not None
    assert outside.span_s == MIN_SPAN_S + 1.0


def test_readings_too_old_are_not_compared() -> None:
    """What a VM did on average since yesterday says nothing of now."""
    now_s = [1000.0]
    read = sites(FakeSite(now_s=now_s), now_s=now_s)
    read.outside()
    now_s[0] += MAX_SPAN_S + 60.0
    assert read.outside_of(VmRef("lab", "u")) is None


def test_a_clock_that_is_set_back_makes_readings_begin_anew() -> None:
    """Readings of the future are of no use."""
    now_s = [1000.0]
    read = sites(FakeSite(now_s=now_s), now_s=now_s)
    read.outside()
    now_s[0] -= 500.0
    assert read.outside_of(VmRef("lab", "u")) is None


def test_drivers_without_counters_are_not_asked() -> None:
    """A VM that nobody counts is absent, not zero; an unknown driver is no error."""
    read = sites(FakeSite(counts=False, problem=AssertionError("was asked")))
    assert read.outside() == {}
    assert read.outside_of(VmRef("other", "u")) is None
