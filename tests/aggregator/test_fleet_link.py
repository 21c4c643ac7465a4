"""The way to the fleet database: one question at a time, nothing waits for it, and a change is told once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher

from agent.settings import ConfigError
from aggregator.fleet_link import FAREWELL_S, PATIENCE_S, RETRY_S, FleetLink, in_daemon_thread
from aggregator.listen_settings import ListenSettings, TlsFiles
from aggregator.node_row import Node, NodeTable
from aggregator.node_state import NodeState
from aggregator.nodes import BEAT_S, NodeNameTakenError, Nodes, Told
from aggregator.own_node import OwnNode, admin_url
from tests.aggregator.node_fakes import NOW_S, node

AWAY = sa.exc.OperationalError("SELECT 1", {}, Exception("connection refused\n\tIs the server running?"))
PLAIN = ListenSettings()
TLS = ListenSettings(tls=TlsFiles(cert=Path("c"), key=Path("k")))


@dataclass
class FakeNodes:
    """A table `node` that is away, or hangs, when a test says so."""

    error: Exception | None = None
    told: list[tuple[str, Node]] = field(default_factory=list)

    def check_name(self, _name: str, _starts: frozenset[float], _now_s: float) -> None:
        self._fail()

    def register(self, told: Node, _starts: frozenset[float]) -> Told:
        self._fail()
        self.told.append(("register", told))
        return Told(node=told, table=NodeTable(nodes=(told,), now_s=told.seen_s), is_new=True)

    def beat(self, told: Node) -> Told:
        self._fail()
        self.told.append(("beat", told))
        return Told(node=told, table=NodeTable(nodes=(told,), now_s=told.seen_s), is_new=False)

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


class Bench:
    """A link over fakes, whose questions are answered at once unless they are held back."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.nodes = FakeNodes()
        self.prepared = 0
        self.opened: list[Sequence[str]] = []
        self.learned: list[Told] = []
        self.is_held = False
        self.held: list[Callable[[], None]] = []
        self.me = OwnNode(
            "agg-1",
            data_dir=folder,
            started_s=NOW_S,
            clock=lambda: NOW_S + self.clock.seconds(),
            not_ready=lambda: None,
            vms=lambda: 5,
            owed=lambda: 2,
        )
        self.link = FleetLink(
            cast(Nodes, self.nodes),
            self.me,
            starts=frozenset({NOW_S}),
            prepare=self.prepare,
            on_open=self.opened.append,
            on_told=self.learned.append,
            in_thread=self.in_thread,
            reactor=self.clock,
        )

    def prepare(self) -> list[str]:
        self.prepared += 1
        if self.nodes.error is not None:
            raise self.nodes.error
        return ["a", "b"]

    def in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        if not self.is_held:
            return maybeDeferred(work)
        done: Deferred[Any] = Deferred()

        def answer() -> None:
            maybeDeferred(work).chainDeferred(done)

        self.held.append(answer)
        return done

    def release(self) -> None:
        """Answers what was held back."""
        self.is_held = False
        held, self.held = self.held, []
        for answer in held:
            answer()

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.nodes.told]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Lines of the log at warning and above, and what says that something is well again."""
    lines: list[str] = []

    def note(event: LogEvent) -> None:
        if event.get("log_namespace", "").startswith("aggregator.fleet_link"):
            lines.append(str(formatEvent(event)))

    observer = cast(ILogObserver, note)
    globalLogPublisher.addObserver(observer)
    yield lines
    globalLogPublisher.removeObserver(observer)


def test_a_node_registers_and_tells_of_itself_now_and_then(bench: Bench) -> None:
    """Ready at the start, it is asked for nothing twice; a row every BEAT_S with what is so then."""
    assert bench.link.open(NOW_S) == ["a", "b"]
    bench.link.start()
    bench.clock.pump([BEAT_S] * 3)
    assert (bench.prepared, bench.opened) == (1, [])
    assert bench.kinds() == ["register", "beat", "beat", "beat"]
    last = bench.nodes.told[-1][1]
    assert (last.node, last.state, last.seen_s, last.vms, last.owed) == ("agg-1", NodeState.UP, NOW_S + 30.0, 5, 2)
    assert (last.free_bytes or 0) > 0
    assert [(told.node.seen_s, told.is_new) for told in bench.learned[:2]] == [(NOW_S, True), (NOW_S + BEAT_S, False)]


def test_row_36_a_database_that_is_away_is_tried_until_it_answers(bench: Bench, logged: list[str]) -> None:
    """Not open before it was of this schema; known VMs are told then; each change is one line without a traceback."""
    bench.nodes.error = AWAY
    with pytest.raises(sa.exc.OperationalError):
        bench.link.open(NOW_S)
    bench.link.start()
    bench.clock.pump([RETRY_S] * 5)
    assert (bench.link.is_open, bench.opened, bench.prepared) == (False, [], 7)
    assert bench.link.trouble == "connection refused Is the server running?"
    bench.nodes.error = None
    bench.clock.advance(RETRY_S)
    assert bench.link.is_open
    assert bench.link.trouble is None
    assert bench.opened == [["a", "b"]]
    bench.clock.advance(0)
    assert bench.kinds() == ["register"]
    assert len(logged) == 2
    assert "pushes are taken, summaries wait" in logged[0]
    assert logged[1] == "the fleet database answers again"


def test_row_36_a_database_that_hangs_is_asked_once(bench: Bench, logged: list[str]) -> None:
    """However long: one question is under way, the trouble is told, and its answer ends it."""
    bench.link.open(NOW_S)
    bench.link.start()
    bench.is_held = True
    bench.clock.pump([1.0] * 600)
    assert len(bench.held) == 1
    assert bench.link.trouble == f"no answer in {PATIENCE_S:g} s"
    bench.link.tell()
    assert len(bench.held) == 1
    before = len(bench.nodes.told)
    bench.release()
    assert bench.link.trouble is None
    # What was told meanwhile is not left to the next beat.
    bench.clock.advance(0)
    assert len(bench.nodes.told) == before + 2
    assert len(logged) == 2


def test_a_newer_schema_found_late_stops_nothing(bench: Bench) -> None:
    """Pushes are journalled; the database is not written until its schema is one that may be."""
    bench.nodes.error = AWAY
    with pytest.raises(sa.exc.OperationalError):
        bench.link.open(NOW_S)
    bench.nodes.error = ConfigError("fleet: has schema 0009, newer than the 0003 of this program")
    bench.link.start()
    bench.clock.pump([RETRY_S] * 3)
    assert not bench.link.is_open
    assert "newer than the 0003" in (bench.link.trouble or "")


def test_another_of_the_same_name_is_told_once(bench: Bench, logged: list[str]) -> None:
    """It is an error of the fleet, not of the database; over when the other is away."""
    bench.link.open(NOW_S)
    bench.link.start()
    bench.nodes.error = NodeNameTakenError(node(admin_url="https://elsewhere:8900"))
    bench.clock.pump([BEAT_S, RETRY_S, RETRY_S])
    assert (bench.link.is_named_twice, bench.link.trouble, bench.link.is_open) == (True, None, True)
    assert len(logged) == 1
    assert "https://elsewhere:8900" in logged[0]
    bench.nodes.error = None
    bench.clock.advance(RETRY_S)
    assert not bench.link.is_named_twice
    assert len(logged) == 2


def test_a_change_is_told_at_once(bench: Bench) -> None:
    """Whoever drains does not wait for the next beat."""
    bench.link.open(NOW_S)
    bench.link.start()
    bench.me.is_draining = True
    bench.link.tell()
    assert bench.nodes.told[-1][1].state is NodeState.DRAINING
    bench.link.tell()
    bench.clock.advance(BEAT_S)
    assert bench.kinds() == ["register", "beat", "beat", "beat"]


def test_goodbye_is_the_last_word(bench: Bench) -> None:
    """It comes after what is under way, and nothing comes after it."""
    bench.link.open(NOW_S)
    bench.link.start()
    bench.is_held = True
    bench.link.tell()
    gone = bench.link.stop()
    assert not gone.called
    bench.release()
    assert gone.called
    bench.clock.pump([BEAT_S] * 3)
    assert [told.state for _, told in bench.nodes.told[-2:]] == [NodeState.UP, NodeState.STOPPED]
    assert bench.clock.getDelayedCalls() == []


def test_goodbye_does_not_hold_up_the_exit(bench: Bench) -> None:
    """A database that hangs gets FAREWELL_S, and one that was never told gets nothing."""
    bench.link.open(NOW_S)
    bench.link.start()
    bench.is_held = True
    gone = bench.link.stop()
    bench.clock.advance(FAREWELL_S - 0.01)
    assert not gone.called
    bench.clock.advance(0.02)
    assert gone.called
    bench.release()
    assert bench.clock.getDelayedCalls() == []


def test_a_stop_before_the_start_says_nothing(bench: Bench) -> None:
    """There is no row to change."""
    bench.link.open(NOW_S)
    assert bench.link.stop().called
    assert bench.nodes.told == []


def test_what_opens_after_the_stop_is_not_told(bench: Bench) -> None:
    """The parts that would be told are gone."""
    bench.is_held = True
    bench.link.start()
    gone = bench.link.stop()
    bench.release()
    assert gone.called
    assert bench.opened == bench.nodes.told == []
    assert bench.clock.getDelayedCalls() == []


def test_a_stop_while_it_registers_is_told_too(bench: Bench) -> None:
    """Or the node would seem to run for a minute."""
    bench.link.open(NOW_S)
    bench.is_held = True
    bench.link.start()
    gone = bench.link.stop()
    bench.release()
    assert gone.called
    assert [(kind, told.state) for kind, told in bench.nodes.told] == [
        ("register", NodeState.UP),
        ("beat", NodeState.STOPPED),
    ]


@pytest.mark.real
def test_a_thread_that_hangs_keeps_no_program_alive() -> None:
    """What a database holds up ends with the program; what it answers or raises comes back to the reactor."""
    called: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    class Reactor:
        def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
            called.append((call, arguments))

    release = threading.Event()
    in_daemon_thread(Reactor(), release.wait)
    (hanging,) = [thread for thread in threading.enumerate() if thread.name == "fleet-link"]
    assert hanging.daemon
    release.set()
    hanging.join()
    lost: list[Any] = []

    def fails() -> None:
        raise OSError("away")

    in_daemon_thread(Reactor(), fails).addErrback(lost.append)
    for thread in threading.enumerate():
        if thread.name == "fleet-link":
            thread.join()
    for call, arguments in called:
        call(*arguments)
    assert [str(failure.value) for failure in lost] == ["away"]


@pytest.mark.parametrize(
    ("host", "settings", "url"),
    [
        ("127.0.0.1", PLAIN, "http://127.0.0.1:8900"),
        ("::1", PLAIN, "http://[::1]:8900"),
        ("localhost", TLS, "http://localhost:8900"),
        ("10.0.0.1", TLS, "https://10.0.0.1:8900"),
        ("agg1.example", TLS, "https://agg1.example:8900"),
        ("2001:db8::1", TLS, "https://[2001:db8::1]:8900"),
        ("0.0.0.0", TLS, "https://here:8900"),
        ("::", TLS, "https://here:8900"),
        ("10.0.0.1", ListenSettings(plain_behind_proxy=True), None),
    ],
)
def test_where_an_admin_door_is_reached(host: str, settings: ListenSettings, url: str | None) -> None:
    """As the door speaks: plain on loopback, else TLS; a proxy alone knows where it is reached."""
    assert admin_url(host, 8900, settings, host_name=lambda: "here") == url
