"""Fleets for the tests of the report: a line a VM, made into rows of a real fleet database or into `Facts`.

What a VM does is a `Load`; its figures and histograms come from the aggregator's own roll-up and windows, so that a
test reads what a report would read. A load is worked out once, however many VMs and tests share it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from hypothesis import strategies as st

from agent.sample import FIELDS
from aggregator import fleet
from aggregator.evidence import Evidence
from aggregator.fleet_db import FLEET, migrate, open_fleet
from aggregator.histogram import Floats
from aggregator.rollup import ABSENT, Hour, roll_up
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.summaries import SummaryWriter
from aggregator.summary import STATISTIC_COLUMNS, WINDOWS_DAYS, Figures, Summary, flags_of
from aggregator.windows import read_figures, rebuild
from reports import tables
from reports.facts import DAY_S, Facts, Vm, WindowFacts
from reports.policies import DEFAULT_POLICY, POLICIES
from reports.report import Question
from reports.schema import REPORT, open_report_db
from reports.verdicts import Settings, Verdict

# A Monday noon, 400 s after an hour began: newest samples end an hour, so that full windows are full.
NOW_S = datetime(2026, 11, 16, 12, tzinfo=UTC).timestamp() + 400.0
NEWEST_S = int(NOW_S) - 400
INTERVAL_S = 300
GIB = 2**30
_COLUMN = {name: index for index, name in enumerate(SAMPLE_COLUMNS)}
_FIELD = {field.column: field for field in FIELDS}


@dataclass(frozen=True, slots=True)
class Constant:
    """The same at all times."""

    value: float

    def at(self, ts: Floats) -> Floats:
        return np.full(len(ts), self.value)


@dataclass(frozen=True, slots=True)
class Office:
    """`work` on Monday to Friday from 9 to 17 UTC, `rest` else."""

    work: float
    rest: float = 0.003

    def at(self, ts: Floats) -> Floats:
        # 1 January 1970 was a Thursday. A sample ends its interval.
        begun = ts - INTERVAL_S
        weekday, hour = (begun // DAY_S + 3) % 7, begun // 3600 % 24
        return np.where((weekday < 5) & (hour >= 9) & (hour < 17), self.work, self.rest)


@dataclass(frozen=True, slots=True)
class Spiky:
    """`peak` for one sample every `every_h` hours, `rest` else."""

    peak: float
    every_h: float
    rest: float = 0.003

    def at(self, ts: Floats) -> Floats:
        return np.where(ts % (self.every_h * 3600) < INTERVAL_S, self.peak, self.rest)


@dataclass(frozen=True, slots=True)
class Noise:
    """Anything between `low` and `high`, the same every time for a seed."""

    low: float
    high: float
    seed: int = 1

    def at(self, ts: Floats) -> Floats:
        return np.random.default_rng(self.seed).uniform(self.low, self.high, len(ts))


Shape = Constant | Office | Spiky | Noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a VM does. Shares of its size and bytes a second; None is not measured. Defaults: asleep."""

    cpu: Shape = Constant(0.003)
    burst: Shape | None = Constant(0.02)
    mem: Shape = Constant(0.2)
    disk: Shape | None = Constant(0.3)
    disk_read: Shape | None = Constant(500.0)
    disk_write: Shape | None = Constant(2_000.0)
    net_rx: Shape | None = Constant(10.0)
    net_tx: Shape | None = Constant(5.0)
    users: Shape | None = Constant(0.0)


ASLEEP = Load()
BUSY = Load(
    cpu=Constant(0.55),
    burst=Constant(0.95),
    mem=Constant(0.7),
    disk_write=Constant(3e6),
    net_rx=Constant(4e5),
    net_tx=Constant(6e5),
)
OFFICE = Load(cpu=Office(0.4), burst=Office(0.9, 0.05), mem=Constant(0.75), net_rx=Office(5e5, 20.0))
OVERSIZED = Load(cpu=Noise(0.08, 0.2), burst=Constant(0.5), mem=Constant(0.15), net_rx=Constant(5e4))
SPIKY = Load(cpu=Spiky(0.9, 24.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One VM of a fleet; by default one that has been asleep for six weeks.

    Args:
        load: None: it never reported.
        enrolled: False: known from an import alone, runs no agent.
        history_days: how far its samples reach back from its newest one.
        coverage_ratio: share of its samples that arrived.
        silent_s: how much older than NEWEST_S its newest sample is.
        vcpus, mem_gib, disk_gib: None: the size is not known.
        skew_s: above 120 s the aggregator flags it.
    """

    vm_id: str = "vm-a"
    name: str | None = None
    hostname: str | None = None
    owner: str | None = None
    mail: str | None = None
    tags: tuple[str, ...] = ()
    power_state: str | None = None
    enrolled: bool = True
    load: Load | None = ASLEEP
    history_days: int = 42
    coverage_ratio: float = 1.0
    silent_s: int = 0
    vcpus: int | None = 4
    mem_gib: float | None = 8.0
    disk_gib: float | None = 40.0
    skew_s: float = 0.2
    identity_conflict: bool = False
    conflicts: int = 0

    @property
    def newest_s(self) -> int:
        return NEWEST_S - self.silent_s

    @property
    def enrolled_s(self) -> int | None:
        return self.newest_s - self.history_days * DAY_S if self.enrolled else None

    @property
    def flags(self) -> tuple[str, ...]:
        return tuple(flags_of(self.skew_s, identity_conflict=self.identity_conflict, replaced=False))


class Worked(NamedTuple):
    """What a load comes to."""

    oldest_s: int
    figures: tuple[Figures, ...]
    evidence: bytes
    evidence_hour_s: int


@lru_cache(maxsize=512)
def work_out(load: Load, history_days: int, coverage_ratio: float, newest_s: int) -> Worked:
    """A load's figures and histograms, by the aggregator's own code."""
    table = _samples(load, history_days, coverage_ratio, newest_s)
    hours: list[Hour] = [hour for _, hour in roll_up(np.zeros(len(table), np.int64), table)]
    windows = rebuild(WINDOWS_DAYS, hours[-1].number, hours)
    (figures,) = read_figures([windows], [hours[-1]])
    return Worked(hours[0].number * 3600, tuple(figures), windows.encode(), windows.open_hour * 3600)


def _samples(load: Load, history_days: int, coverage_ratio: float, newest_s: int) -> np.ndarray:
    count = history_days * DAY_S // INTERVAL_S
    arrived = np.floor(np.arange(1, count + 1) * coverage_ratio) > np.floor(np.arange(count) * coverage_ratio)
    arrived[-1] = True
    ts = (newest_s - INTERVAL_S * np.arange(count - 1, -1, -1))[arrived].astype(np.float64)
    mem_total, disk_total = 1000.0 * GIB, 1000.0 * GIB
    given: dict[str, Floats] = {
        "cpu_busy": load.cpu.at(ts),
        "mem_total": np.full(len(ts), mem_total),
        "mem_used": load.mem.at(ts) * mem_total,
    }
    for column, shape in (
        ("cpu_max", load.burst),
        ("disk_read", load.disk_read),
        ("disk_write", load.disk_write),
        ("net_rx", load.net_rx),
        ("net_tx", load.net_tx),
        ("users", load.users),
    ):
        if shape is not None:
            given[column] = shape.at(ts)
    if load.disk is not None:
        given |= {"disk_total": np.full(len(ts), disk_total), "disk_used": load.disk.at(ts) * disk_total}
    table = np.full((len(ts), len(SAMPLE_COLUMNS)), ABSENT, np.int64)
    table[:, _COLUMN["ts"]], table[:, _COLUMN["interval_s"]] = ts, INTERVAL_S
    for column, values in given.items():
        table[:, _COLUMN[column]] = np.rint(values / _FIELD[column].unit.quantum)
    return table


def summary_of(spec: Spec, *, now_s: float = NOW_S) -> Summary | None:
    """What a flush says of the VM; None for one that never reported."""
    if spec.load is None:
        return None
    worked = work_out(spec.load, spec.history_days, spec.coverage_ratio, spec.newest_s)
    return Summary(
        vm_id=spec.vm_id,
        oldest_s=worked.oldest_s,
        newest_s=spec.newest_s,
        received_s=min(spec.newest_s + 1.5, now_s),
        skew_s=spec.skew_s,
        interval_s=INTERVAL_S,
        conflicts=spec.conflicts,
        cpu_count=spec.vcpus,
        mem_total_bytes=_bytes(spec.mem_gib),
        disk_total_bytes=_bytes(spec.disk_gib),
        flags=list(spec.flags),
        figures=list(worked.figures),
        evidence_hour_s=worked.evidence_hour_s,
        evidence=worked.evidence,
    )


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * GIB)


def store(engine: sa.Engine, specs: Iterable[Spec], *, now_s: float = NOW_S) -> None:
    """Puts VMs into a fleet database the way the aggregator does."""
    specs = list(specs)
    rows = [
        {
            "vm_id": spec.vm_id,
            "name": spec.name,
            "hostname": spec.hostname,
            "owner": spec.owner,
            "mail": spec.mail,
            "tags": json.dumps(spec.tags),
            "power_state": spec.power_state,
            "enrolled_s": spec.enrolled_s,
        }
        for spec in specs
    ]
    if rows:
        with engine.begin() as connection:
            connection.execute(sa.insert(fleet.vm), rows)
    summaries = [found for spec in specs if (found := summary_of(spec, now_s=now_s)) is not None]
    SummaryWriter(engine).write(summaries, now_s=now_s)


def empty_fleet() -> sa.Engine:
    """A fleet database in memory with every table and no VM. Each thread sees a memory of its own."""
    engine = sa.create_engine("sqlite://")
    fleet.metadata.create_all(engine)
    tables.metadata.create_all(engine)
    with engine.begin() as connection:
        for schema in (FLEET, REPORT):
            version = sa.table(schema.version_table, sa.column("version_num"))
            connection.execute(sa.text(f"CREATE TABLE {schema.version_table} (version_num TEXT)"))
            connection.execute(sa.insert(version).values(version_num=schema.head))
    return engine


def stored(specs: Iterable[Spec], *, now_s: float = NOW_S) -> sa.Engine:
    """A fleet database in memory that holds these VMs."""
    engine = empty_fleet()
    store(engine, specs, now_s=now_s)
    return engine


def write_fleet(data_dir: Path, specs: Iterable[Spec], *, url: str | None = None, now_s: float = NOW_S) -> None:
    """A fleet database as the programs make it, with the report's tables: `fleet.db` in `data_dir`, or at `url`."""
    engine = open_fleet(url, data_dir)
    try:
        migrate(engine)
        store(engine, specs, now_s=now_s)
    finally:
        engine.dispose()
    open_report_db(url, data_dir).dispose()


def facts_of(specs: Sequence[Spec], *, now_s: float = NOW_S) -> Facts:
    """The same VMs as values, without a database; in the order given."""
    summaries = [summary_of(spec, now_s=now_s) for spec in specs]

    def column(name: str) -> Floats:
        values = [None if one is None else getattr(one, name) for one in summaries]
        return np.array([np.nan if value is None else value for value in values], np.float64)

    return Facts(
        vms=[
            Vm(
                vm_id=spec.vm_id,
                name=spec.name,
                hostname=spec.hostname,
                owner=spec.owner,
                mail=spec.mail,
                tags=spec.tags,
                power_state=spec.power_state,
                enrolled_s=spec.enrolled_s,
                flags=() if spec.load is None else spec.flags,
            )
            for spec in specs
        ],
        **{
            name: column(name)
            for name in ("oldest_s", "newest_s", "skew_s", "cpu_count", "mem_total_bytes", "disk_total_bytes")
        },
        windows={days: _window_facts(summaries, place) for place, days in enumerate(WINDOWS_DAYS)},
        evidence=Evidence.decode([None if one is None else one.evidence for one in summaries]),
    )


def _window_facts(summaries: Sequence[Summary | None], place: int) -> WindowFacts:
    width = 4 + len(STATISTIC_COLUMNS)
    table = np.full((len(summaries), width), np.nan)
    for row, one in enumerate(summaries):
        if one is not None:
            window = one.figures[place]
            values = (window.start_s, one.newest_s, window.covered_s, window.users_s, *window.statistics)
            table[row] = [np.nan if value is None else value for value in values]
    start_s, end_s, covered_s, users_s, *statistics = table.T
    return WindowFacts(
        start_s=start_s,
        end_s=end_s,
        covered_s=covered_s,
        users_s=users_s,
        columns=dict(zip(STATISTIC_COLUMNS, statistics, strict=True)),
    )


def question(policy: str = DEFAULT_POLICY, **changes: Any) -> Question:
    """All VMs over a fortnight by the default policy, the reclaimable ones first."""
    values: dict[str, Any] = {
        "policy": POLICIES[policy],
        "settings": Settings(),
        "now_s": NOW_S,
        "reclaimable": False,
    }
    return Question(**{**values, **changes})


def one_of_each() -> list[Spec]:
    """At least one VM of each verdict, by the default policy."""
    return [
        Spec(vm_id="vm-idle", name="web", hostname="web.example", owner="ann", mail="ann@example.org", vcpus=8),
        Spec(vm_id="vm-scheduled", name="office", owner="bob", load=OFFICE, vcpus=2, mem_gib=4),
        Spec(vm_id="vm-oversized", name="big", owner="ann", tags=("host:h1",), load=OVERSIZED, vcpus=16, mem_gib=64),
        Spec(vm_id="vm-active", name="db", owner="cleo", tags=("host:h1", "production"), load=BUSY, vcpus=2),
        Spec(vm_id="vm-silent", silent_s=2 * 3600),
        Spec(vm_id="vm-new", history_days=2),
        Spec(vm_id="vm-bare", enrolled=False, load=None),
        Spec(vm_id="vm-mute", load=None),
        Spec(vm_id="vm-off", power_state="off", silent_s=3 * 3600),
        Spec(vm_id="vm-kept", tags=("production", "fallow:keep")),
    ]


_NAMES = st.none() | st.sampled_from(["web", "web-2", "Web", "100%", "a_b", "c:\\d", "b'c", 'd"e', "größe", "ZÜRICH"])


@st.composite
def specs(draw: st.DrawFn, *, max_vms: int = 8) -> list[Spec]:
    """Fleets of a few VMs of any kind; ids rise."""
    vm = st.builds(
        Spec,
        name=_NAMES,
        hostname=_NAMES,
        owner=st.sampled_from([None, "ann", "Bob", "cleo %"]),
        tags=st.sampled_from([(), ("production",), ("fallow:keep",), ("host:h1", "Zürich")]),
        power_state=st.sampled_from([None, None, None, "on", "off"]),
        enrolled=st.booleans(),
        load=st.sampled_from([ASLEEP, ASLEEP, BUSY, OFFICE, OVERSIZED, SPIKY, None]),
        history_days=st.sampled_from([42, 42, 42, 20, 3]),
        coverage_ratio=st.sampled_from([1.0, 1.0, 1.0, 0.97, 0.5]),
        silent_s=st.sampled_from([0, 0, 0, 7200]),
        vcpus=st.sampled_from([None, 1, 2, 16]),
        mem_gib=st.sampled_from([None, 2.0, 4.0, 64.0]),
        disk_gib=st.sampled_from([None, 40.0, 100.0]),
        skew_s=st.sampled_from([0.2, 0.2, -500.0]),
        identity_conflict=st.sampled_from([False, False, True]),
    )
    return [replace(one, vm_id=f"vm-{number}") for number, one in enumerate(draw(st.lists(vm, max_size=max_vms)))]


def clear(engine: sa.Engine) -> None:
    """Takes every VM, and what is stored of it, out of a fleet database."""
    with engine.begin() as connection:
        for table in (*fleet.metadata.sorted_tables, *tables.metadata.sorted_tables):
            connection.execute(sa.delete(table))


VERDICTS_OF_EACH = {
    "vm-idle": Verdict.IDLE,
    "vm-scheduled": Verdict.SCHEDULED,
    "vm-oversized": Verdict.OVERSIZED,
    "vm-active": Verdict.ACTIVE,
    "vm-silent": Verdict.INSUFFICIENT,
    "vm-new": Verdict.INSUFFICIENT,
    "vm-bare": Verdict.INSUFFICIENT,
    "vm-mute": Verdict.INSUFFICIENT,
    "vm-off": Verdict.INSUFFICIENT,
    "vm-kept": Verdict.EXCLUDED,
}
