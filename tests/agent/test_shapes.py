"""What simulated VMs do, and that reports over it have one right answer."""

from __future__ import annotations

import json
import statistics
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import shapes
from agent.sample import Sample
from agent.shapes import DAY_S, DEFAULT_PROFILES, PROFILES, Noise, SimulatedVm, make_fleet, parse_profiles, share_out
from agent.wire import decode_batch, encode_batch

END_S = int(datetime(2026, 11, 21, 8, 7, tzinfo=UTC).timestamp())  # a Saturday
ONE_EACH = dict.fromkeys(PROFILES, 1.0)
minutes = st.integers(1_700_000_000 // 60, 1_900_000_000 // 60).map(lambda minute: minute * 60)


def one(profile: str, *, days: float = 1, end_s: int = END_S, seed: int = 1) -> SimulatedVm:
    (vm,) = make_fleet({profile: 1.0}, vms=1, days=days, end_s=end_s, seed=seed)
    return vm


def decoded(texts: list[str]) -> tuple[Sample, ...]:
    body = encode_batch(vm="a", boot="b", seq=1, sent_s=0.0, interval_s=60, samples=texts)
    return decode_batch(body).samples


def figures(vm: SimulatedVm, seed: int, after_s: int, until_s: int) -> list[dict[str, float]]:
    loaded: list[dict[str, float]] = json.loads(f"[{','.join(vm.samples(Noise(seed), after_s, until_s))}]")
    return loaded


@given(profile=st.sampled_from(PROFILES), seed=st.integers(0, 9), end_s=minutes)
@settings(max_examples=40)
def test_samples_are_what_the_wire_takes(profile: str, seed: int, end_s: int) -> None:
    """Every figure of every profile is there and in range, one sample a minute, and parts do not exceed wholes."""
    vm = one(profile, days=0.4, end_s=end_s, seed=seed)
    samples = decoded(vm.samples(Noise(seed), 0, end_s))
    assert samples
    assert samples[0].ts == vm.started_s + 60
    assert samples[-1].ts == (end_s if vm.stops_s is None else vm.stops_s)
    assert all(later.ts - earlier.ts == 60 for earlier, later in pairwise(samples))
    for sample in samples:
        assert sample.mem_used_bytes <= sample.mem_total_bytes
        assert sample.disk_used_bytes is not None
        assert sample.disk_total_bytes is not None
        assert sample.disk_used_bytes <= sample.disk_total_bytes
        assert sample.cpu_max_ratio is not None
        assert sample.cpu_busy_ratio <= sample.cpu_max_ratio + 1e-5
        assert sample.cpu_busy_ratio + (sample.cpu_iowait_ratio or 0) + (sample.cpu_steal_ratio or 0) <= 1.0001


@given(profile=st.sampled_from(PROFILES), cuts=st.lists(st.integers(0, 600), max_size=8))
@settings(max_examples=40)
def test_samples_do_not_depend_on_how_time_is_cut(profile: str, cuts: list[int]) -> None:
    """Whatever the batches, the samples are the same: a retry or another clock factor never makes a conflict."""
    vm, noise = one(profile), Noise(1)
    start_s = vm.started_s
    edges = [start_s, *(start_s + cut * 60 + cut % 60 for cut in sorted(cuts)), start_s + 36_060]
    pieces = [text for after_s, until_s in pairwise(edges) for text in vm.samples(noise, after_s, until_s)]
    assert pieces == vm.samples(noise, start_s, start_s + 36_060)


def test_same_seed_repeats_and_another_does_not() -> None:
    """The seed decides everything; a VM of a larger fleet is the same as in a smaller one."""
    mix = parse_profiles(DEFAULT_PROFILES)
    small = {vm.vm: vm for vm in make_fleet(mix, vms=20, days=2, end_s=END_S, seed=7)}
    large = {vm.vm: vm for vm in make_fleet(mix, vms=200, days=2, end_s=END_S, seed=7)}
    assert len(large) == 200
    assert all(large[name] == vm for name, vm in small.items())
    vm, other = one("office", seed=7), one("office", seed=8)
    texts = vm.samples(Noise(7), END_S - 3_600, END_S)
    assert texts == one("office", seed=7).samples(Noise(7), END_S - 3_600, END_S)
    assert not set(texts) & set(other.samples(Noise(8), END_S - 3_600, END_S))


def test_a_later_run_repeats_the_minutes_both_hold() -> None:
    """Two runs that end an hour apart agree where they overlap, so that the second adds and never contradicts."""
    for profile in ("low", "office", "batch", "busy", "spiky", "classic"):
        earlier, later = one(profile), one(profile, end_s=END_S + 3_600)
        span = (END_S - 7_200, END_S)
        assert earlier.samples(Noise(1), *span) == later.samples(Noise(1), *span)


@given(days=st.integers(1, 3), seed=st.integers(0, 10_000), end_s=minutes)
@settings(max_examples=25)
def test_verdicts_are_known_for_whole_days(days: int, seed: int, end_s: int) -> None:
    """Low VMs are idle by both policies and working ones by neither, with room on both sides, whatever the weekday.

    The window is that of a report: so many days before the end of the newest sample's hour.
    """
    start_s = (end_s - 60) // 3_600 * 3_600 + 3_600 - days * DAY_S
    for vm in make_fleet(ONE_EACH, vms=len(PROFILES), days=days, end_s=end_s, seed=seed):
        if vm.profile in {"silent", "new", "classic"}:
            continue
        samples = figures(vm, seed, start_s, end_s)
        p95 = sorted(sample["cpu_busy_ratio"] for sample in samples)[int(0.95 * len(samples))]
        means = [
            statistics.fmean(sample["cpu_busy_ratio"] for sample in samples),
            statistics.fmean(sample["mem_used_bytes"] / sample["mem_total_bytes"] for sample in samples),
            statistics.fmean(sample["disk_used_bytes"] / sample["disk_total_bytes"] for sample in samples),
        ]
        assert vm.idle_expected is (vm.profile == "low")
        if vm.idle_expected:
            assert p95 < 0.04, vm
            assert max(means) < 0.085, vm
            assert means[0] < 0.025, vm
        else:
            assert p95 > 0.08, vm
            assert max(means) > 0.12, vm


@given(seed=st.integers(0, 10_000), end_s=minutes)
@settings(max_examples=25)
def test_low_busy_and_spiky_are_known_after_a_tenth_of_a_day(seed: int, end_s: int) -> None:
    """The update of a low VM and the peaks of a spiky one leave no doubt even in two hours and a half."""
    noise = Noise(seed)
    mix = dict.fromkeys(("low", "busy", "spiky"), 1.0)
    for vm in make_fleet(mix, vms=3, days=0.1, end_s=end_s, seed=seed):
        cpus = sorted(sample.cpu_busy_ratio for sample in decoded(vm.samples(noise, 0, end_s)))
        p95 = cpus[int(0.95 * len(cpus))]
        assert p95 < 0.04 if vm.idle_expected else p95 > 0.08, vm


@given(days=st.floats(0.1, 400), seed=st.integers(0, 10_000))
def test_silent_and_new_ones_never_cover_the_whole_span(days: float, seed: int) -> None:
    """A silent VM was there and stopped hours ago; a new one covers less than half of any span. Neither is idle."""
    silent, new = make_fleet({"silent": 1, "new": 1}, vms=2, days=days, end_s=END_S, seed=seed)
    start_s = END_S - round(days * 1440) * 60
    assert silent.stops_s is not None
    assert silent.started_s == start_s < silent.stops_s - 60
    silent_days = (END_S - silent.stops_s) / DAY_S
    assert min(0.49, days / 2.1) < silent_days < 3.01
    assert new.stops_s is None
    assert 60 <= END_S - new.started_s <= min(2 * DAY_S, days / 3 * DAY_S) + 60
    assert not silent.idle_expected
    assert not new.idle_expected


def test_classic_keeps_the_ranges_of_the_original_demo() -> None:
    """Even VMs stay under 10 % in all three figures, odd ones reach up to 100 %, and the three differ."""
    for vm in make_fleet({"classic": 1.0}, vms=6, days=1, end_s=END_S, seed=3):
        samples = figures(vm, 3, 0, END_S)
        cpu = [sample["cpu_busy_ratio"] for sample in samples]
        mem = [sample["mem_used_bytes"] / sample["mem_total_bytes"] for sample in samples]
        disk = [sample["disk_used_bytes"] / sample["disk_total_bytes"] for sample in samples]
        even = vm.number % 2 == 0
        assert vm.idle_expected is even
        for ratios in (cpu, mem, disk):
            assert min(ratios) >= 0.0099
            assert max(ratios) < 0.1001 if even else 0.95 < max(ratios) <= 1
        assert abs(statistics.correlation(cpu, mem)) < 0.2
        assert abs(statistics.correlation(cpu, disk)) < 0.2


def test_office_follows_the_week() -> None:
    """Monday to Friday 8 to 18 somebody works; nobody does at the weekend, but for the nightly job."""
    monday_s = int(datetime(2026, 11, 16, tzinfo=UTC).timestamp())
    vm = one("office", days=30, end_s=monday_s + 14 * DAY_S)

    def mean(day: int, begin: int, end: int, name: str = "cpu_busy_ratio") -> float:
        start_s = monday_s + day * DAY_S
        return statistics.fmean(item[name] for item in figures(vm, 1, start_s + begin * 3_600, start_s + end * 3_600))

    for day in range(5):
        assert mean(day, 10, 12) > 0.2
        assert mean(day, 10, 12, "users") >= 1
        assert mean(day, 20, 24) < 0.03
    for day in (5, 6):
        assert mean(day, 8, 24) < 0.03
        assert mean(day, 8, 24, "users") == 0
        assert mean(day, 0, 8) > 0.05


def test_batch_works_once_a_night_and_memory_keeps_out_of_it() -> None:
    """One unbroken job of three to five hours a day, at times that differ; memory and disk do not follow the CPU."""
    midnight_s = END_S // DAY_S * DAY_S
    vm = one("batch", days=10)
    starts = set()
    for day in range(1, 6):
        samples = figures(vm, 1, midnight_s - day * DAY_S, midnight_s - (day - 1) * DAY_S)
        working = [index for index, item in enumerate(samples) if item["cpu_busy_ratio"] > 0.3]
        assert 180 <= len(working) < 300
        assert working[-1] - working[0] == len(working) - 1
        starts.add(working[0])
    assert len(starts) > 1
    samples = figures(vm, 1, END_S - 5 * DAY_S, END_S)
    cpu = [item["cpu_busy_ratio"] for item in samples]
    assert abs(statistics.correlation(cpu, [item["mem_used_bytes"] for item in samples])) < 0.2
    assert statistics.correlation(cpu, [item["net_rx_bytes_per_s"] for item in samples]) > 0.7


def test_disk_grows_slowly() -> None:
    """The disk of a VM fills over weeks, without a step from one hour to the next."""
    vm = one("busy", days=400)
    days = [
        figures(vm, 1, END_S - day * DAY_S - 60, END_S - day * DAY_S)[0]["disk_used_bytes"] for day in range(59, -1, -1)
    ]
    rising = sum(later > earlier for earlier, later in pairwise(days))
    assert rising >= len(days) - 2
    assert max(days) / min(days) < 1.11


@given(
    st.dictionaries(st.sampled_from(PROFILES), st.floats(0.001, 1e6), min_size=1),
    st.integers(0, 5_000),
)
def test_shares_add_up(shares: dict[str, float], vms: int) -> None:
    """Every VM gets a profile, and no profile is off by one whole VM from its share."""
    counts = share_out(shares, vms)
    assert sum(counts.values()) == vms
    total = sum(shares.values())
    for name, count in counts.items():
        assert abs(count - vms * shares[name] / total) < 1.001


def test_default_mix() -> None:
    """The documented mix of 200 VMs, with ids that the wire takes."""
    fleet = make_fleet(parse_profiles(DEFAULT_PROFILES), vms=200, days=14, end_s=END_S, seed=1)
    counts = {name: sum(vm.profile == name for vm in fleet) for name in PROFILES}
    assert counts == {
        "low": 70,
        "office": 40,
        "batch": 20,
        "busy": 40,
        "spiky": 10,
        "silent": 10,
        "new": 10,
        "classic": 0,
    }
    assert fleet[0].vm == "sim-low-0001"
    assert len({vm.vm for vm in fleet}) == 200
    truth = shapes.manifest(fleet, END_S)
    assert truth[0] == {
        "vm": "sim-low-0001",
        "profile": "low",
        "idle_expected": True,
        "started_s": END_S - 14 * DAY_S,
        "ended_s": END_S,
    }
    assert sum(bool(entry["idle_expected"]) for entry in truth) == 70


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "not a profile"),
        ("low=0.5,idle=0.5", "'idle' is not a profile"),
        ("low=0.5,low=0.5", "low stands twice"),
        ("low=much", "'much' is not a number"),
        ("low=-1", "-1 is not a share"),
        ("low=nan", "nan is not a share"),
        ("low=0,busy=0", "all shares are 0"),
    ],
)
def test_useless_mixes_are_named(text: str, named: str) -> None:
    """The mistake and where it stands are in the text."""
    with pytest.raises(ValueError, match=named):
        parse_profiles(text)


def test_share_may_be_left_out() -> None:
    """`classic` alone means all of them; only proportions count."""
    assert parse_profiles("classic") == {"classic": 1.0}
    assert share_out(parse_profiles("low=2, busy=6"), 8) == {"low": 2, "busy": 6}
