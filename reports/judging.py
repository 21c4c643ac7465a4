"""Judging a whole fleet, chunk by chunk, and storing the verdicts for the reports that read them.

A verdict needs a VM's histograms, so that a large fleet takes longer to judge than a report may take: a job judges it
now and then, and reports read what it stored. What was stored counts only for the very settings it was made with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import NamedTuple

import sqlalchemy as sa

from reports.exemption_table import read_in_force
from reports.exemptions import Exemption, ExemptionIndex
from reports.facts import Facts
from reports.fleet import read_facts, snapshot
from reports.policy import Policy
from reports.report import Totals
from reports.tally import Tally
from reports.verdict_table import Run, begin_run, end_run, replace_verdicts
from reports.verdicts import Judged, Settings, judge, judge_by, prepare
from reports.words import time_words

# Raised when the same facts and settings come to have other verdicts: what was stored before is then judged anew.
_RULES = 1


class Chunk(NamedTuple):
    """Some VMs of a fleet and the verdicts on them. `kept`: exempt VMs by id, with until when, by whom and why."""

    facts: Facts
    judged: Judged
    kept: Mapping[str, str]


def judge_fleet(
    connection: sa.Connection, policy: Policy, settings: Settings, now_s: float, exemptions: ExemptionIndex
) -> Iterator[Chunk]:
    """The verdict on every VM, by id, in chunks.

    Args: connection: of `reports.fleet.snapshot`.

    Raises: sqlalchemy.exc.DBAPIError.
    """
    for facts in read_facts(connection, judged_days((policy,), settings), columns=judged_columns((policy,), settings)):
        kept = find_kept(facts, exemptions)
        yield Chunk(facts, judge(facts, policy, settings, now_s=now_s, exempt=kept), kept)


def judge_by_all(
    facts: Facts,
    policies: Sequence[Policy],
    settings: Settings,
    *,
    now_s: float,
    exempt: Container[str] = frozenset(),
) -> tuple[Judged, ...]:
    """The verdicts on the same VMs by each policy, in their order; what they have in common is worked out once."""
    common = prepare(facts, settings, now_s=now_s, exempt=exempt)
    return tuple(judge_by(facts, policy, settings, common) for policy in policies)


def judged_days(policies: Sequence[Policy], settings: Settings) -> tuple[int, ...]:
    """The windows that verdicts by these policies rest on, rising."""
    asked = settings.window_days
    return tuple(sorted({asked, *(days for policy in policies for days in policy.days(asked))}))


def judged_columns(policies: Sequence[Policy], settings: Settings) -> dict[int, frozenset[str]]:
    """What is read of each window but the one asked for, of which everything is: reading is most of a judging."""
    found: dict[int, frozenset[str]] = {}
    for policy in policies:
        for rule in policy.rules():
            days = rule.measure.days or settings.window_days
            if days != settings.window_days:
                found[days] = found.get(days, frozenset()) | rule.measure.columns()
    return found


def read_exemptions(connection: sa.Connection, now_s: float) -> ExemptionIndex:
    """The exemptions in force; none where the report has no tables yet. Raises: ConfigError."""
    return ExemptionIndex(read_in_force(connection, now_s))


def find_kept(facts: Facts, exemptions: ExemptionIndex) -> dict[str, str]:
    """The exempt VMs by id, with until when, by whom and why."""
    found = ((vm.vm_id, exemptions.match(vm.vm_id, vm.name, vm.hostname, vm.tags)) for vm in facts.vms)
    return {vm_id: kept_words(one) for vm_id, one in found if one is not None}


def kept_words(exemption: Exemption) -> str:
    """`until 2026-12-01 23:59 UTC by ann: quarterly closing`."""
    return f"until {time_words(exemption.until_s)} by {exemption.owner}: {exemption.reason}"


def scope_of(policy: Policy, settings: Settings) -> str:
    """The key under which verdicts are stored, such as `fallow-balanced/14d`."""
    return f"{policy.name}/{settings.window_days}d"


def settings_sha256(policy: Policy, settings: Settings) -> str:
    """What verdicts depend on but the data, as a hash: other limits, prices or rules give another one."""
    text = json.dumps([_RULES, _plain(policy), _plain(settings)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    """A value of dataclasses as plain lists, its types named, equal numbers alike."""
    if is_dataclass(value):
        return [type(value).__name__, {field.name: _plain(getattr(value, field.name)) for field in fields(value)}]
    if isinstance(value, Enum):
        return [type(value).__name__, value.name]
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int | float):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no stable text")


def store_verdicts(
    read_engine: sa.Engine, write_engine: sa.Engine, policy: Policy, settings: Settings, now_s: float
) -> Totals:
    """Judges the whole fleet as it is now and stores the verdicts, each chunk in a transaction of its own.

    Until it ends, reports read the run before, and single rows are newer already; where that run was made with other
    settings, they judge the fleet themselves.

    Args: write_engine: of `reports.schema.open_report_db`.

    Raises:
        sqlalchemy.exc.DBAPIError: what was stored of this run is of no use, and the next one writes it anew.
        reports.verdict_table.RunClash: another run with other settings wrote to the same scope meanwhile.
    """
    run = Run(scope=scope_of(policy, settings), settings_sha256=settings_sha256(policy, settings), judged_s=now_s)
    tally = Tally()
    with snapshot(read_engine) as connection:
        with write_engine.begin() as writing:
            begin_run(writing, run)
        after = ""
        for facts, judged, _ in judge_fleet(connection, policy, settings, now_s, read_exemptions(connection, now_s)):
            tally.add(facts, judged)
            last = facts.vms[-1].vm_id
            with write_engine.begin() as writing:
                replace_verdicts(writing, run, facts, judged, settings, after=after, last=last)
            after = last
            # The next chunk is read as the fleet is by then: a snapshot of a minute would hold up SQLite's checkpoints.
            connection.rollback()
    totals = tally.totals(priced=settings.prices.currency is not None)
    with write_engine.begin() as writing:
        end_run(writing, run, totals, after=after)
    return totals
