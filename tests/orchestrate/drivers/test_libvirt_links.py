"""Connections to hosts that hang, break and come back."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agent.settings import ConfigError
from orchestrate.driver import Busy, DriverError, NotFound, Refused, Unreachable
from orchestrate.drivers.libvirt_errors import translated
from orchestrate.drivers.libvirt_links import _MAX_LATE, Link, load_libvirt
from orchestrate.drivers.libvirt_settings import HostSettings
from orchestrate.drivers.libvirt_threads import Deadline, Running
from orchestrate.drivers.libvirt_uri import HypervisorUri
from tests.orchestrate.drivers.libvirt_sites import FakeLibrary, FakeLibvirtError

URI = "qemu:///system"
HOST = HostSettings(host_id="hv1", uri=HypervisorUri(text=URI, host=None, is_test=False))
LONG_S = 60.0


class FakeConnection:
    """One that can be told to be dead."""

    def __init__(self) -> None:
        self.alive = True
        self.kept_alive = False

    def isAlive(self) -> bool:
        return self.alive

    def setKeepAlive(self, interval_s: int, count: int) -> None:
        self.kept_alive = True


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


@pytest.fixture
def library(connection: FakeConnection) -> FakeLibrary:
    return FakeLibrary({URI: connection})


@pytest.fixture
def link(library: FakeLibrary) -> Link:
    return Link(HOST, library)


@pytest.fixture
def hang() -> Iterator[threading.Event]:
    """What calls wait for that hang, until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_one_connection_serves_all_visits(link: Link, library: FakeLibrary, connection: FakeConnection) -> None:
    """It is opened by the first, and notices when its peer is gone."""
    assert [link.visit(lambda conn: conn is connection, LONG_S) for _ in range(3)] == [True] * 3
    assert library.opened == [URI]
    assert connection.kept_alive


def test_a_connection_that_broke_is_opened_again(link: Link, library: FakeLibrary, connection: FakeConnection) -> None:
    """At the next visit."""
    link.visit(lambda _: None, LONG_S)
    connection.alive = False
    library.connections[URI] = FakeConnection()
    assert link.visit(lambda conn: conn is not connection, LONG_S) is True
    assert library.opened == [URI] * 2


def test_a_host_that_is_down_is_unreachable_until_it_is_up(link: Link, library: FakeLibrary) -> None:
    """With libvirt's words and the host's name; then the next visit succeeds."""
    up = library.connections[URI]
    library.connections[URI] = FakeLibvirtError("connection\nrefused", code=38, domain=7)
    with pytest.raises(Unreachable, match="hv1: connection refused") as raised:
        link.visit(lambda _: None, LONG_S)
    assert (raised.value.host_id, raised.value.retryable, raised.value.acted) == ("hv1", True, False)
    library.connections[URI] = up
    assert link.visit(lambda _: 7, LONG_S) == 7


def test_a_call_that_hangs_costs_its_deadline_and_its_connection(
    link: Link, library: FakeLibrary, hang: threading.Event
) -> None:
    """The next visit has a connection of its own and is not held up."""
    with pytest.raises(Unreachable, match="no answer within"):
        link.visit(lambda _: hang.wait(), 0.05)
    assert link.visit(lambda _: 7, LONG_S) == 7
    assert library.opened == [URI] * 2


def test_an_opening_that_hangs_holds_up_nobody_else(library: FakeLibrary, hang: threading.Event) -> None:
    """A visit that waits for a connection is as late as one that has it."""

    class Slow(FakeLibrary):
        def open(self, uri: str) -> Any:
            if not self.opened:
                self.opened.append(uri)
                hang.wait()
            return super().open(uri)

    link = Link(HOST, Slow(library.connections))
    with pytest.raises(Unreachable):
        link.visit(lambda _: None, 0.05)
    assert link.visit(lambda _: 7, LONG_S) == 7


def test_no_more_than_some_threads_hang_on_one_host(link: Link, hang: threading.Event) -> None:
    """Further visits are refused at once; when the calls return, visits go on."""
    visits = [link.begin(lambda _: hang.wait()) for _ in range(_MAX_LATE)]
    for visit in visits:
        with pytest.raises(Unreachable):
            link.end(visit, Deadline(0.0))
    with pytest.raises(Unreachable, match=f"{_MAX_LATE} earlier calls still hang"):
        link.visit(lambda _: None, LONG_S)
    hang.set()
    assert all(visit.running.wait(LONG_S) for visit in visits)
    assert link.visit(lambda _: 7, LONG_S) == 7


def test_a_closed_link_opens_nothing(link: Link, library: FakeLibrary, hang: threading.Event) -> None:
    """A visit that is under way keeps its connection."""
    visit = link.begin(lambda conn: (hang.wait(), conn.isAlive())[1])
    while not library.opened:
        time.sleep(0.001)
    link.close()
    link.close()
    with pytest.raises(Unreachable, match="closed"):
        link.visit(lambda _: None, LONG_S)
    hang.set()
    assert link.end(visit, Deadline(LONG_S)) is True


@pytest.mark.parametrize(
    ("code", "domain", "is_alive", "kind"),
    [
        (42, 10, True, NotFound),
        (55, 10, True, Refused),
        (1, 10, True, Refused),
        (78, 10, True, Refused),
        (68, 10, True, Busy),
        (87, 10, True, Busy),
        (38, 7, True, Unreachable),
        (39, 13, True, Unreachable),
        (45, 7, True, Unreachable),
        (1, 10, False, Unreachable),
        (42, 10, False, Unreachable),
    ],
)
def test_errors_say_whether_to_try_again(code: int, domain: int, is_alive: bool, kind: type[DriverError]) -> None:
    """By libvirt's code, and by whether the connection still stands."""
    error = translated(
        FakeLibvirtError("no such luck", code=code, domain=domain), host_id="hv1", uuid="u", is_alive=is_alive
    )
    assert type(error) is kind
    assert (str(error), error.host_id, error.uuid) == ("hv1: no such luck", "hv1", "u")


def test_the_codes_are_libvirts() -> None:
    """Those that stand in our code are those of the library."""
    library = load_libvirt()
    codes = {
        "NO_SUPPORT": 3,
        "RPC": 39,
        "NO_DOMAIN": 42,
        "AUTH_FAILED": 45,
        "OPERATION_INVALID": 55,
        "OPERATION_TIMEOUT": 68,
        "AUTH_CANCELLED": 79,
        "RESOURCE_BUSY": 87,
        "AUTH_UNAVAILABLE": 94,
    }
    assert {name: getattr(library, f"VIR_ERR_{name}") for name in codes} == codes
    assert library.VIR_FROM_RPC == 7
    assert (library.VIR_DOMAIN_CONTROL_OCCUPIED, library.VIR_DOMAIN_CONTROL_ERROR) == (2, 3)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra that brings it."""
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(ConfigError, match=r"fallow\[libvirt\]"):
        load_libvirt()


def test_events_have_one_thread_however_often_libvirt_is_loaded() -> None:
    """A second loop beside the first would take its events."""
    for _ in range(3):
        load_libvirt()
    assert [thread.name for thread in threading.enumerate()].count("libvirt-events") == 1


def test_work_in_a_thread_hands_back_what_it_raised() -> None:
    """As often as it is asked."""

    def fail() -> None:
        raise Busy("no")

    running = Running(fail, name="test")
    assert running.wait(LONG_S) is True
    for _ in range(2):
        with pytest.raises(Busy):
            running.result()
