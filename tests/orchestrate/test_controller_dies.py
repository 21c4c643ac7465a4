"""Real controllers that are killed between intent and result, or stopped past their lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrate.database import SqlRecords
from orchestrate.inventory import VmState
from orchestrate.reconcile import reconcile
from orchestrate.records import Action, Lease, Outcome
from tests.orchestrate.controller_process import TIMEOUTS, FolderDriver, the_plan
from tests.orchestrate.databases import open_copy
from tests.orchestrate.fakes import ref

pytestmark = pytest.mark.real


def command(folder: Path, when: str) -> list[str]:
    return [sys.executable, "-m", "tests.orchestrate.controller_process", str(folder), when]


def take_over(records: SqlRecords, holder: str = "successor") -> Lease:
    """The lease, as soon as the one before has run out; the holder's own at once."""
    while (lease := records.acquire(holder, now_s=time.time(), life_s=60.0)) is None:
        time.sleep(0.05)
    return lease


def clear_up(records: SqlRecords, driver: FolderDriver, lease: Lease) -> tuple[Action, ...]:
    return reconcile(
        records, {"lab": driver}, lease, by="successor", clock=time.time, timeouts=TIMEOUTS, lease_life_s=60.0
    )


@pytest.mark.parametrize(("when", "outcome"), [("before", Outcome.FAILED), ("after", Outcome.DONE)])
def test_row_39_killed_between_intent_and_result(tmp_path: Path, when: str, outcome: Outcome) -> None:
    """The intent is on disk; its controller, started anew, finds out what became of it and orders nothing again."""
    engine = open_copy(tmp_path)
    child = subprocess.run(command(tmp_path, when), check=False, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    records, driver = SqlRecords(engine), FolderDriver(tmp_path)
    (left,) = records.unsettled()
    assert (left.outcome, left.step.ref) == (None, ref(1))
    (settled,) = clear_up(records, driver, take_over(records, "child"))
    assert settled.outcome is outcome
    assert len(driver.orders()) == 1
    assert records.unsettled() == []
    (run,) = records.runs()
    assert "cut off" in (run.words or "")
    assert run.plan_sha256 == the_plan().sha256
    engine.dispose()


def test_row_37_a_leader_stopped_past_its_lease_does_nothing_more(tmp_path: Path) -> None:
    """Stopped amid an order, woken when another leads: its token is refused, and one order is all that it gave."""
    engine = open_copy(tmp_path)
    records, driver = SqlRecords(engine), FolderDriver(tmp_path)
    child = subprocess.Popen(command(tmp_path, "during"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        lease = take_over(records)
        (settled,) = clear_up(records, driver, lease)
        assert settled.outcome is Outcome.DONE
        child.send_signal(signal.SIGCONT)
        said, errors = child.communicate()
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, errors
    assert "is followed by 2 of successor" in said
    assert [order.split()[:2] for order in driver.orders()] == [["suspend", ref(1).uuid]]
    assert driver.find(ref(2).uuid, 1.0).state is VmState.RUNNING
    assert [action.outcome for action in records.actions_since(0)] == [Outcome.DONE]
    engine.dispose()
