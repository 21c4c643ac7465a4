"""openapi.json and the API say the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from aggregator.series import DEFAULT_POINTS, MAX_POINTS, MIN_POINTS, SERIES
from reports.ingest_health import Trouble
from reports.report import Sort
from reports.verdicts import Verdict
from reports.web.api import MAX_HOST_POINTS, MAX_OFFSET, MAX_TOP
from reports.web.charts import HISTOGRAM_METRICS
from reports.web.params import EVERY, MAX_SEARCH_CHARS, PAGE_VMS, RECLAIMABLE, REVERSE, USUAL, verdict_key
from reports.web.routes import ROUTES
from tests.reports.fleets import one_of_each
from tests.reports.web.house import House, pages
from tests.reports.web.wire import Got

DOCUMENT: dict[str, Any] = json.loads(files("reports").joinpath("openapi.json").read_bytes())
SCHEMAS = DOCUMENT["components"]["schemas"]
METHODS = ("get", "post", "delete")


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """What a `$ref` stands for."""
    while "$ref" in node:
        target: Any = DOCUMENT
        for name in node["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        node = target
    return node


def operation(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method.lower()]
    return found


def check(got: Got, method: str, path: str) -> None:
    """The answer is one that the document tells of."""
    answers = operation(method, path)["responses"]
    assert str(got.status) in answers, got.text
    content = resolved(answers[str(got.status)]).get("content")
    if content is None:
        assert got.body == b""
        return
    assert got.headers["content-type"] in content
    schema = content[got.headers["content-type"]]["schema"]
    jsonschema_rs.validate({**schema, "components": DOCUMENT["components"]}, got.json)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with pages(tmp_path_factory.mktemp("fleet"), one_of_each()) as made:
        yield made


def test_document_names_every_route_and_no_other() -> None:
    """What is served is described, with the role that it asks for, or that it is open: pages and API."""
    served = {(route.method, route.path): "open" if route.role is None else route.role.value for route in ROUTES}
    told = {
        (method.upper(), path): "open" if item[method].get("x-fallow-open") else item[method]["x-fallow-role"]
        for path, item in DOCUMENT["paths"].items()
        for method in METHODS
        if method in item
    }
    assert told == served
    assert len(served) == len(ROUTES)


def test_only_what_is_open_needs_no_proof() -> None:
    """The document asks for a token or a session wherever a role is needed, and nowhere else."""
    assert DOCUMENT["security"]
    for item in DOCUMENT["paths"].values():
        for one in item.values():
            assert one.get("security", DOCUMENT["security"]) == ([] if "x-fallow-open" in one else DOCUMENT["security"])


def test_every_reference_leads_somewhere() -> None:
    """No `$ref` points to what is not there, and no component is left over."""
    used: set[str] = set()

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                used.add(node["$ref"])
                resolved(node)
            for part in node.values():
                walk(part)
        elif isinstance(node, list):
            for part in node:
                walk(part)

    walk(DOCUMENT)
    used |= {f"#/components/securitySchemes/{name}" for way in DOCUMENT["security"] for name in way}
    there = {f"#/components/{kind}/{name}" for kind, parts in DOCUMENT["components"].items() for name in parts}
    assert used == there


def test_limits_are_those_of_the_code() -> None:
    """Every bound and every list of names in the document is the one that is checked."""
    parameters = {
        each["name"]: each["schema"] for each in operation("GET", "/v1/report")["parameters"] if "name" in each
    }
    assert (parameters["top"]["maximum"], parameters["top"]["default"]) == (MAX_TOP, PAGE_VMS)
    assert parameters["offset"]["maximum"] == MAX_OFFSET
    assert parameters["search"]["maxLength"] == MAX_SEARCH_CHARS
    assert parameters["sort"]["enum"] == [sort.value for sort in Sort]
    assert parameters["order"]["enum"] == [USUAL, REVERSE]
    assert parameters["verdict"]["enum"] == [RECLAIMABLE, EVERY, *map(verdict_key, Verdict)]
    for path, most, default in (("vms/{vm}", MAX_POINTS, DEFAULT_POINTS), ("hosts/{host}", MAX_HOST_POINTS, 300)):
        (points,) = [
            each["schema"]
            for each in operation("GET", f"/v1/{path}/series")["parameters"]
            if each.get("name") == "points"
        ]
        assert (points["minimum"], points["maximum"], points["default"]) == (MIN_POINTS, most, default)
    assert list(SCHEMAS["Series"]["properties"]["series"]["properties"]) == list(SERIES)
    assert set(SCHEMAS["Health"]["properties"]["troubles"]["properties"]) == set(Trouble)
    (metric,) = [
        each for each in operation("GET", "/v1/vms/{vm}/histogram")["parameters"] if each.get("name") == "metric"
    ]
    assert metric["schema"]["enum"] == list(HISTOGRAM_METRICS)


def test_report_is_that_of_the_command_line() -> None:
    """`/v1/report` and `fallow-report --json` give one document: its schema is the same in both places."""
    schema = json.loads(files("reports").joinpath("report.schema.json").read_bytes())
    names = {name: name.capitalize() for name in schema["$defs"]} | {"vm": "Listed"}

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            reference = str(node.get("$ref", ""))
            there = f"#/components/schemas/{names.get(reference.removeprefix('#/$defs/'))}"
            return {name: there if name == "$ref" else moved(part) for name, part in node.items()}
        return [moved(part) for part in node] if isinstance(node, list) else node

    for name, component in names.items():
        assert SCHEMAS[component] == moved(schema["$defs"][name]), name
    assert SCHEMAS["Report"] == {
        name: moved(part) for name, part in schema.items() if name not in {"$schema", "$defs", "title"}
    }
    vm = SCHEMAS["Listed"]
    assert SCHEMAS["Judgement"]["properties"] == {
        name: part for name, part in vm["properties"].items() if name != "rank"
    }


def test_document_is_served(house: House) -> None:
    """The file is what a program gets."""
    got = house.browser.get("/openapi.json")
    assert (got.status, got.json) == (200, DOCUMENT)


@pytest.mark.parametrize("vm", [spec.vm_id for spec in one_of_each()])
@pytest.mark.parametrize("part", ["", "/series", "/profile", "/histogram"])
def test_answers_on_each_kind_of_vm_conform(house: House, vm: str, part: str) -> None:
    """A VM of any verdict, one that never reported too, is answered as described."""
    got = house.browser.get(f"/v1/vms/{vm}{part}")
    assert got.status == 200
    check(got, "GET", f"/v1/vms/{{vm}}{part}")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        *(("/v1/report", "/v1/report"), ("/v1/report?verdict=all&top=1000&sort=name", "/v1/report")),
        *(("/v1/hosts", "/v1/hosts"), ("/v1/hosts/h1", "/v1/hosts/{host}")),
        *(("/v1/hosts/h1/series", "/v1/hosts/{host}/series"), ("/v1/health", "/v1/health")),
        *(("/v1/policies", "/v1/policies"), ("/v1/compare?window=7d", "/v1/compare")),
        *(("/v1/exemptions?all=1", "/v1/exemptions"), ("/v1/deliveries", "/v1/deliveries")),
    ],
)
def test_other_answers_conform(house: House, target: str, path: str) -> None:
    """Each operation's answer is what the document says."""
    got = house.browser.get(target)
    assert got.status == 200
    check(got, "GET", path)


@pytest.mark.parametrize(
    ("target", "path", "status"),
    [
        *(("/v1/vms/nobody", "/v1/vms/{vm}", 404), ("/v1/vms/NO%20ID", "/v1/vms/{vm}", 404)),
        *(("/v1/vms/nobody/series", "/v1/vms/{vm}/series", 404), ("/v1/hosts/nowhere", "/v1/hosts/{host}", 404)),
        *(("/v1/report?top=0", "/v1/report", 422), ("/v1/report?top=", "/v1/report", 422)),
        *(("/v1/report?nonsense=1", "/v1/report", 422), ("/v1/report?policy=none", "/v1/report", 422)),
        *(("/v1/report?window=5d", "/v1/report", 422), ("/v1/report?search=%00", "/v1/report", 422)),
        ("/v1/report?verdict=lazy", "/v1/report", 422),
        ("/v1/vms/vm-idle/series?from=5&to=5", "/v1/vms/{vm}/series", 422),
        ("/v1/vms/vm-idle/series?points=2001", "/v1/vms/{vm}/series", 422),
        ("/v1/vms/vm-idle/series?from=0", "/v1/vms/{vm}/series", 422),
        ("/v1/vms/vm-idle/histogram?metric=luck", "/v1/vms/{vm}/histogram", 422),
        ("/v1/exemptions?all=2", "/v1/exemptions", 422),
    ],
)
def test_refusals_conform(house: House, target: str, path: str, status: int) -> None:
    """What cannot be is refused with a document that says why."""
    got = house.browser.get(target)
    assert got.status == status
    assert got.json["detail"]
    check(got, "GET", path)


def test_waiting_conforms(tmp_path: Path) -> None:
    """While a large fleet is judged for the first time, the answer says so."""
    with pages(tmp_path, one_of_each(), on_the_spot_vms=3) as large:
        for target in ("/v1/report", "/v1/hosts", "/v1/compare"):
            got = large.browser.get(target)
            assert got.status == 202
            check(got, "GET", target)


def test_exemptions_through_the_api_conform(tmp_path: Path) -> None:
    """Kept, renewed, listed, ended, and refused: each as described."""
    with pages(tmp_path, one_of_each()) as house:
        new = {"kind": "vm", "subject": "vm-idle", "until": "30d", "reason": "quarterly closing", "owner": "ann"}
        for status in (201, 200):
            got = house.browser.call("POST", "/v1/exemptions", new)
            assert got.status == status
            check(got, "POST", "/v1/exemptions")
        kept = got.json["id"]
        got = house.browser.get("/v1/exemptions")
        assert [one["state"] for one in got.json["exemptions"]] == ["in force"]
        check(got, "GET", "/v1/exemptions")
        assert house.browser.call("DELETE", f"/v1/exemptions/{kept}?by=bob").status == 422
        for status in (204, 404):
            got = house.browser.call("DELETE", f"/v1/exemptions/{kept}")
            assert got.status == status
            check(got, "DELETE", "/v1/exemptions/{exemption}")
        wrongs: tuple[object, ...] = (
            *([], "text", {**new, "kind": "host"}, {**new, "until": "yesterday"}, {**new, "until": "2001-01-01"}),
            *({**new, "subject": "nobody"}, {**new, "owner": " "}, {**new, "reason": 5}, {**new, "more": "x"}, {}),
            {**new, "reason": "\ud800"},
        )
        for wrong in wrongs:
            got = house.browser.call("POST", "/v1/exemptions", wrong)
            assert got.status == 422, wrong
            check(got, "POST", "/v1/exemptions")
