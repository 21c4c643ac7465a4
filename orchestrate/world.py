"""Everything that a decision rests on at one moment: the whole (`World`), and its part of one VM (`Scene`). Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrate.driver import Capabilities
from orchestrate.inventory import Inventory, Vm, VmRef
from orchestrate.matching import ENOUGH, Evidence, Match, Matches, match
from orchestrate.outside import Outside
from orchestrate.records import Action, Entry, Seen
from orchestrate.sighting import Fleet, Sighting


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is known of one VM at one moment.

    Just before a step it is made anew: `replace(world.scene(ref), vm=…, sighting=…, …)` with what was read just then.

    Args:
        vm: None: its hypervisor does not show it.
        readable: its driver answered, and so did all of its hosts: a VM that is not shown is gone.
        match, sighting: None: no agent is known to run in it. doubt: why the two may not be put together.
        outside: None: not read, or its driver counts nothing of it.
        capabilities: of its driver; None: there is no such driver.
        entry: where it stands on the ladder. unsettled: an action whose outcome is open.
        actions: what was done to it within the last day.
    """

    now_s: float
    ref: VmRef
    vm: Vm | None = None
    readable: bool = True
    match: Match | None = None
    doubt: str | None = None
    sighting: Sighting | None = None
    outside: Outside | None = None
    capabilities: Capabilities | None = None
    entry: Entry | None = None
    unsettled: Action | None = None
    actions: tuple[Action, ...] = ()

    @property
    def name(self) -> str:
        """What people call it."""
        told = (self.vm and self.vm.name) or (self.sighting and self.sighting.name)
        return told or str(self.ref)

    @property
    def owner(self) -> str | None:
        """The catalogue's, else the hypervisor's; None is not known."""
        return (self.sighting and self.sighting.owner) or (self.vm and self.vm.owner) or None

    @property
    def mail(self) -> str | None:
        """The owner's; None is not known."""
        return (self.sighting and self.sighting.mail) or (self.vm and self.vm.mail) or None

    @property
    def tags(self) -> frozenset[str]:
        """Of both sides."""
        return frozenset((*(self.vm.tags if self.vm else ()), *(self.sighting.tags if self.sighting else ())))


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All of it; `make_world` puts one together.

    Args:
        unread: drivers whose inventory could not be read, by name, and why.
        vms: of all inventories. matches: of `fleet` and `inventories`.
        capabilities: by the driver's name.
        unsettled: actions whose outcome is open. actions: begun within the last day, these included.
        seen: the verdicts of the last look, by the agent's id.
        stop: what the kill switch says; None: there is none.
    """

    now_s: float
    fleet: Fleet
    inventories: tuple[Inventory, ...]
    unread: Mapping[str, str]
    vms: Mapping[VmRef, Vm]
    matches: Matches
    outside: Mapping[VmRef, Outside]
    capabilities: Mapping[str, Capabilities]
    entries: Mapping[VmRef, Entry]
    unsettled: tuple[Action, ...]
    actions: tuple[Action, ...]
    seen: Mapping[str, Seen]
    stop: str | None

    def scene(self, ref: VmRef) -> Scene:
        """One VM's part."""
        found = self.matches.by_ref.get(ref)
        inventory = next((one for one in self.inventories if one.driver == ref.driver), None)
        return Scene(
            now_s=self.now_s,
            ref=ref,
            vm=self.vms.get(ref),
            readable=inventory is not None and not inventory.unreachable,
            match=found,
            doubt=self.matches.doubts.get(ref) or (found.doubt if found else None),
            sighting=self.fleet.sightings.get(found.vm_id) if found else None,
            outside=self.outside.get(ref),
            capabilities=self.capabilities.get(ref.driver),
            entry=self.entries.get(ref),
            unsettled=next((action for action in self.unsettled if action.step.ref == ref), None),
            actions=tuple(action for action in self.actions if action.step.ref == ref),
        )


def make_world(
    *,
    now_s: float,
    fleet: Fleet,
    inventories: Sequence[Inventory],
    capabilities: Mapping[str, Capabilities],
    allow: Collection[Evidence] = ENOUGH,
    unread: Mapping[str, str] | None = None,
    outside: Mapping[VmRef, Outside] | None = None,
    entries: Mapping[VmRef, Entry] | None = None,
    unsettled: Sequence[Action] = (),
    actions: Sequence[Action] = (),
    seen: Mapping[str, Seen] | None = None,
    stop: str | None = None,
) -> World:
    """A world in which agents and VMs are matched. Args: allow: see `orchestrate.matching`."""
    return World(
        now_s=now_s,
        fleet=fleet,
        inventories=tuple(inventories),
        unread=unread or {},
        vms={vm.ref: vm for inventory in inventories for vm in inventory.vms},
        matches=match(fleet, inventories, allow=allow, unread=tuple(unread or ())),
        outside=outside or {},
        capabilities=capabilities,
        entries=entries or {},
        unsettled=tuple(unsettled),
        actions=tuple(actions),
        seen=seen or {},
        stop=stop,
    )
