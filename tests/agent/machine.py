"""A machine for tests: counters that are set by hand, and a clock that moves when told."""

from __future__ import annotations

from dataclasses import replace

from agent.counters import CpuTimes
from agent.readings import Reading, Tick


class Clock:
    """Wall clock and monotonic clock; `advance` moves both, `jump` the wall clock alone."""

    def __init__(self, now_s: float = 1_700_000_040.0) -> None:
        self.now_s = now_s
        self.mono_s = 1000.0

    def now(self) -> float:
        return self.now_s

    def mono(self) -> float:
        return self.mono_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        self.mono_s += seconds

    def jump(self, seconds: float) -> None:
        self.now_s += seconds


class Machine:
    """Readings as set: `spend` moves the CPU counters, `set` anything else."""

    def __init__(self) -> None:
        self._tick = Tick(cpu=CpuTimes(busy_s=0.0, steal_s=0.0, iowait_s=0.0, total_s=0.0), own_cpu_s=0.0)
        self._reading = Reading(
            tick=self._tick,
            cpu_count=2,
            load1=0.5,
            mem_total_bytes=4 << 30,
            mem_used_bytes=1 << 30,
            swap_used_bytes=0,
            disk_total_bytes=100 << 30,
            disk_used_bytes=10 << 30,
            disk_read_bytes={"vda": 0},
            disk_write_bytes={"vda": 0},
            net_rx_bytes={"eth0": 0},
            net_tx_bytes={"eth0": 0},
            users=0,
            procs=80,
            own_read_bytes=0,
            own_write_bytes=0,
            own_rx_bytes=0,
            own_tx_bytes=0,
        )
        self.failure: Exception | None = None

    def spend(self, seconds: float, *, busy: float, own_s: float = 0.0) -> None:
        """`seconds` pass on two vCPUs of which the share `busy` is used, `own_s` CPU seconds by the agent."""
        cpu = self._tick.cpu
        total_s = 2 * seconds
        cpu = replace(cpu, busy_s=cpu.busy_s + total_s * busy, total_s=cpu.total_s + total_s)
        self._tick = Tick(cpu=cpu, own_cpu_s=self._tick.own_cpu_s + own_s)

    def set(self, **changes: object) -> None:
        self._reading = replace(self._reading, **changes)  # type: ignore[arg-type]

    def tick(self) -> Tick:
        if self.failure is not None:
            raise self.failure
        return self._tick

    def reading(self) -> Reading:
        if self.failure is not None:
            raise self.failure
        return replace(self._reading, tick=self._tick)
