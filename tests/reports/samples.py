"""A small report of every verdict, made by the real core from columns: what the tests of outputs show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from reports.explain import explain
from reports.facts import Facts, Vm
from reports.judgement import Judgement, Savings
from reports.policies import DEFAULT_POLICY, find_policy
from reports.report import RECLAIMABLE, Changes, Listed, Question, Report, Totals
from reports.savings import Prices
from reports.verdicts import CAUSES, Settings, judge
from tests.reports import columns

NOW_S = columns.NOW_S
GIB = columns.GIB
ENROLLED_S = NOW_S - 90 * 86_400
PRICES = Prices(currency="EUR", vcpu_hour=0.02, mem_gib_hour=0.003, disk_gib_month=0.04, kwh=0.25)
BERLIN = ZoneInfo("Europe/Berlin")
UNPRICED = Settings()
OFFICE = [0.35 if hour // 24 < 5 and 8 <= hour % 24 < 18 else 0.002 for hour in range(168)]
SMALL: Mapping[str, float] = {
    **columns.QUIET,
    "cpu_busy_mean_ratio": 0.003,
    "cpu_busy_p95_ratio": 0.008,
    "cpu_busy_max_ratio": 0.04,
    "mem_used_mean_ratio": 0.12,
    "mem_used_p95_ratio": 0.13,
    "mem_used_max_ratio": 0.2,
    "net_io_mean_bytes_per_s": 310.0,
    "disk_io_mean_bytes_per_s": 2_400.0,
}
BUSY: Mapping[str, float] = {
    **SMALL,
    "cpu_busy_mean_ratio": 0.31,
    "cpu_busy_p95_ratio": 0.72,
    "cpu_busy_max_ratio": 0.98,
    "mem_used_mean_ratio": 0.6,
    "mem_used_p95_ratio": 0.7,
    "mem_used_max_ratio": 0.8,
    "net_io_mean_bytes_per_s": 2.2e6,
}
WIDE: Mapping[str, float] = {**BUSY, "cpu_busy_p95_ratio": 0.12, "cpu_busy_mean_ratio": 0.09, "mem_used_max_ratio": 0.3}


def fleet() -> list[Facts]:
    """Nine VMs, one a set of facts."""
    idle_cpu = {0.002: 13 * 86_400, 0.04: 7200}
    busy_cpu = {0.3: 9 * 86_400, 0.9: 5 * 86_400}
    return [
        columns.facts(
            SMALL,
            vm=vm("vm-01", name="build-07", owner="ann@example.org", tags=("team:web", "host:h1")),
            body=columns.evidence(cpu_s=idle_cpu, profile=[0.003] * 168, daily_bytes=[20_000_000] * 14),
            cpu_count=8,
            mem_bytes=32 * GIB,
        ),
        columns.facts(
            SMALL,
            vm=vm("vm-02", name="<script>alert(1)</script>", owner="Bob & Söhne", tags=("<b>x</b>",)),
            body=columns.evidence(cpu_s=idle_cpu, profile=[0.001] * 80 + [0.03] * 88),
        ),
        columns.facts(
            {**BUSY, "cpu_busy_mean_ratio": 0.11, "cpu_busy_p95_ratio": 0.5},
            vm=vm("vm-03", name="office-db", hostname="db3.example.org", owner="carla"),
            body=columns.evidence(cpu_s=busy_cpu, profile=OFFICE),
            cpu_count=16,
            mem_bytes=64 * GIB,
        ),
        columns.facts(
            WIDE,
            vm=vm("vm-04", name="report-gen", owner="dmitri"),
            body=columns.evidence(cpu_s=busy_cpu, profile=[0.08] * 168),
            cpu_count=16,
            mem_bytes=64 * GIB,
        ),
        columns.facts(BUSY, vm=vm("vm-05", name="shop"), body=columns.evidence(cpu_s=busy_cpu, profile=[0.3] * 168)),
        columns.facts(SMALL, vm=vm("vm-06", name="new-one", owner="ann@example.org"), history_days=3),
        columns.facts({}, vm=Vm(vm_id="vm-07", name="bare"), newest_s=np.nan, coverage_ratio=np.nan),
        columns.facts(SMALL, vm=vm("vm-08", name="kept-by-tag", tags=("fallow:keep",))),
        columns.facts(
            SMALL,
            vm=vm("vm-09", name="of-unknown-size"),
            body=columns.evidence(cpu_s=idle_cpu),
            cpu_count=np.nan,
            mem_bytes=np.nan,
        ),
    ]


def vm(vm_id: str, **changes: Any) -> Vm:
    """An enrolled VM."""
    return Vm(vm_id=vm_id, enrolled_s=ENROLLED_S, **changes)


def judgements(facts: Sequence[Facts], question: Question, exempt: Mapping[str, str] | None = None) -> list[Judgement]:
    """Each VM judged and explained."""
    found: list[Judgement] = []
    for each in facts:
        judged = judge(each, question.policy, question.settings, now_s=question.now_s, exempt=frozenset(exempt or ()))
        found += explain(each, judged, question.policy, question.settings, now_s=question.now_s, kept=exempt)
    return found


def question(**changes: Any) -> Question:
    """All VMs, by the default policy, with prices."""
    values: dict[str, Any] = {
        "policy": find_policy(DEFAULT_POLICY),
        "settings": Settings(prices=PRICES),
        "now_s": float(NOW_S),
        "reclaimable": False,
    }
    return Question(**{**values, **changes})


def report(
    facts: Sequence[Facts] | None = None, asked: Question | None = None, *, changes: Changes | None = None
) -> Report:
    """Of these VMs, or of `fleet()`: the reclaimable ones first, by score."""
    asked = asked or question()
    found = judgements(fleet() if facts is None else facts, asked)
    found.sort(key=lambda one: (one.verdict not in RECLAIMABLE, -one.score, one.vm.vm_id))
    listed = [one for one in found if one.verdict in RECLAIMABLE or not asked.reclaimable][: asked.top]
    ranked = sum(one.verdict in RECLAIMABLE for one in listed)
    return Report(
        question=asked,
        judged_s=asked.now_s,
        totals=totals(found, priced=asked.settings.prices.currency is not None),
        listed=tuple(
            Listed(rank=place if place <= ranked else None, judgement=one) for place, one in enumerate(listed, 1)
        ),
        matching=len([one for one in found if one.verdict in RECLAIMABLE or not asked.reclaimable]),
        changes=changes,
    )


def totals(found: Sequence[Judgement], *, priced: bool) -> Totals:
    """Of the whole fleet, summed one VM at a time."""
    freed = {}
    for verdict in RECLAIMABLE:
        parts = [one.savings for one in found if one.verdict is verdict]
        sums = {name: sum(getattr(part, name) or 0.0 for part in parts) for name in Savings.__dataclass_fields__}
        freed[verdict] = replace(Savings(**sums), money_per_month=sums["money_per_month"] if priced else None)
    return Totals(
        by_cause={cause: sum(one.cause is cause for one in found) for cause in CAUSES},
        freed=freed,
        unknown_size=sum(one.verdict in RECLAIMABLE and one.size is None for one in found),
    )


CHANGES = Changes(
    since_s=NOW_S - 7 * 86_400.0,
    reclaimed=3,
    kept=2,
    objected=1,
    realised=Savings(vcpus=12, mem_bytes=48.0 * GIB, disk_bytes=100.0 * GIB, kwh_per_month=20.0, money_per_month=310.0),
)
