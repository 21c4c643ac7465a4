"""A fleet under the test's hand: each node's flusher, queue, writer, joiner and giver are real, stores and threads not.

Whatever a node has others do, in a worker, in a thread or at another node, is a job. A job is done in one step and told
of in another, so that a node may end between the two.
"""

from __future__ import annotations

import json
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from aggregator.admin_client import AdminAnswer, AdminUnavailable
from aggregator.bequest import Bequest
from aggregator.bequest_table import BequestTable
from aggregator.buffer import Buffer
from aggregator.catalogue import Catalogue
from aggregator.decode import Push
from aggregator.fleet import node as node_table
from aggregator.fleet import vm, vm_evidence, vm_part, vm_summary
from aggregator.fleet_db import FILE_NAME, SCHEMA_REVISION, migrate, open_fleet
from aggregator.flush import Flusher
from aggregator.forgetting import Forgetting
from aggregator.generations import insert_into
from aggregator.giver import Giver
from aggregator.homes import Whole
from aggregator.joiner import Joiner
from aggregator.lives import first_of, life_of
from aggregator.part_file import Dropped, Joined, StorePart
from aggregator.part_turns import PartTurns
from aggregator.parts import Parts
from aggregator.pending import PendingSummaries
from aggregator.pool import ChunkDone
from aggregator.problems import Refused
from aggregator.summaries import SummaryWriter
from aggregator.summary import ChunkResult, Heard, LostStore, Summary, Taken
from aggregator.summary_queue import QueueLimits, SummaryQueue
from aggregator.tokens import Revocations
from aggregator.worker_process import drop_forgotten, drop_part, join_part, settle_part
from tests.aggregator.flush_fakes import NOW_S, TS, push, summary, times_of

_AWAY = sa.exc.OperationalError("COMMIT", None, ConnectionError("the database does not answer"))


@dataclass(eq=False)
class Job:
    """Work for `node` that somebody else does; `done` is told of what came of it, in its second step."""

    node: Node
    work: Callable[[], Any]
    done: Callable[[Any], None]
    is_worked: bool = False
    outcome: Any = None


@dataclass
class Journal:
    """Pushes by segment, as the disk has them."""

    segments: dict[int, list[Push]] = field(default_factory=lambda: {1: []})

    def append(self, one: Push) -> None:
        self.segments[max(self.segments)].append(one)

    def rotate(self, done: Callable[[int], None]) -> None:
        newest = max(self.segments)
        self.segments[newest + 1] = []
        done(newest)

    def drop_through(self, segment: int) -> None:
        for number in [number for number in self.segments if number <= segment]:
            del self.segments[number]


class Node:
    """One aggregator; `begin` is a start of it, with nothing but what its disk and the fleet database hold.

    Attributes:
        stores: VM -> times of its rows.
        lives: VM -> life that its store holds.
        cache: revocations as they were read last, on disk.
        lost: VMs whose store it missed.
    """

    def __init__(self, fleet: FleetModel, name: str) -> None:
        self.fleet = fleet
        self.name = name
        self.journal = Journal()
        self.stores: dict[str, set[int]] = {}
        self.lives: dict[str, int] = {}
        self.cache = Revocations()
        self.lost: set[str] = set()
        self.workers: deque[Job] = deque()
        self.requests: list[Deferred[AdminAnswer]] = []
        self.is_leaving = False
        self.begin()

    def begin(self) -> None:
        """A start: memory is empty, the journal is replayed."""
        fleet = self.fleet
        self.writer = SummaryWriter(fleet.engine, self.name, make_mark=fleet.next_mark)
        self.buffer = Buffer(max_rows=10_000, on_new_life=self._came_back)
        self.queue = SummaryQueue(
            self,
            in_thread=self.in_thread,
            call_later=self.call_later,
            clock=fleet.clock,
            limits=QueueLimits(batch_vms=2, away_batch_vms=1, joined_batch_vms=2),
        )
        self.flusher = Flusher(
            buffer=self.buffer,
            journal=self.journal,
            workers=self,
            summaries=self.queue,
            pending=PendingSummaries(fleet.directory / f"{self.name}.pending"),
            call_in_reactor=lambda call, *arguments: call(*arguments),
            clock=fleet.clock,
            known_vms=self.writer.known_vms(),
            turns=2,
        )
        if not fleet.is_away:
            self.cache = Catalogue(fleet.engine).revocations()
        self.forgetting = Forgetting(
            self.cache,
            buffer=self.buffer,
            flusher=self.flusher,
            workers=self,
            with_store=lambda vm_ids: [vm_id for vm_id in vm_ids if vm_id in self.stores],
            in_thread=self.in_thread,
            call_in_reactor=lambda call, *arguments: call(*arguments),
        )
        parts, turns = Parts(fleet.engine, self.name), PartTurns()
        self.joiner = Joiner(
            parts=parts,
            connect=lambda name, _url: Door(self, fleet.nodes[name]),
            workers=self,
            flusher=self.flusher,
            written=self.queue.joined,
            turns=turns,
            in_thread=self.in_thread,
            call_in_reactor=lambda call, *arguments: call(*arguments),
            clock=fleet.clock,
            after_s=0.0,
        )
        self.giver = Giver(
            name=self.name,
            store_path=Path,
            home_of=parts.home_of,
            buffer=self.buffer,
            flusher=self.flusher,
            workers=self,
            turns=turns,
            in_thread=self.in_thread,
            call_in_reactor=lambda call, *arguments: call(*arguments),
        )
        self.bequest = Bequest(
            BequestTable(fleet.engine, self.name, self.writer),
            is_leaving=lambda: self.is_leaving,
            buffer=self.buffer,
            flusher=self.flusher,
            with_store=lambda vm_ids: [vm_id for vm_id in vm_ids if vm_id in self.stores],
            in_thread=self.in_thread,
            clock=fleet.clock,
        )
        for segment in sorted(self.journal.segments):
            for one in self.journal.segments[segment]:
                self.buffer.add(one, fleet.clock())
        self.forgetting.start()

    def _came_back(self, vm_id: str, life: int) -> None:
        self.forgetting.came_back(vm_id, life)

    def crash(self) -> None:
        """Ends where it stands: what others do for it may be done, and nobody hears of it."""
        self.fleet.jobs = [job for job in self.fleet.jobs if job.node is not self]
        self.workers.clear()
        if self.is_leaving:
            self.leave(wanted=False)
        asking, self.requests = self.requests, []
        self.begin()
        for request in asking:
            if not request.called:
                request.errback(AdminUnavailable("it ended"))

    def leave(self, *, wanted: bool) -> None:
        """It is to be taken out for good, or not."""
        self.is_leaving = wanted
        told = {"is_leaving": wanted, "state": "draining" if wanted else "up"}
        with self.fleet.engine.begin() as connection:
            connection.execute(sa.update(node_table).where(node_table.c.node == self.name).values(told))

    def push(self, vm_id: str, minute: int, life: int) -> bool:
        """A sample that may be acknowledged; whether it was."""
        one = msgspec.structs.replace(push(vm_id, TS + 60 * minute), generation=first_of(life) + 1)
        if self.cache.refuses(vm_id, one.generation) or self.buffer.admit(one, self.fleet.clock()):
            return False
        self.journal.append(one)
        self.buffer.add(one, self.fleet.clock())
        return True

    def reread(self) -> None:
        """Reads what is revoked, in a thread."""

        def read() -> Revocations:
            self.fleet.check_database()
            return Catalogue(self.fleet.engine).revocations()

        def told(found: Revocations) -> None:
            self.cache = found
            self.forgetting.read(found)

        self.in_thread(read).addCallbacks(told, lambda _away: None)

    def owes(self, vm_id: str) -> bool:
        """Whether this node itself remembers, over a crash too, that something of this VM is to be told."""
        return self.buffer.owes(vm_id) or self.flusher.owes_summary(vm_id)

    # The database, as the queue writes to it.

    def write(self, summaries: Sequence[Summary], *, now_s: float) -> None:
        self.fleet.check_database()
        self.writer.write(summaries, now_s=now_s)

    def joined(self, wholes: Sequence[Whole], *, now_s: float) -> None:
        self.fleet.check_database()
        self.writer.joined(wholes, now_s=now_s)

    def heard(self, vms: Sequence[Heard], *, now_s: float) -> list[str]:
        self.fleet.check_database()
        return self.writer.heard(vms, now_s=now_s)

    # Threads and timers.

    def in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()

        def told(outcome: Any) -> None:
            # Of another node: the thread waits for its answer.
            outcome.chainDeferred(done) if isinstance(outcome, Deferred) else done.callback(outcome)

        self.fleet.jobs.append(Job(self, work, told))
        return done

    def call_later(self, _seconds: float, call: Callable[[], None]) -> Timer:
        job = Job(self, lambda: None, lambda _none: call())
        self.fleet.jobs.append(job)
        return Timer(self.fleet, job)

    # The workers: one, which does what it is given in that order.

    partitions = 1

    def submit(self, partition: int, chunk: list[Taken], now_s: float, may_forget: bool, done: ChunkDone) -> None:
        self._submit(partial(self._flush, chunk), done)

    def call(self, vm_id: str, work: Any, done: Callable[[Any], None], failed: Callable[[str], None]) -> None:
        known: dict[object, Callable[..., object]] = {
            join_part: self._join,
            settle_part: self._settle,
            drop_part: self._drop,
            drop_forgotten: self._drop_forgotten,
        }
        self._submit(partial(known[work.func], *work.args), done)

    def stop(self) -> None:
        """Nothing runs."""

    def _submit(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        job = Job(self, work, done)
        self.workers.append(job)
        self.fleet.jobs.append(job)

    def _flush(self, chunk: list[Taken]) -> ChunkResult:
        result = ChunkResult([], {}, {}, 0, 0, 0, {})
        for share in chunk:
            if self._begin_life(share.vm_id, share.life):
                share = share._replace(had_history=False)  # noqa: PLW2901
            if share.had_history and share.vm_id not in self.stores:
                self.lost.add(share.vm_id)
                result.lost_stores[share.vm_id] = LostStore("gone", None)
            if share.life < self.lives[share.vm_id]:
                result.newer_lives[share.vm_id] = self.lives[share.vm_id]
            elif share.rows:
                self.stores.setdefault(share.vm_id, set()).update(times_of(share.rows))
            if self.stores.get(share.vm_id):
                result.summaries.append(self._summary(share.vm_id, share.received_s))
        return result

    def _begin_life(self, vm_id: str, life: int) -> bool:
        """As `Store.of_life`: whether what the store held went for being of a life before."""
        if self.lives.get(vm_id, 0) >= life and vm_id in self.lives:
            return False
        self.lives[vm_id] = life
        return self.stores.pop(vm_id, None) is not None

    def _drop_forgotten(self, vm_id: str, life: int, _keep_doubtful_s: float | None) -> Dropped:
        if vm_id in self.stores and self.lives[vm_id] >= life:
            return Dropped(is_gone=False)
        self.stores.pop(vm_id, None)
        self.lives.pop(vm_id, None)
        return Dropped(is_gone=True)

    def _join(self, vm_id: str, _node: str, body: bytes, had_history: bool, life: int) -> Joined:
        part = json.loads(body)
        if part["life"] < max(life, self.lives.get(vm_id, 0)):
            return Joined()
        if self._begin_life(vm_id, part["life"]):
            had_history = False
        if had_history and vm_id not in self.stores:
            return Joined(problem="the store of this VM is gone here")
        self.stores.setdefault(vm_id, set()).update(part["times"])
        return Joined(self._summary(vm_id))

    def _settle(self, vm_id: str, _node: str, had_history: bool, life: int) -> Joined:
        if vm_id in self.stores and self.lives[vm_id] < life:
            return Joined(problem="this VM was forgotten")
        if vm_id in self.stores:
            return Joined(self._summary(vm_id))
        return Joined(problem="the store of this VM is gone here" if had_history else None)

    def _drop(self, vm_id: str, mark: str) -> Dropped:
        part = self.part(vm_id)
        if part is not None and part.mark != mark:
            return Dropped(is_gone=False)
        self.stores.pop(vm_id, None)
        self.lives.pop(vm_id, None)
        return Dropped(is_gone=True)

    def part(self, vm_id: str) -> StorePart | None:
        """A store as it is now. Two of the same rows have one mark: the worst that a mark can be."""
        if vm_id not in self.stores:
            return None
        body = self._told(vm_id)
        return StorePart(body.encode(), body)

    def _told(self, vm_id: str) -> str:
        return json.dumps({"life": self.lives[vm_id], "times": sorted(self.stores[vm_id])})

    def _summary(self, vm_id: str, received_s: float = 0.0) -> Summary:
        times = self.stores[vm_id]
        found = summary(vm_id, received_s=received_s, newest_s=max(times))
        oldest_s = min(times) // 3600 * 3600
        return found._replace(oldest_s=oldest_s, evidence=self._told(vm_id).encode(), life=self.lives[vm_id])


@dataclass(frozen=True)
class Timer:
    """What `callLater` returns. Any time may pass before it comes."""

    fleet: FleetModel
    job: Job

    def cancel(self) -> None:
        self.fleet.jobs = [job for job in self.fleet.jobs if job is not self.job]

    def active(self) -> bool:
        return self.job in self.fleet.jobs


@dataclass(frozen=True)
class Door:
    """How `asker` asks `asked`, whose answer is a Deferred: it has jobs of its own before it knows."""

    asker: Node
    asked: Node

    def get(self, target: str) -> Any:
        vm_id, node = _parse(target)

        async def read() -> AdminAnswer:
            # As `read_part` in a thread, which sees what was committed last.
            self.asked.giver._check_name(node)
            part: StorePart | None = await self.asked.in_thread(lambda: self.asked.part(vm_id))
            if part is None:
                return _problem(404, "no-part")
            return AdminAnswer(status=200, body=part.body, etag=part.mark)

        return self._ask(read)

    def delete(self, target: str, *, etag: str) -> Any:
        vm_id, node = _parse(target)

        async def drop() -> AdminAnswer:
            await self.asked.giver.drop(vm_id, node, etag)
            return AdminAnswer(status=204, body=b"")

        return self._ask(drop)

    def _ask(self, work: Callable[[], Any]) -> Any:
        answer: Deferred[AdminAnswer] = Deferred()
        self.asked.requests.append(answer)

        async def ask() -> AdminAnswer:
            try:
                return await work()  # type: ignore[no-any-return]
            except Refused as refused:
                return _problem(refused.problem.status, refused.problem.reason)

        def told(outcome: Any) -> None:
            if not answer.called:
                answer.callback(outcome)

        Deferred.fromCoroutine(ask()).addBoth(told)
        return answer


@lru_cache(maxsize=1)
def _empty_database() -> bytes:
    """Made once: its migrations take as long as a hundred steps."""
    with tempfile.TemporaryDirectory() as folder:
        engine = open_fleet(None, Path(folder))
        migrate(engine)
        engine.dispose()
        return (Path(folder) / FILE_NAME).read_bytes()


class FleetModel:
    """Nodes that share a real database of SQLite.

    Attributes:
        jobs: that are not done or not told of, in any order but that of a node's workers.
        acknowledged: VM and life -> times of all samples that some node took.
        lives: VM -> the life that counts: how often it was forgotten.
    """

    def __init__(self, directory: Path, names: str) -> None:
        self.directory = directory
        self.now_s = NOW_S + 86_400.0  # no minute of a test is from the future
        self.is_away = False
        self.jobs: list[Job] = []
        self.acknowledged: dict[tuple[str, int], set[int]] = {}
        self.lives: dict[str, int] = {}
        self._marks = 0
        (directory / FILE_NAME).write_bytes(_empty_database())
        self.engine = open_fleet(None, directory)
        sa.event.listen(self.engine, "connect", lambda found, _record: found.execute("PRAGMA synchronous = OFF"))
        fixed = {"version": "1", "revision": SCHEMA_REVISION, "vms": 0, "owed": 0, "state": "up", "started_s": 0.0}
        with self.engine.begin() as connection:
            for name in names:
                row = {"node": name, "admin_url": name, "seen_s": NOW_S * 2, **fixed}
                connection.execute(sa.insert(node_table).values(row))
        self.nodes = {name: Node(self, name) for name in names}

    def clock(self) -> float:
        return self.now_s

    def next_mark(self) -> int:
        self._marks += 1
        return self._marks

    def check_database(self) -> None:
        if self.is_away:
            raise _AWAY

    def push(self, name: str, vm_id: str, minute: int, *, life: int | None = None) -> None:
        """Args: life: of its token; None: the one that it would be given now."""
        self.enrol(vm_id)
        life = self.lives.get(vm_id, 0) if life is None else life
        if self.nodes[name].push(vm_id, minute, life):
            self.acknowledged.setdefault((vm_id, life), set()).add(TS + 60 * minute)

    def enrol(self, vm_id: str) -> None:
        """The VM is known."""
        with self.engine.begin() as connection:
            known = insert_into(connection, vm).values(vm_id=vm_id, generation=first_of(self.lives.get(vm_id, 0)) + 1)
            connection.execute(known.on_conflict_do_nothing())

    def forget(self, vm_id: str) -> None:
        """An admin forgets it, by any of the nodes."""
        self.enrol(vm_id)
        self.lives[vm_id] = self.lives.get(vm_id, 0) + 1
        assert Catalogue(self.engine).forget(vm_id, now_s=self.now_s) == self.lives[vm_id]

    def ready(self) -> list[Job]:
        """Jobs whose next step may come now."""
        return [job for job in self.jobs if job not in job.node.workers or job is job.node.workers[0]]

    def step(self, job: Job) -> None:
        """Does a job, or tells of it."""
        if not job.is_worked:
            job.is_worked = True
            try:
                job.outcome = job.work()
            except Exception as error:
                job.outcome = Failure(error)  # type: ignore[no-untyped-call]
            return
        self.jobs.remove(job)
        if job in job.node.workers:
            job.node.workers.remove(job)
        job.done(job.outcome)

    def work(self) -> None:
        """Does all that is to be done, and what comes of it."""
        for _ in range(100 if self.is_away else 10_000):
            if not self.jobs:
                return
            self.step(self.ready()[0])
        # A database that is away is asked again and again.
        assert self.is_away, "it never ends"

    def homes(self) -> dict[str, str]:
        with self.engine.connect() as connection:
            return {row.vm_id: row.node for row in connection.execute(sa.select(vm_summary))}

    def notes(self) -> set[tuple[str, str]]:
        with self.engine.connect() as connection:
            return {(row.vm_id, row.node) for row in connection.execute(sa.select(vm_part))}

    def unnoted(self) -> list[tuple[str, str]]:
        """Stores with rows at a node that is not the VM's home, of which nobody would ever hear."""
        homes, notes = self.homes(), self.notes()
        return [
            (vm_id, node.name)
            for node in self.nodes.values()
            for vm_id, times in node.stores.items()
            if times
            and homes.get(vm_id) != node.name
            and (vm_id, node.name) not in notes
            and not node.owes(vm_id)
            and node.lives[vm_id] == self.lives.get(vm_id, 0)
        ]

    def lost(self) -> list[str]:
        """Samples of the lives that count which are on no disk any more."""
        kept: dict[tuple[str, int], set[int]] = {}
        for node in self.nodes.values():
            for vm_id, times in node.stores.items():
                kept.setdefault((vm_id, node.lives[vm_id]), set()).update(times)
            for one in (one for segment in node.journal.segments.values() for one in segment):
                kept.setdefault((one.vm, life_of(one.generation)), set()).update(times_of(one.rows))
        return [
            f"{vm_id}: {missing}"
            for (vm_id, life), times in self.acknowledged.items()
            if life == self.lives.get(vm_id, 0) and (missing := times - kept.get((vm_id, life), set()))
        ]

    def undead(self) -> list[str]:
        """VMs whose figures in the database are of before they were forgotten."""
        with self.engine.connect() as connection:
            told = connection.execute(sa.select(vm_evidence.c.vm_id, vm_evidence.c.body)).all()
        return [vm_id for vm_id, body in told if json.loads(body)["life"] != self.lives.get(vm_id, 0)]

    def come_to_rest(self) -> None:
        """Everything answers, flushes and rounds follow, until no part is left."""
        self.is_away = False
        for _ in range(12):
            self.work()
            for node in self.nodes.values():
                node.reread()
                self.work()
            for node in self.nodes.values():
                node.flusher.flush()
                self.work()
            for node in self.nodes.values():
                node.joiner.tick()
                self.work()
            self.now_s += 3600.0
            if not self.problems_at_rest():
                return

    def problems_at_rest(self) -> list[str]:
        """One store a VM, at its home, with every acknowledged sample; no note."""
        found = [f"noted still: {note}" for note in sorted(self.notes())]
        homes = self.homes()
        for vm_id in {vm_id for vm_id, _ in self.acknowledged}:
            times = self.acknowledged.get((vm_id, self.lives.get(vm_id, 0)), set())
            stores = {node.name: node.stores[vm_id] for node in self.nodes.values() if vm_id in node.stores}
            if stores != ({homes.get(vm_id, ""): times} if times else {}) or (vm_id in homes) != bool(times):
                found.append(f"{vm_id}: home {homes.get(vm_id)}, stores {stores}, acknowledged {times}")
        found += [f"{node.name} missed stores: {node.lost}" for node in self.nodes.values() if node.lost]
        return found


def _parse(target: str) -> tuple[str, str]:
    path, _, node = target.partition("?node=")
    return path.split("/")[3], node


def _problem(status: int, reason: str) -> AdminAnswer:
    return AdminAnswer(status=status, body=json.dumps({"type": f"urn:x:{reason}"}).encode())
