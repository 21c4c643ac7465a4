"""Where servers begin to listen: plain text stays on this machine, and a certificate is looked at while they serve."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as the_reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource

from agent.settings import ConfigError
from aggregator.addresses import parse_networks
from aggregator.admin_site import AdminSite
from aggregator.listen_settings import ListenSettings, TlsFiles
from aggregator.listening import LOOK_S, Listening, refuse_plain
from tests.aggregator.certificates import Authority, Pair, client_context
from tests.aggregator.service_fakes import running

reactor: Any = the_reactor
new_reactor: Any = MemoryReactorClock
HOSTS = ("0.0.0.0", "::", "192.0.2.1", "example.org")


class Greeter(Protocol):
    """Says hello, and sends back what comes."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.write(b"hello")

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


def greeter() -> Any:
    factory = Factory.forProtocol(Greeter)
    factory.noisy = False
    return factory


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours", "ours")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("first")


def files(pair: Pair, client_ca: Path | None = None) -> TlsFiles:
    return TlsFiles(cert=pair.cert, key=pair.key, client_ca=client_ca)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("listen", ["tls.cert and tls.key", "plain_behind_proxy (--plain-behind-proxy)"]),
        (
            "report.serve.listen",
            [
                "report.serve.tls_cert and report.serve.tls_key",
                "report.serve.plain_behind_proxy (--plain-behind-proxy)",
            ],
        ),
        ("orchestrate.links.listen", ["orchestrate.links.tls_cert", "or orchestrate.links.plain_behind_proxy where"]),
    ],
)
def test_plain_text_for_other_machines_is_refused(host: str, key: str, names: list[str]) -> None:
    """The message names the address, the setting, what to set instead, and the option where there is one."""
    with pytest.raises(ConfigError) as caught:
        refuse_plain((host, 8899), ListenSettings(), key=key)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{key}: ")
    assert all(text in problem for text in [f"{host}", *names])
    refuse_plain((host, 8899), ListenSettings(plain_behind_proxy=True), key=key)


@pytest_twisted.ensureDeferred
async def test_nothing_listens_where_it_must_not() -> None:
    """`listen` itself refuses: no caller can forget to ask."""
    fake = new_reactor()
    with pytest.raises(ConfigError, match="would be plain text"):
        await Listening(ListenSettings(), reactor=fake, clock=time.time).listen(("0.0.0.0", 1), greeter(), key="listen")
    assert (fake.tcpServers, fake.sslServers) == ([], [])


@pytest_twisted.ensureDeferred
async def test_what_listens_how(pair: Pair) -> None:
    """With a certificate TLS everywhere, but for a server that is plain on loopback; without one plain on loopback."""
    settings = ListenSettings(tls=files(pair))
    for host, loopback_tls, is_tls in (
        ("0.0.0.0", True, True),
        ("0.0.0.0", False, True),
        ("127.0.0.1", True, True),
        ("localhost", False, False),
        ("::1", False, False),
    ):
        fake = new_reactor()
        listening = Listening(settings, reactor=fake, clock=time.time)
        await listening.listen((host, 1), greeter(), key="listen", loopback_tls=loopback_tls)
        assert (len(fake.sslServers), len(fake.tcpServers)) == ((1, 0) if is_tls else (0, 1))
        interface = (fake.sslServers or fake.tcpServers)[0][-1]
        assert interface == ("127.0.0.1" if host == "localhost" else host)
        listening.stop()
        assert fake.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_site_is_told_of_proxies_and_of_https() -> None:
    """Behind a proxy browsers come by https, and connections of the proxy are not counted by address."""
    fake = new_reactor()
    site = AdminSite(Resource(), reactor=Clock())  # type: ignore[no-untyped-call]
    settings = ListenSettings(plain_behind_proxy=True, proxies=parse_networks(["10.0.0.0/8"]))
    await Listening(settings, reactor=fake, clock=time.time).listen(("0.0.0.0", 1), site, key="admin")
    assert "Strict-Transport-Security" in site.headers(is_secure=False)
    assert site._per_address.enter("10.1.2.3") == ""


@pytest_twisted.ensureDeferred
async def test_row_41_the_files_are_looked_at_every_few_seconds(authority: Authority, pair: Pair) -> None:
    """By the reactor's clock; trouble with one look does not end the looking."""
    fake = new_reactor()
    listening = Listening(ListenSettings(tls=files(pair)), reactor=fake, clock=time.time)
    await listening.listen(("127.0.0.1", 1), greeter(), key="listen")
    assert listening.certificate is not None
    authority.issue("second", into=pair)
    pair.key.chmod(0o644)
    fake.advance(LOOK_S)
    assert listening.certificate.failures == 1
    newer = authority.issue("third", into=pair)
    pair.key.chmod(0o600)
    fake.advance(LOOK_S)
    assert listening.certificate.expires_s == newer.expires_s
    assert listening.certificate.failures == 1
    listening.stop()
    assert fake.getDelayedCalls() == []


@asynccontextmanager
async def served(settings: ListenSettings, *, clients: bool = True) -> AsyncIterator[tuple[Listening, tuple[str, int]]]:
    """A greeter on a real port."""
    listening = Listening(settings, reactor=reactor, clock=time.time)
    port = await listening.listen(("127.0.0.1", 0), greeter(), key="listen", clients=clients)
    try:
        yield listening, ("127.0.0.1", port.getHost().port)
    finally:
        listening.stop()
        await port.stopListening()


def greeted(address: tuple[str, int], context: ssl.SSLContext) -> str:
    """Says hello to a server; returns the name in its certificate, or why there was no hello."""
    try:
        with context.wrap_socket(socket.create_connection(address, timeout=60), server_hostname=address[0]) as sock:
            assert sock.recv(5) == b"hello"
            return name_of(sock)
    except ssl.SSLError as error:
        return str(error.reason)


def name_of(sock: ssl.SSLSocket) -> str:
    certificate: Any = sock.getpeercert()
    return str(certificate["subject"][0][0][1])


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_row_41_open_connections_stay_when_the_certificate_changes(authority: Authority, pair: Pair) -> None:
    """Over sockets: who is connected goes on, who connects meets the new one."""
    context = client_context(authority.ca)
    async with served(ListenSettings(tls=files(pair))) as (listening, address):

        def connect() -> ssl.SSLSocket:
            sock = context.wrap_socket(socket.create_connection(address, timeout=60), server_hostname="127.0.0.1")
            assert sock.recv(5) == b"hello"
            return sock

        def echo(sock: ssl.SSLSocket) -> bytes:
            sock.sendall(b"still")
            return sock.recv(5)

        old = await deferToThread(connect)
        authority.issue("second", into=pair)
        listening.look()
        assert await deferToThread(greeted, address, context) == "second"
        assert await deferToThread(echo, old) == b"still"
        assert name_of(old) == "first"
        old.close()


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_clients_certificates_are_asked_for_over_sockets(
    authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    """None or a stranger's: no word is said to it; the right one, or a server that asks nobody: hello."""
    stranger = Authority(tmp_path / "stranger", "stranger").issue("agent")
    ours = authority.issue("agent")
    settings = ListenSettings(tls=files(pair, authority.ca))
    async with served(settings) as (_, address):
        for shown, said in ((None, "CERTIFICATE_REQUIRED"), (stranger, "UNKNOWN_CA"), (ours, "first")):
            found = await deferToThread(greeted, address, client_context(authority.ca, shown))
            assert said in found, found
    async with served(settings, clients=False) as (_, address):
        assert await deferToThread(greeted, address, client_context(authority.ca)) == "first"


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_old_versions_and_plain_text_are_not_spoken(authority: Authority, pair: Pair) -> None:
    """TLS 1.1 and weak ciphers: refused; HTTP in plain text: not a byte of an answer."""

    def plain(address: tuple[str, int]) -> bytes:
        with socket.create_connection(address, timeout=60) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            return sock.recv(100)

    old = client_context(authority.ca)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    weak = client_context(authority.ca)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES128-SHA:AES256-GCM-SHA384:ECDHE-ECDSA-AES128-SHA")
    async with served(ListenSettings(tls=files(pair))) as (_, address):
        for context in (old, weak):
            assert await deferToThread(greeted, address, context) not in {"first", ""}
        assert b"HTTP" not in await deferToThread(plain, address)


# The aggregator.


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_row_41_the_metrics_tell_when_the_certificate_ends(
    authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    """Its end and new files that could not be used, at the admin door, which stays plain on loopback."""
    async with running(tmp_path / "data", tls_cert=pair.cert, tls_key=pair.key) as house:
        figures = await house.metrics()
        assert figures["fallow_tls_expires_timestamp_seconds"] == pair.expires_s
        assert figures["fallow_tls_reload_failures_total"] == 0
        pair.cert.write_text("half of it")
        house.service.look_at_certificate()
        figures = await house.metrics()
        assert figures["fallow_tls_expires_timestamp_seconds"] == pair.expires_s
        assert figures["fallow_tls_reload_failures_total"] == 1
    async with running(tmp_path / "plain") as house:
        assert not [name for name in await house.metrics() if name.startswith("fallow_tls")]


@contextmanager
def aggregator(data: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[str], tuple[str, int]]]]:
    """A real `fallow-aggregator run`, and where its doors listen."""
    argv = [sys.executable, "-m", "aggregator", "run", "--data", str(data), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*argv, "--admin", "127.0.0.1:0", *options], stderr=subprocess.PIPE, text=True)

    def door(name: str) -> tuple[str, int]:
        path, until_s = data / name, time.monotonic() + 60
        while not (path.exists() and path.read_text().endswith("\n")):
            assert process.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.02)
        host, _, port = path.read_text().strip().rpartition(":")
        return host, int(port)

    try:
        yield process, door
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


@pytest.mark.real
def test_row_41_sighup_reads_a_new_certificate(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    """The real program: new handshakes get it, and it goes on running."""
    context = client_context(authority.ca)

    def name(address: tuple[str, int]) -> str:
        with context.wrap_socket(socket.create_connection(address, timeout=60), server_hostname="127.0.0.1") as sock:
            return name_of(sock)

    options = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key))
    with aggregator(tmp_path / "data", *options) as (process, door):
        address = door("agents.address")
        assert name(address) == "first"
        authority.issue("second", into=pair)
        os.kill(process.pid, signal.SIGHUP)
        until_s = time.monotonic() + 60
        while name(address) != "second":
            assert time.monotonic() < until_s
            time.sleep(0.02)
        assert process.poll() is None


@pytest.mark.real
@pytest.mark.parametrize("option", ["--listen", "--admin"])
def test_a_door_in_plain_text_for_others_is_exit_2(tmp_path: Path, option: str) -> None:
    """The program ends before anything is made, and names setting and option."""
    argv = [sys.executable, "-m", "aggregator", "run", "--data", str(tmp_path / "data"), option, "0.0.0.0:0"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "--plain-behind-proxy" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


@pytest.mark.real
def test_a_door_behind_a_proxy_listens_when_told_so(tmp_path: Path) -> None:
    """The option needs no value."""
    with aggregator(tmp_path / "data", "--listen", "0.0.0.0:0", "--plain-behind-proxy") as (_, door):
        assert door("agents.address")[0] == "0.0.0.0"
