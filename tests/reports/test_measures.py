"""The figures a policy may set limits to."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from aggregator.summary import METRICS
from reports.measures import NAMES, Measure
from tests.reports.columns import QUIET, evidence, facts


def value(name: str, days: int = 14, **changes: object) -> float:
    return float(Measure.parse(name).values(facts(**changes), days)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["cpu", "cpu_busy", "cpu_busy.", "cpu_busy.p", "cpu_busy.p101", "users.mean", "net_daily.p95", "", 5, None]
)
def test_unknown_figures_are_refused(text: object) -> None:
    """With the name as it was given."""
    with pytest.raises(ValueError, match=r"figure|alone|percentile"):
        Measure.parse(text)


@given(
    st.sampled_from([name for name in NAMES if name not in {"users", "net_daily"}]),
    st.one_of(st.sampled_from(("mean", "max")), st.integers(0, 99).map(lambda number: f"p{number}")),
)
def test_names_are_read_back(metric: str, statistic: str) -> None:
    """A measure is what its name says."""
    measure = Measure.parse(f"{metric}.{statistic}")
    assert measure.name == f"{metric}.{statistic}"
    assert measure.unit == NAMES[metric][0]


@pytest.mark.parametrize(
    ("name", "days", "words"),
    [
        ("cpu_busy.mean", None, "mean CPU"),
        ("cpu_busy.mean", 3, "mean CPU over the last 3 days"),
        ("cpu_busy.max", None, "highest CPU"),
        ("cpu_peak.max", None, "peak CPU"),
        ("cpu_busy.p95", None, "CPU in 95% of the time"),
        ("cpu_busy.p99.9", 1, "CPU in 99.9% of the last day"),
        ("net_rx.p95", None, "network traffic received in 95% of the time"),
        ("net_daily.max", None, "network traffic on the busiest day"),
        ("net_daily.max", 14, "network traffic on the busiest day of the last 14 days"),
        ("users.share", 7, "time with somebody logged in over the last 7 days"),
    ],
)
def test_words_are_those_of_people(name: str, days: int | None, words: str) -> None:
    """Every figure has a name without an abbreviation, and a window of its own is told."""
    assert Measure.parse(name, days).words == words


def test_every_column_is_a_measure() -> None:
    """What the summaries hold, a policy may use."""
    for number, metric in enumerate(METRICS):
        for statistic in metric.statistics:
            columns = {metric.column(statistic): 0.25 + number}
            assert value(f"{metric.name}.{statistic}", columns=columns) == 0.25 + number


def test_percentiles_without_a_column_are_read_from_histograms() -> None:
    """To the width of a bin: 97 % of the time at most 2 %, the rest at 50 %."""
    body = evidence(cpu_s={0.02: 97_000, 0.5: 3_000})
    assert value("cpu_busy.p97", body=body) == pytest.approx(0.02, rel=0.05)
    assert value("cpu_busy.p98", body=body) == pytest.approx(0.5, rel=0.05)
    assert value("cpu_vcpus.p97", body=body, cpu_count=8) == pytest.approx(0.16, rel=0.05)


def test_peak_is_the_burst_where_it_was_measured() -> None:
    """Else the busiest minute."""
    assert value("cpu_peak.max", columns={"cpu_busy_max_ratio": 0.2}) == 0.2
    assert value("cpu_peak.max", columns={"cpu_busy_max_ratio": 0.2, "cpu_max_max_ratio": 0.7}) == 0.7


def test_daily_traffic_is_that_of_the_busiest_day() -> None:
    """Of the days that the window touches; a VM without evidence has none."""
    body = evidence(daily_bytes=[9_000_000, 1_000, 3_000, 2_000])
    assert value("net_daily.max", columns=QUIET, body=body) == 9_000_000
    assert value("net_daily.max", days=1, columns=QUIET, body=body) == 3_000
    assert math.isnan(value("net_daily.max", columns=QUIET))


def test_traffic_of_one_direction_alone_is_not_known() -> None:
    """What was never sent and what was never measured look alike in the sums of a day."""
    assert math.isnan(value("net_daily.max", columns={"net_rx_mean_bytes_per_s": 1.0}, body=evidence(daily_bytes=[5])))


def test_time_with_somebody_logged_in_is_a_share_of_what_was_covered() -> None:
    """And not known where nothing was."""
    assert value("users.share", users_ratio=0.25) == 0.25
    assert math.isnan(value("users.share", coverage_ratio=0.0))


def test_a_window_that_is_not_kept_is_not_known() -> None:
    """Whatever the figure."""
    for name in ("cpu_busy.mean", "cpu_busy.p97", "users.share"):
        one = facts({"cpu_busy_mean_ratio": 0.1}, days=(1,), body=evidence(cpu_s={0.1: 60}))
        assert np.isnan(Measure.parse(name).values(one, 14)[0]), name


def test_what_a_measure_reads_is_all_it_reads() -> None:
    """A window of which these columns alone are known gives the same figure."""
    body = evidence(cpu_s={0.02: 97_000, 0.5: 3_000}, daily_bytes=[5, 7])
    everything = {name: 0.01 * place for place, name in enumerate(QUIET)}
    for metric in NAMES:
        for statistic in ("mean", "max", "p95", "p97"):
            if metric in {"users", "net_daily"}:
                statistic = {"users": "share", "net_daily": "max"}[metric]  # noqa: PLW2901
            measure = Measure.parse(f"{metric}.{statistic}")
            some = {name: everything[name] for name in measure.columns()}
            whole, part = facts(everything, body=body), facts(some, body=body)
            np.testing.assert_array_equal(measure.values(whole, 14), measure.values(part, 14), measure.name)
