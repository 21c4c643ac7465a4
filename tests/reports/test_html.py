"""The report in one file: what its readers find in it, that it needs nothing else, and its golden file."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import UTC, tzinfo
from html import unescape
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from reports.html import plan, to_html
from reports.judgement import Timetable
from reports.report import RECLAIMABLE, Report, Sort
from reports.verdicts import Verdict
from reports.words import gib, number
from tests.reports import samples

GOLDEN = Path(__file__).parent / "data" / "report.html"


def written(report: Report | None = None, *, zone: tzinfo = samples.BERLIN) -> str:
    return to_html(report or samples.report(changes=samples.CHANGES), zone=zone)


def words(html: str) -> str:
    """What a reader sees, blanks made one."""
    body = re.sub(r"<style>.*?</style>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def article(html: str, vm_id: str) -> str:
    """The part of one VM, as a reader sees it."""
    found = [part for part in re.findall(r"<article.*?</article>", html, re.DOTALL) if f">{vm_id}<" in part]
    assert len(found) == 1
    return words(found[0])


def test_the_golden_file() -> None:
    """The whole file is what it was; FALLOW_GOLDEN=write writes it anew after a change that was meant."""
    html = written()
    if os.environ.get("FALLOW_GOLDEN") == "write":
        GOLDEN.write_text(html, encoding="utf-8")
    assert html == GOLDEN.read_text(encoding="utf-8")


def test_it_needs_nothing_else() -> None:
    """No script, no file, no address on a network: a reader without any sees all of it."""
    html = written()
    assert "<script" not in html
    assert not re.findall(r"\b(?:src|srcset|action|data)\s*=|url\(|@import|https?://", html)
    assert all(href.startswith("#") for href in re.findall(r'href="([^"]*)"', html))
    assert "default-src 'none'" in html
    assert "@page" in html


def test_totals_are_of_the_whole_fleet() -> None:
    """However few VMs are listed, the totals, the verdicts and their causes count every VM."""
    few = samples.report(asked=samples.question(top=1, reclaimable=True))
    text = words(written(few))
    freed = few.totals.freed_together
    assert f"VMs {few.totals.reclaimable} of {few.totals.vms}" in text
    assert gib(freed.mem_bytes) in text
    assert f"{freed.money_per_month:,.2f} EUR" in text
    assert f"1 of {few.matching}" in text
    for verdict in Verdict:
        assert re.search(rf"{verdict.value}( [\w ,]+)? {few.totals.of(verdict)} ", text)
    assert "1 runs no agent, 1 too new" in text


def test_each_vm_has_its_sentence_and_evidence() -> None:
    """Every listed VM: its reason, every figure with its limit, its windows, and what it frees."""
    report = samples.report()
    html = written(report)
    for listed in report.listed:
        one = listed.judgement
        text = article(html, one.vm.vm_id)
        assert one.reason[1:] in text
        for figure in one.figures:
            assert f"{figure.words} {number(figure.value, figure.unit, beside=figure.limit)}" in text
            assert number(figure.limit, figure.unit) in text
        for line in one.windows:
            assert f"{line.days} day" in text
        if one.verdict in RECLAIMABLE:
            assert f"{listed.rank}. " in text
            assert "Still needed as it is?" in text
            assert f"fallow-report keep {one.vm.vm_id} " in text
        else:
            assert "Nothing is proposed" in text
            assert "Still needed" not in text


def test_figures_that_decided_come_first() -> None:
    """What the verdict rests on is in sight, the policy's other figures behind a heading that opens."""
    report = samples.report()
    html = written(report)
    for listed in report.listed:
        one = listed.judgement
        _, _, own = html.partition(f'<dd class="id">{one.vm.vm_id}</dd>')
        seen, _, hidden = own.partition("</article>")[0].partition("<details>")
        for figure in one.figures[:-3]:
            assert (f">{figure.words}<" in (seen if figure.decides else hidden)) is True


def test_proposals_say_what_to_do() -> None:
    """An idle VM is to be given back, an oversized one gets its size, a scheduled one its hours."""
    report = samples.report()
    html = written(report)
    by_verdict = {listed.judgement.verdict: listed.judgement for listed in report.listed}
    idle = article(html, by_verdict[Verdict.IDLE].vm.vm_id)
    assert "Proposed: give the VM back." in idle
    oversized = by_verdict[Verdict.OVERSIZED]
    assert oversized.proposal is not None
    text = article(html, oversized.vm.vm_id)
    assert f"a smaller size, {oversized.proposal.vcpus:g} vCPU and {gib(oversized.proposal.mem_bytes)}" in text
    assert "What the proposed size would hold" in text
    assert "at most 60%" in text
    scheduled = article(html, by_verdict[Verdict.SCHEDULED].vm.vm_id)
    assert "113 of 168 hours a week" in scheduled
    assert "Fri 19:00 – Mon 08:00" in scheduled


def test_an_unknown_size_is_not_nothing() -> None:
    """A VM whose size nobody knows frees an amount that is not known; the totals say how many there are."""
    html = written()
    text = article(html, "vm-09")
    assert "frees 40.0 GiB of disk; the rest of its size is not known" in text
    assert "frees nothing" not in text
    assert "The size of 1 of them is not known" in words(html)


def test_times_are_the_readers() -> None:
    """Moments and timetables stand on the clock of the zone that is handed in, and it is named."""
    assert "2026-11-18 12:06 CET" in words(written())
    utc = words(written(zone=UTC))
    assert "2026-11-18 11:06 UTC" in utc
    assert "Fri 18:00 – Mon 07:00" in utc


def test_names_are_text() -> None:
    """Whatever a VM, an owner, a tag or a search is called, it is shown and never run."""
    report = samples.report()
    evil = "</style><script>alert(1)</script>"
    asked = replace(report.question, search=evil, owner=evil, sort=Sort.MEMORY, ascending=True)
    html = written(replace(report, question=asked))
    assert "<script" not in html
    assert html.count("</style>") == 1
    assert evil in words(html)
    assert "ordered by memory freed, the other way round" in words(html)
    assert "Bob & Söhne" in words(html)
    assert "<b>" not in html


def test_no_prices_no_money() -> None:
    """Without a price table no amount of money stands anywhere."""
    html = written(samples.report(asked=samples.question(settings=samples.UNPRICED)))
    assert "EUR" not in html
    assert "Money" not in html
    assert "None" not in words(html)


def test_an_empty_fleet_says_what_to_do() -> None:
    """A report on no VM has no table, and names the command that brings some."""
    html = written(samples.report(()))
    assert "The fleet is empty" in html
    assert "fallow-aggregator join-token" in html
    assert "<table" not in html


def test_a_list_of_none_says_so() -> None:
    """Where no VM can give anything back, the report says that, and not nothing."""
    busy = [facts for facts in samples.fleet() if facts.vms[0].vm_id == "vm-05"]
    text = words(written(samples.report(busy, samples.question(reclaimable=True))))
    assert "None: every VM is in use, kept, or not known well enough yet." in text


def test_what_happened_is_told() -> None:
    """Changes since the report before stand with their numbers; without any, nothing is claimed."""
    text = words(written())
    assert "3 VMs reclaimed, 2 kept, 1 objected to, 0 given back to their owners." in text
    assert "Since 20" not in words(written(samples.report()))


@pytest.mark.parametrize(
    ("zone", "first", "minutes"),
    [
        (UTC, "Mon 00:00 – Mon 06:00", 0),
        (ZoneInfo("Asia/Kolkata"), "Mon 05:30 – Mon 11:30", 30),
        (ZoneInfo("America/New_York"), "Sun 19:00 – Mon 01:00", 0),
    ],
)
def test_a_plan_is_shifted_to_the_reader(zone: tzinfo, first: str, minutes: int) -> None:
    """Monday's first six hours of UTC, wherever they fall: the words and the cells agree."""
    timetable = Timetable(off=tuple(hour < 6 for hour in range(168)), provisional=False)
    found = plan(timetable, zone, float(samples.NOW_S))
    assert (found.ranges, found.minutes) == ((first,), minutes)
    assert [len(row) for row in found.rows] == [24] * 7
    assert sum(map(sum, found.rows)) == 6
