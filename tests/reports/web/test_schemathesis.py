"""The API against any request that its document allows, and many that it does not: on the real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from importlib.resources import files
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode

from tests.reports.fleets import one_of_each, write_fleet
from tests.reports.web.programs import Server, aggregating, serving

pytestmark = pytest.mark.real

DOCUMENT: dict[str, Any] = json.loads(files("reports").joinpath("openapi.json").read_bytes())
# An operation without parameters cannot be asked wrongly.
ASKED = [
    (method, path, mode)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    # Pages are for people: their answers have no schema.
    if "pages" not in operation.get("tags", ())
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or {"parameters", "requestBody"} & operation.keys()
]
# Which policies, windows and hosts there are is not a matter of the document: a valid text may still name none.
LEFT_OUT = {"positive_data_acceptance"}


def known() -> dict[str, Any]:
    """The document with names that lead somewhere, as far as it leaves them open."""
    found = deepcopy(DOCUMENT)
    schemas = {
        "vm": [*(spec.vm_id for spec in one_of_each()), "nobody"],
        "host": ["h1", "h2"],
        "policy": ["fallow-balanced", "classic", "p95"],
        "window": ["1d", "7d", "14d", "30d"],
    }
    for name, values in schemas.items():
        found["components"]["parameters"][name]["schema"] = {"type": "string", "enum": values}
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data_dir = tmp_path_factory.mktemp("fleet")
    write_fleet(data_dir, one_of_each())
    with aggregating(data_dir) as address, serving(data_dir, aggregator=address) as made:
        yield made


@pytest.mark.parametrize(("method", "path", "mode"), ASKED)
def test_operation_keeps_its_word(server: Server, method: str, path: str, mode: GenerationMode) -> None:
    """No answer of 500 and above, no status or shape that is not described, nothing invalid taken for valid."""
    operation = schemathesis.openapi.from_dict(known())[path][method.upper()]
    checks = [check for check in CHECKS.get_all() if check.__name__ not in LEFT_OUT]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    def holds(case: Any) -> None:
        case.call_and_validate(base_url=server.url.rstrip("/"), checks=checks, headers=server.headers)

    holds()
    assert server.process.poll() is None
