"""An aggregator without sockets, threads and worker processes; put together as `aggregator.service` does it.

Everything else is the product's: door, decoder, tokens, journal, buffer, flusher, stores, catalogue and summaries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import LoopingCall, deferLater

from agent.wire import DEFAULT_INTERVAL_S
from aggregator.agents_door import AgentsDoor, AgentsDoorFactory
from aggregator.buffer import Buffer
from aggregator.catalogue import Catalogue
from aggregator.door_parts import DoorLimits, DoorParts
from aggregator.enrolment import decode_enrolment
from aggregator.flush import Flusher
from aggregator.journal import Journal
from aggregator.journal_format import JournalError
from aggregator.pending import PendingSummaries
from aggregator.problems import Refused
from aggregator.replay import replay_journal
from aggregator.reread import Reread
from aggregator.summary import WorkerSettings
from aggregator.summary_queue import SummaryQueue
from aggregator.tokens import TokenKeys
from tests.whole.database import Database
from tests.whole.disk import Disk
from tests.whole.hub import Broken, Hub, Inbox, Process
from tests.whole.ledger import Ledger
from tests.whole.machine import START_S
from tests.whole.network import Ordered
from tests.whole.planted import Planted
from tests.whole.workers import HOUR_RETENTION_S, WINDOWS_DAYS, FiberWorkers, Worker, WorkerTrouble

_JOURNAL = Path("journal")
_REVOCATIONS_S = 30.0
_RESTART_S = 5.0
_STORES_FAILING_RATIO = 0.5
_STORES_RETRY_S = 30.0
_FLUSH_EARLY_AT = 0.5


@dataclass(slots=True, kw_only=True)
class Site:
    """What outlives each life of the aggregator, and what may ail it.

    Attributes:
        worker: as which those of each life are made.
        clock_offset_s: of its wall clock from the true time.
    """

    data_dir: Path
    disk: Disk
    database: Database
    keys: TokenKeys
    worker: Worker
    clock_offset_s: float = 0.0
    flush_interval_s: float = 300.0
    buffer_rows: int = 10_000
    segment_bytes: int = 1 << 20
    partitions: int = 2
    raw_retention_s: float = 14 * 86400.0
    gather_s: float = 0.004
    workers: WorkerTrouble = field(default_factory=WorkerTrouble)


class FiberJournal(Journal):
    """The real journal, its thread a fiber."""

    def begin(self, process: Process) -> None:
        """Instead of `start`."""
        self._inbox = cast(Any, Inbox(process))
        self._thread = cast(Any, _Joined())
        process.fiber(self._work)
        self._hand_over()


class _Joined:
    """A thread that has ended."""

    def join(self) -> None:
        """At once."""


class _Door(AgentsDoorFactory):
    """Its connections in the order in which they came."""

    def __init__(self, parts: DoorParts, clock: Any, door: type[AgentsDoor]) -> None:
        super().__init__(parts, clock, door)
        self._connections = cast(Any, Ordered())


class Life:
    """One life of the aggregator. Raises at its making: JournalError, Refused: it cannot start now."""

    def __init__(self, site: Site, hub: Hub, ledger: Ledger, planted: Planted) -> None:
        self.process = process = Process(hub)
        self._site = site
        self._hub = hub
        self._ledger = ledger
        self.catalogue = Catalogue(site.database.engine)
        read = self.catalogue.revocations
        self._revocations = Reread(
            "revocations",
            read(),
            read,
            lambda work: process.later(0.002, work),
            seconds=process.seconds,
            on_change=lambda _read: self._flag_clones(),
        )
        self._writer = site.database.writer
        self.journal = FiberJournal(
            _JOURNAL,
            reactor=process,
            segment_bytes=site.segment_bytes,
            files=planted.files(site.disk),
            gather_s=site.gather_s,
            monotonic_s=lambda: hub.now_s,
            pause=process.sleep,
        )
        known_vms = self._writer.known_vms()
        recovery = self.journal.open()
        self.buffer = Buffer(max_rows=site.buffer_rows, on_identity_conflict=self._identity_conflict)
        settings = WorkerSettings(site.data_dir, WINDOWS_DAYS, site.raw_retention_s, HOUR_RETENTION_S)
        worker = site.worker.again(settings)
        workers = FiberWorkers(worker, site.partitions, process=process, trouble=site.workers, ledger=ledger)
        self._summaries = SummaryQueue(
            self._writer,
            in_thread=lambda work: process.later(0.002, work),
            call_later=process.callLater,
            clock=self.wall_s,
        )
        self.flusher = Flusher(
            buffer=self.buffer,
            journal=planted.journal(self.journal),
            workers=planted.workers(workers, site.data_dir),
            summaries=self._summaries,
            pending=PendingSummaries(site.data_dir / "summaries.pending"),
            call_in_reactor=process.callFromThread,
            clock=self.wall_s,
            known_vms=known_vms,
            piece_vms=2,  # so that other events come between them
        )
        self.door = _Door(
            DoorParts(
                keys=site.keys,
                revocations=lambda: planted.revocations(self._revocations.value),
                journal=self.journal,
                buffer=self.buffer,
                enroll=self._enroll,
                rotate=self._rotate,
                ready=self.not_ready,
                raw_retention_s=site.raw_retention_s,
                clock=self.wall_s,
                limits=DoorLimits(sweep_s=10.0),
            ),
            process,
            planted.door,
        )
        self._recovering = True
        self._stopping = False
        self._ticked_s = hub.now_s
        self._loops: list[LoopingCall] = []
        site.disk.process = process
        self.journal.begin(process)
        self.door.startFactory()
        self._every(10.0, self.journal.probe)
        self._every(_REVOCATIONS_S, self._revocations.refresh)
        self._every(15.0, self._flush_early)
        self._every(site.flush_interval_s, self._tick)
        self.flushes: Deferred[None] = Deferred.fromCoroutine(self._replay(planted.replayed(recovery.segments)))

    def wall_s(self) -> float:
        """Its clock."""
        return START_S + self._hub.now_s + self._site.clock_offset_s

    def not_ready(self) -> str | None:
        """As the service says it."""
        if self._stopping:
            return "the aggregator is stopping"
        if self._recovering:
            return "the journal is being replayed"
        if not self.journal.healthy:
            return f"the journal cannot be written: {self.journal.unhealthy_reason}"
        if self.flusher.stores_failing_ratio >= _STORES_FAILING_RATIO:
            return self.flusher.stores_failing
        return None

    def accept(self) -> Any:
        """A protocol for a new connection."""
        return self.door.buildProtocol(None)

    async def stop(self) -> None:
        """SIGTERM: commits the journal, flushes nothing."""
        self._stopping = True
        for loop in self._loops:
            if loop.running:
                loop.stop()
        self.door.stopFactory()
        await self.door.close_all()
        await self.journal.stop()

    def check(self) -> None:
        """Nothing of it failed on a mistake of its own."""
        if self.door.counters.errors:
            raise Broken("the door failed on a request")
        if self.journal.counters.failed_callbacks:
            raise Broken("a callback of the journal failed")
        if self.buffer.unstored_rows < 0:
            raise Broken(f"the buffer owes {self.buffer.unstored_rows} rows")

    def _every(self, seconds: float, work: Callable[[], object]) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception as error:
                raise Broken(f"a periodic task of the aggregator failed: {error!r}") from error

        loop = LoopingCall(guarded)
        loop.clock = cast(Any, self.process)
        self._loops.append(loop)
        loop.start(seconds, now=False)

    async def _replay(self, segments: Sequence[int]) -> None:
        await replay_journal(
            segments,
            journal=self.journal,
            buffer=self.buffer,
            flusher=self.flusher,
            pause=lambda seconds: deferLater(cast(Any, self.process), seconds, lambda: None),
            is_stopping=lambda: self._stopping,
        )
        self._flag_clones()
        self._recovering = False

    def _flag_clones(self) -> None:
        self.buffer.clones_found(self._revocations.value.clones)

    def _tick(self) -> None:
        if not self._recovering:
            self._ticked_s = self._hub.now_s
            self.flusher.tick()

    def _flush_early(self) -> None:
        if self._recovering or self.flusher.is_running:
            return
        waited_s = self._hub.now_s - self._ticked_s
        soonest_s = 0.0 if self.flusher.stores_failing is None else _STORES_RETRY_S
        if self.buffer.fullness >= _FLUSH_EARLY_AT and waited_s >= soonest_s:
            self._tick()

    def _identity_conflict(self, vm_id: str) -> None:
        self._hub.tell(f"two machines push as {vm_id}")
        now_s = self.wall_s()
        revoked = self.process.later(0.002, lambda: self._revoke(vm_id, now_s))
        revoked.addCallbacks(lambda _none: self._revocations.refresh(), lambda _failure: None)

    def _revoke(self, vm_id: str, now_s: float) -> None:
        self.catalogue.revoke(vm_id, "identity-conflict", now_s=now_s)

    def _enroll(self, body: bytes, peer: str) -> Deferred[bytes]:
        try:
            request = decode_enrolment(body)
        except Refused:
            return fail()
        heard = self.buffer.live(0.0, vm=request.vm)
        heard_s = max((float(str(one["last_seen_s"])) for one in heard), default=None)
        now_s = self.wall_s()

        def enroll() -> int:
            return self.catalogue.enroll(request, now_s=now_s, peer=peer, heard_s=heard_s)

        def enrolled(generation: int) -> bytes:
            self.buffer.enrolled(request.vm)
            self._revocations.refresh()
            return self._identity(request.vm, generation)

        return self.process.later(0.003, enroll).addCallback(enrolled)

    def _rotate(self, vm_id: str, generation: int) -> Deferred[bytes]:
        def rotated(newer: int) -> bytes:
            self._revocations.refresh()
            return self._identity(vm_id, newer)

        now_s = self.wall_s()
        return self.process.later(0.003, lambda: self.catalogue.rotate(vm_id, generation, now_s=now_s)).addCallback(
            rotated
        )

    def _identity(self, vm_id: str, generation: int) -> bytes:
        token = self._site.keys.make(vm_id, generation)
        return json.dumps({"vm": vm_id, "token": token, "interval_s": DEFAULT_INTERVAL_S}).encode()


class Aggregator:
    """All its lives, one after the other: what systemd makes of it. It is the network's host.

    Attributes: life: None while it is down.
    """

    def __init__(self, site: Site, hub: Hub, ledger: Ledger, planted: Planted) -> None:
        self.site = site
        self.life: Life | None = None
        self.counts = {"lives": 0, "power cuts": 0}
        self._hub = hub
        self._ledger = ledger
        self._planted = planted

    @property
    def process(self) -> Process | None:
        return None if self.life is None else self.life.process

    def accept(self) -> Any | None:
        """A protocol for a new connection; None: nobody listens."""
        return None if self.life is None else self.life.accept()

    def start(self) -> None:
        """Starts, or tries again later."""
        if self.life is not None:
            return
        try:
            self.life = Life(self.site, self._hub, self._ledger, self._planted)
            self.counts["lives"] += 1
            self._hub.tell("the aggregator starts")
        except (JournalError, Refused, sa.exc.OperationalError) as error:
            self._hub.tell(f"the aggregator cannot start: {error}")
            self.site.disk.survive_kill()
            self._hub.call_later(_RESTART_S, self.start)

    def die(self, *, power_cut: bool, down_s: float) -> None:
        """At once; it comes back after `down_s`."""
        life = self.life
        if life is None:
            return
        life.check()
        self.life = None
        life.process.die()
        site, rng = self.site, self._hub.rng
        if power_cut:
            self.counts["power cuts"] += 1
            site.disk = site.disk.survive_power_cut(lambda n: rng.randint(0, n))
        else:
            site.disk = site.disk.survive_kill()
        self._ledger.restarted(site.disk.contents())
        with site.database.reachable() as engine:
            # A conflict that was found while the database was away is known to memory alone.
            revocations = Catalogue(engine).revocations()
        self._ledger.in_conflict = {vm for vm in self._ledger.in_conflict if revocations.refuses(vm, 0)}
        self._hub.call_later(down_s, self.start)

    def stop(self, down_s: float) -> None:
        """SIGTERM, and a start after `down_s`."""
        life = self.life
        if life is not None:
            stopped = Deferred.fromCoroutine(life.stop())
            stopped.addCallback(lambda _none: self._hub.call_later(0.0, self._end, life, down_s))

    def _end(self, life: Life, down_s: float) -> None:
        if self.life is life:
            self._hub.tell("the aggregator has stopped")
            self.die(power_cut=False, down_s=down_s)
