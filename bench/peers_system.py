"""What is compared: a server with data of its own, started, asked and killed like any other."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from bench import tree
from bench.peers_figures import Minute, Texts
from bench.programs import Program, ProgramError, Programs

_STARTS_WITHIN_S = 120.0
_STOPS_WITHIN_S = 300.0
_ASKED_S = 1800.0
_REST_S = 2.0
_REST_CPU_RATIO = 0.03
_RESTS_WITHIN_S = 600.0


class System(ABC):
    """One server and its data.

    Attributes:
        name: as it stands in tables.
        acknowledges: False: whoever sends never hears what became of it.
        answer: how an acknowledgement begins.
        settings: what is not as it comes, for whoever reads the figures.
    """

    name: ClassVar[str]
    acknowledges: ClassVar[bool] = True
    answer: ClassVar[bytes] = b"HTTP/1.1 204"
    settings: ClassVar[str] = "as it comes, but for folders and ports"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True)
        self.programs = Programs(Path("/usr/bin"), folder / "logs", time)
        self._program: Program | None = None

    @property
    @abstractmethod
    def version(self) -> str:
        """Its version, and what else it stands on."""

    @property
    @abstractmethod
    def address(self) -> tuple[str, int]:
        """Where pushes go."""

    @abstractmethod
    def begin(self) -> Program:
        """Starts the server."""

    @abstractmethod
    def minute(self, vm: str, texts: Texts, ts: int) -> bytes:
        """A whole request with one minute of one VM."""

    @abstractmethod
    def batch(self, vm: str, minutes: Sequence[Minute], interval_s: int) -> bytes:
        """A whole request with many of them, as is natural to this system."""

    @abstractmethod
    def stored(self, vms: Sequence[str], after_s: int) -> int:
        """How many minutes of these VMs with ts > after_s it has, counted by their CPU."""

    @abstractmethod
    def disk_bytes(self) -> int:
        """What its data take on disk."""

    def prefill(self, vms: Sequence[str], templates: Sequence[Path]) -> None:
        """Gives VMs a history. Peers have none: what a minute costs them does not depend on it."""
        del vms, templates

    def store(self) -> int:
        """Has what is due after a flush interval stored, where that is asked for; returns how many minutes."""
        return 0

    def store_all(self) -> None:
        """Has whatever it took stored, due or not."""
        self.store()

    def waiting(self) -> int:
        """How many minutes it keeps in memory on purpose, until their turn to be stored comes."""
        return 0

    def settle(self) -> None:
        """Has everything merged and compacted as it would be in time."""
        self.rest()

    def start(self) -> None:
        """Starts it and waits until it takes pushes. Raises: ProgramError."""
        self._program = self.begin()
        self.programs.wait_until(
            lambda: True if self.is_up() else None, running=[self._program], within_s=_STARTS_WITHIN_S, what=self.name
        )

    def is_up(self) -> bool:
        """Whether it takes pushes."""
        try:
            with socket.create_connection(self.address, timeout=5):
                return True
        except OSError:
            return False

    @property
    def program(self) -> Program:
        """The running server. Raises: ProgramError: there is none."""
        if self._program is None:
            raise ProgramError(f"{self.name} does not run")
        return self._program

    @property
    def pid(self) -> int:
        return self.program.process.pid

    def cpu_s(self) -> float:
        """CPU of the server and its children so far."""
        return tree.cpu_s(self.pid)

    def peak_rss_bytes(self) -> int:
        """Of all its processes."""
        return tree.peak_rss_bytes(self.pid)

    def rest(self) -> None:
        """Waits until it does nothing more of its own. Raises: ProgramError: it never rests."""
        ends_s = time.monotonic() + _RESTS_WITHIN_S
        while time.monotonic() < ends_s:
            before_s = self.cpu_s()
            time.sleep(_REST_S)
            if self.cpu_s() - before_s < _REST_CPU_RATIO * _REST_S:
                return
        raise ProgramError(f"{self.name} does not come to rest")

    def stop(self) -> None:
        """Ends it in order."""
        self.program.process.terminate()
        self.programs.finish(self.program, within_s=_STOPS_WITHIN_S, accepted=(0, -signal.SIGTERM, 1))
        self._program = None

    def kill(self) -> None:
        """SIGKILL for all of its processes."""
        os.killpg(self.pid, signal.SIGKILL)
        self.program.process.wait()
        self._program = None

    def close(self) -> None:
        """Ends whatever of it still runs."""
        self.programs.stop_all()


def ask(
    address: tuple[str, int],
    target: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> bytes:
    """The body of an answer. Raises: ProgramError: its status is not 2xx.  OSError."""
    connection = http.client.HTTPConnection(*address, timeout=_ASKED_S)
    try:
        connection.request(method, target, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        received = answer.read()
    except http.client.HTTPException as error:
        raise ProgramError(f"{method} {target[:100]}: {error!r}") from error
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        raise ProgramError(f"{method} {target[:100]}: {answer.status} {received[:300]!r}")
    return received


def ask_json(address: tuple[str, int], target: str, **options: Any) -> Any:
    """The same, read as JSON."""
    return json.loads(ask(address, target, **options))


def post(target: str, body: bytes, headers: str = "") -> bytes:
    """A POST on a kept connection as bytes. `headers`: lines, each with its end."""
    return b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\n%bContent-Length: %d\r\n\r\n%b" % (
        target.encode(),
        headers.encode(),
        len(body),
        body,
    )


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def allocated_bytes(folder: Path) -> int:
    """What the files below a folder take on disk; those that went away meanwhile not counted."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
