"""Rows 27 and 28: other figures for a time that is known, and a week that comes again."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import closing
from pathlib import Path

from aggregator.check import verify_store
from aggregator.fleet_db import open_fleet_read_only
from aggregator.store_files import connect_read_only, store_path
from bench.kill_compare import Findings, compare_rows
from bench.kill_driver import VmLedger
from bench.kill_lives import STOP_WITHIN_S, Lives, flush
from bench.programs import Programs
from reports.fleet import snapshot
from reports.ingest_health import Trouble, read_ingest_health
from reports.verdicts import Limits
from tests.faults.caller import QUIET, Caller, caller_of, finish, metric, must, push_request
from tests.faults.scenario import Scenario, Surroundings
from tests.faults.tally import Tally, tally_of

_OTHER_FIGURES = 1_000
_WEEK_MINUTES = 7 * 1_440
_BATCH = 900
_WITHIN_S = 60.0


def contradict(place: Surroundings) -> Tally:
    """Another sample for a time that is taken: the first stays, and each contradiction is counted and shown."""
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    program, doors = lives.start(QUIET)
    lives.enrol(doors, 3)
    conflicts = dict.fromkeys((ledger.vm for ledger in lives.ledgers), 0)
    told = pushes = 0
    caller = caller_of(doors)
    while pushes < place.injections:
        ledger = lives.ledgers[pushes % len(lives.ledgers)]
        ledger.choose(place.draw)
        minutes = list(ledger.pending)
        must(caller.push(ledger).taken(len(minutes)), "a first push was not taken")
        # Some are met in memory, some in the store alone.
        if in_store := place.draw.random() < 0.3:
            flush(doors)
        answer = caller.ask(push_request(ledger, minutes, salt=_OTHER_FIGURES + pushes))
        must(answer.status in (200, 204), f"a contradiction was answered {answer}")
        seen = answer.figure("conflict") if answer.status == 200 else 0
        must(in_store or seen == len(minutes), f"{len(minutes)} contradictions, {seen} were told")
        conflicts[ledger.vm] += len(minutes)
        told += seen
        pushes += 1
        place.advance()
    caller.close()
    flush(doors)
    total = sum(conflicts.values())
    must(metric(doors, "fallow_conflicts_total") == told, "the conflicts told are not those counted")
    # A flush counts those that memory told, too.
    counted = metric(doors, "fallow_flushed_conflicts_total")
    must(counted == total, f"{total} conflicts, {counted} counted")
    program.process.terminate()
    place.programs.finish(program, within_s=STOP_WITHIN_S)
    for ledger in lives.ledgers:
        shown = _show(place.programs, lives.data, ledger.vm, place.home / "shown.json")["conflicts"]
        must(shown == conflicts[ledger.vm], f"vms show says {shown} of {conflicts[ledger.vm]} conflicts")
    _must_be_in_the_report(lives.data, conflicts)
    return tally_of(_raw_alone(lives), injections=pushes, notes=f"{total} contradictions, all counted")


def _show(programs: Programs, data: Path, vm: str, answer: Path) -> dict[str, object]:
    argv = ["fallow-aggregator", "vms", "show", vm, "--data", str(data), "--json"]
    programs.finish(programs.start(argv, stdout=answer), within_s=_WITHIN_S)
    found: dict[str, object] = json.loads(answer.read_text())
    return found


def _must_be_in_the_report(data: Path, conflicts: dict[str, int]) -> None:
    engine = open_fleet_read_only(None, data)
    try:
        with snapshot(engine) as connection:
            health = read_ingest_health(connection, time.time(), Limits())
    finally:
        engine.dispose()
    shown = {state.vm_id: state.conflicts for state in health.troubles[Trouble.CONFLICTS].worst}
    must(shown == conflicts, f"the report's health shows {shown} of {conflicts}")


def _raw_alone(lives: Lives) -> Findings:
    """Rows against the ledgers, and rollups against rows; a summary with conflicts is none to compare."""
    findings = Findings()
    for ledger in lives.ledgers:
        path = store_path(lives.data, ledger.vm)
        with closing(connect_read_only(path)) as store:
            compare_rows(store, ledger, findings)
        findings.rollup_mismatches += verify_store(path, ledger.vm)
    return findings


class _InBatches(random.Random):
    """Draws by which a ledger always chooses a batch of the next minutes."""

    def random(self) -> float:
        return 0.93


def replay_the_week(place: Surroundings) -> Tally:
    """A week of pushes sent again, in memory, from the stores, after a restart and after kill -9: nothing changes."""
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    program, doors = lives.start(QUIET)
    lives.enrol(doors, 1)
    (ledger,) = lives.ledgers
    caller = caller_of(doors)
    minutes: list[int] = []
    draw = _InBatches(place.draw.random())
    while len(minutes) < _WEEK_MINUTES:
        ledger.choose(draw)
        minutes += ledger.pending
        ledger.pending = ()
    batches = [minutes[begin : begin + _BATCH] for begin in range(0, len(minutes), _BATCH)]
    for batch in batches:
        ledger.pending = batch
        _push(caller, ledger)
    for turn in range(place.injections):
        for batch in batches:
            ledger.pending = batch
            _push(caller, ledger)
        place.advance()
        if turn % 4 == 1:
            flush(doors)
        elif turn % 4:
            caller.close()
            if turn % 4 == 2:
                os.killpg(program.process.pid, signal.SIGKILL)
                program.process.wait()
            else:
                program.process.terminate()
                place.programs.finish(program, within_s=STOP_WITHIN_S)
            program, doors = lives.start(QUIET)
            caller = caller_of(doors)
    caller.close()
    notes = f"a week {place.injections} times, in {len(lives.restart_s)} lives"
    return finish(place.programs, lives, program, doors, injections=place.injections, notes=notes)


def _push(caller: Caller, ledger: VmLedger) -> None:
    count = len(ledger.pending)
    answer = caller.push(ledger)
    must(answer.taken(count), f"a push of {count} samples was answered {answer}")


SCENARIOS = (
    Scenario(rows=(27,), name="contradictions", needs=(), run=contradict, quick=30, whole=200),
    Scenario(rows=(28,), name="last-week-again", needs=(), run=replay_the_week, quick=3, whole=40),
)
