"""A real HAProxy with the configuration that deploy/ ships, before aggregators of a benchmark's or a test's own.

What depends on a machine is replaced, and nothing else: addresses, the certificate, the sockets, and the limit of
connections, which takes more descriptors than a test may have.
"""

from __future__ import annotations

import random
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.programs import Program, ProgramError, Programs

CONFIGURATION = Path(__file__).parents[1] / "deploy" / "haproxy.cfg"
_READY_WITHIN_S = 30.0
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Below those that connections are given: nobody takes such a port while a program that is to come back is away.
_PORTS = range(20_000, 32_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a HAProxy of our own listens and what it stands before.

    Attributes:
        folder: existing; its configuration and its admin socket lie there.
        address: of the door for agents.
        figures: of the page with its own figures.
        servers: the aggregators, in the order of their ids.
        pem: certificate and key in one file; None: plain text.
        connections: of all clients together, at most.
    """

    folder: Path
    address: tuple[str, int]
    figures: tuple[str, int]
    servers: Sequence[tuple[str, int]]
    pem: Path | None = None
    connections: int = 6000

    @property
    def configuration(self) -> Path:
        return self.folder / "haproxy.cfg"

    @property
    def admin_socket(self) -> Path:
        return self.folder / "admin.sock"


class ProxyAbsent(Exception):
    """HAProxy is not installed."""


def program() -> str:
    """Its path, which Debian keeps out of an ordinary user's PATH. Raises: ProxyAbsent."""
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise ProxyAbsent("haproxy is not installed")
    return found


def configuration(place: Place) -> str:
    """The shipped configuration with this place's addresses. Raises: ValueError: it is not as this expects it."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    tls = f" ssl crt {place.pem} alpn http/1.1" if place.pem is not None else ""
    lines = [f"    server {name} {_text(at)} id {number}" for number, (name, at) in enumerate(_named(place.servers), 1)]
    for pattern, instead in (
        (r"^    bind :8899 ssl crt /etc/haproxy/fallow\.pem alpn http/1\.1$", f"    bind {_text(place.address)}{tls}"),
        (r"^    bind 127\.0\.0\.1:8405$", f"    bind {_text(place.figures)}"),
        (r"/run/haproxy/admin\.sock", str(place.admin_socket)),
        (r"^    maxconn 100000$", f"    maxconn {place.connections}"),
        (r"(^    server \w+ [\d.:]+ id \d+\n)+", "\n".join(lines) + "\n"),
    ):
        text, found = re.subn(pattern, instead.replace("\\", r"\\"), text, flags=re.MULTILINE)
        if found != 1:
            raise ValueError(f"{CONFIGURATION.name}: {found} places for {pattern!r}, not one")
    return text


def check(path: Path) -> str:
    """What HAProxy says of a configuration, warnings too; empty where it says nothing but that it is valid."""
    done = subprocess.run([program(), "-c", "-f", str(path)], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).strip()
    return "" if done.returncode == 0 and said in ("", "Configuration file is valid") else said


def start(programs: Programs, place: Place) -> Program:
    """Starts it and waits until it listens. Raises: ProxyAbsent.  ProgramError: it does not."""
    place.configuration.write_text(configuration(place), encoding="utf-8")
    started = programs.start([program(), "-f", str(place.configuration), "-db"])
    programs.wait_until(
        lambda: _listens(place.address) or None, running=[started], within_s=_READY_WITHIN_S, what="HAProxy"
    )
    return started


def start_somewhere(
    programs: Programs, folder: Path, servers: Sequence[tuple[str, int]], *, pem: Path | None = None
) -> tuple[Place, Program]:
    """Starts one on free ports. Raises: as `start`."""
    while True:
        address, figures = (("127.0.0.1", port) for port in free_ports(2))
        place = Place(folder=folder, address=address, figures=figures, servers=servers, pem=pem)
        try:
            return place, start(programs, place)
        except ProgramError as error:
            # Somebody else took a port meanwhile; nothing else is worth another try.
            if "Address already in use" not in str(error) and "cannot bind" not in str(error):
                raise


def states(place: Place) -> dict[str, str]:
    """Each server's state as HAProxy sees it, such as UP or DOWN. Raises: OSError."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_READY_WITHIN_S)
        asking.connect(str(place.admin_socket))
        asking.sendall(b"show stat\n")
        said = b"".join(iter(lambda: asking.recv(1 << 16), b"")).decode()
    rows = [line.split(",") for line in said.splitlines() if line]
    status = rows[0].index("status")
    backend = [row for row in rows[1:] if row[0] == "aggregators" and row[1] != "BACKEND"]
    return {row[1]: row[status] for row in backend}


def free_ports(count: int) -> list[int]:
    """So many ports of 127.0.0.1 that nobody listens on, and that no outgoing connection takes."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(_PORTS)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        if port not in found:
            found.append(port)
    return found


def _named(servers: Sequence[tuple[str, int]]) -> list[tuple[str, tuple[str, int]]]:
    return list(zip(_NUMBERS, servers, strict=False))


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


def _listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1.0).close()
    except OSError:
        return False
    return True
