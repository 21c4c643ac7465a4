"""Which VMs an exemption holds for, until when, and what is no exemption."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from fnmatch import fnmatchcase
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reports.exemptions import (
    MAX_AHEAD_S,
    AmbiguousVm,
    Exemption,
    ExemptionIndex,
    ExemptionKind,
    ExemptionRefused,
    check_until,
    checked_text,
    parse_until,
)

NOW_S = 1_795_000_000.0
# Their clocks change at midnight or did: the hour 00 of some days is skipped, that of others is there twice.
ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "America/Havana", "Asia/Beirut", "America/St_Johns")]


def exemption(**changes: Any) -> Exemption:
    values: dict[str, Any] = {
        "id": "1",
        "kind": ExemptionKind.VM,
        "subject": "vm-a",
        "reason": "audit",
        "owner": "ann",
        "created_s": NOW_S,
        "until_s": NOW_S + 1,
    }
    return Exemption(**{**values, **changes})


@dataclass(frozen=True)
class Machine:
    vm_id: str
    name: str | None
    hostname: str | None
    tags: tuple[str, ...]


def scanned(exemptions: Sequence[Exemption], vm: Machine) -> Exemption | None:
    """What the index must answer, by looking at every exemption."""

    def holds(one: Exemption) -> bool:
        match one.kind:
            case ExemptionKind.VM:
                return one.subject == vm.vm_id
            case ExemptionKind.TAG:
                return one.subject in vm.tags
            case ExemptionKind.NAME:
                texts = [text for text in (vm.vm_id, vm.name, vm.hostname) if text]
                return any(fnmatchcase(text.casefold(), one.subject.casefold()) for text in texts)

    kinds = list(ExemptionKind)
    holding = [one for one in exemptions if holds(one)]
    return min(holding, key=lambda one: (kinds.index(one.kind), -one.until_s, one.id), default=None)


# Few letters and short texts, so that much of it fits.
WORDS = st.text("abAß", min_size=1, max_size=3)
PATTERNS = st.text("abAB*?[]!-.\\", min_size=1, max_size=5) | st.sampled_from(
    ["*", "a*", "*b", "?", "[ab]?", "STRASSE"]
)
EXEMPTIONS = st.lists(
    st.builds(
        exemption,
        id=st.text("0123456789abcdef", min_size=8, max_size=8),
        kind=st.sampled_from(ExemptionKind),
        subject=WORDS | PATTERNS,
        until_s=st.sampled_from([NOW_S + 1, NOW_S + 2, NOW_S + 3]),
    ),
    unique_by=lambda one: one.id,
    max_size=12,
)
MACHINES = st.builds(
    Machine,
    vm_id=WORDS,
    name=st.none() | WORDS | st.just("Straße"),
    hostname=st.none() | WORDS | st.just(""),
    tags=st.lists(WORDS, max_size=3).map(tuple),
)


@given(EXEMPTIONS, st.lists(MACHINES, max_size=5))
def test_the_index_answers_as_a_scan_does(exemptions: list[Exemption], vms: list[Machine]) -> None:
    """For any exemptions and any VM: the same one, or none, as when each exemption is looked at in turn."""
    index = ExemptionIndex(exemptions)
    for vm in vms:
        assert index.match(vm.vm_id, vm.name, vm.hostname, vm.tags) == scanned(exemptions, vm)


@pytest.mark.parametrize("text", ["build-7", "BUILD-7", "Build-7.example.org"])
def test_a_pattern_fits_names_host_names_and_ids(text: str) -> None:
    """Whichever of the three it is that fits, in whatever case; as a whole and not in part."""
    by_name = exemption(kind=ExemptionKind.NAME, subject="build-?*")
    index = ExemptionIndex([by_name])
    assert index.match(text, None, None, ()) == by_name
    assert index.match("x", text, None, ()) == by_name
    assert index.match("x", None, text, ()) == by_name
    assert index.match(f"re{text}", f"re{text}", f"re{text}", ()) is None


def test_nothing_is_kept_by_no_exemption() -> None:
    """An empty index lets every VM go."""
    assert ExemptionIndex([]).match("a", "a", "a", ["a"]) is None


@pytest.mark.parametrize(
    ("changes", "holds"),
    [({}, True), ({"until_s": NOW_S}, False), ({"until_s": NOW_S - 1}, False), ({"ended_s": NOW_S - 1}, False)],
)
def test_an_exemption_holds_until_it_expires_or_is_ended(changes: dict[str, float], holds: bool) -> None:
    """At the second it expires it holds no more."""
    assert exemption(**changes).is_in_force(NOW_S) is holds


@given(
    st.dates(date(1990, 1, 1), date(2090, 1, 1)),
    st.sampled_from(ZONES),
    st.times(),
    st.sampled_from([0, 1]),
)
@example(date(2010, 11, 6), ZONES[4], time(23, 59), 1)  # a minute into the next day it is 23:01 of this one again
@example(date(2016, 11, 5), ZONES[2], time(), 0)  # the next day has its first hour twice
@example(date(2023, 3, 29), ZONES[3], time(23), 0)  # the next day has no first hour
def test_a_day_is_over_when_it_is_over_where_it_was_said(day: date, zone: ZoneInfo, at: time, fold: int) -> None:
    """The last second is of that day, the next is not, and no moment of the day in that zone comes later."""
    until_s = parse_until(day.isoformat(), now_s=NOW_S, zone=zone)
    assert datetime.fromtimestamp(until_s, zone).date() == day
    assert datetime.fromtimestamp(until_s + 1, zone).date() == day + timedelta(days=1)
    moment_s = datetime.combine(day, at, zone).replace(fold=fold, microsecond=0).timestamp()
    if datetime.fromtimestamp(moment_s, zone).date() == day:
        assert moment_s <= until_s


@given(st.datetimes(), st.integers(-899 * 60, 899 * 60), st.sampled_from(ZONES))
def test_a_time_is_that_time(moment: datetime, offset_s: int, zone: ZoneInfo) -> None:
    """With an offset the zone does not matter; without, it is a time of the zone.

    Whole seconds of offset: Python 3.11 reads an offset below one second as UTC.
    """
    there = moment.replace(tzinfo=timezone(timedelta(seconds=offset_s)))
    assert parse_until(there.isoformat(), now_s=NOW_S, zone=zone) == there.timestamp()
    assert parse_until(moment.isoformat(), now_s=NOW_S, zone=zone) == moment.replace(tzinfo=zone, fold=0).timestamp()


@given(st.integers(1, 10_000), st.sampled_from([("min", 60), ("h", 3_600), ("d", 86_400), ("w", 604_800)]))
def test_a_duration_counts_from_now(count: int, unit: tuple[str, int]) -> None:
    """`30d` ends thirty times 24 hours after now, in any zone."""
    assert parse_until(f"{count}{unit[0]}", now_s=NOW_S, zone=ZONES[1]) == NOW_S + count * unit[1]


@given(st.text() | st.text("0123456789-:TWdZ+. "), st.sampled_from(ZONES))
def test_any_other_text_is_refused_in_words(text: str, zone: ZoneInfo) -> None:
    """Whatever people type is a finite time or a ValueError that repeats it: nothing else ever."""
    try:
        until_s = parse_until(text, now_s=NOW_S, zone=zone)
    except ValueError as error:
        until_s, said = 0.0, str(error)
    else:
        said = repr(text)
    assert math.isfinite(until_s)
    assert said.startswith(repr(text))


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2026-13-01", "2026-12-31T25:00", "30", "-3d", "0d", "2026-02-30", "2026-12-31 d"]
)
def test_what_is_no_date_is_refused(text: str) -> None:
    """Nothing is guessed: a number without a unit is no duration, a day that is not on the calendar no date."""
    with pytest.raises(ValueError, match="is not a date"):
        parse_until(text, now_s=NOW_S)


@pytest.mark.parametrize(
    ("ahead_s", "problem"),
    [
        (-1.0, "is past"),
        (0.0, "is past"),
        (math.nan, "is past"),
        (MAX_AHEAD_S + 1, "more than ten years ahead"),
        (math.inf, "more than ten years ahead"),
    ],
)
def test_an_end_is_ahead_and_not_too_far(ahead_s: float, problem: str) -> None:
    """What is over, or as good as for ever, is refused; just within is not."""
    with pytest.raises(ExemptionRefused, match=problem):
        check_until(NOW_S + ahead_s, NOW_S)
    check_until(NOW_S + 1, NOW_S)
    check_until(NOW_S + MAX_AHEAD_S, NOW_S)


@pytest.mark.parametrize("text", ["", "  ", "a\x1b[31mb", "a\nb", "a\x00", "x" * 257, "\udcff"])
def test_texts_are_there_and_can_be_printed(text: str) -> None:
    """Nothing, a line that would colour a terminal, and what no database takes are refused by name."""
    with pytest.raises(ExemptionRefused, match=r"^reason: "):
        checked_text("reason", text)
    assert checked_text("reason", " an audit ") == "an audit"


def test_an_ambiguous_name_names_ids_but_not_thousands() -> None:
    """The ids are there to choose from, in order, and a name of all VMs does not fill the screen."""
    assert "2 VMs (a, b)" in str(AmbiguousVm("web", ["b", "a"]))
    many = AmbiguousVm("localhost", [f"vm-{number:04}" for number in range(1_000)])
    assert "1,000 VMs (vm-0000, vm-0001," in str(many)
    assert str(many).count("vm-") == 10
    assert "and 990 more" in str(many)
