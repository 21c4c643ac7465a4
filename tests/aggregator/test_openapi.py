"""openapi.json and the two doors say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Never

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from agent.sample import FIELDS
from agent.wire import MAX_SAMPLES_PER_BATCH, VM_ID_PATTERN
from aggregator.admin_routes import MAX_SAMPLES, MAX_SPAN_S, MAX_VMS, ROUTES
from aggregator.agents_door import AgentsDoorFactory
from aggregator.catalogue import Catalogue, Labels, VmRecord
from aggregator.door_parts import DoorParts
from aggregator.enrolment import Enrolment
from aggregator.fleet_db import migrate, open_fleet
from aggregator.problems import Problem, Refused
from aggregator.series import DEFAULT_POINTS, MAX_POINTS, MIN_POINTS, SERIES, Curve, Series
from aggregator.tokens import Revocations, TokenKeys
from tests.aggregator.admin_fakes import NOW_S, House, new_transport

DOCUMENT: dict[str, Any] = json.loads(files("aggregator").joinpath("openapi.json").read_bytes())
SCHEMAS = DOCUMENT["components"]["schemas"]
METHODS = ("get", "post", "delete", "put", "patch")
KEYS = TokenKeys({"k1": b"1" * 32})


def operations(port: int) -> dict[tuple[str, str], dict[str, Any]]:
    """(method, path) → operation, of the door on `port`."""
    return {
        (method.upper(), path): item[method]
        for path, item in DOCUMENT["paths"].items()
        if any(server["url"].endswith(f":{port}") for server in item["servers"])
        for method in METHODS
        if method in item
    }


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """What a `$ref` stands for."""
    while "$ref" in node:
        target: Any = DOCUMENT
        for name in node["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        node = target
    return node


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for part in node.values():
            yield from references(part)
    elif isinstance(node, list):
        for part in node:
            yield from references(part)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    engine = open_fleet(None, tmp_path)
    migrate(engine)
    catalogue = Catalogue(engine)
    token = catalogue.mint_join_token(now_s=NOW_S, ttl_s=60.0, uses=1, labels=Labels())
    catalogue.enroll(Enrolment(join_token=token, vm="a"), now_s=NOW_S)
    yield House(tmp_path, catalogue)
    engine.dispose()


# The document itself.


def test_every_reference_leads_somewhere() -> None:
    """No `$ref` dangles, and no part of the components is left unused."""
    used = set(references(DOCUMENT))
    for reference in used:
        assert resolved({"$ref": reference})
    there = {
        f"#/components/{kind}/{name}"
        for kind in ("parameters", "responses", "schemas")
        for name in DOCUMENT["components"][kind]
    }
    assert there == used


def test_a_sample_has_the_fields_of_the_wire() -> None:
    """Names, bounds and what is required are those of `FIELDS`."""
    properties = SCHEMAS["Sample"]["properties"]
    assert set(properties) == {"ts", *(field.name for field in FIELDS)}
    assert SCHEMAS["Sample"]["required"] == ["ts", *(field.name for field in FIELDS if field.required)]
    for field in FIELDS:
        assert properties[field.name]["maximum"] == field.maximum
        assert ("null" in properties[field.name]["type"]) == (not field.required)
    assert set(SCHEMAS["Bucket"]["properties"]) == {"ts", "samples", *(field.name for field in FIELDS)}


def test_bounds_are_those_of_the_code() -> None:
    """Numbers stand once in the code; the document repeats them exactly."""
    assert SCHEMAS["VmId"]["pattern"] == f"^{VM_ID_PATTERN}$"
    assert SCHEMAS["Batch"]["properties"]["samples"]["maxItems"] == MAX_SAMPLES_PER_BATCH
    pages = {parameter["name"]: parameter for parameter in DOCUMENT["paths"]["/v1/vms"]["get"]["parameters"]}
    assert pages["limit"]["schema"]["maximum"] == MAX_VMS
    samples = DOCUMENT["paths"]["/v1/vms/{vm}/samples"]["get"]
    assert samples["parameters"][2]["schema"]["maximum"] == MAX_SPAN_S
    assert f"{MAX_SAMPLES:,}" in samples["summary"]


def test_series_have_the_figures_and_bounds_of_the_code() -> None:
    """A chart's document has the attributes of `Series`, the figures of SERIES, and as many points as may be asked."""
    assert list(SCHEMAS["Series"]["properties"]) == list(Series.__dataclass_fields__)
    assert list(SCHEMAS["Series"]["properties"]["series"]["properties"]) == list(SERIES)
    assert list(SCHEMAS["Curve"]["properties"]) == list(Curve.__dataclass_fields__)
    assert SCHEMAS["Series"]["properties"]["ends_s"]["maxItems"] == MAX_POINTS
    points = DOCUMENT["paths"]["/v1/vms/{vm}/series"]["get"]["parameters"][2]["schema"]
    assert (points["minimum"], points["maximum"], points["default"]) == (MIN_POINTS, MAX_POINTS, DEFAULT_POINTS)


def test_records_have_the_attributes_of_the_code() -> None:
    """What `/v1/vms` and an enrolment carry is named in the document, no more and no less."""
    assert list(SCHEMAS["Vm"]["properties"]) == list(VmRecord.__dataclass_fields__)
    assert list(SCHEMAS["Enrolment"]["properties"]) == list(Enrolment.__dataclass_fields__)


# The admin door.


def test_the_admin_door_has_the_routes_of_the_document() -> None:
    """Every route is described, and everything described is a route."""
    assert set(operations(8900)) == {(route.method, route.path) for route in ROUTES}


def test_what_needs_no_token_says_so() -> None:
    """`security: []` stands exactly where the admin door is open."""
    said = {key for key, operation in operations(8900).items() if operation.get("security") == []}
    assert said == {(route.method, route.path) for route in ROUTES if route.is_open}


@pytest.mark.parametrize("headers", [(), ("Authorization: Bearer wrong",)])
@pytest.mark.parametrize("vm_id", ["a", "nobody", "NO"])
@pytest.mark.parametrize("query", ["", "?limit=x&since=x&from=9&to=1&step=0"])
@pytest.mark.parametrize(("method", "path"), sorted(operations(8900)))
def test_the_admin_door_answers_as_described(
    house: House, method: str, path: str, query: str, vm_id: str, headers: tuple[str, ...]
) -> None:
    """Good, unauthorised, unknown and wrong: status and content type are documented, and a body has the named parts."""
    answer = house.ask(method, path.replace("{vm}", vm_id) + query, *headers)
    responses = operations(8900)[method, path]["responses"]
    assert str(answer.status) in responses
    content = resolved(responses[str(answer.status)]).get("content", {})
    assert [answer.headers["content-type"].partition(";")[0]] == list(content) if content else answer.body == b""
    if answer.headers.get("content-type") == "application/json" and path != "/openapi.json":
        described = resolved(content["application/json"]["schema"]).get("properties")
        assert described is None or set(answer.json) == set(described)


@pytest.mark.parametrize("path", sorted({path for _, path in operations(8900)}))
def test_other_methods_of_the_admin_door_are_405(house: House, path: str) -> None:
    """Allow names exactly the methods of the document, HEAD beside GET."""
    answer = house.ask("PATCH", path.replace("{vm}", "a"))
    described = {method for method, found in operations(8900) if found == path}
    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == described | ({"HEAD"} if "GET" in described else set())


def test_the_admin_door_serves_the_document(house: House) -> None:
    """`GET /openapi.json` is this file."""
    assert house.ask("GET", "/openapi.json").json == DOCUMENT


def test_what_a_proof_opens_says_so() -> None:
    """`nodeProof` stands exactly where another program of the fleet may ask with one; elsewhere it is 403."""
    described = operations(8900)
    said = {key for key, one in described.items() if any("nodeProof" in way for way in one.get("security", []))}
    assert said == {(route.method, route.path) for route in ROUTES if route.for_nodes}
    refused = {key for key, one in described.items() if "403" in one["responses"]}
    assert refused == {(route.method, route.path) for route in ROUTES if not (route.for_nodes or route.is_open)}
    assert {key for key, one in described.items() if {"421", "503"} <= set(one["responses"])} == said | refused


# The agents' door.


class NoStore:
    """A journal and a buffer that no request of these tests may reach."""

    queued_bytes = 0

    def append(self, *_: object) -> Never:
        raise AssertionError("a request without a good body reached the journal")

    admit = add = heard_between = append


def agents_ask(method: str, path: str, *, token: str, enrolment: Deferred[bytes]) -> str:
    """The status line of the agents' door for a request whose body is an empty object, and its headers."""
    parts = DoorParts(
        keys=KEYS,
        revocations=Revocations,
        journal=NoStore(),
        buffer=NoStore(),
        enroll=lambda _body, _peer: enrolment,
        rotate=lambda _vm, _generation: succeed(b"{}"),
        ready=lambda: None,
        raw_retention_s=86_400.0,
        clock=lambda: float(NOW_S),
    )
    factory = AgentsDoorFactory(parts, Clock())
    nobody: Any = None
    door: Any = factory.buildProtocol(nobody)
    transport = new_transport()
    door.makeConnection(transport)
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nFallow-VM: a\r\nContent-Type: application/json\r\n"
    door.dataReceived(f"{head}Authorization: Bearer {token}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    return str(transport.value().decode())


@pytest.mark.parametrize("token", ["wrong", KEYS.make("a", 1)])
@pytest.mark.parametrize(("method", "path"), sorted(operations(8899)))
def test_the_agents_door_answers_as_described(method: str, path: str, token: str) -> None:
    """Each described route is there, and answers a good and a bad request with a documented status."""
    for problem in (None, Problem(401, "join-token-unknown", ""), Problem(503, "database-unavailable", "", 30)):
        enrolment = succeed(b"{}") if problem is None else fail(Refused(problem))
        if problem is not None and path != "/v1/enroll":
            enrolment.addErrback(lambda _: None)
        answer = agents_ask(method, path, token=token, enrolment=enrolment)
        enrolment.addErrback(lambda _: None)
        status = answer.split()[1]
        assert status in operations(8899)[method, path]["responses"], answer


@pytest.mark.parametrize("path", sorted({path for _, path in operations(8899)}))
def test_other_methods_of_the_agents_door_are_405(path: str) -> None:
    """Allow names exactly the methods of the document, HEAD beside GET."""
    answer = agents_ask("PATCH", path, token="x", enrolment=succeed(b""))
    described = {method for method, found in operations(8899) if found == path}
    allow = re.search(r"^Allow: (.*)\r$", answer, re.MULTILINE)
    assert answer.split()[1] == "405"
    assert allow is not None
    assert set(allow[1].split(", ")) == described | ({"HEAD"} if "GET" in described else set())
