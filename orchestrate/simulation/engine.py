"""One run: a policy over a park and its recorded load, event by event. docs/consolidation.md has the rules.

Events are ticks, starts of migrations that had to wait for a host to wake, and arrivals. At each: everybody's
demand and share is taken anew, the time since the last event is paid for, VMs that are done leave; then what the
event is about happens, and the shares that follow from it hold until the next event.

Reference mode is the published model: ticks a tenth of a second late, nothing paid before the first tick nor
after the last event, a host without load is off, memory and network bind at the start alone, waking is free.

Honest mode pays from the first second to the last, keeps a host on as long as it has a VM, and lets ticks see
the recorded samples alone. A host that is off boots for `BOOT_S` at its full power; a migration to it starts when
it is up. A move to a host without room for the VM's memory is refused, as is one of a VM that migrates already;
a VM in flight holds its memory on both hosts.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from orchestrate.simulation.accounts import Accounts, State, Totals
from orchestrate.simulation.load import Load
from orchestrate.simulation.park import Bools, Floats, Park, added_up, migration_s
from orchestrate.simulation.policy import GONE, TICK_S, CannotPlace, Mode, Move, Placement, Policy, Rules, View
from orchestrate.simulation.sharing import Shares, entries_of, share, used_ratio

# Servers take one to four minutes from power-on to a hypervisor that takes VMs.
BOOT_S = 120.0
_REFERENCE_LATE_S = 0.1

Progress = Callable[[int, int], None]  # ticks done, ticks in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One tick for those who look closer: its migrations, and hosts that are on just after they start."""

    now_s: float
    migrations: int
    active_hosts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one run gave.

    Attributes:
        migrations: started. refused: moves that could not be, in honest mode.
        woken: hosts booted. departed: VMs that left (`drop_idle`).
        ticks: in order.
    """

    totals: Totals
    migrations: int
    refused: int
    woken: int
    departed: int
    ticks: tuple[Tick, ...]


def rules_of(mode: Mode) -> Rules:
    """What a mode asks of policies."""
    honest = mode is Mode.HONEST
    return Rules(mode=mode, ram_binds=honest, boot_s=BOOT_S if honest else 0.0)


def end_s(load: Load) -> float:
    """When the run ends."""
    return float((load.ticks + 1) * TICK_S)


def span_s(load: Load, mode: Mode) -> float:
    """What the mean of active hosts is taken over: all of it, as published until the last tick."""
    return end_s(load) if mode is Mode.HONEST else load.ticks * TICK_S + _REFERENCE_LATE_S


def simulate(
    park: Park,
    load: Load,
    policy: Policy,
    *,
    mode: Mode,
    drop_idle: bool = False,
    start: Placement | None = None,
    progress: Progress | None = None,
) -> Result:
    """Runs a policy.

    Args:
        drop_idle: a VM whose demand is exactly 0 leaves for good, as in the published model.
        start: places VMs at the start; None asks the policy itself.
        progress: called after each tick.

    Raises:
        CannotPlace: a VM found no host at the start.
        ValueError: load, park or a placement that do not belong together.
    """
    placed = list((start or policy.place)(park))
    _check_start(park, load, placed, mode)
    run = _Run(park, load, policy, rules_of(mode), drop_idle=drop_idle, placed=placed)
    run.go(progress)
    return Result(
        totals=run.accounts.totals(span_s(load, mode)),
        migrations=run.migrations,
        refused=run.refused,
        woken=run.woken,
        departed=run.departed,
        ticks=tuple(run.ticks),
    )


def _check_start(park: Park, load: Load, placed: Sequence[int], mode: Mode) -> None:
    count = len(park.vms)
    if load.ratio.shape[1] != count or len(placed) != count:
        raise ValueError(f"{count} VMs, load of {load.ratio.shape[1]}, {len(placed)} placed")
    if load.ticks < 1:
        raise ValueError(f"{load.name}: a run needs at least 2 samples")
    if any(not 0 <= host < len(park.hosts) for host in placed):
        raise ValueError("a VM is placed on a host that is not there")
    if mode is Mode.HONEST:
        used = added_up(np.array(placed, np.intp), park.vms.ram_bytes, len(park.hosts))
        for host in np.flatnonzero(used > park.hosts.ram_bytes):
            raise CannotPlace(f"host {host}: the VMs placed on it at the start need more memory than it has")


@dataclass(order=True, slots=True)
class _Event:
    """A migration that starts late, or ends. Ties keep the order of the plan."""

    at_s: float
    number: int
    vm: int = field(compare=False)
    host: int = field(compare=False)
    arrives: bool = field(compare=False)


class _Run:
    """The state of a run; `go` does it."""

    def __init__(
        self, park: Park, load: Load, policy: Policy, rules: Rules, *, drop_idle: bool, placed: Sequence[int]
    ) -> None:
        self._park, self._load, self._policy, self._rules = park, load, policy, rules
        self._drop_idle = drop_idle
        self._honest = rules.mode is Mode.HONEST
        self._host_of = np.array(placed, np.intp)
        self._vms_on: list[list[int]] = [[] for _ in range(len(park.hosts))]
        for vm, host in enumerate(placed):
            self._vms_on[host].append(vm)
        self._ram_used_bytes = added_up(self._host_of, park.vms.ram_bytes, len(park.hosts))
        # Planned and under way: VM -> targets. The published model lets one VM migrate to two at once.
        self._targets: dict[int, list[int]] = {}
        self._copying: set[int] = set()
        self._up_at_s: dict[int, float] = {}
        self._events: list[_Event] = []
        self._numbered = 0
        # Filled as time goes by: a policy is handed what is filled.
        self._history = np.zeros((load.ticks, len(park.vms)))
        self._samples = np.zeros(load.ratio.shape)
        self._samples[0] = load.ratio[0]
        self.accounts = Accounts(park.hosts, all_on_at_first=not self._honest)
        self._end_s = end_s(load)
        self.migrations = self.refused = self.woken = self.departed = 0
        self.ticks: list[Tick] = []

    def go(self, progress: Progress | None) -> None:
        """From the first second to the last event."""
        tick = 1
        tick_s = float(TICK_S) + (0.0 if self._honest else _REFERENCE_LATE_S)
        if self._honest:
            demand = self._demand(0.0)
            self._hold(0.0, demand, self._share(demand))
        while tick <= self._load.ticks or self._events:
            ticking = tick <= self._load.ticks and (not self._events or tick_s <= self._events[0].at_s)
            now_s = tick_s if ticking else self._events[0].at_s
            if now_s > self._end_s:
                break
            demand = self._demand(now_s)
            shares = self._share(demand)
            self.accounts.pass_time(now_s, used_ratio(self._park, shares))
            changed = self._depart(demand) if self._drop_idle else False
            changed |= self._happen(now_s)
            if changed:
                shares = self._share(demand)
            if ticking:
                started = self._decide(tick, now_s, demand, shares)
                shares = self._share(demand)
                self.ticks.append(
                    Tick(now_s=now_s, migrations=started, active_hosts=int(np.count_nonzero(self._on(shares))))
                )
                if progress is not None:
                    progress(tick, self._load.ticks)
                tick, tick_s = tick + 1, tick_s + TICK_S
            self._hold(now_s, demand, shares)
        if self._honest:
            demand = self._demand(self._end_s)
            self.accounts.pass_time(self._end_s, used_ratio(self._park, self._share(demand)))

    def _demand(self, now_s: float) -> Floats:
        demand: Floats = self._load.at(now_s) * self._park.vms.mips
        return np.where(self._host_of == GONE, 0.0, demand) if self.departed else demand

    def _share(self, demand: Floats) -> Shares:
        return share(self._park, entries_of(self._vms_on, self._host_of, self._copying), demand)

    def _on(self, shares: Shares) -> Bools:
        if not self._honest:
            return shares.used_mips > 0
        return np.fromiter(map(bool, self._vms_on), np.bool_, len(self._vms_on))

    def _hold(self, now_s: float, demand: Floats, shares: Shares) -> None:
        in_flight = np.zeros(len(demand), np.bool_)
        in_flight[list(self._copying)] = True
        on = self._on(shares)
        booting = np.zeros(len(on), np.bool_)
        booting[list(self._up_at_s)] = True
        self.accounts.hold(
            now_s,
            State(
                vm_asked_mips=demand,
                vm_got_mips=shares.vm_mips,
                in_flight=in_flight,
                used_ratio=used_ratio(self._park, shares),
                used_mips=shares.used_mips,
                asked_mips=shares.asked_mips,
                asked_here_mips=shares.asked_here_mips,
                on=on,
                booting=booting & ~on,
            ),
        )

    def _depart(self, demand: Floats) -> bool:
        """VMs that ask for nothing leave, unless they migrate."""
        leaving = np.flatnonzero((demand == 0) & (self._host_of != GONE))
        gone = [vm for vm in map(int, leaving) if vm not in self._targets]
        for vm in gone:
            host = int(self._host_of[vm])
            self._vms_on[host].remove(vm)
            self._ram_used_bytes[host] -= self._park.vms.ram_bytes[vm]
            self._host_of[vm] = GONE
        self.departed += len(gone)
        return bool(gone)

    def _happen(self, now_s: float) -> bool:
        """What is due: migrations that start now that their host is up, and those that end."""
        happened = False
        while self._events and self._events[0].at_s <= now_s:
            event = heapq.heappop(self._events)
            happened = True
            if event.arrives:
                self._arrive(event.vm, event.host)
            else:
                self._up_at_s.pop(event.host, None)
                self._copy(now_s, event.vm, event.host)
        return happened

    def _arrive(self, vm: int, host: int) -> None:
        left = int(self._host_of[vm])
        self._vms_on[left].remove(vm)
        self._vms_on[host].remove(vm)
        self._vms_on[host].append(vm)
        self._ram_used_bytes[left] -= self._park.vms.ram_bytes[vm]
        self._host_of[vm] = host
        # With two targets the first arrival ends the state of migrating; the second one, due at once, moves it on.
        self._targets[vm].remove(host)
        if not self._targets[vm]:
            del self._targets[vm]
            self._copying.discard(vm)

    def _decide(self, tick: int, now_s: float, demand: Floats, shares: Shares) -> int:
        """Asks the policy and starts what can be started. Returns how many migrations it started."""
        honest = self._honest
        self._history[tick - 1] = self._load.at(now_s)
        self._samples[tick] = self._load.ratio[tick]
        before = self.migrations
        for move in self._policy.decide(self._view(tick, now_s, demand, shares)):
            if not self._can(move):
                self.refused += 1
                continue
            self.migrations += 1
            self._targets.setdefault(move.vm, []).append(move.host)
            # Promised from now on, also while the host boots.
            self._ram_used_bytes[move.host] += self._park.vms.ram_bytes[move.vm]
            if honest and move.host in self._up_at_s:
                self._queue(self._up_at_s[move.host], move.vm, move.host, arrives=False)
            elif honest and not self._vms_on[move.host]:
                self.woken += 1
                self._up_at_s[move.host] = now_s + self._rules.boot_s
                self._queue(self._up_at_s[move.host], move.vm, move.host, arrives=False)
            else:
                self._copy(now_s, move.vm, move.host)
        return self.migrations - before

    def _can(self, move: Move) -> bool:
        if not (0 <= move.vm < len(self._host_of) and 0 <= move.host < len(self._vms_on)):
            raise ValueError(f"{move}: no such VM or host")
        if self._host_of[move.vm] in {GONE, move.host} or move.host in self._targets.get(move.vm, ()):
            return False
        if not self._honest:
            return True
        needed = self._ram_used_bytes[move.host] + self._park.vms.ram_bytes[move.vm]
        return move.vm not in self._targets and bool(needed <= self._park.hosts.ram_bytes[move.host])

    def _copy(self, now_s: float, vm: int, host: int) -> None:
        """A migration starts: the VM counts on both hosts until it is over."""
        self._copying.add(vm)
        self._vms_on[host].append(vm)
        self._queue(now_s + migration_s(self._park, vm, host), vm, host, arrives=True)

    def _queue(self, at_s: float, vm: int, host: int, *, arrives: bool) -> None:
        self._numbered += 1
        heapq.heappush(self._events, _Event(at_s, self._numbered, vm, host, arrives))

    def _view(self, tick: int, now_s: float, demand: Floats, shares: Shares) -> View:
        used = used_ratio(self._park, shares)
        on = self._on(shares)
        host_of, ram_used_bytes = self._host_of.copy(), self._ram_used_bytes.copy()
        history, samples = self._history[:tick][::-1], self._samples[: tick + 1][::-1]
        for array in (used, on, host_of, ram_used_bytes, history, samples, demand, shares.allocated_mips):
            array.setflags(write=False)
        shares.needed_mips.setflags(write=False)
        return View(
            tick=tick,
            now_s=now_s,
            rules=self._rules,
            park=self._park,
            vms_on=tuple(map(tuple, self._vms_on)),
            host_of=host_of,
            flying=MappingProxyType({vm: hosts[-1] for vm, hosts in self._targets.items()}),
            demand_mips=demand,
            history=history,
            samples=samples,
            used_ratio=used,
            allocated_mips=shares.allocated_mips,
            needed_mips=shares.needed_mips,
            ram_used_bytes=ram_used_bytes,
            awake=on,
        )
