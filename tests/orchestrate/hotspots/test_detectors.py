"""Detectors: each rule by hand, what is not known, and what every one of them must keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.hotspots.detectors import (
    AHP_WEIGHTS,
    DETECTORS,
    Detector,
    History,
    LocalRegression,
    MeanOfLast,
    MedianDeviation,
    QuartileRange,
    Sandpiper,
    StaticShares,
    WeightedScalar,
    look,
)

NAN = float("nan")


def is_hot(detector: Detector, *values: float, resource: str = "cpu") -> bool:
    history = History(resources=(resource,), ratio=np.array([[values]]))
    return bool(detector.judge(history).hot[0, 0])


QUIET = [0.2] * 7


def test_sandpiper_wants_k_of_n() -> None:
    """Two of the last five above the threshold are a peak, three are a hotspot; those before the five do not count."""
    assert not is_hot(Sandpiper(), *QUIET, 0.2, 0.95, 0.95)
    assert is_hot(Sandpiper(), *QUIET, 0.95, 0.95, 0.95)
    assert not is_hot(Sandpiper(), 0.95, 0.95, 0.95, 0.95, 0.95, 0.3, 0.3, 0.95, 0.95, 0.3)


def test_sandpiper_wants_the_forecast_too() -> None:
    """Three hot samples that are over already are no hotspot: the next one is expected below the threshold."""
    assert not is_hot(Sandpiper(), 0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.5, 0.1)


def test_sandpiper_at_exactly_the_threshold_is_not_hot() -> None:
    """Above means above."""
    assert not is_hot(Sandpiper(), *[0.75] * 10)
    assert is_hot(Sandpiper(), *[0.7501] * 10)


def test_most_aggressive_sandpiper() -> None:
    """k = n = 1 acts on one sample whose forecast stays up."""
    assert is_hot(Sandpiper(k=1, n=1), 0.95, 0.95)


def test_mean_of_the_last_n() -> None:
    """Ten samples at 80 % on average; fewer than ten say nothing."""
    assert is_hot(MeanOfLast(), *[0.7, 0.95] * 5)
    assert not is_hot(MeanOfLast(), *[0.65, 0.95] * 5)
    assert not is_hot(MeanOfLast(), *[1.0] * 9)


def test_weights_are_those_of_the_comparisons() -> None:
    """The weights are the principal eigenvector of the published comparisons, which are consistent enough."""
    order = ("cpu", "net", "disk", "mem")
    pairs: dict[tuple[str, str], float] = {("cpu", "net"): 3, ("cpu", "disk"): 2, ("cpu", "mem"): 4}
    pairs |= {("net", "disk"): 1 / 2, ("net", "mem"): 2 / 3, ("disk", "mem"): 1}
    matrix = np.eye(4)
    for (one, two), ratio in pairs.items():
        matrix[order.index(one), order.index(two)] = ratio
        matrix[order.index(two), order.index(one)] = 1 / ratio
    values, vectors = np.linalg.eig(matrix)
    most = int(values.real.argmax())
    weights = np.abs(vectors[:, most].real) / np.abs(vectors[:, most].real).sum()
    assert weights == pytest.approx([AHP_WEIGHTS[name] for name in order], abs=6e-4)
    assert values[most].real == pytest.approx(4.071, abs=5e-4)
    assert ((values[most].real - 4) / 3) / 0.9 == pytest.approx(0.026, abs=5e-4)


def test_weighted_scalar_of_the_published_sample() -> None:
    """Shares of .8, .6, .7, .9 come to .770."""
    ratio = np.repeat(np.array([[[0.8], [0.6], [0.7], [0.9]]]), 5, axis=2)
    judged = WeightedScalar().judge(History(resources=("cpu", "net", "disk", "mem"), ratio=ratio))
    assert judged.value[0, 0] == pytest.approx(0.770, abs=5e-4)
    assert judged.figures == ("weighted",)


def test_weights_of_what_is_not_measured_go_to_the_others() -> None:
    """Without a figure of disks, equal shares of the rest weigh as that share."""
    ratio = np.full((1, 3, 5), 0.6)
    judged = WeightedScalar().judge(History(resources=("cpu", "mem", "net"), ratio=ratio))
    assert judged.value[0, 0] == pytest.approx(0.6)


def test_weighted_scalar_is_over_a_moving_average() -> None:
    """One hot sample of five is no hotspot."""
    assert not is_hot(WeightedScalar(), 0.4, 0.4, 0.4, 0.4, 0.85)
    assert is_hot(WeightedScalar(), 0.4, 0.4, 0.5, 0.6, 0.7)


def test_static_shares_look_at_memory_alone() -> None:
    """8 % of memory is the first share and 12 % the second; CPU does not count."""
    history = History(resources=("cpu", "mem"), ratio=np.array([[[1.0], [0.07]], [[0.0], [0.09]], [[0.0], [0.13]]]))
    found = look(StaticShares(), history)
    assert [(one.row, one.figure, one.limit_ratio) for one in found] == [(1, "mem", 0.08), (2, "mem", 0.12)]


def test_local_regression_reads_the_trend() -> None:
    """A rise that will reach the whole host is hot before any sample is; fewer than ten compare with 70 %."""
    rising = [0.4 + 0.05 * step for step in range(10)]
    assert is_hot(LocalRegression(), *rising)
    assert not is_hot(LocalRegression(), *[0.82] * 10)
    assert is_hot(LocalRegression(), *[0.834] * 10)
    assert is_hot(LocalRegression(), 0.71)
    assert not is_hot(LocalRegression(), 0.69)


@pytest.mark.parametrize("detector", [MedianDeviation(), QuartileRange()])
def test_adaptive_thresholds_sink_with_variation(detector: Detector) -> None:
    """80 % is hot on a host that varies, and not on one that does not; fewer than twelve compare with 70 %."""
    assert not is_hot(detector, *[0.8] * 12)
    assert is_hot(detector, *[0.2, 0.5, 0.8] * 4)
    assert is_hot(detector, *[0.2] * 10, 0.71)
    assert not is_hot(detector, *[0.2] * 10, 0.69)


def test_a_gap_ends_the_run() -> None:
    """Samples before a gap are not the last n; up to five that are late do not hide the run before them."""
    assert not is_hot(Sandpiper(), *[0.95] * 5, NAN, 0.95, 0.95)
    assert is_hot(Sandpiper(), *[0.95] * 5, NAN, NAN)
    assert not is_hot(Sandpiper(), *[0.95] * 5, *[NAN] * 6)


def test_words_tell_the_figures() -> None:
    """What is hot is told with what was compared."""
    (found,) = look(Sandpiper(), History(resources=("cpu",), ratio=np.full((1, 1, 10), 0.9)))
    assert found.words == "at least 3 of the last 5 samples above 75%, and 90% is expected next"
    assert found.value_ratio == pytest.approx(0.9)
    assert found.limit_ratio == 0.75


SHARES = st.one_of(st.just(NAN), st.floats(0.0, 1.5))


@given(
    st.sampled_from(sorted(DETECTORS)),
    st.lists(st.lists(SHARES, min_size=15, max_size=15), min_size=1, max_size=6),
)
def test_many_hosts_at_once_are_judged_as_each_alone(name: str, rows: list[list[float]]) -> None:
    """Looking at many hosts is looking at each; NaN makes nothing hot, and no detector raises."""
    ratio = np.array(rows)[:, np.newaxis, :]
    together = DETECTORS[name].judge(History(resources=("cpu",), ratio=ratio)).hot[:, 0]
    alone = [
        bool(DETECTORS[name].judge(History(resources=("cpu",), ratio=ratio[[row]])).hot[0, 0])
        for row in range(len(rows))
    ]
    assert together.tolist() == alone
    nothing = np.full((1, 1, 15), np.nan)
    assert not DETECTORS[name].judge(History(resources=("cpu",), ratio=nothing)).hot.any()


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_where_no_host_answers_none_is_hot(name: str) -> None:
    """A look at a site that shows no hosts finds nothing, and does not fail."""
    assert look(DETECTORS[name], History(resources=("cpu", "mem"), ratio=np.zeros((0, 2, 15)))) == ()


@given(st.sampled_from(sorted(set(DETECTORS) - {"static-shares"})), st.floats(0.0, 0.4))
def test_a_quiet_steady_host_is_never_hot(name: str, share: float) -> None:
    """Nothing calls a host hot that never uses more than 40 %, evenly."""
    assert not is_hot(DETECTORS[name], *[share] * 30)
