"""openapi.json and the API of the controller's pages say the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from orchestrate.approvals import State
from orchestrate.pages.api import MOST_LINES, USUAL_LINES
from orchestrate.pages.deeds import MAX_REASON_CHARS
from orchestrate.pages.plan_pages import MOST_PLANS, USUAL_PLANS
from orchestrate.pages.run_pages import MOST_RUNS, USUAL_RUNS
from orchestrate.plan import PlanKind
from orchestrate.records import Outcome
from reports.people.roles import Role
from tests.orchestrate.pages.house import Pages, plan_pages
from tests.reports.web.wire import Got

DOCUMENT: dict[str, Any] = json.loads(files("orchestrate.pages").joinpath("openapi.json").read_bytes())
SCHEMAS = DOCUMENT["components"]["schemas"]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Pages]:
    with plan_pages(tmp_path) as pages:
        yield pages


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """What a `$ref` stands for."""
    while "$ref" in node:
        target: Any = DOCUMENT
        for name in node["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        node = target
    return node


def check(got: Got, method: str, path: str, status: int) -> Any:
    """The answer has this status and is one that the document tells of; its JSON."""
    assert got.status == status, got.text
    answer = resolved(DOCUMENT["paths"][path][method.lower()]["responses"][str(status)])
    schema = answer["content"][got.headers["content-type"]]["schema"]
    jsonschema_rs.validate({**schema, "components": DOCUMENT["components"]}, got.json)
    assert all(name.lower() in got.headers for name in answer.get("headers", {})), path
    return got.json


def test_every_answer_is_as_described(made: Pages) -> None:
    """From a plan that waits to a run and a stop: each document is what the schema says."""
    sha256, viewer = made.suspending(), made.browser(Role.VIEWER)
    path = f"/v1/plans/{sha256}"
    for name, state in (("eve", State.ONE_OF_TWO), ("bob", State.APPROVED)):
        browser = made.browser(Role.APPROVER, name)
        etag = browser.get(path).headers["etag"]
        got = browser.call("POST", f"{path}/approve", {"reason": "idle"}, f"If-Match: {etag}")
        assert check(got, "POST", "/v1/plans/{hash}/approve", 200)["state"] == state
    made.cloud.ok("apply", sha256)
    check(viewer.get("/v1/plans"), "GET", "/v1/plans", 200)
    told = check(viewer.get(path), "GET", "/v1/plans/{hash}", 200)
    assert told["state"] == "applied"
    check(viewer.get("/v1/runs"), "GET", "/v1/runs", 200)
    check(viewer.get(f"/v1/runs/{told['applied_by']}"), "GET", "/v1/runs/{run}", 200)
    check(viewer.get("/v1/audit?after=3&limit=5"), "GET", "/v1/audit", 200)
    admin = made.browser(Role.ADMIN)
    check(admin.call("PUT", "/v1/stop", {"reason": "maintenance"}), "PUT", "/v1/stop", 200)
    got = viewer.get("/v1/stop")
    assert check(got, "GET", "/v1/stop", 200)["on"] is True
    etag = got.headers["etag"]
    check(admin.call("DELETE", "/v1/stop", None, f"If-Match: {etag}"), "DELETE", "/v1/stop", 200)


def test_every_refusal_is_as_described(made: Pages) -> None:
    """Each says what is wrong, as a problem that the document tells of."""
    sha256, viewer, admin = made.suspending(by="admin-ann"), made.browser(Role.VIEWER), made.browser(Role.ADMIN)
    approve, plan = "/v1/plans/{hash}/approve", f"/v1/plans/{sha256}"
    check(viewer.get("/v1/plans/zzz"), "GET", "/v1/plans/{hash}", 404)
    check(viewer.get("/v1/plans?limit=0"), "GET", "/v1/plans", 422)
    check(viewer.get("/v1/runs/zzz"), "GET", "/v1/runs/{run}", 404)
    check(made.browser(None).get("/v1/audit"), "GET", "/v1/audit", 401)
    check(viewer.call("POST", f"{plan}/approve", {}), "POST", approve, 403)
    check(admin.call("POST", f"{plan}/approve", {}, 'If-Match: "x"'), "POST", approve, 403)
    other = made.browser(Role.APPROVER)
    check(other.call("POST", f"{plan}/approve", {}), "POST", approve, 428)
    check(other.call("POST", f"{plan}/approve", {}, 'If-Match: "x"'), "POST", approve, 412)
    check(other.call("POST", f"{plan}/approve", [], 'If-Match: "x"'), "POST", approve, 422)
    check(other.call("POST", f"/v1/plans/{'0' * 64}/approve", {}, 'If-Match: "x"'), "POST", approve, 404)
    broken = ("Content-Type: application/json", f"Fallow-Csrf: {other.csrf}")
    check(other.ask("POST", f"{plan}/approve", *broken, body=b"{"), "POST", approve, 400)
    check(other.ask("POST", f"{plan}/approve", broken[1], body=b"{}"), "POST", approve, 415)
    check(admin.call("PUT", "/v1/stop", {}), "PUT", "/v1/stop", 422)
    check(admin.call("PUT", "/v1/stop", {"reason": "x"}), "PUT", "/v1/stop", 200)
    check(admin.call("DELETE", "/v1/stop"), "DELETE", "/v1/stop", 428)
    check(admin.call("DELETE", "/v1/stop", None, 'If-Match: "x"'), "DELETE", "/v1/stop", 412)
    check(admin.call("POST", "/v1/stop", {}), "PUT", "/v1/stop", 405)
    made.cloud.now_s += 86_400.0
    later = made.browser(Role.APPROVER, "kim")
    check(later.call("POST", f"{plan}/approve", {}, 'If-Match: "x"'), "POST", approve, 409)


def test_document_is_served_to_everybody(made: Pages) -> None:
    """The file is what a program gets."""
    got = made.browser(None).get("/openapi.json")
    assert (got.status, got.json) == (200, DOCUMENT)


def test_limits_are_those_of_the_code() -> None:
    """Every bound and every list of names in the document is the one that is checked."""

    def bounds(path: str, name: str) -> tuple[int, int]:
        (schema,) = [each["schema"] for each in DOCUMENT["paths"][path]["get"]["parameters"] if each["name"] == name]
        return schema["maximum"], schema["default"]

    assert bounds("/v1/plans", "limit") == (MOST_PLANS, USUAL_PLANS)
    assert bounds("/v1/runs", "limit") == (MOST_RUNS, USUAL_RUNS)
    assert bounds("/v1/audit", "limit") == (MOST_LINES, USUAL_LINES)
    assert SCHEMAS["Kind"]["enum"] == list(PlanKind)
    assert SCHEMAS["Plan"]["properties"]["state"]["enum"] == list(State)
    assert SCHEMAS["Action"]["properties"]["outcome"]["enum"] == [*Outcome, None]
    assert {SCHEMAS[name]["properties"]["reason"]["maxLength"] for name in ("Reason", "NeededReason")} == {
        MAX_REASON_CHARS
    }


def test_every_reference_leads_somewhere() -> None:
    """No `$ref` points to what is not there, and no component is left over."""
    text = json.dumps(DOCUMENT)
    there = {f"#/components/{kind}/{name}" for kind, parts in DOCUMENT["components"].items() for name in parts}
    used = {part.partition('"')[0] for part in text.split('"$ref": "')[1:]}
    assert used == {each for each in there if "/securitySchemes/" not in each}
