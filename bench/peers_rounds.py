"""The same pushes for each system in turn: paced, as fast as it goes, in batches, and cut off by kill -9.

The clock is compressed as little as the fleet is small: at 1,000 pushes a second, 1,000 VMs push a minute of their
life every second, and a flush is asked for after each 15 minutes of it, as in each quarter of an hour of 60,000 VMs
that push once a minute. Who puts off what it stores begins and ends the measured hours with as much in memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agent.shapes import INTERVAL_S, Noise
from bench.admin_door import check_steady
from bench.load_driver import Drive, DriveError
from bench.outcome import Say
from bench.peers_driver import Pusher
from bench.peers_figures import FIELD_NAMES, Texts, lively_fleet, minutes_of
from bench.peers_system import System
from bench.programs import ProgramError

FLUSH_MINUTES = 15
BATCH_MINUTES = 500
_BATCH_CONNECTIONS = 8


@dataclass(slots=True)
class Cost:
    """What some work cost a server, over all rounds.

    Attributes:
        pushes, minutes: requests and VM-minutes acknowledged; sent, where nothing is acknowledged.
        seconds: from the first push to the last answer.
        cpu_s: of the server and its children, until it was at rest again.
        driver_cpu_s: of whoever sent them.
        ack_s: times to the answers.
        each: VM-minutes per CPU-second, a figure a round.
    """

    pushes: int = 0
    minutes: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    driver_cpu_s: float = 0.0
    drive: Drive = field(default_factory=Drive)
    each: list[float] = field(default_factory=list)

    @property
    def minutes_per_cpu_s(self) -> float:
        """The whole over the whole."""
        return self.minutes / self.cpu_s

    @property
    def minutes_per_s(self) -> float:
        return self.minutes / self.seconds

    @property
    def cpu_s_per_million_points(self) -> float:
        return self.cpu_s / (self.minutes * len(FIELD_NAMES)) * 1e6

    def figures(self) -> dict[str, object]:
        """For an outcome."""
        found: dict[str, object] = {
            "vm_minutes": self.minutes,
            "vm_minutes_per_cpu_s": round(self.minutes_per_cpu_s),
            "each_round": [round(one) for one in self.each],
            "cpu_s": round(self.cpu_s, 2),
            "vm_minutes_per_s": round(self.minutes_per_s),
            "cpu_s_per_million_points": round(self.cpu_s_per_million_points, 3),
            "driver_cpu_ratio": round(self.driver_cpu_s / self.seconds, 2),
        }
        if self.drive.ack_s:
            found["ack_p50_s"] = self.drive.quantile_s(0.5)
            found["ack_p99_s"] = self.drive.quantile_s(0.99)
        return found


class Storing:
    """One `store` at a time, beside the pushes."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def begin(self) -> None:
        """Starts the next one, once the one before is done. Raises: what that one raised."""
        self.wait()
        self._thread = threading.Thread(target=self._store, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Raises: ProgramError, OSError: it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error

    def _store(self) -> None:
        try:
            self._system.store()
        except (ProgramError, OSError) as error:
            self._error = error


@dataclass(slots=True)
class Lane:
    """One system on its way through the rounds.

    Attributes:
        minute: how many minutes of each VM were pushed since `start_s`, where its history ends.
        lost: acknowledged and not stored after kill -9; `killed_of`: of so many.
    """

    system: System
    vms: Sequence[str]
    kinds: Sequence[Texts]
    start_s: int
    minute: int = 0
    paced: Cost = field(default_factory=Cost)
    saturated: Cost = field(default_factory=Cost)
    batches: Cost = field(default_factory=Cost)
    peak_rss_bytes: int = 0
    lost: int = 0
    killed_of: int = 0

    def warm_up(self, minutes: int, connections: int) -> None:
        """Not measured, and pushed as fast as it goes.

        Args: minutes: until every series is known, and as much waits in memory as it does in the long run.
        """
        self._drive(Cost(), minutes, connections, None)

    def push(self, cost: Cost, minutes: int, connections: int, pushes_per_s: float | None) -> None:
        """Hours of every VM, a request a minute, with a flush after each 15; until the server is at rest.

        Raises: ProgramError: more or fewer minutes wait in memory at the end than did at the beginning, so that what
            was measured is not what these minutes cost.
        """
        before = self.system.waiting()
        self._drive(cost, minutes, connections, pushes_per_s)
        check_steady(before, self.system.waiting())

    def _drive(self, cost: Cost, minutes: int, connections: int, pushes_per_s: float | None) -> None:
        system = self.system
        pusher = self._pusher(connections)
        try:
            cpu_s, own_s, storing, drive = system.cpu_s(), time.process_time(), Storing(system), Drive()
            for done in range(0, minutes, FLUSH_MINUTES):
                pusher.push(self._minutes(min(FLUSH_MINUTES, minutes - done)), drive, pushes_per_s=pushes_per_s)
                storing.begin()
            own_s = time.process_time() - own_s
            storing.wait()
            system.rest()
            _add(cost, drive, drive.acked, system.cpu_s() - cpu_s, own_s)
        finally:
            pusher.close()
        self.peak_rss_bytes = max(self.peak_rss_bytes, system.peak_rss_bytes())

    def push_batches(self, requests: Sequence[bytes], minutes: int) -> None:
        """Batches, encoded before, as spools send them after an outage."""
        system = self.system
        pusher = self._pusher(_BATCH_CONNECTIONS)
        try:
            cpu_s, own_s, drive = system.cpu_s(), time.process_time(), Drive()
            pusher.push(requests, drive)
            own_s = time.process_time() - own_s
            # These VMs are new: the next flush stores them, whosever turn it is.
            system.store()
            system.rest()
            _add(self.batches, drive, minutes, system.cpu_s() - cpu_s, own_s)
        finally:
            pusher.close()
        if waiting := system.waiting():
            raise ProgramError(f"{system.name}: {waiting} minutes of the batches are in memory still")

    def kill(self, seconds: float, connections: int, pushes_per_s: float) -> None:
        """kill -9 in the midst of paced pushes; how much of what was acknowledged is there after a restart."""
        system, drive = self.system, Drive()
        before = len(self.vms) * self.minute
        pusher = self._pusher(connections)
        killing = threading.Timer(seconds, system.kill)
        killing.start()
        try:
            pusher.push(self._minutes(1_000_000), drive, pushes_per_s=pushes_per_s)
        except DriveError:
            pass  # what was to come
        finally:
            killing.join()
            pusher.close()
        system.start()
        system.rest()
        # Pushes that were under way may be stored too, so that this is the least that was lost.
        self.killed_of = drive.acked
        self.lost = max(0, before + drive.acked - system.stored(self.vms, self.start_s))

    def check(self, *, looks: int = 24, pause_s: float = 5.0) -> None:
        """Looks a few times, since carbon writes late. Raises: ProgramError: not all that was pushed is there."""
        expected, found = len(self.vms) * self.minute, 0
        self.system.store_all()
        for look in range(looks):
            if look:
                time.sleep(pause_s)
            found = self.system.stored(self.vms, self.start_s)
            if found == expected:
                return
        raise ProgramError(f"{self.system.name}: {expected} minutes pushed, {found} stored")

    def _pusher(self, connections: int) -> Pusher:
        answer = self.system.answer if self.system.acknowledges else None
        return Pusher(self.system.address, connections=connections, answer=answer)

    def _minutes(self, minutes: int) -> Iterator[bytes]:
        """The next minutes of every VM, minute by minute."""
        make, kinds = self.system.minute, self.kinds
        for _ in range(minutes):
            self.minute += 1
            ts = self.start_s + self.minute * INTERVAL_S
            for index, vm in enumerate(self.vms):
                yield make(vm, kinds[(index + self.minute) % len(kinds)], ts)


def _add(cost: Cost, drive: Drive, minutes: int, cpu_s: float, driver_cpu_s: float) -> None:
    cost.pushes += drive.acked
    cost.minutes += minutes
    cost.seconds += drive.seconds
    cost.cpu_s += cpu_s
    cost.driver_cpu_s += driver_cpu_s
    cost.drive.ack_s.extend(drive.ack_s)
    cost.each.append(minutes / cpu_s)


def paced_rounds(
    lanes: Sequence[Lane], *, rounds: int, minutes: int, connections: int, pushes_per_s: float, say: Say
) -> None:
    """Each system in turn, so that a change of the machine's pace meets all of them."""
    for turn in range(rounds):
        for lane in lanes:
            lane.push(lane.paced, minutes, connections, pushes_per_s)
            say(f"paced {turn + 1}/{rounds}, {lane.system.name}: {lane.paced.each[-1]:,.0f} VM-minutes/CPU-s")


def saturated_rounds(lanes: Sequence[Lane], *, rounds: int, minutes: int, connections: int, say: Say) -> None:
    """The same as fast as answers come."""
    for turn in range(rounds):
        for lane in lanes:
            lane.push(lane.saturated, minutes, connections, None)
            say(
                f"as fast as it goes {turn + 1}/{rounds}, {lane.system.name}: "
                f"{lane.saturated.each[-1]:,.0f} VM-minutes/CPU-s"
            )


def batch_rounds(lanes: Sequence[Lane], *, rounds: int, vms: int, batches: int, say: Say) -> None:
    """VMs that come back after an outage: other VMs in each round, each with `batches` batches."""
    span_s = batches * BATCH_MINUTES * INTERVAL_S
    noise = Noise(2)
    for turn in range(rounds):
        end_s = lanes[0].start_s
        fleet = lively_fleet(vms, days=1, end_s=end_s, seed=turn + 2)
        made = [(f"spool-{turn}-{vm.vm}", minutes_of(vm, noise, end_s - 86_400, end_s)) for vm in fleet]
        # A day's minutes again and again, moved in time: what a minute holds does not matter here.
        for lane in lanes:
            requests = []
            for start_s in range(end_s - span_s, end_s, BATCH_MINUTES * INTERVAL_S):
                for vm, minutes in made:
                    slice_ = [
                        type(minute)(start_s + INTERVAL_S * (number + 1), minute.texts)
                        for number, minute in enumerate(minutes[:BATCH_MINUTES])
                    ]
                    requests.append(lane.system.batch(vm, slice_, INTERVAL_S))
            lane.push_batches(requests, len(requests) * BATCH_MINUTES)
            say(
                f"batches {turn + 1}/{rounds}, {lane.system.name}: "
                f"{lane.batches.cpu_s_per_million_points:.2f} CPU-s a million points"
            )
