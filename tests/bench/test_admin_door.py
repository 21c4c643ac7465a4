"""`bench.admin_door`: what an aggregator tells its admin is read rightly, and a flush that was not whole ends a run."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from bench.admin_door import AdminDoor, check_steady
from bench.programs import ProgramError

_WHOLE = {"samples": 7, "failures": {}, "summaries_owed": 0}


class Answering:
    """Answers one request with `body`; `request` is what came."""

    def __init__(self, body: str) -> None:
        self._body = body.encode()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        self.request = b""
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Answering:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection:
            self.request = connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(self._body), self._body))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "admin.token").write_text("secret\n")
    return tmp_path


@pytest.mark.real
def test_a_turn_and_everybody_are_asked_for_in_different_words(data: Path) -> None:
    """By the admin's token."""
    with Answering(json.dumps(_WHOLE)) as server:
        assert AdminDoor(server.address, data).flush_turn()["samples"] == 7
    assert server.request.startswith(b"POST /v1/flush?figures=due HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret\r\n" in server.request
    with Answering(json.dumps(_WHOLE)) as server:
        AdminDoor(server.address, data).flush()
    assert server.request.startswith(b"POST /v1/flush HTTP/1.1\r\n")


@pytest.mark.real
@pytest.mark.parametrize("trouble", [{"failures": {"vm-1": "disk full"}}, {"summaries_owed": 1}])
def test_a_flush_that_was_not_whole_is_an_error(data: Path, trouble: dict[str, object]) -> None:
    """What it left undone would be missing from its cost."""
    with Answering(json.dumps(_WHOLE | trouble)) as server, pytest.raises(ProgramError, match="not whole"):
        AdminDoor(server.address, data).flush_turn()


@pytest.mark.real
def test_buffered_samples_are_read_from_the_metrics(data: Path) -> None:
    """Not from their help text; none told is an error, not 0."""
    text = "# HELP fallow_buffered_samples Samples not in a store yet\nfallow_buffered_samples 22500.0\nother 1.0\n"
    with Answering(text) as server:
        assert AdminDoor(server.address, data).buffered_samples() == 22_500
    with Answering("other 1.0\n") as server, pytest.raises(ProgramError, match="does not tell"):
        AdminDoor(server.address, data).buffered_samples()


def test_who_keeps_nothing_in_memory_is_always_steady() -> None:
    """0 before and after; any sample more is told."""
    check_steady(0, 0)
    with pytest.raises(ProgramError):
        check_steady(0, 1)
