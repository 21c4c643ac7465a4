"""A fleet database for the benchmarks of the report: rows of every table that a report reads, as the aggregator writes.

A few hundred VMs with histories of their own are made through the aggregator's roll-up and windows; every VM of the
fleet has the figures and histograms of one of them, and a name, size, owner and past of its own.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import sqlalchemy as sa

from aggregator.fleet import node, vm, vm_evidence, vm_part, vm_summary, vm_window
from aggregator.fleet_db import SCHEMA_REVISION, open_fleet
from aggregator.histogram import Floats, Ints
from aggregator.rollup import ABSENT, roll_up
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.summary import WINDOWS_DAYS, Figures, flags_of
from aggregator.windows import read_figures, rebuild
from reports.schema import open_report_db

_CHUNK_VMS = 20_000
_DAY_S = 86_400
_INTERVAL_S = 300
_HISTORY_DAYS = 31
_SINCE_FLUSH_S = 300
# Of the VMs of several nodes: those that have just gone from one to another.
_PARTED_SHARE = 0.001
_GIB = 1 << 30
_COLUMN = {name: index for index, name in enumerate(SAMPLE_COLUMNS)}
_CPU_COUNTS, _CPU_WEIGHTS = (1, 2, 4, 8, 16, 32), (10, 30, 30, 20, 8, 2)
_GIB_PER_CPU = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the VMs of a kind do, before noise: CPU at rest and at work, and which share of the minutes is work."""

    share: int
    rest_ratio: float
    work_ratio: float
    work_share: float
    only_by_day: bool
    mem_ratio: float
    traffic_bytes_per_s: float


_KINDS = (
    _Kind(20, 0.003, 0.05, 0.001, False, 0.15, 20.0),
    _Kind(15, 0.006, 0.20, 0.030, False, 0.20, 400.0),
    _Kind(15, 0.008, 0.35, 0.900, True, 0.45, 60_000.0),
    _Kind(15, 0.060, 0.15, 0.300, False, 0.20, 20_000.0),
    _Kind(10, 0.004, 0.80, 0.080, False, 0.40, 5_000.0),
    _Kind(25, 0.250, 0.70, 0.500, False, 0.65, 400_000.0),
)


class _History(NamedTuple):
    """What the aggregator makes of one history."""

    figures: tuple[Figures, ...]
    evidence: bytes


# While a fleet is built: the histories, and which VM has which of them.
_building = sa.MetaData()
_figures = sa.Table(
    "bench_figures",
    _building,
    sa.Column("history", sa.Integer, nullable=False),
    *(
        sa.Column(column.name, column.type, nullable=column.nullable)
        for column in vm_window.columns
        if column.name not in {"vm_id", "end_s"}
    ),
)
_bodies = sa.Table(
    "bench_bodies",
    _building,
    sa.Column("history", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
_members = sa.Table(
    "bench_members",
    _building,
    sa.Column("vm_id", sa.String(64), primary_key=True),
    sa.Column("history", sa.Integer, nullable=False),
    sa.Column("newest_s", sa.BigInteger, nullable=False),
    sa.Column("age_s", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)


def build_fleet(
    data: Path, *, vms: int, now_s: int, seed: int, url: str | None = None, histories: int = 300, nodes: int = 1
) -> None:
    """A fleet database: `fleet.db` in `data`, or at `url`. Repeatable, rows in no order, some VMs of every verdict.

    Args:
        now_s: time of the report; the newest flush was five minutes before.
        histories: VMs whose samples are made and rolled up, about 0.03 s each.
        nodes: aggregators that have the VMs' histories; of a few VMs of more than one, two have a part.
    """
    # Alembic is what an aggregator starts with; reports and the other benchmarks do without.
    from aggregator.fleet_db import migrate  # noqa: PLC0415

    engine = open_fleet(url, data)
    try:
        migrate(engine)
        draw = random.Random(seed)
        pool = _pool(draw, now_s, min(histories, max(vms, 1)))
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                _hurry(connection)
            _building.create_all(connection)
            _insert_pool(connection, pool)
            names = [f"node-{number}" for number in range(nodes)]
            _insert(connection, node, [_node(name, now_s, vms // nodes) for name in names])
            fleet = _fleet(draw, len(pool), now_s, vms)
            while chunk := list(islice(fleet, _CHUNK_VMS)):
                _insert_vms(connection, chunk, names)
                connection.commit()
            _building.drop_all(connection)
            connection.commit()
    finally:
        engine.dispose()
    open_report_db(url, data).dispose()


def _hurry(connection: sa.Connection) -> None:
    """A database that is only being made need not survive a power cut; its pages fit the memory of a build."""
    driver = connection.connection.driver_connection
    assert driver is not None
    for pragma in ("synchronous = OFF", "cache_size = -800000"):
        driver.execute(f"PRAGMA {pragma}")


def _insert_pool(connection: sa.Connection, pool: Sequence[_History]) -> None:
    names = [column.name for column in _figures.columns]
    rows = [
        dict(
            zip(
                names,
                (place, each.window_days, each.start_s, each.covered_s, each.users_s, *each.statistics),
                strict=True,
            )
        )
        for place, history in enumerate(pool)
        for each in history.figures
    ]
    connection.execute(sa.insert(_figures), rows)
    connection.execute(
        sa.insert(_bodies), [{"history": place, "body": history.evidence} for place, history in enumerate(pool)]
    )


class _Made(NamedTuple):
    """One VM's row of each table; without a summary it never reported."""

    vm: dict[str, object]
    summary: dict[str, object] | None
    history: int


def _insert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows of the same columns."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        connection.execute(sa.insert(table), rows)
        return
    driver = connection.connection.driver_connection
    assert driver is not None
    names = list(rows[0])
    with driver.cursor().copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row([row[name] for name in names])


def _node(name: str, now_s: int, vms: int) -> dict[str, object]:
    return {
        "node": name,
        "version": "1.0",
        "revision": SCHEMA_REVISION,
        "state": "up",
        "started_s": now_s - _DAY_S,
        "seen_s": now_s,
        "vms": vms,
        "owed": 0,
    }


def _insert_vms(connection: sa.Connection, chunk: Sequence[_Made], nodes: Sequence[str]) -> None:
    _insert(connection, vm, [made.vm for made in chunk])
    summaries = [(made.summary, made.history) for made in chunk if made.summary is not None]
    if not summaries:
        return
    # An id is random, and says where its VM is as a load balancer's hash would.
    homes = [int(str(summary["vm_id"])[:8], 16) % len(nodes) for summary, _ in summaries]
    _insert(
        connection,
        vm_summary,
        [{**summary, "node": nodes[home]} for (summary, _), home in zip(summaries, homes, strict=True)],
    )
    parted = summaries[:: round(1 / _PARTED_SHARE)] if len(nodes) > 1 else []
    _insert(
        connection,
        vm_part,
        [
            {
                "vm_id": summary["vm_id"],
                "node": nodes[(home + 1) % len(nodes)],
                "oldest_s": summary["oldest_s"],
                "newest_s": cast(int, summary["newest_s"]) - 3600,
                "noted_s": summary["updated_s"],
            }
            for (summary, _), home in zip(parted, homes[:: round(1 / _PARTED_SHARE)], strict=False)
        ],
    )
    connection.execute(sa.delete(_members))
    _insert(
        connection,
        _members,
        [
            {
                "vm_id": summary["vm_id"],
                "history": history,
                "newest_s": summary["newest_s"],
                "age_s": cast(int, summary["newest_s"]) - cast(int, summary["oldest_s"]),
            }
            for summary, history in summaries
        ],
    )
    members = _members.c
    covered_s = sa.case((_figures.c.covered_s > members.age_s, members.age_s), else_=_figures.c.covered_s)
    columns: dict[str, sa.ColumnElement[Any]] = {
        column.name: _figures.c[column.name]
        for column in vm_window.columns
        if column.name not in {"vm_id", "end_s", "covered_s"}
    } | {"vm_id": members.vm_id, "end_s": members.newest_s, "covered_s": covered_s}
    figures = sa.select(*(columns[column.name] for column in vm_window.columns)).where(
        _figures.c.history == members.history
    )
    connection.execute(sa.insert(vm_window).from_select([column.name for column in vm_window.columns], figures))
    hour_s = members.newest_s - members.newest_s % 3600
    bodies = sa.select(members.vm_id, hour_s, _bodies.c.body).where(_bodies.c.history == members.history)
    connection.execute(sa.insert(vm_evidence).from_select(["vm_id", "hour_s", "body"], bodies))


def _fleet(draw: random.Random, histories: int, now_s: int, vms: int) -> Iterator[_Made]:
    for place in range(vms):
        vm_id = str(uuid.UUID(int=draw.getrandbits(128), version=4))
        luck = draw.random()
        tags = ["production", "fallow:keep"] if luck < 0.02 else ["production"] if luck < 0.3 else []
        row: dict[str, object] = {
            "vm_id": vm_id,
            "name": f"vm-{place}",
            "hostname": f"host-{place}.example",
            "owner": f"team-{place % 97}",
            "mail": f"team-{place % 97}@example.org",
            "tags": json.dumps(tags),
            "power_state": draw.choices((None, "on", "off"), (60, 39, 1))[0],
            "enrolled_s": now_s - 60 * _DAY_S if luck < 0.98 else None,
        }
        yield _Made(row, _summary(draw, vm_id, now_s) if luck < 0.98 else None, draw.randrange(histories))


def _summary(draw: random.Random, vm_id: str, now_s: int) -> dict[str, object]:
    cpu_count = draw.choices(_CPU_COUNTS, _CPU_WEIGHTS)[0]
    is_silent, is_new = draw.random() < 0.03, draw.random() < 0.03
    flushed_s = (now_s - _SINCE_FLUSH_S) // 60 * 60
    newest_s = flushed_s - (draw.randrange(1, 20) * _DAY_S if is_silent else 60 * draw.randrange(3))
    skew_s = draw.gauss(0, 1) if draw.random() < 0.995 else 7200.0
    return {
        "vm_id": vm_id,
        "oldest_s": newest_s - (draw.randrange(1, 12) if is_new else 60) * _DAY_S,
        "newest_s": newest_s,
        "received_s": newest_s + 1.5,
        "skew_s": skew_s,
        "interval_s": 60,
        "conflicts": draw.randrange(1, 900) if draw.random() < 0.001 else 0,
        "cpu_count": cpu_count,
        # The kernel keeps some of it, differently on each machine.
        "mem_total_bytes": cpu_count * draw.choice(_GIB_PER_CPU) * _GIB - draw.randrange(2**16, 2**18) * 1024,
        "disk_total_bytes": draw.choice((20, 40, 80, 160)) * _GIB,
        "flags": json.dumps(flags_of(skew_s, identity_conflict=draw.random() < 0.001, replaced=False)),
        "updated_s": float(flushed_s),
    }


def _pool(draw: random.Random, now_s: int, histories: int) -> list[_History]:
    generator = np.random.default_rng(draw.getrandbits(64))
    shares = [kind.share for kind in _KINDS]
    return [_history(generator, kind, now_s) for kind in draw.choices(_KINDS, shares, k=histories)]


def _history(generator: np.random.Generator, kind: _Kind, now_s: int) -> _History:
    table = _samples(generator, kind, (now_s - _SINCE_FLUSH_S) // _INTERVAL_S * _INTERVAL_S)
    hours = [hour for _, hour in roll_up(np.zeros(len(table), np.int64), table)]
    windows = rebuild(WINDOWS_DAYS, hours[-1].number, hours)
    (figures,) = read_figures([windows], [hours[-1]])
    return _History(tuple(figures), windows.encode())


def _samples(generator: np.random.Generator, kind: _Kind, newest_s: int) -> Ints:
    count = _HISTORY_DAYS * _DAY_S // _INTERVAL_S
    ts = newest_s - _INTERVAL_S * np.arange(count - 1, -1, -1)

    def noise(sigma: float) -> Floats:
        return generator.lognormal(0.0, sigma, count)

    # 1 January 1970 was a Thursday.
    weekday, hour = ((ts - 1) // _DAY_S + 3) % 7, (ts - 1) // 3600 % 24
    works = generator.random(count) < kind.work_share
    if kind.only_by_day:
        works &= (weekday < 5) & (hour >= 8) & (hour < 18)
    own = generator.lognormal(0.0, 0.4)
    busy = np.minimum(np.where(works, kind.work_ratio, kind.rest_ratio) * own * noise(0.3), 1.0)
    mem_total, disk_total = 8 << 20, 40 << 20  # KiB
    traffic = kind.traffic_bytes_per_s * np.where(works, 1.0, 0.1)
    memory_ratio = kind.mem_ratio * (1.0 + 0.2 * generator.random(count))
    given = {
        "ts": ts,
        "interval_s": np.full(count, _INTERVAL_S),
        "cpu_busy": busy * 1e5,
        "cpu_max": np.minimum(busy * (1.0 + 2.0 * generator.random(count)), 1.0) * 1e5,
        "mem_total": np.full(count, mem_total),
        "mem_used": mem_total * memory_ratio,
        "disk_total": np.full(count, disk_total),
        "disk_used": disk_total * (0.2 + 0.1 * np.arange(count) / count),
        "disk_read": 0.5 * traffic * noise(1.0),
        "disk_write": traffic * noise(1.0) + 2_000.0,
        "net_rx": traffic * noise(0.8) + 20.0,
        "net_tx": traffic * noise(0.8) + 10.0,
        "users": np.where(works & kind.only_by_day, 2, 0),
    }
    table = np.full((count, len(SAMPLE_COLUMNS)), ABSENT, np.int64)
    for name, values in given.items():
        table[:, _COLUMN[name]] = np.rint(values)
    return table
