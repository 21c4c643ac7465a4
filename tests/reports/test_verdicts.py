"""Which verdict a VM gets, why, what it frees and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from reports.facts import DAY_S, Vm
from reports.policies import POLICIES
from reports.policy import Policy, at_most
from reports.timetable import WEEK_HOURS
from reports.verdicts import Cause, Judged, Limits, Settings, Verdict, judge
from tests.reports.columns import GIB, NOW_S, QUIET, evidence, facts

CPU = Policy(name="cpu", summary="", source="", idle_when=at_most("cpu_busy.mean", 0.1))
BUSY: Mapping[str, float] = {**QUIET, "cpu_busy_mean_ratio": 0.5, "cpu_busy_p95_ratio": 0.9, "mem_used_max_ratio": 0.9}
# Little CPU and memory, but more than its policy allows.
ROOMY: Mapping[str, float] = {**BUSY, "cpu_busy_p95_ratio": 0.1, "mem_used_max_ratio": 0.2}
OFFICE = [0.4 if day < 5 and 9 <= hour < 17 else 0.005 for day in range(7) for hour in range(24)]


def judged(
    columns: Mapping[str, float] = QUIET, *, policy: Policy = CPU, exempt: frozenset[str] = frozenset(), **changes: Any
) -> Judged:
    return judge(facts(columns, **changes), policy, Settings(), now_s=NOW_S, exempt=exempt)


def cause(columns: Mapping[str, float] = QUIET, **changes: Any) -> Cause:
    return judged(columns, **changes).cause(0)


def vm(**changes: Any) -> Vm:
    return replace(Vm(vm_id="vm-a", enrolled_s=NOW_S - 90 * DAY_S), **changes)


def test_quiet_busy_and_unknown() -> None:
    """Kept limits are idle, broken ones active, and a missing figure is neither."""
    assert cause() is Cause.IDLE
    assert cause(BUSY) is Cause.ACTIVE
    assert cause({**QUIET, "cpu_busy_mean_ratio": math.nan}) is Cause.MISSING_FIGURE


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        (Cause.TAGGED, {"vm": vm(tags=("fallow:keep",), power_state="off"), "newest_s": math.nan}),
        (Cause.POWERED_OFF, {"vm": vm(power_state="off"), "newest_s": math.nan}),
        (Cause.NO_AGENT, {"vm": vm(enrolled_s=None), "newest_s": math.nan}),
        (Cause.NEVER_REPORTED, {"newest_s": math.nan}),
        (Cause.SILENT, {"newest_s": NOW_S - 3601}),
        (Cause.CLOCK_SKEW, {"skew_s": -121}),
        (Cause.CLOCK_SKEW, {"vm": vm(flags=("clock_skew",))}),
        # This machine's clock was set back.
        (Cause.CLOCK_SKEW, {"newest_s": NOW_S + 121}),
        (Cause.FLAGGED, {"vm": vm(flags=("store_replaced",))}),
        (Cause.NO_WINDOW, {"days": (7,)}),
        (Cause.TOO_NEW, {"history_days": 3}),
        (Cause.GAPS, {"coverage_ratio": 0.9}),
    ],
)
def test_what_keeps_a_quiet_vm_from_being_idle(expected: Cause, changes: Mapping[str, Any]) -> None:
    """The first cause that applies is given, and none of them is idleness."""
    assert cause(**changes) is expected
    assert expected.verdict in {Verdict.EXCLUDED, Verdict.INSUFFICIENT}
    assert judged(**changes).score[0] == 0


def test_exempt_vm_is_excluded() -> None:
    """Somebody asked to keep it."""
    assert cause(exempt=frozenset({"vm-a"})) is Cause.EXEMPT
    assert cause(exempt=frozenset({"vm-b"})) is Cause.IDLE


def test_powered_off_is_told_apart_from_silent() -> None:
    """Both send nothing."""
    late: dict[str, Any] = {"newest_s": NOW_S - DAY_S}
    assert cause(**late, vm=vm(power_state="off")) is Cause.POWERED_OFF
    assert cause(**late, vm=vm(power_state="on")) is Cause.SILENT


def test_a_vm_that_sends_is_on() -> None:
    """Whatever an inventory said once."""
    assert cause(vm=vm(power_state="off")) is Cause.IDLE


def test_age_is_that_which_the_policy_asks_for() -> None:
    """A week is a week."""
    week = replace(CPU, idle_when=at_most("cpu_busy.mean", 0.1, days=1), min_age_days=7)
    settings = Settings(window_days=1)
    for days, expected in ((6.9, Cause.TOO_NEW), (7.0, Cause.IDLE)):
        assert judge(facts(history_days=days), week, settings, now_s=NOW_S).cause(0) is expected


def test_every_window_of_a_policy_must_be_covered() -> None:
    """A policy that looks at 30 days does not judge a VM that is 20 days old, one that looks at 14 does."""
    long = replace(CPU, idle_when=at_most("cpu_busy.mean", 0.1, days=30))
    assert cause(history_days=20) is Cause.IDLE
    assert cause(history_days=20, policy=long) is Cause.TOO_NEW


def test_oversized() -> None:
    """A VM in use that a smaller size would hold frees the difference."""
    found = judged(ROOMY, cpu_count=8, mem_bytes=16 * GIB)
    assert found.cause(0) is Cause.OVERSIZED
    assert (found.freed.vcpus[0], found.freed.mem_bytes[0]) == (6, 12 * GIB)
    assert found.freed.disk_bytes[0] == 0


def test_scheduled() -> None:
    """A VM busy at office hours frees its size for the share of the week in which it could be off."""
    found = judged(BUSY, body=evidence(profile=OFFICE))
    assert found.cause(0) is Cause.SCHEDULED
    assert found.freed.vcpus[0] == pytest.approx(4 * 123 / WEEK_HOURS)


def test_of_two_proposals_the_larger_is_the_verdict() -> None:
    """A VM that is both has one verdict and is counted once."""
    by_hours = judged(ROOMY, body=evidence(profile=OFFICE), cpu_count=2, mem_bytes=2 * GIB)
    assert by_hours.cause(0) is Cause.SCHEDULED
    by_size = judged({**ROOMY, "cpu_busy_p95_ratio": 0.01}, body=evidence(profile=OFFICE), cpu_count=32)
    assert by_size.cause(0) is Cause.OVERSIZED
    assert by_size.freed.vcpus[0] == 31


def test_idle_frees_the_whole_vm() -> None:
    """Its vCPUs, its memory and its disk."""
    freed = judged().freed
    assert (freed.vcpus[0], freed.mem_bytes[0], freed.disk_bytes[0]) == (4, 8 * GIB, 40 * GIB)


def test_active_frees_nothing() -> None:
    """Nor has it a score."""
    found = judged(BUSY)
    assert not any(part[0] for part in found.freed)
    assert found.score[0] == found.confidence_ratio[0] == 0


def test_confidence_by_hand() -> None:
    """Four weeks, no gap, far inside: 1. At the limit, half of the margin's part. New: half of the age's part."""
    assert judged().confidence_ratio[0] == 1
    assert judged({**QUIET, "cpu_busy_mean_ratio": 0.1}).confidence_ratio[0] == 0.5
    assert judged(history_days=14).confidence_ratio[0] == 0.75


def test_score_is_capacity_by_confidence() -> None:
    """4 vCPU and 8 GiB count as 6 vCPU."""
    assert judged().score[0] == 6
    assert judged(history_days=14).score[0] == 4.5


def test_silence_is_measured_from_now() -> None:
    """The limit itself is not beyond it."""
    assert cause(newest_s=NOW_S - 3600) is Cause.IDLE


def test_tags_that_exclude_are_configured() -> None:
    """Without any, the usual one is a tag like others."""
    settings = Settings(limits=Limits(exclude_tags=()))
    found = judge(facts(vm=vm(tags=("fallow:keep",))), CPU, settings, now_s=NOW_S)
    assert found.cause(0) is Cause.IDLE


def test_no_policy_calls_a_vm_without_figures_idle() -> None:
    """Not measured is never zero use."""
    for policy in POLICIES.values():
        assert cause({}, policy=policy).verdict is Verdict.INSUFFICIENT, policy.name


def test_logins_and_bursts_count_as_use() -> None:
    """Under our own policy a VM without CPU is in use while people are logged in, or its moments are busy."""
    ours = POLICIES["fallow-balanced"]
    body = evidence(cpu_s={0.0: 86_400}, daily_bytes=[0] * 14)
    assert cause(policy=ours, body=body) is Cause.IDLE
    assert cause(policy=ours, body=body, users_ratio=0.1).verdict is not Verdict.IDLE
    assert cause({**QUIET, "cpu_max_p95_ratio": 0.9}, policy=ours, body=body).verdict is not Verdict.IDLE


def test_verdicts_are_disjoint() -> None:
    """Each code is one cause, and what is freed belongs to it alone."""
    found = judged(ROOMY, body=evidence(profile=OFFICE))
    assert sum(int(found.of(each)[0]) for each in Cause) == 1
    assert np.count_nonzero([part[0] for part in found.freed]) == 2
