"""`fallow-report serve` as one service: the only place that knows in which order its parts start and stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from agent.settings import ConfigError
from aggregator.fleet_db import open_fleet_read_only
from reports.config import ReportConfig
from reports.live import AdminLive
from reports.schema import open_report_db
from reports.series import AdminSeries, FirstOf, LocalSeries
from reports.web.app import make_handlers
from reports.web.background import Background
from reports.web.backing import ON_THE_SPOT_VMS, Backing
from reports.web.door import make_site
from reports.web.fleet_source import FleetSource
from reports.web.giving_up import GivingUp
from reports.web.judging_runs import JudgingRuns
from reports.web.renderer import Renderer
from reports.web.security import is_loopback
from reports.web.static import load_static_files
from reports.web.templates import make_environment

THREADS = 4
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
        ConfigError: an address that other machines reach, or no usable fleet database.
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
        host, port = config.serve.listen
        if not is_loopback(host):
            raise ConfigError(
                f"{host}:{port}: the pages have no login yet, so they listen on this machine alone "
                "(127.0.0.1, [::1] or localhost); from elsewhere reach them through ssh -L"
            )
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
        handlers, error_page = make_handlers(backing, renderer, self._judging)
        self._site = make_site(handlers, error_page, static, reactor=reactor, threads=self._threads)
        self._port: Any = None

    async def start(self) -> str:
        """Listens, and has the fleet judged at its times. Returns the address. Raises: CannotListenError."""
        self._threads.start()
        host, port = self._config.serve.listen
        make: Any = endpoints.TCP6ServerEndpoint if ":" in host else endpoints.TCP4ServerEndpoint
        self._port = await make(self._reactor, port, interface="127.0.0.1" if host == "localhost" else host).listen(
            self._site
        )
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
        address = self._port.getHost()
        return f"http://{f'[{address.host}]' if ':' in address.host else address.host}:{address.port}/"

    async def stop(self) -> None:
        """Takes no more, ends the processes, and waits a moment for what is being answered."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
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
