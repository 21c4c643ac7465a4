"""From recorded samples to `Facts`, by the code that the aggregator runs for agents. Pure numpy.

A finished recording differs from a live VM in one way: no later sample will come, so that its open hour counts as
closed and the evidence holds it too. Windows then hold every sample of their length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agent.sample import FIELDS, Unit
from agent.traces import Recording
from aggregator import rows
from aggregator.evidence import Evidence
from aggregator.histogram import Floats, Ints
from aggregator.rollup import ABSENT, Hour, hours_of, quantise, roll_up
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.summary import STATISTIC_COLUMNS, Figures
from aggregator.windows import DAILY_DAYS, Windows, read_figures
from reports.facts import Facts, Vm, WindowFacts
from reports.measures import NAMES, Measure
from reports.policy import Policy

TS, INTERVAL = SAMPLE_COLUMNS.index("ts"), SAMPLE_COLUMNS.index("interval_s")
_DTYPE = np.dtype(rows.DTYPE_FIELDS)
_SMALLEST_RATIO = 1e-9  # far below a quantum
_SENT_DECIMALS: Mapping[Unit, int] = {Unit.BYTES_PER_S: 1, Unit.LOAD: 2, Unit.CPU_S: 3}
_KIB = int(Unit.BYTES.quantum)
_WINDOW = ("start_s", "end_s", "covered_s", "users_s")

# What a figure is made from, in columns of a sample; a metric that is not named here is a column itself.
_MADE_FROM: Mapping[str, tuple[str, ...]] = {
    "mem_used": ("mem_used", "mem_total"),
    "disk_used": ("disk_used", "disk_total"),
    "disk_io": ("disk_read", "disk_write"),
    "net_io": ("net_rx", "net_tx"),
    "net_daily": ("net_rx", "net_tx"),
    # The busiest minute stands in where nobody looked at the moments within.
    "cpu_peak": ("cpu_busy",),
    "cpu_vcpus": ("cpu_busy", "cpu_count"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One VM as the fleet database would hold it.

    Attributes:
        oldest_s: when the hour of its first sample began; newest_s: of its last sample.
        cpu_count, mem_total_bytes, disk_total_bytes: of the last sample, NaN where not measured.
        figures: one a window, its last hour included.
        evidence: the bytes of its window sums, its last hour included.
        measured: columns of a sample that it measured at least once.
    """

    vm: Vm
    oldest_s: float
    newest_s: float
    cpu_count: float
    mem_total_bytes: float
    disk_total_bytes: float
    figures: tuple[Figures, ...]
    evidence: bytes
    measured: frozenset[str]


def table_of(recording: Recording) -> Ints:
    """Its samples as the integers a store keeps: (n, len(SAMPLE_COLUMNS)), ABSENT where not measured."""
    packed = np.zeros(len(recording.rows), _DTYPE)
    packed["ts"] = [ts for ts, _ in recording.rows]
    packed["interval_s"] = recording.interval_s
    figures = np.array([figures for _, figures in recording.rows], np.float64).reshape(-1, len(recording.fields))
    for field in FIELDS:
        if field.name not in recording.fields:
            packed[field.column] = np.nan
            continue
        packed[field.column] = _as_sent(figures[:, recording.fields.index(field.name)], field.unit)
    return quantise(packed.tobytes())


def _as_sent(values: Floats, unit: Unit) -> Floats:
    """As an agent would send them (`Recording.texts`): whole bytes and counts, shares with five digits, few decimals.

    Rounding once less could put a figure on the other side of a limit than the fleet's.
    """
    if unit in {Unit.BYTES, Unit.COUNT}:
        return np.trunc(values)
    if unit is Unit.RATIO:
        decimals = 4 - np.floor(np.log10(np.maximum(values, _SMALLEST_RATIO)))
        return np.rint(values * 10.0**decimals) / 10.0**decimals
    return np.round(values, _SENT_DECIMALS[unit])


def between(table: Ints, after_s: float, until_s: float) -> Ints:
    """The samples whose intervals end after `after_s` and not after `until_s`."""
    return table[(table[:, TS] > after_s) & (table[:, TS] <= until_s)]


def began_s(table: Ints) -> int:
    """When the interval of the first sample began. Raises: IndexError: there is none."""
    return int(table[0, TS] - table[0, INTERVAL])


def record(vm: Vm, table: Ints, days: Sequence[int]) -> Recorded:
    """One VM from its samples, at least one, by rising ts.

    Args: days: lengths of the windows.
    """
    lengths = tuple(sorted(set(days)))
    reach_s = 86_400 * max(*lengths, DAILY_DAYS)
    last = table[-1]
    open_hour = int(hours_of(table[-1:])[0])
    # What is older touches neither a window nor the profile nor the daily totals.
    hours = _hours(between(table, (open_hour + 1) * 3600 - reach_s, np.inf))
    windows = Windows.empty(lengths, open_hour)
    windows.advance(open_hour, {}, (), list(hours))
    ((*figures,),) = read_figures([windows], [None])
    return Recorded(
        vm=vm,
        oldest_s=float(hours_of(table[:1])[0] * 3600),
        newest_s=float(last[TS]),
        cpu_count=_size(last, "cpu_count"),
        mem_total_bytes=_size(last, "mem_total") * _KIB,
        disk_total_bytes=_size(last, "disk_total") * _KIB,
        figures=tuple(figures),
        evidence=windows.encode(),
        measured=frozenset(
            name for name, column in zip(SAMPLE_COLUMNS, table.T, strict=True) if (column != ABSENT).any()
        ),
    )


def _hours(table: Ints) -> Iterator[Hour]:
    return (hour for _, hour in roll_up(np.zeros(len(table), np.int64), table))


def _size(sample: Ints, column: str) -> float:
    value = int(sample[SAMPLE_COLUMNS.index(column)])
    return float("nan") if value == ABSENT else float(value)


def join(recorded: Sequence[Recorded]) -> Facts:
    """The facts of many VMs, all with the same windows, in the order given."""
    days = tuple(figures.window_days for figures in recorded[0].figures) if recorded else ()
    return Facts(
        vms=[one.vm for one in recorded],
        oldest_s=_column(one.oldest_s for one in recorded),
        newest_s=_column(one.newest_s for one in recorded),
        skew_s=np.zeros(len(recorded)),
        cpu_count=_column(one.cpu_count for one in recorded),
        mem_total_bytes=_column(one.mem_total_bytes for one in recorded),
        disk_total_bytes=_column(one.disk_total_bytes for one in recorded),
        windows={each: _window(recorded, number) for number, each in enumerate(days)},
        evidence=Evidence.decode([one.evidence for one in recorded]),
    )


def _column(values: Iterable[float | None]) -> Floats:
    return np.array(list(values), np.float64)


def _window(recorded: Sequence[Recorded], number: int) -> WindowFacts:
    figures = [one.figures[number] for one in recorded]
    statistics = np.array([each.statistics for each in figures], np.float64)
    return WindowFacts(
        start_s=_column(each.start_s for each in figures),
        end_s=_column(one.newest_s for one in recorded),
        covered_s=_column(each.covered_s for each in figures),
        users_s=_column(each.users_s for each in figures),
        columns={name: statistics[:, place] for place, name in enumerate(STATISTIC_COLUMNS)},
    )


def facts_of(
    recordings: Iterable[Recording], days: Sequence[int], *, from_s: float = -np.inf, until_s: float = np.inf
) -> Facts:
    """Facts of recorded VMs, as an aggregator would have them after the last sample.

    Args:
        days: lengths of the windows.
        from_s, until_s: only samples whose intervals end after the one and not after the other; a VM without any
            is left out.
    """
    return join(list(recorded_vms(recordings, days, from_s=from_s, until_s=until_s)))


def recorded_vms(
    recordings: Iterable[Recording], days: Sequence[int], *, from_s: float = -np.inf, until_s: float = np.inf
) -> Iterator[Recorded]:
    """The VMs of `facts_of` one at a time: of each, only what a verdict needs stays in memory."""
    for recording in recordings:
        table = between(table_of(recording), from_s, until_s)
        if len(table):
            yield record(catalogued(recording, table), table, days)


def catalogued(recording: Recording, table: Ints) -> Vm:
    """What a catalogue would say of a recorded VM: its name in the trace where that is neither its id nor a file's."""
    is_name = recording.source != recording.vm and not recording.source.endswith(".csv")
    name = recording.source if is_name else None
    return Vm(vm_id=recording.vm, name=name, enrolled_s=began_s(table))


def unrecorded(recorded: Iterable[Recorded]) -> frozenset[str]:
    """Metrics (names of `reports.measures.NAMES`) that no VM of a trace measured even once."""
    measured: set[str] = set()
    for one in recorded:
        measured |= one.measured
    return frozenset(name for name in NAMES if not measured.issuperset(_MADE_FROM.get(name, (name,))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """A policy without its rules on figures that a trace does not record.

    Attributes:
        policy: what is left of it; its summary says what was left out.
        left_out: those figures in words, such as `disk space`.
    """

    policy: Policy
    left_out: tuple[str, ...]


def adapt(policy: Policy, missing: frozenset[str]) -> Adapted | None:
    """The policy without rules on `missing` metrics; None when no rule is left."""
    left_out = tuple(
        dict.fromkeys(NAMES[rule.measure.metric][1] for rule in policy.rules() if rule.measure.metric in missing)
    )
    if not left_out:
        return Adapted(policy=policy, left_out=())

    def is_missing(measure: Measure) -> bool:
        return measure.metric in missing

    kept = policy.idle_when.without(is_missing)
    if kept is None:
        return None
    summary = f"{policy.summary} (not recorded, so left out: {', '.join(left_out)})"
    return Adapted(policy=replace(policy, summary=summary, idle_when=kept), left_out=left_out)
