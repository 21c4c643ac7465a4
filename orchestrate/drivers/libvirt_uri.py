"""Which addresses of hypervisors the libvirt driver connects to, and which it does not. Pure.

libvirt takes far more than a controller should: schemes that run a program named in the address, that check no
certificate, that reach whatever lies behind a link-local address. Only what is known to be good passes.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

_PLAIN = "qemu+tcp"
_SCHEMES = frozenset({"qemu", "qemu+unix", "qemu+ssh", "qemu+tls", _PLAIN, "test"})
_REMOTE = frozenset({"qemu+ssh", "qemu+tls", _PLAIN})
_SERVICES = frozenset({"/system", "/session"})
# Keys that choose files and how to get through; never a program to run, never "do not verify".
_QUERY_KEYS = {
    "qemu": frozenset({"socket"}),
    "qemu+unix": frozenset({"socket"}),
    "qemu+ssh": frozenset({"socket", "mode", "keyfile", "known_hosts", "no_tty"}),
    "qemu+tls": frozenset({"pkipath"}),
    _PLAIN: frozenset[str](),
    "test": frozenset[str](),
}
_WHY_NOT = {
    "command": "it names a program to run",
    "netcat": "it names a program to run",
    "no_verify": "it turns off the check of who answers",
    "no_sanity": "it turns off the check of certificates",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervisorUri:
    """An address that may be connected to.

    Args:
        text: for libvirt.
        host: its name or IP address; None for this machine.
        is_test: libvirt's test driver, which is in this process and moves no VM anywhere.
    """

    text: str
    host: str | None
    is_test: bool


def parse_uri(text: object, *, allow_plain: bool) -> HypervisorUri:
    """The address, checked. It is not resolved: what a name leads to is up to the network's own rules.

    Args: allow_plain: `qemu+tcp`, which neither encrypts nor knows who is who, is allowed.

    Raises: ValueError: it cannot be used, and why; a password in it is not repeated.
    """
    if not isinstance(text, str) or not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("is not the address of a hypervisor (such as qemu+ssh://root@hv1/system)")
    try:
        parts = urlsplit(text)
        host, user, password, _ = parts.hostname, parts.username, parts.password, parts.port
    except ValueError as error:
        raise ValueError(f"is not an address: {error}") from error
    if password is not None:
        raise ValueError(f"{parts.scheme}://…@{host}{parts.path}: a password must not stand in an address")
    _check_scheme(text, parts.scheme, allow_plain)
    _check_host(text, parts.scheme, host, user)
    _check_path(text, parts.scheme, parts.path)
    _check_query(text, parts.scheme, parts.query)
    if parts.fragment:
        raise ValueError(f"{text!r}: nothing may follow a '#'")
    return HypervisorUri(text=_unasked(text, parts.scheme, parts.query), host=host, is_test=parts.scheme == "test")


def _check_scheme(text: str, scheme: str, allow_plain: bool) -> None:
    if scheme not in _SCHEMES:
        raise ValueError(f"{text!r}: the scheme {scheme!r} is none of {', '.join(sorted(_SCHEMES))}")
    if scheme == _PLAIN and not allow_plain:
        raise ValueError(f"{text!r}: {_PLAIN} neither encrypts nor asks who it is; use qemu+ssh or qemu+tls")


def _check_host(text: str, scheme: str, host: str | None, user: str | None) -> None:
    if scheme not in _REMOTE:
        if host or user:
            raise ValueError(f"{text!r}: {scheme} is on this machine and takes no host (three slashes)")
        return
    if not host:
        raise ValueError(f"{text!r}: no host")
    if host.startswith("-") or (user or "").startswith("-"):
        # ssh would take it for an option.
        raise ValueError(f"{text!r}: neither host nor user may begin with '-'")
    try:
        # An IPv6 address may name its zone, which ipaddress takes too.
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    plain = getattr(address, "ipv4_mapped", None) or address
    if plain.is_link_local or plain.is_multicast or plain.is_unspecified:
        raise ValueError(f"{text!r}: {host} is not an address of a hypervisor")


def _check_path(text: str, scheme: str, path: str) -> None:
    if scheme == "test":
        if path != "/default" and not path.endswith(".xml"):
            raise ValueError(f"{text!r}: is neither test:///default nor test:///PATH.xml")
    elif path not in _SERVICES:
        raise ValueError(f"{text!r}: does not end with {' or '.join(sorted(_SERVICES))}")


def _check_query(text: str, scheme: str, query: str) -> None:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError as error:
        raise ValueError(f"{text!r}: what follows the '?' cannot be read: {error}") from error
    keys = [key for key, _ in pairs]
    for key in keys:
        if key not in _QUERY_KEYS[scheme]:
            allowed = ", ".join(sorted(_QUERY_KEYS[scheme])) or "none"
            raise ValueError(
                f"{text!r}: {key}= is not allowed: {_WHY_NOT.get(key, f'only {allowed} may be set for {scheme}')}"
            )
        if keys.count(key) > 1:
            raise ValueError(f"{text!r}: {key}= stands there twice")


def _unasked(text: str, scheme: str, query: str) -> str:
    """An address under which nobody is asked for a password: ssh would do so on the terminal of whoever runs us."""
    if scheme != "qemu+ssh" or "no_tty" in dict(parse_qsl(query)):
        return text
    return f"{text}{'&' if query else '?'}no_tty=1"
