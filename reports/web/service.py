"""`fallow-report serve` as one service: the only place that knows in which order its parts start and stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.application.service import Service
from twisted.logger import Logger

from aggregator.fleet_db import open_fleet_read_only, reading
from reports.config import ReportConfig
from reports.live import read_all
from reports.node_doors import NodeDoors, connector
from reports.node_rows import read_nodes, read_whereabouts
from reports.node_series import NodeSeries, Sources, asked_at
from reports.nodes import Node, Whereabouts
from reports.people.administration import Actor
from reports.people.gate import open_gate
from reports.schema import open_report_db
from reports.series import LocalSeries
from reports.web.app import make_handlers
from reports.web.background import Background
from reports.web.backing import ON_THE_SPOT_VMS, Backing
from reports.web.door import Doorkeeper, make_site
from reports.web.fleet_source import FleetSource
from reports.web.giving_up import giving_up_on_each
from reports.web.judging_runs import JudgingRuns
from reports.web.login_pages import Desk
from reports.web.page_server import EVERY_INTERFACE, PageServer, link_origin, open_provider, surface_of
from reports.web.renderer import Renderer
from reports.web.security import Csrf
from reports.web.serving import Serving
from reports.web.several_nodes import LOOK_EVERY_S, SeveralNodes
from reports.web.static import load_static_files
from reports.web.templates import make_environment

_LISTEN = "report.serve.listen"
# A page waits so long for an aggregator that does not answer.
_AGGREGATOR_S = 3.0


class PagesService(Service):
    """The pages, their API, and the judging behind them.

    Args:
        arguments: of commands of `fallow-report`, to read the same fleet with the same settings.
        reactor: the Twisted reactor.
        scheduler: of APScheduler, not started: it calls for the judging.
        clock: Unix time in seconds.
        on_the_spot_vms: fleets up to this size are judged for each page.

    Construction opens the fleet database; it blocks.

    Raises:
        ConfigError: plain text for other machines, no usable certificate, or no usable fleet database.
        sqlalchemy.exc.OperationalError: the database does not answer.
    """

    _log = Logger()

    def __init__(
        self,
        config: ReportConfig,
        arguments: Sequence[str],
        *,
        reactor: Any,
        scheduler: Any,
        clock: Callable[[], float],
        on_the_spot_vms: int = ON_THE_SPOT_VMS,
    ) -> None:
        self._server = PageServer(config.serve, key=_LISTEN, reactor=reactor, clock=clock)
        self._config = config
        self._scheduler = scheduler
        self._fleet = _open_fleet(config)
        self._background = Background(reactor=reactor, clock=clock)
        static = load_static_files()
        connect = connector(config, timeout_s=_AGGREGATOR_S, clock=clock)
        doors = NodeDoors(self._nodes, config.serve, clock=clock, connect=connect)
        local = LocalSeries(config.data_dir)

        def series(sources: Sources) -> NodeSeries:
            return NodeSeries(doors.all, self._whereabouts, local=local, clock=clock, sources=sources)

        backing = Backing(
            config=config,
            fleet=self._fleet,
            tasks=self._background,
            series=series(asked_at),
            request_series=lambda: series(giving_up_on_each()),
            live=lambda: read_all(doors.to_ask()),
            clock=clock,
            arguments=tuple(arguments),
            on_the_spot_vms=on_the_spot_vms,
        )
        self._judging = JudgingRuns(backing)
        self._several_nodes = SeveralNodes(self._nodes)
        self._several_nodes.look()
        renderer = Renderer(make_environment(config.zone, static.address, shows_nodes=self._several_nodes))
        gate = open_gate(lambda: self._fleet.writer, life=config.login.life)
        self._first = gate.people.make_first_link(Actor(name="the server at its start", now_s=clock()))
        desk = Desk(
            gate=gate,
            renderer=renderer,
            zone=config.zone,
            clock=clock,
            secure=config.serve.door.is_https,
            provider=open_provider(config.login, clock),
            link_origin=partial(link_origin, config.serve),
        )
        handlers, error_page = make_handlers(backing, renderer, self._judging, desk)
        keeper = Doorkeeper(gate=gate, surface=surface_of(config.serve), clock=clock, csrf=Csrf())
        self._site = make_site(
            handlers, error_page, static, keeper=keeper, reactor=reactor, threads=self._server.threads
        )

    def _nodes(self) -> tuple[Node, ...]:
        with reading(self._fleet.reader) as connection:
            return read_nodes(connection)

    def _whereabouts(self, vm_id: str) -> Whereabouts:
        with reading(self._fleet.reader) as connection:
            return read_whereabouts(connection, vm_id)

    async def start(self) -> Serving:
        """Listens, and has the fleet judged at its times. Raises: CannotListenError."""
        address = await self._server.start(self._site)
        # The scheduler runs jobs in its threads; processes are started in the reactor's.
        self._scheduler.add_job(
            self._judging.judge_default,
            "interval",
            seconds=self._config.serve.judge_every_s,
            next_run_time=datetime.fromtimestamp(self._judging.next_due_s(), UTC),
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )
        self._scheduler.add_job(
            self._several_nodes.look, "interval", seconds=LOOK_EVERY_S, max_instances=1, misfire_grace_time=None
        )
        self._scheduler.start()
        return Serving(
            address=address, first_link=None if self._first is None else _link_to(self._config, address, self._first)
        )

    async def stop(self) -> None:
        """Takes no more, ends the processes, and waits a moment for what is being answered."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        await self._server.stop_listening()
        await self._background.stop()
        await self._server.threads_ended()
        self._fleet.close()


def _link_to(config: ReportConfig, address: str, secret: str) -> str:
    """A one-time link under a name that browsers may use."""
    parts = urlsplit(address)
    shown = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    host = "127.0.0.1" if parts.hostname in EVERY_INTERFACE else shown
    scheme = "https" if config.serve.door.is_https else "http"
    return f"{link_origin(config.serve, f'{scheme}://{host}:{parts.port}')}/first/{secret}"


def _open_fleet(config: ReportConfig) -> FleetSource:
    writer = open_report_db(config.fleet_url, config.data_dir)
    try:
        reader = open_fleet_read_only(config.fleet_url, config.data_dir)
    except BaseException:
        writer.dispose()
        raise
    database = writer.url.database
    path = Path(database) if writer.dialect.name == "sqlite" and database else None
    return FleetSource(reader, writer, path)
