"""Bugs to plant: parts that do wrong, handed in where the product's own would be. The oracle has to find each."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.push import Reply
from aggregator.agents_door import AgentsDoor
from aggregator.answers import STORED
from aggregator.decode import Push
from aggregator.flush import JournalLike
from aggregator.journal_files import Files
from aggregator.pool import ChunkDone, Workers
from aggregator.rows import ROW_BYTES, row_ts
from aggregator.store_files import store_path
from aggregator.summary import ChunkResult, Taken
from aggregator.tokens import Revocations
from orchestrate.sighting import Sighting
from tests.aggregator.store_fakes import change_in
from tests.whole.machine import MachineSpool, PlantedInAgents


def _same(part: Any, *_: object) -> Any:
    return part


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """What each part is wrapped into; nothing, unless a bug is planted.

    Args:
        files: the journal's disk. journal: as the flusher asks it. replayed: segments, at the start.
        workers: of flushes, and where their stores lie. revocations: as the door asks. door: the kind of connection.
        sighting: as the controller takes one at a time.
    """

    files: Callable[[Files], Files] = _same
    journal: Callable[[JournalLike], JournalLike] = _same
    replayed: Callable[[Sequence[int]], Sequence[int]] = _same
    workers: Callable[[Workers, Path], Workers] = _same
    revocations: Callable[[Revocations], Revocations] = _same
    door: type[AgentsDoor] = AgentsDoor
    sighting: Callable[[Sighting, float], Sighting] = _same
    agents: PlantedInAgents = field(default_factory=PlantedInAgents)


class _HastyDoor(AgentsDoor):
    """Acknowledges before the disk has it."""

    def keep(self, push: Push, received_s: float) -> None:
        super().keep(push, received_s)
        if self.slots:
            self.slots[-1].settle(STORED)


class _Files:
    """Passes everything on."""

    def __init__(self, files: Any) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)


class _SyncAgain(_Files):
    """Syncs a file once more whose sync failed."""

    def fdatasync(self, descriptor: int) -> None:
        try:
            self._files.fdatasync(descriptor)
        except OSError:
            self._files.fdatasync(descriptor)


class _NoSync(_Files):
    """Leaves the sync out."""

    def fdatasync(self, descriptor: int) -> None:
        """Nothing."""


class _HastyJournal:
    """Drops a segment as soon as it is closed."""

    def __init__(self, journal: JournalLike) -> None:
        self._journal = journal

    def rotate(self, done: Callable[[int], None]) -> None:
        def rotated(segment: int) -> None:
            done(segment)
            self._journal.drop_through(segment)

        self._journal.rotate(rotated)

    def drop_through(self, segment: int) -> None:
        self._journal.drop_through(segment)


class _Workers:
    """Passes chunks on; something is done to each before, or to its stores after."""

    def __init__(self, workers: Workers, data_dir: Path) -> None:
        self._workers = workers
        self._data_dir = data_dir

    @property
    def partitions(self) -> int:
        return self._workers.partitions

    def submit(self, partition: int, chunk: list[Taken], now_s: float, may_forget: bool, done: ChunkDone) -> None:
        def finished(result: ChunkResult) -> None:
            self.after(chunk, now_s)
            done(self.told(result))

        self._workers.submit(partition, self.before(chunk), now_s, may_forget, finished)

    def stop(self) -> None:
        self._workers.stop()

    def before(self, chunk: list[Taken]) -> list[Taken]:
        return chunk

    def after(self, chunk: Sequence[Taken], now_s: float) -> None:
        """Nothing."""

    def told(self, result: ChunkResult) -> ChunkResult:
        return result

    def run(self, vm_id: str, sql: str, *values: object) -> None:
        path = store_path(self._data_dir, vm_id)
        if path.exists():
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                change_in(connection, sql, *values)


class _CountsTwice(_Workers):
    """Adds to an hour what it holds already."""

    def after(self, chunk: Sequence[Taken], now_s: float) -> None:
        for share in chunk:
            if share.rows:
                self.run(share.vm_id, "UPDATE hour SET samples = samples + 1, covered_s = covered_s + 60")


class _LastWins(_Workers):
    """Puts a later sample in the place of the first."""

    def before(self, chunk: list[Taken]) -> list[Taken]:
        for share in chunk:
            for index in range(len(share.rows) // ROW_BYTES):
                self.run(share.vm_id, "DELETE FROM sample WHERE ts = ?", row_ts(share.rows, index))
        return chunk


class _ForgetsConflicts(_Workers):
    """Does not count samples that differ."""

    def before(self, chunk: list[Taken]) -> list[Taken]:
        return [share._replace(conflicts=0) for share in chunk]


class _TrustsTheClock(_Workers):
    """Deletes by whatever the clock says."""

    def after(self, chunk: Sequence[Taken], now_s: float) -> None:
        for share in chunk:
            self.run(share.vm_id, "DELETE FROM sample WHERE ts < ?", now_s - 14 * 86_400.0)


class _TellsNoFailure(_Workers):
    """Says that every store took its rows."""

    def told(self, result: ChunkResult) -> ChunkResult:
        return result._replace(failures={})


class _SilentSpool(MachineSpool):
    """Does not count what it drops."""

    def _keep_bounds(self) -> None:
        before = self.dropped_total
        super()._keep_bounds()
        self.dropped_total = before


class _ForgetfulSpool(MachineSpool):
    """Notes the place of its acks one sample too far."""

    def _load_acked(self) -> tuple[int, ...]:  # type: ignore[override]
        number, offset_bytes, *rest = super()._load_acked()
        path = self._path(number)
        content = path.read_bytes() if path.exists() else b""
        return number, content.find(b"\n", offset_bytes) + 1 or offset_bytes, *rest


def _takes_503_for_done(reply: Reply) -> Reply:
    return replace(reply, status=204, body=b"") if reply.status == 503 else reply


def _always_fresh(sighting: Sighting, now_s: float) -> Sighting:
    minutes = tuple(replace(one, ts_s=now_s) for one in sighting.minutes)
    return replace(sighting, newest_s=now_s, minutes=minutes)


PLANTED: Mapping[str, Planted] = {
    "acknowledges before the disk has it": Planted(door=_HastyDoor),
    "syncs nothing": Planted(files=_NoSync),
    "syncs again what failed to": Planted(files=_SyncAgain),
    "drops a segment before the stores have it": Planted(journal=_HastyJournal),
    "replays nothing": Planted(replayed=lambda _segments: ()),
    "leaves the oldest segment out": Planted(replayed=lambda segments: tuple(segments)[1:]),
    "takes every store for written": Planted(workers=_TellsNoFailure),
    "counts an hour twice": Planted(workers=_CountsTwice),
    "keeps the last of two": Planted(workers=_LastWins),
    "counts no conflicts": Planted(workers=_ForgetsConflicts),
    "deletes by a wrong clock": Planted(workers=_TrustsTheClock),
    "hears of no revocation": Planted(revocations=lambda _known: Revocations({})),
    "skips a drop counter": Planted(agents=PlantedInAgents(spool=_SilentSpool)),
    "skips a sample after a restart": Planted(agents=PlantedInAgents(spool=_ForgetfulSpool)),
    "takes old figures for fresh": Planted(sighting=_always_fresh),
    "ignores flags": Planted(sighting=lambda told, _now_s: replace(told, flags=(), skew_s=0.0)),
    "takes a 503 for done": Planted(agents=PlantedInAgents(reply=_takes_503_for_done)),
}
