"""The configuration of HAProxy that deploy/ ships, in a real HAProxy before servers that stand for aggregators."""

from __future__ import annotations

import shutil
import socket
import ssl
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest

from bench import haproxy
from bench.kill_lives import Impatient
from bench.programs import Programs
from tests.aggregator.balanced import Stand, push, stands
from tests.aggregator.certificates import Authority

HAS_PROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin") is not None
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not HAS_PROXY, reason="needs haproxy (Debian: haproxy)"),
]

VMS = [f"vm-{number:04d}" for number in range(600)]


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    made = Programs(Path(sys.executable).parent, tmp_path / "logs", Impatient())
    try:
        yield made
    finally:
        made.stop_all()


@pytest.fixture
def servers() -> Iterator[list[Stand]]:
    with stands(3) as made:
        yield made


@pytest.fixture
def place(tmp_path: Path, programs: Programs, servers: list[Stand]) -> haproxy.Place:
    """HAProxy in plain text before three servers."""
    return haproxy.start_somewhere(programs, tmp_path, [server.address for server in servers])[0]


def until(programs: Programs, found: Callable[[], bool], what: str) -> None:
    programs.wait_until(lambda: found() or None, running=programs.started, within_s=60, what=what)


def pem_of(folder: Path) -> tuple[Path, Path]:
    """Certificate and key of a server in one file, and the authority that its clients trust."""
    authority = Authority(folder / "authority", "cloud")
    pair = authority.issue("edge")
    both = folder / "fallow.pem"
    both.write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
    return both, authority.ca


def test_haproxy_finds_nothing_to_say_about_it(tmp_path: Path) -> None:
    """Neither an error nor a warning, also with TLS on the way to the aggregators as its comment shows."""
    pem, ca = pem_of(tmp_path)
    place = haproxy.Place(
        folder=tmp_path,
        address=("127.0.0.1", 20_001),
        figures=("127.0.0.1", 20_002),
        servers=[("127.0.0.1", 20_003)] * 3,
        pem=pem,
    )
    plain = haproxy.configuration(place)
    (secured,) = (line for line in plain.splitlines() if line.startswith("    # default-server"))
    for text in (
        plain,
        plain.replace(secured, secured.replace("# ", "").replace("/etc/haproxy/fallow-ca.pem", str(ca))),
    ):
        place.configuration.write_text(text, encoding="utf-8")
        assert haproxy.check(place.configuration) == ""


def test_a_vm_goes_to_one_server_always(place: haproxy.Place, servers: list[Stand]) -> None:
    """Each push of a VM reaches the same server, whatever connection it comes on; each server has its share of VMs."""
    for _ in range(2):
        assert set(push(place.address, VMS)) == {204}
    homes = [server.vms() for server in servers]
    assert sum(map(len, homes)) == len(VMS)
    assert all(len(home) > len(VMS) / 3 * 0.75 for home in homes)


def test_agents_share_connections_to_a_server(place: haproxy.Place, servers: list[Stand]) -> None:
    """Many clients one after the other: far fewer connections behind the proxy than before it."""
    for vm in VMS[:60]:
        assert push(place.address, [vm]) == [204]
    connections = {asked.connection for server in servers for asked in server.asked}
    assert len(connections) <= 12


def test_a_server_that_dies_loses_its_vms_and_nobody_elses_move(
    place: haproxy.Place, servers: list[Stand], programs: Programs
) -> None:
    """No push fails, not even the first; the VMs of the others stay where they are."""
    push(place.address, VMS)
    before = [server.vms() for server in servers]
    servers[1].die()
    for server in servers:
        server.asked.clear()
    assert set(push(place.address, VMS)) == {204}
    assert (before[0] <= servers[0].vms(), before[2] <= servers[2].vms()) == (True, True)
    assert servers[0].vms() | servers[2].vms() == set(VMS)
    until(programs, lambda: haproxy.states(place)["two"].startswith("DOWN"), "two to be out")


def test_a_server_that_is_not_ready_gets_nothing_until_it_is(
    place: haproxy.Place, servers: list[Stand], programs: Programs
) -> None:
    """503 of /readyz, as one that drains says: its VMs go elsewhere, and come back afterwards."""
    push(place.address, VMS)
    home = servers[2].vms()
    servers[2].ready = False
    until(programs, lambda: haproxy.states(place)["three"].startswith("DOWN"), "three to be out")
    servers[2].asked.clear()
    assert set(push(place.address, VMS)) == {204}
    assert servers[2].asked == []
    servers[2].ready = True
    until(programs, lambda: haproxy.states(place)["three"].startswith("UP"), "three to be back")
    push(place.address, VMS)
    assert servers[2].vms() == home


def test_a_push_without_an_answer_goes_to_another_server(place: haproxy.Place, servers: list[Stand]) -> None:
    """The same request, whole; the client hears of the success alone."""
    servers[0].breaks_off = True
    assert set(push(place.address, VMS[:100], body=b'{"a": 1}')) == {204}
    broken = [asked for asked in servers[0].asked if asked.path == "/v1/samples"]
    assert broken
    others = {asked.headers["fallow-vm"]: asked.body for server in servers[1:] for asked in server.asked}
    assert all(others[asked.headers["fallow-vm"]] == asked.body == b'{"a": 1}' for asked in broken)


def test_an_enrolment_without_an_answer_is_not_repeated(place: haproxy.Place, servers: list[Stand]) -> None:
    """It may have used a join token: the agent is told, and decides."""
    for server in servers:
        server.breaks_off = True
    assert push(place.address, ["vm-1"], path="/v1/enroll") == [502]
    assert sum(len(server.asked) for server in servers) == 1


def test_what_a_client_says_of_its_address_is_replaced(place: haproxy.Place, servers: list[Stand]) -> None:
    """Forged headers do not reach an aggregator, which believes its proxy."""
    push(place.address, VMS[:10], X_Forwarded_For="192.0.2.1")
    said = {asked.headers["x-forwarded-for"] for server in servers for asked in server.asked}
    assert said == {"127.0.0.1"}


def test_tls_ends_at_the_edge(tmp_path: Path, programs: Programs, servers: list[Stand]) -> None:
    """Agents speak TLS 1.2 or newer to it, nothing older and no plain text."""
    pem, ca = pem_of(tmp_path)
    place, _ = haproxy.start_somewhere(programs, tmp_path, [server.address for server in servers], pem=pem)
    trusting = ssl.create_default_context(cafile=str(ca))
    connection = HTTPSConnection(*place.address, timeout=30, context=trusting)
    connection.request("POST", "/v1/samples", b"{}", {"Fallow-VM": "vm-1"})
    assert connection.getresponse().status == 204
    assert connection.sock.version() in ("TLSv1.2", "TLSv1.3")
    connection.close()
    with socket.create_connection(place.address, timeout=30) as plain:
        plain.sendall(b"GET /readyz HTTP/1.1\r\nHost: fallow\r\n\r\n")
        with suppress(ConnectionResetError):
            assert not plain.recv(1000).startswith(b"HTTP/1.1 2")


def test_a_slow_sender_takes_no_place_on_a_server(place: haproxy.Place, servers: list[Stand]) -> None:
    """A body that is not whole yet waits at the proxy: no server has heard of the request."""
    connection = HTTPConnection(*place.address, timeout=30)
    connection.putrequest("POST", "/v1/samples")
    connection.putheader("Fallow-VM", "vm-1")
    connection.putheader("Content-Length", "2")
    connection.endheaders(b"{")
    assert push(place.address, VMS[:50]) == [204] * 50
    time.sleep(0.2)
    asked = [asked for server in servers for asked in server.asked if asked.headers["fallow-vm"] == "vm-1"]
    assert asked == []
    connection.send(b"}")
    assert connection.getresponse().status == 204
    connection.close()


def test_its_own_figures_are_there_for_prometheus(place: haproxy.Place) -> None:
    """On loopback, each server by its name."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    host, port = place.figures
    with direct.open(f"http://{host}:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    assert 'haproxy_server_status{proxy="aggregators",server="three"' in text
