"""The one place where servers begin to listen: TLS 1.2 or newer everywhere but on loopback, or plain when told so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from agent.settings import ConfigError
from aggregator.addresses import is_loopback
from aggregator.admin_site import AdminSite
from aggregator.listen_settings import ListenSettings, plain_problem
from aggregator.tls import Certificate

LOOK_S = 10.0
_BACKLOG = 128


class Listening:
    """How the servers of one program listen, and their certificate, which is read again while they do.

    Args:
        reactor: listens, and tells when to look at the files.
        clock: Unix time in seconds.
    Attributes:
        certificate: None: plain text.

    Raises: ConfigError: the certificate cannot be used.
    """

    _log = Logger()

    def __init__(self, settings: ListenSettings, *, reactor: Any, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.certificate = None if settings.tls is None else Certificate(settings.tls)
        self._reactor = reactor
        self._clock = clock
        self._loop: Any = None

    async def listen(
        self,
        address: tuple[str, int],
        factory: Any,
        *,
        key: str,
        backlog: int = _BACKLOG,
        clients: bool = False,
        loopback_tls: bool = True,
    ) -> Any:
        """A port; a site of twisted.web is told of proxies and of https.

        Args:
            key: what the address is called in the settings.
            clients: certificates of clients are asked for, where the settings name an authority.
            loopback_tls: TLS on loopback too, where there is a certificate.

        Raises:
            ConfigError: this would be plain text for other machines.
            CannotListenError: the address is not free, or not ours.
        """
        refuse_plain(address, self.settings, key=key)
        host, port = address
        interface = "127.0.0.1" if host.lower() == "localhost" else host
        speaks_tls = self.certificate is not None and (loopback_tls or not is_loopback(host))
        if isinstance(factory, AdminSite):
            factory.trust(self.settings.trusted, is_https=speaks_tls or self.settings.plain_behind_proxy)
        if self.certificate is None or not speaks_tls:
            listening = self._reactor.listenTCP(port, factory, backlog=backlog, interface=interface)
        else:
            tls = self.certificate.for_server(clients=clients)
            listening = self._reactor.listenSSL(port, factory, tls, backlog=backlog, interface=interface)
            self._watch()
        return listening

    def url(self, port: Any) -> str:
        """`https://127.0.0.1:8901/` of what `listen` returned; of a port that speaks TLS wherever it may."""
        address = port.getHost()
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"{'http' if self.certificate is None else 'https'}://{host}:{address.port}/"

    def look(self) -> None:
        """Looks at the files of the certificate now."""
        if self.certificate is not None:
            try:
                self.certificate.look(self._clock())
            except Exception:
                # A LoopingCall ends for good at the first exception; the certificate there was still serves.
                self._log.failure("the certificate could not be looked at")

    def stop(self) -> None:
        """Looks no more; ports are their owner's to stop."""
        if self._loop is not None and self._loop.running:
            self._loop.stop()

    def _watch(self) -> None:
        if self._loop is None:
            self._loop = LoopingCall(self.look)
            self._loop.clock = self._reactor
            self._loop.start(LOOK_S, now=False)


def refuse_plain(address: tuple[str, int], settings: ListenSettings, *, key: str) -> None:
    """Raises: ConfigError: a server at `address`, the setting `key`, would be plain text for other machines."""
    problem = plain_problem(address, settings, key=key)
    if problem is not None:
        raise ConfigError(problem)
