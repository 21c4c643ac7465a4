"""The aggregator as one service: the only place that knows in which order its parts start and stop."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from aggregator import metrics
from aggregator.admin import TOKEN_FILE_NAME, make_admin_site
from aggregator.admin_routes import AdminSources
from aggregator.agents_door import AgentsDoorFactory
from aggregator.buffer import Buffer
from aggregator.config import AggregatorConfig
from aggregator.data_lock import lock_data_directory
from aggregator.door_limits import door_limits
from aggregator.door_parts import DoorCounters, DoorParts
from aggregator.fleet_link import in_daemon_thread
from aggregator.fleet_side import FleetSide
from aggregator.flush import Flusher
from aggregator.flush_schedule import FlushSchedule
from aggregator.flush_take import chunk_vms_for
from aggregator.forgetting import Forgetting
from aggregator.identities import Identities
from aggregator.joining import make_joining
from aggregator.journal import Journal, Recovery
from aggregator.known_samples import samples_of, with_store
from aggregator.listening import Listening
from aggregator.lives import later_of, lives_of
from aggregator.own_node import Drain
from aggregator.pending import PendingSummaries
from aggregator.periodic import Periodic
from aggregator.pool import ProcessWorkers
from aggregator.proof_check import ProofCheck
from aggregator.recall import Recall, recall_lives
from aggregator.replay import replay_journal
from aggregator.shared_reads import SharedReads
from aggregator.store_files import list_stores, store_path
from aggregator.summary import WorkerSettings
from aggregator.summary_queue import SummaryQueue
from aggregator.tokens import KEY_FILE_NAME, Revocations, TokenKeys

AGENTS_ADDRESS_FILE = "agents.address"
ADMIN_ADDRESS_FILE = "admin.address"

_BACKLOG = 4096  # a burst of reconnecting agents must not wait for SYN retries
_GATHER_S = 0.040  # so much later an ack may come; a commit takes a few tenths of a millisecond
_PROBE_S = 2.0
_REREAD_S = 30.0
_PRESSURE_S = 1.0
_STORES_FAILING_RATIO = 0.5
_SUMMARIES_END_S = 2.0  # of the five seconds that SIGTERM gives


class AggregatorService(Service):
    """Ingest, journal, buffer, flush, fleet database and both doors.

    Args:
        config: settings.
        reactor: the Twisted reactor, or the parts of one that the doors and threads need.
        scheduler: of APScheduler, not started: it calls for the flushes.
        clock: Unix time in seconds.
        descriptors: how many this process may open.

    Construction locks the data directory and recovers the journal; it blocks and raises ConfigError,
    DataDirectoryBusyError, JournalError or NodeNameTakenError, and what the fleet database raises when it does not
    answer and this directory holds no revocations of an earlier run. Nothing listens before `start`.
    """

    _log = Logger()

    def __init__(
        self, config: AggregatorConfig, *, reactor: Any, scheduler: Any, clock: Callable[[], float], descriptors: int
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._clock = clock
        self._lock = lock_data_directory(config.data_dir)
        self._listening = Listening(config.listening, reactor=reactor, clock=clock)
        self._fleet = FleetSide(
            config,
            reactor=reactor,
            clock=clock,
            not_ready=self.cannot_take,
            vms=lambda: len(self._buffer),
            owed=lambda: self._flusher.summaries_owed,
            keys=lambda: self._identities.keys.value,
            on_open=self._fleet_opened,
            on_new_row=self._row_is_new,
        )
        self._catalogue = self._fleet.catalogue
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
        self._buffer = Buffer(
            max_rows=config.buffer_samples,
            on_identity_conflict=self._identity_conflict,
            on_new_life=self._new_life,
        )
        # Read before it is written anew: a database that was restored from a backup may know of less.
        remembered = self._fleet.revocation_cache.read()
        self._identities = Identities(
            self._catalogue,
            config.data_dir / KEY_FILE_NAME,
            self._buffer,
            in_thread=deferToThread,
            seconds=reactor.seconds,
            clock=clock,
            on_new_keys=self._new_keys,
            cache=self._fleet.revocation_cache,
            last_known=self._fleet.last_known,
            is_open=lambda: self._fleet.link.is_open,
            on_revocations=self._revocations_read,
        )
        self._workers = ProcessWorkers(
            WorkerSettings(config.data_dir, config.windows_days, config.raw_retention_s, config.hour_retention_s),
            config.flush_workers,
        )
        self._summaries = SummaryQueue(
            self._fleet.writer, in_thread=self._in_fleet_thread, call_later=reactor.callLater, clock=clock
        )
        self._flusher = Flusher(
            buffer=self._buffer,
            journal=self._journal,
            workers=self._workers,
            summaries=self._summaries,
            pending=PendingSummaries(config.data_dir / "summaries.pending"),
            chunk_vms=chunk_vms_for(descriptors),
            call_in_reactor=reactor.callFromThread,
            clock=clock,
            in_thread=deferToThread,
            known_vms=self._known_vms(),
            turns=config.flush_turns,
        )
        refused = self._identities.revocations.value
        if remembered is not None:
            refused = Revocations(later_of(remembered.below, refused.below), clones=refused.clones)
        self._forgetting = Forgetting(
            refused,
            buffer=self._buffer,
            flusher=self._flusher,
            workers=self._workers,
            with_store=with_store(config.data_dir),
            in_thread=deferToThread,
            call_in_reactor=reactor.callFromThread,
            clock=clock,
        )
        self._recall = Recall(
            self._buffer.lives,
            write=self._recall_lives,
            may_write=lambda: self._fleet.link.is_open and self._fleet.doubts.refused is None,
            owe=self._flusher.owe,
            refresh=self._identities.revocations.refresh,
            in_thread=deferToThread,
        )
        self._flusher.on_newer_lives = self._recall.tell
        self._joining = make_joining(
            config,
            name=self._fleet.me.name,
            engine=self._fleet.engine,
            writer=self._fleet.writer,
            is_leaving=lambda: self._fleet.me.is_leaving,
            token_file=config.data_dir / TOKEN_FILE_NAME,
            buffer=self._buffer,
            flusher=self._flusher,
            workers=self._workers,
            written=self._summaries.joined,
            reactor=reactor,
            clock=clock,
        )
        self._schedule = FlushSchedule(
            self._flusher,
            self._buffer,
            interval_s=config.flush_interval_s,
            scheduler=scheduler,
            reactor=reactor,
        )
        counters = DoorCounters()
        self._door = AgentsDoorFactory(
            DoorParts(
                keys=self._identities.keys.value,
                is_outdated=self._identities.is_outdated,
                revocations=lambda: self._identities.revocations.value,
                journal=self._journal,
                buffer=self._buffer,
                enroll=self._fleet.unless_strange(self._identities.enroll),
                rotate=self._identities.rotate,
                ready=self.cannot_take,
                leaving=self._fleet.leaving,
                raw_retention_s=config.raw_retention_s,
                clock=clock,
                counters=counters,
                limits=door_limits(config, descriptors),
                proxies=config.listening.trusted,
            ),
            reactor,
            reads=partial(SharedReads, gather_s=_GATHER_S, together=self._journal.together),
        )
        registry.register(
            metrics.AggregatorCollector(
                door=counters,
                journal=self._journal,
                buffer=self._buffer,
                flusher=self._flusher,
                summaries=self._summaries,
                workers=self._workers,
                damaged_records=lambda: self._recovery.damaged_records,
                not_ready=self.cannot_take,
                certificate=self._listening.certificate,
                keys=self._identities.keys,
                revocations=self._identities.revocations,
                waiting=self._identities.waiting,
            )
        )
        registry.register(metrics.JoinCollector(self._joining.joiner.totals))
        registry.register(metrics.NodeCollector(self._fleet.link, self._fleet.me, self._fleet.doubts))
        self._admin_site = make_admin_site(
            AdminSources(
                catalogue=self._catalogue,
                live=self._buffer.live,
                samples=samples_of(config.data_dir, self._buffer),
                buffered=self._buffer.samples,
                flush=self._schedule.flush_now,
                metrics=metrics.exposition(registry),
                clock=clock,
                store_path=lambda vm_id: store_path(config.data_dir, vm_id),
                forgotten=self._forgotten,
                drain=self._drain,
                parts=self._joining.giver,
            ),
            token=self._fleet.admin_token,
            reactor=reactor,
            proofs=ProofCheck(self._fleet.admin_token, me=self._fleet.me, clock=clock),
        )
        self._ports: list[Any] = []
        self._timers = Periodic(reactor)
        self._stopping = False

    def not_ready(self) -> str | None:
        """None when a load balancer should send VMs here, else why not."""
        return self.cannot_take() or self._fleet.leaving()

    def cannot_take(self) -> str | None:
        """None when pushes are taken, else why not."""
        if self._stopping:
            return "the aggregator is stopping"
        if self._recovering:
            return "the journal is being replayed"
        if not self._journal.healthy:
            return f"the journal cannot be written: {self._journal.unhealthy_reason}"
        if self._flusher.stores_failing_ratio >= _STORES_FAILING_RATIO:
            return self._flusher.stores_failing
        return self._fleet.doubts.refused

    async def start(self) -> None:
        """Listens, replays the journal, then begins to flush. Raises: CannotListenError."""
        self._journal.start()
        listen = self._listening.listen
        self._ports.append(await listen(self._config.listen, self._door, key="listen", backlog=_BACKLOG, clients=True))
        # On loopback its programs ask it in plain text: the token is in a file beside them.
        self._ports.append(await listen(self._config.admin, self._admin_site, key="admin", loopback_tls=False))
        for name, port in zip((AGENTS_ADDRESS_FILE, ADMIN_ADDRESS_FILE), self._ports, strict=True):
            address = port.getHost()
            (self._config.data_dir / name).write_text(f"{address.host}:{address.port}\n")
            self._log.info("{name}: listening on {host}:{port}", name=name, host=address.host, port=address.port)
        self._fleet.introduce(*(port.getHost() for port in self._ports))
        self._timers.every(_PROBE_S, self._journal.probe)
        self._timers.every(_REREAD_S, self._identities.reread)
        await self._replay()
        if self._stopping:
            return
        self._forgetting.start()
        self._recall.read(self._identities.revocations.value)
        self._schedule.start()
        self._timers.every(_PRESSURE_S, self._schedule.look)
        self._timers.every(self._config.join_interval_s, self._join)
        trouble = self.cannot_take()
        self._log.info("ready" if trouble is None else "started, and takes no pushes: {why}", why=trouble)
        self._fleet.link.tell()

    async def stop(self) -> None:
        """Takes no more, commits the journal, ends the workers; what the stores lack is replayed at the next start."""
        self._stopping = True
        self._joining.stop()
        self._forgetting.stop()
        farewell = self._fleet.link.stop()
        written = self._summaries.stop(_SUMMARIES_END_S)
        self._listening.stop()
        self._timers.stop()
        self._schedule.stop()
        for port in self._ports:
            await _settled(port.stopListening())
        await _settled(self._door.close_all())
        await _settled(self._journal.stop())
        self._workers.stop()
        await _settled(farewell)
        await _settled(written)
        self._fleet.engine.dispose()
        for name in (AGENTS_ADDRESS_FILE, ADMIN_ADDRESS_FILE):
            (self._config.data_dir / name).unlink(missing_ok=True)
        os.close(self._lock)

    def look_at_certificate(self) -> None:
        """Reads the certificate again if its files changed; a timer does so now and then anyway."""
        self._listening.look()

    def _fleet_opened(self, vm_ids: Sequence[str]) -> None:
        self._flusher.know(vm_ids)
        self._identities.reread()

    def _join(self) -> None:
        if self._fleet.link.is_open:
            self._joining.tick()

    def _drain(self, wanted: Drain) -> None:
        self._fleet.drain(wanted)
        if wanted is not Drain.UNDONE:
            self._flusher.flush().addErrback(lambda failure: self._log.failure("flush failed", failure))

    async def _replay(self) -> None:
        replayed = await replay_journal(
            self._recovery.segments,
            journal=self._journal,
            buffer=self._buffer,
            flusher=self._flusher,
            pause=lambda seconds: deferLater(self._reactor, seconds, lambda: None),
            is_stopping=lambda: self._stopping,
        )
        self._identities.flag_clones()
        self._recovering = False
        if replayed.warning:
            self._log.warn("{why}", why=replayed.warning)
        if replayed.records or self._recovery.damaged_records or self._recovery.truncated_bytes:
            self._log.info(
                "replayed {records} records; {damaged} damaged runs skipped, {torn} bytes of torn tail cut",
                records=replayed.records,
                damaged=self._recovery.damaged_records,
                torn=self._recovery.truncated_bytes,
            )

    def _in_fleet_thread(self, work: Callable[[], None]) -> Deferred[None]:
        if not self._fleet.link.is_open:
            return fail(ConnectionError("it has not answered since the start"))
        return in_daemon_thread(self._reactor, work)

    def _known_vms(self) -> Sequence[str]:
        """Those that have had rows here, less those that were forgotten while this start was reading."""
        known = self._fleet.known_vms
        forgotten = {vm_id for vm_id, _ in lives_of(self._identities.revocations.value.below)}.intersection(known)
        if not forgotten:
            return known
        forgotten.difference_update(self._fleet.writer.known_vms(sorted(forgotten)))
        return [vm_id for vm_id in known if vm_id not in forgotten]

    def _recall_lives(self, lives: Mapping[str, int]) -> list[str]:
        return recall_lives(self._fleet.engine, lives, now_s=self._clock())

    def _forgotten(self, vm_id: str, life: int) -> Deferred[bool]:
        self._identities.revocations.refresh()
        return self._forgetting.forget(vm_id, life)

    def _revocations_read(self, read: Revocations) -> None:
        self._forgetting.read(read)
        self._recall.read(read)

    def _new_life(self, vm_id: str, life: int) -> None:
        self._forgetting.came_back(vm_id, life)
        self._identities.revocations.refresh()

    def _row_is_new(self) -> None:
        # Somebody forgot this node, whose disk is not lost after all: the others know of none of its histories.
        data_dir = self._config.data_dir
        deferToThread(lambda: list(list_stores(data_dir))).addCallback(self._flusher.owe).addErrback(
            lambda failure: self._log.failure("the stores here cannot be listed", failure)
        )

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
