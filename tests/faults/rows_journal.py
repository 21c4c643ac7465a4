"""The journal: a full disk, a sync that fails or takes long, torn and damaged files, other versions: rows 9 to 42."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.kill_compare import Findings
from bench.programs import tail
from tests.faults.disks import Ballast, tmpfs
from tests.faults.journal_trace import Synced, read_journal_trace
from tests.faults.lives import Herd, Life, must, push_until, push_until_put_off, push_until_taken, wait_for
from tests.faults.scenario import Scenario, Surroundings
from tests.faults.segments import (
    Record,
    cut,
    flip_bits,
    hit_by,
    only_in,
    records_of,
    segments_of,
    set_version,
    tear,
)
from tests.faults.strace import Injection, Trace
from tests.faults.tally import FaultError, Tally

_VMS = 8
_FLIPS = 5  # a copy: one start costs more than all of them
_VERSIONS = (0, 2, 7, 2**32 - 1)


def full_journal(here: Surroundings) -> Tally:
    """ENOSPC on the journal's 1 MB: 503, not ready, healthy otherwise; with room again it recovers unaided."""
    journal = here.home / "data" / "journal"
    here.later.enter_context(tmpfs(journal, "size=1m"))
    herd = Herd(here, vms=_VMS)
    ballast = Ballast(journal)
    put_off = 0
    for _ in range(here.injections):
        with herd.life() as life:
            driver = herd.driver()
            driver.connect(life.address)
            driver.settle(30.0)
            life.flush()
            ballast.leave(here.draw.randrange(70_000, 300_000))
            push_until_put_off(driver)
            # A small group may still fit into what a large one did not.
            ballast.leave(0)
            push_until(driver, "503 from /readyz with a full journal", lambda: life.get("/readyz")[0] == 503)
            must(life.get("/healthz")[0] == 200, "no answer to /healthz with a full journal")
            driver.run(here.draw.uniform(0.0, 0.2))
            put_off += driver.counts.put_off
            ballast.drop()
            wait_for("readiness once there was room", lambda: life.get("/readyz")[0] == 200)
            push_until_taken(driver, 1)
            life.kill()
            driver.cut()
        here.advance()
    return herd.finish(injections=here.injections, notes=f"{put_off} pushes put off")


def failing_sync(here: Surroundings) -> Tally:
    """EIO at the journal's sync: no ack, no second sync of that file; what was acknowledged needs nothing unsynced."""
    herd = Herd(here, vms=_VMS)
    trace = here.home / "trace"
    struck = put_off = 0
    while struck < here.injections:
        trace.unlink(missing_ok=True)
        # The first few of any thread are those of the start.
        when = f"{here.draw.randint(5, 9)}+{here.draw.randint(2, 6)}"
        injection = Injection(calls=("fdatasync",), fault="error=EIO", when=when, watched=("write", "ftruncate"))
        with herd.life(under=injection.under(trace)) as life:
            driver = herd.driver()
            driver.connect(life.address)
            push_until_put_off(driver)
            driver.run(0.15)
            life.kill()
            driver.cut()
        seen = read_journal_trace(Trace(trace), herd.data / "journal")
        failed = sum(file.failed for file in seen.values())
        must(failed, "no sync of the journal was failed")
        must(driver.counts.put_off >= failed, f"{failed} syncs failed, {driver.counts.put_off} pushes were put off")
        put_off += driver.counts.put_off
        _lose_what_was_not_synced(seen)
        struck += failed
        for _ in range(failed):
            here.advance()
    return herd.finish(injections=struck, notes=f"{put_off} put off; unsynced bytes cut off")


def _lose_what_was_not_synced(seen: dict[Path, Synced]) -> None:
    """Does what the failing disk did: nothing behind the last sync that succeeded ever reached it."""
    for path, file in seen.items():
        must(not file.synced_after_failure, f"{path.name} was synced again after a sync of it had failed")
        if path.exists() and path.stat().st_size > file.durable_bytes:
            with open(path, "r+b") as segment:
                segment.truncate(file.durable_bytes)


def slow_sync(here: Surroundings) -> Tally:
    """A sync of the journal takes long: acks wait for it, /healthz does not."""
    delay_s = 5.0 if here.injections > 3 else 1.0
    herd = Herd(here, vms=_VMS)
    trace = here.home / "trace"
    injection = Injection(calls=("fdatasync",), fault=f"delay_enter={int(delay_s * 1e6)}", when="6+")
    with herd.life(under=injection.under(trace)) as life:
        driver = herd.driver()
        driver.connect(life.address)
        driver.run(0.3)
        acknowledged = driver.counts.acknowledged
        with _health_watched(life) as waits_s:
            driver.run(delay_s * here.injections)
        slow = driver.counts.acknowledged - acknowledged
        driver.settle(30.0)
        driver.close()
        life.kill()
    struck = Trace(trace).injected
    must(struck >= here.injections - 1, f"only {struck} syncs were slow")
    # One group a sync, and each VM has one push under way.
    must(0 < slow <= _VMS * (here.injections + 2), f"{slow} pushes were acknowledged in {here.injections} slow syncs")
    must(max(waits_s) < delay_s / 4, f"/healthz took {max(waits_s):.2f} s while a sync took {delay_s:g} s")
    here.advance()
    return herd.finish(injections=struck, notes=f"syncs of {delay_s:g} s, /healthz within {max(waits_s) * 1e3:.0f} ms")


@contextmanager
def _health_watched(life: Life) -> Iterator[list[float]]:
    """How long each /healthz took during the body, in seconds."""
    waits_s: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            began_s = time.monotonic()
            status, _ = life.get("/healthz")
            waits_s.append(time.monotonic() - began_s if status == 200 else float("inf"))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield waits_s
    finally:
        over.set()
        thread.join(60.0)


class _Copies:
    """Copies of one data directory that was killed before any flush, to be damaged; what each must still hold."""

    def __init__(self, here: Surroundings) -> None:
        self._here = here
        self.herd = Herd(here, vms=_VMS)
        driver = self.herd.driver()
        for _ in range(2):  # two segments with records
            with self.herd.life() as life:
                driver.connect(life.address)
                push_until_taken(driver, 10 * _VMS)
                life.kill()
                driver.cut()
        self.records = [record for segment in segments_of(self.herd.data) for record in records_of(segment)]
        self.acknowledged = {(ledger.vm, ts) for ledger in self.herd.ledgers for ts in ledger.acknowledged()}
        self.held = Findings()
        self.excused = 0

    @contextmanager
    def copy(self) -> Iterator[Path]:
        """A copy of the data directory."""
        data = self._here.home / "copy"
        shutil.copytree(self.herd.data, data)
        try:
            yield data
        finally:
            shutil.rmtree(data)

    def original(self, segment: Path) -> list[Record]:
        """The records that a segment of a copy had."""
        return [record for record in self.records if record.segment.name == segment.name]

    def judge(self, data: Path, hit: list[Record], *, counted: bool = False) -> None:
        """Starts on a damaged copy. Raises: FaultError: other samples are gone than those of the records hit.

        Args: counted: damage in front of a whole record must show in the metrics.
        """
        excused = len(only_in(hit, self.records) & self.acknowledged)
        skipped: list[float] = []
        found = self.herd.compare_copy(
            data, lambda life: skipped.append(life.metric("fallow_journal_damaged_records_total"))
        )
        # What ends the newest segment is its torn tail, which is cut off: that is told in bytes.
        if counted and any(self._is_followed(record, hit) for record in hit):
            must(skipped[0] >= 1, "damaged records were skipped without being counted")
        wrong = found.rollup_mismatches + found.summary_mismatches
        if found.lost != excused or found.doubled or found.never_sent or wrong:
            raise FaultError(f"{excused} samples were in damaged records; {found}")
        self.excused += excused
        self.held.acknowledged += found.acknowledged - excused
        self.held.stored += found.stored

    def _is_followed(self, record: Record, hit: list[Record]) -> bool:
        return any(other.begin > record.begin and other not in hit for other in self.original(record.segment))

    def tally(self, *, injections: int, notes: str = "") -> Tally:
        """Of all copies; the samples of records that were hit count as never acknowledged."""
        return Tally(
            injections=injections,
            acknowledged=self.held.acknowledged,
            stored=self.held.stored,
            lost=0,
            doubled=0,
            notes=notes or f"{self.excused} samples lay in what was hit",
        )


def torn_tail(here: Surroundings) -> Tally:
    """Half a record, zeros or noise behind the last record, or the file cut anywhere: all whole records count."""
    copies = _Copies(here)
    for _ in range(here.injections):
        with copies.copy() as data:
            segment = here.draw.choice([path for path in segments_of(data) if copies.original(path)])
            if here.draw.random() < 0.5:
                tear(segment, here.draw)
                copies.judge(data, [])
            else:
                length = cut(segment, here.draw)
                copies.judge(data, [record for record in copies.original(segment) if record.end > length])
        here.advance()
    return copies.tally(injections=here.injections)


def flipped_bits(here: Surroundings) -> Tally:
    """Single bits anywhere in the journal: the records that they hit are skipped and counted, all others kept."""
    copies = _Copies(here)
    struck = 0
    while struck < here.injections:
        with copies.copy() as data:
            segment = here.draw.choice([path for path in segments_of(data) if copies.original(path)])
            offsets = flip_bits(segment, here.draw, _FLIPS)
            copies.judge(data, list(hit_by(copies.original(segment), offsets)), counted=True)
        struck += _FLIPS
        for _ in range(_FLIPS):
            here.advance()
    return copies.tally(injections=struck)


def other_version(here: Surroundings) -> Tally:
    """A segment of another version: the start is refused with a reason, and no byte of the journal changes."""
    copies = _Copies(here)
    for version in _VERSIONS[: here.injections]:
        with copies.copy() as data:
            segment = here.draw.choice(segments_of(data))
            kept = segment.read_bytes()
            set_version(segment, version)
            before = _contents(data / "journal")
            doors = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
            program = here.programs.start(["fallow-aggregator", "run", "--data", str(data), *doors])
            here.programs.finish(program, within_s=60.0, accepted=(1,))
            program.process.wait()
            said = tail(program.log, 1)
            must(f"journal version {version} is not supported" in said, f"refused without saying why: {said}")
            must(segment.name in said, f"refused without naming the file: {said}")
            must(_contents(data / "journal") == before, "the journal was changed by a start that was refused")
            segment.write_bytes(kept)
            copies.judge(data, [])
        here.advance()
    return copies.tally(injections=min(here.injections, len(_VERSIONS)), notes="refused; read once it is the known one")


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


SCENARIOS = (
    Scenario(rows=(9,), name="full-journal", needs=("mount",), run=full_journal, quick=2, whole=40),
    Scenario(rows=(11,), name="failing-sync", needs=("strace",), run=failing_sync, quick=3, whole=150),
    Scenario(rows=(13,), name="slow-sync", needs=("strace",), run=slow_sync, quick=3, whole=5),
    Scenario(rows=(15,), name="torn-tail", needs=(), run=torn_tail, quick=2, whole=60),
    Scenario(rows=(16,), name="flipped-bits", needs=(), run=flipped_bits, quick=5, whole=250),
    Scenario(rows=(42,), name="other-version", needs=(), run=other_version, quick=1, whole=4),
)
