"""Which agents are in trouble, and how many."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from hypothesis import given, settings

from aggregator import fleet
from reports.fleet import snapshot
from reports.ingest_health import WORST, IngestHealth, Trouble, read_ingest_health
from reports.verdicts import Limits
from tests.reports.fleets import INTERVAL_S, NEWEST_S, NOW_S, Spec, empty_fleet, specs, stored

APART = (Trouble.POWERED_OFF, Trouble.NO_AGENT, Trouble.NEVER, Trouble.SILENT, Trouble.LATE)


def health(engine: sa.Engine, now_s: float = NOW_S) -> IngestHealth:
    with snapshot(engine) as connection:
        return read_ingest_health(connection, now_s, Limits())


def named(found: IngestHealth, trouble: Trouble) -> list[str]:
    return [state.vm_id for state in found.troubles[trouble].worst]


@pytest.mark.parametrize(
    ("trouble", "spec"),
    [
        (Trouble.POWERED_OFF, Spec(power_state="off", silent_s=9000)),
        (Trouble.POWERED_OFF, Spec(power_state="off", load=None)),
        (Trouble.NO_AGENT, Spec(load=None, enrolled=False)),
        (Trouble.NEVER, Spec(load=None)),
        (Trouble.SILENT, Spec(silent_s=3600)),
        (Trouble.LATE, Spec(silent_s=3 * INTERVAL_S)),
        (None, Spec(silent_s=INTERVAL_S)),
    ],
)
def test_each_vm_is_in_one_place(trouble: Trouble | None, spec: Spec) -> None:
    """Powered off apart from silent, silent apart from late, and what reports in none."""
    found = health(stored([spec, Spec(vm_id="vm-z")]))
    assert {each: found.troubles[each].vms for each in APART} == {each: int(each is trouble) for each in APART}
    assert found.vms == 2
    assert found.reporting == 2 - (trouble is not None)


@settings(max_examples=40)
@given(fleet=specs())
def test_places_add_up(fleet: list[Spec]) -> None:
    """Every VM reports or is in exactly one place, and the worst are all of a small group."""
    found = health(stored(fleet))
    assert found.vms == len(fleet)
    assert found.reporting + sum(found.troubles[trouble].vms for trouble in APART) == len(fleet)
    assert all(len(group.worst) == group.vms for group in found.troubles.values())


def test_lateness_is_measured_by_the_last_flush() -> None:
    """Between flushes nobody is late, however long they are apart; without any flush for hours all are silent."""
    engine = stored([Spec()])
    assert health(engine, NOW_S + 2000).reporting == 1
    assert named(health(engine, NOW_S + 8000), Trouble.SILENT) == ["vm-a"]


def test_skew_conflicts_and_flags_name_the_worst_first() -> None:
    """With the figures that say why."""
    found = health(
        stored(
            [
                Spec(vm_id="vm-a", skew_s=200.0, conflicts=3),
                Spec(vm_id="vm-b", skew_s=-900.0, conflicts=0),
                Spec(vm_id="vm-c", conflicts=40, identity_conflict=True),
            ]
        )
    )
    assert named(found, Trouble.SKEWED) == ["vm-b", "vm-a"]
    assert named(found, Trouble.CONFLICTS) == ["vm-c", "vm-a"]
    assert named(found, Trouble.FLAGGED) == ["vm-a", "vm-b", "vm-c"]
    worst = found.troubles[Trouble.SKEWED].worst[0]
    assert (worst.skew_s, worst.age_s, worst.newest_s, worst.flags) == (-900, 400, NEWEST_S, ("clock_skew",))


def test_only_the_worst_are_named() -> None:
    """All are counted."""
    found = health(stored([Spec(vm_id=f"vm-{place:03}", silent_s=7200 + 300 * place) for place in range(WORST + 5)]))
    silent = found.troubles[Trouble.SILENT]
    assert silent.vms == WORST + 5
    assert [state.vm_id for state in silent.worst[:2]] == ["vm-054", "vm-053"]
    assert len(silent.worst) == WORST


def test_fleet_without_vms() -> None:
    """Nothing is wrong with it."""
    found = health(empty_fleet())
    assert (found.vms, found.reporting, found.flushed_s) == (0, 0, None)
    assert not any(group.vms for group in found.troubles.values())


def test_flags_of_other_spelling_do_not_hurt() -> None:
    """A VM of the catalogue whose summary is gone has no flags."""
    engine = stored([Spec(identity_conflict=True)])
    with engine.begin() as connection:
        connection.execute(sa.delete(fleet.vm_summary))
    assert named(health(engine), Trouble.NEVER) == ["vm-a"]
