"""The world as this process can see it now: fleet, hypervisors and records put together, afresh for each decision.

`orchestrate.checks` asks it again just before each step. Blocking; nothing here decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from orchestrate.config import OrchestrateConfig
from orchestrate.fleet_source import Judging, read_evidence, read_fleet, read_sighting
from orchestrate.groups import group_of
from orchestrate.inventory import Vm, VmRef
from orchestrate.live_source import Live
from orchestrate.outside import Outside
from orchestrate.records import Records
from orchestrate.sighting import Fleet, Sighting
from orchestrate.sites import Look, Sites
from orchestrate.world import Scene, World, make_world

# What guards and limits look back over.
ACTIONS_SINCE_S = 86_400.0
_MAX_STOP_CHARS = 200


def read_kill_switch(path: Path, *, needs_folder: bool = False) -> str | None:
    """What stops everything, in words; None where the file is not there. One that cannot be looked at is there.

    Args: needs_folder: its folder has to be there, as it may be another machine's that is not mounted just now.
    """
    try:
        if not (path.is_file() or path.is_dir()) and path.exists():
            # Reading from a pipe or a socket could wait for ever.
            return f"the kill switch {path} is there"
        with path.open(encoding="utf-8", errors="replace") as file:
            said = file.readline(_MAX_STOP_CHARS).strip()
    except FileNotFoundError:
        if needs_folder and not path.parent.is_dir():
            return f"the kill switch {path} cannot be looked at: there is no folder {path.parent}"
        return None
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror or error}"
    return f"{path} is there" + (f": {said}" if said else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the world is read from.

    Args:
        engine: of `aggregator.fleet_db.open_fleet_read_only`.
        clock: Unix seconds.
    """

    config: OrchestrateConfig
    engine: sa.Engine
    live: Live
    sites: Sites
    records: Records
    clock: Callable[[], float]

    def stopped(self) -> str | None:
        """What the kill switch says; None: there is none."""
        return read_kill_switch(self.config.kill_switch, needs_folder=self.config.kill_switch_file is not None)

    def world(self, *, outside: bool = True, all_minutes: bool = False) -> World:
        """All of it, as it is now.

        Args:
            outside: what hypervisors count of their VMs too, which may take some seconds.
            all_minutes: the last minutes of every VM, not of the idle alone.

        Raises: ConfigError, reports.fleet.FleetDamaged, sqlalchemy.exc.DBAPIError: of the fleet database.
        """
        look = self.sites.look()
        # The fleet last: of all, the newest minutes age fastest.
        counted = self.sites.outside() if outside else {}
        judging = self._judging(_vms_of(look))
        fleet = read_fleet(self.engine, self.live, judging, clock=self.clock, all_minutes=all_minutes)
        return self._world(fleet, look, counted)

    def world_without_fleet(self) -> World:
        """What giving back needs: hypervisors and records, and nothing of the agents."""
        fleet = Fleet(read_s=self.clock(), sightings={}, live=False, problem="it was not asked")
        return self._world(fleet, self.sites.look(), {})

    def again(self, world: World) -> World:
        """The same fleet, with hypervisors and records as they are now."""
        return self._world(world.fleet, self.sites.look(), world.outside)

    def scene(self, world: World, ref: VmRef, vm: Vm | None) -> Scene:
        """One VM's part of `world`, read anew.

        Args: vm: as its driver shows it just now; None: what `world` has.

        Raises: aggregator.admin_client.AdminUnavailable: its last minutes cannot be read; else as `world`.
        """
        old = world.scene(ref)
        seen = old.vm if vm is None else vm
        sighting = None
        if old.match is not None:
            known = {} if seen is None else {ref: seen}
            sighting = read_sighting(self.engine, self.live, old.match.vm_id, self._judging(known), now_s=self.clock())
        counts = old.capabilities is not None and old.capabilities.vm_counters
        outside = self.sites.outside_of(ref) if counts else None
        return replace(self.remembered(old), vm=seen, sighting=sighting, outside=outside)

    def evidence(self, sightings: Collection[Sighting]) -> Mapping[str, Sighting]:
        """The same with what their verdicts rest on, by id, for the steps of a plan. Raises: as `world`."""
        return read_evidence(self.engine, sightings, self._judging({}), now_s=self.clock())

    def remembered(self, scene: Scene) -> Scene:
        """The same with what the records hold of the VM now."""
        now_s, records = self.clock(), self.records
        return replace(
            scene,
            now_s=now_s,
            entry=records.find_entry(scene.ref),
            unsettled=next((one for one in records.unsettled() if one.step.ref == scene.ref), None),
            actions=tuple(one for one in records.actions_since(now_s - ACTIONS_SINCE_S) if one.step.ref == scene.ref),
        )

    def _world(self, fleet: Fleet, look: Look, outside: Mapping[VmRef, Outside]) -> World:
        now_s, records = self.clock(), self.records
        return make_world(
            now_s=now_s,
            fleet=fleet,
            inventories=look.inventories,
            capabilities={name: driver.capabilities for name, driver in self.sites.drivers.items()},
            allow=self.config.match,
            unread=look.problems,
            outside=outside,
            entries=records.entries(),
            unsettled=records.unsettled(),
            actions=records.actions_since(now_s - ACTIONS_SINCE_S),
            seen=records.seen(),
            stop=self.stopped(),
        )

    def _judging(self, vms: Mapping[VmRef, Vm]) -> Judging:
        """By which policy a VM is judged is its group's to say, and a group may go by what hypervisors tell.

        Which VM an agent runs in is told by the UUID or else by any MAC: should that be the wrong one, the guards find
        that its policy is not its group's.
        """
        policies, groups = self.config.policies, self.config.reclaim.groups
        by_uuid = {ref.uuid: vm for ref, vm in vms.items()}
        by_mac = {mac: vm for vm in vms.values() for mac in vm.macs}

        def choose(sighting: Sighting) -> str:
            found = by_uuid.get(sighting.vm_id) or next((by_mac[mac] for mac in sighting.macs if mac in by_mac), None)
            group = None if found is None else group_of(found, sighting, groups)
            if group is None or group.policy is None:
                return policies[0].name
            return group.policy

        return Judging(settings=self.config.report.settings, policies=policies, choose=choose)


def _vms_of(look: Look) -> Mapping[VmRef, Vm]:
    return {vm.ref: vm for inventory in look.inventories for vm in inventory.vms}
