"""When and in which order parts of histories are taken in, over fakes: no socket, no worker, no database."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from aggregator.admin_client import AdminAnswer, AdminUnavailable
from aggregator.joiner import Joiner
from aggregator.part_file import Joined
from aggregator.part_turns import PartTurns
from aggregator.parts import DuePart, Round
from aggregator.summary import Summary
from aggregator.worker_process import join_part, settle_part
from tests.aggregator.flush_fakes import NOW_S, summary

T = TypeVar("T")
BODY = b"a store"
TAG = "0" * 32
MARK = 7


def problem(status: int, reason: str) -> AdminAnswer:
    """What a node answers that refuses."""
    return AdminAnswer(status=status, body=json.dumps({"type": f"urn:x:{reason}", "detail": "why"}).encode())


THERE = AdminAnswer(status=200, body=BODY, etag=TAG)
GONE = AdminAnswer(status=204, body=b"")
NOTHING = problem(404, "no-part")


@dataclass
class Fleet:
    """Nodes, workers and database of one joiner; `events` has what they were asked, in order.

    Attributes:
        kept: VM -> what its node answers to GET and DELETE; what it does not have is THERE and GONE.
        joined, settled: what the workers make of any VM.
        held: work in threads that waits for `let_go`, if there is a list.
    """

    due: list[DuePart] = field(default_factory=list)
    events: list[tuple[object, ...]] = field(default_factory=list)
    notes: dict[str, str | None] = field(default_factory=dict)
    kept: dict[str, dict[str, AdminAnswer]] = field(default_factory=dict)
    unreachable: set[str] = field(default_factory=set)
    joined: Joined = field(default_factory=lambda: Joined(summary("x"), inserted=5))
    settled: Joined = field(default_factory=lambda: Joined(summary("x")))
    known: set[str] = field(default_factory=set)
    learned: set[str] = field(default_factory=set)
    database_fails: bool = False
    write_fails: bool = False
    held: list[Callable[[], None]] | None = None
    now_s: float = NOW_S
    turns: PartTurns = field(default_factory=PartTurns)

    def __post_init__(self) -> None:
        self.joiner = Joiner(
            parts=self,
            connect=self.connect,
            workers=self,
            flusher=self,
            written=self.write,
            turns=self.turns,
            in_thread=self.in_thread,
            call_in_reactor=lambda call, *arguments: call(*arguments),
            clock=lambda: self.now_s,
            after_s=3600.0,
        )

    def round(self) -> None:
        """One round from its beginning to its end."""
        ended: list[object] = []
        self.joiner.round().addBoth(ended.append)
        assert ended == [None]

    def asked(self, *names: str) -> list[tuple[object, ...]]:
        return [event for event in self.events if event[0] in names]

    # The database.

    def look(self, *, now_s: float, after_s: float, limit: int, but: Collection[str] = ()) -> Round:
        self.events.append(("look", tuple(but)))
        if self.database_fails:
            raise ConnectionError("the database is away")
        due = [part for part in self.due if part.node not in but]
        return Round(due=due[:limit], waiting=len(self.due), away={})

    def note(self, vm_id: str, holder: str, why: str | None) -> None:
        self.notes[vm_id] = why

    def write(self, written: Summary, of: Mapping[str, int]) -> Deferred[None]:
        self.events.append(("write", *of))
        assert set(of.values()) == {MARK}
        if self.write_fails:
            return fail(ConnectionError("the database is away"))
        self.due = [part for part in self.due if part.node not in of]
        return succeed(None)

    # The nodes.

    def connect(self, _node: str, url: str) -> NodeDoor:
        return NodeDoor(self, url)

    # The workers.

    def call(self, vm_id: str, work: Any, done: Callable[[Any], None], failed: Callable[[str], None]) -> None:
        self.events.append((work.func.__name__, *work.args))
        done(self.joined if work.func is join_part else self.settled)
        assert work.func in (join_part, settle_part)

    def know(self, vm_ids: Iterable[str]) -> None:
        self.learned.update(vm_ids)

    def knows(self, vm_id: str) -> bool:
        return vm_id in self.known

    def life_of(self, vm_id: str) -> int:
        return 5 if vm_id in self.known else 0

    # Threads.

    def in_thread(self, work: Callable[[], T]) -> Deferred[T]:
        done: Deferred[T] = Deferred()

        def run() -> None:
            try:
                done.callback(work())
            except Exception:
                done.errback()

        run() if self.held is None else self.held.append(run)
        return done

    def let_go(self) -> None:
        """Does what waits in threads."""
        waiting, self.held = self.held or [], []
        for run in waiting:
            run()


@dataclass
class NodeDoor:
    fleet: Fleet
    url: str

    def get(self, target: str) -> AdminAnswer:
        return self._answer("get", target, THERE)

    def delete(self, target: str, *, etag: str) -> AdminAnswer:
        assert etag == TAG
        return self._answer("delete", target, GONE)

    def _answer(self, method: str, target: str, usual: AdminAnswer) -> AdminAnswer:
        self.fleet.events.append((method, self.url + target))
        if self.url in self.fleet.unreachable or f"{method} {self.url}" in self.fleet.unreachable:
            raise AdminUnavailable("nothing listens there")
        return self.fleet.kept.get(target.split("/")[3], {}).get(method, usual)


def part(vm_id: str, node: str = "b") -> DuePart:
    return DuePart(vm_id, node, f"http://{node}", MARK)


def test_part_is_read_joined_deleted_and_told_of() -> None:
    """In this order; the summary that is written was made after the last step that could change the store."""
    fleet = Fleet([part("vm-1")])
    fleet.round()
    target = "http://b/v1/vms/vm-1/part?node=b"
    assert fleet.events == [
        ("look", ()),
        ("get", target),
        ("join_part", "vm-1", "b", BODY, False, 0),
        ("delete", target),
        ("settle_part", "vm-1", "b", False, 0),
        ("write", "b"),
    ]
    assert (fleet.joiner.totals.joined, fleet.joiner.totals.failed, fleet.joiner.totals.inserted) == (1, 0, 5)
    assert fleet.joiner.totals.waiting == 0


def test_workers_learn_of_what_was_stored_before() -> None:
    """A store that had rows and is gone must not pass for a new one."""
    fleet = Fleet([part("vm-1")], known={"vm-1"})
    fleet.round()
    assert fleet.asked("join_part", "settle_part") == [
        ("join_part", "vm-1", "b", BODY, True, 5),
        ("settle_part", "vm-1", "b", True, 5),
    ]


def test_part_that_is_not_there_is_done() -> None:
    """The answer to an earlier deletion was lost, or a crash came after it: only the telling is left."""
    fleet = Fleet([part("vm-1")], kept={"vm-1": {"get": NOTHING}})
    fleet.round()
    assert [name for name, *_ in fleet.events] == ["look", "get", "settle_part", "write"]


@pytest.mark.parametrize("status", [404, 403])
def test_other_refusals_are_not_taken_for_an_absent_part(status: int) -> None:
    """A node of another version, or another program, that does not know the path has not lost the part."""
    fleet = Fleet([part("vm-1")], kept={"vm-1": {"get": problem(status, "not-found")}})
    fleet.round()
    assert fleet.asked("settle_part", "write") == []
    assert fleet.notes == {"vm-1": f"b answered {status} not-found: why"}


@pytest.mark.parametrize(
    ("answer", "is_usual"),
    [
        (problem(409, "not-stored-yet"), True),
        (problem(412, "changed"), True),
        (problem(409, "home-here"), True),
        (problem(421, "other-node"), False),
    ],
)
def test_part_that_is_not_deleted_stays_noted(answer: AdminAnswer, is_usual: bool) -> None:
    """Until its node has let it go there are two: no whole summary, a reason, and another try after a pause."""
    fleet = Fleet([part("vm-1")], kept={"vm-1": {"delete": answer}})
    fleet.round()
    assert fleet.asked("settle_part", "write") == []
    assert str(fleet.notes["vm-1"]).startswith(f"b answered {answer.status}")
    assert fleet.joiner.totals.failed == (0 if is_usual else 1)
    fleet.kept.clear()
    fleet.round()
    assert len(fleet.asked("get")) == 1
    fleet.now_s += 61
    fleet.round()
    assert fleet.joiner.totals.joined == 1


def test_pauses_grow_and_end() -> None:
    """What fails again and again is tried at ever longer intervals, up to half an hour; success forgets all that."""
    fleet = Fleet([part("vm-1")], joined=Joined(problem="it is not sound"))
    tries: list[float] = []
    for _ in range(12 * 60):
        before = len(fleet.asked("get"))
        fleet.round()
        if len(fleet.asked("get")) > before:
            tries.append(fleet.now_s)
        fleet.now_s += 60.0
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses[:6] == [60.0, 120.0, 240.0, 480.0, 960.0, 1800.0]
    assert set(pauses[6:]) == {1800.0}
    assert fleet.asked("delete") == []
    assert fleet.notes == {"vm-1": "it is not sound"}


def test_clock_that_is_set_back_prolongs_no_pause() -> None:
    """A year back, and the next round tries again."""
    fleet = Fleet([part("vm-1")], joined=Joined(problem="it is not sound"))
    fleet.round()
    fleet.now_s -= 365 * 86_400.0
    fleet.round()
    assert len(fleet.asked("get")) == 2


def test_row_35_node_that_does_not_answer_is_left_alone() -> None:
    """Its other parts are not asked for in this round, nor it at all in those of the next minute; others are."""
    fleet = Fleet([part(f"vm-{number}") for number in range(20)] + [part("vm-x", "c")], unreachable={"http://b"})
    fleet.round()
    assert len(fleet.asked("get")) <= 5
    assert fleet.joiner.totals.joined == 1
    fleet.round()
    assert fleet.asked("look")[-1] == ("look", ("b",))
    fleet.unreachable.clear()
    fleet.now_s += 61
    fleet.due = [part("vm-19")]
    fleet.round()
    assert fleet.joiner.totals.joined == 2


def test_lost_answer_to_a_deletion_is_made_up_for() -> None:
    """Nobody knows whether the part is gone: asked again, it is not there, and that is the end of it."""
    fleet = Fleet([part("vm-1")], unreachable={"delete http://b"})
    fleet.round()
    assert fleet.asked("write") == []
    fleet.unreachable.clear()
    fleet.kept = {"vm-1": {"get": NOTHING}}
    fleet.now_s += 61
    fleet.round()
    assert fleet.asked("write") == [("write", "b")]


def test_row_36_telling_is_made_up_for() -> None:
    """A database that goes away when all is joined keeps the note of the part: the next try only tells."""
    fleet = Fleet([part("vm-1")], write_fails=True)
    fleet.round()
    assert fleet.joiner.totals.joined == 0
    assert fleet.notes == {"vm-1": "ConnectionError: the database is away"}
    fleet.write_fails = False
    fleet.kept = {"vm-1": {"get": NOTHING}}
    fleet.now_s += 61
    fleet.round()
    assert fleet.joiner.totals.joined == 1


def test_vm_that_was_given_away_since_the_look_is_left_alone() -> None:
    """A newer home has its store: to join a part here would begin another, of which nobody knows."""
    fleet = Fleet([part("vm-1"), part("vm-2")], held=[])
    fleet.joiner.tick()
    assert fleet.turns.give("vm-1")
    while fleet.held:
        fleet.let_go()
    assert [name for name, *_ in fleet.events] == ["look", "get", "join_part", "delete", "settle_part", "write"]
    assert fleet.notes == {}
    # Nothing stays in hand.
    assert fleet.turns.give("vm-2")


def test_store_that_is_joined_into_is_in_hand_until_that_is_told() -> None:
    """From the first question to the last write."""
    fleet = Fleet([part("vm-1")], held=[])
    fleet.joiner.tick()
    fleet.let_go()
    while fleet.held:
        assert not fleet.turns.give("vm-1")
        fleet.let_go()
    assert fleet.turns.give("vm-1")


def test_row_36_nothing_is_begun_without_a_database() -> None:
    """A round that cannot look does nothing, and the next one looks again."""
    fleet = Fleet([part("vm-1")], database_fails=True)
    ended: list[Any] = []
    fleet.joiner.round().addBoth(ended.append)
    assert isinstance(ended[0].value, ConnectionError)
    assert fleet.events == [("look", ())]
    fleet.joiner.tick()
    assert fleet.events == [("look", ()), ("look", ())]


def test_store_without_rows_is_not_told_of() -> None:
    """The VM's newest samples are still in memory here: there is no summary to write, and the note stays."""
    fleet = Fleet([part("vm-1")], settled=Joined())
    fleet.round()
    assert fleet.asked("write") == []
    assert "not stored here yet" in str(fleet.notes["vm-1"])
    assert fleet.joiner.totals.failed == 0


def test_address_that_may_not_be_asked_is_a_problem_of_its_parts() -> None:
    """Plain text to another machine: the token stays here, and the note says why."""
    fleet = Fleet([part("vm-1")])

    def refuse(_node: str, url: str) -> NodeDoor:
        raise ValueError(f"{url} is plain text")

    fleet.joiner._connect = refuse
    fleet.round()
    assert fleet.notes == {"vm-1": "ValueError: http://b is plain text"}


def test_four_vms_at_once_and_each_in_turn() -> None:
    """Several VMs share the waiting; two parts of one VM are never on their way together."""
    due = [part(f"vm-{number}", node) for number in range(9) for node in ("b", "c")]
    fleet = Fleet(due, held=[])
    ended: list[object] = []
    fleet.joiner.round().addBoth(ended.append)
    fleet.let_go()
    seen = 0
    while not ended:
        asked = fleet.asked("get")[seen:]
        assert len(fleet.held or []) <= 4
        assert len({str(target).split("/")[5] for _, target in asked}) == len(asked)
        seen += len(asked)
        fleet.let_go()
    assert fleet.joiner.totals.joined == 18


def test_fleet_that_moved_at_once_is_joined_without_a_pause() -> None:
    """More than one look finds: the next one follows at once, as long as that leads anywhere."""
    fleet = Fleet([part(f"vm-{number:04}", f"n{number}") for number in range(4_500)])
    fleet.round()
    assert (fleet.joiner.totals.joined, len(fleet.asked("look"))) == (4_500, 3)
    fleet = Fleet([part(f"vm-{number:04}", f"n{number}") for number in range(4_500)], write_fails=True)
    fleet.round()
    assert (fleet.joiner.totals.joined, len(fleet.asked("look"))) == (0, 1)


def test_round_that_runs_is_not_begun_twice() -> None:
    """A slow round makes the next one wait for its turn, and so does one that failed not."""
    fleet = Fleet([part("vm-1")], held=[])
    fleet.joiner.tick()
    fleet.joiner.tick()
    while fleet.held:
        fleet.let_go()
    assert len(fleet.asked("look")) == 1
    fleet.held = None
    fleet.joiner.tick()
    assert len(fleet.asked("look")) == 2


def test_stopped_joiner_begins_nothing() -> None:
    """Amid a part it goes no further: neither the store nor the other node is touched any more."""
    fleet = Fleet([part("vm-1"), part("vm-2")], held=[])
    fleet.joiner.tick()
    fleet.let_go()
    fleet.joiner.stop()
    while fleet.held:
        fleet.let_go()
    assert fleet.asked("join_part", "delete", "write") == []
    assert fleet.notes == {}
    fleet.joiner.tick()
    assert len(fleet.asked("look")) == 1
