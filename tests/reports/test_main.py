"""`fallow-report` as it is called."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agent.settings import ConfigError
from aggregator.fleet_db import migrate, open_fleet
from reports.__main__ import main
from tests.reports.fleets import NOW_S, VERDICTS_OF_EACH, candidate, one_of_each, store, window


class Terminal(io.StringIO):
    """A stream that says that people read it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def fleet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with one VM of each kind; only read."""
    folder = tmp_path_factory.mktemp("data")
    engine = open_fleet(None, folder)
    migrate(engine)
    with engine.begin() as connection:
        store(connection, one_of_each())
    engine.dispose()
    return folder


def report(
    *argv: str | Path,
    environ: dict[str, str] | None = None,
    out: io.StringIO | None = None,
    open_fleet: Callable[[str | None, Path], sa.Engine] | None = None,
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one call."""
    out, err = out or io.StringIO(), io.StringIO()
    code = main(
        [str(word) for word in argv],
        clock=lambda: NOW_S,
        environ=environ or {},
        out=out,
        err=err,
        open_fleet=open_fleet,
    )
    return code, out.getvalue(), err.getvalue()


def test_the_idle_vms_are_listed_by_default(fleet_dir: Path) -> None:
    """Without further options: the reclaimable VMs, on stdout, nothing on stderr."""
    code, out, err = report("--data", fleet_dir)
    assert code == 0
    assert "vm-idle" in out
    assert "vm-active" not in out
    assert err == ""


def test_all_as_json_gives_every_verdict(fleet_dir: Path) -> None:
    """What programs read holds each VM of the catalogue."""
    code, out, _ = report("--data", fleet_dir, "--all", "--json")
    assert code == 0
    verdicts = {vm["vm"]: vm["verdict"] for vm in json.loads(out)["vms"]}
    assert verdicts == {vm: verdict.value for vm, verdict in VERDICTS_OF_EACH.items()}


@pytest.mark.parametrize("words", ["insufficient", "insufficient data", "insufficient-data"])
def test_a_verdict_may_be_said_in_three_ways(fleet_dir: Path, words: str) -> None:
    """The verdict with a space in its name needs no quotes."""
    _, out, _ = report("--data", fleet_dir, "--verdict", words, "--csv")
    assert sorted(line.split(",")[1] for line in out.splitlines()[1:]) == ["vm-bare", "vm-silent"]


def test_all_of_one_verdict_is_not_cut(tmp_path: Path) -> None:
    """--all lifts the bound of --top for a filtered list too."""
    engine = open_fleet(None, tmp_path)
    migrate(engine)
    with engine.begin() as connection:
        store(connection, [candidate(vm_id=f"vm-{place}") for place in range(30)])
    engine.dispose()
    for options, listed in (([], 20), (["--top", "3"], 3), (["--all", "--verdict", "idle"], 30)):
        _, out, _ = report("--data", tmp_path, "--json", *options)
        assert json.loads(out)["listed"] == listed


def test_options_reach_the_question(fleet_dir: Path) -> None:
    """Policy, silence and source change what is answered."""
    url = f"sqlite:///{fleet_dir / 'fleet.db'}"
    _, out, _ = report("--fleet", url, "--policy", "p95", "--silent-after", "3h", "--json")
    document = json.loads(out)
    assert (document["policy"], document["limits"]["silent_after_s"]) == ("p95", 10_800)
    assert document["totals"]["causes"].get("silent") is None


def test_the_command_line_wins_over_the_file_and_the_file_over_the_environment(fleet_dir: Path, tmp_path: Path) -> None:
    """Each source is used, the nearer one first."""
    config = tmp_path / "report.toml"
    config.write_text(f'[report]\ndata = "{fleet_dir}"\npolicy = "p95"\ntop = 1\n', encoding="utf-8")
    elsewhere = {"FALLOW_DATA": str(tmp_path / "absent")}
    _, out, _ = report("--config", config, "--policy", "classic", "--json", environ=elsewhere)
    assert json.loads(out)["policy"] == "classic"
    assert report("--json", environ={"FALLOW_DATA": str(fleet_dir)})[0] == 0
    assert report("--json", environ=elsewhere)[0] == 2


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--window", "5 parsecs"], "argument --window: '5 parsecs' is not a duration"),
        (["--window", "0d"], "argument --window: '0d' is not more than zero"),
        (["--window", "36h"], "argument --window: '36h' is not a number of whole days"),
        (["--policy", "best"], "argument --policy: 'best' is not a policy (classic, p95)"),
        (["--verdict", "bored"], "argument --verdict: 'bored' is not a verdict"),
        (["--top", "0"], "argument --top: 0 is not at least 1"),
        (["--top", "5", "--all"], "argument --all: not allowed with argument --top"),
        (["--json", "--csv"], "argument --csv: not allowed with argument --json"),
        (["--data", "x", "--fleet", "y"], "argument --fleet: not allowed with argument --data"),
        (["--silent-after", "60"], "argument --silent-after: '60' is not a duration"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_a_wrong_option_is_named(capsys: pytest.CaptureFixture[str], argv: list[str], problem: str) -> None:
    """Exit code 2, the option and what is wrong with it."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert problem in capsys.readouterr().err


def test_a_window_that_is_not_kept_names_those_that_are(fleet_dir: Path) -> None:
    """The choice is what the aggregator keeps, not what this program was built with."""
    code, out, err = report("--data", fleet_dir, "--window", "7d")
    assert (code, out) == (2, "")
    assert err == "fallow-report: --window: the aggregator keeps no window of 7d (choose from 14d)\n"


@pytest.mark.parametrize("argv", [["--fleet", "mysql://x/y"], ["--fleet", "nonsense"], ["--config", "/absent.toml"]])
def test_settings_that_cannot_be_used_are_usage_errors(argv: list[str]) -> None:
    """Exit code 2 and one line, no traceback."""
    code, out, err = report(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("fallow-report: ")
    assert err.count("\n") == 1


def test_no_database_says_what_to_do(tmp_path: Path) -> None:
    """The message names the file that is missing and the program that makes it."""
    code, _, err = report("--data", tmp_path)
    assert code == 2
    assert str(tmp_path / "fleet.db") in err
    assert "fallow-aggregator" in err


def test_an_empty_fleet_is_no_error(tmp_path: Path) -> None:
    """A database without VMs tells the next step and exits 0; so does JSON."""
    engine = open_fleet(None, tmp_path)
    migrate(engine)
    engine.dispose()
    code, out, _ = report("--data", tmp_path)
    assert code == 0
    assert "join-token" in out
    assert json.loads(report("--data", tmp_path, "--json")[1])["vms"] == []


def test_a_database_that_does_not_answer_is_69(fleet_dir: Path) -> None:
    """Locked or unreachable, found at opening or while reading, is not the user's mistake; no traceback."""

    def raising(error: Exception) -> Callable[[str | None, Path], sa.Engine]:
        def open_fleet(_url: str | None, _data: Path) -> sa.Engine:
            raise error

        return open_fleet

    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
    locked = sa.exc.OperationalError("SELECT", {}, busy)
    wrapped = ConfigError("fleet.db: database is locked")
    wrapped.__cause__ = locked
    for error in (locked, wrapped):
        code, out, err = report("--data", fleet_dir, open_fleet=raising(error))
        assert (code, out) == (69, "")
        assert "database is locked" in err
        assert err.count("\n") == 1


def test_a_damaged_database_is_a_failure(fleet_dir: Path, tmp_path: Path) -> None:
    """Bytes that are no database, and a row that cannot be read, end with a message each."""
    (tmp_path / "fleet.db").write_bytes(b"x" * 8192)
    code, _, err = report("--data", tmp_path)
    assert code == 2
    assert "not a database" in err
    shutil.copy(fleet_dir / "fleet.db", tmp_path / "fleet.db")
    connection = sqlite3.connect(tmp_path / "fleet.db")
    connection.execute("UPDATE vm SET tags = '[' WHERE vm_id = 'vm-idle'")
    connection.commit()
    connection.close()
    code, out, err = report("--data", tmp_path)
    assert (code, out) == (1, "")
    assert "malformed JSON" in err


@pytest.mark.parametrize(
    ("environ", "terminal", "wide"),
    [
        ({}, False, True),
        ({"COLUMNS": "80"}, False, False),
        ({"COLUMNS": "140"}, True, True),
        ({"COLUMNS": "x"}, False, True),
    ],
)
def test_the_width_is_the_terminals_or_what_is_asked_for(
    fleet_dir: Path, environ: dict[str, str], terminal: bool, wide: bool
) -> None:
    """Piped output is as wide as it needs to be; COLUMNS narrows it; only a terminal gets colours."""
    out = Terminal() if terminal else io.StringIO()
    _, text, _ = report("--data", fleet_dir, environ={"TERM": "xterm", **environ}, out=out)
    assert ("owner" in text) is wide
    assert terminal or "\x1b" not in text


@pytest.mark.real
def test_the_command_prints_json_on_stdout(tmp_path: Path) -> None:
    """Started as a user would: a document on stdout, nothing else anywhere."""
    _fleet_of_one(tmp_path)
    command = [sys.executable, "-m", "reports", "--data", str(tmp_path), "--json", "--all"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [vm["cause"] for vm in json.loads(done.stdout)["vms"]] == ["silent"]


@pytest.mark.real
def test_a_reader_that_stops_is_no_error(tmp_path: Path) -> None:
    """`fallow-report | head` ends without a traceback."""
    _fleet_of_one(tmp_path)
    command: list[Any] = [sys.executable, "-m", "reports", "--data", str(tmp_path), "--csv", "--all"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    errors = program.stderr.read()
    program.stderr.close()
    assert (program.wait(timeout=120), errors) == (0, b"")


@pytest.mark.real
def test_importing_reads_nothing_heavy() -> None:
    """--help comes without SQLAlchemy and rich: they are imported when a report is made."""
    code = "import sys, reports.__main__; print(*{'sqlalchemy', 'rich', 'twisted', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120)
    assert done.stdout.strip() == b""


def _fleet_of_one(folder: Path) -> None:
    engine = open_fleet(None, folder)
    migrate(engine)
    with engine.begin() as connection:
        store(connection, [candidate(window=window())])
    engine.dispose()
