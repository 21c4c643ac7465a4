"""`fallow-orchestrate watch` as one service: the only place that knows in which order its parts start and stop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.python.threadpool import ThreadPool

from aggregator.listening import Listening, refuse_plain
from orchestrate.config import OrchestrateConfig
from orchestrate.control import Control, open_control
from orchestrate.owners.files import load_owner_files, owner_environment
from orchestrate.owners.links import KEY_FILE_NAME, LinkKey
from orchestrate.owners.pages import OwnerPages
from orchestrate.owners.site import make_site
from orchestrate.owners.wakes import Wakes
from orchestrate.owners.waking import Waker
from orchestrate.sources import Sources
from orchestrate.watch import Watch
from orchestrate.watch_state import Status, Turn, TurnEnd, WatchSettings, write_status

THREADS = 4
_LISTEN = "orchestrate.links.listen"
# How late a wake is seen to where nothing calls for it, such as when another controller led.
_WAKES_EVERY_S = 5.0
# Of the five seconds that SIGTERM gives. A step that takes longer is left to the next start: its intent is on disk.
_STOP_WITHIN_S = 3.5


@dataclass(frozen=True, slots=True, kw_only=True)
class EndingSources(Sources):
    """Sources of a program that may be told to end: then nothing more is begun, as with the kill switch."""

    ending: Callable[[], bool]

    def stopped(self) -> str | None:
        """What the kill switch says, or that the service is being stopped."""
        return "the service is being stopped" if self.ending() else Sources.stopped(self)


class WatchService(Service):
    """The watch and the owners' pages.

    Args:
        reactor: the Twisted reactor.
        scheduler: of APScheduler, not started, whose jobs run in threads that do not keep the program from ending.
        clock: Unix seconds.
        log: told a line of what was done and of what went wrong; any thread may call it.

    Construction opens the fleet database and the drivers; it blocks.

    Raises: as `orchestrate.control.open_control`; ConfigError: the key of the links, or no way to listen.
    """

    def __init__(
        self,
        config: OrchestrateConfig,
        settings: WatchSettings,
        *,
        reactor: Any,
        scheduler: Any,
        clock: Callable[[], float],
        log: Callable[[str], object],
    ) -> None:
        self._config = config
        self._settings = settings
        self._reactor = reactor
        self._scheduler = scheduler
        self._clock = clock
        self._say = log
        self._ending = threading.Event()
        self._ended: list[threading.Event] = []
        self._wakes = Wakes()
        self._started_s = clock()
        self._led_s: float | None = None
        self._address: str | None = None
        self._port: Any = None
        self._threads = ThreadPool(0, THREADS, "owners")
        # One that hangs must not keep the program from ending.
        self._threads.threadFactory = partial(threading.Thread, daemon=True)  # type: ignore[assignment]
        self._stack = ExitStack()
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise

    def _open(self) -> None:
        config, is_ending = self._config, self._ending.is_set
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = self._stack.enter_context(open_control(config, clock=self._clock, pause=self._pause))
        self._control = ending_control(opened, is_ending)
        waker = Waker(self._control, self._wakes, pause=self._pause, ending=is_ending, log=self._say)
        self._watch = Watch(self._control, self._settings, waker, log=self._say)
        self._site: Any = None
        self._listening: Listening | None = None
        if config.owners.links.url is None:
            return
        door = config.owners.door
        refuse_plain(config.owners.links.listen, door, key=_LISTEN)
        self._listening = Listening(door, reactor=self._reactor, clock=self._clock)
        static = load_owner_files()
        pages = OwnerPages(
            key=LinkKey.load_or_create(config.data_dir / KEY_FILE_NAME),
            links=config.owners.links,
            records=self._control.records,
            engine=self._control.report_engine,
            wakes=self._wakes,
            # Without the slash before it: a proxy may serve the pages under any path.
            environment=owner_environment(config.report.zone, lambda name: static.address(name).lstrip("/")),
            zone=config.report.zone,
            clock=self._clock,
        )
        self._site = make_site(pages, static, reactor=self._reactor, threads=self._threads)

    async def start(self) -> str | None:
        """Serves the owners' pages and takes turns. Returns their address, None: there are no links to serve.

        Raises: CannotListenError.
        """
        self._threads.start()
        if self._listening is not None:
            self._port = await self._listening.listen(self._config.owners.links.listen, self._site, key=_LISTEN)
            self._address = self._listening.url(self._port)
        self._scheduler.add_job(
            self._turn,
            "interval",
            seconds=self._settings.every_s,
            next_run_time=datetime.fromtimestamp(self._clock(), UTC),
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
            id="turn",
        )
        self._scheduler.start()
        threading.Thread(target=self._see_to_wakes, name="wakes", daemon=True).start()
        return self._address

    async def stop(self) -> None:
        """Begins nothing more, and waits a moment for what is being done; between steps the lease is given up."""
        self._ending.set()
        self._wakes.end_wait()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        if self._listening is not None:
            self._listening.stop()
        if self._port is not None:
            await self._port.stopListening()
        await self._until_idle()
        if self._all_ended(0.0):
            self._stack.close()
        else:
            # What it holds is closed by the end of the program; its lease runs out by itself.
            self._say("a step was under way: what became of it is found out at the next start")

    def _turn(self) -> None:
        with self._doing():
            turn = self._watch.turn()
            self._note(turn)

    def _see_to_wakes(self) -> None:
        with self._doing():
            while not self._ending.is_set():
                self._wakes.wait(_WAKES_EVERY_S)
                self._watch.see_to_wakes()

    def _note(self, turn: Turn) -> None:
        if turn.end is TurnEnd.DONE:
            self._led_s = turn.ended_s
        status = Status(
            holder=self._control.holder,
            pid=os.getpid(),
            started_s=self._started_s,
            turn=turn,
            next_s=turn.began_s + max(self._settings.every_s, turn.ended_s - turn.began_s),
            led_s=self._led_s,
            site=self._address,
        )
        try:
            write_status(self._config.data_dir, status)
        except OSError as error:
            self._say(f"the status cannot be written: {error}")

    def _pause(self, seconds: float) -> None:
        """Waits, unless the service is being stopped."""
        self._ending.wait(seconds)

    def _doing(self) -> _Doing:
        return _Doing(self._ended)

    def _all_ended(self, timeout_s: float) -> bool:
        until_s = time.monotonic() + timeout_s
        return all(each.wait(max(until_s - time.monotonic(), 0.0)) for each in list(self._ended))

    def _until_idle(self) -> Deferred[None]:
        """Fires once nothing is being done any more, and in any case before whoever stops the service loses patience.

        Waiting for threads blocks, so that a thread does it.
        """
        idle: Deferred[None] = Deferred()

        def end() -> None:
            if not idle.called:
                late.cancel()
                idle.callback(None)

        def late_end() -> None:
            idle.callback(None)

        def wait() -> None:
            self._all_ended(_STOP_WITHIN_S)
            if self._threads.started:
                self._threads.stop()
            self._reactor.callFromThread(end)

        late = self._reactor.callLater(_STOP_WITHIN_S, late_end)
        threading.Thread(target=wait, daemon=True).start()
        return idle


class _Doing:
    """Tells whoever stops the service that something is being done until it no longer is."""

    def __init__(self, ended: list[threading.Event]) -> None:
        self._ended = ended
        self._event = threading.Event()

    def __enter__(self) -> None:
        self._ended.append(self._event)

    def __exit__(self, *_error: object) -> None:
        self._event.set()
        self._ended.remove(self._event)


def ending_control(control: Control, ending: Callable[[], bool]) -> Control:
    """The same control, whose sources are `EndingSources`. Args: ending: whether the program is to end."""
    sources = {field.name: getattr(control.sources, field.name) for field in fields(control.sources)}
    return replace(control, sources=EndingSources(**sources, ending=ending))
