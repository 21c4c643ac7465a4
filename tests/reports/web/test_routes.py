"""Which handler an address leads to."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.problems import Refused
from reports.people.roles import Role
from reports.web.routes import ROUTES, Kind, MethodRefused, Route, Router, is_api

ROUTER = Router()


def test_every_route_is_found_by_its_path() -> None:
    """The table leads each method and path to its own entry, with what stands in the path."""
    for route in ROUTES:
        path = route.path
        path = re.sub("{[a-z]+}", "a%2Fb%20%C3%BC", path)
        found = ROUTER.find(route.method, path.encode())
        assert found.route is route
        assert found.ids == ("a/b ü",) * route.path.count("{")


def test_names_of_handlers_are_unique() -> None:
    """Two routes with one handler would hide one of them."""
    assert len({route.name for route in ROUTES}) == len(ROUTES)


def test_what_changes_something_is_not_for_viewers() -> None:
    """But for their own account, viewers look: whatever else is no GET needs more."""
    own = ("/logout", "/account")
    for route in ROUTES:
        if not route.open and route.method != "GET" and not route.path.startswith(own):
            assert route.role is not None
            assert route.role.covers(Role.OPERATOR), route


def test_only_doors_are_open() -> None:
    """What anybody may ask, logged in or not, is this list."""
    assert {route.path for route in ROUTES if route.open} == {
        *("/login", "/login/provider", "/login/return", "/first/{secret}", "/password/{secret}"),
        *("/static/{file}", "/healthz", "/openapi.json"),
    }


@pytest.mark.parametrize("declared", [{}, {"role": Role.VIEWER, "open": True}])
def test_undeclared_route_is_refused(declared: dict[str, Any]) -> None:
    """A route that forgets who may use it, or says two things, does not come to exist."""
    with pytest.raises(ValueError, match="needs a role"):
        Route("GET", "/x", "x", **declared)


@pytest.mark.parametrize(
    "path", [b"/nothing", b"/vms/", b"/vms//keep", b"//", b"/vms/a/b", b"/v1", b"/vms/" + b"a" * 257, b"/VMS"]
)
def test_unknown_paths_are_404(path: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(Refused) as refused:
        ROUTER.find("GET", path)
    assert refused.value.problem.status == 404


def test_other_methods_are_405_and_say_which() -> None:
    """A known path names what it takes; HEAD goes with GET."""
    with pytest.raises(MethodRefused) as refused:
        ROUTER.find("DELETE", b"/vms")
    assert refused.value.problem.status == 405
    assert refused.value.allowed == ("GET", "HEAD")
    with pytest.raises(MethodRefused) as refused:
        ROUTER.find("GET", b"/vms/a/keep")
    assert refused.value.allowed == ("POST",)
    assert ROUTER.find("HEAD", b"/").route.name == "fleet"


def test_errors_of_the_api_are_for_programs() -> None:
    """Every API route answers problems as documents, no page does."""
    for route in ROUTES:
        assert is_api(route.path.encode()) is (route.kind is Kind.API)


@given(path=st.binary(max_size=80), method=st.sampled_from(["GET", "POST", "HEAD", "X"]))
def test_any_path_is_a_route_or_refused(path: bytes, method: str) -> None:
    """No request line breaks the router, and an id is never empty."""
    try:
        found = ROUTER.find(method, path)
    except Refused as refused:
        status = refused.problem.status
        assert status in {404, 405}
    else:
        assert all(found.ids)
