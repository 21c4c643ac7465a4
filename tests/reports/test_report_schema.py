"""The schema of `--json`: real reports keep it, and others do not."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from aggregator.summary import STATISTIC_COLUMNS
from reports.fleet_report import make_report
from reports.policies import POLICIES
from reports.render import to_json
from reports.report import Sort
from reports.verdicts import Settings, Verdict
from tests.reports import samples
from tests.reports.fleets import Spec, one_of_each, question, stored
from tests.reports.golden import PRICES, golden_report

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "reports" / "report.schema.json").read_text(encoding="utf-8")
)
VALIDATOR = jsonschema_rs.Draft202012Validator(SCHEMA)
Place = tuple[str | int, ...]


def problems(document: object) -> list[str]:
    return [f"{'/'.join(map(str, error.instance_path))}: {error.message}" for error in VALIDATOR.iter_errors(document)]


def golden() -> dict[str, Any]:
    document = json.loads(to_json(golden_report()))
    assert isinstance(document, dict)
    return document


def objects(value: object, place: Place = ()) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Every object of a document and where it is; of a list only the first element."""
    if isinstance(value, dict):
        yield place, value
        for key, each in value.items():
            yield from objects(each, (*place, key))
    elif isinstance(value, list) and value:
        yield from objects(value[0], (*place, 0))


def at(document: Any, place: Place) -> Any:
    for step in place:
        document = document[step]
    return document


def schemas(value: object) -> Iterator[dict[str, Any]]:
    """Every part of the schema that describes a value."""
    if isinstance(value, dict):
        if "type" in value or "$ref" in value or "oneOf" in value:
            yield value
        for each in value.values():
            yield from schemas(each)
    elif isinstance(value, list):
        for each in value:
            yield from schemas(each)


def test_the_schema_is_one() -> None:
    """Of the edition that it names."""
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(SCHEMA)


@pytest.mark.parametrize("policy", POLICIES)
def test_reports_of_every_policy_keep_it(policy: str) -> None:
    """With prices and without, of any list."""
    engine = stored([*one_of_each(), Spec(vm_id="vm-unsized", vcpus=None, mem_gib=None, disk_gib=None)])
    for asked in (Settings(), Settings(prices=PRICES), Settings(window_days=7)):
        assert problems(json.loads(to_json(make_report(engine, question(policy, settings=asked))))) == []
    for verdict in Verdict:
        changes = {"verdict": verdict, "top": 1, "owner": "ann", "search": "x", "sort": Sort.CPU}
        assert problems(json.loads(to_json(make_report(engine, question(policy, **changes))))) == []


@pytest.mark.parametrize("specs", [[], [Spec()]])
def test_reports_of_small_fleets_keep_it(specs: list[Spec]) -> None:
    """Of no VM and of one."""
    assert problems(json.loads(to_json(make_report(stored(specs), question())))) == []


def test_what_became_of_vms_is_in_it() -> None:
    """Changes since an earlier report too."""
    document = json.loads(to_json(samples.report(changes=samples.CHANGES)))
    assert document["changes"]["reclaimed"] == 3
    assert problems(document) == []


def test_every_key_is_described_and_closed() -> None:
    """No object takes keys that the schema does not name, and each key says what it holds."""
    for part in schemas(SCHEMA):
        if part.get("type") == "object":
            assert part["additionalProperties"] is False
            for key, value in part["properties"].items():
                assert value.get("description") or value.get("$ref"), key
    assert set(SCHEMA["$defs"]["statistics"]["properties"]) >= set(STATISTIC_COLUMNS)


# Statistics and causes are there only where there is something to tell.
_MAY_LACK = {("totals", "causes"), ("vms", 0, "statistics")}


def test_a_key_that_is_missing_or_new_breaks_it() -> None:
    """Each one, wherever it stands."""
    document = golden()
    for place, found in objects(document):
        for key in found if place not in _MAY_LACK else ():
            broken = copy.deepcopy(document)
            del at(broken, place)[key]
            assert problems(broken), (*place, key)
        broken = copy.deepcopy(document)
        at(broken, place)["more"] = 1
        assert problems(broken), place


def test_a_value_of_another_type_breaks_it() -> None:
    """Each value, put as an object of its own."""
    document = golden()
    for place, found in objects(document):
        for key in found:
            broken = copy.deepcopy(document)
            at(broken, place)[key] = {"not": "this"}
            assert problems(broken), (*place, key)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("generated_at_s",), "2026"),
        (("totals", "idle"), -1),
        (("totals", "idle"), 1.5),
        (("vms", 0, "verdict"), "bored"),
        (("vms", 0, "cause"), "IDLE"),
        (("vms", 0, "confidence_ratio"), 1.5),
        (("vms", 0, "rank"), 0),
        (("vms", 0, "vm"), None),
        (("vms", 0, "week_cpu_ratio"), [0.1] * 27),
        (("vms", 0, "figures", 0, "comparison"), ">"),
        (("vms", 0, "figures", 0, "unit"), "percent"),
        (("list", "sort"), "luck"),
        (("currency",), 5),
    ],
)
def test_a_wrong_value_breaks_it(place: Place, value: object) -> None:
    """Of a right type or not."""
    document = golden()
    at(document, place[:-1])[place[-1]] = value
    assert problems(document)
