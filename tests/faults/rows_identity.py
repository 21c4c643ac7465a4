"""Rows 29 and 30: two VMs with one identity, and a VM that goes back to a snapshot."""

from __future__ import annotations

import shutil
import time
import uuid
from functools import partial
from pathlib import Path

from agent.status import Status
from bench.demo import Doors
from bench.kill_lives import Lives, flush
from tests.faults.agents import Agent, make_join_token, stored_rows, tally_agents
from tests.faults.caller import QUIET, end_in_peace, metric, must
from tests.faults.scenario import Scenario, Surroundings
from tests.faults.tally import Tally

_WITHIN_S = 120.0


def under_boot(folder: Path, draw_bits: int) -> tuple[str, ...]:
    """What a command line is put behind so that the kernel seems to have booted anew for it.

    Args: folder: an existing one.  draw_bits: 128 random bits, which the id is made of.
    """
    boot = uuid.UUID(int=draw_bits, version=4)
    path = folder / f"boot-{boot}"
    path.write_text(f"{boot}\n")
    mount = f'mount --bind "{path}" /proc/sys/kernel/random/boot_id && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", mount, "sh")


def two_as_one(place: Surroundings) -> Tally:
    """Two agents with one token push as one VM: both are refused, keep what they have, enrol again, and deliver it."""
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    program, doors = lives.start(QUIET)
    token = make_join_token(place.programs, lives.data, place.home / "token")
    struck = acknowledged = stored = lost = doubled = 0
    while struck < place.injections:
        one, other = _clones(place, doors, token, vm=f"clone-{struck}")
        refused = [agent.until("a refusal", lambda status: status.enrolment_needed) for agent in (one, other)]
        must(all("409" in (status.trouble or "") for status in refused), f"not 409: {[s.trouble for s in refused]}")
        for agent in (one, other):
            agent.until("a spool", lambda status: status.spool_depth > 0)
        counted = metric(doors, 'fallow_rejects_total{reason="identity-conflict"}')
        must(counted >= 2 * (struck + 1), f"{counted} pushes of clones were refused")
        # The clone gets an identity of its own, and the first one a new token.
        other.stop()
        kept = other.live_ts()
        other.vm += "-other"
        other.start()
        one.enrol_again(lives.data)
        for agent in (one, other):
            agent.drain()
            agent.stop()
        flush(doors)
        found = {row[0] for row in stored_rows(lives.data, one.vm)}
        must(found <= one.live_ts() | kept | one.rows.keys(), "a store holds what neither of two clones spooled")
        sets = ((one.vm, one.acknowledged_ts() | one.rows.keys()), (other.vm, other.acknowledged_ts()))
        for vm, sent in sets:
            rows = stored_rows(lives.data, vm)
            acknowledged += len(sent)
            stored += len(rows)
            lost += len(sent - {row[0] for row in rows})
            doubled += len(rows) - len({row[0] for row in rows})
        other.vm = one.vm
        must(other.live_ts() == kept, "the clone's old spool was not kept")
        struck += 1
        place.advance()
    end_in_peace(place.programs, program, doors)
    return Tally(injections=struck, acknowledged=acknowledged, stored=stored, lost=lost, doubled=doubled)


def _clones(place: Surroundings, doors: Doors, token: Path, *, vm: str) -> tuple[Agent, Agent]:
    """Two agents with one id and one token, each in a boot of its own, of which the second has just begun."""
    one, other = (
        Agent(
            programs=place.programs,
            home=place.home,
            vm=vm,
            name=f"{vm}-{name}",
            url=f"http://{doors.agents}",
            join_token=token,
            under=under_boot(place.home, place.draw.getrandbits(128)),
        )
        for name in ("one", "two")
    )
    one.backlog(60, salt=1, now_s=time.time())
    one.start()
    one.drain()
    other.state.mkdir()
    shutil.copy2(one.state / "token.json", other.state / "token.json")
    other.start()
    return one, other


def restore_a_snapshot(place: Surroundings) -> Tally:
    """An agent's disk goes back to a snapshot, in the same boot and in a new one: no loss, no conflict, no clone."""
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    program, doors = lives.start(QUIET)
    agent = Agent(
        programs=place.programs,
        home=place.home,
        vm="restored",
        url=f"http://{doors.agents}",
        join_token=make_join_token(place.programs, lives.data, place.home / "token"),
        under=under_boot(place.home, place.draw.getrandbits(128)),
    )
    agent.backlog(600, salt=3, now_s=time.time())
    agent.start()
    measured: set[int] = set()
    went_back = 0
    snapshot = place.home / "snapshot"
    for turn in range(place.injections):
        agent.drain()
        agent.kill()
        shutil.copytree(agent.state, snapshot)
        agent.start()
        begin = agent.until("pushes", lambda status: status.seq > 0).seq
        later = agent.until("more pushes", partial(_is_beyond, begin + 1))
        agent.drain()
        agent.stop()
        measured |= agent.acknowledged_ts()
        shutil.rmtree(agent.state)
        shutil.move(snapshot, agent.state)
        if turn % 2:
            agent.under = under_boot(place.home, place.draw.getrandbits(128))
        agent.start()
        now = agent.until("a push", lambda status: (status.last_ack_s or 0) > status.started_s)
        went_back += now.seq < later.seq
        place.advance()
    agent.drain()
    agent.stop()
    must(went_back, "the number of the push never went back")
    for name in ("fallow_conflicts_total", "fallow_flushed_conflicts_total"):
        must(metric(doors, name) == 0, f"{name} is {metric(doors, name)}")
    must('"identity-conflict"' not in doors.ask("/metrics", method="GET", within_s=_WITHIN_S), "taken for a clone")
    end_in_peace(place.programs, program, doors)
    # What it measured after a snapshot is gone from its disk, not from the store.
    agent.rows.update({row[0]: row for row in stored_rows(lives.data, agent.vm) if row[0] in measured})
    must(measured <= agent.rows.keys(), f"{len(measured - agent.rows.keys())} samples of before are not stored")
    return tally_agents(
        lives.data, [agent], injections=place.injections, notes=f"the push's number went back {went_back} times"
    )


def _is_beyond(seq: int, status: Status) -> bool:
    return status.seq > seq


SCENARIOS = (
    Scenario(rows=(29,), name="two-as-one", needs=("root", "unshare"), run=two_as_one, quick=1, whole=10),
    Scenario(
        rows=(30,), name="snapshot-restored", needs=("root", "unshare"), run=restore_a_snapshot, quick=1, whole=20
    ),
)
