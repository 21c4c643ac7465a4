"""The LAN of a rig: a bridge in a network namespace, which the root namespace and each host are linked to."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tests.rig.shell import RigError, run

_PREFIX = "fallow-rig"
_NETWORKS = 254
_BRIDGE, _UPLINK = "lan", "uplink"
HOST_BRIDGE = "br0"


class Lan:
    """One network 10.66.N.0/24 and the namespaces on it; `close` removes all of them. Needs root.

    N is free on this machine, and taken by the name of a network device, of which there can be only one.
    """

    def __init__(self) -> None:
        remove_orphans()
        self._owner = f"{_PREFIX}-{os.getpid()}-{secrets.token_hex(2)}"
        self._namespaces: list[str] = []
        self._guests = iter(range(101, 255))
        self._hub = self._add_namespace("lan")
        try:
            _ip("link", "add", _BRIDGE, "type", "bridge", netns=self._hub)
            self._number, self._device = self._take_number()
            _ip("link", "set", _UPLINK, "master", _BRIDGE, "up", netns=self._hub)
            _ip("link", "set", _BRIDGE, "up", netns=self._hub)
            _ip("addr", "add", f"{self.address}/24", "dev", self._device)
            _ip("link", "set", self._device, "up")
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """This process's own address on the LAN."""
        return self._address(1)

    @property
    def device(self) -> str:
        """This process's own end of its cable."""
        return self._device

    def guest_address(self) -> str:
        """One that no other guest has. Raises: RigError: there are no more."""
        last = next(self._guests, None)
        if last is None:
            raise RigError("no more addresses for guests")
        return self._address(last)

    def host_address(self, index: int) -> str:
        """That of the host with this index, from 0."""
        return self._address(11 + index)

    def add_host(self, name: str, address: str) -> str:
        """A namespace with a bridge for a host's guests, linked to the LAN. Returns: its name."""
        namespace = self._add_namespace(name)
        _ip("link", "add", name, "type", "veth", "peer", "name", "lan0", "netns", namespace, netns=self._hub)
        _ip("link", "set", name, "master", _BRIDGE, "up", netns=self._hub)
        _ip("link", "add", HOST_BRIDGE, "type", "bridge", netns=namespace)
        _ip("link", "set", "lan0", "master", HOST_BRIDGE, "up", netns=namespace)
        _ip("link", "set", HOST_BRIDGE, "up", netns=namespace)
        _ip("addr", "add", f"{address}/24", "dev", HOST_BRIDGE, netns=namespace)
        return namespace

    def set_link(self, name: str, *, up: bool) -> None:
        """Plugs the cable of a host, which its guests share, in or out."""
        _ip("link", "set", name, "up" if up else "down", netns=self._hub)

    def close(self) -> None:
        """Removes the namespaces, and with them every device that has an end in one. Nothing may run there any more."""
        while self._namespaces:
            _remove_namespace(self._namespaces.pop())

    def _add_namespace(self, name: str) -> str:
        namespace = f"{self._owner}-{name}"
        run("ip", "netns", "add", namespace)
        self._namespaces.append(namespace)
        _ip("link", "set", "lo", "up", netns=namespace)
        return namespace

    def _take_number(self) -> tuple[int, str]:
        taken = list(_routed())
        why = ""
        for number in range(1, _NETWORKS + 1):
            network = ipaddress.ip_network(f"10.66.{number}.0/24")
            if any(network.overlaps(other) for other in taken):
                continue
            device = f"{_PREFIX}-{number}"
            try:
                _ip("link", "add", device, "type", "veth", "peer", "name", _UPLINK, "netns", self._hub)
            except RigError as error:
                why = f": {error}"
                if "File exists" in str(error):
                    continue
                raise
            return number, device
        raise RigError(f"no network 10.66.N.0/24 is free on this machine{why}")

    def _address(self, last: int) -> str:
        return f"10.66.{self._number}.{last}"


def remove_orphans() -> None:
    """Removes the namespaces of runs that ended without doing so."""
    for namespace in namespaces():
        owner = namespace.removeprefix(f"{_PREFIX}-").partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            _remove_namespace(namespace)


def namespaces() -> list[str]:
    """Names of all rigs' namespaces on this machine."""
    names = (line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.strip())
    return [name for name in names if name.startswith(f"{_PREFIX}-")]


def _remove_namespace(namespace: str) -> None:
    # Deleted alone, a namespace and its devices live on until the kernel gets to them.
    for device in json.loads(_ip("-json", "link", "show", "type", "veth", netns=namespace)):
        with suppress(RigError):
            # The other end may have gone with its namespace meanwhile.
            _ip("link", "delete", device["ifname"], netns=namespace)
    run("ip", "netns", "delete", namespace)


def _routed() -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for route in json.loads(run("ip", "-json", "-4", "route", "show", "table", "all")):
        destination = route.get("dst", "default")
        # The default route leads everywhere, and says nothing.
        if destination != "default":
            with suppress(ValueError):
                yield ipaddress.ip_network(destination)


def _ip(*argv: str, netns: str | None = None) -> str:
    within: Iterable[str] = ("-n", netns) if netns is not None else ()
    return run("ip", *within, *argv)
