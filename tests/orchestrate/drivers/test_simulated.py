"""The simulated driver: it keeps the contract, and what goes wrong at it goes wrong as at real ones."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import ConfigError
from agent.shapes import DEFAULT_PROFILES, Noise, make_fleet, parse_profiles
from agent.simulate import identity
from orchestrate.driver import (
    Busy,
    Capabilities,
    DriverError,
    NotFound,
    Order,
    OutcomeUnknown,
    Refused,
    Unreachable,
    Unsupported,
    Verb,
)
from orchestrate.drivers.registry import DriverConfig
from orchestrate.drivers.registry import open_driver as open_any
from orchestrate.drivers.simulated import SimulatedDriver, WallTime
from orchestrate.drivers.simulated_faults import Fault, ScriptedFaults, SeededFaults
from orchestrate.drivers.simulated_park import Park, ParkHost, ParkVm, encode_park, park_for, read_park
from orchestrate.drivers.simulated_site import SimulatedSite
from orchestrate.drivers.simulated_state import FileKeeper, MemoryKeeper, decode_state, encode_state
from orchestrate.drivers.simulated_values import Pace
from orchestrate.inventory import Shield, VmState
from orchestrate.outside import between
from tests.orchestrate.drivers.contract import DriverContract
from tests.orchestrate.drivers.sites import (
    GIB,
    HOSTS,
    START_S,
    FakeTime,
    SimulatedContractSite,
    driver_of,
    site_of,
    vm_of,
)

SUSPEND = Order(verb=Verb.SUSPEND, uuid="a")
MOVE = Order(verb=Verb.MIGRATE_LIVE, uuid="a", target_host_id="h2")


class TestInMemory(DriverContract):
    """The contract, with the site in memory."""

    @pytest.fixture
    def site(self) -> SimulatedContractSite:
        return SimulatedContractSite(time=FakeTime(), keeper=MemoryKeeper(site_of()))


class TestInAFile(DriverContract):
    """The contract, with the site in a file that every call reads and writes anew."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> SimulatedContractSite:
        return SimulatedContractSite(time=FakeTime(), keeper=FileKeeper(tmp_path / "state.json", site_of))


class TestPoorer(DriverContract):
    """The contract, with a driver that can suspend and stop alone and counts nothing."""

    @pytest.fixture
    def site(self) -> SimulatedContractSite:
        verbs = frozenset({Verb.SUSPEND, Verb.RESUME, Verb.STOP, Verb.START})
        return SimulatedContractSite(
            time=FakeTime(), keeper=MemoryKeeper(site_of()), capabilities=Capabilities(verbs=verbs)
        )


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


def test_durations_follow_memory_and_bandwidth() -> None:
    """A suspend writes the memory out, a live migration sends it, a start needs neither."""
    pace = Pace()
    assert pace.span_s(Verb.SUSPEND, "a", 2 * 10**9) == pytest.approx(1.5 + 10.0)
    assert pace.span_s(Verb.RESUME, "a", 2 * 10**9) == pytest.approx(0.4 + 5.0)
    assert pace.span_s(Verb.MIGRATE_LIVE, "a", 10**9) == pytest.approx(2.0 + 9.2)
    assert pace.span_s(Verb.START, "a", 10**12) == pytest.approx(0.4)
    assert all(0.8 <= pace.span_s(Verb.STOP, str(n), 1) <= 25.0 for n in range(50))
    assert {Pace(factor=0.0).span_s(verb, "a", 10**9) for verb in Verb} == {0.0}


def test_waiting_turns_a_fake_clock_to_the_end_of_the_task(clock: FakeTime) -> None:
    """No more than that, and no further than the deadline."""
    driver = driver_of(site_of(vm_of("a", mem_bytes=2 * 10**9)), clock)
    task = driver.begin(SUSPEND, 10.0)
    assert task.wait(4.0) is False
    assert clock.at_s == START_S + 4.0
    assert task.progress_ratio == pytest.approx(4.0 / 11.5)
    assert task.wait(600.0) is True
    assert clock.at_s == START_S + 11.5


@pytest.mark.real
def test_a_cancel_wakes_whoever_waits_by_the_wall_clock() -> None:
    """A wait of an hour ends as soon as another thread cancels the order."""
    site = site_of(vm_of("a"), pace=Pace(factor=10_000.0))
    driver = SimulatedDriver("lab", MemoryKeeper(site), WallTime(lambda: START_S + time.monotonic()))
    task = driver.begin(SUSPEND, 10.0)
    ended: list[DriverError] = []

    def wait() -> None:
        try:
            task.wait(3600.0)
        except DriverError as error:
            ended.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    while waiter.is_alive():
        # Again and again: the first may come before the other thread sleeps.
        task.cancel()
        waiter.join(0.05)
    assert [type(error) for error in ended] == [Refused]
    assert site.guests["a"].state is VmState.RUNNING


@pytest.mark.parametrize(
    ("fault", "kind", "state_later"),
    [
        (Fault.REFUSE, Refused, VmState.RUNNING),
        (Fault.BUSY, Busy, VmState.RUNNING),
        (Fault.UNREACHABLE, Unreachable, VmState.RUNNING),
        (Fault.LOST_BEFORE, OutcomeUnknown, VmState.RUNNING),
        (Fault.LOST_AFTER, OutcomeUnknown, VmState.SUSPENDED),
        (Fault.FAIL, Refused, VmState.RUNNING),
        (Fault.BROKEN, OutcomeUnknown, VmState.SUSPENDED),
        (Fault.CRASH, OutcomeUnknown, VmState.OFF),
    ],
)
def test_a_fault_is_told_by_its_error(
    fault: Fault, kind: type[DriverError], state_later: VmState, clock: FakeTime
) -> None:
    """Only OutcomeUnknown may hide that the order was carried out; the next order goes well."""
    site = site_of(vm_of("a"), vm_of("b"), faults=ScriptedFaults([fault]))
    driver = driver_of(site, clock)
    with pytest.raises(kind) as raised:
        driver.begin(SUSPEND, 10.0).wait(600.0)
    assert type(raised.value) is kind
    assert raised.value.uuid == "a"
    clock.at_s += 600.0
    assert driver.find("a", 10.0).state is state_later
    assert driver.begin(Order(verb=Verb.SUSPEND, uuid="b"), 10.0).wait(600.0) is True


def test_a_stalled_task_is_under_way_for_long(clock: FakeTime) -> None:
    """It is neither done nor failed when every deadline has passed."""
    driver = driver_of(site_of(vm_of("a"), faults=ScriptedFaults([Fault.STALL])), clock)
    task = driver.begin(SUSPEND, 10.0)
    assert task.wait(600.0) is False
    assert driver.find("a", 10.0).state is VmState.CHANGING
    task.cancel()
    with pytest.raises(Refused, match="cancelled"):
        task.wait(0.0)
    assert driver.find("a", 10.0).state is VmState.RUNNING


def test_a_deaf_guest_is_not_stopped(clock: FakeTime) -> None:
    """It never shuts down: the task fails and the guest runs on; nothing pulls its plug."""
    site = site_of(ParkVm(uuid="a", name="a", host_id="h1", vcpus=1, mem_bytes=GIB, deaf=True))
    driver = driver_of(site, clock)
    with pytest.raises(Refused, match="power button"):
        driver.begin(Order(verb=Verb.STOP, uuid="a"), 10.0).wait(600.0)
    assert driver.find("a", 10.0).state is VmState.RUNNING


@pytest.mark.parametrize("verb", [Verb.START, Verb.RESUME, Verb.MIGRATE_LIVE])
def test_memory_has_to_fit(verb: Verb, clock: FakeTime) -> None:
    """What is on its way into a host's memory counts as there: the second of two that fit one by one is refused."""
    state = {Verb.START: VmState.OFF, Verb.RESUME: VmState.SUSPENDED, Verb.MIGRATE_LIVE: VmState.RUNNING}[verb]
    home = "h2" if verb is Verb.MIGRATE_LIVE else "h1"
    site = site_of(vm_of("a", host_id=home, mem_bytes=40 * GIB), vm_of("b", host_id="h3", mem_bytes=40 * GIB))
    for uuid in ("a", "b"):
        site.force(uuid, state)
    if verb is not Verb.MIGRATE_LIVE:
        site.guests["b"].host_id = "h1"
    driver = driver_of(site, clock)
    target = "h1" if verb is Verb.MIGRATE_LIVE else None
    first = driver.begin(Order(verb=verb, uuid="a", target_host_id=target), 10.0)
    for _ in range(2):
        with pytest.raises(Refused, match="memory"):
            driver.begin(Order(verb=verb, uuid="b", target_host_id=target), 10.0)
        assert first.wait(600.0) is True
    assert site.mem_used_bytes()["h1"] == 40 * GIB


def test_a_host_that_takes_no_vms_refuses_moves(clock: FakeTime) -> None:
    """`accepts` is told in the inventory and kept."""
    park = Park(hosts=(HOSTS[0], ParkHost(host_id="h2", cores=1, mem_bytes=GIB, accepts=False)), vms=(vm_of("a"),))
    driver = driver_of(SimulatedSite(park, now_s=START_S, driver="lab"), clock)
    assert [host.accepts for host in driver.inventory(10.0).hosts] == [True, False]
    with pytest.raises(Refused, match="takes no VMs"):
        driver.begin(MOVE, 10.0)


def test_a_migration_whose_link_breaks_leaves_the_vm_at_its_source(clock: FakeTime) -> None:
    """Whoever waits is told that nobody knows; once the link is mended the VM runs where it was."""
    site = site_of(vm_of("a"))
    driver = driver_of(site, clock)
    task = driver.begin(MOVE, 10.0)
    assert task.wait(1.0) is False
    site.cut("h2")
    with pytest.raises(OutcomeUnknown):
        task.wait(600.0)
    found = driver.find("a", 10.0)
    assert (found.state, found.host_id) == (VmState.RUNNING, "h1")
    site.mend("h2")
    with pytest.raises(Refused, match="stays where it was"):
        task.wait(600.0)


def test_a_host_that_loses_its_power_ends_its_vms(clock: FakeTime) -> None:
    """What ran there is off afterwards, what was suspended is still suspended, and nobody else is touched."""
    site = site_of(vm_of("a"), vm_of("b"), vm_of("c", host_id="h2"))
    site.force("b", VmState.SUSPENDED)
    driver = driver_of(site, clock)
    task = driver.begin(SUSPEND, 10.0)
    site.lose("h1")
    with pytest.raises(OutcomeUnknown):
        task.wait(600.0)
    with pytest.raises(Unreachable):
        driver.find("a", 10.0)
    site.mend("h1")
    assert [driver.find(uuid, 10.0).state for uuid in "abc"] == [VmState.OFF, VmState.SUSPENDED, VmState.RUNNING]


def test_a_vm_deleted_on_the_way_is_gone(clock: FakeTime) -> None:
    """The task of a VM that somebody deletes has an unknown outcome, and one made anew in its name is untouched."""
    site = site_of(vm_of("a", name="web"))
    driver = driver_of(site, clock)
    task = driver.begin(SUSPEND, 10.0)
    site.remove("a")
    site.add(vm_of("b", name="web"))
    with pytest.raises(OutcomeUnknown):
        task.wait(600.0)
    clock.at_s += 600.0
    assert driver.find("b", 10.0).state is VmState.RUNNING
    with pytest.raises(NotFound):
        driver.find("a", 10.0)


def test_counters_tell_use_from_outside(clock: FakeTime) -> None:
    """Two readings give the use the park describes; a start begins them anew."""
    site = site_of(vm_of("a"))
    driver = driver_of(site, clock)
    first = driver.counters(10.0)
    clock.at_s += 100.0
    second = driver.counters(10.0)
    seen = between(first.vms["a"], second.vms["a"])
    assert seen is not None
    assert seen.span_s == 100.0
    assert seen.cpu_cores == pytest.approx(0.04)
    assert seen.net_bytes_per_s == pytest.approx(600.0)
    assert seen.disk_bytes_per_s == pytest.approx(100.0)
    site.force("a", VmState.OFF)
    site.force("a", VmState.RUNNING)
    assert driver.counters(10.0).vms["a"].cpu_s == 0.0
    assert first.hosts["h1"].mem_used_bytes == 2 * GIB


def test_seeded_faults_repeat() -> None:
    """The same seed and number give the same fault; the ratios are kept."""
    ratios = {Fault.REFUSE: 0.1, Fault.LOST_AFTER: 0.2}
    drawn = [SeededFaults(7, ratios).of_order(SUSPEND, number) for number in range(2000)]
    assert drawn == [SeededFaults(7, ratios).of_order(SUSPEND, number) for number in range(2000)]
    assert drawn.count(Fault.REFUSE) == pytest.approx(200, abs=60)
    assert drawn.count(Fault.LOST_AFTER) == pytest.approx(400, abs=80)
    assert set(drawn) == {None, Fault.REFUSE, Fault.LOST_AFTER}
    assert any(SeededFaults(7, {}, 0.5).of_read("find", n) for n in range(20))
    with pytest.raises(ValueError, match="0 to 1"):
        SeededFaults(1, {Fault.REFUSE: 0.7, Fault.FAIL: 0.7})


def test_a_read_may_fail(clock: FakeTime) -> None:
    """A look that was not answered is Unreachable; the next one is."""
    driver = driver_of(site_of(vm_of("a"), faults=ScriptedFaults(reads=[1])), clock)
    with pytest.raises(Unreachable):
        driver.find("a", 10.0)
    assert driver.find("a", 10.0).name == "a"


def test_a_task_goes_on_in_another_process(tmp_path: Path, clock: FakeTime) -> None:
    """One opener gives the order, another one sees it done; both read the same file."""
    path = tmp_path / "state.json"
    first = SimulatedDriver("lab", FileKeeper(path, lambda: site_of(vm_of("a"))), clock)
    first.begin(SUSPEND, 10.0)
    second = SimulatedDriver("lab", FileKeeper(path, lambda: site_of(vm_of("a"))), clock)
    assert second.find("a", 10.0).state is VmState.CHANGING
    clock.at_s += 600.0
    assert second.find("a", 10.0).state is VmState.SUSPENDED
    assert path.stat().st_mode & 0o077 == 0


def test_a_state_file_that_is_none_is_told(tmp_path: Path, clock: FakeTime) -> None:
    """Whatever stands in the file: Unreachable with its name, never another error."""
    path = tmp_path / "state.json"
    driver = SimulatedDriver("lab", FileKeeper(path, lambda: site_of(vm_of("a"))), clock)
    for text in ("", "{", "[]", "7", '{"format": 2}', '{"format": 1}', '{"format": 1, "guests": [{}], "jobs": []}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(Unreachable, match=r"state\.json"):
            driver.find("a", 10.0)
    driver = SimulatedDriver("lab", FileKeeper(tmp_path / "no" / "such" / "folder", site_of), clock)
    with pytest.raises(Unreachable):
        driver.find("a", 10.0)


@st.composite
def sites(draw: st.DrawFn) -> SimulatedSite:
    """A site after a few orders and accidents."""
    site = site_of(*(vm_of(uuid, host_id=host_id) for uuid, host_id in zip("abc", ("h1", "h2", "h1"), strict=True)))
    for _ in range(draw(st.integers(0, 12))):
        site.advance(site.now_s + draw(st.sampled_from([0.0, 1.0, 30.0])))
        uuid = draw(st.sampled_from(sorted(site.guests)))
        act = draw(st.sampled_from(["order", "force", "cut", "mend", "lose"]))
        if act == "order":
            verb = draw(st.sampled_from(Verb))
            target = draw(st.sampled_from(["h1", "h2", "h3"])) if verb.is_migration else None
            try:
                site.begin(Order(verb=verb, uuid=uuid, target_host_id=target))
            except DriverError:
                continue
        elif act == "force":
            site.force(uuid, draw(st.sampled_from([VmState.RUNNING, VmState.OFF, VmState.PAUSED])))
        else:
            getattr(site, act)(draw(st.sampled_from(["h1", "h2"])))
    return site


@given(sites())
def test_a_site_is_what_its_file_says(site: SimulatedSite) -> None:
    """State, tasks and counters survive being written and read, and go on alike."""
    again = site_of()
    decode_state(encode_state(site), again)
    for each in (site, again):
        each.advance(each.now_s + 500.0)
    assert encode_state(again) == encode_state(site)
    assert json.loads(encode_state(site))["guests"]


@given(sites())
def test_a_site_keeps_its_sums(site: SimulatedSite) -> None:
    """Each VM is on a host there is, no order makes a host hold more than it has, and a task is had by its VM."""
    for guest in site.guests.values():
        assert guest.host_id in site.hosts
        assert guest.job is None or site.jobs[guest.job].order.uuid == guest.vm.uuid
    site.advance(site.now_s + 10_000.0)
    assert all(guest.job is None for guest in site.guests.values())


PARK_TOML = """
[[hosts]]
id = "h1"
cores = 4
mem = "16GiB"
[[vms]]
uuid = "AB-1"
host = "h1"
vcpus = 2
mem = "4GiB"
tags = ["env:dev"]
macs = ["02:AA:00:00:00:01"]
shields = ["in a backup"]
state = "off"
"""


def test_a_park_is_read_from_toml(tmp_path: Path) -> None:
    """What is not said has its default; UUIDs and MACs are lower case."""
    path = tmp_path / "park.toml"
    path.write_text(PARK_TOML, encoding="utf-8")
    park = read_park(path)
    assert park.hosts == (ParkHost(host_id="h1", cores=4, mem_bytes=16 * GIB),)
    (vm,) = park.vms
    assert (vm.uuid, vm.name, vm.state, vm.owner) == ("ab-1", "ab-1", VmState.OFF, None)
    assert (vm.tags, vm.macs, vm.shields) == (("env:dev",), ("02:aa:00:00:00:01",), frozenset({Shield.BACKUP}))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('id = "h1"', "", "hosts 1: id: is missing"),
        ("cores = 4", "cores = 0", "hosts 1: cores"),
        ('mem = "16GiB"', 'mem = "16 parsecs"', "hosts 1: mem"),
        ('host = "h1"', 'host = "h9"', "vm ab-1: there is no host h9"),
        ('state = "off"', 'state = "gone"', "vms 1: state"),
        ('state = "off"', "cpu_ratio = -1", "vms 1: cpu_ratio"),
        ('shields = ["in a backup"]', 'shields = ["knight"]', "vms 1: shields"),
        ('tags = ["env:dev"]', "tags = [7]", "vms 1: tags"),
        ("vcpus = 2", "vcpu = 2", "vms 1: vcpu: unknown setting"),
        ("[[vms]]", "[vms]", "vms: is not a list of tables"),
        ("[[hosts]]", "[[hots]]", "hots: unknown setting"),
    ],
)
def test_mistakes_in_a_park_are_named(old: str, new: str, words: str, tmp_path: Path) -> None:
    """With the file, the table and the key."""
    path = tmp_path / "park.toml"
    path.write_text(PARK_TOML.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        read_park(path)
    assert any(problem.startswith(f"{path}: {words}") for problem in raised.value.problems)


def test_twins_in_a_park_are_named(tmp_path: Path) -> None:
    """Two hosts of one id or two VMs of one UUID."""
    path = tmp_path / "park.toml"
    path.write_text(PARK_TOML + PARK_TOML, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"two hosts are called h1\n.*two VMs have the UUID ab-1"):
        read_park(path)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)


@given(
    st.builds(
        ParkVm,
        uuid=st.sampled_from(["a", "b-2"]),
        name=TEXTS,
        host_id=st.just("h1"),
        vcpus=st.integers(1, 64),
        mem_bytes=st.integers(1, 1 << 40),
        owner=st.none() | TEXTS,
        tags=st.lists(TEXTS, max_size=3).map(tuple),
        shields=st.frozensets(st.sampled_from(Shield)),
        state=st.sampled_from([VmState.RUNNING, VmState.OFF]),
        cpu_ratio=st.floats(0, 1),
        created_s=st.none() | st.floats(0, 2e9),
    )
)
def test_a_park_is_written_as_it_is_read(vm: ParkVm) -> None:
    """Every park survives the way through TOML, whatever characters its texts hold."""
    park = Park(hosts=HOSTS, vms=(vm,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "park.toml"
        path.write_text(encode_park(park), encoding="utf-8", newline="")
        assert read_park(path) == park


def test_a_simulated_fleet_gets_a_park() -> None:
    """Every VM of the agents' simulation has a place, under its agent's id, MAC and size; memory is left for moves."""
    fleet = make_fleet(parse_profiles(DEFAULT_PROFILES), vms=60, days=14.0, end_s=1_700_006_400, seed=3)
    park = park_for(fleet, owners=("ada", "bob"))
    assert [vm.uuid for vm in park.vms] == [vm.vm for vm in fleet]
    assert park.vms[0].macs == tuple(identity(fleet[0]).macs)
    assert [vm.owner for vm in park.vms[:3]] == ["ada", "bob", "ada"]
    for host in park.hosts:
        held = sum(vm.mem_bytes for vm in park.vms if vm.host_id == host.host_id)
        assert 0 < held <= host.mem_bytes
    held = sum(vm.mem_bytes for vm in park.vms)
    assert held <= 0.75 * sum(host.mem_bytes for host in park.hosts)
    assert len(park.hosts) >= 2
    with pytest.raises(ValueError, match="fit on no host"):
        park_for(fleet, host_mem_bytes=1 << 20)


def test_a_simulated_fleet_is_seen_from_outside_as_its_agents_tell() -> None:
    """Idle VMs: CPU and traffic of the hypervisor are about those of the agent, so that nobody disbelieves them."""
    end_s, noise = 1_700_006_400, Noise(3)
    fleet = make_fleet(parse_profiles("low=1"), vms=20, days=1.0, end_s=end_s, seed=3)
    for vm, seen in zip(fleet, park_for(fleet).vms, strict=True):
        told = [json.loads(text) for text in vm.samples(noise, end_s - 86_400, end_s)]
        quiet = [each for each in told if each["cpu_busy_ratio"] < 0.1]
        traffic = fmean(each["net_rx_bytes_per_s"] + each["net_tx_bytes_per_s"] for each in quiet)
        assert 2 * seen.net_bytes_per_s == pytest.approx(traffic, rel=0.3, abs=500)
        assert seen.cpu_ratio == pytest.approx(fmean(each["cpu_busy_ratio"] for each in quiet), abs=0.01)


def test_the_kind_is_opened_from_settings(tmp_path: Path) -> None:
    """`simulated` is a kind of driver: with a park, kept in a file, at any pace."""
    (tmp_path / "park.toml").write_text(PARK_TOML, encoding="utf-8")
    settings = {"park": str(tmp_path / "park.toml"), "state": str(tmp_path / "state.json"), "pace": 0}
    config = DriverConfig(name="lab", kind="simulated", settings=settings, source="orchestrate.toml: drivers[0]")
    for expected in (VmState.OFF, VmState.RUNNING):
        driver = open_any(config, clock=lambda: START_S)
        assert driver.find("ab-1", 10.0).state is expected
        if expected is VmState.OFF:
            assert driver.begin(Order(verb=Verb.START, uuid="ab-1"), 10.0).wait(10.0) is True


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "park: is missing"),
        ({"park": "no-such-file.toml"}, "no-such-file.toml"),
        ({"park": 7}, "park"),
        ({"park": "p", "pace": -1}, "pace"),
        ({"park": "p", "seed": "x"}, "seed"),
        ({"park": "p", "faults": {"refuse": 2}}, "faults"),
        ({"park": "p", "faults": {"nonsense": 0.1}}, "faults.nonsense: unknown setting"),
    ],
)
def test_mistakes_in_the_settings_are_named(settings: dict[str, object], words: str) -> None:
    """With the place of the table."""
    config = DriverConfig(name="lab", kind="simulated", settings=settings, source="here")
    with pytest.raises(ConfigError, match=words):
        open_any(config)


def test_a_driver_without_a_verb_says_so_first(clock: FakeTime) -> None:
    """Unsupported comes before everything else, whether there is such a VM or not."""
    driver = SimulatedDriver("lab", MemoryKeeper(site_of()), clock, capabilities=Capabilities(verbs=frozenset()))
    with pytest.raises(Unsupported):
        driver.begin(SUSPEND, 10.0)
