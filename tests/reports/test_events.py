"""What became of reclaimable VMs, as a report tells it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from aggregator import fleet
from reports.events import Event, EventKind, read_changes, read_events, record_event
from reports.savings import Prices
from reports.verdicts import Settings
from tests.reports.fleets import GIB, empty_fleet


def happened(*events: Event) -> sa.Engine:
    engine = empty_fleet()
    with engine.begin() as connection:
        for event in events:
            record_event(connection, event)
    return engine


def event(vm_id: str, kind: EventKind, at_s: float, **changes: float | None) -> Event:
    values: dict[str, float | None] = {"vcpus": 4.0, "mem_bytes": 8.0 * GIB, "money_per_month": 10.0, **changes}
    return Event(at_s=at_s, vm_id=vm_id, kind=kind, by="ann", reason="tidy", **values)


def test_changes_count_vms_since_a_moment() -> None:
    """Each VM once a kind, however often it happened, and nothing from before."""
    engine = happened(
        event("vm-a", EventKind.RECLAIMED, 5),
        event("vm-b", EventKind.RECLAIMED, 10),
        event("vm-b", EventKind.KEPT, 11),
        event("vm-b", EventKind.KEPT, 12),
        event("vm-c", EventKind.OBJECTED, 12),
    )
    with engine.connect() as connection:
        found = read_changes(connection, 10)
    assert found is not None
    assert (found.reclaimed, found.kept, found.objected, found.returned) == (1, 1, 1, 0)
    assert (found.realised.vcpus, found.realised.mem_bytes, found.realised.money_per_month) == (4, 8 * GIB, 10)


def test_what_came_back_is_not_realised() -> None:
    """A VM reclaimed twice counts once, and one that was given back not at all."""
    engine = happened(
        event("vm-a", EventKind.RECLAIMED, 1),
        event("vm-a", EventKind.RETURNED, 2),
        event("vm-b", EventKind.RECLAIMED, 1, vcpus=100),
        event("vm-b", EventKind.RETURNED, 2),
        event("vm-b", EventKind.RECLAIMED, 3, vcpus=2),
    )
    with engine.connect() as connection:
        found = read_changes(connection, 0)
    assert found is not None
    assert (found.reclaimed, found.returned, found.realised.vcpus) == (2, 2, 2)


def test_energy_follows_from_the_capacity() -> None:
    """By the watts of the settings."""
    prices = Prices(watts_per_vcpu=1000.0, watts_per_mem_gib=0.0)
    with happened(event("vm-a", EventKind.RECLAIMED, 1, vcpus=1)).connect() as connection:
        found = read_changes(connection, 0, settings=Settings(prices=prices))
    assert found is not None
    assert found.realised.kwh_per_month == pytest.approx(730)


def test_unknown_capacity_and_money() -> None:
    """Not known counts as nothing; without any amount there is no money."""
    nothing = event("vm-a", EventKind.RECLAIMED, 1, vcpus=None, mem_bytes=None, money_per_month=None)
    with happened(nothing).connect() as connection:
        found = read_changes(connection, 0)
    assert found is not None
    assert (found.realised.vcpus, found.realised.money_per_month) == (0, None)


def test_nothing_recorded_is_none() -> None:
    """Neither in a new table nor without one; where something is recorded, a quiet week is all zeros."""
    bare = sa.create_engine("sqlite://")
    fleet.metadata.create_all(bare)
    for engine in (bare, empty_fleet()):
        with engine.connect() as connection:
            assert read_changes(connection, 0) is None
            assert read_events(connection, "vm-a") == ()
    with happened(event("vm-a", EventKind.KEPT, 1)).connect() as connection:
        found = read_changes(connection, 2)
    assert found is not None
    assert (found.kept, found.reclaimed) == (0, 0)


def test_events_of_one_vm_newest_first() -> None:
    """As they were recorded, and no more than are asked for."""
    events = [event("vm-a", EventKind.KEPT, at_s) for at_s in (1.0, 3.0, 2.0)]
    engine = happened(*events, event("vm-b", EventKind.KEPT, 9))
    with engine.connect() as connection:
        assert read_events(connection, "vm-a") == (events[1], events[2], events[0])
        assert read_events(connection, "vm-a", limit=1) == (events[1],)
