"""Options, tokens, progress and exit codes that `simulate` and `replay` share."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import pytest

from agent.delivery import (
    EXIT_FAILED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    Progress,
    guarded,
    option,
    parse_batch,
    parse_factor,
    parse_time_s,
    read_join_token,
    write_manifest,
)
from agent.load import LoadError, Tally, UnreachableError
from agent.settings import ConfigError
from tests.agent.fake_aggregator import Pauses


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_factor() -> None:
    """`max` and 0 mean no waiting; anything else is a factor."""
    assert parse_factor("max") is None
    assert parse_factor("0") is None
    assert parse_factor("2.5") == 2.5
    for text in ("-1", "inf", "nan", "fast"):
        with pytest.raises(ValueError, match=text):
            parse_factor(text)


def test_batch_is_bounded_by_the_wire() -> None:
    """A batch that no aggregator takes is refused before anything is sent."""
    assert parse_batch("1000") == 1000
    for text in ("0", "1001", "many"):
        with pytest.raises(ValueError, match=text):
            parse_batch(text)


def test_times() -> None:
    """ISO 8601, in UTC where no zone is named."""
    assert parse_time_s("2026-11-21T08:00:00Z") == parse_time_s("2026-11-21 08:00") == 1_795_248_000
    assert parse_time_s("2026-11-21T10:00:00+02:00") == 1_795_248_000
    with pytest.raises(ValueError, match="yesterday"):
        parse_time_s("yesterday")


def test_option_keeps_the_text_of_a_mistake() -> None:
    """argparse shows what is wrong with a value instead of the name of a function."""
    with pytest.raises(argparse.ArgumentTypeError, match="1001 is more than a push may carry"):
        option(parse_batch)("1001")


def test_join_token_comes_from_file_stdin_or_environment(tmp_path: Path) -> None:
    """A file comes first, `-` reads one line, the variable is the last resort; blanks around it do not count."""
    file = tmp_path / "token"
    file.write_text("from-file\n")
    file.chmod(0o600)
    environ = {"FALLOW_JOIN_TOKEN": " from-environment "}
    assert read_join_token(str(file), environ=environ, stdin=io.StringIO()) == "from-file"
    assert read_join_token("-", environ=environ, stdin=io.StringIO("from-stdin\nmore")) == "from-stdin"
    assert read_join_token(None, environ=environ, stdin=io.StringIO()) == "from-environment"


def test_missing_or_open_join_token_names_the_option(tmp_path: Path) -> None:
    """No token, an empty one, and a file that others may read are each refused under the option's name."""
    file = tmp_path / "token"
    file.write_text("secret")
    file.chmod(0o644)
    for where in (str(file), str(tmp_path / "absent"), "-", None):
        with pytest.raises(ConfigError, match="--join-token-file"):
            read_join_token(where, environ={}, stdin=io.StringIO())


def test_manifest_that_cannot_be_written_names_the_option(tmp_path: Path) -> None:
    """A wrong path is a mistake in the command line."""
    with pytest.raises(ConfigError, match="--manifest"):
        write_manifest(tmp_path / "absent" / "manifest.json", [])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("--end: wrong"), EXIT_USAGE),
        (UnreachableError("http://127.0.0.1:1: refused"), EXIT_UNREACHABLE),
        (LoadError("enrolment refused"), EXIT_FAILED),
    ],
)
def test_errors_become_exit_codes(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong stands on stderr, nothing on stdout, and the exit code tells whose mistake it is."""

    def command() -> int:
        raise error

    assert guarded(command) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"fallow-agent: {error}\n")


def test_progress_elsewhere_is_a_line_every_five_seconds() -> None:
    """Not more often, with share and rate, and the last state at the end."""
    stream, pauses = io.StringIO(), Pauses()
    progress = Progress(stream, total=400, clock=pauses.clock)
    for second in range(1, 12):
        pauses.now_s += 1
        progress(Tally(vms=2, samples=10 * second))
    progress.finish(Tally(vms=2, samples=400))
    assert stream.getvalue().splitlines() == [
        "12 %, 50 samples of 2 VMs, 10 samples/s",
        "25 %, 100 samples of 2 VMs, 10 samples/s",
        "100 %, 400 samples of 2 VMs, 36 samples/s",
    ]


def test_progress_on_a_terminal_rewrites_one_line() -> None:
    """At most once a second, one line that ends only at the end; without a total there is no share."""
    stream, pauses = Terminal(), Pauses()
    progress = Progress(stream, total=None, clock=pauses.clock)
    for _ in range(20):
        pauses.now_s += 0.25
        progress(Tally(samples=5))
    assert stream.getvalue().count("\r") == 5
    assert "\n" not in stream.getvalue()
    assert "%" not in stream.getvalue()
    progress.finish(Tally(samples=5))
    assert stream.getvalue().endswith("\n")
