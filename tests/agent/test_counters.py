"""Rates, shares and choices are right, or absent; never invented."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.counters import (
    CpuTimes,
    Mount,
    Usage,
    cpu_shares,
    disk_usage,
    is_physical_nic,
    is_whole_disk,
    local_mounts,
    rate_per_s,
)

BEFORE = CpuTimes(busy_s=100.0, steal_s=10.0, iowait_s=5.0, total_s=1000.0)
AFTER = CpuTimes(busy_s=130.0, steal_s=12.0, iowait_s=6.0, total_s=1100.0)

seconds = st.floats(0, 1e9)
times = st.builds(CpuTimes, busy_s=seconds, steal_s=seconds, iowait_s=seconds, total_s=seconds)


def test_shares_are_of_all_cpu_time() -> None:
    """30 of 100 CPU seconds busy are 0.3, steal and iowait apart."""
    shares = cpu_shares(BEFORE, AFTER, own_s=0.0)
    assert shares is not None
    assert (shares.busy_ratio, shares.steal_ratio, shares.iowait_ratio) == pytest.approx((0.3, 0.02, 0.01))


def test_own_cpu_is_taken_off_and_never_below_zero() -> None:
    """What the agent itself used is not counted as busy."""
    ten, more = cpu_shares(BEFORE, AFTER, own_s=10.0), cpu_shares(BEFORE, AFTER, own_s=31.0)
    assert ten is not None
    assert ten.busy_ratio == pytest.approx(0.2)
    assert more is not None
    assert more.busy_ratio == 0.0


@pytest.mark.parametrize("after", [BEFORE, replace(AFTER, busy_s=99.0), replace(AFTER, total_s=999.0)])
def test_no_time_or_a_counter_that_went_back_is_no_share(after: CpuTimes) -> None:
    """Without passing time, or with busy or total going back, there is nothing to tell."""
    assert cpu_shares(BEFORE, after, own_s=0.0) is None


def test_iowait_may_go_back_alone() -> None:
    """The kernel lets iowait decrease: only that figure is then missing."""
    shares = cpu_shares(BEFORE, replace(AFTER, iowait_s=4.0), own_s=0.0)
    assert shares is not None
    assert shares.iowait_ratio is None
    assert shares.busy_ratio == pytest.approx(0.3)


@given(before=times, after=times, own_s=seconds)
def test_shares_are_always_within_bounds(before: CpuTimes, after: CpuTimes, own_s: float) -> None:
    """Whatever the counters say, a share is absent or 0..1."""
    shares = cpu_shares(before, after, own_s=own_s)
    if shares is not None:
        for ratio in (shares.busy_ratio, shares.steal_ratio, shares.iowait_ratio):
            assert ratio is None or 0 <= ratio <= 1


def test_rate_sums_devices_and_takes_own_bytes_off() -> None:
    """Two disks that grew by 600 and 300 bytes in 60 s, 60 of them ours: 14 a second."""
    assert rate_per_s({"a": 0, "b": 700}, {"a": 600, "b": 1000}, elapsed_s=60.0, own=60) == pytest.approx(14.0)


def test_own_bytes_never_make_a_rate_negative() -> None:
    """The agent's own bytes may be counted a moment earlier than the device's: then the rate is zero."""
    assert rate_per_s({"a": 0}, {"a": 10}, elapsed_s=60.0, own=11) == 0.0


@pytest.mark.parametrize(
    ("before", "after", "elapsed_s"),
    [
        ({"a": 5}, {"a": 4}, 60.0),
        ({"a": 5, "b": 9}, {"a": 500, "b": 8}, 60.0),
        ({"a": 5}, {"a": 9, "b": 1}, 60.0),
        ({"a": 5, "b": 1}, {"a": 9}, 60.0),
        ({}, {}, 60.0),
        ({"a": 5}, {"a": 9}, 0.0),
    ],
    ids=["went back", "one went back", "came", "left", "none", "no time"],
)
def test_a_difference_without_meaning_is_no_rate(
    before: dict[str, int], after: dict[str, int], elapsed_s: float
) -> None:
    """A counter that went back, another set of devices, no device or no time: not measured, never zero."""
    assert rate_per_s(before, after, elapsed_s=elapsed_s, own=0) is None


def test_local_filesystems_once_for_each_device() -> None:
    """Bind mounts count once; loop, overlay, tmpfs, CD and network mounts not at all."""
    mounts = [
        Mount("/dev/vda1", "/", "ext4"),
        Mount("/dev/vda1", "/var/lib/docker", "ext4"),
        Mount("/dev/mapper/vg-home", "/home", "xfs"),
        Mount("/dev/loop3", "/snap/core", "squashfs"),
        Mount("/dev/loop4", "/mnt/image", "ext4"),
        Mount("/dev/sr0", "/media", "iso9660"),
        Mount("overlay", "/var/lib/docker/overlay2/x", "overlay"),
        Mount("tmpfs", "/run", "tmpfs"),
        Mount("server:/export", "/nfs", "nfs4"),
        Mount("//server/share", "/smb", "cifs"),
        Mount("user@host:/", "/ssh", "fuse.sshfs"),
        Mount("/dev/drbd0", "/shared", "gfs2"),
        Mount("/dev/sdb1", "/ntfs", "fuseblk"),
    ]
    assert [mount.path for mount in local_mounts(mounts)] == ["/", "/home", "/ntfs"]


def test_disk_usage_adds_filesystems() -> None:
    """Total and used are sums over devices; without a filesystem they are not known."""
    usages = [Usage(Mount("/dev/a", "/", "ext4"), 100, 30), Usage(Mount("/dev/b", "/b", "xfs"), 50, 5)]
    assert disk_usage(usages) == (150, 35)
    assert disk_usage([]) is None


def test_free_space_of_a_zfs_pool_counts_once() -> None:
    """Two datasets that share 70 free bytes are not 140 free bytes."""
    mounts = local_mounts([Mount("tank", "/tank", "zfs"), Mount("tank/home", "/home", "zfs")])
    assert disk_usage([Usage(mounts[0], 80, 10), Usage(mounts[1], 90, 20)]) == (100, 30)


@pytest.mark.parametrize(
    ("path", "master", "physical"),
    [
        ("../../devices/pci0000:00/0000:00:03.0/virtio2/net/eth0", None, True),
        ("../../devices/vif-0/net/eth0", None, True),
        ("../../devices/pci0000:00/0000:00:03.0/net/ens3", "/sys/devices/virtual/net/br0", True),
        ("../../devices/LNXSYSTM:00/vmbus/x/pci/net/enP1s1", "/sys/devices/LNXSYSTM:00/vmbus/y/net/eth0", False),
        ("../../devices/virtual/net/lo", None, False),
        ("../../devices/virtual/net/docker0", None, False),
        ("../../devices/virtual/net/veth12ab", None, False),
        ("../../devices/virtual/net/br-1234", None, False),
        ("../../devices/virtual/net/virbr0", None, False),
        ("../../devices/virtual/net/tun0", None, False),
        ("../../devices/virtual/net/tap0", None, False),
        ("../../devices/virtual/net/bond0", None, False),
    ],
)
def test_an_interface_is_physical_by_its_place_in_sysfs(path: str, master: str | None, physical: bool) -> None:
    """Virtio, Xen and bridged cards count; lo, containers, tunnels, bonds and a function below its master do not."""
    assert is_physical_nic(path, master_sysfs_path=master) is physical


@pytest.mark.parametrize(
    ("path", "hidden", "whole"),
    [
        ("../devices/pci0000:00/0000:00:02.0/virtio1/block/vda", False, True),
        ("../devices/vbd-51712/block/xvda", False, True),
        ("../devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", False, True),
        ("../devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0c0n1", True, False),
        ("../devices/virtual/block/loop0", False, False),
        ("../devices/virtual/block/ram0", False, False),
        ("../devices/virtual/block/dm-0", False, False),
        ("../devices/virtual/block/md0", False, False),
        ("../devices/virtual/block/zram0", False, False),
        ("../devices/pci0000:00/ata2/host1/target1:0:0/1:0:0:0/block/sr0", False, False),
        ("../devices/platform/floppy.0/block/fd0", False, False),
    ],
)
def test_a_disk_is_counted_once(path: str, hidden: bool, whole: bool) -> None:
    """Whole disks count; what is stacked on them, hidden paths to them, CDs and floppies do not."""
    assert is_whole_disk(path, hidden=hidden) is whole
