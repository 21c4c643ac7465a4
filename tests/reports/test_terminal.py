"""The report as people read it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from reports.facts import Vm
from reports.fleet_report import make_report
from reports.mail import to_mail
from reports.policies import POLICIES
from reports.report import Listed, Sort
from reports.terminal import sparkline, to_text
from reports.verdicts import Cause, Settings, Verdict
from tests.reports import columns, samples
from tests.reports.fleets import Load, Noise, Spec, one_of_each, question, stored
from tests.reports.golden import PRICES

UUID = "6f9c2b1e-0000-4000-8000-00000000000a"
PRICED = Settings(prices=PRICES)


def shown(
    specs: list[Spec], *, width: int | None = None, colour: bool = False, why: bool = False, **changes: Any
) -> str:
    return to_text(make_report(stored(specs), question(**changes)), width=width, colour=colour, why=why)


def line_of(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if word in line)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 140, 200])
@pytest.mark.parametrize("policy", ["fallow-balanced", "classic", "google"])
def test_no_line_is_wider_than_the_terminal(width: int, policy: str) -> None:
    """At any width, with money and without, with paragraphs below; ids and verdicts are whole."""
    specs = [*one_of_each(), Spec(vm_id=UUID, name="n" * 60, owner="ann " * 10)]
    for asked in (Settings(), PRICED):
        text = shown(specs, width=width, policy=policy, settings=asked, why=True)
        assert max(map(cell_len, text.splitlines())) <= width
        assert "…" not in text
        # No figure is broken in two.
        assert re.search(r"10 +52\.0 GiB", line_of(text, "vm-oversized"))
        assert re.search(r"75%", line_of(text, "vm-oversized")) or width < 80
        assert not re.search(r"^ *(?:GiB|%|B/s)", text.split("\n\n")[1], re.MULTILINE)


def test_a_wide_terminal_shows_more() -> None:
    """The narrow one keeps what ranks and why; the widest has every column, and nothing below the ids."""
    narrow, wide = (shown(one_of_each(), width=width, settings=PRICED) for width in (80, 200))
    for header in ("vCPU", "memory", "EUR", "dence", "p95"):
        assert header in narrow.split("\n\n")[1]
    assert "net" not in narrow.split("\n\n")[1]
    for header in ("name", "owner", "size", "mem", "net", "cover-", "CPU, Mon–Sun"):
        assert header in wide.split("\n\n")[1]
    assert re.search(r"^\d vm-idle +web +ann +idle +8 vCPU, 8\.0 GiB +8 +8\.0 GiB +137\.57 ", wide, re.MULTILINE)


def test_what_has_no_column_stands_below_the_id() -> None:
    """Name, owner and size are there at every width."""
    text = shown([Spec(vm_id=UUID, name="web", owner="ann")], width=80, settings=PRICED)
    below = text.splitlines()[text.splitlines().index(line_of(text, UUID)) + 1]
    assert below.strip() == "web, ann, 4 vCPU, 8.0 GiB"


def test_names_and_size_share_a_line_where_it_holds_both() -> None:
    """Else each has its own, and a size is not torn apart."""
    text = shown([Spec(name="web", owner="o" * 17)], width=80, settings=PRICED).splitlines()
    assert "4 vCPU, 8.0 GiB" in [line.strip() for line in text]
    assert not any("4 vCPU, 8.0 GiB" in line and "o" * 17 in line for line in text)


def test_reasons_that_people_wrote_cannot_command_the_terminal() -> None:
    """An exemption is told as it was given, but for what is no text."""
    report = samples.report([columns.facts()])
    (listed,) = report.listed
    kept = replace(listed.judgement, cause=Cause.EXEMPT, reason="Kept until 2027 by ann: \x1b[2J\naudit")
    report = replace(report, listed=(Listed(rank=None, judgement=kept),))
    for text in (to_text(report, width=None, colour=False, why=True), to_mail(report)):
        assert "\x1b" not in text
        assert "\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}audit" in text


def test_piped_output_has_no_colours_and_cuts_nothing() -> None:
    """Lines may have any length there, so that names and ids stay whole, a VM a line."""
    long_id, name = "a" * 64, "n" * 300
    text = shown([Spec(vm_id=long_id, name=name, owner="o" * 100)])
    assert name in line_of(text, long_id)
    assert "o" * 100 in line_of(text, long_id)
    assert "\x1b" not in text


def test_a_long_id_is_folded_not_cut_on_a_narrow_terminal() -> None:
    """64 characters do not fit 80 columns beside the figures: both halves are there."""
    vm_id = "".join(f"{place:04d}" for place in range(16))
    text = shown([Spec(vm_id=vm_id)], width=80)
    assert "".join(re.findall(r"^(?:1| ) (\d{4,})", text, re.MULTILINE)) == vm_id


def test_a_terminal_gets_colours() -> None:
    """The verdict is coloured where escape sequences are understood, and the words are the same."""
    coloured = shown([Spec()], width=140, colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).split() == shown([Spec()], width=140).split()


@settings(max_examples=40)
@given(
    name=st.text(min_size=1, max_size=80),
    owner=st.text(min_size=1, max_size=80),
    width=st.sampled_from((80, 120, 200, None)),
)
def test_names_cannot_command_the_terminal(name: str, owner: str, width: int | None) -> None:
    """Whatever a name holds, nothing but printable characters and our own line breaks comes out."""
    one = columns.facts(vm=Vm(vm_id="vm-a", name=name, owner=owner, enrolled_s=samples.ENROLLED_S))
    text = to_text(samples.report([one]), width=width, colour=False, why=True)
    assert all(character.isprintable() or character == "\n" for character in text)


def test_markup_in_names_is_text() -> None:
    """What the table's library would take for a style is shown."""
    text = shown([Spec(name="\x1b[2J[red]x[/red]\r\nroot :smile:")])
    assert "[red]x[/red]" in line_of(text, "vm-a")
    assert "root :smile:" in line_of(text, "vm-a")


@pytest.mark.parametrize("width", [80, 140])
def test_every_verdict_says_why(width: int) -> None:
    """A list of all VMs names each verdict, and the cause where the columns do not show it."""
    words = " ".join(shown(one_of_each(), width=width).split())
    for part in ("idle", "scheduled", "oversized", "active", "silent", "runs no", "too new", "excluded by"):
        assert part in words


def test_a_list_of_one_verdict_gives_the_whole_reason() -> None:
    """And leaves out the columns of what is freed, as nothing is."""
    text = shown(one_of_each(), width=120, verdict=Verdict.INSUFFICIENT)
    assert "Silent since 2026-11-16 10:00 UTC" in text
    assert "frees" not in text
    assert "Listed 5 of 5 VMs with insufficient data." in text


def test_a_paragraph_on_demand() -> None:
    """`why` puts below the table what a mail says of each VM."""
    plain, why = shown(one_of_each()), shown(one_of_each(), why=True)
    assert "Proposed: give it back." not in plain
    assert re.search(r"^web \(vm-idle\), owner ann\n  Idle: .*Proposed: give it back\.", why, re.MULTILINE)


def test_totals_say_what_is_listed_and_what_there_is() -> None:
    """Below the list: how many of how many, what is reclaimable, and the fleet by verdict with causes."""
    text = shown([*one_of_each(), Spec(vm_id="vm-2")], verdict=Verdict.IDLE, top=1)
    assert "Listed 1 of 2 VMs with the verdict idle. --top N lists more, --all every VM." in text
    assert re.search(r"Reclaimable: 23\.5 vCPU, 70\.9 GiB of memory and 80\.0 GiB of disk \(\d+ kWh a month\)", text)
    assert "in 4 VMs: 2 idle (12 vCPU), 1 scheduled (1.5 vCPU) and 1 oversized (10 vCPU)." in text
    assert "The fleet has 11 VMs: 2 idle, 1 scheduled, 1 oversized, 1 active, 5 with insufficient data (" in text
    assert "vm-2" not in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reclaimable": True}, "Listed 1 of 1 VM that can give capacity back."),
        ({}, "Listed 1 of 1 VM."),
        ({"owner": "{ann}"}, "Listed 1 of 1 VM of the owner {ann}."),
        ({"search": "VM-"}, "Listed 1 of 1 VM with “VM-” in id, names, owner or tags."),
        ({"verdict": Verdict.ACTIVE}, "There is no VM with the verdict active."),
        ({"reclaimable": True, "owner": "bob"}, "There is no VM that can give capacity back of the owner bob."),
    ],
)
def test_what_was_asked_for_is_said(changes: dict[str, Any], words: str) -> None:
    """So that a list of some is not read as one of all."""
    assert words in shown([Spec(owner="{ann}")], **changes)


def test_unknown_is_a_dash_and_nothing_is_empty() -> None:
    """A sum that leaves something out says so; a VM that gives nothing back has no number of zero."""
    text = shown([Spec(vm_id="vm-unsized", vcpus=None, mem_gib=None), Spec(vm_id="vm-bare", enrolled=False, load=None)])
    assert "The size of 1 of them is not known and counts as nothing." in text
    assert re.match(r"1 vm-unsized +idle +– +– +– +–", line_of(text, "vm-unsized"))
    assert re.search(r"runs no agent +– +– +– +– +– +–$", line_of(text, "vm-bare"))


def test_a_figure_just_beyond_its_limit_does_not_look_like_it() -> None:
    """Coverage of 94.99 % is not shown as the 95 % that are needed."""
    text = shown([Spec(coverage_ratio=0.94995)])
    assert re.search(r" 94\.9\d+%", line_of(text, "vm-a"))


def test_an_empty_fleet_tells_what_to_do() -> None:
    """Without VMs there is no table but the next step."""
    assert "join-token" in shown([])


def test_no_idle_vm_still_has_totals() -> None:
    """A fleet in use is an answer, not an error."""
    text = shown([Spec(power_state="off", silent_s=7200)], reclaimable=True)
    assert "There is no VM that can give capacity back." in text
    assert "Reclaimable: nothing." in text
    assert "1 powered off" in text


def test_totals_of_an_earlier_judgement_say_so() -> None:
    """The list is of now, what ranks it older."""
    report = make_report(stored([Spec()]), question())
    assert "Totals and order are of" not in to_text(report, width=None, colour=False)
    older = replace(report, judged_s=report.judged_s - 3600)
    assert "Totals and order are of 2026-11-16 11:06 UTC; each VM listed is judged anew." in to_text(
        older, width=None, colour=False
    )


@pytest.mark.parametrize(
    ("values", "full", "line"),
    [
        ((0.0, 0.5, 1.0), 1.0, "▁▅█"),
        ((None, 0.1), 0.1, " █"),
        ((0.2, 9.0), 0.4, "▅█"),
        ((), 1.0, ""),
    ],
)
def test_sparklines(values: tuple[float | None, ...], full: float, line: str) -> None:
    """Heights are shares of the scale; what was not seen is a gap, what is above the scale is full."""
    assert sparkline(values, full=full) == line


def test_sparklines_of_a_list_share_a_scale_that_is_told() -> None:
    """So that two VMs compare, and a fleet that sleeps is not drawn as one that works."""
    asleep, awake = Spec(vm_id="vm-a"), Spec(vm_id="vm-b", load=Load(cpu=Noise(0.3, 0.5)))
    quiet = shown([asleep], width=200)
    assert "█ is 5%" in quiet
    both = shown([asleep, awake], width=200)
    assert "█ is 50%" in both
    assert "▁" * 28 in line_of(both, "vm-a")
    assert re.search(r"[▅▆▇]{28}", line_of(both, "vm-b"))
    assert re.search(r"[▅▆▇]{14}$", line_of(shown([asleep, awake], width=100), "vm-b"))


def test_every_policy_and_order_is_rendered() -> None:
    """Whatever was asked, something is shown."""
    for policy in POLICIES:
        assert "vm-idle" in shown(one_of_each(), width=80, policy=policy, why=True)
    for sort in Sort:
        assert "vm-idle" in shown(one_of_each(), width=80, sort=sort)
