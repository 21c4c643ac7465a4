"""`Records` in the fleet database, on SQLite and PostgreSQL.

Whatever is written is written alone: SQLite takes its write lock at BEGIN, and on PostgreSQL a transaction locks the
audit log first. So the lease that a write checks is the newest one until it commits, lines of the audit log come one
after the other, and no two writers can wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from typing import Any

import sqlalchemy as sa

from aggregator.fleet_db import reading
from orchestrate import audit_lines, leases, tables
from orchestrate.audit import GENESIS, anchor_of, canonical, seal
from orchestrate.audit_lines import Line
from orchestrate.inventory import VmRef
from orchestrate.outcomes import GIVES_BACK, is_order, resettled
from orchestrate.plan import Plan, Step, decode_plan, decode_step, encode_plan, encode_step
from orchestrate.records import (
    Action,
    Anchor,
    Approval,
    AuditEntry,
    Entry,
    Hold,
    Lease,
    Outcome,
    Run,
    Rung,
    Seen,
    StaleLease,
)
from reports.verdicts import Verdict
from reports.words import duration_words

# A controller that was stopped midway must not hold up its successor: the server ends its transaction.
_POSTGRES_STALLED = "10s"
_POSTGRES_SETTINGS = sa.select(
    sa.func.set_config("lock_timeout", _POSTGRES_STALLED, True),
    sa.func.set_config("idle_in_transaction_session_timeout", _POSTGRES_STALLED, True),
    # An intent has to be on disk before anything is asked of a hypervisor, whatever the server's default is.
    sa.func.set_config(
        "synchronous_commit",
        sa.case(
            (sa.func.current_setting("synchronous_commit") == "off", "on"),
            else_=sa.func.current_setting("synchronous_commit"),
        ),
        True,
    ),
)


# Two controllers' clocks are then less apart than what is left of a lease that is renewed in time.
MAX_CLOCK_APART_S = 30.0


def check_clock(engine: sa.Engine, *, now_s: float) -> None:
    """Leases end by the clocks of those who hold them: one that is wrong would take another's while it holds.

    The database's clock is everybody's; a file of SQLite is on the machine of all that use it.

    Raises: StaleLease: this machine's clock is too far from the database's to lead by.
    """
    if engine.dialect.name != "postgresql":
        return
    with engine.connect() as connection:
        server_s = float(connection.scalar(sa.select(sa.func.extract("epoch", sa.func.clock_timestamp()))) or 0.0)
    apart_s = now_s - server_s
    if not abs(apart_s) <= MAX_CLOCK_APART_S:
        where = "ahead of" if apart_s > 0 else "behind"
        words = f"this machine's clock is {duration_words(abs(apart_s))} {where} the database's: it cannot lead"
        raise StaleLease(words)


class SqlRecords:
    """All of it in tables. Any thread or process may have one; errors of the database are SQLAlchemy's.

    Args: engine: of `schema.open_orchestrate_db`; one that only reads will do for what does not write.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def acquire(self, holder: str, *, now_s: float, life_s: float) -> Lease | None:
        with self._writing() as connection:
            known = _lease(connection)
            granted = leases.grant(known, holder, now_s=now_s, life_s=life_s)
            if granted is None:
                return None
            if known is None:
                connection.execute(sa.insert(tables.lease).values(id=1, **asdict(granted)))
            else:
                connection.execute(sa.update(tables.lease).values(**asdict(granted)))
            _tell(connection, audit_lines.lease_taken(granted, now_s))
        return granted

    def renew(self, lease: Lease, *, now_s: float, life_s: float) -> Lease:
        with self._writing(lease, now_s) as connection:
            connection.execute(sa.update(tables.lease).values(expires_s=now_s + life_s))
        return replace(lease, expires_s=now_s + life_s)

    def release(self, lease: Lease, *, now_s: float) -> None:
        with self._writing() as connection:
            held = sa.and_(tables.lease.c.token == lease.token, tables.lease.c.expires_s > now_s)
            if connection.execute(sa.update(tables.lease).where(held).values(expires_s=now_s)).rowcount:
                _tell(connection, audit_lines.lease_released(lease, now_s))

    def leader(self) -> Lease | None:
        with reading(self._engine) as connection:
            return _lease(connection)

    def add_plan(self, plan: Plan) -> str:
        sha256 = plan.sha256
        with self._writing() as connection:
            if connection.scalar(sa.select(tables.plan.c.number).where(tables.plan.c.sha256 == sha256)) is None:
                told = _tell(connection, audit_lines.plan_kept(plan, sha256))
                values = {"sha256": sha256, "body": encode_plan(plan), **_anchoring(told)}
                connection.execute(sa.insert(tables.plan).values(**values))
        return sha256

    def plans(self, *, limit: int = 20) -> Sequence[Plan]:
        return self._plans(sa.select(tables.plan.c.body).order_by(tables.plan.c.number.desc()).limit(limit))

    def find_plans(self, prefix: str) -> Sequence[Plan]:
        begins_so = tables.plan.c.sha256.startswith(prefix, autoescape=True)
        return self._plans(sa.select(tables.plan.c.body).where(begins_so).order_by(tables.plan.c.number))

    def approve(self, approval: Approval) -> None:
        table = tables.approval
        same = sa.and_(table.c.plan_sha256 == approval.plan_sha256, table.c.by == approval.by)
        with self._writing() as connection:
            known = connection.execute(sa.select(table.c.account).where(same)).first()
            if known is None:
                connection.execute(sa.insert(table).values(**asdict(approval)))
            elif known.account is None and approval.account is not None:
                checked = sa.update(table).where(same).values(account=approval.account, at_s=approval.at_s)
                connection.execute(checked)
            else:
                return
            _tell(connection, audit_lines.approved(approval))

    def approvals(self, plan_sha256: str) -> Sequence[Approval]:
        columns = (tables.approval.c[each.name] for each in fields(Approval))
        wanted = sa.select(*columns).where(tables.approval.c.plan_sha256 == plan_sha256)
        with reading(self._engine) as connection:
            rows = connection.execute(wanted.order_by(tables.approval.c.number)).mappings()
            return [Approval(**row) for row in rows]

    def begin_run(self, run: Run, lease: Lease, *, now_s: float) -> None:
        acted = sa.exists().where(tables.action.c.run_id == tables.run.c.run_id)
        in_the_way = sa.or_(
            tables.run.c.run_id == run.run_id,
            sa.and_(tables.run.c.plan_sha256 == run.plan_sha256, sa.or_(tables.run.c.ended_s.is_(None), acted)),
        )
        with self._writing(lease, now_s) as connection:
            known = connection.scalar(sa.select(tables.run.c.run_id).where(in_the_way).limit(1))
            if known == run.run_id:
                raise ValueError(f"there is a run {run.run_id} already")
            if known is not None:
                raise ValueError(f"the plan was applied before, by run {known}")
            told = _tell(connection, audit_lines.run_begun(run, lease))
            connection.execute(sa.insert(tables.run).values(**asdict(run), **_anchoring(told)))

    def end_run(self, run_id: str, lease: Lease, *, now_s: float, words: str | None = None) -> None:
        with self._writing(lease, now_s) as connection:
            told = _tell(connection, audit_lines.run_ended(run_id, lease, now_s, words))
            ended = sa.update(tables.run).where(tables.run.c.run_id == run_id)
            connection.execute(ended.values(ended_s=now_s, words=words, **_anchoring(told)))

    def runs(self, *, limit: int = 20) -> Sequence[Run]:
        return self._runs(sa.select(*_RUN_COLUMNS).order_by(tables.run.c.number.desc()).limit(limit))

    def find_run(self, run_id: str) -> Run | None:
        return next(iter(self._runs(sa.select(*_RUN_COLUMNS).where(tables.run.c.run_id == run_id))), None)

    def intend(self, run_id: str, step: Step, lease: Lease, *, now_s: float) -> Action:
        values = {"run_id": run_id, "begun_s": now_s, "lease_token": lease.token}
        with self._writing(lease, now_s) as connection:
            inserted = sa.insert(tables.action).values(**values, step=encode_step(step))
            action_id = connection.scalar(inserted.returning(tables.action.c.action_id))
            assert action_id is not None
            action = Action(action_id=action_id, run_id=run_id, step=step, begun_s=now_s, lease_token=lease.token)
            _tell(connection, audit_lines.intended(action, lease))
        return action

    def settle(
        self, action: Action, outcome: Outcome, words: str, *, by: str, now_s: float, entry: Entry | None = None
    ) -> Action:
        this = tables.action.c.action_id == action.action_id
        with self._writing() as connection:
            row = connection.execute(sa.select(tables.action).where(this)).mappings().one_or_none()
            if row is None:
                raise ValueError(f"there is no action {action.action_id}")
            known = _action(row)
            stands = resettled(known, outcome, words, now_s=now_s)
            changed = {"outcome": stands.outcome, "settled_s": stands.settled_s, "words": stands.words}
            connection.execute(sa.update(tables.action).where(this).values(**changed))
            _tell(connection, audit_lines.settled(stands, outcome, words, by=by, now_s=now_s))
            if stands is not known and stands.outcome is Outcome.DONE:
                if entry is not None:
                    _put_entry(connection, entry, by=by, now_s=now_s)
                elif stands.step.verb in GIVES_BACK:
                    _drop_entry(connection, stands.step.ref, by=by, now_s=now_s, words=stands.step.verb)
        return stands

    def actions(self, run_id: str) -> Sequence[Action]:
        return self._actions(tables.action.c.run_id == run_id)

    def unsettled(self) -> Sequence[Action]:
        return self._actions(tables.IS_UNSETTLED)

    def actions_since(self, since_s: float) -> Sequence[Action]:
        return self._actions(tables.action.c.begun_s >= since_s)

    def last_order(self, ref: VmRef) -> Action | None:
        # As the canonical JSON of a step says it: hardly anybody asks, so that there is no column for it.
        of_vm = tables.action.c.step.contains(f'"ref":{canonical(asdict(ref))}', autoescape=True)
        return next((each for each in reversed(self._actions(of_vm)) if is_order(each)), None)

    def entries(self) -> Mapping[VmRef, Entry]:
        with reading(self._engine) as connection:
            return {entry.ref: entry for entry in _entries(connection, sa.true())}

    def find_entry(self, ref: VmRef) -> Entry | None:
        with reading(self._engine) as connection:
            return next(iter(_entries(connection, _of_vm(ref))), None)

    def put_entry(self, entry: Entry, *, by: str, now_s: float) -> None:
        with self._writing() as connection:
            _put_entry(connection, entry, by=by, now_s=now_s)

    def drop_entry(self, ref: VmRef, *, by: str, now_s: float, words: str) -> None:
        with self._writing() as connection:
            _drop_entry(connection, ref, by=by, now_s=now_s, words=words)

    def seen(self) -> Mapping[str, Seen]:
        with reading(self._engine) as connection:
            rows = connection.execute(sa.select(tables.seen))
            return {row.vm_id: Seen(verdict=Verdict(row.verdict), seen_s=row.seen_s) for row in rows}

    def put_seen(self, seen: Mapping[str, Seen]) -> None:
        rows = [{"vm_id": vm_id, "verdict": each.verdict.value, "seen_s": each.seen_s} for vm_id, each in seen.items()]
        with self._writing() as connection:
            connection.execute(sa.delete(tables.seen))
            if rows:
                connection.execute(sa.insert(tables.seen), rows)

    def holds(self, now_s: float) -> Sequence[Hold]:
        counts = sa.select(tables.hold).where(tables.hold.c.expires_s > now_s)
        with reading(self._engine) as connection:
            return sorted((Hold(**row) for row in connection.execute(counts).mappings()), key=lambda hold: hold.hold_id)

    def put_hold(self, hold: Hold, *, by: str) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(tables.hold).where(tables.hold.c.hold_id == hold.hold_id))
            connection.execute(sa.insert(tables.hold).values(**asdict(hold)))
            _tell(connection, audit_lines.hold_put(hold, by=by))

    def drop_hold(self, hold_id: str, *, by: str, now_s: float) -> None:
        with self._writing() as connection:
            if connection.execute(sa.delete(tables.hold).where(tables.hold.c.hold_id == hold_id)).rowcount:
                _tell(connection, audit_lines.hold_dropped(hold_id, by=by, now_s=now_s))

    def note(self, what: str, body: Mapping[str, object], *, who: str, now_s: float) -> None:
        with self._writing() as connection:
            _tell(connection, Line(at_s=now_s, who=who, what=what, body=body))

    def audit(self, *, after: int = 0, limit: int = 1000) -> Sequence[AuditEntry]:
        wanted = sa.select(tables.audit).where(tables.audit.c.number > after)
        with reading(self._engine) as connection:
            rows = connection.execute(wanted.order_by(tables.audit.c.number).limit(limit)).mappings()
            return [AuditEntry(**row) for row in rows]

    def anchors(self) -> Sequence[Anchor]:
        noted = (sa.select(table.c.audit_number, table.c.audit_sha256) for table in (tables.plan, tables.run))
        with reading(self._engine) as connection:
            rows = connection.execute(sa.union_all(*noted)).all()
        return [Anchor(number=number, sha256=sha256) for number, sha256 in sorted(tuple(row) for row in rows)]

    @contextmanager
    def _writing(self, lease: Lease | None = None, now_s: float = 0.0) -> Iterator[sa.Connection]:
        """A transaction that writes alone, under `lease` where one is needed. Raises: StaleLease."""
        with self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(_POSTGRES_SETTINGS)
                connection.exec_driver_sql("LOCK TABLE control_audit IN SHARE ROW EXCLUSIVE MODE")
            if lease is not None:
                leases.check(_lease(connection), lease, now_s=now_s)
            yield connection

    def _plans(self, statement: sa.Select[Any]) -> list[Plan]:
        with reading(self._engine) as connection:
            return [decode_plan(body) for body in connection.scalars(statement)]

    def _runs(self, statement: sa.Select[Any]) -> list[Run]:
        with reading(self._engine) as connection:
            return [Run(**row) for row in connection.execute(statement).mappings()]

    def _actions(self, condition: sa.ColumnElement[bool] | sa.TextClause) -> list[Action]:
        wanted = sa.select(tables.action).where(condition).order_by(tables.action.c.action_id)
        with reading(self._engine) as connection:
            return [_action(row) for row in connection.execute(wanted).mappings()]


_RUN_COLUMNS = tuple(
    tables.run.c[name] for name in ("run_id", "plan_sha256", "kind", "by", "begun_s", "ended_s", "words")
)


def _lease(connection: sa.Connection) -> Lease | None:
    columns = (tables.lease.c.holder, tables.lease.c.token, tables.lease.c.expires_s)
    row = connection.execute(sa.select(*columns)).mappings().one_or_none()
    return None if row is None else Lease(**row)


def _action(row: sa.RowMapping) -> Action:
    outcome = None if row["outcome"] is None else Outcome(row["outcome"])
    return Action(**{**row, "step": decode_step(row["step"]), "outcome": outcome})


def _of_vm(ref: VmRef) -> sa.ColumnElement[bool]:
    return sa.and_(tables.ladder.c.driver == ref.driver, tables.ladder.c.uuid == ref.uuid)


def _entries(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> Iterator[Entry]:
    for row in connection.execute(sa.select(tables.ladder).where(condition)).mappings():
        fields = dict(row)
        ref = VmRef(driver=fields.pop("driver"), uuid=fields.pop("uuid"))
        yield Entry(**{**fields, "ref": ref, "rung": Rung(fields["rung"])})


def _put_entry(connection: sa.Connection, entry: Entry, *, by: str, now_s: float) -> None:
    values = asdict(entry)
    values |= values.pop("ref")
    connection.execute(sa.delete(tables.ladder).where(_of_vm(entry.ref)))
    connection.execute(sa.insert(tables.ladder).values(**values))
    _tell(connection, audit_lines.ladder_put(entry, by=by, now_s=now_s))


def _drop_entry(connection: sa.Connection, ref: VmRef, *, by: str, now_s: float, words: str) -> None:
    for entry in list(_entries(connection, _of_vm(ref))):
        connection.execute(sa.delete(tables.ladder).where(_of_vm(ref)))
        _tell(connection, audit_lines.ladder_dropped(entry, words, by=by, now_s=now_s))


def _tell(connection: sa.Connection, line: Line) -> Anchor:
    """Appends a line to the audit log; what one notes of it."""
    table = tables.audit
    newest = sa.select(table.c.number, table.c.sha256).order_by(table.c.number.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    last = GENESIS if row is None else Anchor(number=row.number, sha256=row.sha256)
    entry = seal(last, at_s=float(line.at_s), who=line.who, what=line.what, body=canonical(line.body))
    connection.execute(sa.insert(table).values(**asdict(entry)))
    return anchor_of(entry)


def _anchoring(anchor: Anchor) -> dict[str, object]:
    return {"audit_number": anchor.number, "audit_sha256": anchor.sha256}
