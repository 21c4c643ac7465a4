"""A fleet database from before there were people."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from aggregator.fleet_db import migrate, open_fleet
from reports.people.gate import open_gate
from reports.people.roles import Role
from reports.schema import REPORT, open_report_db
from reports.tables import exemption
from tests.reports.people.persons import PASSWORD, actor, quick_hasher

T0 = 1_800_000_000.0


def test_people_come_to_a_database_with_data(tmp_path: Path) -> None:
    """What was there stays, a copy from before lies beside it, and people log in."""
    fleet = open_fleet(None, tmp_path)
    migrate(fleet)
    migrate(fleet, replace(REPORT, head="0001"))
    kept = {"id": "1", "kind": "vm", "subject": "a", "reason": "r", "owner": "o", "created_s": T0, "until_s": T0 + 1}
    with fleet.begin() as connection:
        connection.execute(sa.insert(exemption).values(kept))
    fleet.dispose()
    engine = open_report_db(None, tmp_path)
    with engine.connect() as connection:
        assert [row.owner for row in connection.execute(sa.select(exemption))] == ["o"]
    gate = open_gate(engine, hasher=quick_hasher())
    gate.people.add("ann", Role.ADMIN, PASSWORD, actor(T0))
    assert gate.log_in("ann", PASSWORD, "192.0.2.1", T0).account == "ann"
    engine.dispose()
    assert (tmp_path / "fleet.db.report-0001.bak").is_file()
