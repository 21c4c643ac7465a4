"""The table of exemptions, and what is asked of it. Blocking; errors of the database are SQLAlchemy's."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import sqlalchemy as sa

from agent.wire import is_vm_id
from aggregator.fleet import vm, vm_summary
from aggregator.fleet_db import reading
from reports.exemptions import (
    AmbiguousVm,
    Exemption,
    ExemptionKind,
    ExemptionRefused,
    Kept,
    NotFound,
    UnknownVm,
    check_until,
    checked_text,
)
from reports.schema import has_report_tables
from reports.tables import exemption, reclaim_event
from reports.words import time_words


def read_in_force(connection: sa.Connection, now_s: float) -> list[Exemption]:
    """Exemptions that hold at `now_s`, the next to expire first; none where the report has no tables yet.

    Raises: ConfigError: the report's tables are those of another version.
    """
    return _read(connection, _in_force(now_s))


def has_changed(connection: sa.Connection, since_s: float, now_s: float) -> bool:
    """Whether an exemption was made, was ended or ran out from `since_s` to `now_s`.

    One that had expired and was given a new end is seen only where it keeps a single VM.

    Raises: ConfigError: the report's tables are those of another version.
    """
    if not has_report_tables(connection):
        return False
    ran_out = sa.and_(exemption.c.ended_s.is_(None), exemption.c.until_s > since_s, exemption.c.until_s <= now_s)
    changed = sa.exists().where(sa.or_(exemption.c.created_s >= since_s, exemption.c.ended_s >= since_s, ran_out))
    kept = sa.exists().where(reclaim_event.c.kind == "kept", reclaim_event.c.at_s >= since_s)
    return bool(connection.scalar(sa.select(sa.or_(changed, kept))))


class Exemptions:
    """The table `exemption`.

    Args:
        engine: of `schema.open_report_db`; one that only reads will do for `in_force`, `history` and the `find`s.
        make_id: a short text that is hardly the same twice.
    """

    def __init__(self, engine: sa.Engine, *, make_id: Callable[[], str] = lambda: secrets.token_hex(4)) -> None:
        self._engine = engine
        self._make_id = make_id

    def add(
        self,
        kind: ExemptionKind,
        subject: str,
        *,
        reason: str,
        owner: str,
        until_s: float,
        now_s: float,
        allow_unknown: bool = False,
    ) -> Kept:
        """Leaves a VM, or all that have a tag or a name, alone until `until_s`.

        Where the subject has an exemption in force, that one gets the new reason, owner and end instead.

        Args: allow_unknown: takes a VM id that the fleet database does not hold, too.

        Raises:
            ExemptionRefused: no owner, reason or subject, one that cannot be printed, or an `until_s` that is past or
                over ten years ahead.
            UnknownVm: the VM is not in the fleet.
        """
        subject = checked_text(kind, subject)
        reason = checked_text("reason", reason)
        owner = checked_text("owner", owner)
        check_until(until_s, now_s)
        if kind is ExemptionKind.VM and not is_vm_id(subject):
            raise ExemptionRefused(f"vm: {subject!r} is not a VM id")
        with self._writing() as connection:
            if kind is ExemptionKind.VM and not allow_unknown and not _is_known(connection, subject):
                raise UnknownVm(subject)
            current = _current(connection, kind, subject, now_s)
            if current is not None:
                kept = replace(current, reason=reason, owner=owner, until_s=until_s)
                _update(connection, kept)
            else:
                kept = Exemption(
                    id=self._new_id(connection),
                    kind=kind,
                    subject=subject,
                    reason=reason,
                    owner=owner,
                    created_s=now_s,
                    until_s=until_s,
                )
                connection.execute(sa.insert(exemption).values(**_row(kept)))
            _note_kept(connection, kept, now_s)
        return Kept(exemption=kept, is_renewal=current is not None)

    def renew(self, exemption_id: str, until_s: float, *, now_s: float) -> Exemption:
        """Gives an exemption a new end; one that has expired is in force again.

        Raises:
            ExemptionRefused: `until_s` as in `add`; or it has expired, and its subject has another by now.
            NotFound: there is none of this id, or somebody ended it.
        """
        check_until(until_s, now_s)
        with self._writing() as connection:
            renewed = replace(_not_ended(connection, exemption_id), until_s=until_s)
            current = _current(connection, renewed.kind, renewed.subject, now_s)
            if current is not None and current.id != renewed.id:
                raise ExemptionRefused(f"{exemption_id}: has expired, and {current.id} is in force in its place")
            _update(connection, renewed)
            _note_kept(connection, renewed, now_s)
        return renewed

    def end(self, exemption_id: str, by: str | None, *, now_s: float) -> Exemption:
        """Ends an exemption before its time.

        Args: by: who does; None where that is not known.

        Raises:
            ExemptionRefused: `by` is empty or cannot be printed.
            NotFound: there is none of this id, somebody ended it, or it has expired.
        """
        ended_by = None if by is None else checked_text("by", by)
        with self._writing() as connection:
            current = _not_ended(connection, exemption_id)
            if not current.is_in_force(now_s):
                raise NotFound(f"{exemption_id}: expired {time_words(current.until_s)}")
            ended = replace(current, ended_s=now_s, ended_by=ended_by)
            _update(connection, ended)
        return ended

    def in_force(self, now_s: float) -> list[Exemption]:
        """As `read_in_force`."""
        with reading(self._engine) as connection:
            return read_in_force(connection, now_s)

    def history(self) -> list[Exemption]:
        """Every exemption there ever was, the newest first."""
        with reading(self._engine) as connection:
            return _history(connection)

    def find(self, text: str) -> Exemption:
        """The exemption of this id; else that of the VM of this id or name: the last to expire that nobody ended.

        Raises: NotFound: there is none, or several VMs have the name.
        """
        with reading(self._engine) as connection:
            known = _history(connection)
            for one in known:
                if one.id == text:
                    return one
            own = [one for one in known if one.kind is ExemptionKind.VM and one.ended_s is None]
            # A VM may be kept that the fleet does not hold.
            is_subject = any(one.subject == text for one in own)
            vm_id = text if is_subject else _find_vm(connection, text)
        of_vm = [one for one in own if one.subject == vm_id]
        if not of_vm:
            raise NotFound(f"{text}: has no exemption of its own")
        return max(of_vm, key=lambda one: one.until_s)

    def find_vm(self, text: str) -> str:
        """The id of the VM that has it, or that alone has this name or host name. Raises UnknownVm, AmbiguousVm."""
        with reading(self._engine) as connection:
            return _find_vm(connection, text)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                # SQLite has its write lock by now; here two at once would both find a subject without exemption.
                connection.exec_driver_sql("LOCK TABLE exemption IN SHARE ROW EXCLUSIVE MODE")
            yield connection

    def _new_id(self, connection: sa.Connection) -> str:
        while _of_id(connection, made := self._make_id()) is not None:
            pass
        return made


def _in_force(now_s: float) -> sa.Select[Any]:
    """The same as `Exemption.is_in_force`."""
    return (
        sa.select(exemption)
        .where(exemption.c.ended_s.is_(None), exemption.c.until_s > now_s)
        .order_by(exemption.c.until_s, exemption.c.id)
    )


def _row(one: Exemption) -> dict[str, object]:
    return {field.name: getattr(one, field.name) for field in fields(one)} | {"kind": one.kind.value}


def _read(connection: sa.Connection, statement: sa.Select[Any]) -> list[Exemption]:
    if not has_report_tables(connection):
        return []
    rows = connection.execute(statement).mappings()
    return [Exemption(**{**row, "kind": ExemptionKind(row["kind"])}) for row in rows]


def _history(connection: sa.Connection) -> list[Exemption]:
    return _read(connection, sa.select(exemption).order_by(exemption.c.created_s.desc(), exemption.c.id))


def _of_id(connection: sa.Connection, exemption_id: str) -> Exemption | None:
    return next(iter(_read(connection, sa.select(exemption).where(exemption.c.id == exemption_id))), None)


def _not_ended(connection: sa.Connection, exemption_id: str) -> Exemption:
    found = _of_id(connection, exemption_id)
    if found is None:
        raise NotFound(f"{exemption_id}: no such exemption")
    if found.ended_s is not None:
        by = f" by {found.ended_by}" if found.ended_by else ""
        raise NotFound(f"{exemption_id}: was ended {time_words(found.ended_s)}{by}")
    return found


def _current(connection: sa.Connection, kind: ExemptionKind, subject: str, now_s: float) -> Exemption | None:
    """The one in force whose subject this is."""
    statement = _in_force(now_s).where(exemption.c.kind == kind.value, exemption.c.subject == subject)
    return next(iter(_read(connection, statement)), None)


def _update(connection: sa.Connection, one: Exemption) -> None:
    connection.execute(sa.update(exemption).where(exemption.c.id == one.id).values(**_row(one)))


def _note_kept(connection: sa.Connection, one: Exemption, now_s: float) -> None:
    if one.kind is ExemptionKind.VM:
        connection.execute(
            sa.insert(reclaim_event).values(at_s=now_s, vm_id=one.subject, kind="kept", by=one.owner, reason=one.reason)
        )


def _is_known(connection: sa.Connection, vm_id: str) -> bool:
    held = (sa.exists().where(table.c.vm_id == vm_id) for table in (vm, vm_summary))
    return bool(connection.scalar(sa.select(sa.or_(*held))))


def _find_vm(connection: sa.Connection, text: str) -> str:
    # What cannot be printed is no name, and drivers refuse some of it.
    if not text.isprintable():
        raise UnknownVm(text)
    if _is_known(connection, text):
        return text
    named = connection.scalars(sa.select(vm.c.vm_id).where(sa.or_(vm.c.name == text, vm.c.hostname == text))).all()
    if not named:
        raise UnknownVm(text)
    if len(named) > 1:
        raise AmbiguousVm(text, named)
    vm_id: str = named[0]
    return vm_id
