"""The aggregator as one service: the only place that knows in which order its parts start and stop."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread, deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from aggregator import metrics
from aggregator.addresses import per_address_of
from aggregator.admin import TOKEN_FILE_NAME, load_or_create_admin_token, make_admin_site
from aggregator.admin_routes import AdminSources
from aggregator.agents_door import AgentsDoorFactory
from aggregator.buffer import Buffer
from aggregator.catalogue import Catalogue
from aggregator.config import AggregatorConfig
from aggregator.data_lock import lock_data_directory
from aggregator.decode import DecodeLimits
from aggregator.door_parts import DoorCounters, DoorLimits, DoorParts, connections_for
from aggregator.fleet_db import migrate, open_fleet
from aggregator.flush import Flusher, FlushReport, chunk_vms_for
from aggregator.http import HttpLimits
from aggregator.identities import Identities
from aggregator.journal import Journal, Recovery
from aggregator.listening import Listening
from aggregator.pending import PendingSummaries
from aggregator.pool import ProcessWorkers
from aggregator.replay import replay_journal
from aggregator.store_files import read_samples, store_path
from aggregator.summaries import SummaryWriter
from aggregator.summary import Summary, WorkerSettings
from aggregator.tokens import KEY_FILE_NAME, TokenKeys

AGENTS_ADDRESS_FILE = "agents.address"
ADMIN_ADDRESS_FILE = "admin.address"

_BACKLOG = 4096  # a burst of reconnecting agents must not wait for SYN retries
_GATHER_S = 0.004  # so much later an ack may come; a commit takes a few tenths of a millisecond
_PROBE_S = 2.0
_REREAD_S = 30.0
_PRESSURE_S = 1.0
_FLUSH_EARLY_AT = 0.5  # of the buffer; leaves the other half for the time the flush takes
_STORES_RETRY_S = 30.0
_LATE_INTERVALS = 2.0
_LINGER_S = 2.0  # of the five seconds that SIGTERM gives
_STORES_FAILING_RATIO = 0.5


def raise_descriptor_limit() -> int:
    """Takes all the descriptors the hard limit allows; returns how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class AggregatorService(Service):
    """Ingest, journal, buffer, flush, fleet database and both doors.

    Args:
        config: settings.
        reactor: the Twisted reactor, or the parts of one that the doors and threads need.
        scheduler: of APScheduler, not started: it calls for the flushes.
        clock: Unix time in seconds.
        descriptors: how many this process may open.

    Construction locks the data directory and recovers the journal; it blocks and raises ConfigError,
    DataDirectoryBusyError or JournalError. Nothing listens before `startService`.
    """

    _log = Logger()

    def __init__(
        self, config: AggregatorConfig, *, reactor: Any, scheduler: Any, clock: Callable[[], float], descriptors: int
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._clock = clock
        self._lock = lock_data_directory(config.data_dir)
        TokenKeys.load_or_create(config.data_dir / KEY_FILE_NAME)
        self._admin_token = load_or_create_admin_token(config.data_dir / TOKEN_FILE_NAME)
        self._listening = Listening(config.listening, reactor=reactor, clock=clock)
        engine = open_fleet(config.fleet_url, config.data_dir)
        migrate(engine)
        self._engine = engine
        self._catalogue = Catalogue(engine, check=config.enrolment_check)
        self._writer = SummaryWriter(engine)
        self._writer.keep_windows(config.windows_days)
        self._fleet_thread = ThreadPool(1, 1, "fleet")
        registry = CollectorRegistry()
        commit_seconds = metrics.commit_histogram(registry)
        self._journal = Journal(
            config.data_dir / "journal",
            reactor=reactor,
            segment_bytes=config.segment_bytes,
            gather_s=_GATHER_S,
            on_commit=lambda seconds, _records, _size: commit_seconds.observe(seconds),
        )
        self._recovery: Recovery = self._journal.open()
        self._recovering = True
        self._buffer = Buffer(max_rows=config.buffer_samples, on_identity_conflict=self._identity_conflict)
        self._identities = Identities(
            self._catalogue,
            config.data_dir / KEY_FILE_NAME,
            self._buffer,
            in_thread=deferToThread,
            seconds=reactor.seconds,
            clock=clock,
            on_new_keys=self._new_keys,
        )
        self._workers = ProcessWorkers(
            WorkerSettings(config.data_dir, config.windows_days, config.raw_retention_s, config.hour_retention_s),
            config.flush_workers,
        )
        self._flusher = Flusher(
            buffer=self._buffer,
            journal=self._journal,
            workers=self._workers,
            write_summaries=self._write_summaries,
            pending=PendingSummaries(config.data_dir / "summaries.pending"),
            chunk_vms=chunk_vms_for(descriptors),
            call_in_reactor=reactor.callFromThread,
            clock=clock,
            known_vms=self._writer.known_vms(),
        )
        counters = DoorCounters()
        self._door = AgentsDoorFactory(
            DoorParts(
                keys=self._identities.keys.value,
                is_outdated=self._identities.is_outdated,
                revocations=lambda: self._identities.revocations.value,
                journal=self._journal,
                buffer=self._buffer,
                enroll=self._identities.enroll,
                rotate=self._identities.rotate,
                ready=self.not_ready,
                raw_retention_s=config.raw_retention_s,
                clock=clock,
                counters=counters,
                limits=_limits(config, descriptors),
                proxies=config.listening.trusted,
            ),
            reactor,
        )
        registry.register(
            metrics.AggregatorCollector(
                door=counters,
                journal=self._journal,
                buffer=self._buffer,
                flusher=self._flusher,
                workers=self._workers,
                damaged_records=lambda: self._recovery.damaged_records,
                not_ready=self.not_ready,
                certificate=self._listening.certificate,
                keys=self._identities.keys,
                revocations=self._identities.revocations,
                waiting=self._identities.waiting,
            )
        )
        self._admin_site = make_admin_site(
            AdminSources(
                catalogue=self._catalogue,
                live=self._buffer.live,
                samples=self._samples,
                buffered=self._buffer.samples,
                flush=self._flush_now,
                metrics=metrics.exposition(registry),
                clock=clock,
                store_path=lambda vm_id: store_path(config.data_dir, vm_id),
                forgotten=self._forgotten,
            ),
            token=self._admin_token,
            reactor=reactor,
        )
        self._ports: list[Any] = []
        self._scheduler = scheduler
        self._loops: list[LoopingCall] = []
        self._stopping = False
        self._ticked_s = 0.0

    def not_ready(self) -> str | None:
        """None when pushes are taken, else why not."""
        if self._stopping:
            return "the aggregator is stopping"
        if self._recovering:
            return "the journal is being replayed"
        if not self._journal.healthy:
            return f"the journal cannot be written: {self._journal.unhealthy_reason}"
        if self._flusher.stores_failing_ratio >= _STORES_FAILING_RATIO:
            return self._flusher.stores_failing
        return None

    async def start(self) -> None:
        """Listens, replays the journal, then begins to flush. Raises: CannotListenError."""
        self._journal.start()
        self._fleet_thread.start()
        listen = self._listening.listen
        self._ports.append(await listen(self._config.listen, self._door, key="listen", backlog=_BACKLOG, clients=True))
        # On loopback its programs ask it in plain text: the token is in a file beside them.
        self._ports.append(await listen(self._config.admin, self._admin_site, key="admin", loopback_tls=False))
        for name, port in zip((AGENTS_ADDRESS_FILE, ADMIN_ADDRESS_FILE), self._ports, strict=True):
            address = port.getHost()
            (self._config.data_dir / name).write_text(f"{address.host}:{address.port}\n")
            self._log.info("{name}: listening on {host}:{port}", name=name, host=address.host, port=address.port)
        self._every(_PROBE_S, self._journal.probe)
        self._every(_REREAD_S, self._identities.reread)
        await self._replay()
        if self._stopping:
            return
        self._ticked_s = self._reactor.seconds()
        self._every(_PRESSURE_S, self._flush_early)
        # The scheduler runs jobs in its threads; the flush belongs to the reactor's.
        self._scheduler.add_job(
            self._reactor.callFromThread,
            "interval",
            args=[self._tick],
            seconds=self._config.flush_interval_s,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )
        self._scheduler.start()
        self._log.info("ready")

    async def stop(self) -> None:
        """Takes no more, commits the journal, ends the workers; what the stores lack is replayed at the next start."""
        self._stopping = True
        self._listening.stop()
        for loop in self._loops:
            loop.stop()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        for port in self._ports:
            await _settled(port.stopListening())
        await _settled(self._door.close_all())
        await _settled(self._journal.stop())
        self._workers.stop()
        if self._fleet_thread.started:
            self._fleet_thread.stop()
        self._engine.dispose()
        for name in (AGENTS_ADDRESS_FILE, ADMIN_ADDRESS_FILE):
            (self._config.data_dir / name).unlink(missing_ok=True)
        os.close(self._lock)

    def look_at_certificate(self) -> None:
        """Reads the certificate again if its files changed; a timer does so now and then anyway."""
        self._listening.look()

    def _every(self, seconds: float, work: Callable[[], object]) -> None:
        # A LoopingCall ends for good at the first exception: catch it, and go on.
        def guarded() -> None:
            try:
                work()
            except Exception:
                self._log.failure("a periodic task failed")

        loop = LoopingCall(guarded)
        loop.clock = self._reactor
        self._loops.append(loop)
        loop.start(seconds, now=False)

    async def _replay(self) -> None:
        records = await replay_journal(
            self._recovery.segments,
            journal=self._journal,
            buffer=self._buffer,
            flusher=self._flusher,
            pause=lambda seconds: deferLater(self._reactor, seconds, lambda: None),
            is_stopping=lambda: self._stopping,
        )
        self._identities.flag_clones()
        self._recovering = False
        if records or self._recovery.damaged_records or self._recovery.truncated_bytes:
            self._log.info(
                "replayed {records} records; {damaged} damaged runs skipped, {torn} bytes of torn tail cut",
                records=records,
                damaged=self._recovery.damaged_records,
                torn=self._recovery.truncated_bytes,
            )

    def _tick(self) -> None:
        self._ticked_s = self._reactor.seconds()
        self._flusher.tick()

    def _flush_early(self) -> None:
        """Flushes before its time under pressure, and when the scheduler is late: the wall clock was set back."""
        if self._flusher.is_running:
            return
        waited_s = self._reactor.seconds() - self._ticked_s
        # Stores that fail are not hammered: each try costs all workers' time.
        soonest_s = 0.0 if self._flusher.stores_failing is None else _STORES_RETRY_S
        under_pressure = self._buffer.fullness >= _FLUSH_EARLY_AT and waited_s >= soonest_s
        if under_pressure or waited_s > _LATE_INTERVALS * self._config.flush_interval_s:
            self._tick()

    def _flush_now(self, all_figures: bool) -> Deferred[Mapping[str, object]]:
        def as_mapping(report: FlushReport) -> Mapping[str, object]:
            return {
                "vms": report.vms,
                "samples": report.rows,
                "duplicates": report.duplicates,
                "conflicts": report.conflicts,
                "failures": report.failures,
                "summaries_owed": report.summaries_owed,
                "seconds": round(report.seconds, 3),
            }

        return self._flusher.flush(all_figures=all_figures).addCallback(as_mapping)

    def _write_summaries(self, summaries: Sequence[Summary]) -> Deferred[None]:
        now_s = self._clock()
        return deferToThreadPool(self._reactor, self._fleet_thread, lambda: self._writer.write(summaries, now_s=now_s))

    def _samples(self, vm_id: str, from_s: int, to_s: int) -> list[dict[str, object]]:
        found: dict[int, dict[str, object]] = {}
        # Memory first: what leaves it meanwhile is in the store by then.
        buffered = list(self._buffer.samples(vm_id))
        for sample in [*read_samples(store_path(self._config.data_dir, vm_id), from_s, to_s), *buffered]:
            ts = int(sample["ts"] or 0)
            if from_s <= ts <= to_s:
                found.setdefault(ts, dict(sample))
        return [found[ts] for ts in sorted(found)]

    def _forgotten(self, vm_id: str) -> None:
        self._buffer.forget(vm_id)
        self._flusher.forget(vm_id)
        self._identities.revocations.refresh()

    def _identity_conflict(self, vm_id: str) -> None:
        self._identities.conflict(vm_id)

    def _new_keys(self, keys: TokenKeys) -> None:
        self._door.parts.keys = keys


async def _settled(work: Any) -> None:
    """Waits for a part to stop; one that fails to must not keep the others from stopping."""
    try:
        if isinstance(work, Deferred):
            await work
    except Exception:
        Logger(namespace=__name__).failure("a part could not be stopped")


def _limits(config: AggregatorConfig, descriptors: int) -> DoorLimits:
    base = DoorLimits()
    connections = config.connections or connections_for(descriptors)
    return DoorLimits(
        connections=connections,
        per_address=config.per_address or per_address_of(connections),
        per_token=config.per_token or base.per_token,
        request_s=config.request_s or base.request_s,
        linger_s=_LINGER_S,
        http=HttpLimits(
            head_bytes=config.header_bytes or base.http.head_bytes, body_bytes=config.body_bytes or base.http.body_bytes
        ),
        decode=DecodeLimits(
            body_bytes=config.body_bytes or base.decode.body_bytes, samples=config.batch_samples or base.decode.samples
        ),
    )
