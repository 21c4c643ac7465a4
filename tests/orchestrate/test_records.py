"""What the controller remembers, in memory, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from orchestrate.audit import verify_log
from orchestrate.database import SqlRecords
from orchestrate.driver import Verb
from orchestrate.memory import MemoryRecords
from orchestrate.plan import Mark, PlanKind
from orchestrate.records import (
    Action,
    Approval,
    AuditEntry,
    Hold,
    Lease,
    Outcome,
    Records,
    Run,
    Rung,
    Seen,
    StaleLease,
)
from orchestrate.schema import open_orchestrate_db
from orchestrate.tables import metadata
from reports.verdicts import Verdict
from tests.orchestrate.databases import a_fleet, open_copy
from tests.orchestrate.fakes import GIB, NOW_S, a_lease, a_plan, a_step, an_entry, ref
from tests.postgres import postgres_database

SQL = ["sqlite", pytest.param("postgresql", marks=pytest.mark.real)]


@pytest.fixture(scope="module")
def postgres(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    """A server's fleet with the controller's tables."""
    folder = tmp_path_factory.mktemp("postgres")
    with postgres_database(pytestconfig) as url:
        a_fleet(url, folder)
        made = open_orchestrate_db(url, folder)
        yield made
        made.dispose()


@contextmanager
def opened(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[sa.Engine]:
    """An engine of `kind` over a database without any row."""
    if kind == "sqlite":
        made = open_copy(folder)
        yield made
        made.dispose()
        return
    server: sa.Engine = request.getfixturevalue("postgres")
    with server.begin() as connection:
        # The way of a superuser who means it: the triggers are what stands against everybody else.
        connection.exec_driver_sql("ALTER TABLE control_audit DISABLE TRIGGER USER")
        connection.exec_driver_sql(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY")
        connection.exec_driver_sql("ALTER TABLE control_audit ENABLE TRIGGER USER")
    yield server


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """Of the kind asked for."""
    with opened(request.param, request, tmp_path) as made:
        yield made


@pytest.fixture(params=["memory", *SQL])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Records]:
    """Without anything in it."""
    if request.param == "memory":
        yield MemoryRecords()
        return
    with opened(request.param, request, tmp_path) as made:
        yield SqlRecords(made)


def a_run(run_id: str = "r1", plan_sha256: str = "a" * 64) -> Run:
    return Run(run_id=run_id, plan_sha256=plan_sha256, kind=PlanKind.RECLAIM, by="ann", begun_s=NOW_S)


def begun(records: Records, lease: Lease, verb: Verb | Mark = Verb.SUSPEND, number: int = 1) -> Action:
    """An action of the run r1, which is begun where need be."""
    if records.find_run("r1") is None:
        records.begin_run(a_run(), lease, now_s=NOW_S)
    return records.intend("r1", a_step(verb, number), lease, now_s=NOW_S + 1)


def log(records: Records) -> list[AuditEntry]:
    return list(records.audit(limit=10_000))


def told(records: Records) -> list[str]:
    return [entry.what for entry in log(records)]


def test_one_holder_at_a_time(records: Records) -> None:
    """Nobody gets a lease that another holds; its own holder gets it anew with a greater token; then it runs out."""
    first = a_lease(records)
    assert first == Lease(holder="a", token=1, expires_s=NOW_S + 60)
    assert records.acquire("b", now_s=NOW_S + 59.9, life_s=60) is None
    again = a_lease(records, now_s=NOW_S + 59.9)
    assert again.token == 2
    assert records.leader() == again
    assert records.acquire("b", now_s=NOW_S + 119, life_s=60) is None
    assert a_lease(records, "b", now_s=NOW_S + 119.9).token == 3


def test_the_last_order_is_what_reached_the_hypervisor_last(records: Records) -> None:
    """Of this very VM; marks, refusals and what was left alone are no orders, what is open may have been one."""
    lease = a_lease(records)
    assert records.last_order(ref(1)) is None
    outcomes: list[tuple[Verb | Mark, int, Outcome]] = [
        (Verb.SUSPEND, 1, Outcome.DONE),
        (Verb.RESUME, 2, Outcome.DONE),
        (Mark.UNMARK, 1, Outcome.DONE),
        (Verb.STOP, 1, Outcome.FAILED),
        (Verb.STOP, 1, Outcome.SKIPPED),
    ]
    for verb, number, outcome in outcomes:
        records.settle(begun(records, lease, verb, number), outcome, "so", by="a", now_s=NOW_S + 2)
    found = records.last_order(ref(1))
    assert found is not None
    assert (found.action_id, found.step.verb, found.outcome) == (1, Verb.SUSPEND, Outcome.DONE)
    assert records.last_order(replace(ref(1), driver="la_")) is None
    assert records.last_order(ref(1)) == found
    opened = begun(records, lease, Verb.RESUME)
    assert records.last_order(ref(1)) == opened


def test_a_lease_is_renewed_and_released(records: Records) -> None:
    """Renewing moves the end and keeps the token; a released lease is free at once, and tokens go on from there."""
    lease = a_lease(records)
    renewed = records.renew(lease, now_s=NOW_S + 50, life_s=60)
    assert renewed == replace(lease, expires_s=NOW_S + 110)
    records.release(lease, now_s=NOW_S + 51)
    assert records.leader() == replace(lease, expires_s=NOW_S + 51)
    with pytest.raises(StaleLease, match="ran out"):
        records.renew(lease, now_s=NOW_S + 51, life_s=60)
    assert a_lease(records, "b", now_s=NOW_S + 51).token == 2
    before = log(records)
    records.release(lease, now_s=NOW_S + 52)
    assert log(records) == before
    assert records.acquire("c", now_s=NOW_S + 53, life_s=60) is None


WRITES: list[Callable[[Records, Lease, float], object]] = [
    lambda records, lease, now_s: records.renew(lease, now_s=now_s, life_s=60),
    lambda records, lease, now_s: records.begin_run(a_run("r2", "b" * 64), lease, now_s=now_s),
    lambda records, lease, now_s: records.end_run("r1", lease, now_s=now_s),
    lambda records, lease, now_s: records.intend("r1", a_step(number=2), lease, now_s=now_s),
]


@pytest.mark.parametrize("write", WRITES, ids=["renew", "begin_run", "end_run", "intend"])
@pytest.mark.parametrize("is_followed", [True, False], ids=["followed", "run out"])
def test_a_stale_lease_writes_nothing(
    records: Records, write: Callable[[Records, Lease, float], object], is_followed: bool
) -> None:
    """Neither one that ran out nor one with a successor: everything is as it was, audit log included."""
    lease = a_lease(records)
    begun(records, lease)
    now_s = NOW_S + 60
    if is_followed:
        a_lease(records, "b", now_s=now_s)
    before = (log(records), records.runs(), records.actions("r1"), records.leader())
    with pytest.raises(StaleLease, match="followed by 2 of b" if is_followed else "ran out"):
        write(records, lease, now_s + 1)
    assert (log(records), records.runs(), records.actions("r1"), records.leader()) == before


def test_plans_are_kept_once(records: Records) -> None:
    """A plan comes back equal, by hash and by its beginning, the newest first, and is told of once."""
    plans = [a_plan(a_step(number=number)) for number in (1, 2, 3)]
    hashes = [records.add_plan(plan) for plan in plans]
    assert records.add_plan(plans[0]) == plans[0].sha256
    assert hashes == [plan.sha256 for plan in plans]
    assert records.plans() == [plans[2], plans[1], plans[0]]
    assert records.plans(limit=1) == [plans[2]]
    assert records.find_plans(hashes[1]) == [plans[1]]
    assert records.find_plans(hashes[1][:10]) == [plans[1]]
    assert list(records.find_plans("")) == plans
    assert records.find_plans("%") == records.find_plans("_") == []
    assert told(records) == ["plan"] * 3


def test_approvals_stand_once_each(records: Records) -> None:
    """In the order in which they came; a second one of one person changes nothing."""
    first = Approval(plan_sha256="a" * 64, by="ann", at_s=NOW_S)
    second = Approval(plan_sha256="a" * 64, by="bob", at_s=NOW_S - 5)
    for approval in (first, second, replace(first, at_s=NOW_S + 9), replace(first, plan_sha256="b" * 64)):
        records.approve(approval)
    assert records.approvals("a" * 64) == [first, second]
    assert told(records) == ["approval"] * 3


def test_a_checked_approval_replaces_an_unchecked_one(records: Records) -> None:
    """Who logs in after having said yes without is told as such; the other way round nothing is lost."""
    said = Approval(plan_sha256="a" * 64, by="ann", at_s=NOW_S)
    checked = replace(said, at_s=NOW_S + 5, account="ann")
    for approval in (said, checked, replace(said, at_s=NOW_S + 9)):
        records.approve(approval)
    assert records.approvals("a" * 64) == [checked]
    assert told(records) == ["approval"] * 2


def test_a_plan_runs_once(records: Records) -> None:
    """Not while it runs, and not after it began one step; a run that was refused whole leaves it free."""
    lease = a_lease(records)
    records.begin_run(a_run("r1"), lease, now_s=NOW_S)
    with pytest.raises(ValueError, match="applied before, by run r1"):
        records.begin_run(a_run("r2"), lease, now_s=NOW_S)
    records.end_run("r1", lease, now_s=NOW_S + 1, words="refused")
    records.begin_run(a_run("r2"), lease, now_s=NOW_S + 2)
    action = records.intend("r2", a_step(), lease, now_s=NOW_S + 3)
    records.settle(action, Outcome.SKIPPED, "busy", by="ann", now_s=NOW_S + 3)
    records.end_run("r2", lease, now_s=NOW_S + 4)
    with pytest.raises(ValueError, match="applied before, by run r2"):
        records.begin_run(a_run("r3"), lease, now_s=NOW_S + 5)
    with pytest.raises(ValueError, match="a run r2 already"):
        records.begin_run(a_run("r2", "b" * 64), lease, now_s=NOW_S + 5)
    first = replace(a_run("r1"), ended_s=NOW_S + 1, words="refused")
    assert records.runs() == [replace(a_run("r2"), ended_s=NOW_S + 4), first]
    assert records.runs(limit=1) == [replace(a_run("r2"), ended_s=NOW_S + 4)]
    assert records.find_run("r1") == first
    assert records.find_run("r3") is None


@pytest.mark.parametrize("verb", [*Verb, *Mark])
def test_an_action_is_kept_whole(records: Records, verb: Verb | Mark) -> None:
    """Every field of its step and what became of it come back."""
    lease = a_lease(records)
    action = begun(records, lease, verb)
    assert (action.step, action.lease_token, action.outcome) == (a_step(verb), lease.token, None)
    assert records.actions("r1") == records.unsettled() == [action]
    done = records.settle(action, Outcome.DONE, "it is", by="ann", now_s=NOW_S + 2)
    assert done == replace(action, outcome=Outcome.DONE, settled_s=NOW_S + 2, words="it is")
    assert records.actions("r1") == [done]
    assert records.unsettled() == []


def test_actions_are_found_by_time_and_by_what_is_open(records: Records) -> None:
    """Limits count from a time on, that moment included; open are those without an outcome and those not known."""
    lease = a_lease(records)
    records.begin_run(a_run(), lease, now_s=NOW_S)
    actions = [records.intend("r1", a_step(number=each), lease, now_s=NOW_S + each) for each in (1, 2, 3)]
    assert records.actions_since(NOW_S + 2) == actions[1:]
    unknown = records.settle(actions[0], Outcome.UNKNOWN, "who knows", by="ann", now_s=NOW_S + 9)
    records.settle(actions[1], Outcome.FAILED, "no", by="ann", now_s=NOW_S + 9)
    assert records.unsettled() == [unknown, actions[2]]
    assert records.actions("r2") == []


@pytest.mark.parametrize(
    ("first", "second", "stands"),
    [
        (Outcome.UNKNOWN, Outcome.DONE, Outcome.DONE),
        (Outcome.UNKNOWN, Outcome.FAILED, Outcome.FAILED),
        (Outcome.DONE, Outcome.UNKNOWN, Outcome.DONE),
        (Outcome.DONE, Outcome.DONE, Outcome.DONE),
        (Outcome.SKIPPED, Outcome.FAILED, Outcome.SKIPPED),
        (Outcome.FAILED, Outcome.SKIPPED, Outcome.FAILED),
        # Two controllers looked and saw different things: nobody acts on that VM until a person has looked.
        (Outcome.FAILED, Outcome.DONE, Outcome.UNKNOWN),
        (Outcome.SKIPPED, Outcome.DONE, Outcome.UNKNOWN),
        (Outcome.DONE, Outcome.FAILED, Outcome.UNKNOWN),
    ],
)
def test_an_outcome_told_twice(records: Records, first: Outcome, second: Outcome, stands: Outcome) -> None:
    """What is known is kept, what is learned replaces UNKNOWN, contradictions are UNKNOWN; all of it is logged."""
    action = begun(records, a_lease(records))
    known = records.settle(action, first, "one", by="a", now_s=NOW_S + 2)
    now = records.settle(action, second, "two", by="b", now_s=NOW_S + 3)
    assert now.outcome is stands
    assert records.actions("r1") == [now]
    assert (now == known) is (stands is first)
    assert bool(records.unsettled()) is (stands is Outcome.UNKNOWN)
    assert told(records)[-2:] == ["outcome", "outcome"]


def test_settling_what_there_is_not(records: Records) -> None:
    """An action that was never intended has no outcome."""
    action = begun(records, a_lease(records))
    for action_id in (0, -1, action.action_id + 1):
        with pytest.raises(ValueError, match="no action"):
            records.settle(replace(action, action_id=action_id), Outcome.DONE, "", by="ann", now_s=NOW_S)


@pytest.mark.parametrize("outcome", Outcome)
def test_the_ladder_moves_with_what_was_done_alone(records: Records, outcome: Outcome) -> None:
    """A VM stands where the step leads once it is done; nothing else moves it."""
    lease = a_lease(records)
    records.put_entry(an_entry(), by="ann", now_s=NOW_S)
    assert records.find_entry(ref()) == an_entry()
    lower = an_entry(rung=Rung.SUSPEND)
    records.settle(begun(records, lease), outcome, "", by="ann", now_s=NOW_S, entry=lower)
    expected = lower if outcome is Outcome.DONE else an_entry()
    assert records.entries() == {ref(): expected}
    for verb in (Verb.MIGRATE_LIVE, Verb.SUSPEND, Mark.NOTIFY):
        records.settle(begun(records, lease, verb), outcome, "", by="ann", now_s=NOW_S)
        assert records.find_entry(ref()) == expected
    for verb in (Verb.RESUME, Verb.START, Mark.UNMARK):
        records.put_entry(expected, by="ann", now_s=NOW_S)
        records.settle(begun(records, lease, verb), outcome, "", by="ann", now_s=NOW_S)
        assert (records.find_entry(ref()) is None) is (outcome is Outcome.DONE)


def test_a_second_outcome_does_not_move_the_ladder_again(records: Records) -> None:
    """An owner objected between two tellings of one outcome: the VM stays off the ladder."""
    action = begun(records, a_lease(records))
    records.settle(action, Outcome.DONE, "", by="a", now_s=NOW_S, entry=an_entry())
    records.drop_entry(ref(), by="owner", now_s=NOW_S, words="keep it")
    records.settle(action, Outcome.DONE, "", by="b", now_s=NOW_S, entry=an_entry())
    assert records.entries() == {}


def test_entries_come_and_go(records: Records) -> None:
    """One a VM, whole; what is dropped twice is told of once."""
    bare = replace(an_entry(2), marked_s=None, notified_s=None, due_s=None, boot=None, run_id=None)
    for entry in (an_entry(), bare, an_entry(rung=Rung.STOP)):
        records.put_entry(entry, by="ann", now_s=NOW_S)
    assert records.entries() == {ref(): an_entry(rung=Rung.STOP), ref(2): bare}
    records.drop_entry(ref(), by="ann", now_s=NOW_S, words="in use")
    records.drop_entry(ref(), by="ann", now_s=NOW_S, words="in use")
    assert records.entries() == {ref(2): bare}
    assert told(records) == ["ladder"] * 3 + ["off the ladder"]


def test_what_was_seen_is_replaced_whole(records: Records) -> None:
    """Nothing of an earlier look is left, and an empty look leaves nothing."""
    assert records.seen() == {}
    seen = {f"agent-{verdict}": Seen(verdict=verdict, seen_s=NOW_S) for verdict in Verdict}
    records.put_seen(seen)
    assert records.seen() == seen
    later = {"agent-x": Seen(verdict=Verdict.IDLE, seen_s=NOW_S + 1)}
    records.put_seen(later)
    assert records.seen() == later
    records.put_seen({})
    assert records.seen() == {}


def test_holds_count_until_they_end(records: Records) -> None:
    """By id, each once, none at or after its end; dropping what is not there is nothing."""
    holds = [
        Hold(
            hold_id=hold_id,
            driver="lab",
            host_id="hv1",
            vcpus=2.5,
            mem_bytes=900 * GIB,
            what="vm1 on its way",
            made_s=NOW_S,
            expires_s=NOW_S + 10,
        )
        for hold_id in ("b", "a")
    ]
    for hold in holds:
        records.put_hold(hold, by="ann")
    assert records.holds(NOW_S) == [holds[1], holds[0]]
    longer = replace(holds[0], expires_s=NOW_S + 20)
    records.put_hold(longer, by="ann")
    assert records.holds(NOW_S + 10) == [longer]
    for _ in range(2):
        records.drop_hold("b", by="ann", now_s=NOW_S)
    assert records.holds(NOW_S) == [holds[1]]
    assert told(records) == ["hold"] * 3 + ["hold dropped"]


def everything(records: Records) -> None:
    """One of each thing that is told."""
    lease = a_lease(records)
    records.add_plan(a_plan(a_step()))
    records.approve(Approval(plan_sha256="a" * 64, by="Zoë", at_s=NOW_S))
    for verb in (Verb.SUSPEND, Verb.MIGRATE_LIVE, Verb.RESUME):
        action = begun(records, lease, verb)
        records.settle(action, Outcome.DONE, "it\u2028is", by="ann", now_s=NOW_S + 2.25, entry=an_entry())
    records.settle(action, Outcome.FAILED, "no", by="ann", now_s=NOW_S + 2.5)
    records.drop_entry(ref(), by="ann", now_s=NOW_S + 3, words="in use")
    records.put_seen({"agent-1": Seen(verdict=Verdict.IDLE, seen_s=NOW_S)})
    records.note("refused", {"why": ["a", None, 1.5], "é": True}, who="watch", now_s=int(NOW_S) + 4)
    records.end_run("r1", lease, now_s=NOW_S + 5, words="done")
    records.release(lease, now_s=NOW_S + 6)


def test_every_kind_of_records_tells_the_same(records: Records) -> None:
    """The log of the same doings is the same to the last hash, wherever it is kept, and it holds."""
    memory = MemoryRecords()
    everything(memory)
    everything(records)
    assert log(records) == log(memory)
    assert records.anchors() == memory.anchors()
    assert len(records.anchors()) == 2
    verified = verify_log(lambda after, limit: records.audit(after=after, limit=limit), records.anchors(), page=3)
    assert (verified.lines, verified.broken) == (len(log(memory)), None)


def test_the_log_is_read_in_pages(records: Records) -> None:
    """After a number and no more than asked for."""
    for number in range(5):
        records.note("note", {"n": number}, who="ann", now_s=NOW_S)
    assert [entry.number for entry in records.audit(after=2, limit=2)] == [3, 4]
    assert [entry.number for entry in records.audit(after=4)] == [5]
    assert records.audit(after=5) == []


@pytest.mark.parametrize("engine", SQL, indirect=True)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE control_audit SET who = 'bob' WHERE number = 1",
        "DELETE FROM control_audit WHERE number = 2",
        "DELETE FROM control_audit",
        "REPLACE INTO control_audit SELECT number, 1.0, who, what, body, sha256 FROM control_audit WHERE number = 1",
        "TRUNCATE control_audit",
    ],
)
def test_the_log_is_append_only(engine: sa.Engine, statement: str) -> None:
    """The database itself refuses every change of a line that is there."""
    theirs = {"REPLACE": "sqlite", "TRUNCATE": "postgresql"}.get(statement.split(maxsplit=1)[0], engine.dialect.name)
    if theirs != engine.dialect.name:
        statement = "DELETE FROM control_audit WHERE number = 1"
    records = SqlRecords(engine)
    everything(records)
    before = log(records)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.exec_driver_sql(statement)
    assert log(records) == before


@pytest.mark.parametrize("engine", SQL, indirect=True)
def test_many_writers_keep_one_chain(engine: sa.Engine) -> None:
    """Threads that write at once leave a log whose every line follows from the one before; one gets the lease."""
    records, granted = SqlRecords(engine), []

    def write(name: str) -> None:
        granted.append(records.acquire(name, now_s=NOW_S, life_s=60))
        for number in range(5):
            records.note("note", {"n": number}, who=name, now_s=NOW_S)

    threads = [threading.Thread(target=write, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lease.token for lease in granted if lease is not None] == [1]
    verified = verify_log(lambda after, limit: records.audit(after=after, limit=limit))
    assert (verified.lines, verified.broken) == (21, None)


@pytest.mark.real
def test_postgresql_commits_to_disk_and_lets_no_dead_writer_block(postgres: sa.Engine) -> None:
    """A write asks for a commit that is on disk, and the server ends the transaction of a writer that stands still."""
    with SqlRecords(postgres)._writing() as connection:
        settings = {
            name: connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("synchronous_commit", "idle_in_transaction_session_timeout", "lock_timeout")
        }
    assert settings == {
        "synchronous_commit": "on",
        "idle_in_transaction_session_timeout": "10s",
        "lock_timeout": "10s",
    }


def test_sqlite_commits_to_disk(tmp_path: Path) -> None:
    """Every commit is synced: FULL is 2."""
    engine = open_copy(tmp_path)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    engine.dispose()


def test_records_outlive_the_program(tmp_path: Path) -> None:
    """What one program wrote, leases and open intents included, the next one reads, and its token is greater."""
    engine = open_copy(tmp_path)
    action = begun(SqlRecords(engine), a_lease(SqlRecords(engine)))
    engine.dispose()
    engine = open_orchestrate_db(None, tmp_path)
    records = SqlRecords(engine)
    assert records.unsettled() == [action]
    assert records.acquire("b", now_s=NOW_S + 1, life_s=60) is None
    assert a_lease(records, now_s=NOW_S + 1).token == 2
    engine.dispose()
