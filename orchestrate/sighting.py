"""VMs as their agents tell of them, at one moment: the verdict with its evidence, and the last few minutes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reports.verdicts import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """One of the newest samples. None is not measured; 0.0 is a value.

    Args: ts_s: end of its interval, the agent's clock.
    """

    ts_s: float
    interval_s: float
    cpu_busy_ratio: float
    mem_used_bytes: float
    users: int | None = None
    net_rx_bytes_per_s: float | None = None
    net_tx_bytes_per_s: float | None = None
    disk_bytes_per_s: float | None = None
    swap_used_bytes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A rule's figure beside its limit, as people read them. `holds`: None where the figure is not known."""

    rule: str
    value: str
    limit: str
    holds: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What the agents' side knows of one VM.

    Args:
        vm_id: the agent's; equals the hypervisor's UUID where the agent could read that.
        policy: that made the verdict. sentence: the verdict in plain words.
        days: between its oldest and newest sample. coverage_ratio: of the policy's window; None without one.
        newest_s: ts of the newest sample that reached the aggregator, flushed or not; None: never any.
        minutes: the newest samples, oldest first, at most ten.
        boot: boot id of the newest push; None where not known.
        kept: whose exemption holds, until when and why; None: nobody asked.
        figures: evidence; empty but for VMs whose verdict is idle.
    """

    vm_id: str
    name: str | None
    owner: str | None
    mail: str | None
    tags: tuple[str, ...]
    macs: tuple[str, ...]
    addresses: tuple[str, ...]
    policy: str
    verdict: Verdict
    cause: str
    sentence: str
    score: float
    confidence_ratio: float
    days: float | None
    coverage_ratio: float | None
    newest_s: float | None
    skew_s: float | None
    minutes: tuple[Minute, ...] = ()
    boot: str | None = None
    kept: str | None = None
    flags: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    freed_vcpus: float | None = None
    freed_mem_bytes: float | None = None
    money_per_month: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All VMs with agents, seen at one moment.

    Args:
        read_s: the controller's clock.
        live: an aggregator answered; where none did, `newest_s` and `minutes` are as old as the last flush.
        problem: why none did, or of several some did not, in plain words.
        unheard: ids of VMs that none of those that answered told of, where some did not.
    """

    read_s: float
    sightings: Mapping[str, Sighting]
    live: bool
    problem: str | None = None
    unheard: frozenset[str] = frozenset()
