"""What every page and every answer of the API is made from. Blocking parts are for threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from reports.config import ReportConfig
from reports.fleet_report import ON_THE_SPOT_VMS
from reports.live import NodeLive
from reports.series import SeriesFinder, SeriesSource
from reports.web.background import Task
from reports.web.fleet_source import FleetSource

__all__ = ["ON_THE_SPOT_VMS", "Backing", "Tasks"]


class Tasks(Protocol):
    """`reports.web.background.Background`, as pages use it."""

    def ask(self, key: str, arguments: tuple[str, ...], *, anew: bool = False) -> Task:
        """Has it done, unless it is under way already; `anew`: and once more where it has begun."""

    def find(self, key: str) -> Task | None:
        """The newest task of that key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backing:
    """What pages are made from.

    Attributes:
        config: settings of the report.
        fleet: the database.
        tasks: judging and comparing of large fleets.
        series: figures of one VM over time.
        request_series: makes the same for one request about many VMs, which must not wait for each of them.
        live: the health of every aggregator that is to be asked; one at least.
        clock: Unix time in seconds.
        arguments: of a command of `fallow-report`, to read the same fleet with the same settings.
        on_the_spot_vms: fleets up to this size are judged for each page.
    """

    config: ReportConfig
    fleet: FleetSource
    tasks: Tasks
    series: SeriesFinder
    request_series: Callable[[], SeriesSource]
    live: Callable[[], Sequence[NodeLive]]
    clock: Callable[[], float]
    arguments: tuple[str, ...] = ()
    on_the_spot_vms: int = ON_THE_SPOT_VMS
