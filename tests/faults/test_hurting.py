"""The tools that hurt: a proxy that keeps its word, and a clock that is set while a program runs."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from tests.faults.caller import Caller, NoAnswerError
from tests.faults.clocks import YEAR_S, fake_clock
from tests.faults.proxy import Fate, Proxy

pytestmark = pytest.mark.real

REQUEST = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"


class Server(ThreadingTCPServer):
    """Answers every request 204, and counts what it was asked as a whole."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = 0

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.server_address[1]


class _Handler(StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        while self.rfile.readline():
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                pass
            if not line:
                return
            self.server.asked += 1
            self.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")


@contextmanager
def served() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("fate", "asked"),
    [(Fate.LOSE_REPLY, 1), (Fate.SWALLOW_REPLY, 1), (Fate.HALF_REQUEST, 0)],
)
def test_what_a_proxy_loses_the_client_does_not_get(fate: Fate, asked: int) -> None:
    """The server has the request or has it not, as the fate says; the client learns nothing, and it is counted."""
    with (
        served() as server,
        Proxy(server.address, random.Random(1), fate=lambda: fate) as proxy,
    ):
        with pytest.raises(NoAnswerError):
            Caller(proxy.address, timeout_s=0.5).ask(REQUEST)
        assert (server.asked, proxy.struck[fate], proxy.held) == (asked, 1, 0)


def test_a_proxy_without_a_fate_hands_everything_on() -> None:
    """Request after request over one connection."""
    with served() as server, Proxy(server.address, random.Random(1)) as proxy:
        caller = Caller(proxy.address)
        assert [caller.ask(REQUEST).status for _ in range(3)] == [204] * 3
        caller.close()
        assert (server.asked, len(proxy.begun_s), sum(proxy.struck.values())) == (3, 3, 0)


def test_a_held_request_goes_on_when_it_is_released() -> None:
    """Until then the server knows nothing of it."""
    statuses: list[int] = []
    with (
        served() as server,
        Proxy(server.address, random.Random(1), fate=lambda: Fate.HOLD) as proxy,
    ):
        thread = threading.Thread(target=lambda: statuses.append(Caller(proxy.address).ask(REQUEST).status))
        thread.start()
        while not proxy.held:
            time.sleep(0.01)
        assert server.asked == 0
        proxy.release()
        thread.join()
    assert statuses == [204]


def test_a_clock_is_set_while_a_program_runs(tmp_path: Path) -> None:
    """The wall clock jumps, sleeping still works, and the monotonic clock runs on."""
    if shutil.which("faketime") is None:
        pytest.skip("needs faketime")
    clock = fake_clock(tmp_path / "clock")
    code = "import sys, time\nfor _ in sys.stdin: time.sleep(0.01); print(time.time(), time.monotonic(), flush=True)"
    argv = [*clock.under, sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        seen = []
        for offset_s in (0, YEAR_S, -YEAR_S):
            clock.set(offset_s)
            program.stdin.write("\n")
            program.stdin.flush()
            wall_s, mono_s = map(float, program.stdout.readline().split())
            assert wall_s - offset_s == pytest.approx(time.time(), abs=3600)
            seen.append(mono_s)
        program.stdin.close()
    assert seen == sorted(seen)
    assert seen[-1] - seen[0] < YEAR_S / 2
