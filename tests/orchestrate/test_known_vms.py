"""What the aggregator is told of the VMs that exist: all that could enrol, and never that there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from aggregator.fleet_db import migrate, open_fleet
from aggregator.inventory import Inventory as KnownVms
from orchestrate.inventory import Inventory, Vm, VmRef, VmState
from orchestrate.known_vms import tell_aggregator


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = open_fleet(None, tmp_path)
    migrate(made)
    yield made
    made.dispose()


def site(*uuids: str, unreachable: dict[str, str] | None = None) -> Inventory:
    vms = tuple(
        Vm(ref=VmRef(driver="lab", uuid=uuid), name="x", host_id="h", state=VmState.RUNNING, vcpus=1, mem_bytes=1)
        for uuid in uuids
    )
    return Inventory(driver="lab", read_s=0.0, hosts=(), vms=vms, unreachable=unreachable or {})


def known(engine: sa.Engine) -> set[str]:
    return {row.vm for row in KnownVms(engine).rows()}


def test_an_id_that_no_agent_has_does_not_keep_the_others_from_being_told(engine: sa.Engine) -> None:
    """A hypervisor may hold a VM of a strange id: it alone is left out."""
    assert tell_aggregator(engine, [site("A-1", "", "not an id", "../b")], now_s=1.0) == 1
    assert known(engine) == {"a-1"}


@pytest.mark.parametrize("later", [site(), site("not an id"), site("b", unreachable={"h": "timed out"})])
def test_a_site_that_knows_nothing_takes_nothing_back(engine: sa.Engine, later: Inventory) -> None:
    """Empty, of no use or not whole: what was told before stays, and with it the check of enrolments."""
    tell_aggregator(engine, [site("a")], now_s=1.0)
    assert tell_aggregator(engine, [later], now_s=2.0) == 0
    assert known(engine) == {"a"}
