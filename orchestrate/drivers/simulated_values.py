"""What a simulated site is made of as it runs: its VMs, its tasks and how long things take. Pure.

The durations are those measured on QEMU with libvirt.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from orchestrate.driver import Order, Verb
from orchestrate.drivers.simulated_faults import Fault
from orchestrate.drivers.simulated_park import ParkVm
from orchestrate.inventory import VmState


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long things take.

    Args:
        save_s, save_bytes_per_s: a suspend writes the memory to disk. load_bytes_per_s: a resume reads it back.
        stop_s: the shortest and the longest that guests take to shut down. deaf_s: given up when none does.
        move_s, link_bytes_per_s: a live migration. dirty_ratio: what it sends twice, since the guest goes on writing.
        factor: on all of them; 0: at once.
    """

    save_s: float = 1.5
    save_bytes_per_s: float = 200e6
    load_s: float = 0.4
    load_bytes_per_s: float = 400e6
    start_s: float = 0.4
    stop_s: tuple[float, float] = (0.8, 25.0)
    deaf_s: float = 30.0
    move_s: float = 2.0
    link_bytes_per_s: float = 125e6
    dirty_ratio: float = 0.15
    move_cold_s: float = 1.0
    factor: float = 1.0

    def span_s(self, verb: Verb, uuid: str, mem_bytes: int) -> float:
        """Of one order. A guest takes as long to shut down as it did the last time."""
        match verb:
            case Verb.SUSPEND:
                span_s = self.save_s + mem_bytes / self.save_bytes_per_s
            case Verb.RESUME:
                span_s = self.load_s + mem_bytes / self.load_bytes_per_s
            case Verb.START:
                span_s = self.start_s
            case Verb.STOP:
                share = hashlib.sha256(uuid.encode()).digest()[0] / 255
                span_s = self.stop_s[0] + share * (self.stop_s[1] - self.stop_s[0])
            case Verb.MIGRATE_LIVE:
                span_s = self.move_s + mem_bytes * (1.0 + self.dirty_ratio) / self.link_bytes_per_s
            case Verb.MIGRATE_COLD:
                span_s = self.move_cold_s
        return span_s * self.factor


@dataclass(slots=True, kw_only=True)
class Guest:
    """A VM as it is now.

    Args:
        boot: how often it has started; what lives in its memory is of this boot.
        counted_s: up to when the counters below are right. job: number of the task that has it.
    """

    vm: ParkVm
    host_id: str
    state: VmState
    boot: int = 1
    job: int | None = None
    counted_s: float = 0.0
    cpu_s: float = 0.0
    net_bytes: float = 0.0
    disk_bytes: float = 0.0

    def count(self, now_s: float) -> None:
        """Brings the counters up to now; they stand still while it does not run."""
        if self.state is VmState.RUNNING and now_s > self.counted_s:
            span_s = now_s - self.counted_s
            self.cpu_s += self.vm.cpu_ratio * self.vm.vcpus * span_s
            self.net_bytes += self.vm.net_bytes_per_s * span_s
            self.disk_bytes += self.vm.disk_bytes_per_s * span_s
        self.counted_s = max(self.counted_s, now_s)

    def begin_process(self) -> None:
        """A new process at its host: counters from zero."""
        self.cpu_s = self.net_bytes = self.disk_bytes = 0.0


class JobState(StrEnum):
    """How a task stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    # It ended, and its hypervisor cannot say how.
    UNKNOWN = "unknown"


@dataclass(slots=True, kw_only=True)
class Job:
    """An order under way, or that was.

    Args:
        source_host_id: where the VM was.
        fault: what will become of it. words: why it did not end well.
    """

    number: int
    order: Order
    source_host_id: str
    began_s: float
    ends_s: float
    fault: Fault | None = None
    state: JobState = JobState.RUNNING
    words: str = ""

    def progress_ratio(self, now_s: float) -> float:
        """0..1, by time."""
        if self.state is JobState.DONE or self.ends_s <= self.began_s:
            return 1.0
        return min(1.0, max(0.0, (now_s - self.began_s) / (self.ends_s - self.began_s)))
