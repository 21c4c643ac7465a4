"""Stores that vanish or cannot be read, under the real program."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.check import verify_store
from aggregator.store_files import read_samples, store_path
from tests.aggregator.store_fakes import START_S, fill, minutes
from tests.e2e.house import House

pytestmark = pytest.mark.real


def flags(house: House, data: Path, vm: str) -> list[str]:
    """What the fleet database says that makes a VM's figures doubtful."""
    import sqlalchemy as sa

    from aggregator.fleet import vm_summary
    from aggregator.fleet_db import open_fleet_read_only, reading

    engine = open_fleet_read_only(None, data)
    with reading(engine) as connection:
        text: str = connection.execute(sa.select(vm_summary.c.flags).where(vm_summary.c.vm_id == vm)).scalar_one()
    engine.dispose()
    found: list[str] = json.loads(text)
    return found


@pytest.mark.parametrize("is_stopped", [False, True])
@pytest.mark.parametrize("is_emptied", [False, True])
def test_row_18_a_store_that_is_gone_is_begun_anew_and_marked(house: House, is_stopped: bool, is_emptied: bool) -> None:
    """Deleted or emptied, under a running program or between two runs: new rows are stored, and that VM is flagged."""
    lost, whole = house.loads(2)
    aggregator = house.aggregator()
    for load in (lost, whole):
        assert aggregator.push(load, range(5)).acknowledged
    assert aggregator.flush()["failures"] == {}
    if is_stopped:
        assert aggregator.stop() == 0
    path = store_path(aggregator.data, lost.vm)
    if is_emptied:
        path.write_bytes(b"")
    else:
        path.unlink()
    if is_stopped:
        aggregator = house.aggregator()
    for load in (lost, whole):
        assert aggregator.push(load, range(5, 10)).acknowledged
    report = aggregator.flush()
    assert (report["samples"], report["failures"]) == (10, {})
    assert aggregator.stored(lost.vm) == lost.rows(range(5, 10))
    assert aggregator.stored(whole.vm) == whole.rows(range(10))
    assert flags(house, aggregator.data, lost.vm) == ["store_replaced"]
    assert flags(house, aggregator.data, whole.vm) == []


WORKER = """
import json, sys
from pathlib import Path
from tests.aggregator.store_fakes import START_S, flush, packed_row, settings, share
from aggregator.worker import FlushWorker
late = packed_row(START_S + 90, interval_s=30)
result = flush(FlushWorker(settings(Path(sys.argv[1]))), *(share(vm, late) for vm in ("vm-0", "vm-1", "vm-2")))
print(json.dumps([result.failures, list(result.lost_stores), [one.vm_id for one in result.summaries]]))
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("nth", [1, 2, 3, 5, 8])
def test_row_12_a_disk_that_fails_under_one_store_harms_its_vm_alone(tmp_path: Path, nth: int) -> None:
    """EIO from the kernel at the Nth read of a store and ever after: the others are stored; then it recovers."""
    # More than fits into one page of each table.
    path = fill(tmp_path, "vm-1", b"".join(minutes(START_S + 60 * n, 1, load1=n % 97) for n in range(1, 2 * 1440)))
    inject = ["strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-P", str(path)]
    inject += ["-e", "trace=pread64", "-e", f"inject=pread64:error=EIO:when={nth}+"]
    worker = [sys.executable, "-c", WORKER, str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run([*inject, *worker], capture_output=True, text=True, check=False, cwd=root)
    if "ptrace" in done.stderr and done.returncode != 0:
        pytest.skip(f"this machine lets nobody trace a program: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert "EIO" in (tmp_path / "trace").read_text(), "nothing was injected"
    failures, lost, stored = json.loads(done.stdout)
    assert list(failures) == ["vm-1"]
    assert "error" in failures["vm-1"]
    assert (lost, stored) == ([], ["vm-0", "vm-2"])
    again = subprocess.run(worker, capture_output=True, text=True, check=True, cwd=root)
    assert json.loads(again.stdout)[:2] == [{}, []]
    assert len(read_samples(path, 0, 2 * START_S)) == 2 * 1440
    assert verify_store(path, "vm-1") == []
