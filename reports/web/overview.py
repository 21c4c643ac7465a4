"""How a whole fleet spreads, and whose VMs would free most: out of verdicts made now, or of stored ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from aggregator.histogram import Floats
from reports.judging import Chunk
from reports.report import RECLAIMABLE
from reports.tables import verdict
from reports.verdict_table import Stored
from reports.verdicts import CAUSES
from reports.web.charts import BANDS

TOP_OWNERS = 10
_RATIO_BANDS = BANDS["ratio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """VMs by a ratio. `bands` counts those of each of BANDS["ratio"]; `unknown` those on which it is not known."""

    bands: tuple[int, ...]
    unknown: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerSum:
    """What the reclaimable VMs of one owner would free; `owner` None: of nobody known."""

    owner: str | None
    vms: int
    vcpus: float
    mem_bytes: float
    money_per_month: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The fleet at a glance. `owners`: at most TOP_OWNERS, the most vCPUs first."""

    cpu_mean: Spread
    cpu_p95: Spread
    owners: tuple[OwnerSum, ...]


def overview_of(chunks: Iterable[Chunk], window_days: int) -> Overview:
    """Of verdicts made now."""
    means, p95s = _Bands(), _Bands()
    sums: dict[str | None, list[float]] = {}
    reclaimable = [cause for cause in CAUSES if cause.verdict in RECLAIMABLE]
    for facts, judged, _ in chunks:
        means.add(facts.column(window_days, "cpu_busy_mean_ratio"))
        p95s.add(facts.column(window_days, "cpu_busy_p95_ratio"))
        parts = np.nan_to_num(
            np.array([judged.freed.vcpus, judged.freed.mem_bytes, judged.worth.money_per_month], np.float64)
        )
        for row in np.flatnonzero(judged.of(*reclaimable)).tolist():
            total = sums.setdefault(facts.vms[row].owner, [0.0, 0.0, 0.0, 0.0])
            for place, part in enumerate((1.0, *parts[:, row].tolist())):
                total[place] += part
    owners = [
        OwnerSum(owner=owner, vms=int(vms), vcpus=vcpus, mem_bytes=mem_bytes, money_per_month=money)
        for owner, (vms, vcpus, mem_bytes, money) in sums.items()
    ]
    owners.sort(key=lambda one: (-one.vcpus, -one.mem_bytes, one.owner or ""))
    return Overview(cpu_mean=means.spread(), cpu_p95=p95s.spread(), owners=tuple(owners[:TOP_OWNERS]))


def read_overview(connection: sa.Connection, stored: Stored) -> Overview:
    """Of the verdicts of a run."""
    scope = stored.run.scope
    of_scope = verdict.c.scope == scope
    vcpus, mem_bytes = sa.func.sum(verdict.c.vcpus), sa.func.sum(verdict.c.mem_bytes)
    rows = connection.execute(
        sa.select(verdict.c.owner, sa.func.count(), vcpus, mem_bytes, sa.func.sum(verdict.c.money_per_month))
        .where(of_scope, verdict.c.verdict.in_([each.value for each in RECLAIMABLE]))
        .group_by(verdict.c.owner)
        .order_by(sa.func.coalesce(vcpus, 0.0).desc(), sa.func.coalesce(mem_bytes, 0.0).desc(), verdict.c.owner)
        .limit(TOP_OWNERS)
    )
    return Overview(
        cpu_mean=_read_spread(connection, scope, verdict.c.cpu_mean_ratio),
        cpu_p95=_read_spread(connection, scope, verdict.c.cpu_p95_ratio),
        owners=tuple(
            OwnerSum(owner=owner, vms=vms, vcpus=vcpus or 0.0, mem_bytes=mem_bytes or 0.0, money_per_month=money or 0.0)
            for owner, vms, vcpus, mem_bytes, money in rows
        ),
    )


class _Bands:
    def __init__(self) -> None:
        self._counts = np.zeros(len(_RATIO_BANDS), np.int64)
        self._unknown = 0

    def add(self, values: Floats) -> None:
        known = values[~np.isnan(values)]
        self._unknown += len(values) - len(known)
        places = np.searchsorted(np.array(_RATIO_BANDS), known, side="right") - 1
        self._counts += np.bincount(places, minlength=len(_RATIO_BANDS))

    def spread(self) -> Spread:
        return Spread(bands=tuple(self._counts.tolist()), unknown=self._unknown)


def _read_spread(connection: sa.Connection, scope: str, column: sa.Column[float]) -> Spread:
    band = sa.case(
        (column.is_(None), -1), *((column < low, place) for place, low in enumerate(_RATIO_BANDS[1:])), else_=_last()
    )
    query = sa.select(band.label("band"), sa.func.count().label("vms")).where(verdict.c.scope == scope).group_by(band)
    counts = {row.band: row.vms for row in connection.execute(query)}
    return Spread(bands=tuple(counts.get(place, 0) for place in range(len(_RATIO_BANDS))), unknown=counts.get(-1, 0))


def _last() -> int:
    return len(_RATIO_BANDS) - 1
