"""`fallow-aggregator rows`: what a store holds, as text."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from agent.sample import FIELDS
from aggregator.__main__ import main
from aggregator.rows_cli import parse_time
from aggregator.store_files import read_samples, store_path
from tests.aggregator.store_fakes import HOUR_S, START_S, change, fill, minutes

VM = "vm-1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of two hours and a bit."""
    return fill(tmp_path / "data", VM, minutes(START_S + 60, 130, load1=0.25, net_rx_bytes_per_s=7.0))


def run(capsys: pytest.CaptureFixture[str], path: Path, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    try:
        status = main(["rows", "--data", str(path.parents[3]), *words])
    except SystemExit as stopped:
        status = int(str(stopped.code))
    return status, *capsys.readouterr()


def test_rows_are_printed_in_units_of_the_wire(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As CSV all rows stand below the names of the wire, empty where nothing was measured."""
    status, out, _ = run(capsys, path, VM)
    found = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    assert list(found[0]) == ["ts", "interval_s", *(field.name for field in FIELDS)]
    assert [int(row["ts"]) for row in found] == [START_S + 60 * step for step in range(1, 131)]
    assert {(row["cpu_busy_ratio"], row["load1"], row["users"]) for row in found} == {("0.1", "0.25", "")}
    assert {(row["mem_total_bytes"], row["net_rx_bytes_per_s"]) for row in found} == {(str(1 << 30), "7.0")}


def test_json_says_null_for_what_was_not_measured(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows are those that every reader of the store gets."""
    status, out, _ = run(capsys, path, VM, "--json")
    assert status == 0
    assert json.loads(out) == {"rows": read_samples(path, 0, 2 * START_S)}


@pytest.mark.parametrize("begin", ["2023-11-13T01:00", "2023-11-13T02:00+01:00", str(START_S + HOUR_S)])
def test_a_span_is_printed_alone(path: Path, capsys: pytest.CaptureFixture[str], begin: str) -> None:
    """Samples that end after the first time and not after the second, however the times are written."""
    _, out, _ = run(capsys, path, VM, "--from", begin, "--to", "2023-11-13T01:03", "--json")
    assert [row["ts"] - START_S - HOUR_S for row in json.loads(out)["rows"]] == [60, 120, 180]


def test_a_store_anywhere_is_read(tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that was set aside or copied needs no data directory."""
    aside = path.rename(tmp_path / "vm-1.damaged-1700000000")
    status, out, _ = run(capsys, path, "--file", str(aside))
    assert (status, len(out.splitlines())) == (0, 131)


def test_row_17_a_damaged_hour_is_named_and_others_are_printed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing that was changed is shown as if it were right."""
    change(path, "UPDATE sample SET load1 = 7 WHERE ts = ?", START_S + 600)
    status, out, err = run(capsys, path, VM)
    assert (status, out) == (1, "")
    assert "rows: hour 2023-11-13T00:00Z" in err
    status, out, _ = run(capsys, path, VM, "--from", "2023-11-13T01:00")
    assert (status, len(out.splitlines())) == (0, 71)


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ([], 2, "name either a VM or a --file"),
        ([VM, "--file", "x.db"], 2, "name either a VM or a --file"),
        (["../../etc/passwd"], 2, "is not a VM id"),
        ([VM, "--from", "yesterday"], 2, "is not a time"),
        ([VM, "--from", "2023-11-13T02:00", "--to", "2023-11-13T01:00"], 2, "is not after --from"),
        ([VM, "--from", "1970-01-01", "--to", "2170-01-01"], 2, "more than 100 years"),
        ([VM, "--csv", "--json"], 2, "not allowed with"),
        (["vm-2"], 1, "there is no store"),
    ],
)
def test_what_makes_no_sense_is_refused(
    path: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, told: str
) -> None:
    """Mistakes are named, by option, before anything is read."""
    found, out, err = run(capsys, path, *words)
    assert (found, out) == (status, "")
    assert told in err
    assert not store_path(path.parents[3], "vm-2").exists()


def test_times_are_in_utc_unless_they_say_otherwise() -> None:
    """An admin's own zone never moves what is read."""
    assert (
        parse_time("2023-11-13") == parse_time("2023-11-13T00:00Z") == parse_time("2023-11-13 02:00+02:00") == START_S
    )
