"""Our own policy, with one dial: how much later use an admin accepts among the VMs called idle. Pure.

docs/verdicts.md gives the reason of every limit and what each strictness freed and regretted on recorded VMs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reports.policy import All, Either, Expression, Policy, at_most, below
from reports.published import LINK_BYTES_PER_S

# A VM whose CPU stays under this on average does nothing but live: package updates, monitoring, our own agent.
NOISE_FLOOR_RATIO = 0.006
_CAUTIOUS_FLOOR_RATIO = 0.0003
# More traffic than this on average is no noise: 8.6 GB a day, for the cautious 0.9 GB.
_NOISE_NET_BYTES_PER_S = 100e3
_CAUTIOUS_NET_BYTES_PER_S = 10e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Strictness:
    """One stop of the dial.

    Args:
        words: for people, what its VMs look like.
        quiet: any one of these is enough.
        logged_in_ratio: share of the window in which somebody may be logged in.
        burst_ratio: what the busiest moment of a minute may reach in 95 % of the minutes, where it is measured.
        net_bytes_per_s, disk_bytes_per_s: what traffic may reach in 95 % of the minutes, whatever the CPU says; a
            nightly backup of more than 72 minutes is above 95 %, and the bolder stops put up with one.
    """

    words: str
    quiet: tuple[Expression, ...]
    logged_in_ratio: float
    burst_ratio: float
    net_bytes_per_s: float = LINK_BYTES_PER_S / 10
    disk_bytes_per_s: float = 10e6


def _still() -> tuple[Expression, ...]:
    return (
        All((below("cpu_busy.max", 0.05), below("net_daily.max", 5e6))),
        All((at_most("cpu_busy.mean", _CAUTIOUS_FLOOR_RATIO), at_most("net_io.mean", _CAUTIOUS_NET_BYTES_PER_S))),
    )


def _resting() -> tuple[Expression, ...]:
    return (
        All((at_most("cpu_busy.mean", NOISE_FLOOR_RATIO), at_most("net_io.mean", _NOISE_NET_BYTES_PER_S))),
        All(
            (
                below("cpu_vcpus.p97", 0.03),
                at_most("cpu_busy.mean", 0.015),
                below("net_rx.p95", 2000.0),
                below("net_tx.p95", 1000.0),
            )
        ),
    )


_LITTLE_CPU_LATELY = (
    below("cpu_busy.p95", 0.03, days=7),
    at_most("cpu_busy.mean", 0.02, days=3),
    below("net_tx.mean", 0.02 * LINK_BYTES_PER_S, days=7),
)


def _unvisited() -> tuple[Expression, ...]:
    return (All((*_LITTLE_CPU_LATELY, at_most("net_io.mean", 1000.0, days=7))),)


def _lately_quiet() -> tuple[Expression, ...]:
    return (All(_LITTLE_CPU_LATELY),)


def _mostly_quiet() -> tuple[Expression, ...]:
    return (at_most("cpu_busy.p95", 0.05),)


def _quiet_throughout() -> tuple[Expression, ...]:
    return (
        All(
            (
                below("cpu_busy.p95", 0.05, days=7),
                below("disk_io.p95", 100e3, days=7),
                below("net_io.p95", 200e3, days=7),
            )
        ),
    )


def _little_used() -> tuple[Expression, ...]:
    return (
        at_most("cpu_busy.mean", 0.05),
        All(
            (
                at_most("cpu_busy.mean", 0.10),
                at_most("mem_used.mean", 0.10),
                at_most("disk_used.mean", 0.10, optional=True),
            )
        ),
    )


_RESTING = (*_still(), *_resting())
_UNVISITED = (*_RESTING, *_unvisited())
_LATELY_QUIET = (*_UNVISITED, *_lately_quiet())
_MOSTLY_QUIET = (*_LATELY_QUIET, *_mostly_quiet())
_QUIET_THROUGHOUT = (*_UNVISITED, *_quiet_throughout())

# From the strictest on. Each holds what the one before it holds, but for `keen`, which holds `steady` and not what
# lies between: it looks at a week of CPU, disk and network, the others at CPU above all.
STRICTNESS: Mapping[str, Strictness] = {
    "cautious": Strictness(words="no minute above 5% CPU", quiet=_still(), logged_in_ratio=0.0, burst_ratio=0.30),
    "careful": Strictness(words="nothing but background noise", quiet=_RESTING, logged_in_ratio=0.01, burst_ratio=0.50),
    "steady": Strictness(
        words="noise, or a week of little CPU and hardly any traffic",
        quiet=_UNVISITED,
        logged_in_ratio=0.02,
        burst_ratio=0.60,
    ),
    "balanced": Strictness(
        words="noise, or below 3% CPU in 95% of the last week",
        quiet=_LATELY_QUIET,
        logged_in_ratio=0.02,
        burst_ratio=0.60,
        net_bytes_per_s=LINK_BYTES_PER_S / 4,
        disk_bytes_per_s=30e6,
    ),
    "ready": Strictness(
        words="at most 5% CPU in 95% of the window",
        quiet=_MOSTLY_QUIET,
        logged_in_ratio=0.02,
        burst_ratio=0.80,
        net_bytes_per_s=LINK_BYTES_PER_S / 4,
        disk_bytes_per_s=30e6,
    ),
    "keen": Strictness(
        words="little CPU, disk and network in 95% of the last week",
        quiet=_QUIET_THROUGHOUT,
        logged_in_ratio=0.02,
        burst_ratio=0.80,
        net_bytes_per_s=LINK_BYTES_PER_S / 4,
        disk_bytes_per_s=30e6,
    ),
    "bold": Strictness(
        words="mean CPU at most 5%",
        quiet=(*_MOSTLY_QUIET, *_quiet_throughout(), *_little_used()),
        logged_in_ratio=0.05,
        burst_ratio=0.90,
        net_bytes_per_s=LINK_BYTES_PER_S / 2,
        disk_bytes_per_s=100e6,
    ),
}
DEFAULT_STRICTNESS = "balanced"


def fallow(strictness: str = DEFAULT_STRICTNESS) -> Policy:
    """Idle: quiet in one of the ways of this strictness, and nothing else shows use.

    Whatever the CPU says, a VM is in use that moves much over its network (from a tenth of 1 Gbit/s on) or its disks
    (from 10 MB/s on) in 5 % of the minutes, whose memory is full, whose users are logged in, or whose busiest moments
    are high.

    Args: strictness: one of STRICTNESS.
    """
    stop = STRICTNESS[strictness]
    return Policy(
        name=f"fallow-{strictness}",
        summary=f"{stop.words}, and neither disk, network, memory, bursts nor logins show use",
        source="our own; docs/verdicts.md has its reasons and what it frees and regrets on recorded VMs",
        idle_when=All(
            (
                Either(stop.quiet),
                at_most("net_io.p95", stop.net_bytes_per_s, optional=True),
                at_most("disk_io.p95", stop.disk_bytes_per_s, optional=True),
                at_most("mem_used.p95", 0.90),
                at_most("cpu_max.p95", stop.burst_ratio, optional=True),
                at_most("users.share", stop.logged_in_ratio),
            )
        ),
    )
