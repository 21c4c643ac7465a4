"""Agents and hypervisors' VMs are put together where there is one way to do so, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.inventory import Vm, VmRef
from orchestrate.matching import MAY_BE_ENOUGH, Evidence, Matches, match
from orchestrate.sighting import Fleet, Sighting
from orchestrate.world import make_world
from tests.orchestrate.worlds import NOW_S, inventory, ref, sighting, uuid, vm

MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"


def matched(sightings: Sequence[Sighting], vms: Sequence[Vm], *, mac: bool = False, **changes: Any) -> Matches:
    fleet = Fleet(read_s=NOW_S, sightings={one.vm_id: one for one in sightings}, live=True)
    allow = MAY_BE_ENOUGH if mac else frozenset({Evidence.UUID})
    return match(fleet, [inventory(vms, **changes)], allow=allow)


def test_an_agent_runs_in_the_vm_of_its_uuid() -> None:
    """The UUID decides, whatever its case; what else agrees is told beside it."""
    agent = sighting(vm_id=uuid(1).upper(), macs=(MAC.upper(),), addresses=("10.0.0.1",))
    found = matched([agent, sighting(2)], [vm(macs=(MAC,), addresses=("10.0.0.1",)), vm(3)])
    one = found.by_ref[ref()]
    assert (one.by, one.doubt, one.vm_id) == (Evidence.UUID, None, agent.vm_id)
    assert one.agrees == (Evidence.UUID, Evidence.MAC, Evidence.ADDRESS)
    assert list(found.by_vm_id) == [agent.vm_id]
    assert not found.doubts


def test_a_name_is_no_evidence() -> None:
    """A VM that was made anew under the same name is another VM."""
    assert not matched([sighting(1, name="web")], [vm(2, name="web")]).by_ref


def test_two_vms_of_one_uuid_are_none() -> None:
    """A copied VM keeps its UUID: which one the agent runs in nobody can say."""
    found = matched([sighting()], [vm(host_id="hv1"), vm(host_id="hv2")])
    assert not found.by_ref
    assert found.doubts[ref()] == "there are 2 VMs of its UUID: lab on hv1 and lab on hv2"


def test_two_sites_with_one_uuid_are_in_doubt_too() -> None:
    """A UUID is one VM's in the whole world, not in its site alone."""
    far = replace(vm(), ref=VmRef("far", uuid()))
    fleet = Fleet(read_s=NOW_S, sightings={uuid(): sighting()}, live=True)
    found = match(fleet, [inventory([vm()]), inventory([far], driver="far")])
    assert not found.by_ref
    assert set(found.doubts) == {ref(), far.ref}


def test_two_agents_of_one_uuid_are_in_doubt() -> None:
    """Ids that differ by their case alone are one UUID, claimed twice."""
    agents = [sighting(vm_id="AAAA-1"), sighting(vm_id="aaaa-1")]
    machine = replace(vm(), ref=VmRef("lab", "aaaa-1"))
    found = matched(agents, [machine])
    assert not found.by_ref
    assert found.doubts == {machine.ref: "2 agents have its UUID"}


def test_the_network_card_of_another_vm_speaks_against_a_uuid() -> None:
    """An agent with the UUID of one VM and the MAC of another may be either."""
    found = matched([sighting(macs=(MAC,))], [vm(1, macs=(OTHER_MAC,)), vm(2, name="db", macs=(MAC,))])
    assert found.by_ref[ref()].doubt == "its agent has the network card of db"


def test_a_card_of_nobody_does_not_speak_against_a_uuid() -> None:
    """Agents have bridges and tunnels of their own."""
    assert matched([sighting(macs=(MAC,))], [vm(macs=(OTHER_MAC,))]).by_ref[ref()].doubt is None


def test_a_mac_is_enough_only_where_the_settings_say_so() -> None:
    """Without that the match is told and never acted upon."""
    agents, vms = [sighting(vm_id="cloud-7", macs=(MAC,))], [vm(macs=(MAC,), owner="ann")]
    assert matched(agents, vms).by_ref[ref()].doubt == "matched by its MAC alone"
    one = matched(agents, vms, mac=True).by_ref[ref()]
    assert (one.by, one.doubt) == (Evidence.MAC, None)


def test_a_mac_that_two_have_is_no_evidence() -> None:
    """On either side, also where one of the two is matched by its UUID."""
    two_agents = [sighting(vm_id="a", macs=(MAC,)), sighting(vm_id="b", macs=(MAC,))]
    found = matched(two_agents, [vm(macs=(MAC,))], mac=True)
    assert (dict(found.by_ref), found.doubts[ref()]) == ({}, "its MAC fits 2 agents and 1 VM")
    two_vms = [vm(1, macs=(MAC,)), vm(2, macs=(MAC,))]
    found = matched([sighting(vm_id="a", macs=(MAC,))], two_vms, mac=True)
    assert (dict(found.by_ref), set(found.doubts)) == ({}, {ref(1), ref(2)})
    beside = matched([sighting(1, macs=(MAC,)), sighting(vm_id="a", macs=(MAC,))], two_vms, mac=True)
    assert set(beside.by_ref) == {ref(1)}
    assert ref(2) in beside.doubts


def test_a_mac_may_be_there_once_more_on_a_host_that_is_silent() -> None:
    """Only what all hosts were asked for is the only one."""
    agents, vms = [sighting(vm_id="a", macs=(MAC,))], [vm(macs=(MAC,))]
    doubt = matched(agents, vms, mac=True, unreachable={"hv9": "timed out"}).by_ref[ref()].doubt
    assert doubt == "matched by its MAC, which may be there once more: hv9 did not answer"


def test_a_mac_may_be_there_once_more_at_a_site_that_is_silent() -> None:
    """A driver that did not answer at all hides more than one whose hosts did not."""
    fleet = Fleet(read_s=NOW_S, sightings={"a": sighting(vm_id="a", macs=(MAC,))}, live=True)
    inventories = [inventory([vm(macs=(MAC,))])]
    made = make_world(
        now_s=NOW_S,
        fleet=fleet,
        inventories=inventories,
        capabilities={},
        allow=MAY_BE_ENOUGH,
        unread={"far": "timed out"},
    )
    doubt = made.matches.by_ref[ref()].doubt
    assert doubt == "matched by its MAC, which may be there once more: far did not answer"


@pytest.mark.parametrize(
    ("agents", "hypervisors"), [("eve", "ann"), ("eve", None), (None, "ann"), (None, None), ("Ann", "ann")]
)
def test_a_guest_that_claims_the_mac_of_anothers_vm_speaks_for_its_owners_vms_alone(
    agents: str | None, hypervisors: str | None
) -> None:
    """MACs are what guests say; nothing is done to a VM unless both sides name one owner."""
    hostile, victim = sighting(vm_id="a", owner=agents, macs=(MAC,)), vm(macs=(MAC,), owner=hypervisors)
    doubt = matched([hostile], [victim], mac=True).by_ref[ref()].doubt
    assert doubt is not None
    assert doubt.startswith("matched by its MAC, and its agent's owner is ")


def test_an_address_is_never_enough() -> None:
    """Addresses are given anew; whatever the settings say, nothing is done on one."""
    fleet = Fleet(read_s=NOW_S, sightings={"a": sighting(vm_id="a", addresses=("10.0.0.1",))}, live=True)
    found = match(fleet, [inventory([vm(addresses=("10.0.0.1",))])], allow=frozenset(Evidence))
    assert (found.by_ref[ref()].by, found.by_ref[ref()].doubt) == (Evidence.ADDRESS, "matched by its address alone")


IDS = st.sampled_from([uuid(1), uuid(2), "AAAA", "aaaa", "cloud-1", "cloud-2"])
MACS = st.lists(st.sampled_from([MAC, OTHER_MAC]), max_size=2).map(tuple)
AGENT = st.builds(lambda vm_id, macs: sighting(vm_id=vm_id, macs=macs), IDS, MACS)
AGENTS = st.lists(AGENT, max_size=4, unique_by=lambda one: one.vm_id)
VMS = st.lists(
    st.builds(lambda number, host, macs: vm(number, host_id=host, macs=macs), st.integers(1, 3), st.just("h"), MACS),
    max_size=4,
)


@given(AGENTS, VMS, st.booleans())
def test_a_match_is_always_the_only_one(agents: list[Sighting], vms: list[Vm], mac: bool) -> None:
    """Whatever the fleet: no agent and no VM is in two matches, none in a match and a doubt, and order is nothing."""
    found = matched(agents, vms, mac=mac)
    ids = [one.vm_id for one in found.by_ref.values()]
    assert len(ids) == len(set(ids)) == len(found.by_vm_id)
    assert not set(found.by_ref) & set(found.doubts)
    for vm_ref, one in found.by_ref.items():
        assert [each.ref for each in vms].count(vm_ref) == 1
        assert one.by in one.agrees
        if one.doubt is None:
            assert one.by is Evidence.UUID or (mac and one.by is Evidence.MAC)
    assert matched(agents[::-1], vms[::-1], mac=mac) == found
