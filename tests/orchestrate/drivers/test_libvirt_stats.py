"""libvirt's numbers in our words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.drivers import libvirt_stats as stats_of
from orchestrate.drivers.libvirt_links import load_libvirt
from orchestrate.inventory import VmState

# As a real host told them of a guest with two disks and a card.
BULK = {
    "state.state": 1,
    "cpu.time": 4_210_000_000,
    "balloon.rss": 201_024,
    "balloon.available": 78_000,
    "balloon.usable": 30_000,
    "balloon.unused": 20_000,
    "net.count": 1,
    "net.0.rx.bytes": 1000,
    "net.0.tx.bytes": 200,
    "block.count": 2,
    "block.0.rd.bytes": 7,
    "block.0.wr.bytes": 5,
    "block.0.capacity": 100,
    "block.1.rd.bytes": 3,
    "block.1.wr.bytes": 0,
    "block.1.capacity": 20,
}


@pytest.mark.parametrize(
    ("state", "reason", "is_saved", "word"),
    [
        (1, 1, False, VmState.RUNNING),
        (2, 0, False, VmState.RUNNING),
        (3, 1, False, VmState.PAUSED),
        (3, 5, False, VmState.PAUSED),
        (3, 7, False, VmState.PAUSED),
        (3, 2, False, VmState.CHANGING),
        (3, 3, False, VmState.CHANGING),
        (3, 11, False, VmState.CHANGING),
        (4, 0, False, VmState.CHANGING),
        (5, 1, False, VmState.OFF),
        (5, 5, True, VmState.SUSPENDED),
        (6, 0, False, VmState.UNKNOWN),
        (7, 0, False, VmState.PAUSED),
        (0, 0, False, VmState.UNKNOWN),
        (99, 99, False, VmState.UNKNOWN),
    ],
)
def test_states_are_translated(state: int, reason: int, is_saved: bool, word: VmState) -> None:
    """Paused by a task of libvirt's own is under way; paused by anybody else is paused."""
    assert stats_of.state_of(state, reason, is_saved=is_saved) is word


def test_only_a_vm_that_is_off_with_its_memory_saved_is_suspended() -> None:
    """Of all that libvirt may say; and only running VMs execute."""
    for state in range(10):
        for reason in range(15):
            for is_saved in (False, True):
                word = stats_of.state_of(state, reason, is_saved=is_saved)
                assert (word is VmState.SUSPENDED) is (state == 5 and is_saved)
                assert (word is VmState.RUNNING) is stats_of.is_executing(state)


def test_our_numbers_are_libvirts() -> None:
    """Those that stand in our code are those of the library."""
    library = load_libvirt()
    names = ("RUNNING", "BLOCKED", "PAUSED", "SHUTDOWN", "SHUTOFF", "CRASHED", "PMSUSPENDED")
    assert [getattr(library, f"VIR_DOMAIN_{name}") for name in names] == list(range(1, 8))
    by_task = ("MIGRATION", "SAVE", "DUMP", "SHUTTING_DOWN", "SNAPSHOT", "STARTING_UP", "POSTCOPY")
    assert {getattr(library, f"VIR_DOMAIN_PAUSED_{name}") for name in by_task} == stats_of._PAUSED_BY_TASK
    reading = ("SNAPSHOT", "BACKUP")
    assert {getattr(library, f"VIR_DOMAIN_JOB_OPERATION_{name}") for name in reading} == stats_of._BACKUP_OPERATIONS
    assert library.VIR_DOMAIN_JOB_NONE == 0


def test_counters_of_a_vm() -> None:
    """Seconds and bytes, all disks and cards together."""
    counters = stats_of.vm_counters(BULK, uuid="u", host_id="h", at_s=5.0)
    assert (counters.uuid, counters.host_id, counters.at_s) == ("u", "h", 5.0)
    assert counters.cpu_s == pytest.approx(4.21)
    assert (counters.mem_bytes, counters.mem_used_bytes) == (201_024 * 1024, 48_000 * 1024)
    assert (counters.disk_read_bytes, counters.disk_write_bytes) == (10, 5)
    assert (counters.net_rx_bytes, counters.net_tx_bytes) == (1000, 200)
    assert stats_of.disk_bytes(BULK) == 120


@given(st.sets(st.sampled_from(sorted(BULK))))
def test_what_is_missing_is_none_and_never_zero(missing: set[str]) -> None:
    """A sum that lacks one part is not known; a VM that has no card has sent 0 bytes."""
    told = {key: value for key, value in BULK.items() if key not in missing}
    counters = stats_of.vm_counters(told, uuid="u", host_id="h", at_s=0.0)
    assert (counters.cpu_s is None) is ("cpu.time" in missing)
    assert (counters.mem_bytes is None) is ("balloon.rss" in missing)
    for value, group, count, key in (
        (counters.disk_read_bytes, "block", 2, "rd.bytes"),
        (counters.disk_write_bytes, "block", 2, "wr.bytes"),
        (counters.net_rx_bytes, "net", 1, "rx.bytes"),
        (counters.net_tx_bytes, "net", 1, "tx.bytes"),
        (stats_of.disk_bytes(told), "block", 2, "capacity"),
    ):
        needed = {f"{group}.count", *(f"{group}.{number}.{key}" for number in range(count))}
        assert (value is None) is bool(needed & missing)
    assert stats_of.vm_counters({"net.count": 0}, uuid="u", host_id="h", at_s=0.0).net_rx_bytes == 0


def test_counters_of_a_host() -> None:
    """Idle and waiting are not busy, and what is cached is not taken; what was not told is None."""
    cpu = {"user": 2 * 10**9, "kernel": 10**9, "idle": 10**12, "iowait": 10**10}
    memory = {"total": 1000, "free": 300, "buffers": 50, "cached": 150}
    counters = stats_of.host_counters(cpu, memory, host_id="h", at_s=1.0)
    assert (counters.host_id, counters.at_s, counters.cpu_s, counters.mem_used_bytes) == ("h", 1.0, 3.0, 500 * 1024)
    nothing = stats_of.host_counters(None, None, host_id="h", at_s=1.0)
    assert (nothing.cpu_s, nothing.mem_used_bytes) == (None, None)


@pytest.mark.parametrize(
    ("job", "ratio"),
    [
        ({}, None),
        ({"type": 0}, None),
        ({"type": 2, "data_total": 0, "data_remaining": 0}, None),
        ({"type": 2, "data_total": 100}, None),
        ({"type": 2, "data_total": 100, "data_remaining": 75}, 0.25),
        ({"type": 2, "data_total": 100, "data_remaining": 0}, 1.0),
        # A guest that writes faster than it is copied.
        ({"type": 2, "data_total": 100, "data_remaining": 150}, 0.0),
    ],
)
def test_progress_of_a_job(job: dict[str, int], ratio: float | None) -> None:
    """Between 0 and 1, or not known."""
    assert stats_of.progress_ratio(job) == ratio


def test_a_backup_is_told_from_other_jobs() -> None:
    """Snapshots and backups read the disks; a migration or a job of an unknown kind does not count as one."""
    assert stats_of.is_backup({"type": 2, "operation": 9})
    assert stats_of.is_backup({"type": 2, "operation": 6})
    assert not stats_of.is_backup({"type": 2, "operation": 5})
    assert not stats_of.is_backup({"type": 2})
    assert not stats_of.is_backup({"type": 0, "operation": 9})
