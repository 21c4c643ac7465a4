"""An aggregator that is taken out for good, as it is written in the manual: drained, empty, stopped, forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from aggregator.__main__ import main
from aggregator.kept import Kept
from aggregator.nodes import Nodes
from aggregator.store_files import read_samples, store_path
from tests.aggregator.door_fakes import TS
from tests.aggregator.test_joining import Fleet, fleet_of_two
from tests.postgres import postgres_database

pytestmark = pytest.mark.real


@pytest.fixture
def postgres_url(pytestconfig: pytest.Config) -> Iterator[str]:
    with postgres_database(pytestconfig) as url:
        yield url


@pytest_twisted.ensureDeferred
async def test_who_leaves_for_good_is_empty_soon(postgres_url: str, tmp_path: Path) -> None:
    """A whole history, which else would wait for join.after, is taken over at once; then there is nothing to lose."""
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        leaving, nodes = fleet.nodes["a"], Nodes(fleet.engine)
        await fleet.sent("a", -400, 0, 1)
        assert nodes.kept() == {"a": Kept(vms=1)}
        assert (await leaving.admin("POST", "/v1/drain")).status == 200
        fleet.clock.now_s += 60.0
        await fleet.sent("b", 2)
        assert nodes.kept() == {"a": Kept(parts=1), "b": Kept(vms=1)}
        await fleet.joiner("b").round()
        # A node that only drains is to have its VMs back.
        assert nodes.kept_by("a") == Kept(parts=1)
        assert (await leaving.admin("POST", "/v1/drain?for_good=1")).status == 200
        await fleet._reached(lambda: fleet.rows("SELECT 1 FROM node WHERE node = 'a' AND is_leaving"))
        await fleet.joiner("b").round()
        assert nodes.kept() == {"b": Kept(vms=1)}
        assert (fleet.stored("a"), fleet.stored("b")) == ([], [-400, 0, 1, 2])
        await fleet.stop("a")
        del fleet.nodes["a"]
        assert nodes.forget("a", fleet.clock.now_s) == 0
        assert (fleet.home(), fleet.parts()) == ("b", [])


VMS = ("web-1", "web-2")
_OF_A_SUMMARY = "SELECT * FROM vm_summary ORDER BY vm_id"


def figures(fleet: Fleet) -> dict[str, Any]:
    """What a report is made of, but for which node keeps it and when that was written."""
    with fleet.engine.connect() as connection:
        told = [dict(row) for row in connection.exec_driver_sql(_OF_A_SUMMARY).mappings()]
    for row in told:
        del row["node"], row["updated_s"]
    windows = fleet.rows("SELECT * FROM vm_window ORDER BY vm_id, window_days")
    evidence = fleet.rows("SELECT vm_id, hour_s, body FROM vm_evidence ORDER BY vm_id")
    return {"summary": told, "window": windows, "evidence": [(*rest, bytes(body)) for *rest, body in evidence]}


@pytest_twisted.ensureDeferred
async def test_vms_that_are_off_go_over_to_the_others(
    postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two days of history, of VMs that push nowhere any more: it is the other's as a whole, and no figure changes."""
    minutes = range(-2 * 24 * 60, 0, 7)
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        leaving, nodes = fleet.nodes["a"], Nodes(fleet.engine)
        for vm in VMS:
            times = [TS + 60 * minute for minute in minutes]
            assert (await leaving.push(vm, *times, cpu=0.01)).status in (200, 204)
        report = await leaving.flush()
        assert (report["failures"], report["summaries_owed"]) == ({}, 0)
        before, samples = figures(fleet), {vm: read_samples(store_path(tmp_path / "a", vm), 0, 2**32) for vm in VMS}
        assert len(samples["web-1"]) == len(minutes)

        assert (await leaving.admin("POST", "/v1/drain?for_good=1")).status == 200
        await fleet._reached(lambda: fleet.rows("SELECT 1 FROM node WHERE node = 'a' AND is_leaving"))
        await leaving.service._joining.bequest.round()
        assert nodes.kept() == {"a": Kept(vms=2)}, "they may only be on their way"
        fleet.clock.now_s += 3600.0
        for name in ("a", "b"):
            fleet.nodes[name].service._fleet.link.tell()
        await fleet._reached(
            lambda: fleet.rows("SELECT 1 FROM node WHERE seen_s >= :now HAVING count(*) = 2", now=fleet.clock.now_s)
        )
        # As a timer has it.
        leaving.service._join()
        await fleet._reached(lambda: nodes.kept() == {"a": Kept(parts=2), "b": Kept(vms=2)})
        assert figures(fleet) == before

        # The heir ends before it has any of it, and starts anew.
        await fleet.stop("b")
        where = ["--data", str(tmp_path / "b"), "--fleet-url", postgres_url]
        assert await deferToThread(main, ["check", *where]) == 0, capsys.readouterr().out
        await fleet.start("b", join_interval_s=86_400.0)
        await fleet.joiner("b").round()
        assert nodes.kept() == {"b": Kept(vms=2)}
        assert figures(fleet) == before
        for vm in VMS:
            assert read_samples(store_path(tmp_path / "b", vm), 0, 2**32) == samples[vm]
            assert not store_path(tmp_path / "a", vm).exists()

        await fleet.stop("a")
        del fleet.nodes["a"]
        assert await deferToThread(main, ["nodes", "forget", "a", *where]) == 2
        assert "keeps nothing" in capsys.readouterr().err
        assert await deferToThread(main, ["nodes", "forget", "a", "--yes", *where]) == 0
        assert figures(fleet) == before
        assert nodes.kept() == {"b": Kept(vms=2)}
        # One of them is back.
        fleet.clock.now_s += 3600.0
        assert (await fleet.nodes["b"].push("web-1", TS + 7200)).status == 204
        assert not (await fleet.nodes["b"].flush())["failures"]
        assert fleet.rows("SELECT vm_id, flags FROM vm_summary ORDER BY vm_id") == [("web-1", "[]"), ("web-2", "[]")]
        assert len(read_samples(store_path(tmp_path / "b", "web-1"), 0, 2**32)) == len(minutes) + 1
