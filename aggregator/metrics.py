"""What the aggregator says of itself at `/metrics`: read from plain counters when it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aggregator.buffer import Buffer
from aggregator.door_parts import DoorCounters
from aggregator.fleet_link import FleetLink
from aggregator.flush import Flusher
from aggregator.joiner import JoinTotals
from aggregator.journal import Journal
from aggregator.node_doubts import NodeDoubts
from aggregator.own_node import OwnNode
from aggregator.pool import ProcessWorkers
from aggregator.reread import Reread
from aggregator.summary_queue import SummaryQueue
from aggregator.tls import Certificate
from aggregator.tokens import Revocations, TokenKeys

_COMMIT_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class AggregatorCollector(Collector):
    """Counters of all parts under one roof; nothing is counted twice."""

    def __init__(
        self,
        *,
        door: DoorCounters,
        journal: Journal,
        buffer: Buffer,
        flusher: Flusher,
        summaries: SummaryQueue,
        workers: ProcessWorkers,
        damaged_records: Callable[[], int],
        not_ready: Callable[[], str | None],
        keys: Reread[TokenKeys],
        revocations: Reread[Revocations],
        waiting: Reread[int],
        certificate: Certificate | None = None,
    ) -> None:
        self._door = door
        self._journal = journal
        self._buffer = buffer
        self._flusher = flusher
        self._summaries = summaries
        self._workers = workers
        self._damaged_records = damaged_records
        self._not_ready = not_ready
        self._keys = keys
        self._revocations = revocations
        self._waiting = waiting
        self._certificate = certificate

    def collect(self) -> Iterator[Metric]:
        """Every figure, once."""
        yield from self._door_metrics()
        yield from self._trust_metrics()
        if self._certificate is not None:
            yield from _certificate_metrics(self._certificate)
        yield from self._journal_metrics()
        yield from self._flush_metrics()

    def _door_metrics(self) -> Iterator[Metric]:
        door = self._door
        yield _gauge("fallow_ready", "1 when pushes are taken", 0.0 if self._not_ready() else 1.0)
        yield _gauge("fallow_connections", "Open connections of agents", door.connections_open)
        yield _counter("fallow_connections_refused", "Connections over the limit", door.connections_refused)
        yield _counter("fallow_pushes", "Pushes acknowledged", door.pushes)
        yield _counter("fallow_samples", "Samples acknowledged, duplicates and conflicts aside", door.samples)
        yield _counter("fallow_duplicates", "Samples that were here already, the same", door.duplicates)
        yield _counter("fallow_conflicts", "Samples refused because another with their time was first", door.conflicts)
        yield _counter("fallow_samples_too_old", "Samples older than the raw retention", door.samples_too_old)
        yield _counter(
            "fallow_unknown_fields", "Fields ignored because this version does not know them", door.unknown_fields
        )
        yield _counter("fallow_agents_dropped_samples", "Samples agents gave up, as they tell", door.agents_dropped)
        yield _counter("fallow_enrolments", "VMs enrolled", door.enrolments)
        yield _counter("fallow_timeouts", "Connections cut at a deadline", door.timeouts)
        yield _counter("fallow_errors", "Mistakes of the aggregator itself", door.errors)
        rejects = CounterMetricFamily("fallow_rejects", "Requests refused, by reason", labels=["reason"])
        for reason, count in sorted(door.rejected_by_reason.items()):
            rejects.add_metric([reason], count)
        yield rejects

    def _trust_metrics(self) -> Iterator[Metric]:
        door = self._door
        yield _counter("fallow_rotations", "Tokens exchanged for newer ones", door.rotations)
        yield _counter("fallow_outdated_tokens", "Pushes with a token of the key that is to go", door.outdated_tokens)
        yield _gauge("fallow_enrolments_waiting", "Machines that wait for an admin", self._waiting.value)
        yield _gauge(
            "fallow_token_keys_unreadable", "1 while token.key cannot be read again", float(bool(self._keys.trouble))
        )
        yield _gauge(
            "fallow_revocations_unreadable",
            "1 while revocations cannot be read again",
            float(bool(self._revocations.trouble)),
        )

    def _journal_metrics(self) -> Iterator[Metric]:
        counters = self._journal.counters
        yield _gauge("fallow_journal_healthy", "1 while the journal takes records", float(self._journal.healthy))
        yield _gauge("fallow_journal_bytes", "Bytes of all segments on disk", self._journal.bytes_on_disk)
        yield _gauge("fallow_journal_queued_bytes", "Bytes that wait for the disk", self._journal.queued_bytes)
        yield _counter("fallow_journal_records", "Records made durable", counters.records)
        yield _counter("fallow_journal_written_bytes", "Bytes made durable", counters.record_bytes)
        yield _counter(
            "fallow_journal_failed_commits", "Groups that could not be made durable", counters.failed_commits
        )
        yield _counter(
            "fallow_journal_damaged_records", "Damaged runs skipped at the last start", self._damaged_records()
        )

    def _flush_metrics(self) -> Iterator[Metric]:
        totals = self._flusher.totals
        yield _gauge("fallow_buffered_samples", "Samples not in a store yet", self._buffer.unstored_rows)
        yield _gauge("fallow_vms_in_memory", "VMs heard of in the last day", len(self._buffer))
        yield _gauge("fallow_last_seen_seconds", "When the newest push came, Unix time", self._buffer.newest_received_s)
        yield _counter("fallow_flushes", "Flushes finished", totals.flushes)
        yield _counter("fallow_flush_overruns", "Flushes left out because one was running", totals.overruns)
        yield _counter("fallow_flush_seconds", "Time spent flushing", totals.seconds)
        yield _gauge("fallow_last_flush_seconds", "When the last flush ended, Unix time", totals.last_s)
        yield _gauge("fallow_last_flush_duration_seconds", "How long the last flush took", totals.last_duration_s)
        yield _counter("fallow_flushed_samples", "Samples written to stores", totals.rows)
        yield _counter(
            "fallow_flushed_duplicates", "Samples that their store held already, the same", totals.duplicates
        )
        yield _counter(
            "fallow_flushed_conflicts", "Samples of which the store knows that another was first", totals.conflicts
        )
        yield _counter(
            "fallow_forgotten_samples",
            "Samples dropped because their VM was forgotten after their token was given out",
            self._buffer.forgotten_rows,
        )
        yield _counter("fallow_stores_flushed", "Store transactions", totals.stores)
        yield _counter("fallow_store_failures", "Stores that could not take their samples", totals.store_failures)
        yield _gauge("fallow_stores_failing", "VMs whose store failed in the last flush", self._flusher.failing)
        yield _counter("fallow_stores_lost", "Stores found damaged or gone, and begun anew", totals.stores_lost)
        yield from _summary_metrics(self._flusher, self._summaries)
        yield _gauge("fallow_flush_workers", "Worker processes alive", len(self._workers.pids()))
        yield _counter("fallow_flush_workers_replaced", "Worker processes that died", self._workers.replaced)


class JoinCollector(Collector):
    """What came of parts of histories that other nodes hold."""

    def __init__(self, totals: JoinTotals) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        """Every figure, once."""
        totals = self._totals
        yield _gauge("fallow_parts_waiting", "Parts of histories of this node's VMs at other nodes", totals.waiting)
        yield _counter("fallow_parts_joined", "Parts of histories taken in", totals.joined)
        yield _counter("fallow_parts_failed", "Tries at a part that failed", totals.failed)
        yield _counter("fallow_parts_samples", "Samples that parts brought", totals.inserted)


class NodeCollector(Collector):
    """How this aggregator stands to the others."""

    def __init__(self, link: FleetLink, me: OwnNode, doubts: NodeDoubts) -> None:
        self._link = link
        self._me = me
        self._doubts = doubts

    def collect(self) -> Iterator[Metric]:
        """Every figure, once."""
        answers = float(self._link.is_open and self._link.trouble is None)
        yield _gauge("fallow_fleet_database_up", "1 while the fleet database answers", answers)
        yield _gauge("fallow_draining", "1 while VMs should go elsewhere", float(self._me.is_draining))
        named_twice = float(self._link.is_named_twice)
        yield _gauge("fallow_node_named_twice", "1 while another aggregator runs under this name", named_twice)
        keys_differ = float(self._doubts.keys is not None)
        yield _gauge("fallow_node_keys_differ", "1 while the keys are not those of the fleet", keys_differ)
        ahead_s = self._doubts.ahead_s or 0.0
        yield _gauge("fallow_clock_ahead_seconds", "The clock less that of the fleet database", ahead_s)


def _summary_metrics(flusher: Flusher, summaries: SummaryQueue) -> Iterator[Metric]:
    counters = summaries.counters
    yield _gauge("fallow_summaries_owed", "VMs whose summary the fleet database lacks", flusher.summaries_owed)
    yield _gauge("fallow_summaries_queued", "VMs whose summary waits in memory", len(summaries.vm_ids))
    yield _gauge("fallow_summaries_queued_bytes", "Memory of the summaries that wait", summaries.size_bytes)
    yield _counter("fallow_summaries_written", "Summaries written to the fleet database", counters.written)
    yield _counter("fallow_summaries_refused", "Summaries for which the queue had no room", counters.refused)
    yield _counter("fallow_summary_batches", "Writes of summaries that succeeded", counters.batches)
    yield _counter("fallow_summary_failures", "Writes of summaries that failed", counters.failures)
    yield _counter("fallow_summary_write_seconds", "Time spent writing summaries", counters.seconds)


def commit_histogram(registry: CollectorRegistry) -> Histogram:
    """Time of each group commit."""
    return Histogram(
        "fallow_journal_commit_seconds", "Time of a group commit", buckets=_COMMIT_BUCKETS_S, registry=registry
    )


def exposition(registry: CollectorRegistry) -> Callable[[], bytes]:
    """The Prometheus text, made when called."""
    return lambda: generate_latest(registry)


def _certificate_metrics(certificate: Certificate) -> Iterator[Metric]:
    yield _gauge("fallow_tls_expires_timestamp_seconds", "When the certificate ends, Unix time", certificate.expires_s)
    yield _counter("fallow_tls_reload_failures", "New certificates that could not be used", certificate.failures)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
