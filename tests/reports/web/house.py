"""The pages over a real fleet database, and fakes for all that runs elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from aggregator.fleet_db import open_fleet_read_only
from aggregator.series import SERIES, Curve, Series
from reports.config import ReportConfig
from reports.live import Live, NodeLive, NotLive
from reports.people.gate import Gate, open_gate
from reports.people.roles import Role
from reports.policy import Policy
from reports.schema import open_report_db
from reports.series import Found, SeriesUnavailable, UnknownVm
from reports.web.app import make_handlers
from reports.web.background import State, Task
from reports.web.backing import ON_THE_SPOT_VMS, Backing
from reports.web.door import Doorkeeper, make_site
from reports.web.fleet_source import FleetSource
from reports.web.giving_up import GivingUp
from reports.web.judging_runs import JudgingRuns
from reports.web.login_pages import Desk, Provider
from reports.web.page_server import link_origin
from reports.web.renderer import Renderer
from reports.web.routes import Route
from reports.web.security import Csrf, Surface
from reports.web.static import StaticFiles, load_static_files
from reports.web.templates import make_environment
from tests.aggregator.admin_fakes import InlineReactor
from tests.reports.fleets import NOW_S, Spec, write_fleet
from tests.reports.people.persons import enter, quick_hasher
from tests.reports.web.wire import Browser

STATIC: StaticFiles = load_static_files()


@dataclass
class FakeTasks:
    """Work that is asked for, and done when a test says so."""

    asked: list[Task] = field(default_factory=list)
    known: dict[str, Task] = field(default_factory=dict)
    anew: list[str] = field(default_factory=list)

    def ask(self, key: str, arguments: tuple[str, ...], *, anew: bool = False) -> Task:
        known = self.known.get(key)
        self.anew += [key] if anew else []
        if known is not None and known.is_under_way:
            return known
        task = self.known[key] = Task(key=key, arguments=arguments)
        self.asked.append(task)
        return task

    def find(self, key: str) -> Task | None:
        return self.known.get(key)

    def end(self, *, now_s: float, output: bytes = b"", problem: str | None = None) -> Task:
        """Ends what was asked for last."""
        last = self.asked[-1]
        state = State.DONE if problem is None else State.FAILED
        task = replace(last, state=state, finished_s=now_s, output=output, problem=problem)
        self.known[last.key] = task
        return task


@dataclass
class FakeSeries:
    """A quarter of an hour of figures for any VM, unless told otherwise."""

    name: str = "a fake"
    problem: SeriesUnavailable | UnknownVm | None = None
    missing: tuple[str, ...] = ()
    asked: list[tuple[str, int, int, int]] = field(default_factory=list)

    def find(self, vm_id: str, from_s: int, to_s: int, points: int = 1000) -> Found:
        series = self.read(vm_id, from_s, to_s, points)
        return Found(series=series, source=self.name, passed=(), missing=self.missing)

    def read(self, vm_id: str, from_s: int, to_s: int, points: int = 1000) -> Series:
        self.asked.append((vm_id, from_s, to_s, points))
        if self.problem is not None:
            raise self.problem
        ends_s = [to_s - 600, to_s - 300, to_s]
        curve = Curve(min=[0, 0.1, None], mean=[0.1, 0.25, None], max=[0.2, 1, None])
        return Series(
            vm=vm_id, from_s=from_s, to_s=to_s, step_s=300, ends_s=ends_s, series=dict.fromkeys(SERIES, curve)
        )


@dataclass
class House:
    """Everything behind the pages, for a test to look at and to change."""

    data_dir: Path
    browser: Browser
    tasks: FakeTasks
    series: FakeSeries
    fleet: FleetSource
    config: ReportConfig
    backing: Backing
    gate: Gate
    new_browser: Callable[[], Browser]
    now_s: float = NOW_S
    live: Live | NotLive | tuple[NodeLive, ...] = field(
        default_factory=lambda: NotLive(reason="no aggregator runs in a test")
    )

    def browser_of(self, role: Role) -> Browser:
        """A browser of its own, in which somebody of this role is logged in."""
        browser, entry = self.new_browser(), enter(self.gate, role, self.now_s)
        browser.cookie, browser.csrf = entry.cookie, entry.csrf
        return browser


def may(role: Role, route: Route) -> bool:
    """Whether a route is for people of this role, and not for whoever comes."""
    return route.role is not None and role.covers(route.role)


@contextmanager
def pages(
    data_dir: Path,
    specs: Iterable[Spec] | None,
    *,
    policy: Policy | None = None,
    on_the_spot_vms: int = ON_THE_SPOT_VMS,
    change: Callable[[ReportConfig], ReportConfig] = lambda config: config,
    url: str | None = None,
    role: Role | None = Role.OPERATOR,
    surface: Surface | None = None,
    provider: Provider | None = None,
) -> Iterator[House]:
    """Pages over a fleet of these VMs; None: over the one that is there.

    Args: role: of whoever is logged in in the house's browser; None for nobody.
    """
    if specs is not None:
        write_fleet(data_dir, specs, url=url)
    config = ReportConfig(data_dir=data_dir, fleet_url=url)
    config = change(config if policy is None else replace(config, policy=policy))
    reactor = InlineReactor()
    fleet = FleetSource(
        open_fleet_read_only(url, data_dir),
        open_report_db(url, data_dir),
        data_dir / "fleet.db" if url is None else None,
    )
    tasks, series = FakeTasks(), FakeSeries()
    house: House
    backing = Backing(
        config=config,
        fleet=fleet,
        tasks=tasks,
        series=series,
        request_series=lambda: GivingUp(series),
        live=lambda: house.live if isinstance(house.live, tuple) else (NodeLive(node=None, health=house.live),),
        clock=lambda: house.now_s,
        arguments=("--data", str(data_dir)),
        on_the_spot_vms=on_the_spot_vms,
    )
    renderer = Renderer(make_environment(config.zone, STATIC.address))
    gate = open_gate(lambda: fleet.writer, hasher=quick_hasher())
    surface = surface or Surface()
    desk = Desk(
        gate=gate,
        renderer=renderer,
        zone=config.zone,
        clock=lambda: house.now_s,
        secure=surface.secure,
        provider=provider,
        link_origin=partial(link_origin, config.serve),
    )
    handlers, error_page = make_handlers(backing, renderer, JudgingRuns(backing), desk)
    # A secret that stays the same, so that forms of one house work in another.
    keeper = Doorkeeper(gate=gate, surface=surface, clock=lambda: house.now_s, csrf=Csrf(b"secret of a test"))
    site = make_site(handlers, error_page, STATIC, keeper=keeper, reactor=reactor, threads=reactor)
    house = House(
        data_dir=data_dir,
        browser=Browser(site, reactor),
        tasks=tasks,
        series=series,
        fleet=fleet,
        config=config,
        backing=backing,
        gate=gate,
        new_browser=lambda: Browser(site, reactor),
    )
    if role is not None:
        house.browser = house.browser_of(role)
    try:
        yield house
    finally:
        fleet.close()
