"""How servers of a program listen, as one value: TLS, or plain text where nobody reads along. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.settings import SettingsReader, parse_flag, parse_text
from aggregator.addresses import Network, Proxies, is_loopback, parse_networks

PLAIN_OPTION = "--plain-behind-proxy"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files of a server.

    Args:
        cert: its certificate and, after it, the chain.
        key: of the certificate, readable by its owner alone.
        client_ca: whoever connects must have a certificate of one of these authorities; None: nobody needs one.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenSettings:
    """How servers of a program listen.

    Args:
        tls: None: plain text.
        plain_behind_proxy: plain text is wanted, as a proxy before the server ends TLS.
        proxies: networks of proxies whose `X-Forwarded-For` is believed.
    """

    tls: TlsFiles | None = None
    plain_behind_proxy: bool = False
    proxies: tuple[Network, ...] = ()

    @property
    def is_https(self) -> bool:
        """Whether browsers and programs come by https, whoever ends it."""
        return self.tls is not None or self.plain_behind_proxy

    @property
    def trusted(self) -> Proxies:
        """The proxies that are believed."""
        return Proxies(self.proxies)


def plain_problem(address: tuple[str, int], settings: ListenSettings, *, key: str) -> str | None:
    """Why a server must not listen at `address`, the setting `key`; None: it may."""
    host, port = address
    if settings.is_https or is_loopback(host):
        return None
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    table = key.rpartition(".")[0]
    tls = f"{table}.tls_cert and {table}.tls_key" if table else "tls.cert and tls.key"
    plain = f"{table}.plain_behind_proxy" if table else "plain_behind_proxy"
    option = "" if table.startswith("orchestrate") else f" ({PLAIN_OPTION})"
    return (
        f"{key}: {shown} would be plain text for other machines, with its tokens and passwords: "
        f"set {tls}, or {plain}{option} where a proxy before it ends TLS"
    )


def take_listen_settings(reader: SettingsReader, table: str, base: ListenSettings) -> ListenSettings:
    """The keys `tls_cert`, `tls_key`, `plain_behind_proxy` and `proxies` of a table of a file, laid over `base`."""
    cert = reader.take(f"{table}.tls_cert", _path, None)
    key = reader.take(f"{table}.tls_key", _path, None)
    if (cert is None) != (key is None):
        reader.reject(f"{table}.tls_cert", "tls_cert and tls_key: one needs the other")
    return ListenSettings(
        tls=base.tls if cert is None or key is None else TlsFiles(cert=cert, key=key),
        plain_behind_proxy=reader.take(f"{table}.plain_behind_proxy", parse_flag, base.plain_behind_proxy),
        proxies=reader.take(f"{table}.proxies", parse_networks, base.proxies),
    )


def _path(value: object) -> Path:
    text = parse_text(value)
    if "\0" in text:
        raise ValueError(f"{text!r} is not a path")
    return Path(text)
