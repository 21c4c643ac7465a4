"""Rows 35 and 36 behind a load balancer: one aggregator of several dies, and the database of all of them fails over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException

from bench.nodes import JOINED_SOON
from bench.nodes_trial import NAMES, Plan, Trial, must, trial
from tests.faults.scenario import Scenario, Surroundings
from tests.faults.tally import Tally, tally_of

_NEEDS = ("root", "pg_ctlcluster", "haproxy")
_JOIN_WITHIN_S = 60.0


def _plan(place: Surroundings) -> Plan:
    return Plan(
        vms=60,
        connections=20,
        pushes_per_s=120.0,
        calm_s=0.5,
        away_s=0.0,
        database_away_s=0.0,
        seed=place.draw.randrange(1 << 30),
        options=("--flush-interval", "2s", *JOINED_SOON),
    )


def kill_one_of_several(place: Surroundings) -> Tally:
    """Its VMs push to the others at once; when it is back, what each holds of a VM is joined, and nothing is twice."""
    with trial(_plan(place), place.home, place.programs, place.say) as running:
        running.push(2.0)
        for struck in range(place.injections):
            name = place.draw.choice(NAMES)
            with _flushing(running, name if struck % 2 else None):
                running.push(place.draw.uniform(0.0, 0.2))
                running.cluster.kill(name)
            must(running.push(place.draw.uniform(1.0, 3.0)), f"no push is acknowledged while {name} is away")
            running.start_again(name)
            place.advance()
        return _end(place, running, notes=f"at most {running.largest_parts} histories were in parts")


def fail_the_database_over(place: Surroundings) -> Tally:
    """All aggregators go on taking pushes; what the database missed, or lost amid a commit, is written later."""
    with trial(_plan(place), place.home, place.programs, place.say) as running:
        running.push(2.0)
        for struck in range(place.injections):
            with _flushing(running, *(NAMES if struck % 2 else ())):
                running.push(place.draw.uniform(0.0, 0.3))
                running.server.stop(crash=True)
                must(running.push(place.draw.uniform(1.0, 3.0)), "no push is acknowledged while the database is away")
            running.server.start()
            running.calm("the database is back")
            place.advance()
        return _end(place, running, notes="three aggregators, each with its own summaries")


@contextmanager
def _flushing(running: Trial, *names: str | None) -> Iterator[None]:
    """These are told to flush, and nobody waits for it before the end."""
    told = [threading.Thread(target=_flush, args=(running, name), daemon=True) for name in names if name is not None]
    for thread in told:
        thread.start()
    yield
    for thread in told:
        thread.join(_JOIN_WITHIN_S)


def _flush(running: Trial, name: str) -> None:
    with suppress(OSError, HTTPException):
        running.cluster.flush(name)


def _end(place: Surroundings, running: Trial, *, notes: str) -> Tally:
    running.finish()
    verdict = running.judge(place.home / "expected", verify_every=1)
    verdict.findings.summary_mismatches += [
        f"{table}: {row}" for table, rows in verdict.differing.items() for row in rows
    ]
    return tally_of(verdict.findings, injections=place.injections, notes=notes)


SCENARIOS = (
    Scenario(rows=(35,), name="one-of-several-dies", needs=_NEEDS, run=kill_one_of_several, quick=2, whole=20),
    Scenario(rows=(36,), name="database-fails-over", needs=_NEEDS, run=fail_the_database_over, quick=2, whole=20),
)
