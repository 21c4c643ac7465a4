"""The benchmark of the pages: it measures what it says, on a small fleet."""

from __future__ import annotations

import argparse
import random
from urllib.parse import parse_qsl, urlsplit

import pytest

from bench.pages import Times, _list_target, add_options, run
from reports.policies import POLICIES
from reports.report import Sort
from reports.web.params import Choosing, read_list

CHOOSING = Choosing(policies=POLICIES, windows_days=(14,), default_policy="classic", default_days=14)


def test_questions_are_many_and_all_can_be_asked() -> None:
    """Every address is one that the list takes, and hardly any is asked twice."""
    draw = random.Random(1)
    targets = [_list_target(draw, 100_000) for _ in range(200)]
    asked = [read_list(dict(parse_qsl(urlsplit(target).query)), CHOOSING) for target in targets]
    assert len(set(targets)) > 190
    assert {one.sort for one in asked} == set(Sort)
    assert any(one.search for one in asked)
    assert any(one.owner for one in asked)
    assert any(one.page > 1000 for one in asked)


def test_times_are_of_all_requests() -> None:
    """The 95th percentile is not the mean, and one request has one too."""
    times = Times([0.1] * 95 + [1.0] * 5, cpu_s=2.0)
    assert 0.1 < times.p95_s <= 1.0
    assert times.figures()["cpu_s_each"] == pytest.approx(0.02)
    assert Times([0.5], cpu_s=0.0).p95_s == 0.5


@pytest.mark.real
def test_small_fleet_is_measured() -> None:
    """The whole way: programs are started, pages asked for, and every bar has a figure."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    said: list[str] = []
    outcome = run(parser.parse_args(["--vms", "20", "--lists", "5", "--pages", "5"]), said.append)
    assert outcome.figures["vms"] == 20
    assert len(outcome.bars) == 3
    assert all(bar.value > 0 for bar in outcome.bars)
    assert outcome.bars[2].value <= 2000
