"""A fleet database read once and judged by several policies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from reports.compare import Comparison, compare
from reports.facts import Facts
from reports.fleet import read_facts, read_window_days, snapshot
from reports.judging import find_kept, judge_by_all, judged_columns, judged_days, read_exemptions
from reports.policy import Policy
from reports.verdicts import Judged, Settings


def compare_fleet(
    engine: sa.Engine, policies: Sequence[Policy], settings: Settings, *, now_s: float, top: int
) -> Comparison:
    """Judges the whole fleet as it is at one moment, by each of the policies.

    Args: top: how many VMs are named on which policies differ.

    Raises:
        ConfigError: the report's tables are those of another version.
        sqlalchemy.exc.DBAPIError.
    """
    with snapshot(engine) as connection:
        return compare(
            _judged(connection, policies, settings, now_s),
            policies,
            settings,
            now_s=now_s,
            top=top,
            kept_days=read_window_days(connection),
        )


def _judged(
    connection: sa.Connection, policies: Sequence[Policy], settings: Settings, now_s: float
) -> Iterator[tuple[Facts, Sequence[Judged]]]:
    exemptions = read_exemptions(connection, now_s)
    for facts in read_facts(connection, judged_days(policies, settings), columns=judged_columns(policies, settings)):
        exempt = find_kept(facts, exemptions)
        yield facts, judge_by_all(facts, policies, settings, now_s=now_s, exempt=exempt)
