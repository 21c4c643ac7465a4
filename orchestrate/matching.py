"""Which agent runs in which VM of a hypervisor: by UUID, else by MAC; addresses are evidence only. Pure.

A match that is not the only one possible is none: it is told as a doubt, and nothing is ever done on a doubt.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrate.inventory import Inventory, Vm, VmRef
from orchestrate.sighting import Fleet, Sighting
from reports.words import count_words, listed_words


class Evidence(StrEnum):
    """What an agent and a hypervisor's VM have in common, the strongest first."""

    UUID = "uuid"
    MAC = "mac"
    ADDRESS = "address"


# What is enough to act upon unless the settings say more. An address never is: it is given anew.
ENOUGH = frozenset({Evidence.UUID})
MAY_BE_ENOUGH = frozenset({Evidence.UUID, Evidence.MAC})
_NO_VALUES: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """An agent and the VM that it runs in.

    Args:
        by: what put the two together. agrees: everything that they have in common, `by` included.
        doubt: why nothing may be done on it; None: it may.
    """

    vm_id: str
    ref: VmRef
    by: Evidence
    agrees: tuple[Evidence, ...]
    doubt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """All of them, doubtful ones included; an agent and a VM are in one match at most.

    Args: doubts: VMs in no match though an agent may run in them, or of which there are two, and why.
    """

    by_ref: Mapping[VmRef, Match]
    by_vm_id: Mapping[str, Match]
    doubts: Mapping[VmRef, str]


def match(
    fleet: Fleet,
    inventories: Sequence[Inventory],
    *,
    allow: Collection[Evidence] = ENOUGH,
    unread: Collection[str] = (),
) -> Matches:
    """Puts agents and VMs together.

    Args:
        allow: what a match must be made by to be acted upon; the others are for people to see.
        unread: drivers that have no inventory here because they did not answer.
    """
    vms = sorted((vm for inventory in inventories for vm in inventory.vms), key=_place)
    sightings = [fleet.sightings[vm_id] for vm_id in sorted(fleet.sightings)]
    macs = _Ties(sightings, vms, Evidence.MAC)
    doubts = _twice(vms)
    hidden = sorted({host_id for inventory in inventories for host_id in inventory.unreachable}.union(unread))
    found = _by_uuid(sightings, vms, doubts, macs, allow)
    _add(found, doubts, macs, lambda sighting, vm: _mac_doubt(sighting, vm, hidden, allow))
    _add(found, doubts, _Ties(sightings, vms, Evidence.ADDRESS), lambda _sighting, _vm: "matched by its address alone")
    return Matches(by_ref=found, by_vm_id={one.vm_id: one for one in found.values()}, doubts=doubts)


def _place(vm: Vm) -> tuple[str, str, str]:
    # Plain texts: a park has many VMs, and they are compared with each other many times.
    return (vm.ref.driver, vm.ref.uuid, vm.host_id)


class _Ties:
    """Which agents and VMs share a MAC or an address."""

    def __init__(self, sightings: Iterable[Sighting], vms: Iterable[Vm], evidence: Evidence) -> None:
        self.evidence = evidence
        agents: defaultdict[str, list[Sighting]] = defaultdict(list)
        machines: defaultdict[str, list[Vm]] = defaultdict(list)
        for sighting in sightings:
            for value in _values(sighting, evidence):
                agents[value].append(sighting)
        for vm in vms:
            for value in _values(vm, evidence):
                machines[value].append(vm)
        self.vms_of: defaultdict[str, dict[VmRef, Vm]] = defaultdict(dict)
        self.agents_of: defaultdict[VmRef, dict[str, Sighting]] = defaultdict(dict)
        for value, here in machines.items():
            for sighting in agents.get(value, ()):
                for vm in here:
                    self.vms_of[sighting.vm_id][vm.ref] = vm
                    self.agents_of[vm.ref][sighting.vm_id] = sighting


def _twice(vms: Iterable[Vm]) -> dict[VmRef, str]:
    """VMs whose UUID another VM has too: which of them the agent runs in nobody can say."""
    hosts: defaultdict[str, list[str]] = defaultdict(list)
    refs: defaultdict[str, set[VmRef]] = defaultdict(set)
    for vm in vms:
        hosts[vm.ref.uuid].append(f"{vm.ref.driver} on {vm.host_id}")
        refs[vm.ref.uuid].add(vm.ref)
    return {
        ref: f"there are {len(places)} VMs of its UUID: {listed_words(places)}"
        for uuid, places in hosts.items()
        if len(places) > 1
        for ref in sorted(refs[uuid])
    }


def _by_uuid(
    sightings: Sequence[Sighting],
    vms: Iterable[Vm],
    doubts: dict[VmRef, str],
    macs: _Ties,
    allow: Collection[Evidence],
) -> dict[VmRef, Match]:
    """Adds to `doubts` what two agents claim."""
    named = {sighting.vm_id.lower(): sighting for sighting in sightings}
    claims = Counter(sighting.vm_id.lower() for sighting in sightings)
    found = {}
    for vm in vms:
        if (sighting := named.get(vm.ref.uuid)) is None or vm.ref in doubts:
            continue
        if claims[vm.ref.uuid] > 1:
            doubts[vm.ref] = f"{claims[vm.ref.uuid]} agents have its UUID"
            continue
        doubt = None if Evidence.UUID in allow else "matched by its UUID, which the settings do not count"
        others = macs.vms_of.get(sighting.vm_id, {})
        if others and vm.ref not in others:
            doubt = f"its agent has the network card of {listed_words([other.name for other in others.values()])}"
        found[vm.ref] = _match(sighting, vm, Evidence.UUID, doubt)
    return found


def _mac_doubt(sighting: Sighting, vm: Vm, hidden: Sequence[str], allow: Collection[Evidence]) -> str | None:
    if Evidence.MAC not in allow:
        return "matched by its MAC alone"
    if hidden:
        return f"matched by its MAC, which may be there once more: {listed_words(hidden)} did not answer"
    # A guest says what its MACs are, and its neighbours' are no secret. Whose it is was said by whoever gave it the
    # token to enrol with: nobody can speak for a VM that is not their own.
    if sighting.owner is None or sighting.owner != vm.owner:
        whose = [owner or "nobody that is known" for owner in (sighting.owner, vm.owner)]
        return f"matched by its MAC, and its agent's owner is {whose[0]}, its hypervisor's {whose[1]}"
    return None


def _add(
    found: dict[VmRef, Match],
    doubts: dict[VmRef, str],
    ties: _Ties,
    doubt_of: Callable[[Sighting, Vm], str | None],
) -> None:
    """Adds the pairs that nothing else fits, and to `doubts` the VMs for which there are several agents or VMs."""
    taken = {one.vm_id for one in found.values()}
    for ref, agents in sorted(ties.agents_of.items(), key=lambda item: item[0]):
        if ref in found or ref in doubts or taken.issuperset(agents):
            continue
        # Agents that another VM has by a stronger sign share the value all the same: it is not unique.
        rivals = {other for vm_id in agents for other in ties.vms_of[vm_id]}
        if len(agents) > 1 or len(rivals) > 1:
            doubts[ref] = _fits_words(ties.evidence, len(agents), len(rivals))
            continue
        ((vm_id, sighting),) = agents.items()
        taken.add(vm_id)
        vm = ties.vms_of[vm_id][ref]
        found[ref] = _match(sighting, vm, ties.evidence, doubt_of(sighting, vm))


def _fits_words(evidence: Evidence, agents: int, vms: int) -> str:
    what = "MAC" if evidence is Evidence.MAC else "address"
    return f"its {what} fits {count_words(agents, 'agent')} and {count_words(vms, 'VM')}"


def _match(sighting: Sighting, vm: Vm, by: Evidence, doubt: str | None) -> Match:
    return Match(vm_id=sighting.vm_id, ref=vm.ref, by=by, agrees=_agreement(sighting, vm), doubt=doubt)


def _agreement(sighting: Sighting, vm: Vm) -> tuple[Evidence, ...]:
    agrees = [Evidence.UUID] if sighting.vm_id.lower() == vm.ref.uuid else []
    agrees += [
        evidence
        for evidence in (Evidence.MAC, Evidence.ADDRESS)
        if not _values(sighting, evidence).isdisjoint(_values(vm, evidence))
    ]
    return tuple(agrees)


def _values(side: Sighting | Vm, evidence: Evidence) -> frozenset[str]:
    values = side.macs if evidence is Evidence.MAC else side.addresses
    return frozenset(map(str.lower, values)) if values else _NO_VALUES
