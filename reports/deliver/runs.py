"""What became of each delivery: the table `delivery`, and which changes of its rows are allowed.

A row is made when a delivery is due and is `pending` until it is `sent` or `failed`. Whoever takes a try on itself
writes so first: the try counts from then on, and until its lease ends nobody else begins another. So a process that
is killed midway costs one try, and the row is found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from aggregator.fleet_db import reading
from reports.tables import delivery
from reports.words import iso_time

# After each failed try but the last.
RETRY_AFTER_S = (60.0, 300.0, 900.0, 3600.0, 14_400.0)
# Longer than a report takes to make and the two time-outs of a connection together.
LEASE_S = 900.0
_AT_ONCE = "once-"
_ABANDONED_AFTER_S = 86_400.0
_FORGOTTEN_AFTER_S = 400 * 86_400.0


class State(StrEnum):
    """Of one run of a delivery."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A delivery that was due once: a row of the table.

    Attributes:
        target: for people.
        attempt: number of the try that runs or ran last, from 1.
        next_attempt_s: when the next try may begin, Unix seconds; while one runs, the end of its lease. None when there
            will be none.
        problem: of the last try, or why it was given up.
        report_key: one for each time it is due.
        subject: of what was sent.
    """

    id: int
    name: str
    kind: str
    target: str
    due_s: float
    attempt: int
    next_attempt_s: float | None
    state: State
    problem: str | None
    finished_s: float | None
    report_key: str
    subject: str | None

    @property
    def delivery_id(self) -> str:
        """The same at each try, and no other run has it."""
        return f"{self.name}/{self.report_key}"


def report_key(due_s: float) -> str:
    """`2026-11-21T07:00Z`: the minute, the same in every time zone."""
    return f"{datetime.fromtimestamp(due_s, UTC):%Y-%m-%dT%H:%MZ}"


def key_at_once(now_s: float) -> str:
    """Of a delivery that somebody asked for: no scheduled one has its like."""
    return f"{_AT_ONCE}{iso_time(now_s)}-{int(now_s * 1e6) % 1_000_000:06d}"


def after_failure(attempt: int, now_s: float, *, retry: bool) -> tuple[State, float | None]:
    """State after try number `attempt` failed, and when the next may begin.

    Args: retry: whether another one makes sense at all.
    """
    if retry and attempt <= len(RETRY_AFTER_S):
        return State.PENDING, now_s + RETRY_AFTER_S[attempt - 1]
    return State.FAILED, None


class Deliveries:
    """The table. Blocking; any thread or process may have one. Raises what the database raises."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def begin(
        self, name: str, kind: str, target: str, due_s: float, report_key: str, *, now_s: float, retries: bool = True
    ) -> Run | None:
        """A new run whose first try the caller has taken; None when the run exists, whoever has begun it.

        Older runs of the same name that wait for a retry end: their report would be the same as this one's.

        Args: retries: False: this try is the only one, and older runs go on waiting for theirs.
        """
        values: dict[str, Any] = {
            "name": name,
            "kind": kind,
            "target": target,
            "due_s": due_s,
            "attempt": 1,
            "next_attempt_s": now_s + LEASE_S if retries else None,
            "state": State.PENDING.value,
            "report_key": report_key,
        }
        try:
            with self._engine.begin() as connection:
                inserted = connection.execute(sa.insert(delivery).values(values).returning(delivery)).one()
                _tidy(connection, _run(inserted), now_s)
        except sa.exc.IntegrityError:
            if not self.exists(name, report_key):
                raise
            return None
        return _run(inserted)

    def claim(self, run: Run, *, now_s: float) -> Run | None:
        """The next try of a run that is due, now the caller's; None when another was quicker or no try is left."""
        last = run.attempt > len(RETRY_AFTER_S)
        taken = replace(run, attempt=run.attempt + 1, next_attempt_s=now_s + LEASE_S)
        if last:
            # Its lease has ended, so whoever had it was killed.
            problem = run.problem or "the last try was cut off"
            taken = replace(run, state=State.FAILED, next_attempt_s=None, finished_s=now_s, problem=problem)
        is_ours = self._change(_this_try(run), taken)
        return taken if is_ours and not last else None

    def record_success(self, run: Run, *, subject: str, now_s: float) -> Run:
        """It was sent: that stands, even if another has meanwhile given it up or tried again."""
        sent = replace(run, state=State.SENT, next_attempt_s=None, problem=None, finished_s=now_s, subject=subject)
        self._change(sa.update(delivery).where(delivery.c.id == run.id), sent)
        return sent

    def record_failure(self, run: Run, problem: str, *, retry: bool, now_s: float) -> Run:
        """The try failed. Changes nothing when the run is no longer the caller's. Returns it as the caller sees it."""
        # Without a time for the next try nobody was to have one.
        state, next_attempt_s = after_failure(run.attempt, now_s, retry=retry and run.next_attempt_s is not None)
        finished_s = now_s if state is State.FAILED else None
        failed = replace(run, state=state, next_attempt_s=next_attempt_s, problem=problem, finished_s=finished_s)
        self._change(_this_try(run), failed)
        return failed

    def due(self, name: str, *, now_s: float) -> list[Run]:
        """Runs of this name that may be tried again now, oldest first."""
        return self._select(
            delivery.c.name == name,
            delivery.c.state == State.PENDING.value,
            delivery.c.next_attempt_s <= now_s,
            order=delivery.c.id.asc(),
        )

    def exists(self, name: str, report_key: str) -> bool:
        """Whether anybody has begun this run."""
        return bool(self._select(delivery.c.name == name, delivery.c.report_key == report_key, limit=1))

    def was_scheduled(self, name: str) -> bool:
        """Whether a run of this name was ever begun because it was due."""
        return bool(self._select(delivery.c.name == name, delivery.c.report_key.not_like(f"{_AT_ONCE}%"), limit=1))

    def last(self, name: str) -> Run | None:
        """The newest run of this name."""
        found = self._select(delivery.c.name == name, limit=1)
        return found[0] if found else None

    def last_sent_due_s(self, name: str) -> float | None:
        """When the last report of this name that was sent had been due, Unix seconds; None: none was sent.

        It was made then or later: what has happened since it was made has happened since then.
        """
        is_sent = delivery.c.state == State.SENT.value
        found = self._select(delivery.c.name == name, is_sent, order=delivery.c.due_s.desc(), limit=1)
        return found[0].due_s if found else None

    def recent(self, limit: int) -> list[Run]:
        """The newest runs of all names, the newest first."""
        return self._select(limit=limit)

    def _change(self, which: sa.Update, run: Run) -> bool:
        """Makes the row what `run` has; whether there was one."""
        values = {
            "attempt": run.attempt,
            "next_attempt_s": run.next_attempt_s,
            "state": run.state.value,
            "problem": run.problem,
            "finished_s": run.finished_s,
            "subject": run.subject,
        }
        with self._engine.begin() as connection:
            return connection.execute(which.values(values)).rowcount == 1

    def _select(
        self,
        *where: sa.ColumnElement[bool],
        order: sa.ColumnElement[Any] | None = None,
        limit: int | None = None,
    ) -> list[Run]:
        query = sa.select(delivery).where(*where).order_by(delivery.c.id.desc() if order is None else order)
        with reading(self._engine) as connection:
            rows: Sequence[sa.Row[Any]] = connection.execute(query.limit(limit)).all()
        return [_run(row) for row in rows]


def _this_try(run: Run) -> sa.Update:
    """Of the row only while it stands as `run` has it."""
    return sa.update(delivery).where(
        delivery.c.id == run.id, delivery.c.state == State.PENDING.value, delivery.c.attempt == run.attempt
    )


def _tidy(connection: sa.Connection, new: Run, now_s: float) -> None:
    """Ends what nobody tries any more, and forgets what nobody asks about any more."""
    waiting = sa.and_(delivery.c.state == State.PENDING.value, delivery.c.id != new.id)
    # Only by one that is tried as often as they would have been.
    is_lasting = sa.literal(new.next_attempt_s is not None)
    superseded = sa.and_(waiting, is_lasting, delivery.c.name == new.name, delivery.c.due_s < new.due_s)
    # Its name is gone from the settings, or it was asked for by somebody who was interrupted.
    since_s = sa.func.coalesce(delivery.c.next_attempt_s, delivery.c.due_s)
    abandoned = sa.and_(waiting, since_s < now_s - _ABANDONED_AFTER_S)
    for which, why in ((superseded, "given up: a newer report was due"), (abandoned, "given up: nobody tried again")):
        connection.execute(
            sa.update(delivery)
            .where(which)
            .values(
                state=State.FAILED.value,
                next_attempt_s=None,
                finished_s=now_s,
                problem=sa.func.coalesce(delivery.c.problem + "; ", "") + why,
            )
        )
    connection.execute(sa.delete(delivery).where(delivery.c.finished_s < now_s - _FORGOTTEN_AFTER_S))


def _run(row: sa.Row[Any]) -> Run:
    values = dict(row._mapping)
    return Run(**{**values, "state": State(values["state"])})
