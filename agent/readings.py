"""What this machine says about itself right now: psutil, `/proc` and `/sys`. No arithmetic: see `counters`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil  # type: ignore[import-untyped]

from agent.counters import CpuTimes, Mount, Usage, disk_usage, is_physical_nic, is_whole_disk, local_mounts

# Received and sent bytes that this process itself caused on physical interfaces since it started.
OwnTraffic = Callable[[], tuple[int, int]]

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What is read every few seconds. `own_cpu_s`: CPU seconds of this process, all threads."""

    cpu: CpuTimes
    own_cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is read at the end of an interval. Counters are by device name; None means not known."""

    tick: Tick
    cpu_count: int | None
    load1: float | None
    mem_total_bytes: int
    mem_used_bytes: int
    swap_used_bytes: int | None
    disk_total_bytes: int | None
    disk_used_bytes: int | None
    disk_read_bytes: Mapping[str, int]
    disk_write_bytes: Mapping[str, int]
    net_rx_bytes: Mapping[str, int]
    net_tx_bytes: Mapping[str, int]
    users: int | None
    procs: int | None
    own_read_bytes: int
    own_write_bytes: int
    own_rx_bytes: int
    own_tx_bytes: int


class Readings(Protocol):
    """Where a sampler gets its figures from."""

    def tick(self) -> Tick: ...

    def reading(self) -> Reading: ...


class SystemReadings:
    """The real machine.

    Args:
        own_traffic: what the agent itself received and sent.
        sysfs, run: where sysfs and `/run` are mounted.
    """

    def __init__(
        self, *, own_traffic: OwnTraffic = lambda: (0, 0), sysfs: Path = Path("/sys"), run: Path = Path("/run")
    ) -> None:
        self._own_traffic = own_traffic
        self._nics = _Devices(str(sysfs / "class/net"), _is_nic)
        self._disks = _Devices(str(sysfs / "block"), _is_disk)
        self._mount_table = b""
        self._mounts: list[Mount] = []
        self._sessions = str(run / "systemd/sessions")
        self._utmp = str(run / "utmp")
        self._process = psutil.Process()

    def tick(self) -> Tick:
        """CPU counters now."""
        # The same line that psutil.cpu_times() reads, at a third of its price: this is done 17,280 times a day.
        line = _read_bytes("/proc/stat", 512)
        user, nice, system, idle, iowait, irq, softirq, steal = (int(text) for text in line.split(maxsplit=9)[1:9])
        busy = user + nice + system + irq + softirq
        cpu = CpuTimes(
            busy_s=busy * _TICK_S,
            steal_s=steal * _TICK_S,
            iowait_s=iowait * _TICK_S,
            total_s=(busy + idle + iowait + steal) * _TICK_S,
        )
        # The clock of the process counts nanoseconds where psutil's figure comes in ticks of 10 ms.
        return Tick(cpu=cpu, own_cpu_s=time.process_time())

    def reading(self) -> Reading:
        """Everything now. Raises OSError: `/proc` cannot be read."""
        memory = parse_memory(_read_bytes("/proc/meminfo", 1 << 14))
        disks = self._disk_counters()
        nics = self._nic_counters()
        own_read_bytes, own_write_bytes = self._own_io()
        own_rx_bytes, own_tx_bytes = self._own_traffic()
        space = disk_usage(self._usages())
        return Reading(
            tick=self.tick(),
            cpu_count=os.cpu_count(),
            load1=os.getloadavg()[0],
            mem_total_bytes=memory.total_bytes,
            mem_used_bytes=memory.used_bytes,
            swap_used_bytes=memory.swap_used_bytes,
            disk_total_bytes=space[0] if space else None,
            disk_used_bytes=space[1] if space else None,
            disk_read_bytes={name: read for name, (read, _) in disks.items()},
            disk_write_bytes={name: written for name, (_, written) in disks.items()},
            net_rx_bytes={name: received for name, (received, _) in nics.items()},
            net_tx_bytes={name: sent for name, (_, sent) in nics.items()},
            users=self._users(),
            procs=sum(map(str.isdigit, os.listdir("/proc"))),
            own_read_bytes=own_read_bytes,
            own_write_bytes=own_write_bytes,
            own_rx_bytes=own_rx_bytes,
            own_tx_bytes=own_tx_bytes,
        )

    def physical_nics(self) -> list[str]:
        """Names of the interfaces whose bytes enter or leave this VM."""
        return self._nics.names()

    def whole_disks(self) -> list[str]:
        """Names of the disks whose bytes are counted nowhere else."""
        return self._disks.names()

    def _nic_counters(self) -> dict[str, tuple[int, int]]:
        counters = psutil.net_io_counters(pernic=True, nowrap=False)
        return {
            name: (counters[name].bytes_recv, counters[name].bytes_sent)
            for name in self.physical_nics()
            if name in counters
        }

    def _disk_counters(self) -> dict[str, tuple[int, int]]:
        counters = psutil.disk_io_counters(perdisk=True, nowrap=False)
        # sysfs writes a slash of a device name as an exclamation mark (cciss!c0d0).
        names = [name.replace("!", "/") for name in self.whole_disks()]
        return {name: (counters[name].read_bytes, counters[name].write_bytes) for name in names if name in counters}

    def _usages(self) -> list[Usage]:
        table = _read_bytes("/proc/self/mounts", 1 << 20)
        if table != self._mount_table:
            parts = psutil.disk_partitions(all=True)
            self._mounts = local_mounts(Mount(part.device, part.mountpoint, part.fstype) for part in parts)
            self._mount_table = table
        usages = []
        for mount in self._mounts:
            try:
                space = os.statvfs(mount.path)
            except OSError:
                # Hidden from this user or gone since the table was read.
                continue
            total_bytes = space.f_blocks * space.f_frsize
            usages.append(Usage(mount, total_bytes, total_bytes - space.f_bfree * space.f_frsize))
        return usages

    def _own_io(self) -> tuple[int, int]:
        try:
            io = self._process.io_counters()
        except (psutil.Error, OSError, NotImplementedError):
            # A kernel without task accounting: then nothing is taken off, which can only make a VM look busier.
            return 0, 0
        return io.read_bytes, io.write_bytes

    def _users(self) -> int | None:
        """Logged-in sessions; None where neither logind nor utmp keeps a list of them."""
        counts = []
        if os.path.isdir(self._sessions):
            texts = [
                _read(f"{self._sessions}/{name}") for name in _entries(self._sessions) if not name.endswith(".ref")
            ]
            counts.append(sum(is_login(text) for text in texts if text is not None))
        if os.path.exists(self._utmp):
            counts.append(len(psutil.users()))
        return max(counts, default=None)


def addresses() -> tuple[list[str], list[str]]:
    """IP addresses and MAC addresses of this machine, sorted; loopback and link-local ones left out."""
    ips: set[str] = set()
    macs: set[str] = set()
    for found in psutil.net_if_addrs().values():
        for address in found:
            if address.family == psutil.AF_LINK:
                macs.add(address.address.lower())
            elif not address.address.startswith(("127.", "169.254.", "fe80:")) and address.address != "::1":
                ips.add(address.address)
    return sorted(ips), sorted(macs - {"00:00:00:00:00:00"})


def is_login(session: str) -> bool:
    """Whether a logind session file belongs to a person: not a greeter, a cron job or a user manager, not closing."""
    fields = dict(line.split("=", 1) for line in session.splitlines() if "=" in line)
    return fields.get("CLASS", "").startswith("user") and fields.get("STATE") != "closing"


@dataclass(frozen=True, slots=True)
class Memory:
    """What `/proc/meminfo` says. Used is total - available."""

    total_bytes: int
    used_bytes: int
    swap_used_bytes: int | None


def parse_memory(meminfo: bytes) -> Memory:
    """Reads `/proc/meminfo`. Raises OSError: no total, or (before Linux 3.14) no available memory in it."""
    sizes_bytes = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(b":")
        if name in (b"MemTotal", b"MemAvailable", b"SwapTotal", b"SwapFree"):
            sizes_bytes[name] = int(rest.split()[0]) * 1024
    if b"MemTotal" not in sizes_bytes or b"MemAvailable" not in sizes_bytes:
        raise OSError("/proc/meminfo: no MemTotal or MemAvailable")
    swap_total_bytes, swap_free_bytes = sizes_bytes.get(b"SwapTotal"), sizes_bytes.get(b"SwapFree")
    swap_used_bytes = None
    if swap_total_bytes is not None and swap_free_bytes is not None:
        swap_used_bytes = max(0, swap_total_bytes - swap_free_bytes)
    return Memory(
        total_bytes=sizes_bytes[b"MemTotal"],
        used_bytes=max(0, sizes_bytes[b"MemTotal"] - sizes_bytes[b"MemAvailable"]),
        swap_used_bytes=swap_used_bytes,
    )


class _Devices:
    """The names in a sysfs folder that count. Asked again when the folder changes, and now and then anyway."""

    _LOOKS = 10  # a function of a card gets its master a moment after it appears

    def __init__(self, folder: str, counts: Callable[[str], bool]) -> None:
        self._folder = folder
        self._counts = counts
        self._seen: list[str] = []
        self._names: list[str] = []
        self._looks_left = 0

    def names(self) -> list[str]:
        seen = _entries(self._folder)
        self._looks_left -= 1
        if seen != self._seen or self._looks_left < 0:
            self._seen, self._looks_left = seen, self._LOOKS
            self._names = [name for name in seen if self._counts(f"{self._folder}/{name}")]
        return self._names


def _is_nic(path: str) -> bool:
    master = f"{path}/master"
    master_path = os.path.realpath(master) if os.path.islink(master) else None
    return is_physical_nic(_link(path), master_sysfs_path=master_path)


def _is_disk(path: str) -> bool:
    return is_whole_disk(_link(path), hidden=_read(f"{path}/hidden") == "1")


def _entries(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _read_bytes(path: str, max_bytes: int) -> bytes:
    # Without the layers of open(): what is read at each tick adds up.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(fd, max_bytes)
        while len(content) < max_bytes and (more := os.read(fd, max_bytes - len(content))):
            content += more
        return content
    finally:
        os.close(fd)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return path


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None
