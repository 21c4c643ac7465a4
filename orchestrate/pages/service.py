"""`fallow-orchestrate serve` as one service: the pages over the records and the accounts, and no way to hypervisors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from twisted.application.service import Service

from orchestrate.config import OrchestrateConfig
from orchestrate.config_pages import PAGES
from orchestrate.pages.app import make_handlers
from orchestrate.pages.backing import Backing
from orchestrate.pages.files import load_page_files, page_environment
from orchestrate.pages.refusals import RefusalLog
from orchestrate.pages.routes import ROUTES
from orchestrate.pages.serving import Serving
from orchestrate.schema import open_orchestrate_db
from reports.people.gate import open_gate
from reports.schema import open_report_db
from reports.web.door import Doorkeeper, make_site
from reports.web.fleet_source import FleetSource
from reports.web.login_pages import Desk
from reports.web.page_server import PageServer, link_origin, open_provider, surface_of
from reports.web.renderer import Renderer
from reports.web.security import Csrf


class PlanPagesService(Service):
    """The controller's pages and their API.

    Args:
        reactor: the Twisted reactor.
        clock: Unix time in seconds.

    Construction opens the fleet database; it blocks.

    Raises:
        ConfigError: plain text for other machines, no usable certificate, or no usable fleet database.
        sqlalchemy.exc.OperationalError: the database does not answer.
    """

    def __init__(self, config: OrchestrateConfig, *, reactor: Any, clock: Callable[[], float]) -> None:
        self._config = config
        self._server = PageServer(config.pages, key=f"{PAGES}.listen", reactor=reactor, clock=clock)
        report = config.report
        with ExitStack() as stack:
            self._people = _source(open_report_db(report.fleet_url, report.data_dir), stack)
            self._control = _source(open_orchestrate_db(report.fleet_url, report.data_dir), stack)
            static = load_page_files()
            environment = page_environment(report.zone, static.address)
            backing = Backing(config=config, engine=lambda: self._control.writer, environment=environment, clock=clock)
            gate = open_gate(lambda: self._people.writer, life=report.login.life)
            self._has_accounts = gate.people.has_accounts()
            desk = Desk(
                gate=gate,
                renderer=Renderer(environment),
                zone=report.zone,
                clock=clock,
                secure=config.pages.door.is_https,
                provider=open_provider(report.login, clock),
                link_origin=partial(link_origin, config.pages),
            )
            refusals = RefusalLog(lambda: backing.records)
            handlers, error_page = make_handlers(backing, desk, refusals)
            keeper = Doorkeeper(
                gate=gate, surface=surface_of(config.pages), clock=clock, csrf=Csrf(), on_refusal=refusals.note_role
            )
            self._site = make_site(
                handlers,
                error_page,
                static,
                keeper=keeper,
                reactor=reactor,
                threads=self._server.threads,
                routes=ROUTES,
            )
            self._opened = stack.pop_all()

    async def start(self) -> Serving:
        """Listens. Raises: CannotListenError."""
        return Serving(address=await self._server.start(self._site), has_accounts=self._has_accounts)

    async def stop(self) -> None:
        """Takes no more, and waits a moment for what is being answered."""
        await self._server.stop_listening()
        await self._server.threads_ended()
        self._opened.close()


def _source(engine: sa.Engine, stack: ExitStack) -> FleetSource:
    database = engine.url.database
    path = Path(database) if engine.dialect.name == "sqlite" and database else None
    source = FleetSource(engine, engine, path)
    stack.callback(partial(FleetSource.close, source))
    return source
