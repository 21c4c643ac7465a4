"""Who is at the other end of a connection: its address, proxies that speak for others, how many each may hold. Pure."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
# What one subscriber gets of IPv6: whoever has one address there has them all.
_IPV6_SUBSCRIBER_BITS = 64
_MAX_HOPS = 32


def parse_networks(value: object) -> tuple[Network, ...]:
    """Networks of `["10.0.0.0/8", "192.0.2.7"]`, or of one text with commas. Raises: ValueError."""
    texts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise ValueError(f"{value!r} is not a list of networks (such as 10.0.0.0/8 or 192.0.2.7)")
    networks = []
    for text in texts:
        try:
            if not isinstance(text, str):
                raise ValueError(f"{text!r} is not a text")
            networks.append(ip_network(text))
        except ValueError as error:
            raise ValueError(f"{text!r} is not a network (such as 10.0.0.0/8 or 192.0.2.7): {error}") from error
    return tuple(networks)


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a server that listens there. A name but localhost never counts."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def check_askable(host: str) -> None:
    """Whether somebody may be sent to ask a server there; a name may always, whatever it stands for.

    Raises: ValueError: an address of this link alone, such as that of a cloud's metadata, of nowhere, or of a group.
    """
    address = _address(host) or _of_one_number(host)
    if address is None:
        return
    kinds = {
        "link-local": address.is_link_local,
        "unspecified": address.is_unspecified,
        "multicast": address.is_multicast,
    }
    for kind in (kind for kind, is_so in kinds.items() if is_so):
        raise ValueError(f"{host}: nobody is asked at an address that is {kind}")


def peer_of(address: object) -> str:
    """The host of a connection's `IAddress`, an IPv4 peer of a socket for both families as such; empty without one."""
    host: str = getattr(address, "host", "")
    return host.removeprefix("::ffff:") if "." in host else host


def group_of(host: str) -> str:
    """What is counted as one address: a whole network of IPv6; a text that is no address as it is."""
    address = _address(host)
    return host if address is None else _group(address)


class Proxies:
    """The proxies that are believed when they tell for whom they ask."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(networks)

    def includes(self, host: str) -> bool:
        """Whether `host` is the address of one of them."""
        address = _address(host) if self._networks else None
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str, forwarded_for: str) -> str:
        """The address that a request comes from.

        Args:
            peer: of the connection.
            forwarded_for: the header `X-Forwarded-For`, each proxy's addition behind the one before.

        Returns: `peer`, unless that is a proxy: then the last address of the header that is none. What stands before
            it was told by somebody whom nobody vouches for.
        """
        client = peer
        for text in reversed(forwarded_for.rsplit(",", _MAX_HOPS)):
            address = _address(_without_port(text.strip()))
            if address is None or not self.includes(client):
                return client
            client = str(address)
        return client


NO_PROXIES = Proxies()


class PerAddress:
    """Counts connections by address: a /64 of IPv6 is one, and this machine and proxies are not counted at all.

    Args: most: connections of one address at once.
    """

    __slots__ = ("_counts", "_most", "_proxies", "_slack")

    def __init__(self, most: int, proxies: Proxies = NO_PROXIES) -> None:
        self._most = most
        self._slack = max(1, most // 20)
        self._proxies = proxies
        self._counts: dict[str, int] = {}

    def enter(self, host: str) -> str:
        """Counts a connection in, one too many also. Returns what to `leave` it with; empty: it is not counted."""
        address = _address(host)
        if address is None or address.is_loopback or self._proxies.includes(host):
            return ""
        group = _group(address)
        self._counts[group] = self._counts.get(group, 0) + 1
        return group

    def leave(self, group: str) -> None:
        """Counts it out."""
        if not group:
            return
        count = self._counts[group] - 1
        if count:
            self._counts[group] = count
        else:
            del self._counts[group]

    def is_over(self, group: str) -> bool:
        """Whether the newest of this group is one too many."""
        return self._counts.get(group, 0) > self._most

    def is_overrun(self, group: str) -> bool:
        """Whether there are so many too many that there is no room to tell them."""
        return self._counts.get(group, 0) > self._most + self._slack


def per_address_of(connections: int) -> int:
    """The default of the bound for one address: behind it may be a whole network, but not the whole fleet."""
    return min(connections, max(16, connections // 10))


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        # A socket for both families shows IPv4 peers so. A zone (`%eth0`) goes: any text may stand in it.
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


def _of_one_number(text: str) -> IPv4Address | None:
    """What resolvers make of `2852039166`, `0xa9fea9fe` or `169.254.43518`."""
    try:
        return IPv4Address(socket.inet_aton(text))
    except (OSError, UnicodeEncodeError):
        return None


def _group(address: IPv4Address | IPv6Address) -> str:
    if address.version == 4:
        return str(address)
    return str(ip_network((address, _IPV6_SUBSCRIBER_BITS), strict=False))


def _without_port(text: str) -> str:
    """`192.0.2.7` of `192.0.2.7:1234`, `2001:db8::7` of `[2001:db8::7]:1234`, as some proxies write them."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
