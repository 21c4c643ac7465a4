"""The stores and their disk: rows 10, 12, 14 and 19, and a disk that is full for minutes under real agents."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.error import HTTPError

from agent.status import Status, read_status
from aggregator.store_files import store_path
from bench.kill import workers
from bench.kill_driver import VmLedger
from tests.e2e.agents import RealAgent
from tests.e2e.house import House
from tests.faults.disks import Ballast, inodes_used, make_ext4, mounted, remount, tmpfs
from tests.faults.lives import Herd, Life, must, push_until_put_off, wait_for
from tests.faults.scenario import Scenario, Surroundings
from tests.faults.strace import KILL, Injection, Trace, detach
from tests.faults.tally import Tally

_VMS = 8
_MANY_INODES = 100_000
_RECOVERY_S = 300.0  # agents that were put off for minutes come back at a time of their own


def full_stores(here: Surroundings) -> Tally:
    """No room, or no inodes, for the stores alone: the journal stays, not ready; with room it recovers unaided."""
    stores = here.home / "data" / "stores"
    here.later.enter_context(tmpfs(stores, f"size=32m,nr_inodes={_MANY_INODES}"))
    herd = Herd(here, vms=_VMS * (here.injections + 1))
    ballast = Ballast(stores)
    kinds = set()
    for turn in range(here.injections):
        with herd.life("--flush-interval", "1s") as life:
            # Half of them have a store already.
            driver = herd.driver(herd.ledgers[_VMS * turn : _VMS * (turn + 2)])
            without_room = turn % 2 == 0
            kinds.add("bytes" if without_room else "inodes")
            if without_room:
                ballast.leave(0)
            else:
                remount(stores, f"nr_inodes={inodes_used(stores)}")
            driver.connect(life.address)
            driver.run(0.3)
            wait_for("failed flush", lambda: life.metric("fallow_store_failures_total") >= _VMS)
            wait_for("503 from /readyz", lambda: life.get("/readyz")[0] == 503)
            must(b"stores cannot be written" in life.get("/readyz")[1], "/readyz does not say that the stores fail")
            must(_journal_bytes(herd.data) > 1_000, "the journal went though the stores had not taken it")
            push_until_put_off(driver)
            if here.draw.random() < 0.3:
                life.kill()
                driver.cut()
            ballast.drop()
            remount(stores, f"nr_inodes={_MANY_INODES}")
            if life.program.process.returncode is None:
                wait_for("readiness once there was room", lambda: life.get("/readyz")[0] == 200)
                driver.settle(30.0)
                driver.close()
        here.advance()
    return herd.finish(injections=here.injections, notes=" and ".join(sorted(kinds)))


def _journal_bytes(data: Path) -> int:
    return sum(path.stat().st_size for path in (data / "journal").iterdir())


def unreadable_store(here: Surroundings) -> Tally:
    """EIO at each read of one store: that VM fails alone, in flushes and at the admin door; later all is stored."""
    herd = Herd(here, vms=_VMS)
    with herd.life() as life:
        driver = herd.driver()
        driver.connect(life.address)
        driver.run(0.05)
        driver.settle(30.0)
        life.flush()
        for turn in range(here.injections):
            driver.run(0.05)
            driver.settle(30.0)
            victim, other = here.draw.sample(herd.ledgers, 2)
            injection = Injection(
                calls=("pread64",), fault="error=EIO", when="1+", paths=(store_path(herd.data, victim.vm),)
            )
            trace = here.home / f"trace-{turn}"
            strace = injection.attach(here.programs, trace, life.pid, *workers(life.pid))
            try:
                report = life.flush()
                must(report["failures"].keys() == {victim.vm}, f"failures: {report['failures']}, not {victim.vm} alone")
                must(_samples_answer(life, victim) == 500, "samples of an unreadable store were not answered with 500")
                must(_samples_answer(life, other) == 200, "samples of a sound store were not given")
                must(life.get("/readyz")[0] == 200, "one bad store made the aggregator unready")
            finally:
                detach(strace)
            must(Trace(trace).injected, "no read was failed")
            must(life.flush()["failures"] == {}, "a store that can be read again still fails")
            here.advance()
        driver.close()
        life.kill()
    return herd.finish(injections=here.injections)


def _samples_answer(life: Life, ledger: VmLedger) -> int:
    try:
        life.doors.ask(f"/v1/vms/{ledger.vm}/samples", method="GET", within_s=60.0)
    except HTTPError as error:
        return error.code
    return 200


def read_only_disk(here: Surroundings) -> Tally:
    """The file system turns read-only while it is written, as after an error: 503, not ready; no ack is lost."""
    image = here.home / "disk.img"
    make_ext4(image, 64 << 20)
    place = here.home / "disk"
    put_off = 0
    with mounted(place, "-o", "loop", str(image)):
        herd = Herd(here, vms=_VMS, data=place / "data")
    for _ in range(here.injections):
        with mounted(place, "-o", "loop", str(image)), herd.life("--flush-interval", "700ms") as life:
            driver = herd.driver()
            driver.connect(life.address)
            driver.run(here.draw.uniform(0.05, 1.0))
            _turn_read_only(place, life.pid)
            push_until_put_off(driver)
            acknowledged = driver.counts.acknowledged
            driver.run(0.2)
            must(driver.counts.acknowledged == acknowledged, "pushes were acknowledged on a read-only disk")
            must(life.get("/readyz")[0] == 503, "ready on a read-only disk")
            must(life.get("/healthz")[0] == 200, "no answer to /healthz on a read-only disk")
            put_off += driver.counts.put_off
            life.kill()
            driver.cut()
        here.advance()
    with mounted(place, "-o", "loop", str(image)):
        return herd.finish(injections=here.injections, notes=f"{put_off} pushes put off")


def _turn_read_only(place: Path, pid: int) -> None:
    """As ext4 does of itself after an error; a plain remount is refused while a file is open for writing.

    The process stands still meanwhile: between the two steps, the end of the file system's journal and the flag that
    says so, the kernel answers a sync with success though nothing is written any more. No program can see that.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for("standstill", lambda: all(_is_stopped(task) for task in Path(f"/proc/{pid}/task").iterdir()))
        remount(place, "abort")
        wait_for("read-only file system", lambda: not _is_writable(place))
    finally:
        os.kill(pid, signal.SIGCONT)


def _is_stopped(task: Path) -> bool:
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def _is_writable(place: Path) -> bool:
    try:
        (place / "probe").write_bytes(b"")
    except OSError as error:
        return error.errno != errno.EROFS
    return True


def hot_journals(here: Surroundings) -> Tally:
    """Killed between the sync of a store's journal and that of the store, and again while that is rolled back."""
    herd = Herd(here, vms=_VMS)
    with herd.life() as life:
        driver = herd.driver()
        driver.connect(life.address)
        driver.run(0.05)
        driver.settle(30.0)
        life.flush()
        driver.close()
        life.kill()
    for turn in range(here.injections):
        path = store_path(herd.data, here.draw.choice(herd.ledgers).vm)
        injection = Injection(calls=("fdatasync", "fsync"), fault=KILL, when="1+", paths=(path,))
        with herd.life() as life:
            driver = herd.driver()
            driver.connect(life.address)
            driver.run(0.05)
            driver.settle(30.0)
            driver.close()
            # Workers begin with the first flush, so that all of them are hurt.
            injection.attach(here.programs, here.home / f"trace-{turn}", life.pid)
            report = life.flush()
            must(report["failures"], "the flush of a store whose worker always dies succeeded")
            life.kill()
        hot = Path(f"{path}-journal")
        must(hot.exists() and hot.stat().st_size, "the kill left no hot journal")
        here.advance()
    return herd.finish(injections=here.injections)


def full_disk(here: Surroundings, *, full_s: Callable[[Surroundings], float]) -> Tally:
    """The whole disk is full for minutes: real agents keep what they have, and all of it arrives once there is room."""
    place = here.later.enter_context(tmpfs(here.home / "disk", "size=48m"))
    house = House(here.home)
    here.later.callback(house.close)
    aggregator = house.aggregator("--flush-interval", "2s", data=place / "data")
    agents = [RealAgent(house, f"agent-{number}", aggregator.url) for number in range(3)]
    for agent in agents:
        must(agent.enrol(house.join_token(aggregator.data)) == 0, f"an agent could not enrol: {agent.said}")
        agent.start()
    for agent in agents:
        agent.wait_for("a first push", samples_acked_total=1)
    ballast = Ballast(place)
    began_s = time.monotonic()
    while time.monotonic() < began_s + full_s(here):
        ballast.leave(0)  # what a flush deletes in between is taken again
        time.sleep(0.2)
    before = [agent.wait_for("a spool", spool_depth=1) for agent in agents]
    must(aggregator.readiness().status == 503, "ready on a full disk")
    spooled = [agent.spooled_ts() for agent in agents]
    ballast.drop()
    room_s = time.monotonic()
    for agent, status in zip(agents, before, strict=True):
        _wait_until_drained(agent, status.samples_acked_total)
    recovered_s = time.monotonic() - room_s
    must(all(agent.stop() == 0 for agent in agents), "an agent did not stop in peace")
    must(aggregator.flush()["failures"] == {}, "stores failed after there was room")
    here.advance()
    acknowledged = stored = lost = 0
    for agent, there in zip(agents, spooled, strict=True):
        status, rows = agent.status(), aggregator.stored(agent.vm)
        must(status.samples_dropped_total == 0, f"{agent.vm} dropped {status.samples_dropped_total} samples")
        acknowledged += status.samples_acked_total
        stored += len(rows)
        lost += max(len(there - rows.keys()), status.samples_acked_total - len(rows))
    notes = f"full for {full_s(here):g} s; all there {recovered_s:.0f} s later"
    return Tally(injections=1, acknowledged=acknowledged, stored=stored, lost=lost, doubled=0, notes=notes)


def _wait_until_drained(agent: RealAgent, beyond: int) -> None:
    def drained() -> bool:
        status: Status | None = read_status(agent.state / "status.json")
        return status is not None and status.spool_depth == 0 and status.samples_acked_total > beyond

    wait_for(f"empty spool of {agent.vm}", drained, within_s=_RECOVERY_S)


SCENARIOS = (
    Scenario(rows=(10,), name="full-stores", needs=("mount",), run=full_stores, quick=2, whole=40),
    Scenario(
        rows=(9, 10),
        name="full-disk-and-real-agents",
        needs=("mount",),
        run=partial(full_disk, full_s=lambda here: 600.0 if here.injections > 1 else 5.0),
        quick=1,
        whole=2,
    ),
    Scenario(rows=(12,), name="unreadable-store", needs=("strace",), run=unreadable_store, quick=2, whole=60),
    Scenario(rows=(14,), name="read-only-disk", needs=("loop",), run=read_only_disk, quick=2, whole=40),
    Scenario(rows=(19,), name="hot-journals", needs=("strace",), run=hot_journals, quick=1, whole=40),
)
