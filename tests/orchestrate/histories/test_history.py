"""Random histories: nothing forbidden happens, and the oracle that says so can see every kind of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrate.groups import Approve, Group, MoveSettings, ReclaimSettings
from orchestrate.histories.history import run_history
from orchestrate.histories.watched import Breakage, WatchedSqlRecords
from orchestrate.inventory import Vm
from orchestrate.matching import match
from orchestrate.outside import Outside
from orchestrate.plan import Plan
from orchestrate.records import Entry, Rung
from orchestrate.refusal import Rule
from orchestrate.sighting import Sighting
from orchestrate.world import World
from reports.verdicts import Verdict
from tests.orchestrate.databases import open_copy

HISTORIES = 1000
# A database takes its time.
SQL_HISTORIES = 8
# A broken guard shows within so many histories, or the oracle is blind to it.
PATIENCE = 3000


DEEDS = ("suspend", "resume", "stop", "start", "migrate-live")


def settings(**changes: object) -> Breakage:
    """The controller is told other settings."""
    return Breakage(settings=lambda told: replace(told, **changes))  # type: ignore[arg-type]


def groups(**changes: object) -> Breakage:
    """The controller is told other rules for every group."""

    def change(told: ReclaimSettings) -> ReclaimSettings:
        changed: tuple[Group, ...] = tuple(replace(group, **changes) for group in told.groups)  # type: ignore[arg-type]
        return replace(told, groups=changed)

    return Breakage(settings=change)


def limits(**changes: int) -> Breakage:
    """The controller is told other limits."""
    return Breakage(settings=lambda told: replace(told, limits=replace(told.limits, **changes)))


def sighting(**changes: object) -> Breakage:
    """The controller is told something else of every agent."""
    return Breakage(sighting=lambda told: replace(told, **changes))  # type: ignore[arg-type]


def _idle_minutes(told: Sighting) -> Sighting:
    return replace(told, minutes=tuple(replace(one, cpu_busy_ratio=0.0, users=0) for one in told.minutes))


def _believed(told: Outside, by: Sighting | None) -> Outside:
    return told if by is None or not by.minutes else replace(told, cpu_cores=by.minutes[-1].cpu_busy_ratio)


def _no_doubts(told: World) -> World:
    sightings = {vm_id: one for vm_id, one in told.fleet.sightings.items() if vm_id == vm_id.lower()}
    fleet = replace(told.fleet, sightings=sightings)
    return replace(told, matches=match(fleet, told.inventories))


def _unshielded(told: Vm) -> Vm:
    return replace(told, shields=frozenset())


def _impatient(told: Entry) -> Entry:
    return replace(told, since_s=0.0, notified_s=0.0, due_s=None if told.due_s is None else 0.0)


def _unheard(told: Entry) -> Entry:
    return replace(told, rung=Rung.NOTIFY, since_s=0.0, due_s=0.0) if told.rung is Rung.MARK else told


def _endless(told: Plan) -> Plan:
    return replace(told, expires_s=told.expires_s + 1e9)


def _moves(told: ReclaimSettings) -> ReclaimSettings:
    return replace(told, relief=MoveSettings(allowed=True, approve=Approve.AUTO))


HUGE = 10**6
BROKEN: Mapping[str, tuple[Breakage, set[Rule]]] = {
    "goes beyond its group": (groups(up_to=Rung.STOP), {Rule.BY_DEFAULT}),
    "needs no approval": (groups(approve=Approve.AUTO), {Rule.BY_DEFAULT}),
    "needs no days": (settings(min_days=0.0), {Rule.ON_DOUBT, Rule.EXEMPT}),
    "needs no coverage": (Breakage(sighting=lambda told: replace(told, coverage_ratio=1.0)), {Rule.ON_DOUBT}),
    "needs nothing fresh": (settings(fresh_s=1e12), {Rule.ON_DOUBT, Rule.IN_OUTAGE, Rule.GUEST_ALONE}),
    "ignores clocks": (sighting(skew_s=0.0), {Rule.ON_DOUBT}),
    "ignores flags": (sighting(flags=()), {Rule.ON_DOUBT}),
    "ignores verdicts": (sighting(verdict=Verdict.IDLE), {Rule.ON_DOUBT, Rule.IN_OUTAGE, Rule.SURPRISE, Rule.EXEMPT}),
    "ignores the last minutes": (Breakage(sighting=_idle_minutes), {Rule.ON_DOUBT, Rule.SURPRISE}),
    "ignores double agents": (Breakage(world=_no_doubts), {Rule.ON_DOUBT}),
    "ignores outages": (settings(outage_ratio=1.0), {Rule.IN_OUTAGE}),
    "ignores a silent aggregator": (
        Breakage(world=lambda told: replace(told, fleet=replace(told.fleet, live=True))),
        {Rule.IN_OUTAGE},
    ),
    "ignores the limit of a run": (limits(run=HUGE), {Rule.OVER_LIMIT}),
    "ignores the limit of an hour": (limits(hour=HUGE), {Rule.OVER_LIMIT}),
    "ignores the limit of a host": (limits(host=HUGE), {Rule.OVER_LIMIT}),
    "ignores the limit of an owner": (limits(owner=HUGE), {Rule.OVER_LIMIT}),
    "ignores tags": (settings(exclude_tags=()), {Rule.EXEMPT}),
    "ignores exemptions": (
        Breakage(sighting=lambda told: replace(told, kept=None, verdict=Verdict.IDLE)),
        {Rule.EXEMPT, Rule.ON_DOUBT, Rule.IN_OUTAGE, Rule.SURPRISE},
    ),
    "ignores shields": (Breakage(vm=_unshielded), {Rule.EXEMPT}),
    "ignores unknown owners": (groups(unknown_owner=True), {Rule.EXEMPT}),
    "shortens the grace": (groups(grace_s=0.0), {Rule.SURPRISE}),
    "shortens the last grace": (groups(stop_grace_s=0.0), {Rule.SURPRISE}),
    "forgets when it told": (Breakage(entry=_impatient), {Rule.SURPRISE}),
    "tells nobody": (Breakage(entry=_unheard), {Rule.SURPRISE}),
    "runs another plan than was shown": (Breakage(planned=_endless), {Rule.SURPRISE}),
    "ignores the kill switch": (Breakage(deaf=True), {Rule.IRREVERSIBLE}),
    "acts without the lease": (Breakage(leaderless=True), {Rule.TWICE}),
    "forgets what is open": (Breakage(forgetful=True), {Rule.TWICE}),
    "writes no intents": (Breakage(wordless=True), {Rule.TWICE}),
    "does not look again": (Breakage(inattentive=True), {Rule.TWICE}),
    "looks at the fleet now and then": (Breakage(hasty=True), {Rule.IN_OUTAGE, Rule.OVER_LIMIT}),
    "moves where nobody allows it": (Breakage(settings=_moves), {Rule.BY_DEFAULT}),
    "ignores pins": (settings(pin_tags=()), {Rule.EXEMPT}),
    "believes the guest": (Breakage(outside=_believed), {Rule.GUEST_ALONE}),
}


def test_nothing_forbidden_happens() -> None:
    """In none of many histories, in which much does happen."""
    counts: Counter[str] = Counter()
    for seed in range(HISTORIES):
        history = run_history(seed)
        assert history.forbidden is None, f"seed {seed}: {history.forbidden}"
        counts += history.counts
    for what in (*DEEDS, "notice", "crash", "refused", "skipped", "failed", "unknown"):
        assert counts[what] > 0, what


def test_a_seed_is_one_history() -> None:
    """The same seed tells the same story, word for word, and another seed another."""
    stories: list[list[str]] = []
    for seed in (3, 3, 4):
        lines: list[str] = []
        run_history(seed, say=lines.append)
        stories.append(lines)
    assert stories[0] == stories[1] != stories[2]
    assert len(stories[0]) > 3


@pytest.mark.real
def test_records_in_a_database_live_through_the_same(tmp_path: Path) -> None:
    """Histories with records in SQL are, word for word, those with records in memory."""
    for seed in range(SQL_HISTORIES):
        stories: tuple[list[str], list[str]] = ([], [])
        kept = run_history(seed, say=stories[0].append)
        folder = tmp_path / str(seed)
        folder.mkdir()
        engine = open_copy(folder)
        try:
            stored = run_history(seed, say=stories[1].append, records=WatchedSqlRecords(engine))
        finally:
            engine.dispose()
        assert stories[0] == stories[1], seed
        assert stored == kept


@pytest.mark.parametrize("name", BROKEN)
def test_the_oracle_sees_a_broken_guard(name: str) -> None:
    """A controller that is blind in one thing does what is forbidden before long, and the oracle names the rule."""
    breakage, rules = BROKEN[name]
    for seed in range(PATIENCE):
        history = run_history(seed, breakage=breakage)
        if history.forbidden is not None:
            assert {rule for rule in rules if history.forbidden.startswith(rule)}, history.forbidden
            return
    pytest.fail(f"{PATIENCE} histories, and nobody noticed")
