"""One minute of one VM: the value that the whole system is about.

`FIELDS` is the single list of what a sample holds. The wire, the packed rows of the journal and the
columns of the stores are all derived from it, so that a figure is added in one place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


class Unit(Enum):
    """How a figure is measured, and the precision at which it is kept."""

    RATIO = "0..1 of all vCPUs"
    BYTES = "bytes"
    BYTES_PER_S = "bytes a second"
    COUNT = "count"
    LOAD = "runnable processes"
    CPU_S = "CPU seconds"

    @property
    def quantum(self) -> float:
        """Size of one step of the stored integer, in the unit itself."""
        return _QUANTA[self]


# KiB: Linux counts memory in KiB and blocks in 512 bytes or more, so nothing real is lost.
_QUANTA = {
    Unit.RATIO: 1e-5,
    Unit.BYTES: 1024.0,
    Unit.BYTES_PER_S: 1.0,
    Unit.COUNT: 1.0,
    Unit.LOAD: 0.01,
    Unit.CPU_S: 0.001,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One figure of a sample.

    Args:
        name: name on the wire and in `Sample`, unit included.
        column: name of the integer column in a store.
        unit: unit and precision.
        maximum: largest value accepted; anything above is a mistake of the sender.
        required: a sample without it is refused.
    """

    name: str
    column: str
    unit: Unit
    maximum: float
    required: bool = False


_MAX_BYTES = float(2**53)  # exact in a double: 8 PiB
_MAX_BYTES_PER_S = 1e12  # 8 Tbit/s; 50 days of twice that, in bytes, still fit 64 bits

FIELDS: tuple[Field, ...] = (
    Field(name="cpu_busy_ratio", column="cpu_busy", unit=Unit.RATIO, maximum=1.0, required=True),
    Field(name="cpu_max_ratio", column="cpu_max", unit=Unit.RATIO, maximum=1.0),
    Field(name="cpu_steal_ratio", column="cpu_steal", unit=Unit.RATIO, maximum=1.0),
    Field(name="cpu_iowait_ratio", column="cpu_iowait", unit=Unit.RATIO, maximum=1.0),
    Field(name="cpu_count", column="cpu_count", unit=Unit.COUNT, maximum=1e5),
    Field(name="load1", column="load1", unit=Unit.LOAD, maximum=1e7),
    Field(name="mem_total_bytes", column="mem_total", unit=Unit.BYTES, maximum=_MAX_BYTES, required=True),
    Field(name="mem_used_bytes", column="mem_used", unit=Unit.BYTES, maximum=_MAX_BYTES, required=True),
    Field(name="swap_used_bytes", column="swap_used", unit=Unit.BYTES, maximum=_MAX_BYTES),
    Field(name="disk_total_bytes", column="disk_total", unit=Unit.BYTES, maximum=_MAX_BYTES),
    Field(name="disk_used_bytes", column="disk_used", unit=Unit.BYTES, maximum=_MAX_BYTES),
    Field(name="disk_read_bytes_per_s", column="disk_read", unit=Unit.BYTES_PER_S, maximum=_MAX_BYTES_PER_S),
    Field(name="disk_write_bytes_per_s", column="disk_write", unit=Unit.BYTES_PER_S, maximum=_MAX_BYTES_PER_S),
    Field(name="net_rx_bytes_per_s", column="net_rx", unit=Unit.BYTES_PER_S, maximum=_MAX_BYTES_PER_S),
    Field(name="net_tx_bytes_per_s", column="net_tx", unit=Unit.BYTES_PER_S, maximum=_MAX_BYTES_PER_S),
    Field(name="users", column="users", unit=Unit.COUNT, maximum=1e6),
    Field(name="procs", column="procs", unit=Unit.COUNT, maximum=1e7),
    Field(name="agent_cpu_s", column="agent_cpu", unit=Unit.CPU_S, maximum=1e6),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One interval of one VM, as its agent saw it.

    Attributes:
        ts: end of the interval, Unix seconds on the agent's clock, a multiple of the interval.
        cpu_busy_ratio: user + nice + system + irq + softirq over all time, 0..1 of all vCPUs.
        cpu_max_ratio: largest busy ratio of the readings inside the interval.
        mem_used_bytes: total - available.
        Others: None means not measured, never zero.
    """

    ts: int
    cpu_busy_ratio: float
    mem_total_bytes: int
    mem_used_bytes: int
    cpu_max_ratio: float | None = None
    cpu_steal_ratio: float | None = None
    cpu_iowait_ratio: float | None = None
    cpu_count: int | None = None
    load1: float | None = None
    swap_used_bytes: int | None = None
    disk_total_bytes: int | None = None
    disk_used_bytes: int | None = None
    disk_read_bytes_per_s: float | None = None
    disk_write_bytes_per_s: float | None = None
    net_rx_bytes_per_s: float | None = None
    net_tx_bytes_per_s: float | None = None
    users: int | None = None
    procs: int | None = None
    agent_cpu_s: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError: a figure that is missing, not finite, negative or above its maximum."""
        for field in FIELDS:
            value = getattr(self, field.name)
            if value is None and not field.required:
                continue
            if value is None or not math.isfinite(value) or not 0 <= value <= field.maximum:
                raise ValueError(f"{field.name}: {value!r} is not between 0 and {field.maximum:g}")
