"""Series of one VM from several nodes become one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aggregator.series import Curve, Series
from reports.series_merge import merge_series

NAMES = ("cpu_busy_ratio", "users")


def series(step_s: int, *buckets: tuple[int, float | None]) -> Series:
    """Each bucket: its end, and the one value that it holds of every figure."""
    values = [value for _, value in buckets]
    curve = Curve(min=values, mean=values, max=values)
    return Series(
        vm="a",
        from_s=0,
        to_s=100_000,
        step_s=step_s,
        ends_s=[end_s for end_s, _ in buckets],
        series=dict.fromkeys(NAMES, curve),
    )


def means(one: Series) -> list[tuple[int, float | None]]:
    return list(zip(one.ends_s, one.series["cpu_busy_ratio"].mean, strict=True))


@st.composite
def any_series(draw: st.DrawFn) -> Series:
    step_s = draw(st.sampled_from([60, 300, 3600, 7200]))
    ends = sorted(draw(st.sets(st.integers(1, 60), max_size=12)))
    values = st.none() | st.integers(0, 100).map(lambda percent: percent / 100)
    return series(step_s, *((end * step_s, draw(values)) for end in ends))


def test_home_stands_and_gaps_are_filled() -> None:
    """Where both have a bucket, the first one's counts; where it has none, the other's."""
    merged = merge_series(series(60, (60, 0.1), (180, 0.3)), series(60, (60, 0.9), (120, 0.2)))
    assert means(merged) == [(60, 0.1), (120, 0.2), (180, 0.3)]
    assert merged.step_s == 60


def test_shorter_buckets_are_joined_into_longer_ones() -> None:
    """Least, mean and largest of all that end in a bucket; nothing is made of what was not measured."""
    fine = series(60, (60, 0.2), (120, None), (300, 0.4), (360, 0.5))
    merged = merge_series(fine, series(300, (600, 0.9), (900, 0.1)))
    assert means(merged) == [(300, 0.3), (600, 0.5), (900, 0.1)]
    curve = merged.series["cpu_busy_ratio"]
    assert (curve.min[0], curve.max[0]) == (0.2, 0.4)


def test_a_least_value_that_is_not_known_stays_unknown() -> None:
    """Hours whose samples are gone keep no least value, and no other value takes its place."""
    hours = Series(
        vm="a",
        from_s=0,
        to_s=100_000,
        step_s=3600,
        ends_s=[3600, 7200],
        series={"cpu_busy_ratio": Curve(min=[None, 0.3], mean=[0.2, 0.4], max=[0.6, 0.7])},
    )
    merged = merge_series(hours, series(7200, (14400, 0.5)))
    curve = merged.series["cpu_busy_ratio"]
    assert (curve.min[0], curve.mean[0], curve.max[0]) == (None, 0.3, 0.7)


@given(any_series())
def test_merging_changes_nothing_where_nothing_is_added(one: Series) -> None:
    """With itself, and with a node that has nothing, a series stays what it is."""
    nothing = series(7200)
    assert merge_series(one) == one
    assert means(merge_series(one, one)) == means(one)
    assert means(merge_series(one, nothing)) == means(one)
    assert means(merge_series(nothing, one)) == means(one)


@given(any_series(), any_series(), any_series())
def test_nothing_is_lost_and_nothing_made_up(first: Series, second: Series, third: Series) -> None:
    """Ends rise, columns fit them, every bucket of a node lies in one of the result, and values stay within theirs."""
    merged = merge_series(first, second, third)
    given_ = [one for one in (first, second, third) if one.ends_s]
    step_s = max((one.step_s for one in given_), default=first.step_s)
    assert merged.step_s == step_s
    assert merged.ends_s == sorted({-(-end_s // step_s) * step_s for one in given_ for end_s in one.ends_s})
    for curve in merged.series.values():
        assert {len(curve.min), len(curve.mean), len(curve.max)} == {len(merged.ends_s)}
        known = {value for one in given_ for value in one.series["users"].mean if value is not None}
        for low, mean, high in zip(curve.min, curve.mean, curve.max, strict=True):
            if mean is not None:
                assert low is not None
                assert high is not None
                assert min(known) <= low <= mean + 1e-6
                assert mean - 1e-6 <= high <= max(known)
    if first.ends_s and first.step_s == step_s:
        assert set(means(first)) <= set(means(merged))
