"""Loads of VMs and hosts out of minutes, readings from outside and allocations: missing is busy, and is marked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.hotspots.host_loads import CPU, MEM, NET, SLOTS, joined, peaks
from orchestrate.hotspots.hosts import HostSettings, Readings, busy_cores, site_of
from orchestrate.inventory import Counters, HostCounters, VmCounters, VmState
from orchestrate.outside import Outside
from orchestrate.records import Hold
from tests.orchestrate.hotspots.hot_fleets import GIB, LINK, NOW_S, Guest, hosts, inventory_of, site
from tests.orchestrate.worlds import ref, uuid

TWO = hosts("hv1", "hv2")


def seen(**changes: float | None) -> Outside:
    values: dict[str, float | None] = {
        "at_s": NOW_S - 10,
        "span_s": 60.0,
        "cpu_cores": 2.0,
        "net_bytes_per_s": 5e6,
        "disk_bytes_per_s": 0.0,
    }
    return Outside(**{**values, **changes})  # type: ignore[arg-type]


def test_a_host_is_the_sum_of_its_vms() -> None:
    """Busy vCPUs over cores, used bytes over memory, the larger direction of traffic over the link."""
    guests = [
        Guest(number=1, host="hv1", cpu=0.5, vcpus=4, mem_gib=8, mem_ratio=0.5, net_bytes_per_s=1e6),
        Guest(number=2, host="hv1", cpu=0.25, vcpus=8, mem_gib=8, mem_ratio=0.25, net_bytes_per_s=2e6),
        Guest(number=3, host="hv2", cpu=0.1),
    ]
    made = site(guests, TWO)
    assert made.loads.used_ratio[0, :, -1] == pytest.approx([4 / 16, 6 / 64, 3e6 / LINK])
    assert made.promised[0].tolist() == [12, 16 * GIB]
    assert made.known.all()


def test_a_vm_without_any_figures_counts_with_its_allocation() -> None:
    """Neither agent nor counters: all its vCPUs and memory, and it is told apart from what was measured."""
    made = site([Guest(number=1, host="hv1", cpu=0.5), Guest(number=2, host="hv1", cpu=None, vcpus=8, mem_gib=16)], TWO)
    assert made.loads.used_ratio[0, CPU, -1] == pytest.approx((2 + 8) / 16)
    assert made.loads.measured_ratio[0, CPU, -1] == pytest.approx(2 / 16)
    assert made.need[1].tolist() == [8, 16 * GIB, LINK * 8 / 16]
    assert (made.known.tolist(), made.unknown.tolist()) == ([True, False], [1, 0])


def test_a_vm_without_agent_counts_by_its_outside_counters() -> None:
    """What the hypervisor counts stands in for the agent, for the minute of the reading alone."""
    counters = Counters(hosts={}, vms={uuid(1): VmCounters(uuid=uuid(1), host_id="hv1", at_s=NOW_S, mem_bytes=3 * GIB)})
    readings = {"outside": {ref(1): seen()}, "counters": counters}
    made = site([Guest(number=1, host="hv1", cpu=None)], TWO, readings=readings)
    assert made.loads.used_ratio[0, :, -1] == pytest.approx([2 / 16, 3 / 64, 5e6 / LINK])
    assert np.isnan(made.loads.used_ratio[0, CPU, : SLOTS - 2]).all()
    assert made.known.all()


def test_memory_inside_counts_before_memory_of_the_process() -> None:
    """The balloon driver's figure is what is used; the process holds what was ever touched."""
    reading = VmCounters(uuid=uuid(1), host_id="hv1", at_s=NOW_S, mem_bytes=4 * GIB, mem_used_bytes=1 * GIB)
    readings = {"outside": {ref(1): seen()}, "counters": Counters(hosts={}, vms={uuid(1): reading})}
    made = site([Guest(number=1, host="hv1", cpu=None)], TWO, readings=readings)
    assert made.need[0, MEM] == GIB


def test_an_old_reading_or_an_old_sample_tells_nothing() -> None:
    """Both are as good as none once they are older than five minutes."""
    guest = Guest(number=1, host="hv1", cpu=0.1)
    old = site([guest], TWO, readings={"minutes": {ref(1): guest.minutes(NOW_S - 360)}})
    assert (old.known[0], old.need[0, CPU]) == (False, 4)
    stale = site([Guest(number=1, host="hv1", cpu=None)], TWO, readings={"outside": {ref(1): seen(at_s=NOW_S - 301)}})
    assert not stale.known[0]


def test_a_figure_that_is_not_measured_is_not_zero() -> None:
    """An agent that cannot tell of traffic leaves the VM's share of the link to be thought of as used."""
    made = site([Guest(number=1, host="hv1", cpu=0.1, net_bytes_per_s=None)], TWO)
    assert made.need[0, NET] == pytest.approx(LINK * 4 / 16)
    assert made.need[0, CPU] == pytest.approx(0.4)
    assert not made.known[0]


def test_the_larger_of_counter_and_sum_counts() -> None:
    """A host's own counter tells of what no VM accounts for; a smaller one changes nothing."""
    guest = Guest(number=1, host="hv1", cpu=0.5)
    busier = site([guest], TWO, readings={"host_cores": {"hv1": 14.0}})
    assert busier.loads.used_ratio[0, CPU, -1] == pytest.approx(14 / 16)
    assert busier.loads.used_ratio[0, CPU, -2] == pytest.approx(2 / 16)
    calmer = site([guest], TWO, readings={"host_cores": {"hv1": 1.0}})
    assert calmer.loads.used_ratio[0, CPU, -1] == pytest.approx(2 / 16)


def test_busy_cores_between_two_readings() -> None:
    """None where no time passed, a counter is missing or went back."""

    def read(at_s: float, cpu_s: float | None) -> HostCounters:
        return HostCounters(host_id="hv1", at_s=at_s, cpu_s=cpu_s)

    assert busy_cores(read(0, 100), read(10, 130)) == 3.0
    assert busy_cores(read(0, 100), read(0, 130)) is None
    assert busy_cores(read(0, 100), read(10, 90)) is None
    assert busy_cores(read(0, None), read(10, 90)) is None


def test_a_minute_that_few_samples_tell_of_does_not_count() -> None:
    """The busy VM's sample of this minute has not come: what it did in the last one is no sample of this one."""
    late = Guest(number=1, host="hv1", cpu=0.9, vcpus=8)
    early = Guest(number=2, host="hv1", cpu=0.1, vcpus=2)
    minutes = {ref(1): late.minutes(NOW_S - 60), ref(2): early.minutes()}
    made = site([late, early], TWO, readings={"minutes": minutes})
    assert np.isnan(made.loads.used_ratio[0, CPU, -1])
    assert made.loads.used_ratio[0, CPU, -2] == pytest.approx(7.4 / 16)
    # The quiet one's is not waited for.
    minutes = {ref(1): late.minutes(), ref(2): early.minutes(NOW_S - 60)}
    made = site([late, early], TWO, readings={"minutes": minutes})
    assert made.loads.used_ratio[0, CPU, -1] == pytest.approx(7.4 / 16)


def test_intervals_of_other_lengths() -> None:
    """Six samples of ten seconds are one minute's mean; one of five minutes tells of all five."""
    newest_s = NOW_S // 60 * 60
    fast = Guest(number=1, host="hv1", cpu=0.0)
    (plain,) = {replace(one, ts_s=0.0) for one in fast.minutes()}
    short = [
        replace(plain, ts_s=newest_s - 10.0 * back, interval_s=10.0, cpu_busy_ratio=back / 10)
        for back in range(5, -1, -1)
    ]
    made = site([fast], TWO, readings={"minutes": {ref(1): short}})
    assert made.series[0, -1] == pytest.approx(4 * 0.25)
    long = [replace(plain, ts_s=newest_s, interval_s=300.0, cpu_busy_ratio=0.5)]
    made = site([fast], TWO, readings={"minutes": {ref(1): long}})
    assert made.loads.used_ratio[0, CPU, -5:] == pytest.approx([2 / 16] * 5)
    assert np.isnan(made.loads.used_ratio[0, CPU, :-5]).all()


def test_growing_swap_is_memory_that_the_vm_lacks() -> None:
    """Pages swapped out long ago are no pressure; while swap grows, all of it counts."""
    guest = Guest(number=1, host="hv1", mem_gib=4, mem_ratio=0.75)
    still = [replace(one, swap_used_bytes=1.0 * GIB) for one in guest.minutes()]
    grows = [replace(one, swap_used_bytes=0.1 * GIB * place) for place, one in enumerate(guest.minutes())]
    assert site([guest], TWO, readings={"minutes": {ref(1): still}}).loads.used_ratio[0, MEM, -1] == pytest.approx(
        3 / 64
    )
    made = site([guest], TWO, readings={"minutes": {ref(1): grows}})
    assert made.loads.used_ratio[0, MEM, -1] == pytest.approx(3.9 / 64)


def test_a_saturated_host_hides_what_its_vms_want() -> None:
    """On a full host a VM is expected to need a tenth of its vCPUs more than it gets, and never more than all."""
    guests = [Guest(number=1, host="hv1", cpu=0.5, vcpus=8), Guest(number=2, host="hv1", cpu=0.96, vcpus=12)]
    made = site(guests, TWO)
    assert made.need[:, CPU] == pytest.approx([4.8, 12.0])


def test_what_is_off_takes_nothing() -> None:
    """VMs that are off or suspended take no room; paused ones and those in an unknown state do."""
    states = [VmState.OFF, VmState.SUSPENDED, VmState.PAUSED, VmState.UNKNOWN]
    guests = [Guest(number=place, host="hv1", cpu=None, vm={"state": state}) for place, state in enumerate(states, 1)]
    made = site(guests, TWO)
    assert [vm.state for vm in made.vms] == [VmState.PAUSED, VmState.UNKNOWN]
    assert made.promised[0, 0] == 8


def test_holds_are_promised() -> None:
    """Room that is held counts as promised, on the host of that driver alone."""
    hold = Hold(hold_id="a", driver="lab", host_id="hv2", vcpus=4, mem_bytes=GIB, what="", made_s=0, expires_s=1)
    made = site([], TWO, holds=[hold, replace(hold, driver="other"), replace(hold, host_id="gone")])
    assert made.promised.tolist() == [[0, 0], [4, GIB]]
    assert made.promised_to_vms.sum() == 0


def test_hosts_that_do_not_answer_are_not_there() -> None:
    """Neither are their VMs."""
    guests = [Guest(number=1, host="hv1"), Guest(number=2, host="hv2")]
    told = replace(inventory_of(guests, TWO), unreachable={"hv2": "no answer"})
    made = site_of(told, Readings(), HostSettings(), now_s=NOW_S)
    assert ([host.host_id for host in made.hosts], [vm.host_id for vm in made.vms]) == (["hv1"], ["hv1"])


def test_the_past_stays_as_it_was() -> None:
    """A VM that came a minute ago did not load its new host before, though its own samples go back."""
    guest = Guest(number=1, host="hv1", cpu=1.0, vcpus=16)
    before = site([guest], TWO, now_s=NOW_S)
    after = site([replace(guest, host="hv2")], TWO, now_s=NOW_S + 60, past=before.loads)
    assert after.loads.used_ratio[0, CPU, -3:] == pytest.approx([1.0, 1.0, 0.0])
    assert after.loads.used_ratio[1, CPU, -3:] == pytest.approx([0.0, 0.0, 1.0])


def test_histories_of_other_hosts_and_of_long_ago() -> None:
    """A new host begins with what is known now; a history that ended long ago, or in the future, adds nothing."""
    guest = Guest(number=1, host="hv1", cpu=0.5)
    one = site([guest], hosts("hv1")).loads
    grown = site([guest], TWO, now_s=NOW_S + 60, past=one).loads
    assert grown.hosts == ("hv1", "hv2")
    assert grown.used_ratio.shape == (2, 3, 60)
    late = replace(one, ends_s=one.ends_s + 86_400)
    assert np.nansum(joined(one, late).used_ratio[0, CPU]) == pytest.approx(np.nansum(late.used_ratio[0, CPU]))
    assert joined(late, one) is one


@given(st.lists(st.floats(0.0, 1.0), min_size=SLOTS, max_size=SLOTS))
def test_a_peak_lies_between_p95_and_a_sane_forecast(values: list[float]) -> None:
    """It is at least the p95, and never more than as far above the mean as the newest value is from it."""
    (peak,) = peaks(np.array([values]))
    p95 = np.quantile(values, 0.95)
    mean = float(np.mean(values))
    assert p95 - 1e-9 <= peak <= max(p95, mean + abs(values[-1] - mean)) + 1e-9


@given(st.lists(st.tuples(st.sampled_from(["hv1", "hv2"]), st.one_of(st.none(), st.floats(0.0, 1.0))), max_size=8))
def test_nothing_is_lost_between_vms_and_hosts(rows: list[tuple[str, float | None]]) -> None:
    """Hosts' loads are the sum of what their VMs count with; used is never below measured."""
    guests = [Guest(number=number, host=host, cpu=cpu) for number, (host, cpu) in enumerate(rows, 1)]
    made = site(guests, TWO)
    for row, host in enumerate(("hv1", "hv2")):
        cores = sum(4.0 if cpu is None else 4.0 * cpu for each, cpu in rows if each == host)
        used = made.loads.used_ratio[row, CPU, -1]
        if any(each == host and cpu is not None for each, cpu in rows):
            assert used == pytest.approx(cores / 16)
    known = ~np.isnan(made.loads.used_ratio)
    assert (made.loads.used_ratio[known] >= made.loads.measured_ratio[known] - 1e-12).all()
