"""Every figure that was promised is at /metrics, and moves when it should and only then."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytest_twisted
from prometheus_client.parser import text_string_to_metric_families

from tests.aggregator.door_fakes import TS
from tests.aggregator.service_fakes import NOW_S, House, running

pytestmark = pytest.mark.real

VM = "web-1"
# What the design asks for, in its words, and the metric that says it.
PROMISED = {
    "pushes": "fallow_pushes_total",
    "samples": "fallow_samples_total",
    "duplicates": "fallow_duplicates_total",
    "conflicts": "fallow_conflicts_total",
    "rejects by reason": "fallow_rejects_total{token}",
    "journal bytes": "fallow_journal_bytes",
    "journal commit time": "fallow_journal_commit_seconds_count",
    "buffered": "fallow_buffered_samples",
    "flush time": "fallow_flush_seconds_total",
    "workers": "fallow_flush_workers",
    "stores": "fallow_stores_flushed_total",
    "last flush": "fallow_last_flush_seconds",
    "last seen": "fallow_last_seen_seconds",
}


async def changed(house: House, before: dict[str, float]) -> dict[str, float]:
    """What is not as it was: name -> new value. What depends on the disk or counts looking is left out."""
    noise = re.compile(r"fallow_(connections|journal_(commit_seconds|written_bytes|records|bytes))|_created")
    now = await house.metrics()
    return {name: value for name, value in now.items() if before.get(name) != value and not noise.match(name)}


@pytest_twisted.ensureDeferred
async def test_pushes_move_what_they_should(tmp_path: Path) -> None:
    """A new sample, the same again, another in its place, one too old, and requests that are refused."""
    async with running(tmp_path) as house:
        await house.enroll(VM)
        before = await house.metrics()
        house.clock.now_s += 5
        await house.push(VM, TS)
        new = {
            "fallow_pushes_total": 1.0,
            "fallow_samples_total": 1.0,
            "fallow_buffered_samples": 1.0,
            "fallow_vms_in_memory": 1.0,
            "fallow_last_seen_seconds": NOW_S + 5,
        }
        assert await changed(house, before) == new
        after = await house.metrics()
        assert after["fallow_journal_bytes"] > before["fallow_journal_bytes"]
        assert after["fallow_journal_written_bytes_total"] > before["fallow_journal_written_bytes_total"]
        assert after["fallow_journal_records_total"] == 1
        assert after["fallow_journal_commit_seconds_count"] == before["fallow_journal_commit_seconds_count"] + 1
        assert after["fallow_journal_commit_seconds_sum"] > before["fallow_journal_commit_seconds_sum"]

        await house.push(VM, TS)
        assert await changed(house, after) == {"fallow_pushes_total": 2.0, "fallow_duplicates_total": 1.0}
        before = await house.metrics()
        await house.push(VM, TS, cpu=0.5)
        assert await changed(house, before) == {"fallow_pushes_total": 3.0, "fallow_conflicts_total": 1.0}
        before = await house.metrics()
        await house.push(VM, TS - 15 * 86_400)
        assert await changed(house, before) == {"fallow_samples_too_old_total": 1.0}
        before = await house.metrics()
        await house.push(VM, body=b"{")
        assert await changed(house, before) == {"fallow_rejects_total{json}": 1.0}
        before = await house.metrics()
        house.tokens[VM] = "wrong"
        await house.push(VM, TS)
        await house.push(VM, TS)
        assert await changed(house, before) == {"fallow_rejects_total{token}": 2.0}
        before = await house.metrics()
        await house.enroll("db-1")
        assert await changed(house, before) == {"fallow_enrolments_total": 2.0}


@pytest_twisted.ensureDeferred
async def test_a_flush_moves_what_it_should(tmp_path: Path) -> None:
    """Samples leave the buffer for the stores; what the stores held already is counted apart."""
    async with running(tmp_path) as house:
        await house.push(VM, TS - 60, TS)
        await house.push("db-1", TS)
        before = await house.metrics()
        assert (before["fallow_buffered_samples"], before["fallow_flush_workers"]) == (3.0, 0.0)
        await house.flush()
        after = await changed(house, before)
        assert after.pop("fallow_last_flush_seconds") == NOW_S
        assert after == {
            "fallow_buffered_samples": 0.0,
            "fallow_flushes_total": 1.0,
            "fallow_flushed_samples_total": 3.0,
            "fallow_stores_flushed_total": 2.0,
            "fallow_flush_workers": 1.0,
            "fallow_summaries_written_total": 2.0,
            "fallow_summary_batches_total": 1.0,
        }
        # Fifteen more push the old ones out of memory: only the store knows them then.
        await house.push(VM, *(TS + 60 * minute for minute in range(1, 16)))
        await house.flush()
        before = await house.metrics()
        await house.push(VM, TS - 60)
        await house.push(VM, TS, cpu=0.5)
        await house.flush()
        after = await changed(house, before)
        assert (after["fallow_flushed_duplicates_total"], after["fallow_flushed_conflicts_total"]) == (1.0, 1.0)
        assert "fallow_conflicts_total" not in after
        assert "fallow_flushed_samples_total" not in after


@pytest_twisted.ensureDeferred
async def test_flush_time_and_overruns_are_counted(tmp_path: Path) -> None:
    """By the aggregator's clock; a schedule that finds a flush running counts an overrun."""
    async with running(tmp_path) as house:
        before = await house.metrics()
        flusher = house.service._flusher
        first = flusher.flush()
        flusher.tick()
        house.clock.now_s += 7
        await first
        after = await changed(house, before)
        assert after["fallow_flush_overruns_total"] == 1.0
        assert after["fallow_flush_seconds_total"] == 7.0
        assert after["fallow_last_flush_duration_seconds"] == 7.0
        assert after["fallow_last_flush_seconds"] == NOW_S + 7


@pytest_twisted.ensureDeferred
async def test_health_is_a_number(tmp_path: Path) -> None:
    """What an alarm is set on: ready or not, and whether the journal takes records."""
    async with running(tmp_path) as house:
        assert (await house.metrics())["fallow_ready"] == 1.0
        house.service._journal.healthy = False
        found = await house.metrics()
        assert (found["fallow_ready"], found["fallow_journal_healthy"]) == (0.0, 0.0)
        house.service._journal.healthy = True


@pytest_twisted.ensureDeferred
async def test_everything_promised_is_there_once_and_explained(tmp_path: Path) -> None:
    """Each figure of the design; base units in the names, a text for each, no name twice."""
    async with running(tmp_path) as house:
        await house.push(VM, TS)
        house.tokens[VM] = "wrong"
        await house.push(VM, TS)
        await house.flush()
        found = await house.metrics()
        assert {what: name for what, name in PROMISED.items() if name not in found} == {}
        text = (await house.admin("GET", "/metrics")).body.decode()
        families = list(text_string_to_metric_families(text))
        assert len({family.name for family in families}) == len(families)
        for family in families:
            assert family.name.startswith("fallow_")
            assert family.documentation
            assert not re.search(r"_(ms|kb|mb|percent)$", family.name)
