"""What the commands that end by themselves share: how they end, and where they look."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError, TimeoutError

from agent.settings import ConfigError
from aggregator.cli import add_command, counted, existing_data_dir, parse_vm, say, say_table, time_text, typed
from aggregator.problems import Problem, Refused

REFUSED = 'FATAL: password authentication failed for user "fallow"'


def run(command: Callable[[argparse.Namespace], int], *words: str) -> int:
    """The exit code of `command`, typed as `fallow-aggregator look WORDS`."""
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers(), "look", command, "look at it", "fallow-aggregator look")
    options = parser.parse_args(["look", *words])
    status: int = options.command(options)
    return status


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def command(_: argparse.Namespace) -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (ConfigError(["--data: a", "--data: b"]), 2, ["--data: a", "--data: b"]),
        (Refused(Problem(409, "known", "vm-1 is known")), 1, ["vm-1 is known"]),
        (Refused(Problem(503, "no-answer", "no answer")), 69, ["no answer"]),
        (OperationalError("SELECT", {}, Exception("no\nhost")), 69, ["the fleet database does not answer: no host"]),
        (TimeoutError("QueuePool limit"), 69, ["the fleet database does not answer: QueuePool limit"]),
        (OperationalError("SELECT", {}, Exception(REFUSED)), 2, [f"the fleet database refuses: {REFUSED}"]),
        (PermissionError(13, "Permission denied", "x.db"), 1, ["[Errno 13] Permission denied: 'x.db'"]),
        (KeyboardInterrupt(), 1, ["interrupted"]),
    ],
)
def test_what_goes_wrong_is_a_line_and_an_exit_code(
    error: BaseException, status: int, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """2 for settings, refused ones too, 69 for another side that does not answer, 1 for the rest; never a traceback."""
    assert run(raising(error)) == status
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", [f"fallow-aggregator: {line}" for line in lines])


def test_a_bug_stays_a_traceback() -> None:
    """What no user can cause is not passed off as a user's mistake."""
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))


@pytest.mark.real
def test_a_reader_that_went_away_is_no_traceback() -> None:
    """`fallow-aggregator … | head -1` ends with 1 and says nothing more, whenever the pipe breaks."""
    program = (
        "import argparse; from aggregator.cli import add_command, say\n"
        "parser = argparse.ArgumentParser()\n"
        "add_command(parser.add_subparsers(), 'look', lambda _: say('x' * 1000) or 0, 'look', 'look')\n"
        "options = parser.parse_args(['look'])\n"
        "raise SystemExit(options.command(options))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), err) == (1, "")


def test_the_data_directory_is_the_option_else_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--data` goes over FALLOW_DATA; a directory that is not there is named only where it must be there."""
    monkeypatch.setenv("FALLOW_DATA", str(tmp_path / "absent"))
    seen: list[Path] = []

    def command(options: argparse.Namespace) -> int:
        seen.append(options.data)
        existing_data_dir(options)
        return 0

    assert (run(command, "--data", str(tmp_path)), run(command)) == (0, 2)
    assert seen == [tmp_path, tmp_path / "absent"]


def test_options_say_what_is_wrong_with_them() -> None:
    """The text of the parser's ValueError survives argparse."""
    assert typed(parse_vm)("vm-1") == "vm-1"
    with pytest.raises(argparse.ArgumentTypeError, match=r"'\.\./x' is not a VM id"):
        typed(parse_vm)("../x")


def test_a_table_has_columns_as_wide_as_their_widest_cell(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is cut off, and no line ends in blanks."""
    say_table(("VM", "NAME"), [("vm-1", "-"), ("a", "web shop")])
    say("end")
    assert capsys.readouterr().out == "VM    NAME\nvm-1  -\na     web shop\nend\n"


def test_one_is_no_plural() -> None:
    """What is counted reads as a person would say it."""
    assert [counted(count, "VM") for count in (0, 1, 2)] == ["0 VMs", "1 VM", "2 VMs"]


def test_times_are_utc() -> None:
    """Unix seconds as a date that sorts; no time is a dash."""
    assert (time_text(1_700_000_000.9), time_text(None)) == ("2023-11-14 22:13:20Z", "-")
