"""The pages and the owners' pages under TLS: https alone, told to browsers, with certificates that are replaced."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.aggregator.certificates import Authority, Pair, client_context
from tests.orchestrate.control_house import SETTINGS, house
from tests.reports.fleets import write_fleet
from tests.reports.web.programs import CONFIG, serving, start

pytestmark = pytest.mark.real

DOOR = 'tls_cert = "{cert}"\ntls_key = "{key}"\n'
LINKS = '\n[orchestrate.links]\nurl = "https://fallow.example.org"\nlisten = "{listen}"\n'
_OWNERS = re.compile(r"owners' pages on (\S+)/\n")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority", "ours")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("first")


def door(pair: Pair) -> str:
    return DOOR.format(cert=pair.cert, key=pair.key)


def place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.scheme == "https"
    return str(parts.hostname), int(parts.port or 0)


def asked(address: tuple[str, int], context: ssl.SSLContext) -> tuple[int, str | None, str]:
    """Status and HSTS of an answer, and the name in the server's certificate."""
    connection = HTTPSConnection(*address, context=context, timeout=60)
    try:
        connection.request("GET", "/healthz")
        certificate: Any = connection.sock.getpeercert()
        response = connection.getresponse()
        response.read()
        return response.status, response.getheader("Strict-Transport-Security"), certificate["subject"][0][0][1]
    finally:
        connection.close()


def plain_answer(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=60) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return sock.recv(100)


def test_row_41_pages_speak_tls_and_take_a_new_certificate(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    """https and HSTS, nothing in plain text; a new certificate is found without a signal or a restart."""
    context = client_context(authority.ca)
    data = tmp_path / "data"
    data.mkdir()
    write_fleet(data, [])
    with serving(data, config=CONFIG + door(pair)) as server:
        address = place(server.url)
        assert asked(address, context) == (200, "max-age=31536000", "first")
        assert b"HTTP" not in plain_answer(address)
        authority.issue("second", into=pair)
        until_s = time.monotonic() + 60
        while asked(address, context)[2] != "second":
            assert time.monotonic() < until_s
            time.sleep(0.5)


@contextmanager
def watching(folder: Path, more: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`fallow-orchestrate watch` with more settings, and its log."""
    with house(folder) as made:
        made.write_settings(text=SETTINGS, more=more)
        log = folder / "watch.log"
        command = [sys.executable, "-m", "orchestrate", "watch", "--config", str(made.settings)]
        with log.open("wb") as out, start(command, out) as process:
            yield process, log


def test_owners_pages_speak_tls(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    """https and HSTS, nothing in plain text."""
    with watching(tmp_path, LINKS.format(listen="127.0.0.1:0") + door(pair)) as (process, log):
        while (found := _OWNERS.search(log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        address = place(found[1])
        assert asked(address, client_context(authority.ca)) == (404, "max-age=31536000", "first")
        assert b"HTTP" not in plain_answer(address)


def test_owners_pages_in_plain_text_for_others_are_exit_2(tmp_path: Path) -> None:
    """The setting to change is named; nothing runs."""
    with watching(tmp_path, LINKS.format(listen="0.0.0.0:0")) as (process, log):
        assert process.wait(60) == 2
        assert "orchestrate.links.listen: 0.0.0.0:0 would be plain text" in log.read_text()
        assert "orchestrate.links.plain_behind_proxy" in log.read_text()
