"""The window sums of many VMs read at once say what those of one VM say."""

from __future__ import annotations

import math
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.evidence import Evidence
from aggregator.histogram import SLICES, quantile
from aggregator.window_layout import CRC, read_layout
from aggregator.windows import Windows
from tests.reports.columns import DAYS, OPEN_HOUR, evidence


def random_windows(seed: int, *, days: tuple[int, ...] = DAYS, unit_s: int = 60) -> Windows:
    """Sums that no VM ever had, every part of them occupied."""
    draw = np.random.default_rng(seed)
    windows = Windows.empty(days, OPEN_HOUR + seed)
    for number, part in enumerate(SLICES):
        bins = draw.choice(np.arange(part.start, part.stop), 20, replace=False)
        windows.counts[:, bins] = draw.integers(0, 1000, (len(days), 20)) * unit_s
        windows.maxima[:, number] = draw.integers(1, 1000, len(days))
    windows.profile_s[:] = draw.integers(0, 4 * 3600, 168)
    windows.profile_cpu[:] = windows.profile_s * draw.integers(0, 100_000, 168)
    windows.daily = {OPEN_HOUR // 24 - back: [int(draw.integers(0, 9**9)), 7] for back in range(0, 30, 3)}
    return windows


def test_quantiles_are_those_of_each_vm() -> None:
    """Of every metric and window, whatever stands beside it in the batch."""
    fleet = [random_windows(seed) for seed in range(4)]
    batch = Evidence.decode([each.encode() for each in fleet])
    for number, part in enumerate(SLICES):
        for index, days in enumerate(DAYS):
            alone = [
                quantile(part, each.counts[index, part.start : part.stop], 0.9, each.maxima[index, number])
                for each in fleet
            ]
            np.testing.assert_array_equal(batch.quantile(part.metric.name, days, 0.9), alone)


def test_profile_is_mean_cpu_of_each_hour_of_the_week() -> None:
    """And not known where an hour was never covered."""
    windows = random_windows(1)
    windows.profile_s[5] = windows.profile_cpu[5] = 0
    seconds, cpu = Evidence.decode([None, windows.encode()]).profile()
    np.testing.assert_array_equal(seconds[1], windows.profile_s)
    assert cpu[1][6] == pytest.approx(windows.profile_cpu[6] / windows.profile_s[6] * 1e-5)
    assert math.isnan(cpu[1][5])
    assert np.isnan(cpu[0]).all()


def test_daily_traffic_stands_on_its_day() -> None:
    """Received and sent together, the newest day last, days without samples not known."""
    windows = random_windows(2)
    daily = Evidence.decode([windows.encode()]).daily_bytes(7)[0]
    today = OPEN_HOUR // 24
    assert [math.isnan(value) for value in daily] == [day not in windows.daily for day in range(today - 6, today + 1)]
    assert daily[-1] == sum(windows.daily[today])


def test_seconds_above() -> None:
    """Bins that begin above the limit, of the window asked for."""
    batch = Evidence.decode([evidence(cpu_s={0.01: 600, 0.5: 120}), None])
    above = batch.seconds_above("cpu_busy", 14, 0.02)
    assert above[0] == 120
    assert math.isnan(above[1])


def test_damaged_blob_is_none() -> None:
    """Nothing is known of that VM, and the others are read."""
    body = evidence(cpu_s={0.01: 600})
    for broken in (b"", body[:-1], body[:50], bytes([body[0] ^ 1]) + body[1:], body[:200] + b"\x00\xff" + body[202:]):
        values = Evidence.decode([broken, body]).quantile("cpu_busy", 14, 0.5)
        assert math.isnan(values[0])
        assert values[1] > 0


def test_window_that_is_not_kept_is_not_known() -> None:
    """Rather than another one's."""
    assert math.isnan(Evidence.decode([evidence(cpu_s={0.01: 600})]).quantile("cpu_busy", 2, 0.5)[0])


def test_blobs_of_every_kind_in_one_batch() -> None:
    """Other windows, other units and widths, none at all: each VM's answers are those that it has alone."""
    kinds = [
        random_windows(0).encode(),
        None,
        random_windows(1, days=(7, 14)).encode(),
        random_windows(2, unit_s=7_001).encode(),
        random_windows(3, days=(14,), unit_s=1).encode(),
        Windows.empty(DAYS, OPEN_HOUR).encode(),
    ]
    assert len({layout.width for layout in Evidence.decode(kinds).layouts if layout is not None}) == 2
    for part in SLICES:
        for days in (1, 7, 14):
            together = Evidence.decode(kinds).quantile(part.metric.name, days, 0.9)
            alone = [Evidence.decode([body]).quantile(part.metric.name, days, 0.9)[0] for body in kinds]
            np.testing.assert_array_equal(together, alone)
    daily = [Evidence.decode([body]).daily_bytes(9)[0] for body in kinds]
    np.testing.assert_array_equal(Evidence.decode(kinds).daily_bytes(9), daily)
    for number in (0, 1):
        profiles = [Evidence.decode([body]).profile()[number][0] for body in kinds]
        np.testing.assert_array_equal(Evidence.decode(kinds).profile()[number], profiles)


@given(place=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 40))
def test_what_no_layout_allows_is_none(place: int, value: int, cut: int) -> None:
    """Even with the right checksum; and what is taken can be read."""
    body = bytearray(random_windows(1).encode()[: -CRC.size])
    body[place % len(body)] = value
    body = body[: len(body) - cut]
    sealed = bytes(body) + CRC.pack(crc32(body))
    batch = Evidence.decode([sealed, random_windows(2).encode()])
    try:
        read_layout(sealed)
    except ValueError:
        assert batch.layouts[0] is None
    values = batch.quantile("net_io", 14, 0.5)
    assert math.isnan(values[0]) or batch.layouts[0] is not None
    assert values[1] == Evidence.decode([random_windows(2).encode()]).quantile("net_io", 14, 0.5)[0]
