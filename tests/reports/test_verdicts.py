"""From one VM to its verdict, cause by cause."""

from __future__ import annotations

import math
from typing import Any

import pytest

from reports.candidates import DAY_S, Candidate
from reports.policies import CLASSIC, P95
from reports.verdicts import Cause, Judgement, Limits, Verdict, judge
from tests.reports.fleets import DAYS, LOW, NEWEST_S, NOW_S, START_S, candidate, summary, window

LENGTH_S = NEWEST_S - START_S


def judged(one: Candidate, limits: Limits | None = None) -> Judgement:
    return judge(one, CLASSIC, limits or Limits(), now_s=NOW_S)


@pytest.mark.parametrize(
    ("changes", "cause", "words"),
    [
        ({}, Cause.IDLE, "mean CPU 2% (at most 10%)"),
        ({"window": window({**LOW, "mem_used_mean_ratio": 0.3})}, Cause.ACTIVE, "mean memory 30% (above 10%)"),
        ({"tags": ("x", "fallow:keep")}, Cause.TAGGED, "excluded by tag fallow:keep"),
        ({"power_state": "off"}, Cause.POWERED_OFF, "powered off"),
        ({"power_state": "on"}, Cause.IDLE, "idle"),
        ({"summary": None, "window": None, "enrolled_s": None}, Cause.NO_AGENT, "runs no agent"),
        ({"summary": None, "window": None}, Cause.NEVER_REPORTED, "never reported"),
        ({"summary": summary(newest_s=NOW_S - 7200)}, Cause.SILENT, "silent since 2026-11-18 09:06 UTC"),
        ({"summary": summary(skew_s=-7200.0)}, Cause.CLOCK_SKEW, "off by 2 h (above 2 min)"),
        ({"summary": summary(flags=("clock_skew",))}, Cause.CLOCK_SKEW, "flagged the VM's clock"),
        ({"summary": summary(flags=("identity_conflict",))}, Cause.FLAGGED, "identity conflict"),
        ({"summary": summary(flags=("store_replaced",))}, Cause.FLAGGED, "store replaced"),
        ({"window": None}, Cause.NO_WINDOW, "no figures yet"),
        (
            {"summary": summary(oldest_s=NEWEST_S - DAY_S), "window": window(covered_s=DAY_S)},
            Cause.TOO_NEW,
            "too new: first sample 2026-11-17",
        ),
        ({"window": window(covered_s=LENGTH_S // 2)}, Cause.GAPS, "gaps: samples cover 50% (less than 95%) of 14 days"),
        ({"window": window({**LOW, "disk_used_mean_ratio": None})}, Cause.MISSING_FIGURE, "mean disk was not measured"),
    ],
    ids=lambda value: value.name if isinstance(value, Cause) else None,
)
def test_each_cause(changes: dict[str, Any], cause: Cause, words: str) -> None:
    """Each cause is found, and its sentence says in plain words what decided."""
    judgement = judged(candidate(**changes))
    assert judgement.cause is cause
    assert judgement.verdict is cause.verdict
    assert words in judgement.reason


def test_causes_are_tried_in_the_order_of_the_list() -> None:
    """Of several causes the earlier one is named: what a person decided, then whether it lives, then its figures."""
    gaps, silent = window({}, covered_s=0), summary(newest_s=0, skew_s=500.0, flags=("store_replaced",))
    everything = {"tags": ("fallow:keep",), "power_state": "off", "summary": silent, "window": gaps}
    assert judged(candidate(**everything)).cause is Cause.TAGGED
    assert judged(candidate(**{**everything, "tags": ()})).cause is Cause.POWERED_OFF
    assert judged(candidate(summary=silent, window=gaps)).cause is Cause.SILENT
    assert judged(candidate(summary=summary(skew_s=500.0, flags=("other",)), window=gaps)).cause is Cause.CLOCK_SKEW
    assert judged(candidate(summary=summary(flags=("other",)), window=gaps)).cause is Cause.FLAGGED
    assert judged(candidate(window=gaps)).cause is Cause.GAPS


def test_silence_begins_beyond_its_limit() -> None:
    """A newest sample exactly as old as the limit is not silent yet; a second older, it is."""
    limits = Limits(silent_after_s=900.0)
    assert judged(candidate(summary=summary(newest_s=NOW_S - 900)), limits).cause is Cause.IDLE
    assert judged(candidate(summary=summary(newest_s=NOW_S - 901)), limits).cause is Cause.SILENT


def test_silence_is_told_with_more_digits_where_words_would_hide_it() -> None:
    """A sentence never says that 1 h is above 1 h."""
    assert "3601 s (above 1 h)" in judged(candidate(summary=summary(newest_s=NOW_S - 3601))).reason


def test_coverage_is_exact_at_its_limit() -> None:
    """95 % of the window is enough, a second less is not; it is measured by the window's own length."""
    enough = math.ceil(0.95 * LENGTH_S)
    assert judged(candidate(window=window(covered_s=enough))).cause is Cause.IDLE
    assert judged(candidate(window=window(covered_s=enough - 1))).cause is Cause.GAPS
    assert judged(candidate(window=window(start_s=NEWEST_S))).cause is Cause.GAPS


def test_too_new_begins_after_five_percent_of_the_window() -> None:
    """A window that began late is too new; the same gap in an older VM's window is a gap."""
    late_s = DAYS * DAY_S // 20
    gap = window(covered_s=LENGTH_S // 2)
    assert judged(candidate(summary=summary(oldest_s=START_S + late_s), window=gap)).cause is Cause.GAPS
    assert judged(candidate(summary=summary(oldest_s=START_S + late_s + 1), window=gap)).cause is Cause.TOO_NEW


def test_excluding_tags_are_compared_whole() -> None:
    """A tag that merely contains the excluding one excludes nothing; without such tags nothing is excluded."""
    assert judged(candidate(tags=("not-fallow:keep",))).cause is Cause.IDLE
    assert judged(candidate(tags=("fallow:keep",)), Limits(exclude_tags=())).cause is Cause.IDLE


def test_figures_of_a_vm_without_samples_are_missing_and_not_ok() -> None:
    """A figure that does not exist is None beside its limit and never passes."""
    figures = judged(candidate(summary=None, window=None)).figures
    assert [figure.value for figure in figures] == [None] * 6
    assert not any(figure.ok for figure in figures)


def test_the_evidence_of_silence_and_clock_stands_beside_limits() -> None:
    """Age of the newest sample and clock skew are figures too, the skew without its sign."""
    figures = {figure.name: figure for figure in judged(candidate(summary=summary(skew_s=-130.0))).figures}
    assert (figures["newest_age_s"].value, figures["newest_age_s"].limit, figures["newest_age_s"].ok) == (
        300,
        3600,
        True,
    )
    assert (figures["clock_skew_s"].value, figures["clock_skew_s"].limit, figures["clock_skew_s"].ok) == (
        130,
        120,
        False,
    )


def test_p95_forgives_a_mean_that_classic_does_not() -> None:
    """Each policy looks at its own figures alone."""
    one = candidate(window=window({"cpu_busy_p95_ratio": 0.05, "mem_used_mean_ratio": 0.9}))
    assert judge(one, P95, Limits(), now_s=NOW_S).verdict is Verdict.IDLE
