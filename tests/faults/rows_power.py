"""Power cuts: rows 3 and 4."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from bench.kill_compare import Findings
from tests.faults.lives import OPTIONS, Herd, flushing, must
from tests.faults.power_cut import CutDisk
from tests.faults.scenario import Scenario, Surroundings
from tests.faults.tally import Tally, tally_of

_VMS = 8
_CUTS_A_HERD = 25  # then a new one: what is stored grows, and is compared as a whole each time
_DISK_BYTES = 96 << 20
_SMALL_SEGMENT = "64KiB"  # so that the journal goes on to a new one many times a second


def power_cuts(here: Surroundings, *, segment: str, with_flush: bool) -> Tally:
    """The disk as it is at a random moment of load and flushes; an aggregator on that disk must hold every ack."""
    tallies = Findings()
    notes: set[str] = set()
    left = here.injections
    while left:
        home = here.home / f"herd-{left}"
        home.mkdir()
        _cut_one_herd(here, home, min(left, _CUTS_A_HERD), segment, with_flush, tallies, notes)
        left -= min(left, _CUTS_A_HERD)
    return tally_of(tallies, injections=here.injections, notes=", ".join(sorted(notes)))


def _cut_one_herd(
    here: Surroundings, home: Path, cuts: int, segment: str, with_flush: bool, findings: Findings, notes: set[str]
) -> None:
    disk = CutDisk(home, size_bytes=_DISK_BYTES)
    place = here.later.enter_context(disk.mounted())
    herd = Herd(here, vms=_VMS, data=place / "data", options=(*OPTIONS, "--journal-segment", segment))
    with herd.life() as life:
        driver = herd.driver()
        driver.connect(life.address)
        for _ in range(cuts):
            if with_flush and here.draw.random() < 0.6:
                with flushing(life) as reports:
                    driver.run(here.draw.uniform(0.0, 0.12))
                    _cut(herd, disk, findings)
                must(reports and not reports[0]["failures"], f"the flush that went on failed: {reports}")
                notes.add("some during a flush")
            else:
                driver.run(here.draw.uniform(0.01, 0.15))
                _cut(herd, disk, findings)
            here.advance()
        # What was put on disk in the meantime is right in the life that went on, too.
        driver.settle(30.0)
        driver.close()
        life.kill()
    before = herd.compare_copy(herd.data)
    _add(findings, before)


def _cut(herd: Herd, disk: CutDisk, findings: Findings) -> None:
    """No push is read or sent meanwhile: what is acknowledged now was on the disk before it was frozen."""
    began_s = time.monotonic()
    with disk.cut() as place:
        found = herd.compare_copy(place / "data")
    _add(findings, found)
    # Connections that nobody writes to are closed after a while.
    must(time.monotonic() - began_s < 120.0, "the comparison took too long for the connections to live")


def _add(findings: Findings, more: Findings) -> None:
    findings.acknowledged += more.acknowledged
    findings.stored += more.stored
    findings.lost += more.lost
    findings.doubled += more.doubled
    findings.never_sent += more.never_sent
    findings.rollup_mismatches += more.rollup_mismatches
    findings.summary_mismatches += more.summary_mismatches


SCENARIOS = (
    Scenario(
        rows=(3,),
        name="power-cut",
        needs=("loop", "fsfreeze"),
        run=partial(power_cuts, segment="64MiB", with_flush=True),
        quick=3,
        whole=100,
    ),
    Scenario(
        rows=(4,),
        name="power-cut-at-a-new-segment",
        needs=("loop", "fsfreeze"),
        run=partial(power_cuts, segment=_SMALL_SEGMENT, with_flush=False),
        quick=2,
        whole=60,
    ),
)
