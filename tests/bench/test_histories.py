"""The benchmark of histories: the same figures however it is spread, and a seed that failed is told."""

from __future__ import annotations

import argparse
import json

import pytest

from bench import histories
from bench.__main__ import NAMES, as_json
from bench.outcome import Outcome


def measure(*argv: str) -> tuple[Outcome, list[str]]:
    parser = argparse.ArgumentParser()
    histories.add_options(parser)
    lines: list[str] = []
    return histories.run(parser.parse_args(list(argv)), lines.append), lines


def test_it_is_known_and_its_figures_are_json() -> None:
    """`python -m bench histories --json` prints counts and the one bar."""
    assert "histories" in NAMES
    outcome, _ = measure("--count", "20", "--seed", "1")
    document = json.loads(as_json(outcome))
    assert (document["histories"], document["forbidden"], document["forbidden_seeds"]) == (20, 0, [])
    assert [bar["ok"] for bar in document["bars"]] == [True]
    assert document["deeds_notice"] > 0


@pytest.mark.real
def test_processes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes live through the same histories as one does."""
    monkeypatch.setattr(histories, "CHUNK", 10)
    alone, _ = measure("--count", "30", "--seed", "5", "--processes", "1")
    spread, _ = measure("--count", "30", "--seed", "5", "--processes", "2")
    assert alone.figures["deeds"] == spread.figures["deeds"]


def test_a_seed_is_told_line_by_line() -> None:
    """--verbose replays one, for people."""
    _, first = measure("--count", "1", "--seed", "3", "--verbose")
    _, again = measure("--count", "1", "--seed", "3", "--verbose")
    assert first == again
    assert len(first) > 3


def test_what_breaks_is_told_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A history that ends in an error is a finding as well, and the bar is missed."""

    def broken(seed: int, *, say: object = None) -> object:
        raise KeyError(seed)

    monkeypatch.setattr(histories, "run_history", broken)
    outcome, lines = measure("--count", "2", "--seed", "7")
    assert outcome.figures["forbidden_seeds"] == [7, 8]
    assert [bar.ok for bar in outcome.bars] == [False]
    assert any("--seed 7 --count 1 --verbose" in line for line in lines)
