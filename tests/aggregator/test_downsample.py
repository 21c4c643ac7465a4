"""A span of samples comes out once, in order, and its means are those of its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from hypothesis import given
from hypothesis import strategies as st

from agent.sample import FIELDS
from aggregator.downsample import between, bucket_means

times = st.lists(st.integers(0, 400_000), unique=True, max_size=50)


def sample(ts: int, **figures: float | None) -> dict[str, object]:
    return {"ts": ts, "cpu_busy_ratio": 0.5, "mem_used_bytes": 1024, **figures}


@given(times, st.integers(0, 400_000), st.integers(0, 400_000))
def test_a_span_is_open_at_its_start_and_closed_at_its_end(all_ts: list[int], from_s: int, to_s: int) -> None:
    """Exactly the samples with from < ts ≤ to, each once, oldest first, however the source orders and overlaps them."""

    def fetch(first_s: int, last_s: int) -> Sequence[Mapping[str, object]]:
        return [sample(ts) for ts in all_ts if first_s <= ts <= last_s] * 2

    found = [one["ts"] for one in between(fetch, from_s, to_s)]
    assert found == sorted(ts for ts in all_ts if from_s < ts <= to_s)


def test_a_long_span_is_fetched_by_the_day() -> None:
    """400 days never lie in memory together."""
    asked: list[tuple[int, int]] = []

    def fetch(first_s: int, last_s: int) -> Sequence[Mapping[str, object]]:
        asked.append((first_s, last_s))
        return []

    assert list(between(fetch, 0, 200_000)) == []
    assert asked == [(0, 86_400), (86_400, 172_800), (172_800, 200_000)]


@given(times, st.integers(1, 100_000))
def test_every_sample_is_in_the_step_that_ends_with_or_after_it(all_ts: list[int], step_s: int) -> None:
    """Steps end at multiples of their length, later ones come later, and their counts add up."""
    buckets = list(bucket_means([sample(ts) for ts in sorted(all_ts)], step_s))
    ends = [int(str(bucket["ts"])) for bucket in buckets]
    assert ends == sorted({-(-ts // step_s) * step_s for ts in all_ts})
    assert sum(int(str(bucket["samples"])) for bucket in buckets) == len(all_ts)


@given(st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=20))
def test_a_mean_is_over_the_samples_that_have_the_field(values: list[float | None]) -> None:
    """None is not measured, never zero; where nobody measured the mean is None."""
    known = [value for value in values if value is not None]
    (bucket,) = bucket_means([sample(ts + 1, cpu_busy_ratio=value) for ts, value in enumerate(values)], 60)
    expected = fmean(known) if known else None
    found = bucket["cpu_busy_ratio"]
    assert (found is None) == (expected is None)
    if isinstance(found, float) and expected is not None:
        assert abs(found - expected) < 1e-9


def test_every_field_of_the_wire_is_in_a_bucket() -> None:
    """A figure that is added to `FIELDS` is averaged too."""
    (bucket,) = bucket_means([sample(60, **{field.name: 1.0 for field in FIELDS})], 60)
    assert bucket == {"ts": 60, "samples": 1, **{field.name: 1.0 for field in FIELDS}}
