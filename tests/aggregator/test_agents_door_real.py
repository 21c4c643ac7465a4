"""The agents' door over real sockets: what an in-memory transport cannot show."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aggregator.door_parts import connections_for
from tests.aggregator.door_fakes import (
    answers_in,
    request,
)

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def served(
    tmp_path: Path, *, fds: int | None = None, pem: Path | None = None, **limits: float
) -> Iterator[tuple[str, int]]:
    """A door with fake parts in a process of its own."""
    limit = "" if fds is None else f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({fds}, {fds}))\n"
    listen = "port = reactor.listenTCP(0, AgentsDoorFactory(parts, reactor), interface='127.0.0.1', backlog=200)"
    if pem is not None:
        listen = (
            "from twisted.internet.ssl import PrivateCertificate\n"
            f"options = PrivateCertificate.loadPEM(open({str(pem)!r}).read()).options()\n"
            "port = reactor.listenSSL(0, AgentsDoorFactory(parts, reactor), options, interface='127.0.0.1')"
        )
    script = tmp_path / "serve.py"
    script.write_text(
        f"{limit}from twisted.internet import reactor\n"
        "from tests.aggregator.door_fakes import Bench\n"
        "from aggregator.agents_door import AgentsDoorFactory\n"
        f"parts = Bench(**{limits!r}).parts\n"
        f"{listen}\n"
        "print(port.getHost().port, flush=True)\n"
        "reactor.run()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        yield "127.0.0.1", int(process.stdout.readline())
        assert process.poll() is None, "the door's process has died"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


def read_all(sock: socket.socket) -> bytes:
    """Everything until the peer closes."""
    found = b""
    while data := sock.recv(65536):
        found += data
    return found


def send_for_ever(sock: socket.socket, data: bytes) -> None:
    """Sends until the peer is gone, and never reads."""
    while True:
        sock.sendall(data)


@pytest.mark.real
def test_the_answer_to_a_body_too_large_arrives(tmp_path: Path) -> None:
    """A client that is still sending when it is refused reads its 413, not a reset of the connection."""
    with served(tmp_path) as address, socket.create_connection(address, timeout=20) as sock:
        sock.sendall(request(b"", content_length=str(8 << 20)) + b"x" * (4 << 20))
        assert answers_in(read_all(sock))[0].status == 413


@pytest.mark.real
def test_row_32_a_real_client_that_never_reads_is_closed(tmp_path: Path) -> None:
    """Fault 32 over TCP: answers pile up until the kernel takes no more; the door stops reading, then closes."""
    ask = request(b"", method="GET", path="/nothing-here-" + "x" * 100)
    with served(tmp_path, request_s=1.0, sweep_s=0.1) as address, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(20)
        sock.connect(address)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            send_for_ever(sock, ask * 100)


@pytest.mark.real
def test_row_31_slow_clients_are_cut_and_others_served(tmp_path: Path) -> None:
    """Fault 31 over TCP: many connections at a byte now and then do not keep a push waiting, and end."""
    with served(tmp_path, request_s=1.0, sweep_s=0.1) as address:
        slow = [socket.create_connection(address, timeout=20) for _ in range(200)]
        try:
            for sock in slow:
                sock.sendall(b"P")
            with socket.create_connection(address, timeout=20) as sock:
                sock.sendall(request(connection="close"))
                assert answers_in(read_all(sock))[0].status == 204
            assert {answers_in(read_all(sock))[0].status for sock in slow} == {408}
        finally:
            for sock in slow:
                sock.close()


@pytest.mark.real
def test_row_20_an_fd_limit_of_40_refuses_and_recovers(tmp_path: Path) -> None:
    """Fault 20: with descriptors exhausted new connections are refused or wait; once there are some, all is well."""
    with served(tmp_path, fds=40, connections=10_000) as address:
        held = [socket.create_connection(address, timeout=20) for _ in range(100)]
        for sock in held:
            sock.close()
        deadline_s = time.monotonic() + 60
        while True:
            with socket.create_connection(address, timeout=20) as sock:
                try:
                    sock.sendall(request(connection="close"))
                    data = read_all(sock)
                except ConnectionError:
                    data = b""
            if data:
                break
            assert time.monotonic() < deadline_s, "the door did not recover"
        assert answers_in(data)[0].status == 204


@pytest.mark.real
def test_row_20_our_own_bound_answers_below_the_fd_limit(tmp_path: Path) -> None:
    """Fault 20 with the bound derived from the limit: the surplus reads 503, and those held are served."""
    with served(tmp_path, fds=60, connections=connections_for(60)) as address:
        held = [socket.create_connection(address, timeout=20) for _ in range(connections_for(60))]
        try:
            with socket.create_connection(address, timeout=20) as sock:
                assert answers_in(read_all(sock))[0].status == 503
            for sock in held:
                sock.sendall(HEALTH)
                assert answers_in(sock.recv(65536))[0].status == 200
        finally:
            for sock in held:
                sock.close()


def write_certificate(path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.real
def test_tls_connections_get_the_same_answers(tmp_path: Path) -> None:
    """Pipelined pushes, a framing error and a client that goes quiet, over TLS."""
    pem = write_certificate(tmp_path / "door.pem")
    context = ssl.create_default_context(cafile=str(pem))
    with served(tmp_path, pem=pem, request_s=1.0, sweep_s=0.1) as address:

        def connect() -> ssl.SSLSocket:
            return context.wrap_socket(socket.create_connection(address, timeout=20), server_hostname="127.0.0.1")

        with connect() as sock:
            sock.sendall(request() * 20 + b"\0")
            assert [answer.status for answer in answers_in(read_all(sock))] == [204] * 20 + [400]
        with connect() as sock:
            sock.sendall(request()[:-1])
            assert answers_in(read_all(sock))[0].status == 408
        with connect() as sock:
            sock.sendall(request(connection="close"))
            assert answers_in(read_all(sock))[0].status == 204
