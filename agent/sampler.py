"""The minute: readings every few seconds become one `Sample` at each wall-clock minute.

No thread and no sleep: whoever owns the loop asks when to come back and calls `tick`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.counters import cpu_shares, rate_per_s
from agent.readings import Reading, Readings, Tick
from agent.sample import Sample

# An interval measured over much more or less than its length says nothing about that minute.
_LENGTH_TOLERANCE_RATIO = 0.1
# A slewed clock stays far below this; a step, a resume or a restored snapshot does not.
_CLOCK_TOLERANCE_RATIO = 1 / 30


@dataclass(frozen=True, slots=True)
class _Start:
    """The reading that an interval began with, and both clocks at that moment."""

    reading: Reading
    now_s: float
    mono_s: float


class Sampler:
    """Makes samples of `interval_s` from readings every `tick_s`.

    Args:
        readings: the machine.
        interval_s: length of an interval; `ts` are its multiples.

    Attributes:
        dropped_total: intervals whose length or clock was wrong, so that no sample was made of them.
    """

    def __init__(self, readings: Readings, *, interval_s: int) -> None:
        self._readings = readings
        self._interval_s = interval_s
        self._tick_s = tick_s(interval_s)
        self._slot: int | None = None
        self._start: _Start | None = None
        self._newest: tuple[Tick, float] | None = None
        self._busiest_ratio = 0.0
        self.dropped_total = 0

    def next_tick_s(self, now_s: float) -> float:
        """Wall-clock time of the next call of `tick`: always later than `now_s`, at most `tick_s` away."""
        return (now_s // self._tick_s + 1) * self._tick_s

    def tick(self, now_s: float, mono_s: float) -> Sample | None:
        """Reads, and returns the sample of the interval that has just ended, if one has.

        Args:
            now_s: wall clock, Unix seconds.
            mono_s: monotonic clock; it tells a clock that jumped from time that passed.

        Returns: None inside an interval, for the first (partial) one, and for one that was not `interval_s` long.
        Raises: OSError: the machine could not be read; that interval is lost, the next call goes on.
        """
        slot = int(now_s // self._interval_s)
        if slot == self._slot:
            if self._start is not None:
                self._note_burst(self._readings.tick(), mono_s)
            return None
        first = self._slot is None
        self._slot = slot
        start, self._start = self._start, None
        if first and now_s % self._interval_s >= self._tick_s / 2:
            # Started inside an interval: the next boundary is the first that can begin one.
            return None
        reading = self._readings.reading()
        if start is not None:
            self._note_burst(reading.tick, mono_s)
        sample = None if start is None else self._sample(start, reading, now_s=now_s, mono_s=mono_s)
        self._start = _Start(reading, now_s, mono_s)
        self._newest, self._busiest_ratio = (reading.tick, mono_s), 0.0
        return sample

    def _note_burst(self, tick: Tick, mono_s: float) -> None:
        if self._newest is None:
            return
        before, before_mono_s = self._newest
        # The kernel counts in steps of 10 ms: over a moment, one step looks like a burst.
        if mono_s - before_mono_s < self._tick_s / 2:
            return
        self._newest = tick, mono_s
        shares = cpu_shares(before.cpu, tick.cpu, own_s=tick.own_cpu_s - before.own_cpu_s)
        if shares is not None:
            self._busiest_ratio = max(self._busiest_ratio, shares.busy_ratio)

    def _sample(self, start: _Start, end: Reading, *, now_s: float, mono_s: float) -> Sample | None:
        elapsed_s = mono_s - start.mono_s
        length_is_right = abs(elapsed_s - self._interval_s) <= self._interval_s * _LENGTH_TOLERANCE_RATIO
        clock_jumped = abs(now_s - start.now_s - elapsed_s) > self._interval_s * _CLOCK_TOLERANCE_RATIO
        sample = None
        if length_is_right and not clock_jumped:
            sample = make_sample(
                start.reading,
                end,
                ts=int(now_s // self._interval_s) * self._interval_s,
                elapsed_s=elapsed_s,
                busiest_ratio=self._busiest_ratio,
            )
        if sample is None:
            self.dropped_total += 1
        return sample


def tick_s(interval_s: int) -> float:
    """Seconds between readings inside an interval: 5 where that divides it, else 1 or less."""
    return 5.0 if interval_s > 5 and interval_s % 5 == 0 else min(1.0, interval_s / 4)


def make_sample(before: Reading, after: Reading, *, ts: int, elapsed_s: float, busiest_ratio: float) -> Sample | None:
    """The interval between two readings as a sample.

    Args:
        ts: end of the interval.
        elapsed_s: its real length.
        busiest_ratio: the largest busy share of its parts.

    Returns: None where the CPU counters went back: without them there is no sample.
    """
    own_cpu_s = after.tick.own_cpu_s - before.tick.own_cpu_s
    shares = cpu_shares(before.tick.cpu, after.tick.cpu, own_s=own_cpu_s)
    if shares is None:
        return None

    def rate(was: Mapping[str, int], now: Mapping[str, int], own_bytes: int) -> float | None:
        return rate_per_s(was, now, elapsed_s=elapsed_s, own=own_bytes)

    return Sample(
        ts=ts,
        cpu_busy_ratio=shares.busy_ratio,
        cpu_max_ratio=max(busiest_ratio, shares.busy_ratio),
        cpu_steal_ratio=shares.steal_ratio,
        cpu_iowait_ratio=shares.iowait_ratio,
        cpu_count=after.cpu_count,
        load1=after.load1,
        mem_total_bytes=after.mem_total_bytes,
        mem_used_bytes=after.mem_used_bytes,
        swap_used_bytes=after.swap_used_bytes,
        disk_total_bytes=after.disk_total_bytes,
        disk_used_bytes=after.disk_used_bytes,
        disk_read_bytes_per_s=rate(
            before.disk_read_bytes, after.disk_read_bytes, after.own_read_bytes - before.own_read_bytes
        ),
        disk_write_bytes_per_s=rate(
            before.disk_write_bytes, after.disk_write_bytes, after.own_write_bytes - before.own_write_bytes
        ),
        net_rx_bytes_per_s=rate(before.net_rx_bytes, after.net_rx_bytes, after.own_rx_bytes - before.own_rx_bytes),
        net_tx_bytes_per_s=rate(before.net_tx_bytes, after.net_tx_bytes, after.own_tx_bytes - before.own_tx_bytes),
        users=after.users,
        procs=after.procs,
        agent_cpu_s=own_cpu_s,
    )
