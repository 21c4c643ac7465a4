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
    pairs = {
        "cpu": ((before.cpu_s,), (after.cpu_s,)),
        "net": ((before.net_rx_bytes, before.net_tx_bytes), (after.net_rx_bytes, after.net_tx_bytes)),
        "disk": ((before.disk_read_bytes, before.disk_write_bytes), (after.disk_read_bytes, after.disk_write_bytes)),
    }
    rates: dict[str, float | None] = {}
    for name, (old, new) in pairs.items():
        grown = [late - early for early, late in zip(old, new, strict=True) if early is not None and late is not None]
        if any(each < 0 for each in grown):
            return None
        rates[name] = sum(grown) / span_s if len(grown) == len(old) else None
    return Outside(
        at_s=after.at_s,
        span_s=span_s,
        cpu_cores=rates["cpu"],
        net_bytes_per_s=rates["net"],
        disk_bytes_per_s=rates["disk"],
    )
