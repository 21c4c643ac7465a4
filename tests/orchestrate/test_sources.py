"""The world as commands read it: the kill switch, the policy of a VM's group, and one VM just before its step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrate.checks import FreshChecks
from orchestrate.control import Control, open_control
from orchestrate.inventory import VmRef, VmState
from orchestrate.plan import PlanKind
from orchestrate.planning import plan_reclaiming
from orchestrate.refusal import Rule
from orchestrate.sources import read_kill_switch
from orchestrate.undo import plan_wake
from tests.orchestrate.control_house import BUSY_ID, IDLE, House, house

IDLE_REF = VmRef("lab", IDLE)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path) as made:
        yield made


@pytest.fixture
def control(cloud: House) -> Iterator[Control]:
    with open_control(cloud.config(), clock=lambda: cloud.now_s, pause=cloud.pause) as opened:
        yield opened


def test_the_kill_switch_is_a_file(tmp_path: Path) -> None:
    """Not there: go on. There: stop, with its first line as the reason."""
    path = tmp_path / "STOP"
    assert read_kill_switch(path) is None
    path.write_text("maintenance\nsecond line\n", encoding="utf-8")
    words = read_kill_switch(path)
    assert words is not None
    assert words.endswith("is there: maintenance")


def test_a_kill_switch_that_cannot_be_looked_at_stops(tmp_path: Path) -> None:
    """A folder in its place, or a path that leads nowhere: whoever cannot tell must not act."""
    (tmp_path / "STOP").mkdir()
    assert "cannot be looked at" in (read_kill_switch(tmp_path / "STOP") or "")
    (tmp_path / "file").touch()
    assert "cannot be looked at" in (read_kill_switch(tmp_path / "file" / "STOP") or "")


def test_a_kill_switch_where_nothing_is_mounted_stops(tmp_path: Path) -> None:
    """Whether somebody has set it there cannot be told; a place that the settings did not name may be empty."""
    path = tmp_path / "shared" / "STOP"
    assert read_kill_switch(path) is None
    assert "there is no folder" in (read_kill_switch(path, needs_folder=True) or "")
    path.parent.mkdir()
    assert read_kill_switch(path, needs_folder=True) is None


def test_a_pipe_in_the_place_of_the_kill_switch_stops_and_is_not_waited_for(tmp_path: Path) -> None:
    """Whatever was put there, it is there."""
    os.mkfifo(tmp_path / "STOP")
    assert "is there" in (read_kill_switch(tmp_path / "STOP") or "")


def test_the_world_puts_everything_together(control: Control) -> None:
    """Agents, hypervisors, what those count, capabilities and records of one moment."""
    world = control.sources.world()
    scene = world.scene(IDLE_REF)
    assert scene.sighting is not None
    assert scene.sighting.minutes
    assert scene.vm is not None
    assert scene.vm.state is VmState.RUNNING
    assert scene.outside is not None
    assert (world.stop, dict(world.entries), world.unread) == (None, {}, {})
    assert control.sources.world(outside=False).outside == {}


def test_minutes_of_the_busy_are_read_on_demand(control: Control) -> None:
    """Loads of hosts need them; a look for idle VMs does without."""
    assert control.sources.world().fleet.sightings[BUSY_ID].minutes == ()
    assert control.sources.world(all_minutes=True).fleet.sightings[BUSY_ID].minutes


def test_a_vm_is_judged_by_the_policy_of_its_group(cloud: House) -> None:
    """The group is found by what the hypervisor tells, too: here its name there."""
    group = '[[orchestrate.reclaim.groups]]\nname = "strict"\nnames = ["db-*"]\npolicy = "classic"\n'
    text = cloud.settings.read_text(encoding="utf-8")
    first = text.index("[[orchestrate.reclaim.groups]]")
    cloud.settings.write_text(text[:first] + group + text[first:], encoding="utf-8")
    with open_control(cloud.config(), clock=lambda: cloud.now_s, pause=cloud.pause) as control:
        sightings = control.sources.world(outside=False).fleet.sightings
    assert {vm_id: one.policy for vm_id, one in sightings.items()} == {IDLE: "fallow-balanced", BUSY_ID: "classic"}


def test_one_vm_is_read_anew_just_before_its_step(cloud: House, control: Control) -> None:
    """What its agent says now, and what was counted since, whatever the first look saw."""
    world = control.sources.world()
    cloud.minute = {"users": 3}
    cloud.pause(30.0)
    scene = control.sources.scene(world, IDLE_REF, None)
    assert scene.sighting is not None
    assert [minute.users for minute in scene.sighting.minutes] == [3, 3]
    assert scene.outside is not None
    assert scene.now_s == cloud.now_s


def test_a_step_is_refused_when_the_last_minutes_cannot_be_read(cloud: House, control: Control) -> None:
    """The aggregator went away between the plan and its step: an outage, not a guess."""
    planned = plan_reclaiming(control, control.sources.world(), made_by="ann")
    checks = FreshChecks(control.sources)
    checks.of_plan(planned.plan, now_s=cloud.now_s)
    cloud.door.answers[:] = [(503, b"{}")]
    step = planned.plan.steps[0]
    (refusal,) = checks.of_step(step, planned.plan, None, now_s=cloud.now_s)
    assert refusal.rule is Rule.IN_OUTAGE
    assert "503" in refusal.words


def test_giving_back_asks_no_agent(cloud: House, control: Control) -> None:
    """An outage of monitoring is no reason to keep a VM from its owner."""
    cloud.door.answers[:] = [(503, b"{}")]
    world = control.sources.world_without_fleet()
    vm = world.vms[IDLE_REF]
    with pytest.raises(ValueError, match="nothing to wake"):
        plan_wake(vm, now_s=cloud.now_s, made_by="ann", settings_sha256="")
    assert not world.fleet.live
    assert cloud.door.asked == []


def test_a_step_is_not_checked_without_its_plan(control: Control) -> None:
    """Whoever forgets the rules over the whole plan finds out at once."""
    planned = plan_reclaiming(control, control.sources.world(), made_by="ann")
    assert planned.plan.kind is PlanKind.RECLAIM
    with pytest.raises(RuntimeError):
        FreshChecks(control.sources).of_step(planned.plan.steps[0], planned.plan, None, now_s=0.0)
