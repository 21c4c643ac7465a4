"""Two readings of a hypervisor's counters → what a VM did in between, seen from outside. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrate.inventory import VmCounters


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """A VM as its host sees it, mean over `span_s`. None: the driver does not count that.

    Args:
        at_s: of the later reading.
        cpu_cores: cores that its process kept busy, its emulation included.
    """

    at_s: float
    span_s: float
    cpu_cores: float | None
    net_bytes_per_s: float | None
    disk_bytes_per_s: float | None


def between(before: VmCounters, after: VmCounters) -> Outside | None:
    """What happened between two readings; None where no time passed, a counter went back or the VM moved.

    Counters begin anew when a VM starts and, for its process, when it moves.
    """
    span_s = after.at_s - before.at_s
    if span_s <= 0 or before.host_id != after.host_id:
        return None
    cpu_s = _grown(before.cpu_s, after.cpu_s)
    received, sent = _grown(before.net_rx_bytes, after.net_rx_bytes), _grown(before.net_tx_bytes, after.net_tx_bytes)
    read = _grown(before.disk_read_bytes, after.disk_read_bytes)
    written = _grown(before.disk_write_bytes, after.disk_write_bytes)
    if any(each is not None and each < 0 for each in (cpu_s, received, sent, read, written)):
        return None
    return Outside(
        at_s=after.at_s,
        span_s=span_s,
        cpu_cores=None if cpu_s is None else cpu_s / span_s,
        net_bytes_per_s=None if received is None or sent is None else (received + sent) / span_s,
        disk_bytes_per_s=None if read is None or written is None else (read + written) / span_s,
    )


def _grown(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
