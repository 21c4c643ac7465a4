"""Rows 20, 21 and 33: too few descriptors, too little memory, everybody at once."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections import Counter
from pathlib import Path

from agent.settings import parse_host_port
from agent.wire import encode_batch
from aggregator.tokens import KEY_FILE_NAME, TokenKeys
from bench.demo import Doors
from bench.kill import workers
from bench.kill_driver import INTERVAL_S, steps_of, text_of
from bench.kill_lives import STOP_WITHIN_S, Lives, flush
from bench.programs import Program
from tests.faults.agents import stored_rows
from tests.faults.caller import QUIET, NoAnswerError, caller_of, finish, metric, must, push_next
from tests.faults.crowd import send_all
from tests.faults.memory import MemoryGroup, memory_group
from tests.faults.scenario import Scenario, Surroundings
from tests.faults.tally import Tally

_WITHIN_S = 60.0
_SPARE_BYTES = 256 << 10


# Row 20.


def few_descriptors(place: Surroundings) -> Tally:
    """With 40 descriptors some connections are refused; those there are served, and there is room again afterwards."""
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    program, doors = lives.start(QUIET, under=("prlimit", "--nofile=40:40"))
    lives.enrol(doors, 30)
    address = parse_host_port(doors.agents)
    struck = 0
    while struck < place.injections:
        crowd = []
        served = caller_of(doors)
        push_next(served, lives.ledgers[0], place.draw)
        try:
            refused = 0
            for _ in range(60):
                try:
                    crowd.append(socket.create_connection(address, timeout=_WITHIN_S))
                except ConnectionError:
                    refused += 1
            refused += sum(_is_over(sock) for sock in crowd)
            must(refused, "60 connections are more than 40 descriptors, and none was refused")
            struck += refused
            for _ in range(refused):
                place.advance()
        finally:
            for sock in crowd:
                sock.close()
            served.close()
        place.programs.wait_until(
            lambda: metric(doors, "fallow_connections") == 0 or None, running=[program], within_s=_WITHIN_S, what="room"
        )
        for ledger in lives.ledgers:
            caller = caller_of(doors)
            push_next(caller, ledger, place.draw)
            caller.close()
        flush(doors)
    return finish(place.programs, lives, program, doors, injections=struck, notes=f"{struck} connections refused")


def _is_over(sock: socket.socket) -> bool:
    """Whether the other side has refused the connection by now: told so, or closed it."""
    readable, _, _ = select.select([sock], [], [], 0.05)
    if not readable:
        return False
    try:
        said = sock.recv(4096)
    except ConnectionError:
        return True
    must(not said or b" 503 " in said.split(b"\r\n", 1)[0], f"a refused connection was told {said[:60]!r}")
    return True


# Row 21.


def memory_cap(place: Surroundings) -> Tally:
    """While nothing can be flushed the buffer's cap answers 503; killed for want of memory, nothing acked is gone."""
    room = 2_000
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    options = (*QUIET, "--buffer-samples", str(room))
    program, doors = lives.start(options)
    lives.enrol(doors, 8)
    struck = shed = 0
    with memory_group() as group:
        while struck < place.injections:
            shed += _fill(place, lives, program, doors, room)
            _kill_by_memory(place, lives, program, doors, group)
            struck += 1
            place.advance()
            program, doors = lives.start(options)
    notes = f"{shed} pushes answered 503, {struck} times killed by the kernel"
    return finish(place.programs, lives, program, doors, injections=struck + shed, notes=notes)


def _fill(place: Surroundings, lives: Lives, program: Program, doors: Doors, room: int) -> int:
    """Pushes while no worker moves, until each VM was refused; then room again. Returns: pushes refused."""
    caller = caller_of(doors)
    # Workers run once there was something to flush.
    push_next(caller, lives.ledgers[0], place.draw)
    flush(doors)
    stopped = workers(program.process.pid)
    must(stopped, "no worker runs")
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    refused: set[str] = set()
    try:
        while len(refused) < len(lives.ledgers):
            ledger = place.draw.choice(lives.ledgers)
            ledger.choose(place.draw)
            answer = caller.push(ledger)
            if ledger.pending:
                must(answer.status == 503 and b"buffer-full" in answer.body, f"answered {answer}")
                must(int(answer.headers["retry-after"]) >= 1, "no Retry-After")
                refused.add(ledger.vm)
        must(metric(doors, "fallow_buffered_samples") <= room, "the buffer holds more than its cap")
    finally:
        caller.close()
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    flush(doors)
    return len(refused)


def _kill_by_memory(place: Surroundings, lives: Lives, program: Program, doors: Doors, group: MemoryGroup) -> None:
    """Loads the aggregator under a cap on memory that it has almost reached, until the kernel ends it."""
    caller = caller_of(doors)
    group.limit(program.process.pid, _SPARE_BYTES)
    pushes = 0
    try:
        while program.status() is None:
            ledger = place.draw.choice(lives.ledgers)
            ledger.choose(place.draw)
            pushes += 1
            answer = caller.push(ledger)
            must(not ledger.pending or answer.status == 503, f"answered {answer}")
            must(pushes < 100_000, "the kernel does not mind")
    except NoAnswerError:
        pass
    finally:
        caller.close()
    place.programs.finish(program, within_s=_WITHIN_S, accepted=(-signal.SIGKILL,))
    # Its workers may be alive.
    os.killpg(program.process.pid, signal.SIGKILL)
    program.process.wait()


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# Row 33.


def everybody_at_once(place: Surroundings) -> Tally:
    """All agents come back from an outage of an hour at once: 429 and 503 put some off, and all is stored."""
    minutes = 60
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    few = max(10, place.injections // 5)
    program, doors = lives.start((*QUIET, "--limits-connections", str(few)))
    keys = TokenKeys.load_or_create(lives.data / KEY_FILE_NAME)
    first_ts = int(time.time()) // INTERVAL_S * INTERVAL_S - minutes * INTERVAL_S
    steps = [steps_of(0, minute) for minute in range(minutes)]
    texts = [text_of(first_ts + minute * INTERVAL_S, steps[minute]) for minute in range(minutes)]
    rows = [(first_ts + minute * INTERVAL_S, INTERVAL_S, *steps[minute]) for minute in range(minutes)]
    vms = [f"crowd-{number:05d}" for number in range(place.injections)]
    requests = [_request(vm, keys.make(vm, 1), texts) for vm in vms]
    crowd = send_all(parse_host_port(doors.agents), requests, place.draw)
    for _ in vms:
        place.advance()
    must(crowd.answers.keys() <= {200, 204, 429, 503}, f"answers: {dict(crowd.answers)}")
    must(crowd.answers[200] + crowd.answers[204] == len(vms), f"answers: {dict(crowd.answers)}")
    put_off = crowd.answers[429] + crowd.answers[503] + crowd.no_answer
    must(put_off, f"{len(vms)} agents and {few} connections, and nobody was put off")
    place.say(f"{crowd.seconds:.1f} s for {len(vms)} agents, {put_off} put off: {dict(crowd.answers)}")
    fullest = max(Counter(int(wait_s * 10) for wait_s in crowd.waits_s).values())
    must(fullest < len(crowd.waits_s) / 4, f"{fullest} of {len(crowd.waits_s)} waits end in the same tenth of a second")
    resident_mib = _resident_bytes(program.process.pid) / 2**20
    flush(doors)
    program.process.terminate()
    place.programs.finish(program, within_s=STOP_WITHIN_S)
    lost = stored = 0
    for vm in vms:
        found = stored_rows(lives.data, vm)
        stored += len(found)
        lost += len(set(rows) - set(found))
    return Tally(
        injections=len(vms),
        acknowledged=len(vms) * minutes,
        stored=stored,
        lost=lost,
        doubled=max(0, stored - len(vms) * minutes),
        notes=f"{few} connections, {crowd.seconds:.1f} s, {put_off} put off, {resident_mib:.0f} MiB",
    )


def _request(vm: str, token: str, texts: list[str]) -> bytes:
    body = encode_batch(vm=vm, boot="b-crowd", seq=1, sent_s=time.time(), interval_s=INTERVAL_S, samples=texts)
    head = (
        f"POST /v1/samples HTTP/1.1\r\nHost: crowd\r\nAuthorization: Bearer {token}\r\nFallow-VM: {vm}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


SCENARIOS = (
    Scenario(rows=(20,), name="few-descriptors", needs=("prlimit",), run=few_descriptors, quick=20, whole=300),
    Scenario(rows=(21,), name="memory-cap", needs=("root",), run=memory_cap, quick=1, whole=20),
    Scenario(rows=(33,), name="everybody-at-once", needs=(), run=everybody_at_once, quick=200, whole=10_000),
)
