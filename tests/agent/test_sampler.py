"""One sample for each whole minute, none for a minute that was not one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sample import Sample
from agent.sampler import Sampler, tick_s
from tests.agent.machine import Clock, Machine


class Bench:
    """A sampler on a machine, driven tick by tick."""

    def __init__(self, *, interval_s: int = 60, now_s: float = 1_700_000_040.0) -> None:
        self.clock = Clock(now_s)
        self.machine = Machine()
        self.sampler = Sampler(self.machine, interval_s=interval_s)

    def tick(self) -> Sample | None:
        return self.sampler.tick(self.clock.now(), self.clock.mono())

    def run(self, seconds: float, *, busy: float = 0.0, own_s: float = 0.0) -> list[Sample]:
        """Runs the loop for so long, at a constant load."""
        end_s = self.clock.now() + seconds
        samples = []
        while self.clock.now() < end_s:
            step_s = self.sampler.next_tick_s(self.clock.now()) - self.clock.now()
            self.clock.advance(step_s)
            self.machine.spend(step_s, busy=busy, own_s=own_s * step_s / seconds)
            sample = self.tick()
            if sample is not None:
                samples.append(sample)
        return samples


def test_first_sample_after_one_whole_interval() -> None:
    """Started inside a minute, the agent waits for the boundary and then for a whole minute."""
    bench = Bench(now_s=1_700_000_040.0 + 17)
    bench.tick()
    assert bench.run(43) == []
    assert [sample.ts for sample in bench.run(120)] == [1_700_000_160, 1_700_000_220]
    assert bench.sampler.dropped_total == 0


def test_one_sample_a_minute_with_ts_at_its_end() -> None:
    """Three hours are 180 samples whose ts are the minutes, each once."""
    bench = Bench()
    bench.tick()
    samples = bench.run(3 * 3600, busy=0.25)
    assert [sample.ts for sample in samples] == list(range(1_700_000_100, 1_700_000_100 + 180 * 60, 60))
    assert {round(sample.cpu_busy_ratio, 6) for sample in samples} == {0.25}


def test_a_burst_of_five_seconds_shows_in_the_maximum_alone() -> None:
    """5 s at full load in a minute: the mean is 1/12, the maximum 1."""
    bench = Bench()
    bench.tick()
    bench.run(20)
    bench.run(5, busy=1.0)
    (sample,) = bench.run(35)
    assert sample.cpu_busy_ratio == pytest.approx(1 / 12)
    assert sample.cpu_max_ratio == pytest.approx(1.0)
    (quiet,) = bench.run(60)
    assert quiet.cpu_max_ratio == pytest.approx(0.0)


def test_a_reading_just_before_the_boundary_is_no_burst() -> None:
    """The kernel counts in steps of 10 ms: one step in the last millisecond is not a full load."""
    bench = Bench()
    bench.tick()
    bench.run(55)
    bench.clock.advance(4.999)
    bench.tick()
    bench.clock.advance(0.001)
    bench.machine.spend(0.01, busy=1.0)
    bench.machine.spend(4.99, busy=0.0)
    sample = bench.tick()
    assert sample is not None
    assert sample.cpu_max_ratio == pytest.approx(sample.cpu_busy_ratio)


def test_the_agents_own_work_is_not_the_vms() -> None:
    """CPU, bytes and writes that the agent itself caused leave the figures of an idle VM at zero."""
    bench = Bench()
    bench.tick()
    bench.machine.set(
        disk_read_bytes={"vda": 4096},
        disk_write_bytes={"vda": 8192},
        net_rx_bytes={"eth0": 700},
        net_tx_bytes={"eth0": 1300},
        own_read_bytes=4096,
        own_write_bytes=8192,
        own_rx_bytes=700,
        own_tx_bytes=1300,
    )
    (sample,) = bench.run(60, busy=0.01, own_s=1.2)
    assert sample.cpu_busy_ratio == pytest.approx(0.0, abs=1e-12)
    assert sample.cpu_max_ratio == pytest.approx(0.0, abs=1e-12)
    rates = (sample.disk_read_bytes_per_s, sample.disk_write_bytes_per_s)
    assert (*rates, sample.net_rx_bytes_per_s, sample.net_tx_bytes_per_s) == (0, 0, 0, 0)
    assert sample.agent_cpu_s == pytest.approx(1.2)


def test_rates_come_from_differences() -> None:
    """6,000 bytes in a minute are 100 a second; an interface that was plugged in leaves that rate out once."""
    bench = Bench()
    bench.tick()
    bench.machine.set(net_rx_bytes={"eth0": 6000}, disk_write_bytes={"vda": 600})
    (sample,) = bench.run(60)
    assert (sample.net_rx_bytes_per_s, sample.disk_write_bytes_per_s) == pytest.approx((100.0, 10.0))
    bench.machine.set(net_rx_bytes={"eth0": 6000, "eth1": 50})
    (changed,) = bench.run(60)
    assert changed.net_rx_bytes_per_s is None
    assert changed.net_tx_bytes_per_s == 0.0
    bench.machine.set(net_rx_bytes={"eth0": 6000, "eth1": 650})
    (settled,) = bench.run(60)
    assert settled.net_rx_bytes_per_s == pytest.approx(10.0)


@pytest.mark.parametrize("jump_s", [7200.0, -7200.0, 31_536_000.0, 3.0, -3.0], ids=str)
def test_a_clock_that_jumps_costs_a_sample_and_invents_none(jump_s: float) -> None:
    """The interval in which the wall clock was set is dropped and counted; the next whole one is right again."""
    bench = Bench()
    bench.tick()
    bench.run(30)
    bench.clock.jump(jump_s)
    samples = bench.run(180, busy=0.5)
    assert bench.sampler.dropped_total >= 1
    assert samples
    assert {round(sample.cpu_busy_ratio, 6) for sample in samples} == {0.5}


def test_a_suspended_machine_makes_no_sample_of_its_sleep() -> None:
    """The monotonic clock stands still while the VM sleeps: the minutes it fell asleep and woke in are dropped."""
    bench = Bench()
    bench.tick()
    bench.run(30)
    bench.clock.jump(600.0)
    assert bench.run(30) == []
    assert bench.sampler.dropped_total == 2
    assert len(bench.run(60)) == 1


def test_a_loop_that_was_held_up_makes_no_sample() -> None:
    """A boundary noticed 20 s late gives neither that minute nor the next a sample of its own."""
    bench = Bench()
    bench.tick()
    bench.run(50)
    bench.clock.advance(30.0)
    bench.machine.spend(30.0, busy=1.0)
    assert bench.tick() is None
    assert bench.run(40) == []
    assert bench.sampler.dropped_total == 2
    assert len(bench.run(60)) == 1


def test_counters_that_go_back_cost_the_sample() -> None:
    """CPU counters below those of a minute ago (a restored snapshot) make no sample."""
    bench = Bench()
    bench.tick()
    bench.machine.spend(-100.0, busy=1.0)
    assert bench.run(60) == []
    assert bench.sampler.dropped_total == 1
    assert len(bench.run(60)) == 1


def test_a_machine_that_cannot_be_read_costs_that_interval_only() -> None:
    """An error at the boundary reaches the loop; the interval after the next boundary is whole again."""
    bench = Bench()
    bench.tick()
    bench.run(55)
    bench.machine.failure = OSError("no /proc")
    bench.clock.advance(5.0)
    with pytest.raises(OSError, match="no /proc"):
        bench.tick()
    bench.machine.failure = None
    assert bench.run(60) == []
    assert len(bench.run(60)) == 1


@given(now_s=st.floats(0, 4e9), interval_s=st.sampled_from([1, 2, 5, 10, 60, 300, 3600]))
def test_the_next_tick_is_ahead_and_hits_each_boundary(now_s: float, interval_s: int) -> None:
    """The loop never waits for the past, nor past a boundary."""
    sampler = Sampler(Machine(), interval_s=interval_s)
    next_s = sampler.next_tick_s(now_s)
    boundary_s = (now_s // interval_s + 1) * interval_s
    assert now_s < next_s <= boundary_s
    assert next_s - now_s <= tick_s(interval_s)
