"""A network of its own for some of the programs, joined to ours by a pair of interfaces that lose packets."""

from __future__ import annotations

import json
import random
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_TABLE = "fallow"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossyNet:
    """One network namespace.

    Attributes:
        name: of the namespace.
        outside: our address, which those inside can reach.
        inside: theirs.
    """

    name: str
    outside: str
    inside: str

    @property
    def under(self) -> tuple[str, ...]:
        """What a command line is put behind so that it runs inside."""
        return ("ip", "netns", "exec", self.name)

    def lose(self, percent: int) -> None:
        """From now on so many of a hundred packets are dropped, in each direction; what was counted stays."""
        for chain in ("in", "out"):
            _run(*self.under, "nft", "flush", "chain", "inet", _TABLE, chain)
            if percent:
                rule = f"numgen random mod 100 < {percent} counter name lost drop"
                _run(*self.under, "nft", "add", "rule", "inet", _TABLE, chain, *rule.split())

    def lost(self) -> int:
        """Packets dropped so far."""
        listed = json.loads(_run(*self.under, "nft", "-j", "list", "counter", "inet", _TABLE, "lost"))
        return next(int(item["counter"]["packets"]) for item in listed["nftables"] if "counter" in item)


@contextmanager
def lossy_net(draw: random.Random) -> Iterator[LossyNet]:
    """A namespace with an interface to us; loses nothing until it is told to. Raises: OSError: not allowed."""
    # Not of the seed: a name that an earlier run left behind must not be met again.
    mark = secrets.token_hex(3)
    # 198.18.0.0/15 is for measuring networks: nobody lives there.
    network = f"198.18.{draw.randrange(256)}.{draw.randrange(63) * 4}".rsplit(".", 1)
    outside, inside = (f"{network[0]}.{int(network[1]) + host}" for host in (1, 2))
    net = LossyNet(name=f"fallow-{mark}", outside=outside, inside=inside)
    ours, theirs = f"fo{mark}", f"fi{mark}"
    _run("ip", "netns", "add", net.name)
    try:
        # The other end is made inside, and goes with the namespace; so does ours.
        _run("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", net.name)
        _run("ip", "address", "add", f"{outside}/30", "dev", ours)
        _run("ip", "link", "set", ours, "up")
        for words in (
            f"ip address add {inside}/30 dev {theirs}",
            f"ip link set {theirs} up",
            "ip link set lo up",
            f"nft add table inet {_TABLE}",
            f"nft add counter inet {_TABLE} lost",
            f"nft add chain inet {_TABLE} in {{ type filter hook input priority 0 ; }}",
            f"nft add chain inet {_TABLE} out {{ type filter hook output priority 0 ; }}",
        ):
            _run(*net.under, *words.split())
        # A lost packet is sent again after some multiple of the round trip, not after the usual 200 ms.
        _run("ip", "route", "change", f"{network[0]}.{network[1]}/30", "dev", ours, "rto_min", "20ms")
        _run(*net.under, "ip", "route", "change", f"{network[0]}.{network[1]}/30", "dev", theirs, "rto_min", "20ms")
        yield net
    finally:
        subprocess.run(["ip", "link", "delete", ours], capture_output=True, check=False)
        _run("ip", "netns", "delete", net.name)


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout
