"""The report as people read it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from reports.candidates import Candidate
from reports.policies import CLASSIC, P95, Policy
from reports.query import read_report, snapshot
from reports.terminal import to_text
from reports.verdicts import Verdict
from tests.reports.fleets import LOW, candidate, one_of_each, question, stored, summary, window

UUID = "6f9c2b1e-0000-4000-8000-00000000000a"


def shown(
    vms: list[Candidate],
    policy: Policy = CLASSIC,
    *,
    width: int | None = None,
    colour: bool = False,
    **changes: Any,
) -> str:
    with snapshot(stored(vms)) as connection:
        return to_text(read_report(connection, question(policy, **changes)), width=width, colour=colour)


def line_of(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if word in line)


@pytest.mark.parametrize("width", [80, 140, None])
def test_figures_stand_below_their_limits(width: int | None) -> None:
    """At every width the columns have their limits, the rows their figures, and ids are whole."""
    text = shown([candidate(vm_id=UUID, name="web", owner="ann")], width=width)
    assert re.search(r"≤ 10% +≤ 10% ≤ 10% +≥ 95%", text)
    assert re.search(r"2% +4% +5% +6% +100%", line_of(text, UUID))
    assert "web" in text
    assert "ann" in text
    assert all(len(line) <= (width or 1000) for line in text.splitlines())


def test_limits_are_those_of_the_policy() -> None:
    """Under p95 only the percentile and coverage have a limit."""
    text = shown([candidate()], P95)
    assert len(re.findall("≤", line_of(text, "VM  "))) == 1
    assert "≤ 5%" in text


def test_piped_output_has_no_colours_and_cuts_nothing() -> None:
    """Lines may have any length there, so that names and ids stay whole."""
    long_id, name = "a" * 64, "n" * 300
    text = shown([candidate(vm_id=long_id, name=name)])
    assert long_id in text
    assert name in text
    assert "\x1b" not in text


def test_a_long_id_is_folded_not_cut_on_a_narrow_terminal() -> None:
    """64 characters do not fit 80 columns beside the figures: both halves are there."""
    vm_id = "".join(f"{place:04d}" for place in range(16))
    text = shown([candidate(vm_id=vm_id)], width=80)
    parts = re.findall(r"^(?:1| ) (\d{4,})", text, re.MULTILINE)
    assert "".join(parts) == vm_id
    assert "…" not in text


def test_a_terminal_gets_colours() -> None:
    """The verdict is coloured where escape sequences are understood."""
    assert "\x1b[" in shown([candidate()], width=140, colour=True)


def test_names_cannot_command_the_terminal() -> None:
    """Escape sequences, line breaks and markup in names are shown, not run."""
    text = shown([candidate(name="\x1b[2J[red]x[/red]\r\nroot", owner="a\x07b")])
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]x[/red]" in line_of(text, "vm-a")
    assert "root" in line_of(text, "vm-a")


@pytest.mark.parametrize("width", [80, 140])
def test_every_verdict_says_why(width: int) -> None:
    """A list of all VMs names each verdict, and the reason where the columns do not show it."""
    words = " ".join(shown(one_of_each(), width=width).split())
    for part in ("idle", "active", "silent since", "runs no agent", "excluded by tag"):
        assert part in words


def test_totals_say_what_is_listed_and_what_there_is() -> None:
    """Below the list: how many of how many, what is reclaimable, and the fleet by verdict with causes."""
    text = shown([*one_of_each(), candidate(vm_id="vm-2")], verdict=Verdict.IDLE, top=1)
    assert "Listed 1 of 2 VMs that are idle. --top N lists more" in text
    assert "Reclaimable: 8 vCPU and 16.0 GiB of memory in 2 idle VMs." in text
    assert "Fleet: 6 VMs: 2 idle, 1 active, 2 insufficient data (1 runs no agent, 1 silent), 1 excluded." in text
    assert "vm-2" in text
    assert "vm-idle" not in text


def test_unknown_sizes_are_told() -> None:
    """A sum that leaves something out says so, and the VM's own size is a dash."""
    text = shown([candidate(summary=summary(cpu_count=None))])
    assert "the size of 1 is not fully known" in text
    assert " – " in line_of(text, "vm-a")


def test_a_figure_just_beyond_its_limit_does_not_look_like_it() -> None:
    """10.04 % is not shown as 10 % below a limit of 10 %."""
    text = shown([candidate(window=window({**LOW, "mem_used_mean_ratio": 0.10004}))])
    assert "10.004%" in line_of(text, "vm-a")


def test_an_empty_fleet_tells_what_to_do() -> None:
    """Without VMs there is no table but the next step."""
    assert "join-token" in shown([])


def test_no_idle_vm_still_has_totals() -> None:
    """A fleet in use is an answer, not an error."""
    text = shown([candidate(power_state="off")], verdict=Verdict.IDLE)
    assert "Listed 0 of 0 VMs that are idle." in text
    assert "1 powered off" in text
