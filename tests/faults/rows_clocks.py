"""Rows 22 and 23: the aggregator's clock is a year off; an agent's clock is hours off."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from bench.demo import Doors
from bench.kill_lives import STOP_WITHIN_S, Lives, flush
from bench.programs import Program
from tests.faults.agents import Agent, make_join_token, stored_rows, tally_agents
from tests.faults.caller import metric, must
from tests.faults.clocks import HOUR_S, YEAR_S, FakeClock, fake_clock
from tests.faults.scenario import Scenario, Surroundings
from tests.faults.tally import Tally

_RETENTION_DAYS = 8
_OPTIONS = ("--flush-interval", "1h", "--retention-raw", f"{_RETENTION_DAYS}d")
_HISTORY_DAYS = 7.9  # so that the least mistake about the time would delete some of it
_IDLE_VMS = 1
_WITHIN_S = 120.0


def set_the_aggregators_clock(place: Surroundings) -> Tally:
    """A year ahead, a year back, while it runs and at its start: nothing is deleted, nothing judged, nothing lost."""
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    clock = fake_clock(place.home / "clock")
    program, doors = lives.start(_OPTIONS, under=clock.under)
    token = make_join_token(place.programs, lives.data, place.home / "token")
    idle = _idle_vms(place, doors, token)
    flush(doors)
    history = {vm: stored_rows(lives.data, vm) for vm in idle}
    must(all(history.values()), "the history was not stored")
    must(_verdicts(place, lives.data) == dict.fromkeys(idle, "idle"), "the VMs are not idle to begin with")
    struck = 0
    agents: list[Agent] = []
    while struck < place.injections:
        offset_s = (YEAR_S, -YEAR_S)[struck % 2]
        starts_wrong = struck % 4 in (1, 2)
        if starts_wrong:
            program, doors = _restart(place, lives, program, clock, offset_s)
        agents = agents or _agents(place, doors, token)
        for agent in agents:
            agent.url = f"http://{doors.agents}"
            agent.start()
            if not starts_wrong:
                agent.drain()
        clock.set(offset_s)
        for agent in agents:
            agent.until("doubt", lambda status: "clock" in (status.trouble or "") and status.spool_depth > 0)
        must(metric(doors, 'fallow_rejects_total{reason="clock"}') > 0, "clocks that are apart were not counted")
        flush(doors)
        for vm in idle:
            must(stored_rows(lives.data, vm) == history[vm], f"{vm}: rows went with the clock at {offset_s:+d} s")
        judged = _verdicts(place, lives.data, under=clock.under)
        must(not {"idle", "scheduled", "oversized"} & set(judged.values()), f"{offset_s:+d} s, and VMs are {judged}")
        clock.set(0)
        for agent in agents:
            agent.drain()
            agent.stop()
        flush(doors)
        struck += 1
        place.advance()
    must(set(_verdicts(place, lives.data)) >= set(idle), "VMs are gone from the report")
    for vm in idle:
        must(stored_rows(lives.data, vm) == history[vm], f"{vm}: rows are gone once the clock is right")
    program.process.terminate()
    place.programs.finish(program, within_s=STOP_WITHIN_S)
    return tally_agents(lives.data, agents, injections=struck, notes=f"{sum(map(len, history.values()))} rows stayed")


def _agents(place: Surroundings, doors: Doors, token: Path) -> list[Agent]:
    agent = Agent(programs=place.programs, home=place.home, vm="timely", url=f"http://{doors.agents}", join_token=token)
    agent.backlog(600, salt=1, now_s=time.time())
    return [agent]


def _restart(
    place: Surroundings, lives: Lives, program: Program, clock: FakeClock, offset_s: int
) -> tuple[Program, Doors]:
    os.killpg(program.process.pid, signal.SIGKILL)
    program.process.wait()
    clock.set(offset_s)
    return lives.start(_OPTIONS, under=clock.under)


def _idle_vms(place: Surroundings, doors: Doors, token: Path) -> list[str]:
    """Some VMs with days of doing nothing; their ids."""
    manifest = place.home / "manifest.json"
    argv = ["fallow-agent", "simulate", "--aggregator", f"http://{doors.agents}", "--join-token-file", str(token)]
    argv += ["--vms", str(_IDLE_VMS), "--days", str(_HISTORY_DAYS), "--profiles", "low=1"]
    fleet = place.programs.start([*argv, "--manifest", str(manifest)])
    place.programs.finish(fleet, within_s=_WITHIN_S)
    return [entry["vm"] for entry in json.loads(manifest.read_text())]


def _report(place: Surroundings, data: Path, under: Sequence[str] = ()) -> dict[str, dict[str, object]]:
    """What the report says of each VM, by the week."""
    answer = place.home / "report.json"
    argv = ["fallow-report", "--data", str(data), "--window", "7d", "--all", "--json"]
    place.programs.finish(place.programs.start(argv, stdout=answer, under=under), within_s=_WITHIN_S)
    return {entry["vm"]: entry for entry in json.loads(answer.read_text())["vms"]}


def _verdicts(place: Surroundings, data: Path, under: Sequence[str] = ()) -> dict[str, str]:
    return {vm: str(entry["verdict"]) for vm, entry in _report(place, data, under).items()}


def set_an_agents_clock(place: Surroundings) -> Tally:
    """An agent two hours off: samples are kept with the time of receipt beside, flagged, and not judged by."""
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    program, doors = lives.start(_OPTIONS)
    token = make_join_token(place.programs, lives.data, place.home / "token")
    idle = _idle_vms(place, doors, token)
    flush(doors)
    must(_verdicts(place, lives.data) == dict.fromkeys(idle, "idle"), "the VMs are not idle to begin with")
    struck = acknowledged = stored = lost = 0
    clock = fake_clock(place.home / "clock")
    while struck < place.injections:
        offset_s = 2 * HOUR_S * (1 if struck % 2 else -1)
        clock.set(offset_s)
        vm = idle[struck % len(idle)]
        agent = Agent(
            programs=place.programs,
            home=place.home,
            vm=vm,
            name=f"{vm}-{struck}",
            url=f"http://{doors.agents}",
            join_token=token,
            under=clock.under,
        )
        before = {row[0] for row in stored_rows(lives.data, vm)}
        agent.enrol_again(lives.data)
        agent.start()
        agent.drain()
        agent.until("samples", lambda status: status.seq > 1)
        now_s = time.time()
        agent.stop()
        flush(doors)
        record = json.loads(doors.ask(f"/v1/vms/{vm}", method="GET", within_s=_WITHIN_S))
        must("clock_skew" in record["flags"], f"{vm}: {offset_s:+d} s, and flags {record['flags']}")
        must(abs(record["skew_s"] + offset_s) < HOUR_S / 2, f"{vm}: {offset_s:+d} s, and skew {record['skew_s']}")
        must(abs(record["received_s"] - now_s) < HOUR_S / 2, f"{vm}: the time of receipt is {record['received_s']}")
        told = _report(place, lives.data)[vm]
        must(told["verdict"] == "insufficient data", f"{vm}: {offset_s:+d} s, and the verdict is {told['verdict']}")
        sent = agent.acknowledged_ts()
        found = {row[0] for row in stored_rows(lives.data, vm)}
        must(found <= before | agent.live_ts(), f"{vm}: rows that nobody sent")
        acknowledged += len(sent)
        stored += len(found & sent)
        lost += len(sent - found)
        struck += 1
        place.advance()
    program.process.terminate()
    place.programs.finish(program, within_s=STOP_WITHIN_S)
    return Tally(injections=struck, acknowledged=acknowledged, stored=stored, lost=lost, doubled=0)


SCENARIOS = (
    Scenario(
        rows=(22,), name="aggregators-clock", needs=("faketime",), run=set_the_aggregators_clock, quick=2, whole=12
    ),
    Scenario(rows=(23,), name="agents-clock", needs=("faketime",), run=set_an_agents_clock, quick=1, whole=12),
)
