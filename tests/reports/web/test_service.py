"""`fallow-report serve` as a program: it starts, says where, judges the fleet, and ends when it is told to."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from aggregator.listen_settings import ListenSettings, TlsFiles
from aggregator.problems import Refused
from reports.config import ReportConfig, ServeConfig
from reports.web.answers import Asked
from reports.web.page_server import link_origin, surface_of
from reports.web.service import _link_to
from tests.reports.fleets import Spec, one_of_each, write_fleet
from tests.reports.web.programs import Server, aggregating, serving

pytestmark = pytest.mark.real
DONE, FAILED, USAGE = 0, 1, 2
TLS = ListenSettings(tls=TlsFiles(cert=Path("c"), key=Path("k")))


def ask(server: Server, target: str, host: str | None = None) -> tuple[int, bytes]:
    """Status and body of one request."""
    place = urlsplit(server.url).netloc
    connection = http.client.HTTPConnection(place, timeout=60)
    try:
        connection.request("GET", target, headers={"Host": host or place, **(server.headers if server.token else {})})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_it_serves_judges_and_ends(tmp_path: Path) -> None:
    """Pages are there at once, verdicts are stored soon after, and SIGTERM ends it with code 0."""
    write_fleet(tmp_path, one_of_each())
    with serving(tmp_path) as server:
        assert "no account" not in server.said
        for target in ("/", "/vms", "/vms/vm-idle", "/health", "/compare", "/v1/report"):
            assert ask(server, target)[0] == 200, target
        assert ask(server, "/", host="evil.example")[0] == 403
        status, script = ask(server, "/static/plotly-nothing.min.js")
        assert status == 404
        page = ask(server, "/vms/vm-idle")[1].decode()
        (script_at,) = re.findall(r'src="(/static/plotly-[^"]+)"', page)
        status, script = ask(server, script_at)
        assert (status, b"plotly" in script[:400]) == (200, True)
        while not _stored(tmp_path):
            assert server.process.poll() is None, server.said
            time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() == DONE, server.said
        assert "Traceback" not in server.said


def _stored(data_dir: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(data_dir / "fleet.db")) as connection:
        return connection.execute("SELECT scope, vms FROM judging WHERE judged_s > 0").fetchall()


def test_series_come_from_the_aggregator(tmp_path: Path) -> None:
    """A running aggregator answers for charts and for health; without one the page says so."""
    write_fleet(tmp_path, [Spec(vm_id="only")])
    with aggregating(tmp_path) as address, serving(tmp_path, aggregator=address) as server:
        status, body = ask(server, "/v1/vms/only/series")
        assert (status, json.loads(body)["ends_s"]) == (200, [])
        health = json.loads(ask(server, "/v1/health")[1])
        assert (health["aggregator"]["ready"], health["aggregator_problem"]) == (True, None)
    with serving(tmp_path) as server:
        status, body = ask(server, "/v1/vms/only/series")
        assert (status, b"127.0.0.1:9" in body) == (503, True)
        assert "127.0.0.1:9" in json.loads(ask(server, "/v1/health")[1])["aggregator_problem"]


def test_sigterm_ends_it_while_a_page_is_made(tmp_path: Path) -> None:
    """A request that waits for a locked database keeps nobody from stopping the server."""
    write_fleet(tmp_path, [Spec(vm_id="only")])
    new = {"kind": "vm", "subject": "only", "until": "3650d", "reason": "locked", "owner": "ann"}
    body = json.dumps(new).encode()
    with (
        serving(tmp_path) as server,
        closing(sqlite3.connect(tmp_path / "fleet.db", isolation_level=None, timeout=60)) as holder,
        socket.create_connection(_place(server)) as waiting,
    ):
        holder.execute("BEGIN IMMEDIATE")
        head = f"POST /v1/exemptions HTTP/1.1\r\nHost: {urlsplit(server.url).netloc}\r\nContent-Length: {len(body)}\r\n"
        head += f"Authorization: {server.token}\r\n"
        waiting.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        # What was sent before this is being worked on by now.
        assert ask(server, "/policies")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() == DONE, server.said
        # It went without an answer: had it waited for the database, there would be one of 503.
        assert waiting.recv(1) == b""


def _place(server: Server) -> tuple[str, int]:
    parts = urlsplit(server.url)
    return str(parts.hostname), int(parts.port or 0)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:8901", "example.org:80", "[::]:0"])
def test_addresses_of_the_network_are_refused(tmp_path: Path, address: str) -> None:
    """Other machines must not reach the pages in plain text: exit code 2, and what to set."""
    write_fleet(tmp_path, [])
    command = [sys.executable, "-m", "reports", "serve", "--data", str(tmp_path), "--listen", address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == USAGE
    assert "--plain-behind-proxy" in done.stderr


def test_address_that_is_taken_fails(tmp_path: Path) -> None:
    """Somebody else listens there: exit code 1, and where."""
    write_fleet(tmp_path, [])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        address = f"127.0.0.1:{port}"
        command = [sys.executable, "-m", "reports", "serve", "--data", str(tmp_path), "--listen", address]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == FAILED
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


def test_no_fleet_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    """There has to be a fleet database, made by the aggregator: exit code 2, and what to do."""
    command = [sys.executable, "-m", "reports", "serve", "--data", str(tmp_path), "--listen", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == USAGE
    assert "there is no fleet database" in done.stderr


def test_loopback_of_ip_6_is_served(tmp_path: Path) -> None:
    """[::1] is this machine too."""
    write_fleet(tmp_path, [])
    with serving(tmp_path, "--listen", "[::1]:0") as server:
        assert server.url.startswith("http://[::1]:")
        assert ask(server, "/")[0] == 200


def test_first_start_prints_one_link(tmp_path: Path) -> None:
    """Without any account the program tells of a link that makes the first admin; the next start tells of another."""
    write_fleet(tmp_path, [])
    links = []
    for _ in range(2):
        with serving(tmp_path, admits=False) as server:
            (link,) = re.findall(rf"make the first admin, once, within a day: ({server.url}first/\S+)", server.said)
            links.append(link)
            statuses = [ask(server, f"/first/{each.rpartition('/')[2]}")[0] for each in links]
            assert statuses == [404] * (len(links) - 1) + [200]
            assert ask(server, "/v1/report")[0] == 401
            assert ask(server, "/healthz") == (200, b'{"status":"ok"}')
    with serving(tmp_path) as server:
        assert "/first/" not in server.said
        assert ask(server, f"/first/{links[-1].rpartition('/')[2]}")[0] == 404


@pytest.mark.parametrize(
    ("listen", "names", "door", "wanted"),
    [
        ("127.0.0.1", (), ListenSettings(), "http://127.0.0.1:5/first/x"),
        ("0.0.0.0", (), TLS, "https://127.0.0.1:5/first/x"),
        ("0.0.0.0", ("a.example",), TLS, "https://a.example:5/first/x"),
        ("127.0.0.1", ("a.example",), ListenSettings(plain_behind_proxy=True), "https://a.example/first/x"),
        ("::1", (), ListenSettings(), "http://[::1]:5/first/x"),
    ],
)
def test_first_link_is_under_a_name_that_works(
    listen: str, names: tuple[str, ...], door: ListenSettings, wanted: str
) -> None:
    """That which browsers may use, over TLS where it is spoken, without a port behind a proxy."""
    serve = ServeConfig(listen=(listen, 5), names=names, door=door)
    host = f"[{listen}]" if ":" in listen else listen
    assert _link_to(ReportConfig(serve=serve), f"http://{host}:5/", "x") == wanted


@pytest.mark.parametrize(
    ("origin", "names", "door", "wanted"),
    [
        ("https://127.0.0.1:9", (), TLS, "https://127.0.0.1:9"),
        ("https://127.0.0.1:9", ("a.example", "b.example"), TLS, "https://a.example:8901"),
        ("https://b.example:9", ("a.example", "b.example"), TLS, "https://a.example:8901"),
        ("https://a.example:9", ("a.example",), TLS, "https://a.example:9"),
        ("https://a.example", ("a.example",), TLS, "https://a.example"),
        ("https://[::1]:9", ("a.example",), ListenSettings(plain_behind_proxy=True), "https://a.example"),
        ("https://a.example:8443", ("a.example",), ListenSettings(plain_behind_proxy=True), "https://a.example:8443"),
        ("https://[fd00::1]:9", ("[fd00::1]",), TLS, "https://[fd00::1]:9"),
        ("http://localhost:99999", ("a.example",), ListenSettings(), "http://a.example:8901"),
        ("http://localhost", (), ListenSettings(), "http://localhost"),
    ],
)
def test_links_for_others_are_under_the_first_name(
    origin: str, names: tuple[str, ...], door: ListenSettings, wanted: str
) -> None:
    """However whoever makes them came; one who came by that name is taken by its word on the port."""
    assert link_origin(ServeConfig(listen=("127.0.0.1", 8901), names=names, door=door), origin) == wanted


@pytest.mark.parametrize(
    ("listen", "taken", "refused"),
    [
        ("10.0.0.5", "10.0.0.5:8901", "10.0.0.6"),
        ("0.0.0.0", "127.0.0.1", "0.0.0.0"),
        ("::", "[::1]", "[::]"),
        ("fd00::1", "[fd00::1]:1", "[fd00::2]"),
    ],
)
def test_address_of_the_server_is_a_name_of_it(listen: str, taken: str, refused: str) -> None:
    """The one that is listened on, as nobody else can make a name of theirs lead there; that of all is none."""
    surface = surface_of(ServeConfig(listen=(listen, 8901)))
    surface.check_host(taken)
    with pytest.raises(Refused):
        surface.check_host(refused)


def test_server_writes_no_secret_anywhere(tmp_path: Path) -> None:
    """Not into its log and not into the database: passwords that are typed, sessions, tokens, links; mistakes too."""
    write_fleet(tmp_path, [])
    canary = "canary of a password"
    with serving(tmp_path) as server:
        place = urlsplit(server.url).netloc
        connection = http.client.HTTPConnection(place, timeout=60)
        connection.request("GET", "/login")
        answer = connection.getresponse()
        cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
        (token,) = re.findall(r'name="csrf" value="([0-9a-f]+)"', answer.read().decode())
        form = urlencode({"csrf": token, "account": "admin-ann", "password": canary, "next": "/"})
        headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
        for target in ("/login", f"/first/{'c' * 43}", f"/password/{'c' * 43}"):
            connection.request("POST", target, form, headers)
            answer = connection.getresponse()
            assert answer.status in {401, 404}
            assert canary not in answer.read().decode()
        connection.close()
        secrets = (canary, "c" * 43, server.token.rpartition("_")[2], server.cookie.partition("=")[2], token)
    # Ended: all of it is written.
    written = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"serve.log", "fleet.db"} <= written.keys()
    for secret in secrets:
        assert [name for name, data in written.items() if secret.encode() in data] == []


def test_what_is_asked_shows_no_secret() -> None:
    """A request that ends up in a traceback tells neither the form nor the link nor the cookie."""
    asked = Asked(ids=("hidden",), form={"password": "hidden"}, csrf="hidden", target="/hidden", cookie="hidden")
    assert "hidden" not in repr(replace(asked, browser="hidden", document="hidden", query={"code": "hidden"}))
