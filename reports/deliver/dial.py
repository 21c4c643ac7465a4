"""Connections to whoever takes a report: to whom one may be made, and never for longer than told."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from reports.deliver.targets import DeliveryError

# A step is a connection made, a line or block sent or received; all of them together are one delivery.
STEP_TIMEOUT_S = 30.0
WHOLE_TIMEOUT_S = 300.0

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# What clouds tell a machine about itself, keys included, where that is not link-local: AWS, Alibaba, Azure, Oracle.
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")))
# Where a network without IPv4 shows the addresses of IPv4 (RFC 6052).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def parse_address(host: str) -> Address | None:
    """The address that `host` writes out, an IPv4 one inside IPv6 as itself; None for a name."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        return address.ipv4_mapped or address
    return address


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, by address or as `localhost`."""
    address = parse_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def refuse_address(address: Address) -> None:
    """Raises: ValueError: no server of somebody's own is there, but maybe what a cloud tells this machine."""
    if address.is_link_local or address in _METADATA:
        raise ValueError(f"{address} is a link-local or metadata address")
    if address.is_unspecified or address.is_multicast or (address.is_reserved and not address.is_loopback):
        raise ValueError(f"{address} is not the address of a server")


def refuse_remote(address: Address) -> None:
    """Raises: ValueError: not this machine, and the connection would be open to read."""
    if not address.is_loopback:
        raise ValueError(f"{address} is not a loopback address, and the connection is not encrypted")


@contextmanager
def dialled(
    host: str,
    port: int,
    *,
    check: Callable[[Address], None],
    step_timeout_s: float = STEP_TIMEOUT_S,
    whole_timeout_s: float = WHOLE_TIMEOUT_S,
) -> Iterator[socket.socket]:
    """A TCP connection, shut down under whoever uses it when `whole_timeout_s` have passed.

    Args:
        check: raises ValueError for an address that must not be spoken to. It is asked about the one that answered,
            since a name may lead anywhere.

    Raises: DeliveryError: no connection, not to that address, or it took too long.
    """
    try:
        connection = socket.create_connection((host, port), timeout=step_timeout_s)
    except (OSError, UnicodeError) as error:
        raise DeliveryError(f"{host}:{port}: {reason(error)}", retry=True) from error
    with connection, connection.dup() as handle:
        address = parse_address(connection.getpeername()[0])
        try:
            assert address is not None
            check(address)
        except ValueError as error:
            raise DeliveryError(f"{host}:{port}: {error}", retry=False) from error
        overdue = threading.Event()

        def cut() -> None:
            overdue.set()
            # The handle stays valid when TLS takes the connection over, and shutting it down wakes any reader.
            with suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(whole_timeout_s, cut)
        timer.daemon = True
        timer.start()
        try:
            yield connection
        except Exception as error:
            if overdue.is_set():
                raise DeliveryError(f"{host}:{port}: took longer than {whole_timeout_s:g} s", retry=True) from error
            raise
        finally:
            timer.cancel()


def reason(error: Exception) -> str:
    """What ails a connection, in a few words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
