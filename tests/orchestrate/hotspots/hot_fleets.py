"""Small fleets with loads of one's choice, for tests of detectors, planners, placement and relief."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrate.hotspots.detectors import Sandpiper
from orchestrate.hotspots.host_loads import SLOTS
from orchestrate.hotspots.hosts import HostSettings, Readings, Site, site_of
from orchestrate.hotspots.planners.situation import PlannerSettings, Situation
from orchestrate.hotspots.relief import find_hot
from orchestrate.inventory import Host, Inventory, Vm, VmState
from orchestrate.sighting import Fleet, Minute, Sighting
from orchestrate.world import World, make_world
from tests.orchestrate.worlds import CAN, SITE, ref, sighting, uuid
from tests.orchestrate.worlds import NOW_S as SOME_TIME_S

GIB = 2**30
# Five seconds into a minute: the last one has just been told.
NOW_S = SOME_TIME_S // 60 * 60 + 5.0
LINK = 125e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A VM. Args: cpu: share of its vCPUs, one figure or one a minute, oldest first; None: no agent runs in it."""

    number: int
    host: str
    cpu: float | Sequence[float] | None = 0.1
    vcpus: int = 4
    mem_gib: float = 4.0
    mem_ratio: float = 0.25
    net_bytes_per_s: float | None = 1e4
    vm: Mapping[str, Any] = field(default_factory=dict)
    minute: Mapping[str, Any] = field(default_factory=dict)

    def minutes(self, now_s: float = NOW_S) -> tuple[Minute, ...]:
        if self.cpu is None:
            return ()
        shares = [self.cpu] * SLOTS if isinstance(self.cpu, float) else list(self.cpu)
        newest_s = now_s // 60 * 60
        values: dict[str, Any] = {
            "interval_s": 60.0,
            "mem_used_bytes": self.mem_ratio * self.mem_gib * GIB,
            "net_rx_bytes_per_s": self.net_bytes_per_s,
            "net_tx_bytes_per_s": self.net_bytes_per_s,
            "users": 0,
            **self.minute,
        }
        return tuple(
            Minute(ts_s=newest_s - 60.0 * back, cpu_busy_ratio=share, **values)
            for back, share in zip(reversed(range(len(shares))), shares, strict=True)
        )

    def as_vm(self) -> Vm:
        values: dict[str, Any] = {
            "ref": ref(self.number),
            "name": f"vm-{self.number}",
            "host_id": self.host,
            "state": VmState.RUNNING,
            "vcpus": self.vcpus,
            "mem_bytes": int(self.mem_gib * GIB),
        }
        return Vm(**{**values, **self.vm})

    def as_sighting(self, now_s: float) -> Sighting:
        minutes = self.minutes(now_s)
        newest_s = minutes[-1].ts_s if minutes else None
        return sighting(self.number, name=f"vm-{self.number}", minutes=minutes, newest_s=newest_s, tags=())


def hosts(*ids: str, cores: int = 16, mem_gib: float = 64.0, **changes: Any) -> tuple[Host, ...]:
    return tuple(Host(driver=SITE, host_id=each, cores=cores, mem_bytes=int(mem_gib * GIB), **changes) for each in ids)


def inventory_of(guests: Sequence[Guest], machines: Sequence[Host], *, now_s: float = NOW_S) -> Inventory:
    return Inventory(driver=SITE, read_s=now_s, hosts=tuple(machines), vms=tuple(guest.as_vm() for guest in guests))


def site(
    guests: Sequence[Guest],
    machines: Sequence[Host] = hosts("hv1", "hv2", "hv3"),
    *,
    now_s: float = NOW_S,
    settings: HostSettings | None = None,
    readings: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Site:
    minutes = {ref(guest.number): guest.minutes(now_s) for guest in guests}
    return site_of(
        inventory_of(guests, machines, now_s=now_s),
        Readings(**{"minutes": minutes, **(readings or {})}),
        settings or HostSettings(),
        now_s=now_s,
        **changes,
    )


def situation(made: Site, settings: PlannerSettings | None = None, **changes: Any) -> Situation:
    """With what Sandpiper finds hot."""
    values: dict[str, Any] = {
        "site": made,
        "hot": find_hot(made, Sandpiper())[0],
        "settings": settings or PlannerSettings(),
    }
    return Situation(**{**values, **changes})


def world_of(
    guests: Sequence[Guest],
    machines: Sequence[Host] = hosts("hv1", "hv2", "hv3"),
    *,
    now_s: float = NOW_S,
    **changes: Any,
) -> World:
    told = {uuid(guest.number): guest.as_sighting(now_s) for guest in guests if guest.cpu is not None}
    values: dict[str, Any] = {
        "now_s": now_s,
        "fleet": Fleet(read_s=now_s, sightings=told, live=True),
        "inventories": [inventory_of(guests, machines, now_s=now_s)],
        "capabilities": {SITE: CAN},
    }
    return make_world(**{**values, **changes})


def host_of(made: Site, row: int) -> str:
    return made.hosts[row].host_id
