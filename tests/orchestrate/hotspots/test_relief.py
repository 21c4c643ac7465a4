"""The world → a relief plan: in the minute of the k-th sample, by the rules, never on doubt, never to and fro."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrate.driver import Capabilities, Order, Verb
from orchestrate.drivers.simulated import SimulatedDriver
from orchestrate.drivers.simulated_park import Park, ParkHost, ParkVm
from orchestrate.drivers.simulated_site import SimulatedSite
from orchestrate.drivers.simulated_state import MemoryKeeper
from orchestrate.groups import MoveSettings, ReclaimSettings
from orchestrate.guards import check_plan, check_step
from orchestrate.hotspots.detectors import Sandpiper
from orchestrate.hotspots.planners.sandpiper import SandpiperPlanner
from orchestrate.hotspots.planners.situation import PlannerSettings
from orchestrate.hotspots.relief import Counted, Relief, ReliefSettings, find_hot, plan_relief, sites_of, why_no_room
from orchestrate.inventory import Shield, VmState
from orchestrate.limits import Limits
from orchestrate.plan import PlanKind, decode_plan, encode_plan
from orchestrate.records import Action, Hold, Outcome
from orchestrate.sighting import Fleet, Minute
from orchestrate.world import World, make_world
from tests.orchestrate.drivers.sites import FakeTime
from tests.orchestrate.hotspots.hot_fleets import GIB, NOW_S, Guest, hosts, world_of
from tests.orchestrate.hotspots.planners.test_sandpiper import swap_fleet
from tests.orchestrate.worlds import SETTINGS_SHA256, SITE, approval, ref, sighting, uuid

RULES = ReclaimSettings(relief=MoveSettings(allowed=True), consolidation=MoveSettings(allowed=True))
HOT = [
    Guest(number=1, host="hv1", cpu=0.9, vcpus=10, mem_gib=8),
    Guest(number=2, host="hv1", cpu=0.9, vcpus=4, mem_gib=2),
    Guest(number=3, host="hv2", cpu=0.2, vcpus=4),
]


def relief(
    world: World, settings: ReliefSettings | None = None, rules: ReclaimSettings = RULES, **more: object
) -> Relief:
    return plan_relief(
        world,
        settings or ReliefSettings(),
        rules,
        made_by="ann",
        settings_sha256=SETTINGS_SHA256,
        **more,  # type: ignore[arg-type]
    )


def moves(found: Relief) -> list[tuple[str, str, str | None]]:
    return [(step.name, step.expected.host_id, step.target_host_id) for step in found.plan.steps]


def guest_of(number: int, **changes: object) -> list[Guest]:
    return [replace(guest, **changes) if guest.number == number else guest for guest in HOT]  # type: ignore[arg-type]


def test_a_hot_host_is_relieved() -> None:
    """A step says who moves where, from what state, how it is undone and why, with its figures."""
    found = relief(world_of(HOT))
    assert moves(found) == [("vm-2", "hv1", "hv3")]
    (step,) = found.plan.steps
    assert (step.verb, step.inverse, step.number) == (Verb.MIGRATE_LIVE, Verb.MIGRATE_LIVE, 1)
    assert (step.expected.state, step.vm_id, step.owner, step.expected.boot) == (
        VmState.RUNNING,
        uuid(2),
        "ann",
        "boot-1",
    )
    assert [figure.rule for figure in step.figures] == ["hv1 cpu", "transfer"]
    assert "Transfer: 2.0 GiB, about" in step.reason
    assert found.plan.kind is PlanKind.RELIEF
    assert [(one.host_id, one.figure, one.sure) for one in found.hot] == [("hv1", "cpu", True)]
    assert decode_plan(encode_plan(found.plan)) == found.plan
    assert relief(world_of(HOT)).plan.sha256 == found.plan.sha256


def test_the_guards_let_it_pass() -> None:
    """An approved relief plan may be done, and so may its step; one that the settings do not allow may not."""
    world = world_of(HOT)
    plan = relief(world).plan
    given = {"settings_sha256": SETTINGS_SHA256, "approvals": [approval(plan)]}
    assert check_plan(plan, world, RULES, **given) == ()  # type: ignore[arg-type]
    assert check_step(plan.steps[0], plan, world.scene(ref(2)), RULES) == ()
    assert check_plan(plan, world, ReclaimSettings(), **given)  # type: ignore[arg-type]


def test_a_quiet_site_gets_no_plan() -> None:
    """Without a hot host there is nothing to do and nothing to say."""
    found = relief(world_of([replace(guest, cpu=0.3) for guest in HOT]))
    assert (found.plan.steps, found.plan.notes, found.hot) == ((), (), ())


def test_nothing_is_moved_on_doubt() -> None:
    """A host that is hot only if a VM of unknown use is busy is told of, and left alone."""
    found = relief(world_of([*guest_of(1, cpu=0.3), Guest(number=4, host="hv1", cpu=None, vcpus=12)]))
    assert found.plan.steps == ()
    assert {(one.host_id, one.sure) for one in found.hot} == {("hv1", False)}
    (note,) = found.plan.notes
    assert note.startswith("hv1: hot on cpu")
    assert "1 VM of unknown use" in note


def test_a_vm_of_unknown_use_is_never_moved() -> None:
    """On a host that is surely hot, those whose figures are not known stay."""
    found = relief(world_of([HOT[0], Guest(number=4, host="hv1", cpu=None, vcpus=2), replace(HOT[1], vcpus=6), HOT[2]]))
    assert {step.ref for step in found.plan.steps} <= {ref(1), ref(2)}
    assert found.plan.steps


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vm": {"tags": ("fallow:pin",)}}, "tagged fallow:pin"),
        ({"vm": {"shields": frozenset({Shield.PASSTHROUGH})}}, "has a passthrough device"),
        ({"vm": {"state": VmState.PAUSED}}, "paused, not running"),
    ],
)
def test_never_touches_the_exempt(changes: dict[str, object], words: str) -> None:
    """Pinned and shielded VMs stay; the other one moves, or where there is no other, the plan says why not."""
    rest = [replace(guest, **changes) for guest in HOT]  # type: ignore[arg-type]
    found = relief(world_of(rest))
    assert found.plan.steps == ()
    assert words in found.plan.notes[0]
    assert moves(relief(world_of(guest_of(2, **changes))))[0][0] == "vm-1"


def test_an_exemption_to_keep_does_not_forbid_a_move() -> None:
    """Who wants to keep a VM loses nothing by a live migration."""
    world = world_of(HOT)
    kept = {
        vm_id: replace(one, kept="ann: audit", tags=("fallow:keep",)) for vm_id, one in world.fleet.sightings.items()
    }
    world = replace(world, fleet=replace(world.fleet, sightings=kept))
    assert moves(relief(world)) == [("vm-2", "hv1", "hv3")]


def moved(number: int, source: str, target: str, *, ago_s: float, outcome: Outcome | None = Outcome.DONE) -> Action:
    step = replace(relief(world_of(HOT)).plan.steps[0], ref=ref(number), target_host_id=target)
    step = replace(step, expected=replace(step.expected, host_id=source))
    return Action(
        action_id=1, run_id="r", step=step, begun_s=NOW_S - ago_s, lease_token=1, outcome=outcome, settled_s=None
    )


def test_a_vm_that_moved_lately_stays() -> None:
    """Within its cool-down another one goes; a move that failed is none."""
    assert moves(relief(world_of(HOT, actions=[moved(2, "hv3", "hv1", ago_s=1800)])))[0][0] == "vm-1"
    failed = moved(2, "hv3", "hv1", ago_s=1800, outcome=Outcome.FAILED)
    assert moves(relief(world_of(HOT, actions=[failed]))) == [("vm-2", "hv1", "hv3")]


def test_no_ping_pong() -> None:
    """After its cool-down a VM moves again, and not back to where it came from within a day."""
    assert moves(relief(world_of(HOT, actions=[moved(2, "hv3", "hv1", ago_s=7200)]))) == [("vm-2", "hv1", "hv2")]


def test_no_step_for_a_vm_with_an_unsettled_action() -> None:
    """What became of it is for a person to say first."""
    open_action = moved(2, "hv1", "hv2", ago_s=90_000, outcome=None)
    assert moves(relief(world_of(HOT, unsettled=[open_action])))[0][0] == "vm-1"


def test_a_driver_that_cannot_migrate() -> None:
    """It gets no plan but a note."""
    found = relief(world_of(HOT, capabilities={SITE: Capabilities(verbs=frozenset({Verb.SUSPEND}))}))
    assert (found.plan.steps, found.plan.notes) == ((), ("lab: its driver cannot move running VMs",))


def test_no_larger_than_the_limits() -> None:
    """What may still be done in this run, this hour and from this host bounds the plan."""
    guests = [Guest(number=each, host="hv1", cpu=0.95, vcpus=2, mem_gib=1) for each in range(1, 9)]
    world = world_of(guests, hosts("hv1", "hv2", "hv3", cores=8))
    assert len(relief(world).plan.steps) == 3
    one = replace(RULES, limits=Limits(run=1))
    assert len(relief(world, rules=one).plan.steps) == 1
    none_left = replace(RULES, limits=Limits(run=1, hour=1))
    busy = replace(world, actions=(moved(9, "hv2", "hv3", ago_s=60),))
    assert relief(busy, rules=none_left).plan.steps == ()


def test_a_hosts_own_counter_is_looked_at() -> None:
    """What no VM accounts for makes a host hot too, once it was counted in k of the last n minutes."""
    busy = {SITE: Counted(host_cores={"hv1": 15.0})}
    loads, hot = None, []
    for minute in range(3):
        cool = world_of([replace(guest, cpu=0.3) for guest in HOT], now_s=NOW_S + 60.0 * minute)
        found = relief(cool, counted=busy, past=loads)
        loads = found.loads
        hot.append([one.host_id for one in found.hot])
    assert hot == [[], [], ["hv1"]]


def test_room_that_is_held_is_not_used_again() -> None:
    """The emptiest host is promised to somebody else: the VM goes to the other one."""
    held = Hold(
        hold_id="a", driver=SITE, host_id="hv3", vcpus=10, mem_bytes=GIB, what="", made_s=NOW_S, expires_s=NOW_S + 60
    )
    assert moves(relief(world_of(HOT), holds=[held])) == [("vm-2", "hv1", "hv2")]


def test_plans_of_the_other_kind() -> None:
    """CONSOLIDATE empties a quiet host; what is hot is closed, and not relieved by it."""
    found = relief(world_of([replace(guest, cpu=0.2) for guest in HOT]), kind=PlanKind.CONSOLIDATE)
    assert found.plan.kind is PlanKind.CONSOLIDATE
    assert {step.expected.host_id for step in found.plan.steps} == {"hv2"}
    hot = relief(world_of(HOT), kind=PlanKind.CONSOLIDATE)
    assert all(step.expected.host_id != "hv1" != step.target_host_id for step in hot.plan.steps)


def test_room_is_looked_at_again() -> None:
    """Just before a move: the words say what the target lacks now, or that the VM is gone."""
    world = world_of(HOT)
    (step,) = relief(world).plan.steps
    (now,) = sites_of(world, ReliefSettings().hosts)
    assert why_no_room(step, now, PlannerSettings()) is None
    full = [*HOT, Guest(number=5, host="hv3", cpu=0.7, vcpus=16, mem_gib=4)]
    (now,) = sites_of(world_of(full), ReliefSettings().hosts)
    assert "cpu would be" in str(why_no_room(step, now, PlannerSettings()))
    (now,) = sites_of(world_of([HOT[0]]), ReliefSettings().hosts)
    assert why_no_room(step, now, PlannerSettings()) == "vm-2 is not there now"


def test_a_host_in_between_may_be_filled_whole() -> None:
    """In an exchange the third host is over its limit of use for a while; as a place to stay it would be refused."""
    world = world_of(swap_fleet())
    plan = relief(world, ReliefSettings(planner=SandpiperPlanner())).plan
    (now,) = sites_of(world, ReliefSettings().hosts)
    assert why_no_room(plan.steps[0], now, PlannerSettings(), plan=plan) is None
    assert "more than 75%" in str(why_no_room(plan.steps[0], now, PlannerSettings()))
    given = {"settings_sha256": SETTINGS_SHA256, "approvals": [approval(plan)]}
    assert check_plan(plan, world, RULES, **given) == ()  # type: ignore[arg-type]


class SimulatedFleet:
    """A simulated site under virtual time, and agents that push at a second of the minute of their own."""

    def __init__(self, count: int) -> None:
        self.time = FakeTime()
        self.start_s = self.time.now_s() // 60 * 60 + 60
        vms = tuple(
            ParkVm(uuid=uuid(each), name=f"vm-{each}", host_id="hv1", vcpus=4, mem_bytes=2 * GIB)
            for each in range(1, count + 1)
        )
        machines = tuple(ParkHost(host_id=each, cores=16, mem_bytes=64 * GIB) for each in ("hv1", "hv2"))
        self.driver = SimulatedDriver(
            SITE,
            MemoryKeeper(SimulatedSite(Park(hosts=machines, vms=vms), now_s=self.time.now_s(), driver=SITE)),
            self.time,
        )
        self.count = count

    def world(self, now_s: float, hot_from_s: float) -> World:
        """As it is known at `now_s`: agent n pushes n * 11 s into each minute."""
        sightings = {}
        for number in range(1, self.count + 1):
            newest_s = (now_s - 11.0 * number) // 60 * 60
            minutes = tuple(
                Minute(
                    ts_s=ts,
                    interval_s=60.0,
                    cpu_busy_ratio=0.95 if ts >= hot_from_s else 0.3,
                    mem_used_bytes=0.5 * GIB,
                    net_rx_bytes_per_s=0.0,
                    net_tx_bytes_per_s=0.0,
                )
                for ts in (newest_s - 60.0 * back for back in reversed(range(10)))
            )
            sightings[uuid(number)] = sighting(number, minutes=minutes, newest_s=newest_s, now_s=now_s)
        inventory = replace(self.driver.inventory(1.0), read_s=now_s)
        return make_world(
            now_s=now_s,
            fleet=Fleet(read_s=now_s, sightings=sightings, live=True),
            inventories=[inventory],
            capabilities={SITE: self.driver.capabilities},
        )


def test_ready_in_the_minute_of_the_kth_hot_sample() -> None:
    """The third hot sample of the last agent comes 44 s into its minute; the plan is there in that same minute."""
    fleet = SimulatedFleet(4)
    hot_from_s = fleet.start_s + 600
    kth_s = hot_from_s + 120
    loads, planned_s, found = None, None, None
    for second in range(0, 900, 5):
        now_s = fleet.start_s + second
        found = relief(fleet.world(now_s, hot_from_s), past=loads)
        loads = found.loads
        if found.plan.steps:
            planned_s = now_s
            break
    assert planned_s is not None
    assert found is not None
    assert planned_s >= kth_s
    assert planned_s // 60 == (kth_s + 44) // 60
    # And the plan cools the host: the simulated site carries it out.
    for step in found.plan.steps:
        assert step.target_host_id is not None
        order = Order(verb=Verb.MIGRATE_LIVE, uuid=step.ref.uuid, target_host_id=step.target_host_id)
        assert fleet.driver.begin(order, 10.0).wait(600.0)
    (site,) = sites_of(fleet.world(now_s + 60, hot_from_s), ReliefSettings().hosts)
    assert find_hot(site, Sandpiper()) == ((), ())


def test_other_planners_make_plans_too() -> None:
    """Whatever the planner, a plan is made of its moves."""
    assert moves(relief(world_of(HOT), ReliefSettings(planner=SandpiperPlanner())))
