"""When a flush reads figures anew (docs/adr/0007)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aggregator.check import verify_store
from aggregator.store_files import store_path
from aggregator.worker import FlushWorker
from tests.aggregator.store_fakes import DAY_S, START_S, flush, minutes, settings, share

VM = "vm-1"
OLD_S = START_S + 2 * DAY_S  # a VM with two days of history, its last hour just begun


@pytest.fixture
def machine(tmp_path: Path) -> FlushWorker:
    """A worker whose store holds two days of one VM and the first quarter of an hour."""
    machine = FlushWorker(settings(tmp_path))
    flush(machine, share(VM, minutes(START_S + 60, 2 * 1440 + 15)))
    return machine


def test_rows_of_the_open_hour_alone_leave_figures_as_they_were(machine: FlushWorker, tmp_path: Path) -> None:
    """The summary follows every flush, figures and evidence do not; the store agrees with itself all the same."""
    result = flush(machine, share(VM, minutes(OLD_S + 16 * 60, 15)))
    (summary,) = result.summaries
    assert (result.inserted, summary.newest_s, summary.figures, summary.evidence) == (15, OLD_S + 30 * 60, [], None)
    assert verify_store(store_path(tmp_path, VM), VM) == []


def test_figures_are_read_when_an_hour_closes(machine: FlushWorker) -> None:
    """The flush that brings the next hour's first row brings figures with every row, the open hour's too."""
    flush(machine, share(VM, minutes(OLD_S + 16 * 60, 44)))
    (summary,) = flush(machine, share(VM, minutes(OLD_S + 3600, 2))).summaries
    assert summary.figures[0].covered_s == 23 * 3600 + 60
    assert summary.evidence is not None


def test_a_late_row_brings_figures(machine: FlushWorker) -> None:
    """A closed hour that changes changes the windows: the figures must say so at once."""
    late = minutes(START_S + DAY_S + 90, 1, interval_s=30)
    (summary,) = flush(machine, share(VM, late)).summaries
    assert len(summary.figures) == 3


@pytest.mark.parametrize("asked", [{"wants_figures": True}, {"rows": b""}])
def test_figures_can_be_asked_for(machine: FlushWorker, asked: dict[str, Any]) -> None:
    """Asked for, or owed without new rows, figures reach to the newest sample."""
    flush(machine, share(VM, minutes(OLD_S + 16 * 60, 15)))
    (summary,) = flush(machine, share(VM, minutes(OLD_S + 31 * 60, 1))._replace(**asked)).summaries
    rows = 30 if asked == {"rows": b""} else 31
    assert summary.figures[0].covered_s == 23 * 3600 + rows * 60


def test_the_figures_of_a_young_vm_follow_every_flush(tmp_path: Path) -> None:
    """In its first day a VM's figures never lag."""
    machine = FlushWorker(settings(tmp_path))
    for quarter in range(4):
        (summary,) = flush(machine, share(VM, minutes(START_S + (15 * quarter + 1) * 60, 15))).summaries
        assert summary.figures[0].covered_s == (quarter + 1) * 900
