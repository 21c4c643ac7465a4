"""Processes that die or stand still: rows 1, 2, 5, 6 and 7."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from bench.kill import workers
from bench.kill_driver import LONGEST_BATCH
from tests.faults.lives import Herd, Life, flushing, must
from tests.faults.scenario import Scenario, Surroundings
from tests.faults.strace import (
    FILE_SYNCS,
    KILL,
    NAMES,
    PAGE_WRITES,
    SYNCS,
    WRITES,
    Injection,
    Trace,
)
from tests.faults.tally import Tally

_VMS = 8
_BUSY_S, _BRIEF_S = 0.1, 0.0
_OLD_VMS, _NEW_VMS = 4, 2


def sweep(here: Surroundings, *, kinds: tuple[tuple[str, ...], ...], push_s: float) -> Tally:
    """SIGKILL at the Nth call of a kind in any thread: of each kind every N until a life ends unhurt, or a sample.

    Each life starts, takes pushes for `push_s`, flushes them into stores that are there and ones that are not, stops.
    """
    herd = Herd(here, vms=_OLD_VMS + _NEW_VMS * (here.injections + 1))
    turns = count()

    def live(injection: Injection) -> bool:
        begin = _OLD_VMS + _NEW_VMS * next(turns)
        ledgers = [*herd.ledgers[:_OLD_VMS], *herd.ledgers[begin : begin + _NEW_VMS]]
        return herd.live_through(injection, push_s=push_s, ledgers=ledgers)

    with herd.life() as life:
        driver = herd.driver(herd.ledgers[:_OLD_VMS])
        driver.connect(life.address)
        driver.settle(30.0)
        life.flush()
        driver.close()
    live(Injection(calls=tuple({call for kind in kinds for call in kind})))
    trace = Trace(here.home / "trace")
    reaches = {kind: trace.reach(kind) for kind in kinds}
    struck = 0
    if here.injections < sum(reaches.values()):
        every = [(kind, number) for kind, reach in reaches.items() for number in range(1, reach + 1)]
        for kind, number in here.draw.sample(every, here.injections):
            struck += live(Injection(calls=kind, fault=KILL, when=str(number)))
            here.advance()
        notes = f"a sample of {len(every)} places"
    else:
        clean = []
        for kind in kinds:
            for number in range(1, here.injections - struck + 1):
                hurt = live(Injection(calls=kind, fault=KILL, when=str(number)))
                here.advance()
                struck += hurt
                if not hurt:
                    clean.append(f"{kind[0]} {number}")
                    break
        notes = f"clean at {', '.join(clean)}"
    must(struck, f"none of {here.injections} injections struck: {reaches}")
    return herd.finish(injections=struck, notes=notes)


def kill_under_load(here: Surroundings) -> Tally:
    """SIGKILL of the whole group at random moments of load, starts and flushes."""
    herd = Herd(here, vms=40, options=("--flush-interval", "700ms", "--flush-workers", "2", "--retention-raw", "60d"))
    for _ in range(here.injections):
        driver = herd.driver()
        if here.draw.random() < 0.2:
            program = herd.lives.begin(("--flush-interval", "700ms", "--retention-raw", "60d"))
            time.sleep(here.draw.uniform(0.05, 1.0))
            os.killpg(program.process.pid, signal.SIGKILL)
            program.process.wait()
        else:
            with herd.life() as life:
                driver.connect(life.address)
                driver.run(here.draw.uniform(0.05, 0.6))
                life.kill()
                driver.cut()
        here.advance()
    return herd.finish(injections=here.injections)


def kill_a_worker(here: Surroundings) -> Tally:
    """A worker dies at a random page write or sync of its transactions; the flush must do that again, by itself."""
    herd = Herd(here, vms=_VMS)
    struck = 0
    with herd.life() as life:
        driver = herd.driver()
        driver.connect(life.address)
        for turn in range(here.injections):
            driver.run(0.02)
            driver.settle(30.0)
            life.flush()
            driver.run(0.02)
            driver.settle(30.0)
            struck += _flush_with_a_dying_worker(here, life, here.home / f"trace-{turn}")
            here.advance()
        replaced = life.metric("fallow_flush_workers_replaced_total")
        driver.close()
        life.kill()
    must(struck, "no worker was killed")
    must(replaced >= struck, f"{struck} workers were killed, {replaced:g} replaced")
    return herd.finish(injections=struck)


def _flush_with_a_dying_worker(here: Surroundings, life: Life, trace: Path) -> bool:
    calls, number = here.draw.choice(((PAGE_WRITES, here.draw.randint(1, 60)), (SYNCS, here.draw.randint(1, 12))))
    injection = Injection(calls=calls, fault=KILL, when=str(number))
    victim = here.draw.choice(workers(life.pid))
    strace = injection.attach(here.programs, trace, victim)
    try:
        report = life.flush()
    finally:
        strace.process.terminate()
        strace.process.wait()
    must(report["failures"] == {}, f"a flush did not get over the death of a worker: {report}")
    return Trace(trace).killed > 0


def kill_before_the_checkpoint(here: Surroundings) -> Tally:
    """The stores have committed; the kill comes as the journal thread deletes the segment that they hold now."""
    herd = Herd(here, vms=_VMS)
    struck = 0
    for _ in range(here.injections):
        numbers = [int(path.stem) for path in (herd.data / "journal").glob("*.seg")]
        segments = [herd.data / "journal" / f"{number:08d}.seg" for number in (*numbers, max(numbers) + 1)]
        injection = Injection(calls=("unlink",), fault=KILL, when="1", paths=tuple(segments))
        struck += herd.live_through(injection, push_s=here.draw.choice((_BRIEF_S, _BUSY_S)))
        must(all(path.exists() for path in segments[:-1]), "a segment went before the kill that should precede it")
        here.advance()
    must(struck == here.injections, f"only {struck} of {here.injections} kills struck")
    return herd.finish(injections=struck)


def stopped_worker(here: Surroundings, *, stopped_s: Callable[[Surroundings], float]) -> Tally:
    """SIGSTOP of all workers: acks go on until the buffer is full, then 503; memory stays as it is."""
    room = 20_000
    herd = Herd(here, vms=_VMS)
    span_s = stopped_s(here)
    with herd.life("--buffer-samples", str(room)) as life:
        driver = herd.driver()
        driver.connect(life.address)
        driver.settle(30.0)
        life.flush()
        stopped = workers(life.pid)
        acknowledged = driver.counts.acknowledged
        began_s = time.monotonic()
        with flushing(life) as reports, _standing_still(stopped):
            while not driver.counts.put_off and time.monotonic() < began_s + 60.0:
                driver.run(0.2)
            must(driver.counts.acknowledged > acknowledged, "no push was taken while the workers stood still")
            must(driver.counts.put_off, "the buffer never became full")
            full_bytes = _rss_bytes(life.pid)
            driver.run(max(1.0, span_s - (time.monotonic() - began_s)))
            grown_bytes = _rss_bytes(life.pid) - full_bytes
            # Pushes that are in the journal's hands when the buffer fills up are taken all the same.
            most = room + _VMS * LONGEST_BATCH
            must(life.metric("fallow_buffered_samples") <= most, "the buffer holds more than its bound")
            must(grown_bytes < full_bytes / 10, f"{grown_bytes} bytes more while every push was put off")
            must(life.get("/healthz")[0] == 200, "no answer to /healthz")
        must(reports and not reports[0]["failures"], f"the flush that was held up failed: {reports}")
        put_off = driver.counts.put_off
        driver.settle(60.0)
        driver.close()
        life.kill()
    here.advance()
    return herd.finish(injections=len(stopped), notes=f"{span_s:g} s, {put_off} put off")


@contextmanager
def _standing_still(pids: Sequence[int]) -> Iterator[None]:
    """SIGSTOP for the body's time."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


SCENARIOS = (
    Scenario(rows=(1,), name="kill-under-load", needs=(), run=kill_under_load, quick=4, whole=100),
    Scenario(
        rows=(2,),
        name="kill-while-pushes-come",
        needs=("strace",),
        run=partial(sweep, kinds=(WRITES, SYNCS), push_s=0.1),
        quick=3,
        whole=400,
    ),
    Scenario(
        rows=(2,),
        name="kill-while-stores-are-written",
        needs=("strace",),
        run=partial(sweep, kinds=(PAGE_WRITES, SYNCS, FILE_SYNCS, NAMES), push_s=0.0),
        quick=4,
        whole=600,
    ),
    Scenario(rows=(5,), name="kill-a-worker", needs=("strace",), run=kill_a_worker, quick=4, whole=120),
    Scenario(
        rows=(6,),
        name="kill-before-the-checkpoint",
        needs=("strace",),
        run=kill_before_the_checkpoint,
        quick=2,
        whole=40,
    ),
    Scenario(
        rows=(7,),
        name="stopped-worker",
        needs=(),
        run=partial(stopped_worker, stopped_s=lambda here: 120.0 if here.injections > 1 else 3.0),
        quick=1,
        whole=2,
    ),
)
