"""kill -9 of the aggregator under load, a few times; and that the comparison at its end would see a loss."""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sample import FIELDS
from agent.wire import decode_batch, encode_batch
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.store_files import store_path
from bench import kill
from bench.kill_compare import compare
from bench.kill_driver import VmLedger, steps_of, text_of
from tests.aggregator.store_fakes import change_in
from tests.e2e.house import House

pytestmark = pytest.mark.real


def test_fault_01_kill_9_of_the_aggregator_loses_nothing(house: House) -> None:
    """After 5 kills under load every acknowledged sample is stored once, and rollups and summaries follow from them."""
    said: list[str] = []
    outcome = kill.run(argparse.Namespace(times=5, seed=7, vms=60), said.append)
    assert [bar.name for bar in outcome.bars if not bar.ok] == [], said
    assert outcome.figures["kills"] == 5
    assert outcome.figures["acknowledged_samples"] == outcome.figures["stored_samples"]
    assert isinstance(outcome.figures["acknowledged_pushes"], int)
    assert outcome.figures["acknowledged_pushes"] > 60


@given(salt=st.integers(0, 2_000), minute=st.integers(0, 60_000))
def test_a_ledger_knows_the_row_that_its_text_becomes(salt: int, minute: int) -> None:
    """What the wire says of a sample, quantised field by field, is the row that the comparison expects."""
    ledger = VmLedger("kill-0000", "t", salt=salt, start_s=1_700_000_040, last_minute=100_000)
    ts = ledger.ts(minute)
    (sample,) = decode_batch(
        encode_batch(vm="a", boot="b", seq=1, sent_s=0.0, interval_s=60, samples=[text_of(ts, steps_of(salt, minute))])
    ).samples
    steps = [round(getattr(sample, field.name) / field.unit.quantum) for field in FIELDS]
    assert [ts, 60, *steps] == [ts, 60, *steps_of(salt, minute)]
    # Nothing was sent yet, so no row is right.
    assert ledger.row(ts) is None


@given(seed=st.integers(0, 1_000), answered=st.lists(st.booleans(), max_size=60))
def test_a_ledger_repeats_what_is_unanswered_and_counts_what_is_answered(seed: int, answered: list[bool]) -> None:
    """A push without an answer is chosen again as it was; exactly the samples of answered ones are acknowledged."""
    ledger = VmLedger("kill-0000", "t", salt=1, start_s=1_700_000_040, last_minute=100_000)
    draw = random.Random(seed)
    acknowledged: set[int] = set()
    before: list[int] = []
    for answer in answered:
        ledger.choose(draw)
        if before:
            assert list(ledger.pending) == before
        ledger.request(1_700_000_000.0)
        before = [] if answer else list(ledger.pending)
        if answer:
            acknowledged.update(ledger.ts(minute) for minute in ledger.pending)
            ledger.acknowledge()
    assert set(ledger.acknowledged()) == acknowledged


def cut_a_row(store: sqlite3.Connection) -> None:
    change_in(store, "DELETE FROM sample WHERE ts = (SELECT min(ts) FROM sample)")


def change_a_figure(store: sqlite3.Connection) -> None:
    change_in(store, "UPDATE sample SET cpu_busy = cpu_busy + 1 WHERE ts = (SELECT min(ts) FROM sample)")


def invent_a_row(store: sqlite3.Connection) -> None:
    columns = ", ".join(SAMPLE_COLUMNS)
    first = f"SELECT ts + 30, {columns.removeprefix('ts, ')} FROM sample ORDER BY ts LIMIT 1"
    change_in(store, f"INSERT INTO sample ({columns}) {first}")


def count_an_hour_twice(store: sqlite3.Connection) -> None:
    store.execute("UPDATE hour SET samples = samples * 2, covered_s = covered_s * 2")


@pytest.mark.parametrize(
    ("damage", "seen"),
    [
        # Its hour counts one more than there are.
        (cut_a_row, {"lost", "doubled", "rollup_mismatches", "summary_mismatches"}),
        (change_a_figure, {"lost", "never_sent", "rollup_mismatches", "summary_mismatches"}),
        (invent_a_row, {"never_sent", "rollup_mismatches", "summary_mismatches"}),
        (count_an_hour_twice, {"doubled", "rollup_mismatches"}),
    ],
)
def test_the_comparison_sees_what_a_crash_could_do(
    data: tuple[Path, VmLedger], damage: Callable[[sqlite3.Connection], None], seen: set[str]
) -> None:
    """A row that is gone, changed, invented or counted twice is found, and under its own name."""
    data_dir, ledger = data
    assert found(data_dir, ledger) == set()
    with sqlite3.connect(store_path(data_dir, ledger.vm)) as store:
        damage(store)
    store.close()
    assert found(data_dir, ledger) == seen


def test_a_store_that_is_gone_is_a_loss(data: tuple[Path, VmLedger]) -> None:
    """Without its store, all that a VM was told is kept counts as lost."""
    data_dir, ledger = data
    store_path(data_dir, ledger.vm).unlink()
    findings = compare(data_dir, [ledger])
    assert findings.lost == findings.acknowledged > 0


def found(data_dir: Path, ledger: VmLedger) -> set[str]:
    findings = compare(data_dir, [ledger])
    names = ("lost", "doubled", "never_sent", "rollup_mismatches", "summary_mismatches")
    return {name for name in names if getattr(findings, name)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, VmLedger]:
    """A data directory that a real aggregator filled with one VM's samples, and their ledger."""
    house = House(tmp_path_factory.mktemp("kill"))
    try:
        aggregator = house.aggregator("--retention-raw", "60d")
        load = house.loads(1)[0]
        token = house.token(aggregator, load.vm)
        # From the start of an hour on, so that each run has the same hours.
        start_s = load.ts(0) // 3600 * 3600 + 60
        ledger = VmLedger(load.vm, token, salt=0, start_s=start_s, last_minute=9_000)
        draw = random.Random(3)
        for _ in range(60):
            ledger.choose(draw)
            head, _, body = ledger.request(load.now_s).partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
            assert aggregator.request("POST", "/v1/samples", body, headers).acknowledged
            ledger.acknowledge()
        aggregator.flush()
        assert aggregator.stop() == 0
        return aggregator.data, ledger
    finally:
        house.close()


@pytest.fixture
def data(made: tuple[Path, VmLedger], tmp_path: Path) -> tuple[Path, VmLedger]:
    """A copy of it, to be damaged."""
    data_dir, ledger = made
    return Path(shutil.copytree(data_dir, tmp_path / "data")), ledger
