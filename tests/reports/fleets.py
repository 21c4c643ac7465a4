"""Fleets for the tests of the report: rows of the fleet database, and the values they become."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from aggregator import fleet
from reports.candidates import DAY_S, Candidate, Summary, Window
from reports.policies import CLASSIC, Policy
from reports.query import Question
from reports.verdicts import Limits, Verdict

NOW_S = 1_795_000_000
DAYS = 14
NEWEST_S = NOW_S - 300
START_S = NEWEST_S - DAYS * DAY_S
LOW = {
    "cpu_busy_mean_ratio": 0.02,
    "cpu_busy_p95_ratio": 0.04,
    "mem_used_mean_ratio": 0.05,
    "disk_used_mean_ratio": 0.06,
}


def summary(**changes: Any) -> Summary:
    """Of a VM that is a month old and reports."""
    values: dict[str, Any] = {
        "oldest_s": NEWEST_S - 30 * DAY_S,
        "newest_s": NEWEST_S,
        "skew_s": 0.2,
        "flags": (),
        "cpu_count": 4,
        "mem_total_bytes": 8 * 2**30,
    }
    return Summary(**{**values, **changes})


def window(statistics: Mapping[str, float | None] = LOW, **changes: Any) -> Window:
    """A fully covered fortnight of low figures."""
    values: dict[str, Any] = {"days": DAYS, "start_s": START_S, "end_s": NEWEST_S, "covered_s": NEWEST_S - START_S}
    return Window(**{**values, **changes}, statistics=statistics)


def candidate(**changes: Any) -> Candidate:
    """A VM that every policy calls idle."""
    values: dict[str, Any] = {"vm_id": "vm-a", "enrolled_s": START_S, "summary": summary(), "window": window()}
    return Candidate(**{**values, **changes})


def question(policy: Policy = CLASSIC, **changes: Any) -> Question:
    """All VMs over a fortnight."""
    values: dict[str, Any] = {
        "policy": policy,
        "limits": Limits(),
        "window_days": DAYS,
        "now_s": NOW_S,
        "verdict": None,
        "top": None,
    }
    return Question(**{**values, **changes})


def empty_fleet() -> sa.Engine:
    """A fleet database in memory, without a VM."""
    engine = sa.create_engine("sqlite://")
    fleet.metadata.create_all(engine)
    return engine


def store(connection: sa.Connection, candidates: Sequence[Candidate]) -> None:
    """Puts VMs into a fleet database the way the aggregator does."""
    for one in candidates:
        connection.execute(
            sa.insert(fleet.vm).values(
                vm_id=one.vm_id,
                name=one.name,
                hostname=one.hostname,
                owner=one.owner,
                tags=json.dumps(one.tags),
                power_state=one.power_state,
                enrolled_s=one.enrolled_s,
            )
        )
        if one.summary is not None:
            values = {name: getattr(one.summary, name) for name in Summary.__dataclass_fields__}
            values["flags"] = json.dumps(one.summary.flags)
            others = {"received_s": NOW_S, "interval_s": 60, "conflicts": 0, "updated_s": NOW_S}
            connection.execute(sa.insert(fleet.vm_summary).values(vm_id=one.vm_id, **values, **others))
        if one.window is not None:
            connection.execute(
                sa.insert(fleet.vm_window).values(
                    window_days=one.window.days,
                    vm_id=one.vm_id,
                    start_s=one.window.start_s,
                    end_s=one.window.end_s,
                    covered_s=one.window.covered_s,
                    **{"users_s": 0, **one.window.statistics},
                )
            )


def stored(candidates: Sequence[Candidate]) -> sa.Engine:
    """A fleet database in memory that holds these VMs."""
    engine = empty_fleet()
    with engine.begin() as connection:
        store(connection, candidates)
    return engine


def one_of_each() -> list[Candidate]:
    """An idle VM, an active, a silent, one that runs no agent, and an excluded one."""
    busy = {**LOW, "cpu_busy_mean_ratio": 0.109, "cpu_busy_p95_ratio": 0.4}
    return [
        candidate(vm_id="vm-idle", name="web", owner="ann"),
        candidate(vm_id="vm-active", window=window(busy)),
        candidate(vm_id="vm-silent", summary=summary(newest_s=NOW_S - 7200)),
        candidate(vm_id="vm-bare", enrolled_s=None, summary=None, window=None),
        candidate(vm_id="vm-kept", tags=("production", "fallow:keep")),
    ]


VERDICTS_OF_EACH = {
    "vm-idle": Verdict.IDLE,
    "vm-active": Verdict.ACTIVE,
    "vm-silent": Verdict.INSUFFICIENT,
    "vm-bare": Verdict.INSUFFICIENT,
    "vm-kept": Verdict.EXCLUDED,
}
