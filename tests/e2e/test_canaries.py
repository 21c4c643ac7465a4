"""No secret comes out: everything that the programs wrote, and how they were started, is searched for planted ones.

Used rightly and wrongly, with a database that breaks on the way, so that errors are among what is searched.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest

from agent.settings import parse_host_port
from tests.e2e.house import Aggregator, House

pytestmark = pytest.mark.real

DELIVERIES = """\
[report]
data = "{data}"
[report.serve]
listen = "127.0.0.1:0"
[[report.deliveries]]
name = "mail"
cron = "0 7 * * 1"
[report.deliveries.mail]
host = "127.0.0.1"
port = 1
user = "fallow"
password_file = "{smtp}"
from = "fallow@example.org"
to = ["cloud@example.org"]
[[report.deliveries]]
name = "hook"
cron = "0 7 * * 1"
webhook = {{ url = "http://127.0.0.1:1/hook", secret_file = "{hook}" }}
"""
AWAY = """\
[report]
fleet = "postgresql+psycopg://fallow:{password}@127.0.0.1:1/fallow"
"""


SECRETS = {
    *("admin-token", "token-key", "join-token", "vm-token", "newer-vm-token", "database"),
    *("smtp", "hook", "password", "mistyped", "api-token", "session"),
}


class Canaries:
    """Texts that nobody else makes up, by what they are the secret of, and the files that may hold them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.texts: dict[str, str] = {}
        self.kept_in: set[Path] = set()

    def plant(self, name: str, text: str | None = None) -> str:
        """Notes a secret; makes one up where none is given."""
        self.texts[name] = text or f"canary-{name}-{secrets.token_urlsafe(24)}"
        return self.texts[name]

    def file(self, name: str, path: Path | None = None, text: str | None = None) -> Path:
        """A file with a new secret, for its owner alone."""
        path = path or self._folder / f"{name}.secret"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(text or f"{self.plant(name)}\n")
        self.kept_in.add(path)
        return path

    def found_in(self, written: Mapping[str, bytes]) -> dict[str, list[str]]:
        """Where each secret stands, as it is or as an address spells it."""
        return {
            name: places
            for name, text in self.texts.items()
            if (places := [where for where, content in written.items() if _holds(content, text)])
        }

    def written(self) -> dict[str, bytes]:
        """Every file below the folder but those that are there to hold a secret."""
        files = (path for path in self._folder.rglob("*") if path.is_file() and path not in self.kept_in)
        return {str(path.relative_to(self._folder)): path.read_bytes() for path in files}


def _holds(content: bytes, text: str) -> bool:
    return text.encode() in content or quote(text, safe="").encode() in content


@pytest.fixture
def canaries(house: House) -> Canaries:
    return Canaries(house.folder)


def command_lines(house: House) -> dict[str, bytes]:
    """How the programs that run were started, as every user of the machine may read it; and with what environment."""
    seen = {}
    for program in house.programs.started:
        for name in ("cmdline", "environ"):
            path = Path(f"/proc/{program.process.pid}/{name}")
            seen[str(path)] = path.read_bytes() if path.exists() else b""
    return seen


def outputs(done: Mapping[str, object]) -> dict[str, bytes]:
    return {name: str(text).encode() for name, text in done.items()}


def status(address: str, method: str, path: str, headers: Mapping[str, str], body: str = "") -> int:
    """What the pages' server says to one request."""
    host, port = parse_host_port(address)
    connection = HTTPConnection(host, port, timeout=60)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def pages_address(house: House, log: Path) -> str:
    text = house.until(lambda: log.read_text() if "pages on http" in log.read_text() else None, "the pages' address")
    return urlsplit(text.partition("pages on ")[2].split()[0]).netloc


def use_the_agents_door(house: House, canaries: Canaries, aggregator: Aggregator) -> None:
    """Enrols, pushes, rotates; rightly and wrongly."""
    load = house.loads(1)[0]
    join_file = house.join_token(aggregator.data)
    canaries.kept_in.add(join_file)
    canaries.plant("join-token", join_file.read_text().strip())
    canaries.plant("vm-token", house.token(aggregator, load.vm))
    assert aggregator.push(load, [1]).acknowledged
    token = canaries.texts["vm-token"]
    for vm, body in ((load.vm, b"{"), ("vm-999", b"{}"), ("../x", b"")):
        headers = {"Authorization": f"Bearer {token}", "Fallow-VM": vm, "Content-Type": "application/json"}
        assert aggregator.request("POST", "/v1/samples", body, headers).status >= 400
    body = json.dumps({"join_token": canaries.texts["join-token"], "vm": "NOT AN ID"}).encode()
    assert aggregator.request("POST", "/v1/enroll", body, {"Content-Type": "application/json"}).status == 422
    headers = {"Authorization": f"Bearer {token}", "Fallow-VM": load.vm}
    rotated = aggregator.request("POST", "/v1/token", b"", headers)
    assert rotated.status == 200
    canaries.plant("newer-vm-token", json.loads(rotated.body)["token"])


def use_the_pages(house: House, canaries: Canaries, config: Path) -> None:
    """Logs in rightly and wrongly, with a password and with an API token."""
    data = house.folder / "data"
    password = canaries.file("password")
    fleet = ("--data", str(data))
    made = house.run("fallow-report", "user", "add", "ann", "--role", "admin", "--password-file", str(password), *fleet)
    assert made.returncode == 0, made.stderr
    token = house.run("fallow-report", "user", "token", "add", "ann", "--label", "ci", "--scope", "read", *fleet)
    assert token.returncode == 0, token.stderr
    canaries.plant("api-token", next(word for word in token.stdout.split() if len(word) > 30))
    program = house.programs.start(["fallow-report", "serve", "--config", str(config)])
    address = pages_address(house, program.log)
    bearer = {"Authorization": f"Bearer {canaries.texts['api-token']}"}
    assert status(address, "GET", "/v1/policies", bearer) == 200
    assert status(address, "POST", "/v1/exemptions", {**bearer, "Content-Type": "application/json"}, "{") >= 400
    canaries.plant("mistyped")
    log_in(address, canaries.texts["mistyped"], 401)
    session = log_in(address, canaries.texts["password"], 303)
    canaries.plant("session", session.partition("=")[2])
    assert status(address, "GET", "/vms", {"Cookie": session}) == 200
    break_the_database(data)
    for path in ("/vms", "/people", "/v1/report"):
        assert status(address, "GET", path, {"Cookie": session}) >= 400
        assert status(address, "GET", path, bearer) >= 400


def log_in(address: str, password: str, expected: int) -> str:
    """The cookie of the session, where there is one. The form's own cookie is no secret of anybody's."""
    host, port = parse_host_port(address)
    connection = HTTPConnection(host, port, timeout=60)
    try:
        connection.request("GET", "/login")
        response = connection.getresponse()
        page, cookie = response.read().decode(), (response.getheader("Set-Cookie") or "").partition(";")[0]
        csrf = page.partition('name="csrf" value="')[2].partition('"')[0]
        form = urlencode({"csrf": csrf, "account": "ann", "password": password, "next": "/"})
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie, "Origin": f"http://{address}"}
        connection.request("POST", "/login", form, headers)
        response = connection.getresponse()
        said = response.read().decode()
        assert response.status == expected, said
        return (response.getheader("Set-Cookie") or "").partition(";")[0]
    finally:
        connection.close()


def break_the_database(data: Path) -> None:
    """What was a database is none: from now on every request that needs it fails with all its traces."""
    for path in data.glob("fleet.db*"):
        path.write_bytes(b"this is no database " * 500)


def use_what_is_away(house: House, canaries: Canaries) -> Iterator[tuple[str, object]]:
    """Every program with a database that does not answer, whose password stands in its settings."""
    config = canaries.file("away", house.folder / "away.toml", AWAY.format(password=canaries.plant("database")))
    for argv in (
        ("fallow-report",),
        ("fallow-report", "user", "list"),
        ("fallow-orchestrate", "plans"),
        ("fallow-orchestrate", "audit", "verify"),
    ):
        done = house.run(*argv, "--config", str(config))
        assert done.returncode == 69, (argv, done.stderr)
        yield " ".join(argv), done.stdout + done.stderr
    settings = f'[fleet]\nurl = "postgresql+psycopg://fallow:{canaries.texts["database"]}@127.0.0.1:1/fallow"\n'
    config = canaries.file("aggregator", house.folder / "aggregator.toml", settings)
    done = house.run("fallow-aggregator", "run", "--config", str(config), "--data", str(house.folder / "other"))
    assert done.returncode != 0
    yield "fallow-aggregator run", done.stdout + done.stderr


def test_no_secret_is_written_anywhere(house: House, canaries: Canaries) -> None:
    """Not in a log, an error, a traceback, a database, a status file or a command line; in its own file alone."""
    data = house.folder / "data"
    data.mkdir()
    canaries.file("admin-token", data / "admin.token")
    key = secrets.token_hex(32)
    canaries.file("key", data / "token.key", f"k1:{canaries.plant('token-key', key)}\n")
    aggregator = house.aggregator()
    assert aggregator.ask("/v1/vms")
    use_the_agents_door(house, canaries, aggregator)
    config = house.folder / "report.toml"
    config.write_text(DELIVERIES.format(data=data, smtp=canaries.file("smtp"), hook=canaries.file("hook")))
    said: dict[str, object] = {}
    for name in ("mail", "hook"):
        done = house.run("fallow-report", "schedule", "--once", name, "--config", str(config))
        assert done.returncode == 1, done.stderr
        said[f"schedule {name}"] = done.stdout + done.stderr
    said.update(use_what_is_away(house, canaries))
    aggregator.flush()
    before = canaries.written()
    use_the_pages(house, canaries, config)
    started = command_lines(house)
    assert aggregator.stop() == 0
    assert canaries.texts.keys() == SECRETS
    assert canaries.found_in({**before, **canaries.written(), **outputs(said), **started}) == {}


def test_a_secret_that_came_out_is_found(house: House, canaries: Canaries) -> None:
    """Otherwise the test above says nothing: in a log, in an address's spelling, in the middle of a database."""
    text = canaries.plant("one", "s3cret/with+signs=")
    (house.folder / "some.log").write_bytes(b"token was " + text.encode())
    (house.folder / "other.db").write_bytes(b"\0\1" + quote(text, safe="").encode() + b"\xff")
    assert {name: sorted(places) for name, places in canaries.found_in(canaries.written()).items()} == {
        "one": ["other.db", "some.log"]
    }
