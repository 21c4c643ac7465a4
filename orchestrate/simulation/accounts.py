"""What a run is measured by: energy, unserved demand, overload, migrations, hosts switched off. Pure.

A state holds from one event to the next; only energy is taken between the two, as the mean of both ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrate.simulation.park import Bools, Floats, Hosts, power_w

JOULES_PER_KWH = 3.6e6
# What 0.9 x / 0.9 differs from x by is no violation.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class State:
    """The park between two events. H hosts, V VMs.

    Attributes:
        vm_asked_mips, vm_got_mips: (V,) of VMs where they run; 0 for those that have left.
        in_flight: (V,) VMs that migrate.
        used_ratio: (H,) of a host's CPU.
        used_mips, asked_mips, asked_here_mips: (H,) as in `sharing.Shares`.
        on: (H,) draws power; booting: (H,) draws all of it, without a VM yet.
    """

    vm_asked_mips: Floats
    vm_got_mips: Floats
    in_flight: Bools
    used_ratio: Floats
    used_mips: Floats
    asked_mips: Floats
    asked_here_mips: Floats
    on: Bools
    booting: Bools


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a run comes to.

    Attributes:
        slatah_ratio: share of the time of active hosts in which a host gave less than was asked of it, exactly
            compared and with VMs migrating in counted in full, as published.
        slatah_tolerant_ratio: the same without what rounding makes of equal figures.
        slatah_overload_ratio: the same with a VM that migrates in counted as the tenth that it can use there: what
            is left is hosts that were too small for their VMs.
        pdm_ratio: demand that was not served to VMs while they migrated, of all demand.
        unserved_ratio: demand that was not served at all, of all demand.
        unserved_overload_ratio: the part of it for VMs that did not migrate.
        mean_active_hosts: over `span_s`.
        shutdowns: how often a host was switched off; mean_time_to_shutdown_s: after how long, None without one.
    """

    energy_kwh: float
    slatah_ratio: float
    slatah_tolerant_ratio: float
    slatah_overload_ratio: float
    pdm_ratio: float
    unserved_ratio: float
    unserved_overload_ratio: float
    mean_active_hosts: float
    shutdowns: int
    mean_time_to_shutdown_s: float | None

    @property
    def slav(self) -> float:
        return self.slatah_ratio * self.pdm_ratio

    @property
    def esv_kwh(self) -> float:
        return self.energy_kwh * self.slav


class Accounts:
    """Adds a run up.

    Args:
        all_on_at_first: whether a host that is off in the first state counts as switched off then.
    """

    def __init__(self, hosts: Hosts, *, all_on_at_first: bool) -> None:
        self._hosts = hosts
        self._full_w = hosts.power_w[:, -1]
        self._all_on_at_first = all_on_at_first
        self._state: State | None = None
        self._since_s = 0.0
        self._power_w = np.zeros(len(hosts))
        self._was_on: Bools | None = None
        self._on_since_s = np.zeros(len(hosts))
        self._joules = 0.0
        self._on_s = self._violated_s = self._violated_tolerant_s = self._overloaded_s = 0.0
        self._asked = self._unserved = self._unserved_flying = 0.0
        self._shutdowns = 0
        self._before_shutdown_s = 0.0

    def pass_time(self, now_s: float, used_ratio: Floats) -> None:
        """The state so far ends now.

        Args: used_ratio: (H,) as it became until now, before anything that happens now.
        """
        state, step_s = self._state, now_s - self._since_s
        if state is None or step_s <= 0:
            return
        ends_w = np.where(state.booting, self._full_w, power_w(self._hosts.power_w, used_ratio))
        drawn_w = np.where(state.on | state.booting, (self._power_w + ends_w) / 2.0, 0.0)
        self._joules += float(drawn_w.sum()) * step_s
        on, used, asked = state.on, state.used_mips, state.asked_mips
        self._on_s += int(on.sum()) * step_s
        self._violated_s += int((on & (used < asked)).sum()) * step_s
        self._violated_tolerant_s += int((on & (used < asked * (1 - _ROUNDING))).sum()) * step_s
        self._overloaded_s += int((on & (used < state.asked_here_mips * (1 - _ROUNDING))).sum()) * step_s
        unserved = np.maximum(state.vm_asked_mips - state.vm_got_mips, 0.0)
        self._asked += float(state.vm_asked_mips.sum()) * step_s
        self._unserved += float(unserved.sum()) * step_s
        self._unserved_flying += float(unserved[state.in_flight].sum()) * step_s

    def hold(self, now_s: float, state: State) -> None:
        """This state begins now. Called once an event, when everything that happens then has happened."""
        if self._was_on is None:
            self._was_on = np.ones(len(state.on), np.bool_) if self._all_on_at_first else state.on
        stopped, started = self._was_on & ~state.on, ~self._was_on & state.on
        self._shutdowns += int(stopped.sum())
        self._before_shutdown_s += float((now_s - self._on_since_s[stopped]).sum())
        self._on_since_s[started] = now_s
        self._was_on, self._state, self._since_s = state.on, state, now_s
        self._power_w = np.where(state.booting, self._full_w, power_w(self._hosts.power_w, state.used_ratio))

    def totals(self, span_s: float) -> Totals:
        """Args: span_s: what the mean of active hosts is taken over."""
        on_s, asked = self._on_s or 1.0, self._asked or 1.0
        return Totals(
            energy_kwh=self._joules / JOULES_PER_KWH,
            slatah_ratio=self._violated_s / on_s,
            slatah_tolerant_ratio=self._violated_tolerant_s / on_s,
            slatah_overload_ratio=self._overloaded_s / on_s,
            pdm_ratio=self._unserved_flying / asked,
            unserved_ratio=self._unserved / asked,
            unserved_overload_ratio=(self._unserved - self._unserved_flying) / asked,
            mean_active_hosts=self._on_s / span_s,
            shutdowns=self._shutdowns,
            mean_time_to_shutdown_s=self._before_shutdown_s / self._shutdowns if self._shutdowns else None,
        )
