"""`fallow-report` as it is called: which command runs, on what, and what its end means."""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agent.settings import ConfigError
from reports.__main__ import main
from reports.commands import COMMANDS, Command, Surroundings
from reports.config import ReportConfig
from tests.reports.fleets import NOW_S, Constant, Load, Spec, one_of_each, write_fleet


class Terminal(io.StringIO):
    """A stream that says that people read it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def fleet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with one VM of each kind; only read."""
    folder = tmp_path_factory.mktemp("data")
    write_fleet(folder, one_of_each())
    return folder


def call(
    *argv: str | Path,
    environ: Mapping[str, str] | None = None,
    out: io.StringIO | None = None,
    commands: Mapping[str, Command] = COMMANDS,
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one call."""
    out, err = out or io.StringIO(), io.StringIO()
    words = [str(word) for word in argv]
    code = main(words, clock=lambda: NOW_S, environ=environ or {}, out=out, err=err, commands=commands)
    return code, out.getvalue(), err.getvalue()


def one_command(run: Callable[[ReportConfig, Surroundings], int]) -> Mapping[str, Command]:
    """A program whose only command does this."""

    def adapted(_options: argparse.Namespace, config: ReportConfig, around: Surroundings) -> int:
        return run(config, around)

    return {"": Command(summary="Does one thing.", options=lambda parser: None, run=adapted)}


def raising(error: BaseException) -> Mapping[str, Command]:
    def run(_config: ReportConfig, _around: Surroundings) -> int:
        raise error

    return one_command(run)


def test_without_a_command_it_reports(fleet_dir: Path) -> None:
    """The ranked VMs, on stdout, nothing on stderr."""
    code, out, err = call("--data", fleet_dir)
    assert (code, err) == (0, "")
    assert "idle" in out


@pytest.mark.parametrize("name", [name for name in COMMANDS if name])
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What it does, where the fleet is, an example, and what its end means."""
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert f"fallow-report {name}" in text
    for part in ("--data", "--config", "examples:", "exit codes:"):
        assert part in text


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever asks for help finds the rest."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in COMMANDS if name)


def test_the_command_line_wins_over_the_file_and_the_file_over_the_environment(tmp_path: Path) -> None:
    """Each source is used, the nearer one first."""
    found: list[ReportConfig] = []

    def note(config: ReportConfig, _around: Surroundings) -> int:
        found.append(config)
        return 0

    commands = one_command(note)
    config = tmp_path / "report.toml"
    config.write_text('[report]\ndata = "/of/file"\ntop = 7\n', encoding="utf-8")
    environ = {"FALLOW_DATA": "/of/environment"}
    for argv in ([], ["--config", config], ["--config", config, "--data", "/of/line"], ["--fleet", "sqlite:////f.db"]):
        assert call(*argv, environ=environ, commands=commands)[0] == 0
    assert [str(each.data_dir) for each in found[:3]] == ["/of/environment", "/of/file", "/of/line"]
    assert [each.top for each in found] == [20, 7, 7, 20]
    assert found[3].fleet_url == "sqlite:////f.db"


def test_a_command_learns_how_to_start_another_on_the_same_fleet(tmp_path: Path) -> None:
    """As the pages do to have the fleet judged."""
    found: list[tuple[str, ...]] = []

    def note(_config: ReportConfig, around: Surroundings) -> int:
        found.append(around.arguments)
        return 0

    config = tmp_path / "report.toml"
    config.write_text("[report]\n", encoding="utf-8")
    call("--config", config, "--data", "/line", commands=one_command(note))
    call(environ={"FALLOW_DATA": "/environment"}, commands=one_command(note))
    assert found == [("--config", str(config), "--data", "/line"), ("--data", "/environment")]


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--data", "x", "--fleet", "y"], "argument --fleet: not allowed with argument --data"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["keep", "--untill", "30d"], "unrecognized arguments: --untill"),
        (["raport"], "unrecognized arguments: raport"),
    ],
)
def test_a_wrong_option_is_named(capsys: pytest.CaptureFixture[str], argv: list[str], problem: str) -> None:
    """Exit code 2, the option and what is wrong with it."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--fleet", "mysql://x/y"],
        ["--fleet", "nonsense"],
        ["--config", "/absent.toml"],
        ["compare", "--data", "/absent"],
        ["schedule"],
        ["serve", "--listen", "0.0.0.0:0"],
    ],
)
def test_settings_that_cannot_be_used_are_usage_errors(argv: list[str]) -> None:
    """Exit code 2 and one line, no traceback."""
    code, out, err = call(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("fallow-report: ")
    assert err.count("\n") == 1


def test_every_mistake_of_a_file_has_a_line(tmp_path: Path) -> None:
    """Each beginning with the program's name."""
    config = tmp_path / "report.toml"
    config.write_text('[report]\ntop = 0\nwindow = "5 parsecs"\n', encoding="utf-8")
    code, _, err = call("--config", config)
    assert code == 2
    assert [line.partition(" ")[0] for line in err.splitlines()] == ["fallow-report:"] * 2


def test_no_database_says_what_to_do(tmp_path: Path) -> None:
    """The message names the file that is missing and the program that makes it."""
    code, _, err = call("--data", tmp_path)
    assert code == 2
    assert str(tmp_path / "fleet.db") in err
    assert "fallow-aggregator" in err


def test_a_database_that_does_not_answer_is_69() -> None:
    """Locked or unreachable, found at opening or while reading, is not the user's mistake; no traceback."""
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
    locked = sa.exc.OperationalError("SELECT", {}, busy)
    wrapped = ConfigError("fleet.db: database is locked")
    wrapped.__cause__ = locked
    server = sa.exc.OperationalError("SELECT", {}, Exception("database is locked: connection refused\nmore"))
    for error in (locked, wrapped, server):
        code, out, err = call(commands=raising(error))
        assert (code, out) == (69, "")
        assert "database is locked" in err
        assert err.count("\n") == 1


def test_a_database_that_refuses_is_2() -> None:
    """A wrong password is a mistake in the settings, and said as the aggregator says it."""
    said = 'connection failed: FATAL:  password authentication failed for user "fallow"'
    code, out, err = call(commands=raising(sa.exc.OperationalError("SELECT", {}, Exception(said))))
    assert (code, out) == (2, "")
    assert err.startswith("fallow-report: the fleet database refuses: connection failed: FATAL: password auth")


def test_a_damaged_database_is_a_failure(fleet_dir: Path, tmp_path: Path) -> None:
    """Bytes that are no database, and a row that cannot be read, end with a message each."""
    (tmp_path / "fleet.db").write_bytes(b"x" * 8192)
    code, _, err = call("--data", tmp_path)
    assert code == 2
    assert "not a database" in err
    shutil.copy(fleet_dir / "fleet.db", tmp_path / "fleet.db")
    connection = sqlite3.connect(tmp_path / "fleet.db")
    connection.execute("UPDATE vm SET tags = '[' WHERE vm_id = (SELECT min(vm_id) FROM vm)")
    connection.commit()
    connection.close()
    code, out, err = call("--data", tmp_path)
    assert (code, out) == (1, "")
    assert "'[' is not a JSON list of texts" in err


def test_an_error_of_ours_is_not_hidden() -> None:
    """A traceback tells more than a polite line."""
    with pytest.raises(ZeroDivisionError):
        call(commands=raising(ZeroDivisionError()))


@pytest.mark.parametrize(
    ("environ", "terminal", "width"),
    [
        ({}, False, None),
        ({"COLUMNS": "90"}, False, 90),
        ({"COLUMNS": "140"}, True, 140),
        ({"COLUMNS": "x"}, False, None),
    ],
)
def test_the_width_is_the_terminals_or_what_is_asked_for(
    environ: dict[str, str], terminal: bool, width: int | None
) -> None:
    """Piped output is as wide as it needs to be; COLUMNS narrows it; only a terminal gets colours."""
    found: list[Surroundings] = []

    def note(_config: ReportConfig, around: Surroundings) -> int:
        found.append(around)
        return 0

    call(environ=environ, out=Terminal() if terminal else io.StringIO(), commands=one_command(note))
    assert (found[0].width, found[0].colour) == (width, terminal)


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


def _fleet_of_one(folder: Path) -> None:
    write_fleet(folder, [Spec(vm_id="vm-a", load=Load(cpu=Constant(0.01)))])
