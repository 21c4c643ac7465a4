"""The report that the golden files show: a VM of each verdict and names that people make trouble with.

Its policy has a figure of every unit and its fleet is fixed, so that the files change with the outputs alone.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from reports.fleet_report import make_report
from reports.judgement import Savings
from reports.policy import All, Either, Policy, at_most, below
from reports.report import Changes, Report
from reports.savings import Prices
from reports.verdicts import Settings
from tests.reports.fleets import BUSY, NOW_S, OFFICE, OVERSIZED, Spec, question, stored

FOLDER = Path(__file__).parent / "data"
_RENEW = "FALLOW_GOLDEN"
PRICES = Prices(currency="EUR", vcpu_hour=0.02, mem_gib_hour=0.003, disk_gib_month=0.04, kwh=0.25)
POLICY = Policy(
    name="golden",
    summary="little CPU, hardly any traffic and no visitors",
    source="the tests of the outputs",
    idle_when=All(
        (
            Either((below("cpu_busy.p95", 0.03, days=7), below("cpu_vcpus.p97", 0.03))),
            at_most("cpu_busy.mean", 0.02),
            below("net_daily.max", 5e6),
            at_most("disk_io.p95", 10e6, optional=True),
            at_most("users.share", 0.02),
        )
    ),
)
FLEET = (
    Spec(
        vm_id="6f9c2b1e-0000-4000-8000-00000000000a",
        name="web",
        hostname="web.example",
        owner="ann",
        tags=("team:web", "host:h1"),
        vcpus=8,
    ),
    Spec(vm_id="vm-scheduled", name="office", owner="bob", load=OFFICE, vcpus=2, mem_gib=4),
    Spec(vm_id="vm-oversized", name="<script>alert(1)</script>", owner='O"Neill, Söhne', load=OVERSIZED, vcpus=16),
    Spec(vm_id="vm-unsized", name="=1+1", owner="@ann", vcpus=None, mem_gib=None, disk_gib=None),
    Spec(vm_id="vm-active", name="db", owner="cleo", load=BUSY, vcpus=2),
    Spec(vm_id="vm-silent", name="\x1b[2J\r\nroot", silent_s=2 * 3600),
    Spec(vm_id="vm-bare", enrolled=False, load=None),
    Spec(
        vm_id="vm-kept",
        name="kept by a tag with a name so long that no line of a mail holds it all",
        tags=("fallow:keep",),
    ),
)
CHANGES = Changes(
    since_s=NOW_S - 7 * 86_400.0,
    reclaimed=3,
    kept=2,
    objected=1,
    realised=Savings(
        vcpus=12.0, mem_bytes=48.0 * 2**30, disk_bytes=100.0 * 2**30, kwh_per_month=20.0, money_per_month=310.0
    ),
)


def golden_report() -> Report:
    """Every VM, by what it frees."""
    asked = replace(question(), policy=POLICY, settings=Settings(prices=PRICES))
    return replace(make_report(stored(FLEET), asked), changes=CHANGES)


def compare_with_file(name: str, text: str) -> None:
    """Raises AssertionError: the text is not what the file holds.

    With the environment variable FALLOW_GOLDEN=write the file is written instead: read what changed before it is
    committed.
    """
    path = FOLDER / name
    if os.environ.get(_RENEW) == "write":
        path.write_bytes(text.encode())
    assert text.encode() == path.read_bytes(), f"{name} differs; if it should, {_RENEW}=write writes it anew"
