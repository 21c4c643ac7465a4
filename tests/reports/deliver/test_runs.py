"""The table of deliveries: each goes out once, failures are tried again a few times, nothing stays open for ever."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aggregator.fleet_db import open_fleet
from reports.deliver.runs import (
    LEASE_S,
    RETRY_AFTER_S,
    Deliveries,
    Run,
    State,
    after_failure,
    key_at_once,
    report_key,
)
from reports.tables import delivery, metadata
from tests.postgres import postgres_database
from tests.reports.deliver.values import DUE_S, table

DAY_S = 86_400.0
KEY = "2026-11-21T07:00Z"
TRIES = len(RETRY_AFTER_S) + 1


@pytest.fixture
def deliveries(tmp_path: Path) -> Iterator[Deliveries]:
    with table(tmp_path) as engine:
        yield Deliveries(engine)


def begun(deliveries: Deliveries, name: str = "weekly", due_s: float = DUE_S, now_s: float | None = None) -> Run:
    run = deliveries.begin(name, "mail", "ops", due_s, report_key(due_s), now_s=due_s if now_s is None else now_s)
    assert run is not None
    return run


def test_keys_are_minutes_in_utc() -> None:
    """Seconds do not count, so whoever wakes late still means the same run."""
    assert report_key(DUE_S) == report_key(DUE_S + 59.9) == KEY
    assert report_key(DUE_S + 60) != KEY


def test_keys_of_what_was_asked_for_are_their_own() -> None:
    """Twice in a second are two runs, and none is a scheduled one's."""
    keys = {key_at_once(DUE_S), key_at_once(DUE_S + 0.001), report_key(DUE_S)}
    assert len(keys) == 3


def test_retries_come_later_and_later_and_end() -> None:
    """After 1 min, 5 min, 15 min, 1 h and 4 h; then it has failed. What is final fails at once."""
    waits_s = [after_failure(attempt, DUE_S, retry=True) for attempt in range(1, TRIES + 1)]
    assert waits_s == [
        (State.PENDING, DUE_S + 60),
        (State.PENDING, DUE_S + 300),
        (State.PENDING, DUE_S + 900),
        (State.PENDING, DUE_S + 3600),
        (State.PENDING, DUE_S + 14_400),
        (State.FAILED, None),
    ]
    assert after_failure(1, DUE_S, retry=False) == (State.FAILED, None)


def test_a_run_begins_once(deliveries: Deliveries) -> None:
    """The second one who finds it due leaves it alone; another name or time is another run."""
    first = begun(deliveries)
    assert (first.attempt, first.state, first.delivery_id) == (1, State.PENDING, f"weekly/{KEY}")
    assert deliveries.begin("weekly", "mail", "ops", DUE_S, KEY, now_s=DUE_S) is None
    begun(deliveries, name="other")
    begun(deliveries, due_s=DUE_S + 60)
    assert [run.name for run in deliveries.recent(10)] == ["weekly", "other", "weekly"]


def test_a_success_is_kept(deliveries: Deliveries) -> None:
    """With subject and time, and nothing left to do."""
    sent = deliveries.record_success(begun(deliveries), subject="3 VMs", now_s=DUE_S + 2)
    assert deliveries.recent(1) == [sent]
    assert (sent.state, sent.subject, sent.finished_s, sent.problem) == (State.SENT, "3 VMs", DUE_S + 2, None)
    assert deliveries.due("weekly", now_s=DUE_S + 30 * DAY_S) == []


def test_a_failure_is_due_again_in_time(deliveries: Deliveries) -> None:
    """Not before its time, not for another name; the problem is there to see meanwhile."""
    failed = deliveries.record_failure(begun(deliveries), "no answer", retry=True, now_s=DUE_S)
    assert deliveries.last("weekly") == failed
    assert failed.problem == "no answer"
    assert deliveries.due("weekly", now_s=DUE_S + 59) == []
    assert deliveries.due("other", now_s=DUE_S + 60) == []
    assert deliveries.due("weekly", now_s=DUE_S + 60) == [failed]


def test_a_run_is_tried_so_often_and_no_more(deliveries: Deliveries) -> None:
    """Six tries over somewhat more than five hours."""
    run, now_s, tries = begun(deliveries), DUE_S, 1
    while (run := deliveries.record_failure(run, "no answer", retry=True, now_s=now_s)).next_attempt_s is not None:
        now_s = run.next_attempt_s
        claimed = deliveries.claim(deliveries.due("weekly", now_s=now_s)[0], now_s=now_s)
        assert claimed is not None
        run, tries = claimed, tries + 1
    assert tries == TRIES
    assert (run.state, run.finished_s) == (State.FAILED, now_s)
    assert now_s - DUE_S == sum(RETRY_AFTER_S)


def test_only_one_takes_a_try(deliveries: Deliveries) -> None:
    """Two find it due: the quicker one has it."""
    deliveries.record_failure(begun(deliveries), "no answer", retry=True, now_s=DUE_S)
    (waiting,) = deliveries.due("weekly", now_s=DUE_S + 60)
    claimed = deliveries.claim(waiting, now_s=DUE_S + 60)
    assert claimed is not None
    assert claimed.attempt == 2
    assert deliveries.claim(waiting, now_s=DUE_S + 60) is None
    assert deliveries.due("weekly", now_s=DUE_S + 60 + LEASE_S - 1) == []


def test_a_try_that_was_killed_is_made_again(deliveries: Deliveries) -> None:
    """Once its lease has ended, and it counts: what kills its process each time is not tried for ever."""
    run, now_s, tries = begun(deliveries), DUE_S, 1
    while True:
        now_s += LEASE_S
        (waiting,) = deliveries.due("weekly", now_s=now_s)
        claimed = deliveries.claim(waiting, now_s=now_s)
        if claimed is None:
            break
        tries += 1
    assert tries == TRIES
    last = deliveries.last(run.name)
    assert last is not None
    assert (last.state, last.problem, last.finished_s) == (State.FAILED, "the last try was cut off", now_s)
    assert deliveries.due("weekly", now_s=now_s + DAY_S) == []


def test_who_comes_too_late_changes_nothing_but_a_success_stands(deliveries: Deliveries) -> None:
    """A try that outlived its lease: its failure is another's business now, its success is one."""
    slow = begun(deliveries)
    (waiting,) = deliveries.due("weekly", now_s=DUE_S + LEASE_S)
    quick = deliveries.claim(waiting, now_s=DUE_S + LEASE_S)
    assert quick is not None
    deliveries.record_failure(slow, "no answer", retry=True, now_s=DUE_S + LEASE_S + 1)
    assert deliveries.last("weekly") == quick
    sent = deliveries.record_success(slow, subject="x", now_s=DUE_S + LEASE_S + 2)
    deliveries.record_failure(quick, "no answer", retry=True, now_s=DUE_S + LEASE_S + 3)
    last = deliveries.last("weekly")
    assert last is not None
    assert (last.state, last.subject) == (sent.state, "x")


def test_a_newer_report_replaces_one_that_waits(deliveries: Deliveries) -> None:
    """Nobody gets two reports of now at once; other names wait on, and the problem stays to see."""
    deliveries.record_failure(begun(deliveries), "no answer", retry=True, now_s=DUE_S)
    deliveries.record_failure(begun(deliveries, name="other"), "no answer", retry=True, now_s=DUE_S)
    begun(deliveries, due_s=DUE_S + 3600)
    states = {(run.name, run.report_key): (run.state, run.problem) for run in deliveries.recent(9)}
    assert states == {
        ("weekly", KEY): (State.FAILED, "no answer; given up: a newer report was due"),
        ("other", KEY): (State.PENDING, "no answer"),
        ("weekly", "2026-11-21T08:00Z"): (State.PENDING, None),
    }


def test_what_was_asked_for_has_one_try_and_replaces_nothing(deliveries: Deliveries) -> None:
    """Somebody waits for the result, so nobody else tries; a scheduled run goes on waiting."""
    deliveries.record_failure(begun(deliveries), "no answer", retry=True, now_s=DUE_S)
    run = deliveries.begin("weekly", "mail", "ops", DUE_S + 9, "once-1", now_s=DUE_S + 9, retries=False)
    assert run is not None
    failed = deliveries.record_failure(run, "no answer", retry=True, now_s=DUE_S + 10)
    assert (failed.state, failed.next_attempt_s) == (State.FAILED, None)
    assert [waiting.report_key for waiting in deliveries.due("weekly", now_s=DUE_S + DAY_S)] == [KEY]


def test_only_what_was_due_counts_as_scheduled(deliveries: Deliveries) -> None:
    """A delivery that somebody tried out is still new to the schedule."""
    deliveries.begin("weekly", "mail", "ops", DUE_S, key_at_once(DUE_S), now_s=DUE_S, retries=False)
    assert not deliveries.was_scheduled("weekly")
    begun(deliveries)
    assert deliveries.was_scheduled("weekly")


def test_what_nobody_tries_any_more_ends(deliveries: Deliveries) -> None:
    """A name that left the settings, or a person who was interrupted: failed after a day, not open for ever."""
    deliveries.record_failure(begun(deliveries, name="removed"), "no answer", retry=True, now_s=DUE_S)
    deliveries.begin("asked", "mail", "ops", DUE_S, "once-1", now_s=DUE_S, retries=False)
    begun(deliveries, due_s=DUE_S + DAY_S)
    states = {run.name: run.state for run in deliveries.recent(9)}
    assert states == {"removed": State.PENDING, "asked": State.PENDING, "weekly": State.PENDING}
    begun(deliveries, due_s=DUE_S + DAY_S + 3600)
    found = {run.name: (run.state, run.problem) for run in deliveries.recent(9) if run.name != "weekly"}
    assert found == {
        "removed": (State.FAILED, "no answer; given up: nobody tried again"),
        "asked": (State.FAILED, "given up: nobody tried again"),
    }


def test_results_are_forgotten_after_400_days(deliveries: Deliveries) -> None:
    """The table does not grow for ever."""
    deliveries.record_success(begun(deliveries), subject="x", now_s=DUE_S)
    begun(deliveries, due_s=DUE_S + 400 * DAY_S)
    assert len(deliveries.recent(9)) == 2
    begun(deliveries, due_s=DUE_S + 401 * DAY_S)
    assert [run.report_key for run in deliveries.recent(9)] == ["2027-12-27T07:00Z", "2027-12-26T07:00Z"]


def test_another_mistake_of_the_database_is_not_taken_for_a_rival(tmp_path: Path) -> None:
    """Only a run that exists makes `begin` step back; what else breaks a rule of the table is raised."""
    with table(tmp_path) as engine:
        broken: str = None  # type: ignore[assignment]
        with pytest.raises(sa.exc.IntegrityError):
            Deliveries(engine).begin("weekly", broken, "ops", DUE_S, KEY, now_s=DUE_S)


@pytest.mark.real
def test_many_at_once_begin_one_run(tmp_path: Path) -> None:
    """Several schedulers wake at the same minute: exactly one sends."""
    with table(tmp_path):
        pass
    engines = [open_fleet(None, tmp_path) for _ in range(4)]

    def begin(engine: sa.Engine) -> bool:
        return Deliveries(engine).begin("weekly", "mail", "ops", DUE_S, KEY, now_s=DUE_S) is not None

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(begin, engines))
    for engine in engines:
        engine.dispose()
    assert sorted(won) == [False, False, False, True]


@pytest.mark.real
def test_postgresql_keeps_them_as_well(pytestconfig: pytest.Config) -> None:
    """The whole life of a run on the other database."""
    with postgres_database(pytestconfig) as url:
        engine = sa.create_engine(url)
        metadata.create_all(engine)
        deliveries = Deliveries(engine)
        run = begun(deliveries)
        assert deliveries.begin("weekly", "mail", "ops", DUE_S, KEY, now_s=DUE_S) is None
        deliveries.record_failure(run, "no answer", retry=True, now_s=DUE_S)
        claimed = deliveries.claim(deliveries.due("weekly", now_s=DUE_S + 60)[0], now_s=DUE_S + 60)
        assert claimed is not None
        begun(deliveries, due_s=DUE_S + 3600)
        sent = deliveries.record_success(claimed, subject="x", now_s=DUE_S + 3601)
        assert deliveries.was_scheduled("weekly")
        assert deliveries.recent(9)[1] == sent
        engine.dispose()


class Schedulers(RuleBasedStateMachine):
    """Two schedulers on one table, either killed at any moment, while the receiver answers as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
        metadata.create_all(self.engine)
        self.deliveries = Deliveries(self.engine)
        self.now_s = DUE_S
        self.holding: dict[int, Run | None] = {0: None, 1: None}
        # Of each run: tries begun, and how often it was received.
        self.tries: dict[int, int] = {}
        self.received: dict[int, int] = {}
        self.killed: set[int] = set()

    def teardown(self) -> None:
        self.engine.dispose()

    @rule(seconds=st.sampled_from([1, 61, 301, 901, 3601, 14_401]))
    def time_passes(self, seconds: int) -> None:
        # Whoever holds a try longer than its lease has lost it: it counts as killed.
        self.now_s += seconds
        for who, run in self.holding.items():
            if run is not None and run.next_attempt_s is not None and run.next_attempt_s <= self.now_s:
                self._kill(who)

    @rule(who=st.sampled_from([0, 1]))
    def look(self, who: int) -> None:
        if self.holding[who] is not None:
            return
        due_s = self.now_s // 3600 * 3600
        run = self.deliveries.begin("a", "mail", "ops", due_s, report_key(due_s), now_s=self.now_s)
        if run is None:
            for waiting in self.deliveries.due("a", now_s=self.now_s):
                run = self.deliveries.claim(waiting, now_s=self.now_s)
        if run is not None:
            self.tries[run.id] = self.tries.get(run.id, 0) + 1
            self.holding[who] = run

    @precondition(lambda self: any(self.holding.values()))
    @rule(received=st.booleans(), retry=st.booleans(), killed=st.booleans())
    def a_try_ends(self, received: bool, retry: bool, killed: bool) -> None:
        who = next(who for who, run in self.holding.items() if run is not None)
        run = self.holding[who]
        assert run is not None
        if received:
            self.received[run.id] = self.received.get(run.id, 0) + 1
        if killed:
            self._kill(who)
            return
        self.holding[who] = None
        if received:
            self.deliveries.record_success(run, subject="x", now_s=self.now_s)
        else:
            self.deliveries.record_failure(run, "no answer", retry=retry, now_s=self.now_s)

    def _kill(self, who: int) -> None:
        run = self.holding[who]
        assert run is not None
        self.killed.add(run.id)
        self.holding[who] = None

    @invariant()
    def nobody_gets_a_report_twice_unless_a_process_was_killed(self) -> None:
        assert {run_id for run_id, count in self.received.items() if count > 1} <= self.killed

    @invariant()
    def tries_are_counted(self) -> None:
        assert all(count <= TRIES for count in self.tries.values())

    @invariant()
    def rows_are_whole(self) -> None:
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(delivery)).all()
        for row in rows:
            assert (row.state == "pending") == (row.finished_s is None)
            assert (row.state == "pending") == (row.next_attempt_s is not None)
            assert row.state != "failed" or row.problem
            assert row.attempt == self.tries[row.id]
        # One at most waits: the newest.
        waiting = [row.id for row in rows if row.state == "pending"]
        assert waiting in ([], [max((row.id for row in rows), default=0)])


TestSchedulers = Schedulers.TestCase
TestSchedulers.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
