"""The dispatcher of the benchmarks: what it prints, and with which status it ends."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from agent.settings import ConfigError
from bench.__main__ import NAMES, flatten, load, main
from bench.outcome import Bar, Outcome, Say
from bench.programs import ProgramError
from tests.rig.shell import wait_for


@dataclass
class Stopwatch:
    """A benchmark that measures nothing but hands back what it was told to."""

    outcome: Outcome = field(default_factory=lambda: Outcome({}))
    error: BaseException | None = None

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=1)

    def run(self, options: argparse.Namespace, say: Say) -> Outcome:
        say(f"round {options.rounds}")
        if self.error is not None:
            raise self.error
        return self.outcome


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run() -> Run:
    def run_one(argv: Sequence[str], benchmark: Stopwatch) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        status = main(argv, find=lambda name: benchmark, out=out, err=err)
        return Ended(status, out.getvalue(), err.getvalue())

    return run_one


MEASURED = Outcome(
    {"pushes_per_cpu_s": 30_000.5, "ack": {"p50_s": 0.002, "p99_s": float("nan")}},
    (Bar("pushes against the sink", 0.6, 0.5, at_least=True), Bar("ack p99", 0.08, 0.05)),
)


def test_json_is_one_object_of_flat_figures_and_bars(run: Run) -> None:
    """With --json stdout holds one object: figures flat, no NaN, and each bar with its verdict."""
    ended = run(["ingest", "--json"], Stopwatch(MEASURED))
    assert json.loads(ended.out) == {
        "pushes_per_cpu_s": 30_000.5,
        "ack_p50_s": 0.002,
        "ack_p99_s": None,
        "bars": [
            {"name": "pushes against the sink", "value": 0.6, "limit": 0.5, "ok": True},
            {"name": "ack p99", "value": 0.08, "limit": 0.05, "ok": False},
        ],
    }
    assert ended.err == "round 1\n"


def test_a_missed_bar_is_still_a_measurement(run: Run) -> None:
    """A missed bar shows in the table and leaves the status at 0."""
    ended = run(["ingest"], Stopwatch(MEASURED))
    assert ended.status == 0
    assert [line.rpartition(": ")[2] for line in ended.out.splitlines()[-2:]] == ["ok", "MISSED"]


def test_options_after_the_name_reach_the_benchmark(run: Run) -> None:
    """A benchmark's own options are read by the parser that it filled."""
    assert run(["kill", "--rounds", "5", "--json"], Stopwatch()).err == "round 5\n"


@pytest.mark.parametrize(
    "argv", [[], ["nonsense"], ["--json"], ["ingest", "--rounds", "many"], ["ingest", "--unknown"]]
)
def test_wrong_usage_ends_with_2(run: Run, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No name, an unknown one or a wrong option is a usage error."""
    with pytest.raises(SystemExit) as ended:
        run(argv, Stopwatch())
    assert ended.value.code == 2
    assert "usage: python -m bench" in capsys.readouterr().err


def test_help_names_every_benchmark(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists all benchmarks without loading any."""
    with pytest.raises(SystemExit) as ended:
        run(["--help"], Stopwatch())
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in NAMES)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("--vms: 0 is not at least 1"), 2),
        (ConnectionRefusedError("no aggregator at 127.0.0.1:1"), 1),
        (ProgramError("fallow-aggregator-run ended with status 1\n  the end of its log"), 1),
    ],
)
def test_what_went_wrong_is_named_without_a_traceback(run: Run, error: Exception, status: int) -> None:
    """A wrong setting ends with 2, a failure of the measured programs with 1; each says what it was."""
    ended = run(["sink"], Stopwatch(error=error))
    assert (ended.status, ended.out) == (status, "")
    assert str(error) in ended.err


def test_an_interrupt_is_no_traceback(run: Run) -> None:
    """Ctrl-C ends a benchmark with what a shell says of it, and no figures."""
    ended = run(["sink"], Stopwatch(error=KeyboardInterrupt()))
    assert (ended.status, ended.out, ended.err) == (130, "", "round 1\nbench sink: interrupted\n")


def test_a_benchmark_that_is_not_there_is_a_clear_error() -> None:
    """A module, or a package it needs, that cannot be found becomes a ConfigError naming it."""
    with pytest.raises(ConfigError, match=r"no_such_benchmark.*No module named"):
        load("no_such_benchmark")


@pytest.mark.parametrize("figures", [{"a": {"b": 1}, "a_b": 2}, {"bars": 1}])
def test_figures_never_hide_each_other(figures: dict[str, object]) -> None:
    """Two figures that would share a key are a mistake of the benchmark, not a lost figure."""
    with pytest.raises(ValueError, match="two figures"):
        flatten(figures)


@pytest.mark.real
def test_who_ends_a_benchmark_ends_what_it_started(tmp_path: Path) -> None:
    """After SIGTERM no aggregator of a benchmark runs on, and its folder is gone."""
    flush = [sys.executable, "-m", "bench", "flush", "--vms", "10", "--raw-days", "1", "--quick"]
    with subprocess.Popen([*flush, "--folder", str(tmp_path)], stderr=subprocess.DEVNULL) as bench:
        started = psutil.Process(bench.pid)

        def aggregators() -> list[psutil.Process]:
            return [one for one in started.children() if "fallow-aggregator" in " ".join(one.cmdline())]

        wait_for(lambda: bool(aggregators()), "an aggregator", within_s=120)
        ran = started.children(recursive=True)
        bench.terminate()
        assert bench.wait() == 130
    _, left = psutil.wait_procs(ran, timeout=30)
    assert not left
    assert not list(tmp_path.iterdir())
