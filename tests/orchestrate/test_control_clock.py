"""Who may lead: nobody whose clock is not the database's."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrate.control import open_control
from orchestrate.database import MAX_CLOCK_APART_S, check_clock
from orchestrate.records import StaleLease
from orchestrate.schema import open_orchestrate_db
from tests.orchestrate.control_house import house
from tests.orchestrate.databases import a_fleet, open_copy
from tests.postgres import postgres_database


@pytest.mark.real
def test_a_clock_far_from_the_databases_does_not_lead(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """It would take a lease that holds by the others' clocks; nothing is written then."""
    with postgres_database(pytestconfig) as url, house(tmp_path) as cloud:
        a_fleet(url, tmp_path)
        engine = open_orchestrate_db(url, tmp_path)
        try:
            check_clock(engine, now_s=time.time())
            for apart_s, where in ((10 * MAX_CLOCK_APART_S, "ahead of"), (-10 * MAX_CLOCK_APART_S, "behind")):
                with pytest.raises(StaleLease, match=where):
                    check_clock(engine, now_s=time.time() + apart_s)
            with open_control(cloud.config(), clock=lambda: cloud.now_s, pause=cloud.pause) as opened:
                control = replace(opened, report_engine=engine)
                with pytest.raises(StaleLease, match="it cannot lead"), control.leading():
                    pytest.fail("it leads")
                assert control.records.leader() is None
        finally:
            engine.dispose()


def test_a_file_is_used_by_one_machine(tmp_path: Path) -> None:
    """There is one clock."""
    engine = open_copy(tmp_path)
    check_clock(engine, now_s=0.0)
    engine.dispose()
