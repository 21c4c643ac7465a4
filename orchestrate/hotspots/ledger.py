"""Capacity promised on hosts, to new VMs and to planned moves alike, so that none of it is promised twice.

A promise is written first and checked after: whoever writes later sees the earlier one, so of two that do not fit
together at most one stays, whatever the order of the calls and without a lock. An inventory is older than its reading,
and a promise therefore counts on for as long after its end as an inventory may be old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from orchestrate.driver import Verb
from orchestrate.hotspots.host_loads import Floats
from orchestrate.hotspots.hosts import Site
from orchestrate.plan import Plan, Step
from orchestrate.records import Hold

# An inventory that was read longer ago is no ground for a promise.
MAX_AGE_S = 60.0
_ROUNDING = 1e-9


class StaleSite(Exception):
    """The inventory is too old to promise anything by: read it again."""


class Holds(Protocol):
    """The part of `Records` that keeps promises."""

    def holds(self, now_s: float) -> Sequence[Hold]: ...

    def put_hold(self, hold: Hold, *, by: str) -> None: ...

    def drop_hold(self, hold_id: str, *, by: str, now_s: float) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be promised. Args: hold_id: one that exists already is renewed."""

    hold_id: str
    host_id: str
    vcpus: float
    mem_bytes: int
    what: str


class Ledger:
    """Promises, over the records that all processes share.

    Args: by: who asks, for the audit log. clock: Unix seconds.
    """

    def __init__(self, records: Holds, *, by: str, clock: Callable[[], float]) -> None:
        self._records = records
        self._by = by
        self._clock = clock

    def counting(self) -> Sequence[Hold]:
        """Everything that takes room now, that which has just ended included: what `site_of` is handed."""
        return self._records.holds(self._clock() - MAX_AGE_S)

    def promise(self, site: Site, wishes: Sequence[Wish], *, life_s: float) -> tuple[Hold, ...] | None:
        """All of it, or None where it does not fit beside what others were promised; then nothing has changed.

        Args: site: made with any holds or none.

        Raises: StaleSite: the site was read too long ago.
        """
        now_s = self._clock()
        if not -MAX_AGE_S < now_s - site.read_s < MAX_AGE_S:
            raise StaleSite(f"{site.driver} was read {now_s - site.read_s:.0f} s ago")
        before = {hold.hold_id: hold for hold in self.counting()}
        made = tuple(_hold(site.driver, wish, now_s, life_s) for wish in wishes)
        for hold in made:
            self._records.put_hold(hold, by=self._by)
        if _fits(site, self.counting(), {hold.host_id for hold in made}) and self._clock() - site.read_s < MAX_AGE_S:
            return made
        self._take_back(made, before)
        return None

    def release(self, hold_id: str) -> None:
        """It was kept, or is not needed: it ends as soon as every inventory shows what became of it."""
        now_s = self._clock()
        for hold in self._records.holds(now_s):
            if hold.hold_id == hold_id:
                self._records.put_hold(replace(hold, expires_s=min(hold.expires_s, now_s)), by=self._by)

    def promise_plan(self, plan: Plan, sites: Mapping[str, Site], *, life_s: float) -> str | None:
        """Room for all migrations of a plan on their targets; why it is not there, in words, else None.

        Asked again for the same plan, it renews what was promised. Args: sites: by driver.
        """
        kept: list[Hold] = []
        for driver, wishes in sorted(_wishes(plan, sites).items()):
            found = self.promise(sites[driver], wishes, life_s=life_s) if driver in sites else None
            if found is None:
                for hold in kept:
                    self.release(hold.hold_id)
                hosts = ", ".join(sorted({wish.host_id for wish in wishes}))
                return f"{driver}: there is no room any more on {hosts} for what the plan moves there"
            kept += found
        return None

    def _take_back(self, made: Iterable[Hold], before: Mapping[str, Hold]) -> None:
        for hold in made:
            old = before.get(hold.hold_id)
            if old is None:
                self._records.drop_hold(hold.hold_id, by=self._by, now_s=self._clock())
            else:
                self._records.put_hold(old, by=self._by)


def hold_id_of(plan: Plan, step: Step) -> str:
    """The promise of one migration of a plan."""
    return f"{plan.sha256[:16]}-{step.number}"


def _hold(driver: str, wish: Wish, now_s: float, life_s: float) -> Hold:
    return Hold(
        hold_id=wish.hold_id,
        driver=driver,
        host_id=wish.host_id,
        vcpus=wish.vcpus,
        mem_bytes=wish.mem_bytes,
        what=wish.what,
        made_s=now_s,
        expires_s=now_s + life_s,
    )


def _fits(site: Site, holds: Iterable[Hold], hosts: Iterable[str]) -> bool:
    rows = {host.host_id: row for row, host in enumerate(site.hosts)}
    held: Floats = np.zeros(site.promised.shape)
    for hold in holds:
        if hold.driver == site.driver and hold.host_id in rows:
            held[rows[hold.host_id]] += (hold.vcpus, hold.mem_bytes)
    limit = site.promisable * (1 + _ROUNDING)
    return all(
        host in rows and bool((site.promised_to_vms[rows[host]] + held[rows[host]] <= limit[rows[host]]).all())
        for host in hosts
    )


def _wishes(plan: Plan, sites: Mapping[str, Site]) -> Mapping[str, list[Wish]]:
    sizes = {vm.ref: (vm.vcpus, vm.mem_bytes) for site in sites.values() for vm in site.vms}
    found: dict[str, list[Wish]] = {}
    for step in plan.steps:
        if isinstance(step.verb, Verb) and step.verb.is_migration and step.target_host_id is not None:
            # A VM that is gone needs no room; its step is refused when its turn comes.
            vcpus, mem_bytes = sizes.get(step.ref, (0, 0))
            wish = Wish(
                hold_id=hold_id_of(plan, step),
                host_id=step.target_host_id,
                vcpus=float(vcpus),
                mem_bytes=mem_bytes,
                what=f"{step.name} on its way from {step.expected.host_id}",
            )
            found.setdefault(step.ref.driver, []).append(wish)
    return found
