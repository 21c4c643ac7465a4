"""The world of a history, read as `orchestrate.sources` reads the real one: as of that moment, never all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrate.driver import DriverError
from orchestrate.groups import ReclaimSettings
from orchestrate.histories.truth import DAY_S, DRIVER, HOUR_S
from orchestrate.histories.watched import Setting, WatchedDriver
from orchestrate.hotspots.detectors import MeanOfLast
from orchestrate.hotspots.planners.situation import PlannerSettings
from orchestrate.hotspots.relief import ReliefSettings
from orchestrate.inventory import Counters, Inventory, Vm, VmRef
from orchestrate.outside import Outside, between
from orchestrate.sighting import Fleet
from orchestrate.world import Scene, World, make_world

_MIN_SPAN_S = 5.0
_MAX_SPAN_S = 900.0
# Hosts are hot as soon as some VM works, and a move is worth little: there is much to move.
HOTSPOTS = ReliefSettings(
    detector=MeanOfLast(n=1, threshold_ratio=0.05), planning=PlannerSettings(min_gain_ratio=0.0), cool_down_s=600.0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Config:
    """As much of the configuration as checks read."""

    reclaim: ReclaimSettings
    settings_sha256: str
    hotspots: ReliefSettings = HOTSPOTS


class _Sites:
    """The one site and its last two readings."""

    def __init__(self, driver: WatchedDriver) -> None:
        self.drivers = {DRIVER: driver}
        self.before: Counters | None = None
        self.newest: Counters | None = None

    def readings(self, name: str) -> tuple[Counters | None, Counters] | None:  # noqa: ARG002 - there is one
        return None if self.newest is None else (self.before, self.newest)


class HistorySources:
    """The world of a history, as `orchestrate.sources.Sources` reads the real one."""

    def __init__(self, who: str, setting: Setting, driver: WatchedDriver) -> None:
        self._who = who
        self._setting = setting
        self._driver = driver
        self._read: tuple[float, Counters] | None = None
        self._old: World | None = None
        self.records = setting.records
        self.sites = _Sites(driver)
        self.clock = setting.truth.time.wall_s

    @property
    def config(self) -> _Config:
        """As of now: settings may change at any time."""
        truth = self._setting.truth
        return _Config(
            reclaim=self._setting.breakage.settings(truth.settings), settings_sha256=f"{truth.settings_version:064d}"
        )

    def world(self, *, all_minutes: bool = False) -> World:  # noqa: ARG002 - it tells them all anyway
        """All of it."""
        blind, old = self._setting.breakage, self._old
        if blind.hasty and old is not None and 0 <= self._now_s() - old.now_s < HOUR_S:
            return old
        inventories, unread = self.look()
        outside = self._outside()
        now_s = self._now_s()
        fleet = self._setting.truth.fleet(now_s)
        if blind.sighting is not None:
            fleet = replace(fleet, sightings={vm_id: blind.sighting(one) for vm_id, one in fleet.sightings.items()})
        if blind.outside is not None:
            outside = {ref: blind.outside(each, fleet.sightings.get(ref.uuid)) for ref, each in outside.items()}
        world = self._old = self._world(fleet, inventories, unread, outside)
        self._setting.oracle.saw(self._who, now_s)
        return world

    def world_without_fleet(self) -> World:
        """What giving back needs."""
        inventories, unread = self.look()
        fleet = Fleet(read_s=self._now_s(), sightings={}, live=False, problem="it was not asked")
        return self._world(fleet, inventories, unread, {})

    def again(self, world: World) -> World:
        """The same fleet, with hypervisors and records as they are now."""
        inventories, unread = self.look()
        return self._world(world.fleet, inventories, unread, world.outside)

    def scene(self, world: World, ref: VmRef, vm: Vm | None) -> Scene:
        """One VM, read anew."""
        old, blind = world.scene(ref), self._setting.breakage
        agent = None if old.match is None else self._setting.truth.agents.get(old.match.vm_id)
        sighting = None if agent is None else agent.sighting(self._now_s())
        if sighting is not None and blind.sighting is not None:
            sighting = blind.sighting(sighting)
        outside = self._outside(ref).get(ref)
        if outside is not None and blind.outside is not None:
            outside = blind.outside(outside, sighting)
        return replace(
            self.remembered(old),
            vm=old.vm if vm is None else vm,
            sighting=sighting,
            outside=outside,
        )

    def remembered(self, scene: Scene) -> Scene:
        """The same with what the records hold now."""
        now_s, ref, kept = self._now_s(), scene.ref, self.records
        entry = kept.find_entry(ref)
        open_ones = kept.unsettled()
        return replace(
            scene,
            now_s=now_s,
            entry=None if entry is None else self._setting.breakage.entry(entry),
            unsettled=next((each for each in open_ones if each.step.ref == ref), None),
            actions=tuple(each for each in kept.actions_since(now_s - DAY_S) if each.step.ref == ref),
        )

    def stopped(self) -> str | None:
        """The kill switch."""
        return None if self._setting.breakage.deaf else self._setting.truth.stop

    def _now_s(self) -> float:
        return self._setting.truth.time.wall_s()

    def _world(
        self,
        fleet: Fleet,
        inventories: list[Inventory],
        unread: Mapping[str, str],
        outside: Mapping[VmRef, Outside],
    ) -> World:
        kept, blind, now_s = self.records, self._setting.breakage, self._now_s()
        world = make_world(
            now_s=now_s,
            fleet=fleet,
            inventories=inventories,
            unread=unread,
            capabilities={DRIVER: self._driver.capabilities},
            outside=outside,
            entries={ref: blind.entry(entry) for ref, entry in kept.entries().items()},
            unsettled=kept.unsettled(),
            actions=kept.actions_since(now_s - DAY_S),
            seen=kept.seen(),
            stop=self.stopped(),
        )
        return blind.world(world)

    def look(self) -> tuple[list[Inventory], dict[str, str]]:
        """What the hypervisors show, and why they do not."""
        try:
            return [self._driver.inventory(1.0)], {}
        except DriverError as error:
            return [], {DRIVER: str(error)}

    def _outside(self, only: VmRef | None = None) -> Mapping[VmRef, Outside]:
        """Between a reading of some minutes ago and now; waits a little where there is none, or one of just now."""
        time = self._setting.truth.time
        try:
            if self._read is None or time.true_s - self._read[0] > _MAX_SPAN_S:
                self._read = (time.true_s, self._driver.counters(1.0))
            time.sleep_until(self._read[0] + _MIN_SPAN_S)
            (_, before), after = self._read, self._driver.counters(1.0)
        except DriverError:
            self._read = None
            return {}
        self._read = (time.true_s, after)
        self.sites.before, self.sites.newest = before, after
        found = {}
        for uuid in after.vms if only is None else {only.uuid} & after.vms.keys():
            outside = between(before.vms[uuid], after.vms[uuid]) if uuid in before.vms else None
            if outside is not None and time.offset_s:
                # Readings carry the reader's time.
                outside = replace(outside, at_s=outside.at_s + time.offset_s)
            if outside is not None:
                found[VmRef(DRIVER, uuid)] = outside
        return found
