"""Recorded VMs for tests: made from a few series, and what a flush of the same samples leaves in the fleet database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from agent.sample import FIELDS
from agent.traces import BITBRAINS_COLUMNS, Dirt, Figures, Recording
from agent.wire import encode_batch
from aggregator.decode import decode_push
from aggregator.fleet import vm as vms
from aggregator.fleet_db import migrate, open_fleet
from aggregator.summaries import SummaryWriter
from aggregator.summary import WINDOWS_DAYS
from aggregator.worker import FlushWorker
from reports.facts import Facts
from reports.fleet import read_facts, snapshot
from tests.aggregator.store_fakes import settings, share

DAY_S = 86_400
GIB = 2**30
# A Monday, 00:00 UTC.
START_S = 1_699_833_600
_COLUMN = {field.column: field.name for field in FIELDS}
Series = float | Sequence[float] | np.ndarray


def recording(vm: str, cpu: Series, *, start_s: int = START_S, interval_s: int = 1800, **figures: Series) -> Recording:
    """A VM whose first interval begins at `start_s`.

    Args:
        cpu: CPU ratio of each sample.
        figures: by column of a sample (`net_rx`, `cpu_count`), one for all samples or one each; NaN is not measured.
            2 vCPUs and 4 GiB, half of it used, unless told.
    """
    series = np.asarray(cpu, float)
    given: Mapping[str, Series] = {
        "cpu_count": 2,
        "mem_total": 4 * GIB,
        "mem_used": 2 * GIB,
        **figures,
        "cpu_busy": cpu,
    }
    names = [field.column for field in FIELDS if field.column in given]
    table = np.column_stack([np.broadcast_to(np.asarray(given[name], float), series.shape) for name in names])
    rows: list[tuple[int, Figures]] = [
        (start_s + (number + 1) * interval_s, tuple(None if np.isnan(value) else value for value in row))
        for number, row in enumerate(table.tolist())
    ]
    return Recording(
        vm=vm,
        source=vm,
        interval_s=interval_s,
        fields=tuple(_COLUMN[name] for name in names),
        rows=rows,
        dirt=Dirt(rows=len(rows), kept=len(rows)),
    )


def write_bitbrains(folder: Path, recordings: Sequence[Recording]) -> Path:
    """The recordings as a folder in the Bitbrains layout, each file named as its VM."""
    folder.mkdir(parents=True, exist_ok=True)
    order = ("cpu_count", "mem_total", "mem_used", "disk_read", "disk_write", "net_rx", "net_tx")
    for one in recordings:
        lines = [";\t".join(BITBRAINS_COLUMNS)]
        for ts, figures in one.rows:
            found = dict(zip(one.fields, figures, strict=True))
            cores, total, used, *rates = (found.get(_COLUMN[name]) or 0 for name in order)
            cpu = 100 * (found["cpu_busy_ratio"] or 0.0)
            cells = (ts, cores, 2000 * cores, 0, cpu, total / 1024, used / 1024, *(rate / 1024 for rate in rates))
            lines.append(";\t".join(f"{cell:.10g}" for cell in cells))
        (folder / f"{one.vm}.csv").write_text("\n".join(lines) + "\n")
    return folder


def packed_rows(one: Recording) -> bytes:
    """Its samples by way of the wire: JSON, decoder, packed rows."""
    texts = list(one.texts())
    parts = []
    for begin in range(0, len(texts), 500):
        body = encode_batch(
            vm=one.vm,
            boot="b",
            seq=begin,
            sent_s=1e9,
            interval_s=one.interval_s,
            samples=texts[begin : begin + 500],
        )
        parts.append(decode_push(body, content_encoding=None, now_s=2e9).rows)
    return b"".join(parts)


@contextmanager
def flushed(data: Path, recordings: Sequence[Recording]) -> Iterator[Facts]:
    """The facts that a report reads after the aggregator's own worker and writer took these samples."""
    machine = FlushWorker(settings(data, windows_days=WINDOWS_DAYS))
    shares = [share(one.vm, packed_rows(one), received_s=1.0) for one in recordings]
    result = machine.flush(shares, now_s=float(START_S), may_forget=False)
    assert not result.failures
    engine = open_fleet(None, data)
    try:
        migrate(engine)
        with engine.begin() as connection:
            connection.execute(
                sa.insert(vms), [{"vm_id": one.vm, "tags": "[]", "enrolled_s": one.rows[0][0]} for one in recordings]
            )
        SummaryWriter(engine).write(result.summaries, now_s=float(START_S))
        with snapshot(engine) as connection:
            (facts,) = read_facts(connection, WINDOWS_DAYS)
        yield facts
    finally:
        engine.dispose()
