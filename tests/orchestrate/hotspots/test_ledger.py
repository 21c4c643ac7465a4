"""The ledger: capacity is never promised twice, whatever the order of calls, looks, ends and plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrate.hotspots.hosts import HostSettings, Readings, Site, site_of
from orchestrate.hotspots.ledger import MAX_AGE_S, Ledger, StaleSite, Wish, hold_id_of
from orchestrate.hotspots.relief import ReliefSettings, plan_relief
from orchestrate.inventory import Inventory
from orchestrate.memory import MemoryRecords
from orchestrate.records import Hold
from tests.orchestrate.hotspots.hot_fleets import GIB, NOW_S, Guest, hosts, inventory_of, world_of
from tests.orchestrate.hotspots.test_relief import HOT, RULES
from tests.orchestrate.worlds import SETTINGS_SHA256, SITE

MACHINES = hosts("hv1", "hv2", cores=4, mem_gib=16)
# Of each host: 16 vCPUs, 16 GiB.
SETTINGS = HostSettings()


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


def empty(now_s: float = NOW_S) -> Site:
    return site_of(inventory_of([], MACHINES, now_s=now_s), Readings(), SETTINGS, now_s=now_s)


def wish(name: str = "a", *, host: str = "hv1", gib: int = 10) -> Wish:
    return Wish(hold_id=name, host_id=host, vcpus=2.0, mem_bytes=gib * GIB, what=name)


def test_a_promise_counts_until_after_its_end() -> None:
    """It counts for its life, and for as long after as an inventory may be old; then its room is free."""
    clock = Clock()
    ledger = Ledger(MemoryRecords(), by="ann", clock=clock)
    assert ledger.promise(empty(), [wish()], life_s=600)
    assert ledger.promise(empty(), [wish("b")], life_s=600) is None
    assert [hold.hold_id for hold in ledger.counting()] == ["a"]
    clock.now_s += 600 + MAX_AGE_S - 1
    assert ledger.promise(empty(clock.now_s), [wish("b")], life_s=600) is None
    clock.now_s += 1
    assert ledger.promise(empty(clock.now_s), [wish("b")], life_s=600)


def test_all_of_it_or_nothing() -> None:
    """Where one of several does not fit none is promised, and what was there before is there again."""
    ledger = Ledger(MemoryRecords(), by="ann", clock=Clock())
    assert ledger.promise(empty(), [wish("a", gib=6)], life_s=600)
    before = ledger.counting()
    assert ledger.promise(empty(), [wish("a", gib=7), wish("b", host="hv2"), wish("c")], life_s=900) is None
    assert ledger.counting() == before


def test_a_promise_is_renewed() -> None:
    """The same one again does not count twice."""
    clock = Clock()
    ledger = Ledger(MemoryRecords(), by="ann", clock=clock)
    assert ledger.promise(empty(), [wish()], life_s=600)
    clock.now_s += 30
    (renewed,) = ledger.promise(empty(clock.now_s), [wish()], life_s=600) or ()
    assert renewed.expires_s == clock.now_s + 600


def test_release_leaves_room_only_when_inventories_show_it() -> None:
    """Just released room may be taken already: an inventory of before would not show that."""
    clock = Clock()
    ledger = Ledger(MemoryRecords(), by="ann", clock=clock)
    assert ledger.promise(empty(), [wish()], life_s=600)
    ledger.release("a")
    ledger.release("unknown")
    assert ledger.promise(empty(), [wish("b")], life_s=600) is None
    clock.now_s += MAX_AGE_S
    assert ledger.promise(empty(clock.now_s), [wish("b")], life_s=600)


def test_an_old_look_promises_nothing() -> None:
    """Nor does one from the future, or a host that is not there."""
    clock = Clock()
    ledger = Ledger(MemoryRecords(), by="ann", clock=clock)
    for now_s in (NOW_S - MAX_AGE_S, NOW_S + MAX_AGE_S):
        with pytest.raises(StaleSite):
            ledger.promise(empty(now_s), [wish()], life_s=600)
    assert ledger.promise(empty(), [wish(host="gone")], life_s=600) is None
    assert ledger.counting() == []


class Meddling:
    """Records in which somebody else does something between any two calls."""

    def __init__(self, records: MemoryRecords, between: list[Callable[[], object]]) -> None:
        self._records, self._between = records, between

    def _meddle(self) -> None:
        if self._between:
            self._between.pop(0)()

    def holds(self, now_s: float) -> Sequence[Hold]:
        self._meddle()
        return self._records.holds(now_s)

    def put_hold(self, hold: Hold, *, by: str) -> None:
        self._meddle()
        self._records.put_hold(hold, by=by)

    def drop_hold(self, hold_id: str, *, by: str, now_s: float) -> None:
        self._meddle()
        self._records.drop_hold(hold_id, by=by, now_s=now_s)


@pytest.mark.parametrize("place", range(4))
def test_two_at_once_never_both_get_it(place: int) -> None:
    """Wherever the other one's whole promise falls between the calls, at most one of the two stays."""
    records, clock = MemoryRecords(), Clock()
    other = Ledger(records, by="ben", clock=clock)
    theirs: list[object] = []
    between: list[Callable[[], object]] = [lambda: None] * place
    between.append(lambda: theirs.append(other.promise(empty(), [wish("b")], life_s=600)))
    mine = Ledger(Meddling(records, between), by="ann", clock=clock).promise(empty(), [wish("a")], life_s=600)
    assert not (mine and any(theirs))
    assert sum(hold.mem_bytes for hold in records.holds(NOW_S)) <= 16 * GIB


def test_a_plan_holds_its_targets() -> None:
    """Each migration has its promise by its number; a plan that does not fit any more leaves none."""
    world = world_of(HOT)
    plan = plan_relief(world, ReliefSettings(), RULES, made_by="ann", settings_sha256=SETTINGS_SHA256).plan
    records = MemoryRecords()
    ledger = Ledger(records, by="ann", clock=Clock())
    (inventory,) = world.inventories
    made = site_of(inventory, Readings(), SETTINGS, now_s=NOW_S)
    assert ledger.promise_plan(plan, {SITE: made}, life_s=900) is None
    (hold,) = records.holds(NOW_S)
    assert (hold.hold_id, hold.host_id) == (hold_id_of(plan, plan.steps[0]), "hv3")
    assert (hold.vcpus, hold.mem_bytes, hold.what) == (4, 2 * GIB, "vm-2 on its way from hv1")
    assert ledger.promise_plan(plan, {SITE: made}, life_s=900) is None
    assert len(records.holds(NOW_S)) == 1
    other = Ledger(records, by="ben", clock=Clock())
    records.drop_hold(hold.hold_id, by="ann", now_s=NOW_S)
    assert other.promise(made, [Wish(hold_id="x", host_id="hv3", vcpus=1, mem_bytes=63 * GIB, what="")], life_s=900)
    assert "no room any more on hv3" in str(ledger.promise_plan(plan, {SITE: made}, life_s=900))
    assert [each.hold_id for each in records.holds(NOW_S)] == ["x"]
    assert "no room" in str(ledger.promise_plan(plan, {}, life_s=900))


class LedgerMachine(RuleBasedStateMachine):
    """Two clients with looks of their own that grow old, placements, plans, ends, VMs that come to be and vanish."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.records = MemoryRecords()
        self.ledgers = [Ledger(self.records, by=name, clock=self.clock) for name in ("ann", "ben")]
        self.vms: list[Guest] = []
        self.number = 0

    @initialize()
    def first_looks(self) -> None:
        self.sites = [self._now(), self._now()]

    def _inventory(self) -> Inventory:
        return inventory_of(self.vms, MACHINES, now_s=self.clock.now_s)

    def _now(self) -> Site:
        return site_of(self._inventory(), Readings(), SETTINGS, now_s=self.clock.now_s)

    @rule(client=st.integers(0, 1))
    def look(self, client: int) -> None:
        self.sites[client] = self._now()

    @rule(seconds=st.sampled_from([1.0, 20.0, 59.0, 61.0, 300.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @rule(
        client=st.integers(0, 1),
        sizes=st.lists(
            st.tuples(st.sampled_from(["hv1", "hv2"]), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3
        ),
        life_s=st.sampled_from([10.0, 60.0, 600.0]),
    )
    def promise(self, client: int, sizes: list[tuple[str, int, int]], life_s: float) -> None:
        wishes = []
        for host, vcpus, gib in sizes:
            self.number += 1
            wishes.append(Wish(hold_id=f"{self.number:06}", host_id=host, vcpus=vcpus, mem_bytes=gib * GIB, what="x"))
        try:
            self.ledgers[client].promise(self.sites[client], wishes, life_s=life_s)
        except StaleSite:
            self.sites[client] = self._now()

    @rule(data=st.data(), client=st.integers(0, 1))
    def renew(self, data: st.DataObject, client: int) -> None:
        live = self.records.holds(self.clock.now_s)
        if not live:
            return
        hold = data.draw(st.sampled_from(list(live)))
        again = Wish(
            hold_id=hold.hold_id, host_id=hold.host_id, vcpus=hold.vcpus, mem_bytes=hold.mem_bytes, what=hold.what
        )
        try:
            self.ledgers[client].promise(self.sites[client], [again], life_s=60.0)
        except StaleSite:
            self.sites[client] = self._now()

    @rule(data=st.data(), release=st.booleans())
    def keep(self, data: st.DataObject, release: bool) -> None:
        """A VM comes to be where room is held for it; then it is released, or left to end."""
        live = [hold for hold in self.records.holds(self.clock.now_s) if hold.what == "x"]
        if not live:
            return
        hold = data.draw(st.sampled_from(live))
        self.number += 1
        guest = Guest(
            number=self.number, host=hold.host_id, cpu=None, vcpus=int(hold.vcpus), mem_gib=hold.mem_bytes / GIB
        )
        self.vms.append(guest)
        self.records.put_hold(replace(hold, what="kept"), by="ann")
        if release:
            self.ledgers[0].release(hold.hold_id)

    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        if self.vms:
            self.vms.remove(data.draw(st.sampled_from(self.vms)))

    @invariant()
    def never_twice(self) -> None:
        """What runs and what is promised and not kept yet never exceeds what may be promised."""
        promised: dict[str, list[float]] = {"hv1": [0, 0], "hv2": [0, 0]}
        for guest in self.vms:
            promised[guest.host][0] += guest.vcpus
            promised[guest.host][1] += guest.mem_gib
        for hold in self.records.holds(self.clock.now_s):
            if hold.what == "x":
                promised[hold.host_id][0] += hold.vcpus
                promised[hold.host_id][1] += hold.mem_bytes / GIB
        for vcpus, gib in promised.values():
            assert vcpus <= 16 + 1e-6
            assert gib <= 16 + 1e-6


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
