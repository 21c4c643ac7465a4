"""What goes wrong in a history, drawn from its seed: each history knows some of it, and has its own pace."""

from __future__ import annotations

from collections.abc import Callable

from tests.whole.hub import Hub
from tests.whole.machine import DAY_S, Machine
from tests.whole.story import Story

_YEAR_S = 365 * DAY_S
_OPERATIONS = ("fdatasync", "fdatasync", "write", "create", "fsync_directory", "unlink")


class Events:
    """Happen until the history is mended. Args: story: to whom."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._hub: Hub = story.hub
        rng = story.hub.rng
        known: list[Callable[[], str | None]] = [
            *(self.agent_killed, self.agent_rebooted, self.agent_clock, self.agent_disk_full, self.agent_sync_fails),
            *(self.agent_bit_flips, self.agent_cloned, self.agent_restored, self.agent_enrols_again),
            *(self.vm_cut_off, self.all_cut_off, self.lossy, self.doubling, self.slow_network, self.replayed),
            *(self.killed, self.killed, self.power_cut, self.power_cut, self.stopped, self.disk_full, self.disk_fails),
            *(self.disk_slow, self.clock, self.worker_dies, self.worker_slow, self.store_refused),
            *(self.database_away, self.database_mute, self.revoked, self.flushed),
        ]
        self._known = rng.sample(known, rng.randint(1, len(known)))
        self._gap_s = rng.choice((20.0, 60.0, 200.0))
        self._cloned = False
        self._next()

    def _next(self) -> None:
        self._hub.call_later(self._hub.rng.expovariate(1.0 / self._gap_s), self._happen)

    def _happen(self) -> None:
        if self._story.mended:
            return
        event = self._hub.rng.choice(self._known)
        words = event()
        if words is not None:
            name = event.__name__.replace("_", " ")
            self._story.events[name] += 1
            self._hub.tell(f"{name}: {words}")
        self._next()

    def _machine(self, *, running: bool = True) -> Machine | None:
        found = [machine for machine in self._story.machines if machine.runs or not running]
        return self._hub.rng.choice(found) if found else None

    def _span_s(self) -> float:
        return self._hub.rng.choice((5.0, 60.0, 400.0, 1500.0))

    def _later(self, delay_s: float, work: Callable[[], object]) -> None:
        """Unless all is mended by then."""
        self._hub.call_later(delay_s, lambda: None if self._story.mended else work())

    # Agents.

    def agent_killed(self) -> str | None:
        machine = self._machine()
        if machine is None:
            return None
        machine.kill()
        if self._hub.rng.random() < 0.3:
            machine.tear(self._hub.rng.randint(1, 20))
        self._hub.call_later(self._hub.rng.choice((1.0, 30.0, 300.0)), self._story.start, machine)
        return machine.name

    def agent_rebooted(self) -> str | None:
        machine = self._machine()
        if machine is None:
            return None
        machine.kill()
        machine.reboot()
        self._hub.call_later(self._hub.rng.choice((10.0, 120.0)), self._story.start, machine)
        return machine.name

    def agent_clock(self) -> str | None:
        machine = self._machine()
        if machine is None:
            return None
        jump_s = self._hub.rng.choice((3.0, 70.0, 600.0, 7200.0, 25 * 3600.0, _YEAR_S)) * self._hub.rng.choice((-1, 1))
        machine.hardware.offset_s += jump_s
        self._story.lied_s = max(self._story.lied_s, abs(machine.hardware.offset_s))
        if self._hub.rng.random() < 0.7:
            self._later(self._span_s(), lambda: self._set_clock(machine, 0.0))
        return f"{machine.name} jumps by {jump_s:.0f} s"

    def _set_clock(self, machine: Machine, offset_s: float) -> None:
        self._hub.tell(f"the clock of {machine.name} is {offset_s:.0f} s off")
        machine.hardware.offset_s = offset_s

    def agent_disk_full(self) -> str | None:
        machine = self._machine()
        if machine is None:
            return None
        machine.hardware.full = True
        self._later(self._span_s(), lambda: setattr(machine.hardware, "full", False))
        return machine.name

    def agent_sync_fails(self) -> str | None:
        machine = self._machine()
        if machine is None:
            return None
        machine.hardware.sync_fails = self._hub.rng.randint(1, 3)
        return machine.name

    def agent_bit_flips(self) -> str | None:
        machine = self._machine(running=False)
        if machine is None:
            return None
        machine.flip(self._hub.rng.random(), of_line_end=self._hub.rng.random() < 0.2)
        return machine.name

    def agent_cloned(self) -> str | None:
        machine = self._machine()
        if machine is None or self._cloned:
            return None
        self._cloned = True
        self._story.twins.add(machine.vm)
        clone = self._story.add_machine(f"{machine.name}-clone", machine.vm, begins_s=self._hub.rng.uniform(1.0, 300.0))
        machine.copy_to(clone.folder)
        return machine.name

    def agent_restored(self) -> str | None:
        """A snapshot is taken now, and somebody goes back to it later."""
        machine = self._machine()
        if machine is None:
            return None
        snapshot = machine.folder.with_name(f"{machine.name}-snapshot-{self._hub.step}")
        machine.copy_to(snapshot)
        taken_s, boot = self._hub.now_s, machine.boot
        with_memory = self._hub.rng.random() < 0.5

        def restore() -> None:
            self._hub.tell(f"{machine.name} is again as it was at {taken_s:.0f} s")
            machine.kill()
            machine.restore(snapshot)
            machine.boot = boot
            if with_memory:
                # It takes the time of the snapshot for now until its clock is set.
                machine.hardware.offset_s = taken_s - self._hub.now_s
                self._later(self._span_s(), lambda: self._set_clock(machine, 0.0))
            else:
                machine.reboot()
            self._hub.call_later(1.0, self._story.start, machine)

        self._later(self._span_s(), restore)
        return machine.name

    def agent_enrols_again(self) -> str | None:
        machine = self._machine()
        if machine is None:
            return None
        machine.person_enrols()
        machine.kill()
        machine.start()
        return machine.name

    # The network.

    def vm_cut_off(self) -> str | None:
        machine = self._machine(running=False)
        if machine is None:
            return None
        self._cut({machine.vm})
        return machine.vm

    def all_cut_off(self) -> str | None:
        self._cut({machine.vm for machine in self._story.machines})
        return "nobody reaches anybody"

    def _cut(self, vms: set[str]) -> None:
        weather = self._story.network.weather
        weather.cut |= vms
        self._later(self._span_s(), lambda: weather.cut.difference_update(vms))

    def lossy(self) -> str | None:
        weather = self._story.network.weather
        weather.request_lost, weather.answer_lost = self._hub.rng.choice(
            ((0.3, 0.0), (0.0, 0.3), (0.3, 0.3), (0.0, 1.0))
        )
        weather.silent = self._hub.rng.choice((0.0, 0.5, 1.0))
        self._later(self._span_s(), self._calm)
        return f"{weather.request_lost} of requests, {weather.answer_lost} of answers"

    def _calm(self) -> None:
        weather = self._story.network.weather
        weather.request_lost = weather.answer_lost = 0.0

    def doubling(self) -> str | None:
        weather = self._story.network.weather
        weather.doubled = self._hub.rng.choice((0.0, 0.2, 0.6))
        return f"{weather.doubled} of requests"

    def slow_network(self) -> str | None:
        weather = self._story.network.weather
        weather.latency_s = self._hub.rng.choice((0.001, 0.3, 4.0, 12.0))
        weather.pieces = self._hub.rng.choice((0.0, 0.5))
        return f"{weather.latency_s} s"

    def replayed(self) -> str | None:
        """Some request of any time before comes once more."""
        recorded = self._story.network.recorded
        if not recorded:
            return None
        sent, data = self._hub.rng.choice(recorded)
        self._story.network.again(sent, data)
        return f"{sent.vm} {sent.serials[:3]}"

    # The aggregator.

    def _down_s(self) -> float:
        return self._hub.rng.choice((0.5, 10.0, 300.0))

    def killed(self) -> str | None:
        """At the next step but so many: wherever that is."""
        return self._dies(power_cut=False)

    def power_cut(self) -> str | None:
        return self._dies(power_cut=True)

    def _dies(self, *, power_cut: bool) -> str:
        down_s, steps = self._down_s(), self._hub.rng.choice((0, 1, 5, 20, 100))
        self._story.at_step(
            self._hub.step + steps, lambda: self._story.aggregator.die(power_cut=power_cut, down_s=down_s)
        )
        return f"in {steps} steps, for {down_s} s"

    def stopped(self) -> str | None:
        self._story.aggregator.stop(self._down_s())
        return "told to stop"

    def disk_full(self) -> str | None:
        room_bytes = self._hub.rng.choice((0, 100, 3000))
        self._set_room(room_bytes)
        self._later(self._span_s(), lambda: self._set_room(None))
        return f"{room_bytes} bytes left"

    def _set_room(self, room_bytes: int | None) -> None:
        disk = self._story.site.disk
        disk.capacity_bytes = None if room_bytes is None else disk.used_bytes + room_bytes

    def disk_fails(self) -> str | None:
        operation, times = self._hub.rng.choice(_OPERATIONS), self._hub.rng.choice((1, 1, 3))
        self._story.site.disk.fails[operation] = times
        return f"{times} x {operation}"

    def disk_slow(self) -> str | None:
        self._story.site.disk.slow_s = self._hub.rng.choice((0.5, 5.0, 40.0))
        self._later(self._span_s(), lambda: setattr(self._story.site.disk, "slow_s", 0.0))
        return f"{self._story.site.disk.slow_s} s a sync"

    def clock(self) -> str | None:
        offset_s = self._hub.rng.choice((60.0, 600.0, 7200.0, _YEAR_S, _YEAR_S)) * self._hub.rng.choice((-1, 1))
        self._story.set_clock(offset_s)
        if self._hub.rng.random() < 0.5:
            # While it is wrong, stores are written: that is when retention could go wrong.
            self._later(1.0, self.flushed)
        self._later(self._span_s(), lambda: self._story.set_clock(0.0))
        return f"{offset_s:.0f} s off"

    def worker_dies(self) -> str | None:
        self._story.site.workers.dies = self._hub.rng.choice((1, 1, 2, 4))
        return f"{self._story.site.workers.dies} times"

    def worker_slow(self) -> str | None:
        self._story.site.workers.slow_s = self._hub.rng.choice((10.0, 120.0))
        self._later(self._span_s(), lambda: setattr(self._story.site.workers, "slow_s", 0.0))
        return f"{self._story.site.workers.slow_s} s a chunk"

    def store_refused(self) -> str | None:
        vms = sorted({machine.vm for machine in self._story.machines})
        vms = self._hub.rng.sample(vms, self._hub.rng.choice((1, len(vms))))
        refused = self._story.site.workers.refused
        refused.update(vms)
        self._later(self._span_s(), lambda: refused.difference_update(vms))
        return ", ".join(vms)

    def flushed(self) -> str | None:
        life = self._story.aggregator.life
        if life is None or life.not_ready() is not None:
            return None
        life.flusher.flush() if self._hub.rng.random() < 0.5 else life.flusher.flush_turn()
        return "asked for"

    # The fleet database, and people.

    def database_away(self) -> str | None:
        self._story.set_database(away=True)
        self._later(self._span_s(), lambda: self._story.set_database(away=False))
        return "it does not answer"

    def database_mute(self) -> str | None:
        self._story.database.mute = self._hub.rng.choice((1, 2))
        return f"{self._story.database.mute} commits are not told of"

    def revoked(self) -> str | None:
        machine = self._machine(running=False)
        if machine is None:
            return None
        self._story.revoke(machine.vm)
        self._later(self._span_s(), lambda: self._story.help(machine))
        return machine.vm
