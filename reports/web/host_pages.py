"""Hosts and the VMs on each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aggregator.series import Curve, Number, Series
from reports.facts import DAY_S
from reports.fleet import read_facts, snapshot
from reports.judgement import Judgement
from reports.judging import judge_fleet, read_exemptions
from reports.policy import Policy
from reports.ranking import name_of
from reports.report import RECLAIMABLE, Listed
from reports.series import SeriesUnavailable, UnknownVm
from reports.web.answers import Answer, Asked, Handler, not_found
from reports.web.backing import Backing
from reports.web.comparing import ASK_AGAIN_S, Waiting
from reports.web.hosts import SOURCE, Hosts, HostSum, hosts_of, read_host_vms, read_hosts
from reports.web.judging_runs import JudgingRuns, Standing
from reports.web.listing import judge_vms
from reports.web.params import host_path
from reports.web.parts import frame, judged_line, judging_notices, wait_page
from reports.web.policy_pages import choosing_of
from reports.web.remembered import Remembered
from reports.web.renderer import Renderer
from reports.web.views import HostLine, HostsView, HostView

CHARTED_VMS = 50
_CHARTED_DAYS = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class HostVms:
    """A host and its VMs as they are now, those that free most first."""

    total: HostSum
    judgements: tuple[Judgement, ...]


def find_hosts(
    backing: Backing, runs: JudgingRuns, remembered: Remembered[tuple[object, ...], Hosts], policy: Policy, days: int
) -> tuple[Hosts, Standing] | Waiting:
    """Every host with what its VMs add up to."""
    standing = runs.find(policy, days)
    if isinstance(standing, Waiting):
        return standing
    now_s = backing.clock()
    stored = standing.stored
    with snapshot(backing.fleet.reader) as connection:
        if stored is None:
            settings = replace(backing.config.settings, window_days=days)
            exemptions = read_exemptions(connection, now_s)
            return hosts_of(judge_fleet(connection, policy, settings, now_s, exemptions)), standing
        key = (stored.run.scope, stored.run.settings_sha256, stored.run.judged_s)
        return remembered.find(key, now_s, math.inf, lambda: read_hosts(connection, stored)), standing


def find_host(backing: Backing, host: str, policy: Policy, days: int, now_s: float) -> HostVms:
    """One host. Raises: Refused, 404: no VM names it."""
    settings = replace(backing.config.settings, window_days=days)
    total = HostSum(host=host)
    with snapshot(backing.fleet.reader) as connection:
        vm_ids = _known(host, read_host_vms(connection, host))
        judgements = list(judge_vms(connection, policy, settings, now_s, vm_ids))
    for one in judgements:
        saved = one.savings
        freed = [saved.vcpus, saved.mem_bytes, saved.disk_bytes, saved.kwh_per_month, saved.money_per_month or 0.0]
        size = one.size
        total.add(
            0.0 if size is None else size.vcpus,
            0.0 if size is None else size.mem_bytes,
            freed if one.verdict in RECLAIMABLE else None,
        )
    judgements.sort(key=lambda one: (-one.score, one.vm.vm_id))
    return HostVms(total=total, judgements=tuple(judgements))


def find_host_series(backing: Backing, host: str, from_s: int, to_s: int, points: int) -> dict[str, object]:
    """What the VMs of a host use over a span, on one grid, at most CHARTED_VMS of them, those that use most.

    Raises: Refused, 404: no VM names it.
    """
    with snapshot(backing.fleet.reader) as connection:
        vm_ids = _known(host, read_host_vms(connection, host))
        chunks = list(read_facts(connection, (_CHARTED_DAYS,), vm_ids=vm_ids, with_evidence=False))
    sized = []
    for facts in chunks:
        used = np.nan_to_num(facts.column(_CHARTED_DAYS, "cpu_busy_mean_ratio") * facts.cpu_count)
        sized += [
            (float(used[row]), one, float(facts.cpu_count[row]), float(facts.mem_total_bytes[row]))
            for row, one in enumerate(facts.vms)
        ]
    sized.sort(key=lambda one: (-one[0], one[1].vm_id))
    found: list[tuple[Series, dict[str, object], float, float]] = []
    unavailable: list[dict[str, str]] = []
    source = backing.request_series()
    for _, vm, vcpus, mem_bytes in sized[:CHARTED_VMS]:
        try:
            series = source.read(vm.vm_id, from_s, to_s, points)
        except UnknownVm:
            unavailable.append({"vm": vm.vm_id, "reason": "there are no samples of it"})
        except SeriesUnavailable as error:
            unavailable.append({"vm": vm.vm_id, "reason": error.reason})
        else:
            found.append((series, {"vm": vm.vm_id, "name": name_of(vm)}, vcpus, mem_bytes))
    step_s = max((series.step_s for series, *_ in found), default=60)
    grids = [_on_grid(series, step_s) for series, *_ in found]
    ends_s = sorted({end_s for grid in grids for end_s in grid})
    return {
        "host": host,
        "from_s": from_s,
        "to_s": to_s,
        "step_s": step_s,
        "ends_s": ends_s,
        "vms": [
            {
                **named,
                "cpu_vcpus": _column(series.series["cpu_busy_ratio"], grid, ends_s, vcpus),
                "mem_used_bytes": _column(series.series["mem_used_ratio"], grid, ends_s, mem_bytes),
            }
            for grid, (series, named, vcpus, mem_bytes) in zip(grids, found, strict=True)
        ],
        "unavailable": unavailable,
    }


class HostPages:
    """`/hosts` and `/hosts/{host}`."""

    def __init__(self, backing: Backing, renderer: Renderer, runs: JudgingRuns) -> None:
        self._backing = backing
        self._renderer = renderer
        self._runs = runs
        self._remembered = Remembered[tuple[object, ...], Hosts]()

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {"hosts": self.hosts, "host": self.host}

    def hosts(self, asked: Asked) -> Answer:
        """Every host."""
        backing = self._backing
        policy, days = choosing_of(backing).read(asked.query)
        found = find_hosts(backing, self._runs, self._remembered, policy, days)
        now_s = backing.clock()
        zone = backing.config.zone
        if isinstance(found, Waiting):
            page_frame = frame(asked, "Hosts", "hosts", zone=zone, now_s=now_s)
            return wait_page(self._renderer, page_frame, found.text, asked.target, ASK_AGAIN_S, back="/health")
        hosts, standing = found
        priced = backing.config.prices.currency is not None
        view = HostsView(
            frame=frame(asked, "Hosts", "hosts", zone=zone, now_s=now_s, notices=judging_notices(standing)),
            judged=judged_line(policy, days, standing, now_s),
            currency=backing.config.prices.currency,
            hosts=tuple(_line(one, priced=priced) for one in hosts.hosts),
            without_host=hosts.without_host,
            source=SOURCE,
        )
        return self._renderer.page(view)

    def host(self, asked: Asked) -> Answer:
        """One host."""
        backing = self._backing
        (host,) = asked.ids
        policy, days = choosing_of(backing).read(asked.query)
        now_s = backing.clock()
        found = find_host(backing, host, policy, days, now_s)
        to_s = max((one.newest_s for one in found.judgements if one.newest_s is not None), default=now_s)
        places = iter(range(1, len(found.judgements) + 1))
        currency = backing.config.prices.currency
        view = HostView(
            frame=frame(asked, f"Host {host}", "hosts", zone=backing.config.zone, now_s=now_s),
            judged=judged_line(policy, days, Standing(), now_s),
            currency=currency,
            line=_line(found.total, priced=currency is not None),
            rows=tuple(
                Listed(rank=next(places) if one.verdict in RECLAIMABLE else None, judgement=one)
                for one in found.judgements
            ),
            chart_href=f"/v1{host_path(host)}/series",
            charted=min(len(found.judgements), CHARTED_VMS),
            from_s=to_s - days * DAY_S,
            to_s=to_s,
        )
        return self._renderer.page(view)


def _line(total: HostSum, *, priced: bool) -> HostLine:
    return HostLine(
        host=total.host,
        vms=total.vms,
        vcpus=total.vcpus,
        mem_bytes=total.mem_bytes,
        reclaimable=total.reclaimable,
        freed=total.savings(priced=priced),
        href=host_path(total.host),
    )


def _known(host: str, vm_ids: Sequence[str]) -> Sequence[str]:
    if not vm_ids:
        raise not_found("unknown-host", f"{host[:80]!r}: no VM names this host")
    return vm_ids


def _on_grid(series: Series, step_s: int) -> dict[int, list[int]]:
    """Places of a series by the end of the bucket on the common grid in which each ends."""
    grid: dict[int, list[int]] = {}
    for place, end_s in enumerate(series.ends_s):
        grid.setdefault(-(-end_s // step_s) * step_s, []).append(place)
    return grid


def _column(curve: Curve, grid: Mapping[int, list[int]], ends_s: Sequence[int], size: float) -> list[Number | None]:
    """Means on the grid times a size; None where nothing was measured, or the size is not known."""
    column: list[Number | None] = []
    for end_s in ends_s:
        known = [mean for place in grid.get(end_s, ()) if (mean := curve.mean[place]) is not None]
        is_known = bool(known) and not math.isnan(size)
        column.append(float(f"{sum(known) / len(known) * size:.6g}") if is_known else None)
    return column
