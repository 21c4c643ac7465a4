"""What every server of pages for people is made of: an address, its names, threads that answer, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred
from twisted.python.threadpool import ThreadPool

from agent.settings import ConfigError, read_secret
from aggregator.listen_settings import ListenSettings
from aggregator.listening import Listening, refuse_plain
from reports.people.settings import LoginConfig
from reports.web.login_pages import Provider
from reports.web.security import Surface

THREADS = 4
EVERY_INTERFACE = ("0.0.0.0", "::")  # noqa: S104  # told apart, not listened on
# Of the five seconds that SIGTERM gives: then a thread that waits for a database is left behind.
_THREADS_END_S = 1.5


class Place(Protocol):
    """Where pages are served: settings of a program."""

    @property
    def listen(self) -> tuple[str, int]: ...

    @property
    def door(self) -> ListenSettings: ...

    @property
    def names(self) -> tuple[str, ...]: ...


class PageServer:
    """Listens for one site and answers it in threads.

    Args:
        key: what the address is called in the settings.
        reactor: the Twisted reactor.
        clock: Unix time in seconds.
    Attributes:
        threads: in which pages are made.

    Raises: ConfigError: plain text for other machines, or no usable certificate.
    """

    def __init__(self, place: Place, *, key: str, reactor: Any, clock: Callable[[], float]) -> None:
        refuse_plain(place.listen, place.door, key=key)
        self._place = place
        self._key = key
        self._reactor = reactor
        self._listening = Listening(place.door, reactor=reactor, clock=clock)
        self._port: Any = None
        self.threads = ThreadPool(0, THREADS, "pages")
        # One that hangs must not keep the program from ending.
        self.threads.threadFactory = partial(threading.Thread, daemon=True)  # type: ignore[assignment]

    async def start(self, site: Any) -> str:
        """Listens; the address. Raises: CannotListenError."""
        self.threads.start()
        self._port = await self._listening.listen(self._place.listen, site, key=self._key)
        return self._listening.url(self._port)

    async def stop_listening(self) -> None:
        """Takes no more."""
        self._listening.stop()
        if self._port is not None:
            await self._port.stopListening()

    def threads_ended(self) -> Deferred[None]:
        """Fires once nothing is being answered any more, and after a moment in any case."""
        ended: Deferred[None] = Deferred()

        def end() -> None:
            if not ended.called:
                ended.callback(None)

        def wait() -> None:
            self.threads.stop()
            self._reactor.callFromThread(end)

        late = self._reactor.callLater(_THREADS_END_S, end)
        ended.addCallback(lambda _none: late.cancel() if late.active() else None)
        if self.threads.started:
            # Waiting for threads blocks, so that a thread does it.
            threading.Thread(target=wait, daemon=True).start()
        else:
            end()
        return ended


def surface_of(place: Place) -> Surface:
    """How browsers reach it."""
    host = place.listen[0].lower()
    # An address is nobody else's name; that of every interface is nobody's.
    own = () if host in EVERY_INTERFACE else (f"[{host}]" if ":" in host else host,)
    return Surface(names=(*place.names, *own), secure=place.door.is_https, proxies=place.door.trusted)


def link_origin(place: Place, origin: str) -> str:
    """Under what address others open a link of this server: its first name, where it has names.

    Args: origin: by which this server is reached from here, which may be a tunnel or this machine's own address.
    """
    netloc = urlsplit(origin).netloc
    if not place.names or netloc == place.names[0] or netloc.startswith(f"{place.names[0]}:"):
        return origin
    # With the port 0 the system chose one, and here stands which.
    own = place.listen[1] or netloc.rpartition("]")[2].rpartition(":")[2]
    # A proxy has ports of its own; its names are reached at the usual one.
    port = "" if place.door.plain_behind_proxy else f":{own}"
    return f"{'https' if place.door.is_https else 'http'}://{place.names[0]}{port}"


def open_provider(login: LoginConfig, clock: Callable[[], float]) -> Provider | None:
    """OpenID Connect; None without it. Raises: ConfigError: its package or its secret is not there."""
    if login.openid is None:
        return None
    try:
        from reports.people.openid import OpenId  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"report.login.oidc: needs a package that is not installed ({error.name}): install fallow[oidc]"
        ) from error
    if login.openid.client_secret_file is not None:
        # A wrong one shows now, and not when the first person logs in.
        read_secret(login.openid.client_secret_file)
    return OpenId(login.openid, clock=clock)
