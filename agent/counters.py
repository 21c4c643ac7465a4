"""Two readings of ever-growing counters → what happened in between. Pure: no clock, no files.

None means "not known for this interval": a counter went back, or the set of devices changed. Never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTimes:
    """CPU seconds of all vCPUs since boot. `total_s` holds busy, idle, iowait and steal.

    On Linux guest time is already inside user time, so it is in `busy_s` once.
    """

    busy_s: float
    steal_s: float
    iowait_s: float
    total_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuShares:
    """Shares of all vCPU time of one interval, 0..1. None: that counter went back."""

    busy_ratio: float
    steal_ratio: float | None
    iowait_ratio: float | None


def cpu_shares(before: CpuTimes, after: CpuTimes, *, own_s: float) -> CpuShares | None:
    """How the vCPU time between two readings was spent, the agent's own `own_s` not counted as busy.

    Returns: None: no time passed, or busy or total went back.
    """
    total_s = after.total_s - before.total_s
    busy_s = after.busy_s - before.busy_s
    if total_s <= 0 or busy_s < 0:
        return None
    return CpuShares(
        busy_ratio=min(1.0, max(0.0, busy_s - own_s) / total_s),
        steal_ratio=_share(after.steal_s - before.steal_s, total_s),
        # The kernel documents that iowait may decrease: that alone does not spoil the rest.
        iowait_ratio=_share(after.iowait_s - before.iowait_s, total_s),
    )


def _share(part_s: float, total_s: float) -> float | None:
    return min(1.0, part_s / total_s) if part_s >= 0 else None


def rate_per_s(before: Mapping[str, int], after: Mapping[str, int], *, elapsed_s: float, own: int = 0) -> float | None:
    """Growth a second of one counter, summed over devices; what the agent itself caused is taken off.

    Args:
        before, after: counter by device name.
        own: the part that the agent caused.

    Returns: None: no device, another set of devices, a counter that went back, or no time passed. A device
        that came or went may carry any count, so the interval in which it did has no rate.
    """
    if not after or before.keys() != after.keys() or elapsed_s <= 0:
        return None
    growth = [after[name] - before[name] for name in after]
    if min(growth) < 0:
        return None
    return max(0, sum(growth) - own) / elapsed_s


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table."""

    device: str
    path: str
    fs_type: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Size of one mounted filesystem."""

    mount: Mount
    total_bytes: int
    used_bytes: int


# What lies on these is another machine's, memory, or a picture of files counted elsewhere. A network filesystem
# is also never touched because a dead server would hang the reader.
_NOT_LOCAL = frozenset(
    {"9p", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "erofs", "gfs2", "glusterfs", "iso9660", "lustre"}
    | {"ncpfs", "nfs", "nfs4", "ocfs2", "overlay", "ramfs", "smb3", "smbfs", "squashfs", "tmpfs", "udf", "virtiofs"}
)
_NOT_DISKS = ("/dev/loop", "/dev/ram", "/dev/zram", "/dev/sr", "/dev/fd", "/dev/fuse", "/dev/nfs")


def local_mounts(mounts: Iterable[Mount]) -> list[Mount]:
    """The filesystems that hold this VM's own data, one mount for each device, in the given order.

    A bind mount repeats its device and is counted once. Loop devices, overlay, tmpfs and network mounts are left
    out. Datasets of ZFS are named without `/dev` and share a pool: each is kept, `disk_usage` adds them up.
    """
    chosen: dict[str, Mount] = {}
    for mount in mounts:
        if mount.fs_type == "zfs" or (
            mount.device.startswith("/dev/")
            and not mount.device.startswith(_NOT_DISKS)
            and mount.fs_type not in _NOT_LOCAL
            and not mount.fs_type.startswith("fuse.")
        ):
            chosen.setdefault(mount.device, mount)
    return list(chosen.values())


def disk_usage(usages: Sequence[Usage]) -> tuple[int, int] | None:
    """Total and used bytes over filesystems; the free space that datasets of a ZFS pool share counts once.

    Returns: None where there is no filesystem.
    """
    if not usages:
        return None
    used_bytes = sum(usage.used_bytes for usage in usages)
    free_bytes: dict[str, int] = {}
    for usage in usages:
        pool = usage.mount.device.partition("/")[0] if usage.mount.fs_type == "zfs" else usage.mount.device
        free_bytes[pool] = max(free_bytes.get(pool, 0), usage.total_bytes - usage.used_bytes)
    return used_bytes + sum(free_bytes.values()), used_bytes


def is_physical_nic(sysfs_path: str, *, master_sysfs_path: str | None) -> bool:
    """Whether an interface moves bytes in and out of this VM.

    Args:
        sysfs_path: where `/sys/class/net/NAME` leads.
        master_sysfs_path: where its `master` leads; None without one.

    Bridges, tunnels, veth, tap, bonds and lo lie under `/devices/virtual/`; virtio, netvsc and ENA do not. An
    accelerated (SR-IOV) function below a physical master is left out: its bytes are in the master's counters too.
    """
    if _is_virtual(sysfs_path):
        return False
    return master_sysfs_path is None or _is_virtual(master_sysfs_path)


def _is_virtual(sysfs_path: str) -> bool:
    return "/devices/virtual/" in sysfs_path


def is_whole_disk(sysfs_path: str, *, hidden: bool) -> bool:
    """Whether an entry of `/sys/block` is a disk whose bytes are counted nowhere else.

    Loop, ram, zram, device-mapper and md lie under `/devices/virtual/block/`: their bytes reach a real disk or none.
    A multipath NVMe disk lies under `/devices/virtual/nvme-subsystem/` and counts; its `hidden` paths do not.
    Partitions have no entry of their own there. CD and floppy drives are no disks.
    """
    name = sysfs_path.rpartition("/")[2]
    return not hidden and "/devices/virtual/block/" not in sysfs_path and not name.startswith(("sr", "fd"))
