"""Three aggregators behind HAProxy on PostgreSQL, small: the proof of `bench nodes` in every run, and being drained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import haproxy
from bench.nodes import JOINED_SOON
from bench.nodes_trial import Plan, Trial, trial
from bench.postgres import PostgresAbsent
from tests.e2e.house import House

pytestmark = pytest.mark.real

PLAN = Plan(
    vms=150,
    connections=40,
    pushes_per_s=150.0,
    calm_s=2.0,
    away_s=4.0,
    database_away_s=4.0,
    seed=1,
    options=("--flush-interval", "3s", *JOINED_SOON),
)


def test_row_35_and_36_each_part_fails_and_the_fleet_is_as_from_one_aggregator(house: House) -> None:
    """Killed, drained, without a database: each acknowledged sample is stored once, figures are those of all.

    The stores of all nodes are held against the ledger; the fleet database against one computed from all samples by
    one worker at once, and against SQL over the raw rows.
    """
    with _trial(house) as running:
        passed = running.run()
        verdict = running.judge(house.folder / "expected", verify_every=1)
    assert verdict.problems() == []
    assert verdict.findings.acknowledged == verdict.findings.stored > running.driver.sent.acknowledged > 1_000
    # Without these nothing above would mean anything.
    assert passed.largest_parts > 0
    assert passed.database_away_pushes > 0


def test_a_node_is_drained_and_taken_back_by_the_command_line(house: House) -> None:
    """Its VMs go to the others and come back, and no push fails meanwhile."""
    with _trial(house) as running:
        node = running.cluster.nodes["two"]
        running.push(1.0)
        running.meanwhile(lambda: _drain(house, node.data))
        running.push_until("two is out", lambda: haproxy.states(running.place)["two"].startswith("DOWN"))
        # What was on its way to it then is taken.
        running.push(1.0)
        before = node.metric("fallow_pushes_total")
        assert running.push(1.0) > 0
        assert node.metric("fallow_pushes_total") == before > 0
        running.meanwhile(lambda: _drain(house, node.data, "--undo"))
        running.push_until("two is back", lambda: haproxy.states(running.place)["two"].startswith("UP"))
        running.push_until("two gets pushes", lambda: node.metric("fallow_pushes_total") > before)
        running.finish()
        verdict = running.judge(house.folder / "expected", verify_every=1)
    assert verdict.problems() == []
    assert (running.driver.sent.later, running.driver.sent.broken) == ({}, 0)


def _drain(house: House, data: Path, *options: str) -> None:
    done = house.run("fallow-aggregator", "drain", "--data", str(data), *options)
    assert done.returncode == 0, done.stderr


@contextmanager
def _trial(house: House) -> Iterator[Trial]:
    try:
        with trial(PLAN, house.folder, house.programs, print) as running:
            yield running
    except (PostgresAbsent, haproxy.ProxyAbsent) as absent:
        pytest.skip(str(absent))
