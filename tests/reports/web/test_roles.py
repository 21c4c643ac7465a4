"""Every route, asked by nobody and by every role, on the real server: who is let in is what openapi.json says."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from reports.people.roles import Role
from reports.web.routes import ROUTES
from reports.web.security import CSRF_HEADER
from tests.reports.fleets import one_of_each, write_fleet
from tests.reports.people.persons import Entry
from tests.reports.web.programs import Server, admit, serving

pytestmark = pytest.mark.real

DOCUMENT: dict[str, Any] = json.loads(files("reports").joinpath("openapi.json").read_bytes())
OPERATIONS = sorted(
    ((method.upper(), path, one) for path, item in DOCUMENT["paths"].items() for method, one in item.items()),
    # A log-out ends the session with which the others are asked.
    key=lambda operation: operation[1] == "/logout",
)
VISITORS: tuple[Role | None, ...] = (None, *Role)


@dataclass(frozen=True)
class Town:
    """A server, and how each role is let in. `nobody`: a pre-session cookie with its token."""

    server: Server
    entries: dict[Role, Entry]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    data_dir = tmp_path_factory.mktemp("fleet")
    write_fleet(data_dir, one_of_each())
    with serving(data_dir) as server:
        yield Town(server, {role: admit(data_dir, role) for role in Role})


def ask(server: Server, method: str, path: str, entry: Entry | None) -> tuple[int, str, bytes]:
    """Status, Location and body of one request as a browser of this person sends it."""
    place = urlsplit(server.url).netloc
    headers = {} if entry is None else {"Cookie": entry.cookie}
    body = None
    if method != "GET":
        csrf = "" if entry is None else entry.csrf
        headers |= {"Origin": f"http://{place}", CSRF_HEADER: csrf}
        is_api = path.startswith("/v1/")
        headers["Content-Type"] = "application/json" if is_api else "application/x-www-form-urlencoded"
        body = "{}" if is_api else urlencode({"csrf": csrf})
    connection = http.client.HTTPConnection(place, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Location") or "", answer.read()
    finally:
        connection.close()


def test_every_route_is_declared() -> None:
    """No route is missing in the document, none in the document is missing in the table, and each says for whom."""
    assert {(method, path) for method, path, _ in OPERATIONS} == {(route.method, route.path) for route in ROUTES}
    for _, path, one in OPERATIONS:
        assert ("x-fallow-role" in one) is not ("x-fallow-open" in one), path
        assert one.get("x-fallow-role", "viewer") in set(Role)
        assert one.get("x-fallow-open", True) is True


@pytest.mark.parametrize("visitor", VISITORS, ids=[str(visitor or "nobody") for visitor in VISITORS])
def test_route_lets_in_whom_it_says(town: Town, visitor: Role | None) -> None:
    """Nobody is sent to the log-in or answered 401, too small a role 403, and the right one gets past the door."""
    entry = None if visitor is None else town.entries[visitor]
    for method, path, one in OPERATIONS:
        status, location, body = ask(town.server, method, re.sub("{[a-z]+}", "x", path), entry)
        told = (method, path, status, body[:300])
        if "x-fallow-open" in one:
            # A log-in form is checked before anything else, and these have no token of one.
            assert status == 403 if method == "POST" else status not in {401, 403}, told
            assert not location.startswith("/login?"), told
        elif visitor is None and "pages" in one.get("tags", ()):
            assert (status, location.partition("?")[0]) == (303, "/login"), told
        elif visitor is None:
            assert status == 401, told
        elif visitor.covers(Role(one["x-fallow-role"])):
            assert status not in {401, 403, 405, 500}, told
            assert path == "/logout" or not location.startswith("/login"), told
        else:
            assert status == 403, told
            assert b"needs the role" in body, told
