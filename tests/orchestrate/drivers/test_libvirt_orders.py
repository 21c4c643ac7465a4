"""What became of a call that failed, and which of several is the VM that several hosts know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from orchestrate.driver import AFTER, BEFORE, DriverError, NotFound, Order, OutcomeUnknown, Refused, Unreachable, Verb
from orchestrate.drivers.libvirt_look import Found, Look, merged, settled
from orchestrate.drivers.libvirt_orders import Work
from orchestrate.drivers.libvirt_settings import MIGRATE_FLAGS, HostSettings, LibvirtSettings
from orchestrate.drivers.libvirt_uri import HypervisorUri
from orchestrate.inventory import Vm, VmRef, VmState
from tests.orchestrate.drivers.libvirt_sites import FakeLibrary, FakeLibvirtError

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
FAILED = FakeLibvirtError("operation failed: it was not to be")
AWAY = Unreachable("away")
POWER = (Verb.SUSPEND, Verb.RESUME, Verb.START)
MIGRATIONS = (Verb.MIGRATE_LIVE, Verb.MIGRATE_COLD)


def host(host_id: str) -> HostSettings:
    uri = HypervisorUri(text=f"qemu+tls://{host_id}/system", host=host_id, is_test=False)
    return HostSettings(host_id=host_id, uri=uri, migrate_uri=uri)


def found(state: VmState, host_id: str = "hv1", *, uuid: str = UUID, is_kept: bool = True) -> Found:
    vm = Vm(ref=VmRef("lab", uuid), name="web", host_id=host_id, state=state, vcpus=1, mem_bytes=1)
    return Found(vm=vm, executes=state is VmState.RUNNING, is_kept=is_kept)


class FakeDomain:
    """Notes what is called, and fails where it is told to."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.calls: list[tuple[Any, ...]] = []

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def managedSave(self, flags: int) -> None:
        self._called("managedSave", flags)

    def create(self) -> None:
        self._called("create")

    def migrateToURI3(self, uri: str, parameters: Mapping[str, int], flags: int) -> None:
        self._called("migrateToURI3", uri, parameters, flags)


class FakeConnection:
    """With one domain, or none."""

    def __init__(self, domain: FakeDomain | None, *, alive: bool = True) -> None:
        self._domain, self._alive = domain, alive

    def isAlive(self) -> bool:
        return self._alive

    def lookupByUUIDString(self, uuid: str) -> FakeDomain:
        if self._domain is None:
            raise FakeLibvirtError("gone", code=42)
        return self._domain


class Library(FakeLibrary):
    """With bits of its own for each flag."""

    VIR_MIGRATE_PARAM_BANDWIDTH = "bandwidth"
    VIR_MIGRATE_LIVE, VIR_MIGRATE_PEER2PEER, VIR_MIGRATE_TUNNELLED, VIR_MIGRATE_PERSIST_DEST = 1, 2, 4, 8
    VIR_MIGRATE_UNDEFINE_SOURCE, VIR_MIGRATE_UNSAFE, VIR_MIGRATE_OFFLINE, VIR_MIGRATE_COMPRESSED = 16, 32, 64, 128
    VIR_MIGRATE_ABORT_ON_ERROR, VIR_MIGRATE_AUTO_CONVERGE, VIR_MIGRATE_TLS = 256, 512, 1024


def work(
    verb: Verb, seen: Mapping[str, Found | DriverError | None] | None = None, settings: LibvirtSettings | None = None
) -> Work:
    target = host("hv2") if verb.is_migration else None
    return Work(
        order=Order(verb=verb, uuid=UUID, target_host_id=None if target is None else "hv2"),
        vm=found(BEFORE[verb]).vm,
        target=target,
        look=Look(driver="lab", settings=host("hv1"), library=Library({})),
        look_everywhere=lambda _: seen or {},
        settings=settings or LibvirtSettings(hosts=(host("hv1"), host("hv2"))),
    )


def outcome(verb: Verb, seen: Mapping[str, Found | DriverError | None], *, alive: bool = True) -> str:
    """Of a call that failed, when this is what the hosts say afterwards."""
    try:
        work(verb, seen).run(FakeConnection(FakeDomain(FAILED), alive=alive))
    except OutcomeUnknown:
        return "unknown"
    except DriverError as error:
        return "not done" if (error.acted, error.uuid) == (False, UUID) else repr(error)
    return "done"


@pytest.mark.parametrize("verb", POWER)
def test_a_failed_call_is_judged_by_what_the_host_says_then(verb: Verb) -> None:
    """As before: not done. As asked for: done. Anything else, or no answer: unknown."""
    for state in VmState:
        expected = {BEFORE[verb]: "not done", AFTER[verb]: "done"}.get(state, "unknown")
        assert (state, outcome(verb, {"hv1": found(state), "hv2": None})) == (state, expected)
    assert outcome(verb, {"hv1": AWAY, "hv2": None}) == "unknown"
    assert outcome(verb, {"hv1": None, "hv2": None}) == "unknown"
    assert outcome(verb, {}) == "unknown"


@pytest.mark.parametrize("verb", POWER)
def test_a_broken_connection_proves_nothing_was_left_undone(verb: Verb) -> None:
    """The call may still be on its way: only what was done is certain."""
    assert outcome(verb, {"hv1": found(BEFORE[verb])}, alive=False) == "unknown"
    assert outcome(verb, {"hv1": found(AFTER[verb])}, alive=False) == "done"


@pytest.mark.parametrize("verb", MIGRATIONS)
def test_a_failed_migration_is_judged_by_both_hosts(verb: Verb) -> None:
    """Both have to say so: here and not there is not done, there and not here is done; all else is unknown."""
    state = BEFORE[verb]
    here, there = found(state), found(state, "hv2")
    waiting = found(VmState.CHANGING, "hv2", is_kept=False)
    assert outcome(verb, {"hv1": here, "hv2": None}) == "not done"
    # What libvirt had prepared there and is about to take away.
    assert outcome(verb, {"hv1": here, "hv2": waiting}) == "not done"
    assert outcome(verb, {"hv1": None, "hv2": there}) == "done"
    assert outcome(verb, {"hv1": here, "hv2": there}) == "unknown"
    assert outcome(verb, {"hv1": here, "hv2": AWAY}) == "unknown"
    assert outcome(verb, {"hv1": AWAY, "hv2": there}) == "unknown"
    assert outcome(verb, {"hv1": None, "hv2": None}) == "unknown"
    assert outcome(verb, {"hv1": found(VmState.CHANGING), "hv2": None}) == "unknown"
    assert outcome(verb, {"hv1": found(VmState.PAUSED), "hv2": waiting}) == "unknown"
    assert outcome(verb, {"hv1": here, "hv2": None}, alive=False) == "unknown"


def test_a_vm_that_went_before_it_was_touched_is_not_found() -> None:
    """Nothing was asked of it."""
    with pytest.raises(NotFound) as raised:
        work(Verb.SUSPEND).run(FakeConnection(None))
    assert (raised.value.acted, raised.value.uuid) == (False, UUID)


def calls_of(verb: Verb, settings: LibvirtSettings | None = None) -> list[tuple[Any, ...]]:
    domain = FakeDomain(None)
    work(verb, settings=settings).run(FakeConnection(domain))
    return domain.calls


def test_each_order_is_one_call() -> None:
    """Memory is kept by a managed save; a resume is a start from it; the definition goes along with a migration."""
    assert calls_of(Verb.SUSPEND) == [("managedSave", 0)]
    assert calls_of(Verb.RESUME) == calls_of(Verb.START) == [("create",)]
    always = Library.VIR_MIGRATE_PEER2PEER | Library.VIR_MIGRATE_PERSIST_DEST | Library.VIR_MIGRATE_UNDEFINE_SOURCE
    live = always | Library.VIR_MIGRATE_LIVE | Library.VIR_MIGRATE_ABORT_ON_ERROR
    uri = "qemu+tls://hv2/system"
    assert calls_of(Verb.MIGRATE_LIVE) == [("migrateToURI3", uri, {}, live)]
    assert calls_of(Verb.MIGRATE_COLD) == [("migrateToURI3", uri, {}, always | Library.VIR_MIGRATE_OFFLINE)]


def test_migration_flags_are_those_of_the_settings() -> None:
    """Each has a flag of libvirt's; none of them copies disks or starts the VM before it has its memory."""
    settings = LibvirtSettings(hosts=(host("hv1"), host("hv2")), migrate_flags=MIGRATE_FLAGS, migrate_mib_per_s=9)
    ((_, _, parameters, flags),) = calls_of(Verb.MIGRATE_LIVE, settings)
    assert parameters == {"bandwidth": 9}
    more = 1024 | 512 | 128 | 32 | 4
    assert flags & more == more


@pytest.mark.parametrize(
    ("one", "other", "chosen"),
    [
        (VmState.RUNNING, VmState.PAUSED, [VmState.RUNNING]),
        (VmState.RUNNING, VmState.CHANGING, [VmState.RUNNING]),
        (VmState.CHANGING, VmState.OFF, [VmState.CHANGING]),
        (VmState.PAUSED, VmState.SUSPENDED, [VmState.PAUSED]),
        (VmState.SUSPENDED, VmState.OFF, [VmState.SUSPENDED]),
        (VmState.RUNNING, VmState.RUNNING, [VmState.RUNNING] * 2),
        (VmState.OFF, VmState.OFF, [VmState.OFF] * 2),
    ],
)
def test_of_two_hosts_the_one_where_it_lives_counts(one: VmState, other: VmState, chosen: list[VmState]) -> None:
    """In whichever order they are asked; where both have the same claim, both are told."""
    for pair in ((found(one), found(other, "hv2")), (found(other, "hv2"), found(one))):
        assert [each.vm.state for each in settled(pair)] == chosen


def test_a_migration_under_way_does_not_make_two_of_a_vm() -> None:
    """At its source it runs and has a job, at its target it waits: the source is where it is."""
    source = Found(vm=found(VmState.CHANGING).vm, executes=True, is_kept=True)
    target = found(VmState.CHANGING, "hv2", is_kept=False)
    assert settled([target, source]) == [source]


def test_vms_are_listed_in_one_order() -> None:
    """By UUID and host, whoever answers first."""
    rows = [found(VmState.OFF, "hv2", uuid="b"), found(VmState.OFF, "hv1", uuid="b"), found(VmState.OFF, uuid="a")]
    told = [(vm.ref.uuid, vm.host_id) for vm in merged(rows)]
    assert told == [("a", "hv1"), ("b", "hv1"), ("b", "hv2")]
    assert merged(rows[::-1]) == merged(rows)


def test_words_name_host_vm_and_reason() -> None:
    """So that a person can look."""
    with pytest.raises(OutcomeUnknown, match="hv1: suspend of web may have been done or not: operation failed"):
        work(Verb.SUSPEND, {}).run(FakeConnection(FakeDomain(FAILED)))
    with pytest.raises(Refused, match="hv1: operation failed: it was not to be"):
        work(Verb.SUSPEND, {"hv1": found(VmState.RUNNING)}).run(FakeConnection(FakeDomain(FAILED)))


@pytest.mark.parametrize(
    "error", [FakeLibvirtError("client socket is closed", code=38, domain=7), FakeLibvirtError("no lock", code=68)]
)
def test_an_order_that_ended_without_a_change_was_not_done_whatever_broke(error: FakeLibvirtError) -> None:
    """A link between hosts that is cut, or a lock that was not had: nobody is left to think that it goes on."""
    with pytest.raises(Refused) as raised:
        work(Verb.MIGRATE_LIVE, {"hv1": found(VmState.RUNNING), "hv2": None}).run(FakeConnection(FakeDomain(error)))
    assert (raised.value.acted, raised.value.retryable) == (False, False)
