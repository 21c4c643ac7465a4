"""One fleet by several policies."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.compare import Comparison, compare
from reports.compare_fleet import compare_fleet
from reports.compare_render import to_csv, to_json, to_text
from reports.exemption_table import Exemptions
from reports.exemptions import ExemptionKind
from reports.facts import Facts
from reports.policies import POLICIES
from reports.policy import Policy, below
from reports.report import RECLAIMABLE
from reports.savings import Prices
from reports.schema import open_report_db
from reports.verdicts import Cause, Judged, Settings, Verdict, judge
from tests.reports.fleets import (
    ASLEEP,
    BUSY,
    NOW_S,
    OFFICE,
    OVERSIZED,
    SPIKY,
    Constant,
    Load,
    Spec,
    empty_fleet,
    facts_of,
    one_of_each,
    stored,
    write_fleet,
)

PRICED = Settings(prices=Prices(currency="EUR", vcpu_hour=0.02, mem_gib_hour=0.003))
# The limits of others do not change; our own may.
THREE = tuple(POLICIES[name] for name in ("google", "p95", "classic"))
NAMES = [policy.name for policy in THREE]
HALF_BUSY = Load(cpu=Constant(0.04))


def chunk(specs: Sequence[Spec], policies: Sequence[Policy], settings: Settings = PRICED) -> tuple[Facts, list[Judged]]:
    facts = facts_of(specs)
    return facts, [judge(facts, policy, settings, now_s=NOW_S) for policy in policies]


def compared(specs: Sequence[Spec], policies: Sequence[Policy] = THREE, *, top: int = 10) -> Comparison:
    return compare([chunk(specs, policies)], policies, PRICED, now_s=NOW_S, top=top)


@cache
def cause_of(spec: Spec, policy: Policy) -> tuple[Cause, float]:
    """One VM's cause, and what it frees in vCPUs, judged alone."""
    _, (judged,) = chunk([spec], [policy])
    return judged.cause(0), float(judged.freed.vcpus[0])


specs_drawn = st.lists(
    st.tuples(
        st.sampled_from([ASLEEP, BUSY, OFFICE, OVERSIZED, SPIKY, HALF_BUSY, None]),
        st.sampled_from([2, 10, 42]),
        st.sampled_from([None, 1, 8]),
        st.sampled_from([(), ("fallow:keep",)]),
    ),
    max_size=12,
).map(
    lambda rows: [
        Spec(vm_id=f"vm-{place:02}", load=load, history_days=days, vcpus=vcpus, tags=tags)
        for place, (load, days, vcpus, tags) in enumerate(rows)
    ]
)


@given(specs_drawn, st.integers(1, 12), st.integers(0, 3))
def test_it_is_the_sum_of_its_vms(specs: list[Spec], size: int, top: int) -> None:
    """Totals, agreement and disputes are those of VMs judged one by one, however the fleet comes in chunks."""
    chunks = [chunk(specs[start : start + size], THREE) for start in range(0, len(specs), size)]
    comparison = compare(chunks, THREE, PRICED, now_s=NOW_S, top=top)
    causes = [[cause_of(spec, policy)[0] for policy in THREE] for spec in specs]
    assert comparison.vms == len(specs)
    for place, (line, policy) in enumerate(zip(comparison.lines, THREE, strict=True)):
        mine = [row[place] for row in causes]
        assert line.policy is policy
        assert line.totals.by_cause == {cause: mine.count(cause) for cause in Cause}
        for verdict in RECLAIMABLE:
            freed = [
                cause_of(spec, policy)[1]
                for spec, row in zip(specs, causes, strict=True)
                if row[place].verdict is verdict
            ]
            assert line.totals.freed[verdict].vcpus == pytest.approx(
                sum(0 if math.isnan(one) else one for one in freed)
            )
        assert line.totals.unknown_size == sum(
            row[place].verdict in RECLAIMABLE and spec.vcpus is None for spec, row in zip(specs, causes, strict=True)
        )
        for other in range(len(THREE)):
            assert comparison.idle_by_both[place][other] == sum(
                row[place] is Cause.IDLE and row[other] is Cause.IDLE for row in causes
            )
    pairs = {
        spec.vm_id: sum(one.verdict is not two.verdict for one, two in combinations(row, 2))
        for spec, row in zip(specs, causes, strict=True)
    }
    assert comparison.disputed_vms == sum(count > 0 for count in pairs.values())
    assert len(comparison.disputed) == min(top, comparison.disputed_vms)
    for one in comparison.disputed:
        assert one.differing_pairs == pairs[one.vm.vm_id]
        assert one.causes == tuple(causes[int(one.vm.vm_id.removeprefix("vm-"))])
    shown = [(-one.differing_pairs, -one.at_stake, one.vm.vm_id) for one in comparison.disputed]
    assert shown == sorted(shown)
    least = min((one.differing_pairs for one in comparison.disputed), default=0)
    named = {one.vm.vm_id for one in comparison.disputed}
    assert all(count <= least for vm_id, count in pairs.items() if vm_id not in named) or top == 0


def test_the_larger_of_equally_disputed_vms_comes_first() -> None:
    """Among VMs on which as many policies differ, the one with more to give back is named, then the lower id."""
    specs = [Spec(vm_id=name, load=HALF_BUSY, vcpus=vcpus) for name, vcpus in (("c", 2), ("b", 8), ("a", 2))]
    comparison = compared(specs, top=2)
    assert comparison.disputed_vms == 3
    assert [one.vm.vm_id for one in comparison.disputed] == ["b", "a"]


def test_it_counts_who_calls_a_vm_idle() -> None:
    """A VM that two of three policies call idle says so, with each policy's cause in their order."""
    (disputed,) = compared([Spec(load=HALF_BUSY)]).disputed
    assert disputed.causes == (Cause.OVERSIZED, Cause.IDLE, Cause.OVERSIZED)
    assert (disputed.idle_by, disputed.differing_pairs) == (1, 2)


def test_a_window_that_is_not_kept_is_named() -> None:
    """A policy that looks at a window the aggregator does not keep can judge no VM, and its line says why."""
    policies = (POLICIES["azure"], POLICIES["p95"])
    comparison = compare([], policies, Settings(), now_s=NOW_S, top=1, kept_days=(1, 7, 14))
    assert [line.missing_days for line in comparison.lines] == [(3,), ()]
    assert "azure can judge no VM: the aggregator keeps no window of 3 d." in to_text(
        comparison, width=None, colour=False
    )


def test_a_fleet_without_a_vm_is_compared_too() -> None:
    """Nothing is nothing by every policy, in every form of output."""
    engine = empty_fleet()
    comparison = compare_fleet(engine, THREE, Settings(), now_s=NOW_S, top=5)
    engine.dispose()
    assert comparison.vms == comparison.disputed_vms == 0
    assert comparison.idle_by_both == ((0, 0, 0),) * 3
    assert "0 VMs" in to_text(comparison, width=80, colour=False)
    assert json.loads(to_json(comparison))["disputed"] == []
    assert len(to_csv(comparison).splitlines()) == 1 + len(THREE)


def test_a_stored_fleet_gives_the_same_as_its_facts() -> None:
    """What the fleet database holds is compared as the same VMs are in memory, exemptions counted."""
    specs = [*one_of_each(), Spec(vm_id="vm-spiky", load=SPIKY)]
    policies = tuple(POLICIES.values())
    engine = stored(specs)
    read = compare_fleet(engine, policies, PRICED, now_s=NOW_S, top=50)
    facts = facts_of(sorted(specs, key=lambda spec: spec.vm_id))
    judged = [judge(facts, policy, PRICED, now_s=NOW_S) for policy in policies]
    assert read == compare([(facts, judged)], policies, PRICED, now_s=NOW_S, top=50)
    engine.dispose()


def test_exempt_vms_are_excluded_by_every_policy(tmp_path: Path) -> None:
    """A VM that somebody keeps is idle by none until that expires."""
    write_fleet(tmp_path, [Spec(vm_id="vm-a"), Spec(vm_id="vm-b")])
    engine = open_report_db(None, tmp_path)
    Exemptions(engine).add(ExemptionKind.VM, "vm-a", reason="audit", owner="ann", until_s=NOW_S + 600, now_s=NOW_S)
    policies = (POLICIES["p95"], POLICIES["optscale"])
    counts = []
    for now_s in (NOW_S, NOW_S + 1200):
        lines = compare_fleet(engine, policies, Settings(), now_s=now_s, top=5).lines
        counts.append([(line.totals.of(Verdict.IDLE), line.totals.by_cause[Cause.EXEMPT]) for line in lines])
    engine.dispose()
    assert counts == [[(1, 1), (1, 1)], [(2, 0), (2, 0)]]


def test_json_says_what_the_comparison_says() -> None:
    """Every number of the comparison is in the JSON under its policy, its VM and its key."""
    comparison = compared([*one_of_each(), Spec(vm_id="vm-half", load=HALF_BUSY, owner="ann")])
    found = json.loads(to_json(comparison))
    assert (found["vms"], found["window_days"], found["currency"]) == (11, 14, "EUR")
    assert [policy["name"] for policy in found["policies"]] == NAMES
    for line, policy, row in zip(comparison.lines, found["policies"], comparison.idle_by_both, strict=True):
        assert {verdict: policy[verdict.value] for verdict in Verdict} == {
            verdict: line.totals.of(verdict) for verdict in Verdict
        }
        assert policy["freed"]["idle"]["money_per_month"] == line.freed_idle.money_per_month
        assert policy["reclaimable"]["vcpus"] == line.totals.freed_together.vcpus
        assert policy["idle_by_both"] == dict(zip(NAMES, row, strict=True))
    half = next(one for one in found["disputed"] if one["vm"] == "vm-half")
    assert half["owner"] == "ann"
    assert half["verdicts"]["p95"] == {"verdict": "idle", "cause": "idle"}


def test_csv_is_a_row_a_policy_and_safe() -> None:
    """A summary that a spreadsheet would run as a formula is defused; the numbers are plain."""
    spiteful = Policy(name="own", summary="=1+1", source="x", idle_when=below("cpu_busy.max", 0.5))
    comparison = compared(one_of_each(), (THREE[0], spiteful))
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert [row["policy"] for row in rows] == [THREE[0].name, "own"]
    assert rows[1]["summary"] == "'=1+1"
    for row, line in zip(rows, comparison.lines, strict=True):
        assert int(row["idle"]) == line.totals.of(Verdict.IDLE)
        assert float(row["idle_vcpus"]) == line.freed_idle.vcpus
        assert float(row["all_money_per_month"]) == line.totals.freed_together.money_per_month
        assert int(row["idle_by_both_own"]) == comparison.idle_by_both[comparison.lines.index(line)][1]


TEXT = """\
fallow, 2026-11-16 12:06 UTC: 12 VMs, window 14 d, judged by 3 policies

                               idle     idle   all      all    all:
                insuf-    ex- frees    frees  free     free     EUR
  policy  idle ficient cluded  vCPU   memory  vCPU   memory a month
1 google     2       5      1    12 16.0 GiB 26.46 76.9 GiB  554.85
2 p95        3       5      1    16 24.0 GiB 27.46 78.9 GiB  573.83
3 classic    0       5      1     0  0.0 GiB 25.13 74.3 GiB  529.55

Idle frees is what the idle VMs alone give back; all frees counts scheduled and oversized VMs too.

VMs that both policies call idle:
  policy  1 2 3
1 google  2 2 0
2 p95     2 3 0
3 classic 0 0 0

3 VMs on which the policies differ; the 2 on which most of them do:
VM      owner    idle by 1 2 3
vm-idle ann       2 of 3 I I o
vm-half ann�[31m  1 of 3 o I o
I idle, s scheduled, o oversized, a active, ? insufficient data, x excluded
"""
MIXED = [*one_of_each(), Spec(vm_id="vm-half", load=HALF_BUSY, owner="ann\x1b[31m"), Spec(vm_id="vm-spiky", load=SPIKY)]


def test_the_text_is_as_people_read_it() -> None:
    """Policies with their numbers, who agrees with whom, and the VMs on which they differ; names move no cursor."""
    assert to_text(compared(MIXED, top=2), width=None, colour=False) == TEXT
    assert "3 VMs on which the policies differ:\n" in to_text(compared(MIXED), width=None, colour=False)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_terminal_gets_what_fits(width: int) -> None:
    """No line is wider than the terminal and no number is cut off; what does not fit is said to be elsewhere."""
    policies = tuple(POLICIES[name] for name in (*NAMES, "aws", "azure", "optscale", "bmc")) * 2
    text = to_text(compared(MIXED, policies), width=width, colour=False)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    words = " ".join(text.split())
    assert ("How many VMs each two policies" in words) == (width < 60)
    assert ("A wider window shows more" in words) == (width < 80)
    assert ("I idle, s scheduled" in words) == (width >= 60)


def test_one_policy_alone_has_nobody_to_differ_from() -> None:
    """Its numbers are there, and no table of agreement with itself."""
    text = to_text(compared(MIXED, THREE[:1]), width=None, colour=False)
    assert "judged by 1 policy\n" in text
    assert "both" not in text
    assert "differ" not in text
