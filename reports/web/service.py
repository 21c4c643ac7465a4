"""`fallow-report serve` as one service: the only place that knows in which order its parts start and stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from agent.settings import ConfigError, read_secret
from aggregator.fleet_db import open_fleet_read_only
from aggregator.listening import Listening, refuse_plain
from reports.config import ReportConfig
from reports.live import AdminLive
from reports.people.administration import Actor
from reports.people.gate import open_gate
from reports.schema import open_report_db
from reports.series import AdminSeries, FirstOf, LocalSeries
from reports.web.app import make_handlers
from reports.web.background import Background
from reports.web.backing import ON_THE_SPOT_VMS, Backing
from reports.web.door import Doorkeeper, make_site
from reports.web.fleet_source import FleetSource
from reports.web.giving_up import GivingUp
from reports.web.judging_runs import JudgingRuns
from reports.web.login_pages import Desk, Provider
from reports.web.renderer import Renderer
from reports.web.security import Csrf, Surface
from reports.web.serving import Serving
from reports.web.static import load_static_files
from reports.web.templates import make_environment

THREADS = 4
_LISTEN = "report.serve.listen"
_EVERY_INTERFACE = ("0.0.0.0", "::")  # noqa: S104  # told apart, not listened on
# A page waits so long for an aggregator that does not answer.
_AGGREGATOR_S = 3.0
# Of the five seconds that SIGTERM gives: then a thread that waits for a database is left behind.
_THREADS_END_S = 1.5


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
        refuse_plain(config.serve.listen, config.serve.door, key=_LISTEN)
        self._listening = Listening(config.serve.door, reactor=reactor, clock=clock)
        self._config = config
        self._reactor = reactor
        self._scheduler = scheduler
        self._fleet = _open_fleet(config)
        self._background = Background(reactor=reactor, clock=clock)
        self._threads = ThreadPool(0, THREADS, "pages")
        # One that hangs must not keep the program from ending.
        self._threads.threadFactory = partial(threading.Thread, daemon=True)  # type: ignore[assignment]
        static = load_static_files()
        asked = AdminSeries(config.serve.aggregator_url, config.admin_token_file, timeout_s=_AGGREGATOR_S)
        local = LocalSeries(config.data_dir)
        backing = Backing(
            config=config,
            fleet=self._fleet,
            tasks=self._background,
            series=FirstOf([asked, local]),
            request_series=lambda: FirstOf([GivingUp(asked), local]),
            live=AdminLive(config.serve.aggregator_url, config.admin_token_file, timeout_s=_AGGREGATOR_S).read,
            clock=clock,
            arguments=tuple(arguments),
            on_the_spot_vms=on_the_spot_vms,
        )
        self._judging = JudgingRuns(backing)
        renderer = Renderer(make_environment(config.zone, static.address))
        gate = open_gate(lambda: self._fleet.writer, life=config.login.life)
        self._first = gate.people.make_first_link(Actor(name="the server at its start", now_s=clock()))
        desk = Desk(
            gate=gate,
            renderer=renderer,
            zone=config.zone,
            clock=clock,
            secure=config.serve.door.is_https,
            provider=_provider(config, clock),
        )
        handlers, error_page = make_handlers(backing, renderer, self._judging, desk)
        keeper = Doorkeeper(gate=gate, surface=_surface(config), clock=clock, csrf=Csrf())
        self._site = make_site(handlers, error_page, static, keeper=keeper, reactor=reactor, threads=self._threads)
        self._port: Any = None

    async def start(self) -> Serving:
        """Listens, and has the fleet judged at its times. Raises: CannotListenError."""
        self._threads.start()
        self._port = await self._listening.listen(self._config.serve.listen, self._site, key=_LISTEN)
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
        self._scheduler.start()
        address = self._listening.url(self._port)
        return Serving(
            address=address, first_link=None if self._first is None else _link_to(self._config, address, self._first)
        )

    async def stop(self) -> None:
        """Takes no more, ends the processes, and waits a moment for what is being answered."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        self._listening.stop()
        if self._port is not None:
            await self._port.stopListening()
        await self._background.stop()
        await self._threads_ended()
        self._fleet.close()

    def _threads_ended(self) -> Deferred[None]:
        ended: Deferred[None] = Deferred()

        def end() -> None:
            if not ended.called:
                ended.callback(None)

        def wait() -> None:
            self._threads.stop()
            self._reactor.callFromThread(end)

        late = self._reactor.callLater(_THREADS_END_S, end)
        ended.addCallback(lambda _none: late.cancel() if late.active() else None)
        if self._threads.started:
            # Waiting for threads blocks, so that a thread does it.
            threading.Thread(target=wait, daemon=True).start()
        else:
            end()
        return ended


def _surface(config: ReportConfig) -> Surface:
    serve = config.serve
    host = serve.listen[0].lower()
    # An address is nobody else's name; that of every interface is nobody's.
    own = () if host in _EVERY_INTERFACE else (f"[{host}]" if ":" in host else host,)
    return Surface(names=(*serve.names, *own), secure=serve.door.is_https, proxies=serve.door.trusted)


def _link_to(config: ReportConfig, address: str, secret: str) -> str:
    """A one-time link under a name that browsers may use."""
    parts, door = urlsplit(address), config.serve.door
    scheme = "https" if door.is_https else "http"
    if config.serve.names and door.plain_behind_proxy:
        place = config.serve.names[0]
    else:
        shown = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        host = (*config.serve.names, "127.0.0.1" if parts.hostname in _EVERY_INTERFACE else shown)[0]
        place = f"{host}:{parts.port}"
    return f"{scheme}://{place}/first/{secret}"


def _provider(config: ReportConfig, clock: Callable[[], float]) -> Provider | None:
    if config.login.openid is None:
        return None
    try:
        from reports.people.openid import OpenId  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"report.login.oidc: needs a package that is not installed ({error.name}): install fallow[oidc]"
        ) from error
    if config.login.openid.client_secret_file is not None:
        # A wrong one shows now, and not when the first person logs in.
        read_secret(config.login.openid.client_secret_file)
    return OpenId(config.login.openid, clock=clock)


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
