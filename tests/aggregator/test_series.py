"""A chart's buckets: no peak is lost, no gap is filled, nothing is counted twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rows import unpack_rows
from aggregator.series import (
    DEFAULT_POINTS,
    MAX_POINTS,
    MIN_POINTS,
    READ_FIELDS,
    ROW_CELLS,
    SERIES,
    Curve,
    Hours,
    Number,
    Series,
    Span,
    make_series,
    rows_of_samples,
    step_of,
)
from aggregator.store_files import StoreError, store_path
from aggregator.store_series import read_series
from tests.aggregator.door_fakes import TS
from tests.aggregator.service_fakes import running
from tests.aggregator.store_fakes import HOUR_S, START_S, change, fill, minutes, packed_row

VM = "vm-1"
SPAN_S = 2 * 86_400
EVERYTHING = Span(from_s=0, to_s=2**32 - 1)
NO_HOURS = Hours.none()

Sample = dict[str, float | int | None]


def rounded(value: float) -> float:
    return float(f"{value:.6g}")


def near(value: object) -> Any:
    """Equal but for the last of six digits: sums in another order differ by a hair."""
    return pytest.approx(value, rel=2e-5)


def naive(sample: Sample, name: str) -> float | None:
    """One figure of one sample, with nothing but Python."""
    if name not in ("mem_used_ratio", "disk_used_ratio"):
        return sample.get(name)
    kind = name.partition("_")[0]
    used, total = sample.get(f"{kind}_used_bytes"), sample.get(f"{kind}_total_bytes")
    return None if used is None or not total else min(used / total, 1.0)


def known(samples: Sequence[Sample], name: str) -> list[tuple[float, int]]:
    """Values that were measured, with the seconds they stand for."""
    values = ((naive(sample, name), int(sample["interval_s"] or 0)) for sample in samples)
    return [(value, seconds) for value, seconds in values if value is not None]


def present(values: Sequence[Number | None]) -> list[Number]:
    return [value for value in values if value is not None]


def made(samples: Sequence[Sample], span: Span = EVERYTHING) -> Series:
    return make_series(VM, span, rows_of_samples(samples), NO_HOURS)


def bucket(found: Series, sample: Sample) -> int:
    """Index of the bucket that a sample belongs to by its time; fails where there is none."""
    ts = int(sample["ts"] or 0)
    index = next((index for index, end_s in enumerate(found.ends_s) if end_s >= ts), None)
    assert index is not None
    assert found.ends_s[index] - found.step_s < ts
    return index


@st.composite
def samples_of(draw: st.DrawFn, interval_s: int = 60) -> list[Sample]:
    """Samples of two days in any order, with holes of any length and any optional figure missing."""
    numbers = draw(st.sets(st.integers(1, SPAN_S // interval_s), max_size=60))
    samples: list[Sample] = []
    for number in draw(st.permutations(sorted(numbers))):
        sample: Sample = {"ts": START_S + number * interval_s, "interval_s": interval_s}
        for field in READ_FIELDS:
            if field.required or draw(st.booleans()):
                largest = min(field.maximum, 1e9)
                sample[field.name] = draw(st.integers(0, 100)) * largest / 100
        samples.append(sample)
    return samples


@st.composite
def spans(draw: st.DrawFn) -> Span:
    """Spans that begin before, within and after the samples, and end likewise."""
    from_s = draw(st.integers(START_S - 7200, START_S + SPAN_S))
    return Span(
        from_s=from_s,
        to_s=draw(st.integers(from_s + 1, START_S + SPAN_S + 7200)),
        points=draw(st.one_of(st.integers(MIN_POINTS, 12), st.integers(MIN_POINTS, MAX_POINTS))),
    )


# Any samples, any span, any number of points.


@given(samples=samples_of(), span=spans())
def test_no_peak_is_lost(samples: list[Sample], span: Span) -> None:
    """Over all buckets the largest value is that of all samples of the span, and the least the least."""
    found = made(samples, span)
    inside = [sample for sample in samples if span.from_s < int(sample["ts"] or 0) <= span.to_s]
    for name in SERIES:
        values = [rounded(value) for value, _ in known(inside, name)]
        curve = found.series[name]
        assert max(present(curve.max), default=None) == max(values, default=None)
        assert min(present(curve.min), default=None) == min(values, default=None)


@given(samples=samples_of(), span=spans())
def test_a_bucket_holds_the_samples_that_end_in_it(samples: list[Sample], span: Span) -> None:
    """Least, mean and largest of each bucket are of its own samples alone; what was not measured is None."""
    found = made(samples, span)
    held: dict[int, list[Sample]] = {index: [] for index in range(len(found.ends_s))}
    for sample in samples:
        if span.from_s < int(sample["ts"] or 0) <= span.to_s:
            held[bucket(found, sample)].append(sample)
    assert all(held.values()), "a bucket without samples is absent"
    for name in SERIES:
        curve = found.series[name]
        for index, inside in held.items():
            values = known(inside, name)
            point = (curve.min[index], curve.mean[index], curve.max[index])
            if not values:
                assert point == (None, None, None)
                continue
            mean = sum(value * seconds for value, seconds in values) / sum(seconds for _, seconds in values)
            plain = [value for value, _ in values]
            assert point == (rounded(min(plain)), near(mean), rounded(max(plain)))


@given(samples=samples_of(), span=spans(), with_hours=st.booleans())
def test_points_are_few_and_buckets_equal(samples: list[Sample], span: Span, with_hours: bool) -> None:
    """Never more buckets than asked for; they rise, last `step_s`, and have a value of each figure."""
    hours = hours_at(START_S + HOUR_S, START_S + 5 * HOUR_S) if with_hours else NO_HOURS
    touched = hours.end_s[(hours.end_s > span.from_s) & (hours.end_s < span.to_s + HOUR_S)]
    hours = Hours(touched, *(part[: len(touched)] for part in hours[1:]))
    found = make_series(VM, span, rows_of_samples(samples), hours)
    assert len(found.ends_s) <= span.points
    assert all(later - end_s >= found.step_s for end_s, later in zip(found.ends_s, found.ends_s[1:], strict=False))
    assert found.step_s % (HOUR_S if len(touched) else 60) == 0
    assert all(end_s - found.step_s < span.to_s and end_s > span.from_s for end_s in found.ends_s)
    for curve in found.series.values():
        assert {len(curve.min), len(curve.mean), len(curve.max)} == {len(found.ends_s)}


@given(span=spans(), unit_s=st.sampled_from([1, 60, 300, 3600]))
def test_no_span_touches_more_buckets_than_points(span: Span, unit_s: int) -> None:
    """Wherever a span lies among the multiples of the step, it touches at most `points` of them."""
    step_s = step_of(span, unit_s)
    assert step_s % unit_s == 0
    assert -(-span.to_s // step_s) - span.from_s // step_s <= span.points


@given(samples=samples_of(), span=spans(), data=st.data())
def test_store_and_memory_count_once(samples: list[Sample], span: Span, data: st.DataObject) -> None:
    """However rows are spread over both, with some in both, the answer is that of all of them once."""
    stored = [sample for sample in samples if data.draw(st.booleans())]
    buffered = [sample for sample in samples if sample not in stored or data.draw(st.booleans())]
    rows = np.concatenate([rows_of_samples(stored), rows_of_samples(buffered)])
    assert make_series(VM, span, rows, NO_HOURS) == made(samples, span)


# Gaps.


def minute_samples(count: int, *, first: int = START_S + 60, interval_s: int = 60, **figures: float) -> list[Sample]:
    return list(unpack_rows(minutes(first, count, interval_s=interval_s, **figures)))


@pytest.mark.parametrize("points", [2, 7, 24, 100, 1439])
@pytest.mark.parametrize("interval_s", [60, 300])
def test_without_a_gap_there_is_none(points: int, interval_s: int) -> None:
    """Samples without a hole give buckets without one, whatever the step."""
    count = 86_400 // interval_s
    samples = minute_samples(count, first=START_S + interval_s, interval_s=interval_s)
    found = made(samples, Span(from_s=START_S, to_s=START_S + 86_400, points=points))
    assert set(np.diff(found.ends_s)) <= {found.step_s}
    assert found.ends_s[0] - found.step_s <= START_S
    assert found.ends_s[-1] >= START_S + 86_400


def test_a_gap_stays_a_gap() -> None:
    """Six silent hours are seven absent ends or so: nothing in between, and no zero."""
    samples = minute_samples(360) + minute_samples(360, first=START_S + 43_200 + 60)
    found = made(samples, Span(from_s=START_S, to_s=START_S + 64_800, points=100))
    assert not [end_s for end_s in found.ends_s if START_S + 21_600 + found.step_s <= end_s <= START_S + 43_200]
    assert max(np.diff(found.ends_s)) > found.step_s
    assert min(present(found.series["cpu_busy_ratio"].min)) == 0.1


def test_few_samples_are_shown_as_they_are() -> None:
    """As many samples as points: each has a bucket that ends with it, and min = mean = max."""
    samples = [{**sample, "cpu_busy_ratio": 0.001 * n} for n, sample in enumerate(minute_samples(100))]
    span = Span(from_s=START_S, to_s=START_S + 30 * 86_400, points=100)
    found = made(samples, span)
    assert found.ends_s == [sample["ts"] for sample in samples]
    assert found.step_s == 60
    curve = found.series["cpu_busy_ratio"]
    assert curve.min == curve.mean == curve.max == [rounded(0.001 * n) for n in range(100)]
    one_more = made([*samples, *minute_samples(1, first=START_S + 6060)], span)
    assert len(one_more.ends_s) < 100


def test_an_interval_that_changed_makes_no_gap() -> None:
    """Minutes first and five minutes then: the step is of the longer, so that no end is missing."""
    samples = minute_samples(60) + minute_samples(12, first=START_S + HOUR_S + 300, interval_s=300)
    for points in (20, 72, 1000):
        found = made(samples, Span(from_s=START_S, to_s=START_S + 2 * HOUR_S, points=points))
        assert found.step_s % 300 == 0
        assert max(np.diff(found.ends_s)) <= found.step_s
    few = made(samples, Span(from_s=START_S, to_s=START_S + 2 * HOUR_S, points=3))
    busy = few.series["cpu_busy_ratio"]
    assert present(busy.mean) == [0.1] * len(few.ends_s)


def test_a_mean_is_over_time() -> None:
    """A sample of five minutes weighs five times one of a minute."""
    samples: list[Sample] = [
        {**minute_samples(1, first=START_S + 60)[0], "cpu_busy_ratio": 0.6},
        {**minute_samples(1, first=START_S + 600, interval_s=300)[0], "cpu_busy_ratio": 0.0},
        *minute_samples(1, first=START_S + 90_000),
    ]
    found = made(samples, Span(from_s=START_S, to_s=START_S + 90_000, points=2))
    assert found.series["cpu_busy_ratio"].mean[0] == near(0.1)


def test_numbers_are_short() -> None:
    """Six significant digits, whole numbers without a point."""
    sample = {**minute_samples(1)[0], "cpu_busy_ratio": 0.123456789, "net_rx_bytes_per_s": 123_456_789.0, "users": 2}
    found = made([sample]).series
    assert found["cpu_busy_ratio"].max == [0.123457]
    assert (found["net_rx_bytes_per_s"].mean, found["users"].min) == ([123_457_000], [2])
    assert isinstance(found["users"].min[0], int)


def test_a_span_begins_after_its_start_and_ends_with_its_end() -> None:
    """A sample that ends at `from` belongs to the span before, one that ends at `to` to this one."""
    span = Span(from_s=START_S + 120, to_s=START_S + 300)
    assert made(minute_samples(10), span).ends_s == [START_S + 180, START_S + 240, START_S + 300]


def test_no_samples_are_no_buckets() -> None:
    """An empty span is an empty answer with all of its figures."""
    found = made([])
    assert found.ends_s == []
    assert found.series == {name: Curve(min=[], mean=[], max=[]) for name in SERIES}


@pytest.mark.parametrize(
    "wrong",
    [
        {"from_s": 5, "to_s": 5},
        {"from_s": 6, "to_s": 5},
        {"from_s": -1, "to_s": 5},
        {"from_s": 0, "to_s": 5, "points": MIN_POINTS - 1},
        {"from_s": 0, "to_s": 5, "points": MAX_POINTS + 1},
    ],
)
def test_a_span_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    """ValueError names what is wrong."""
    with pytest.raises(ValueError, match=r"^(from_s|points): "):
        Span(**wrong)


# Hours in the place of samples.


def hours_at(*ends_s: int, value: float = 0.5) -> Hours:
    """Hours measured in full, with one value of every figure."""
    whole = np.full((len(ends_s), len(SERIES)), float(HOUR_S))
    return Hours(np.array(ends_s, np.float64), whole * value, whole, np.full_like(whole, value))


def forget_samples(path: Path, until_s: int) -> None:
    """What the retention of raw rows does to a store."""
    change(path, "DELETE FROM sample WHERE ts <= ?", until_s, reseal=True)


def busy_rows(count: int) -> bytes:
    """Minutes of which each is another."""
    return b"".join(
        packed_row(
            START_S + 60 * (n + 1),
            cpu_busy_ratio=n % 97 / 100,
            cpu_max_ratio=n % 89 / 88,
            cpu_steal_ratio=0.01,
            mem_used_bytes=float(1 + n % 1024 << 20),
            net_rx_bytes_per_s=float(n * n % 100_003),
            users=n % 3,
        )
        for n in range(count)
    )


def read(path: Path, *, hours: int, points: int = DEFAULT_POINTS, buffered: Sequence[Sample] = ()) -> Series:
    return read_series(path, VM, Span(from_s=START_S, to_s=START_S + hours * HOUR_S, points=points), buffered)


@pytest.mark.parametrize("points", [4, 9, 13, 48])
def test_hours_stand_in_where_samples_are_gone(tmp_path: Path, points: int) -> None:
    """Largest values and means are those that the samples gave; the least is unknown where an hour takes part."""
    path = fill(tmp_path, VM, busy_rows(48 * 60))
    before = read(path, hours=48, points=48)
    whole = read_series(path, VM, Span(from_s=START_S, to_s=START_S + 48 * HOUR_S, points=points))
    forget_samples(path, START_S + 30 * HOUR_S)
    found = read(path, hours=48, points=points)
    assert len(found.ends_s) <= points
    assert found.step_s % HOUR_S == 0
    for name in ("cpu_busy_ratio", "cpu_max_ratio", "net_rx_bytes_per_s"):
        assert max(present(found.series[name].max)) == max(present(before.series[name].max))
        gone = [index for index, end_s in enumerate(found.ends_s) if end_s - found.step_s < START_S + 30 * HOUR_S]
        assert [found.series[name].min[index] for index in gone] == [None] * len(gone)
        assert None not in found.series[name].min[len(gone) :]
        if whole.step_s == found.step_s:
            assert found.series[name].mean == near(whole.series[name].mean)
            assert found.series[name].max == near(whole.series[name].max)
    # Memory and disk are kept in steps of 1e-4 of an hour.
    mem = found.series["mem_used_ratio"]
    assert max(present(mem.max)) == pytest.approx(max(present(before.series["mem_used_ratio"].max)), abs=1e-4)


def test_hours_keep_no_steal_and_no_users(tmp_path: Path) -> None:
    """What a rollup does not hold is unknown, never zero."""
    path = fill(tmp_path, VM, busy_rows(6 * 60))
    forget_samples(path, START_S + 6 * HOUR_S)
    found = read(path, hours=6)
    assert len(found.ends_s) == 6
    assert found.step_s == HOUR_S
    for name in ("cpu_steal_ratio", "cpu_iowait_ratio", "users", "disk_used_ratio"):
        assert found.series[name].mean == found.series[name].max == [None] * 6
    assert None not in found.series["cpu_busy_ratio"].mean


def test_an_hour_that_measured_a_figure_in_part(tmp_path: Path) -> None:
    """The mean is over the seconds that have it: a quarter of an hour of 1000 B/s is 1000 B/s."""
    rows = minutes(START_S + 60, 15, net_rx_bytes_per_s=1000.0) + minutes(START_S + 60 * 16, 45)
    path = fill(tmp_path, VM, rows)
    forget_samples(path, START_S + HOUR_S)
    found = read(path, hours=1)
    assert found.series["net_rx_bytes_per_s"].mean == [1000]
    assert found.series["cpu_busy_ratio"].mean == [0.1]


def test_hours_that_samples_speak_for_are_left_alone(tmp_path: Path) -> None:
    """While all samples are there, no hour counts beside them, and buckets are as short as they can be."""
    path = fill(tmp_path, VM, busy_rows(6 * 60))
    found = read(path, hours=6)
    assert (len(found.ends_s), found.step_s) == (360, 60)
    assert None not in found.series["cpu_busy_ratio"].min


def test_a_span_before_the_first_sample_asks_for_no_hours(tmp_path: Path) -> None:
    """A VM that began amid the span has buckets of minutes: there is nothing older that would need hours."""
    path = fill(tmp_path, VM, busy_rows(60))
    found = read_series(path, VM, Span(from_s=START_S - 86_400, to_s=START_S + HOUR_S))
    assert (len(found.ends_s), found.step_s) == (60, 60)


# The store.


def test_a_store_and_memory_are_one(tmp_path: Path) -> None:
    """Rows of the store, then those that wait for it; the ones in both count once, and the store's are the first."""
    path = fill(tmp_path, VM, busy_rows(60))
    waiting = minute_samples(90, cpu_busy_ratio=1.0)
    found = read(path, hours=2, buffered=waiting)
    assert found.ends_s == [START_S + 60 * (n + 1) for n in range(90)]
    busy = found.series["cpu_busy_ratio"]
    assert busy.max == [n / 100 for n in range(60)] + [1] * 30
    assert (busy.mean, busy.min) == (busy.max, busy.max)


def test_a_store_says_what_its_rows_say(tmp_path: Path) -> None:
    """Steps of the store come back in units of the wire, the same as from memory."""
    rows = busy_rows(30) + packed_row(
        START_S + 3600,
        cpu_iowait_ratio=0.25,
        disk_total_bytes=float(100 << 30),
        disk_used_bytes=float(25 << 30),
        disk_read_bytes_per_s=7.0,
        disk_write_bytes_per_s=8.0,
        net_tx_bytes_per_s=9.0,
    )
    path = fill(tmp_path, VM, rows)
    span = Span(from_s=START_S, to_s=START_S + HOUR_S)
    found = read_series(path, VM, span)
    assert found == read_series(tmp_path / "none.db", VM, span, list(unpack_rows(rows)))
    last = {name: curve.max[-1] for name, curve in found.series.items()}
    assert last == {
        "cpu_busy_ratio": 0.1,
        "cpu_max_ratio": None,
        "cpu_steal_ratio": None,
        "cpu_iowait_ratio": 0.25,
        "mem_used_ratio": 0.5,
        "disk_used_ratio": 0.25,
        "disk_read_bytes_per_s": 7,
        "disk_write_bytes_per_s": 8,
        "net_rx_bytes_per_s": None,
        "net_tx_bytes_per_s": 9,
        "users": None,
    }


def test_without_a_store_memory_speaks(tmp_path: Path) -> None:
    """A VM whose first flush is yet to come has its chart too; nothing at all is an empty one."""
    found = read(tmp_path / "none.db", hours=1, buffered=minute_samples(5))
    assert len(found.ends_s) == 5
    assert read(tmp_path / "none.db", hours=1).ends_s == []
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_none_is_an_error(tmp_path: Path) -> None:
    """A damaged file is a StoreError that waiting will not cure."""
    path = tmp_path / "bad.db"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(StoreError) as caught:
        read(path, hours=1)
    assert caught.value.corrupt


@pytest.mark.parametrize("gaps", ["no json", '{"net_rx": "soon"}'])
def test_an_hour_that_is_damaged_is_an_error(tmp_path: Path, gaps: str) -> None:
    """Gaps that cannot be read are a StoreError, never a wrong mean."""
    path = fill(tmp_path, VM, minutes(START_S + 60, 60, net_rx_bytes_per_s=5.0))
    forget_samples(path, START_S + HOUR_S)
    change(path, "UPDATE hour SET gaps = ?", gaps, reseal=True)
    with pytest.raises(StoreError):
        read(path, hours=1)


def test_rows_have_the_cells_they_say() -> None:
    """An empty list of samples is a table of no rows, as wide as any."""
    assert rows_of_samples([]).shape == (0, ROW_CELLS)
    assert rows_of_samples(minute_samples(3)).shape == (3, ROW_CELLS)


# Once with everything real.


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_the_running_aggregator_answers(tmp_path: Path) -> None:
    """Over its admin door: what is stored and what is not yet, each minute once; the peak is in both."""
    async with running(tmp_path) as house:
        await house.push("web-1", *range(TS - 600, TS - 300, 60))
        await house.push("web-1", TS - 660, cpu=0.9)
        await house.flush()
        await house.push("web-1", *range(TS - 300, TS, 60), TS)
        assert store_path(tmp_path, "web-1").exists()
        answer = await house.admin("GET", f"/v1/vms/web-1/series?from={TS - 3600}&to={TS}")
        assert answer.status == 200
        document = json.loads(answer.body)
        assert document["ends_s"] == list(range(TS - 660, TS + 60, 60))
        assert document["series"]["cpu_busy_ratio"]["max"] == [0.9, *[0.03] * 11]
        coarse = json.loads((await house.admin("GET", f"/v1/vms/web-1/series?from={TS - 3600}&to={TS}&points=2")).body)
        assert len(coarse["ends_s"]) <= 2
        assert max(coarse["series"]["cpu_busy_ratio"]["max"]) == 0.9
        assert (await house.admin("GET", "/v1/vms/nobody/series")).status == 404
