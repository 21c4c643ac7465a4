"""The agents' side, out of a real fleet database and what an aggregator says of the last minutes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from aggregator.admin_client import AdminAnswer, AdminUnavailable
from aggregator.fleet import vm as vms
from aggregator.fleet import vm_summary as summaries
from aggregator.fleet_db import open_fleet, open_fleet_read_only
from orchestrate import clauses, outage
from orchestrate.fleet_source import Judging, read_evidence, read_fleet, read_sighting
from orchestrate.inventory import Inventory, Vm, VmRef, VmState
from orchestrate.live_nodes import LiveNodes
from orchestrate.live_source import Live, LiveSource
from orchestrate.refusal import Rule
from orchestrate.sighting import Sighting
from orchestrate.world import World, make_world
from reports.exemption_table import Exemptions
from reports.exemptions import ExemptionKind
from reports.fleet import FleetDamaged
from reports.policies import POLICIES
from reports.schema import open_report_db
from reports.verdicts import Settings, Verdict
from tests.orchestrate.test_live_nodes import node_door
from tests.orchestrate.test_live_source import FakeDoor, sample, seen
from tests.orchestrate.worlds import SETTINGS
from tests.reports.fleets import NEWEST_S, NOW_S, Spec, one_of_each, write_fleet

DEFAULT = POLICIES["fallow-balanced"]


def judging(*names: str, choose: str | None = None) -> Judging:
    policies = tuple(POLICIES[name] for name in names) or (DEFAULT,)
    return Judging(settings=Settings(), policies=policies, choose=lambda _: choose or policies[0].name)


def live(*vms: dict[str, object], now_s: float = NOW_S) -> LiveSource:
    return LiveSource(FakeDoor(*vms, now_s=now_s), clock=lambda: NOW_S)


class Silent(FakeDoor):
    """An aggregator that does not answer."""

    def get(self, target: str) -> AdminAnswer:
        raise AdminUnavailable("it does not run")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_fleet(tmp_path, one_of_each())
    return tmp_path


@pytest.fixture
def engine(folder: Path) -> Iterator[sa.Engine]:
    opened = open_fleet_read_only(None, folder)
    yield opened
    opened.dispose()


def read(engine: sa.Engine, source: Live | None = None, by: Judging | None = None) -> dict[str, Sighting]:
    return dict(read_fleet(engine, source or live(), by or judging(), clock=lambda: NOW_S).sightings)


def test_every_vm_has_its_verdict_and_only_the_idle_their_evidence(engine: sa.Engine) -> None:
    """Verdicts are the report's; what they rest on is read for those that are asked for, and are idle."""
    found = read(engine)
    assert {vm_id for vm_id, one in found.items() if one.figures} == set()
    found = read_evidence(engine, found.values(), judging(), now_s=NOW_S)
    assert {vm_id for vm_id, one in found.items() if one.verdict is Verdict.IDLE} == {"vm-idle"}
    assert found["vm-active"].verdict is Verdict.ACTIVE
    assert found["vm-kept"].verdict is Verdict.EXCLUDED
    assert {vm_id for vm_id, one in found.items() if one.figures} == {"vm-idle"}
    idle = found["vm-idle"]
    assert (idle.name, idle.owner, idle.mail, idle.freed_vcpus) == ("web", "ann", "ann@example.org", 8.0)
    assert idle.days is not None
    assert idle.days > 41
    assert idle.coverage_ratio == 1.0
    assert all(figure.holds for figure in idle.figures)
    assert any(figure.rule.startswith("coverage") for figure in idle.figures)
    assert "CPU" in idle.sentence


def test_what_is_not_known_stays_unknown(engine: sa.Engine) -> None:
    """A VM that never reported has no newest sample, no coverage and no minutes."""
    mute = read(engine)["vm-mute"]
    assert (mute.newest_s, mute.coverage_ratio, mute.days, mute.skew_s, mute.minutes) == (None, None, None, None, ())


def test_memory_knows_better_than_the_last_flush(engine: sa.Engine) -> None:
    """The newest sample, clock, flags and boot are those of the last push; minutes stay with the idle."""
    ts = NEWEST_S + 360
    told = [seen(each, sample(ts, users=1), boot="b1", skew_s=3.0, flags=["odd"]) for each in ("vm-active", "vm-idle")]
    found = read(engine, live(*told, seen("vm-unknown", sample(ts))))
    idle, active = found["vm-idle"], found["vm-active"]
    assert (idle.newest_s, idle.skew_s, idle.boot, idle.flags) == (ts, 3.0, "b1", ("odd",))
    assert [minute.users for minute in idle.minutes] == [1]
    assert (active.newest_s, active.minutes) == (ts, ())
    assert "vm-unknown" not in found


def test_an_older_sample_in_memory_does_not_hide_a_newer_one(engine: sa.Engine) -> None:
    """A spool that drains brings old samples last."""
    assert read(engine, live(seen("vm-idle", sample(60))))["vm-idle"].newest_s == NEWEST_S


def test_an_aggregator_that_does_not_answer_is_told(engine: sa.Engine) -> None:
    """The fleet is still shown, as not live, with the reason."""
    fleet = read_fleet(engine, LiveSource(Silent(), clock=lambda: NOW_S), judging(), clock=lambda: NOW_S)
    assert (fleet.live, fleet.problem) == (False, "it does not run")
    assert fleet.sightings["vm-idle"].newest_s == NEWEST_S


def test_a_vm_is_judged_by_the_policy_of_its_group(engine: sa.Engine) -> None:
    """The chosen policy makes verdict, figures and name."""
    found = read(engine, by=judging("fallow-balanced", "classic", choose="classic"))
    assert {one.policy for one in found.values()} == {"classic"}
    # It looks at means of memory and disk space, which a sleeping VM keeps.
    assert found["vm-idle"].verdict is not Verdict.IDLE


def test_an_exemption_is_seen_with_its_words(folder: Path, engine: sa.Engine) -> None:
    """Whose wish, until when and why."""
    writer = open_report_db(None, folder)
    Exemptions(writer).add(
        ExemptionKind.VM, "vm-idle", reason="audit", owner="ann", until_s=NOW_S + 3600, now_s=NOW_S - 1
    )
    writer.dispose()
    idle = read(engine)["vm-idle"]
    assert idle.verdict is Verdict.EXCLUDED
    assert idle.kept is not None
    assert "by ann: audit" in idle.kept


def test_addresses_come_from_the_catalogue(folder: Path, engine: sa.Engine) -> None:
    """MACs in lower case, as hypervisors' are."""
    writer = open_fleet(None, folder)
    with writer.begin() as connection:
        connection.execute(
            sa.update(vms).where(vms.c.vm_id == "vm-idle").values(macs='["52:54:00:AA:00:01"]', ips='["10.0.0.1"]')
        )
    writer.dispose()
    idle = read(engine)["vm-idle"]
    assert (idle.macs, idle.addresses) == (("52:54:00:aa:00:01",), ("10.0.0.1",))


def test_addresses_that_no_aggregator_wrote_are_refused(folder: Path, engine: sa.Engine) -> None:
    """Damage is named, not guessed around."""
    writer = open_fleet(None, folder)
    with writer.begin() as connection:
        connection.execute(sa.update(vms).where(vms.c.vm_id == "vm-idle").values(macs='{"a": 1}'))
    writer.dispose()
    with pytest.raises(FleetDamaged, match="vm-idle"):
        read(engine)


def test_one_vm_is_read_anew(engine: sa.Engine) -> None:
    """Just before a step: verdict, minutes whatever the verdict, and the exemption."""
    source = live(seen("vm-active", sample(NEWEST_S + 360, users=2)))
    one = read_sighting(engine, source, "vm-active", judging(), now_s=NOW_S)
    assert one is not None
    assert (one.verdict, [minute.users for minute in one.minutes]) == (Verdict.ACTIVE, [2])
    idle = read_sighting(engine, live(), "vm-idle", judging(), now_s=NOW_S)
    assert idle == read(engine)["vm-idle"]
    assert read_sighting(engine, live(), "vm-unknown", judging(), now_s=NOW_S) is None


def test_one_vm_is_not_read_without_the_aggregator(engine: sa.Engine) -> None:
    """Who cannot see the last minutes must not act."""
    with pytest.raises(AdminUnavailable):
        read_sighting(engine, LiveSource(Silent(), clock=lambda: NOW_S), "vm-idle", judging(), now_s=NOW_S)


def test_many_idle_vms_are_explained_in_batches(tmp_path: Path) -> None:
    """More than a chunk of them each have their evidence."""
    write_fleet(tmp_path, [Spec(vm_id=f"vm-{number:05}") for number in range(2_100)])
    engine = open_fleet_read_only(None, tmp_path)
    try:
        found = read_evidence(engine, read(engine).values(), judging(), now_s=NOW_S)
    finally:
        engine.dispose()
    assert len(found) == 2_100
    assert all(one.figures for one in found.values())


def _world_over(folder: Path, source: Live) -> tuple[World, list[Vm]]:
    engine = open_fleet_read_only(None, folder)
    try:
        fleet = read_fleet(engine, source, judging(), clock=lambda: NOW_S)
    finally:
        engine.dispose()
    vms = [
        Vm(ref=VmRef("lab", one), name=one, host_id="h0", state=VmState.RUNNING, vcpus=2, mem_bytes=8 << 30)
        for one in fleet.sightings
    ]
    inventory = Inventory(driver="lab", read_s=NOW_S, hosts=(), vms=tuple(vms))
    return make_world(now_s=NOW_S, fleet=fleet, inventories=[inventory], capabilities={}), vms


@pytest.mark.parametrize("gone", [None, "b"])
def test_row_40_one_node_of_three_away_stops_the_run_and_says_so(tmp_path: Path, gone: str | None) -> None:
    """A third of the fleet is silent then, however young its newest summaries are: nothing may act, and why is said."""
    names = [f"vm-{number:02}" for number in range(30)]
    write_fleet(tmp_path, [Spec(vm_id=name) for name in names])
    ts = int(NOW_S) - 30
    doors = [
        node_door(
            node, *(seen(name, sample(ts, users=0)) for name in names[place::3]), is_away=node == gone, now_s=NOW_S
        )
        for place, node in enumerate("abc")
    ]
    _touch(tmp_path, NOW_S - 60)
    world, vms = _world_over(tmp_path, LiveNodes(lambda: doors, clock=lambda: NOW_S))
    found = outage.look(world, SETTINGS)
    silent = [vm for vm in vms if "minutes are not known" in str(clauses.on_doubt(world.scene(vm.ref), None, SETTINGS))]
    assert world.fleet.live
    if gone is None:
        assert (found.refusals, silent, world.fleet.problem) == ((), [], None)
    else:
        (refusal,) = found.refusals
        assert refusal.rule is Rule.IN_OUTAGE
        assert "10 of 30 VMs that were reporting are silent now (node b: it does not run)" in refusal.words
        assert [vm.ref.uuid for vm in silent] == names[1::3]
        assert world.fleet.problem == "node b: it does not run"


def test_a_node_of_twenty_that_is_away_stops_its_own_vms_alone(tmp_path: Path) -> None:
    """Fewer than a tenth are no outage; the VMs of that node have no newest minutes, and nothing is done to them."""
    names = [f"vm-{number:02}" for number in range(20)]
    write_fleet(tmp_path, [Spec(vm_id=name) for name in names])
    _touch(tmp_path, NOW_S - 60)
    doors = [
        node_door(name, seen(name, sample(int(NOW_S) - 30, users=0)), is_away=name == "vm-07", now_s=NOW_S)
        for name in names
    ]
    world, vms = _world_over(tmp_path, LiveNodes(lambda: doors, clock=lambda: NOW_S))
    assert outage.look(world, SETTINGS).refusals == ()
    doubted = [vm.ref.uuid for vm in vms if clauses.on_doubt(world.scene(vm.ref), None, SETTINGS)]
    assert "vm-07" in doubted
    assert world.fleet.unheard == {"vm-07"}


def _touch(folder: Path, newest_s: float) -> None:
    """Has a flush a moment ago say that samples came until then."""
    writer = open_fleet(None, folder)
    with writer.begin() as connection:
        connection.execute(sa.update(summaries).values(newest_s=int(newest_s)))
    writer.dispose()
