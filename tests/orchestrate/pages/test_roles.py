"""Every route, asked by nobody and by every role, on the real server: who is let in is what openapi.json says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pytest

from orchestrate.pages.routes import ROUTES
from reports.people.roles import Role
from tests.orchestrate.control_house import house
from tests.orchestrate.pages.programs import admit, serving_plans
from tests.reports.people.persons import Entry
from tests.reports.web.programs import Server
from tests.reports.web.test_roles import VISITORS, ask

pytestmark = pytest.mark.real

DOCUMENT: dict[str, Any] = json.loads(files("orchestrate.pages").joinpath("openapi.json").read_bytes())
OPERATIONS = sorted(
    ((method.upper(), path, one) for path, item in DOCUMENT["paths"].items() for method, one in item.items()),
    # A log-out ends the session with which the others are asked.
    key=lambda operation: operation[1] == "/logout",
)


@dataclass(frozen=True)
class Town:
    """A server, and how each role is let in."""

    server: Server
    entries: dict[Role, Entry]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with house(tmp_path_factory.mktemp("cloud")) as cloud:
        entries = {role: admit(cloud.folder, role) for role in Role}
        with serving_plans(cloud) as server:
            yield Town(server, entries)


def test_every_route_is_declared() -> None:
    """No route is missing in the document, none in the document is missing in the table, and each says for whom."""
    served = {(route.method, route.path): "open" if route.role is None else route.role.value for route in ROUTES}
    told = {
        (method, path): "open" if one.get("x-fallow-open") is True else one["x-fallow-role"]
        for method, path, one in OPERATIONS
    }
    assert told == served
    for _, path, one in OPERATIONS:
        assert ("x-fallow-role" in one) is not ("x-fallow-open" in one), path


@pytest.mark.parametrize("visitor", VISITORS, ids=[str(visitor or "nobody") for visitor in VISITORS])
def test_route_lets_in_whom_it_says(town: Town, visitor: Role | None) -> None:
    """Nobody is sent to the log-in or answered 401, too small a role 403, and the right one gets past the door."""
    entry = None if visitor is None else town.entries[visitor]
    for method, path, one in OPERATIONS:
        status, location, body = ask(town.server, method, re.sub("{[a-z]+}", "x", path), entry)
        told = (method, path, status, body[:300])
        if "x-fallow-open" in one:
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
