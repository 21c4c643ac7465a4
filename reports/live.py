"""The aggregator's own health, asked of its admin door: what it takes in, what waits, what its flushes do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite

from prometheus_client.parser import text_string_to_metric_families

from aggregator.admin_client import AdminUnavailable
from aggregator.rows import ROW_BYTES
from reports.node_doors import Door, NodeDoor, in_parallel
from reports.nodes import Node

# After the last time that a sample can have: the answer has the aggregator's clock, and not all of its VMs.
_NEVER_S = 2**32 - 1
_REJECTS = "fallow_rejects_total"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingest:
    """The agents' door since the aggregator started.

    Attributes:
        pushes: acknowledged.
        samples: acknowledged, without those that were here already and those refused.
        duplicates, conflicts, too_old: samples that were here already, whose time another had, past the retention.
        rejects: requests refused, by reason, each more than 0, in the order of their names.
        vms: heard of in the last day.
        last_push_s: when the newest push came, Unix seconds; None: none yet.
        errors: mistakes of the aggregator itself.
    """

    pushes: int
    samples: int
    duplicates: int
    conflicts: int
    too_old: int
    rejects: tuple[tuple[str, int], ...]
    connections: int
    connections_refused: int
    vms: int
    last_push_s: float | None
    errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flushes:
    """The way from memory to the stores since the aggregator started.

    Attributes:
        last_s: when the last one ended, Unix seconds; None: none yet.
        overruns: left out because one was running.
        store_failures: stores that could not take their samples, each time.
        stores_lost: damaged stores moved aside.
        summary_failures: writes of summaries that failed.
        conflicts: samples of which the store knows that another was first.
    """

    count: int
    last_s: float | None
    last_duration_s: float
    overruns: int
    samples: int
    conflicts: int
    store_failures: int
    stores_lost: int
    summary_failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalHealth:
    """What makes an acknowledgement durable.

    Attributes:
        healthy: it takes records.
        size_bytes: of all segments on disk.
        queued_bytes: that wait for the disk.
        failed_commits: groups that could not be made durable.
        damaged_records: damaged runs skipped at the last start.
    """

    healthy: bool
    size_bytes: int
    queued_bytes: int
    failed_commits: int
    damaged_records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """An aggregator that answers.

    Attributes:
        now_s: its clock, by which its other times are to be judged, Unix seconds.
        ready: pushes are taken.
        buffered_samples: acknowledged and not in a store yet.
    """

    now_s: float
    ready: bool
    buffered_samples: int
    ingest: Ingest
    flushes: Flushes
    journal: JournalHealth

    @property
    def buffered_bytes(self) -> int:
        """Memory that the samples take that are in no store yet."""
        return self.buffered_samples * ROW_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class NotLive:
    """No health to show. `reason`: a sentence in plain words."""

    reason: str


class AdminLive:
    """Asks the running aggregator behind a door."""

    def __init__(self, door: Door) -> None:
        self._client = door

    def read(self) -> Live | NotLive:
        """Its health now, or why there is none to be had. Blocks: call it in a thread."""
        try:
            now_s = self._now_s()
            answer = self._client.get("/metrics")
        except AdminUnavailable as error:
            return NotLive(reason=error.reason)
        if answer.status != 200:
            return NotLive(reason=f"{self._client.place} answered {answer.status} to /metrics")
        try:
            return parse_metrics(answer.body.decode("utf-8"), now_s=now_s)
        except ValueError as error:
            return NotLive(reason=f"{self._client.place} has metrics that cannot be read: {error}")

    def _now_s(self) -> float:
        document = self._client.get_json(f"/v1/live?since={_NEVER_S}")
        now_s = document.get("now_s") if isinstance(document, dict) else None
        if not isinstance(now_s, int | float):
            raise AdminUnavailable(f"{self._client.place} does not tell its time")
        return float(now_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLive:
    """One aggregator's health. `node`: None where it has told nothing of itself to the fleet database."""

    node: Node | None
    health: Live | NotLive


def read_all(doors: Iterable[NodeDoor]) -> tuple[NodeLive, ...]:
    """Every node's, asked at the same time. Blocks: call it in a thread."""
    return tuple(in_parallel(lambda one: NodeLive(node=one.node, health=AdminLive(one.door).read()), doors))


def parse_metrics(text: str, *, now_s: float) -> Live:
    """The text of `/metrics` as values.

    Raises: ValueError: it is not the format of Prometheus, or lacks a figure that is wanted.
    """
    figures: dict[str, float] = {}
    rejects: dict[str, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == _REJECTS:
                rejects[sample.labels.get("reason", "")] = _whole(sample.name, float(sample.value))
            elif not sample.labels:
                figures[sample.name] = float(sample.value)  # the parser gives an int where there is no point
    return Live(
        now_s=now_s,
        ready=_figure(figures, "fallow_ready") == 1.0,
        buffered_samples=_count(figures, "fallow_buffered_samples"),
        ingest=Ingest(
            pushes=_count(figures, "fallow_pushes_total"),
            samples=_count(figures, "fallow_samples_total"),
            duplicates=_count(figures, "fallow_duplicates_total"),
            conflicts=_count(figures, "fallow_conflicts_total"),
            too_old=_count(figures, "fallow_samples_too_old_total"),
            rejects=tuple((reason, count) for reason, count in sorted(rejects.items()) if count > 0),
            connections=_count(figures, "fallow_connections"),
            connections_refused=_count(figures, "fallow_connections_refused_total"),
            vms=_count(figures, "fallow_vms_in_memory"),
            last_push_s=_figure(figures, "fallow_last_seen_seconds") or None,
            errors=_count(figures, "fallow_errors_total"),
        ),
        flushes=Flushes(
            count=_count(figures, "fallow_flushes_total"),
            last_s=_figure(figures, "fallow_last_flush_seconds") or None,
            last_duration_s=_figure(figures, "fallow_last_flush_duration_seconds"),
            overruns=_count(figures, "fallow_flush_overruns_total"),
            samples=_count(figures, "fallow_flushed_samples_total"),
            conflicts=_count(figures, "fallow_flushed_conflicts_total"),
            store_failures=_count(figures, "fallow_store_failures_total"),
            stores_lost=_count(figures, "fallow_stores_lost_total"),
            summary_failures=_count(figures, "fallow_summary_failures_total"),
        ),
        journal=JournalHealth(
            healthy=_figure(figures, "fallow_journal_healthy") == 1.0,
            size_bytes=_count(figures, "fallow_journal_bytes"),
            queued_bytes=_count(figures, "fallow_journal_queued_bytes"),
            failed_commits=_count(figures, "fallow_journal_failed_commits_total"),
            damaged_records=_count(figures, "fallow_journal_damaged_records_total"),
        ),
    )


def _figure(figures: Mapping[str, float], name: str) -> float:
    if name not in figures:
        raise ValueError(f"{name} is missing: the aggregator may be of another version")
    if not isfinite(figures[name]):
        raise ValueError(f"{name}: {figures[name]} is no number of anything")
    return figures[name]


def _count(figures: Mapping[str, float], name: str) -> int:
    return _whole(name, _figure(figures, name))


def _whole(name: str, value: float) -> int:
    if not value.is_integer() or value < 0:
        raise ValueError(f"{name}: {value} is no count")
    return int(value)
