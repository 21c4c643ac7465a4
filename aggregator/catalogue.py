"""The VMs of the fleet: join tokens, enrolment, generations of tokens, labels. Blocking: call it in a thread.

Every method raises Refused (503, `database-unavailable`) when the database does not answer.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from aggregator.enrolment import Enrolment, MachineValue
from aggregator.fleet import join_token, revocation, vm, vm_evidence, vm_summary, vm_window
from aggregator.fleet_db import reading
from aggregator.problems import Problem, Refused
from aggregator.tokens import Revocations
from aggregator.vms_csv import parse_vms_csv

# An expired join token is named as such for this long, then it is unknown.
JOIN_TOKEN_KEPT_S = 30 * 86_400
_RETRY_AFTER_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What a join token gives to the VMs that enrol with it; None and no tags leave what is known."""

    name: str | None = None
    owner: str | None = None
    mail: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VmRecord:
    """One VM as the catalogue and its summary have it.

    From the table `vm`: the attributes up to `generation`; `enrolled_s` None: it never enrolled. From
    `vm_summary`: the others, all None until its first samples are flushed. Times are Unix seconds.
    """

    vm: str
    name: str | None
    hostname: str | None
    owner: str | None
    mail: str | None
    tags: tuple[str, ...]
    power_state: str | None
    ips: tuple[str, ...]
    macs: tuple[str, ...]
    machine: dict[str, MachineValue]
    boot: str | None
    enrolled_s: int | None
    generation: int
    oldest_s: int | None
    newest_s: int | None
    received_s: float | None
    skew_s: float | None
    interval_s: int | None
    conflicts: int | None
    cpu_count: int | None
    mem_total_bytes: int | None
    disk_total_bytes: int | None
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """How many VMs a CSV made known, and how many it found."""

    added: int
    updated: int


class UnknownVmError(LookupError):
    """The fleet database holds nothing of this VM."""

    def __init__(self, vm_id: str) -> None:
        self.vm_id = vm_id
        super().__init__(f"{vm_id}: no such VM")


class Catalogue:
    """The tables `vm`, `join_token` and `revocation`.

    Args:
        engine: of `fleet_db.open_fleet`, migrated; of `open_fleet_read_only` for `vms` and `vm` alone.
        make_secret: a new unguessable text at each call.
    """

    def __init__(self, engine: sa.Engine, *, make_secret: Callable[[], str] = secrets.token_urlsafe) -> None:
        self._engine = engine
        self._make_secret = make_secret

    def mint_join_token(self, *, now_s: float, ttl_s: float, uses: int, labels: Labels) -> str:
        """A join token for `uses` enrolments within `ttl_s`. Raises ValueError: either is not more than zero."""
        if ttl_s <= 0 or uses < 1:
            raise ValueError("a join token needs at least one use and a life of more than zero")
        token = f"join-{self._make_secret()}"
        given = {"name": labels.name, "owner": labels.owner, "mail": labels.mail, "tags": list(labels.tags)}
        with self._writing() as connection:
            connection.execute(sa.delete(join_token).where(join_token.c.expires_s < now_s - JOIN_TOKEN_KEPT_S))
            connection.execute(
                sa.insert(join_token).values(
                    secret_sha256=_digest(token),
                    created_s=now_s,
                    expires_s=now_s + ttl_s,
                    uses_left=uses,
                    labels=json.dumps({name: value for name, value in given.items() if value}),
                )
            )
        return token

    def enroll(self, request: Enrolment, *, now_s: float) -> int:
        """Lets a VM in and returns the generation of its token; every earlier generation is refused from now on.

        Labels of the join token replace those that are known. An answer that is lost costs one use.

        Raises: Refused: 401 for a join token that is unknown, expired or used up.
        """
        with self._writing() as connection:
            labels = _use_join_token(connection, request.join_token, now_s)
            connection.execute(_insert(connection, vm).values(vm_id=request.vm).on_conflict_do_nothing())
            generation = max(_generation(connection, request.vm) + 1, _below(connection, request.vm))
            if "tags" in labels:
                labels["tags"] = json.dumps(labels["tags"])
            connection.execute(
                sa.update(vm)
                .where(vm.c.vm_id == request.vm)
                .values(
                    hostname=request.hostname,
                    ips=json.dumps(request.ips),
                    macs=json.dumps(request.macs),
                    machine=json.dumps(request.machine),
                    boot=request.boot,
                    enrolled_s=int(now_s),
                    generation=generation,
                    **labels,
                )
            )
            _refuse_below(connection, request.vm, generation, "re-enrolled", now_s)
        return generation

    def rotate(self, vm_id: str, generation: int, *, now_s: float) -> int:
        """The generation that follows the one in use; both are accepted, older ones are refused from now on.

        Asking again with the generation before the newest returns the newest: the answer was lost.

        Raises: Refused: 401 when `generation` is not accepted any more or the VM is not enrolled.
        """
        with self._writing() as connection:
            newest = _generation(connection, vm_id)
            if newest < 1:
                raise Refused(Problem(401, "not-enrolled", f"{vm_id} is not enrolled: enrol it again"))
            if generation < max(newest - 1, _below(connection, vm_id), 1):
                raise Refused(Problem(401, "revoked", f"generation {generation} of the token of {vm_id} is refused"))
            if generation == newest - 1:
                return newest
            connection.execute(sa.update(vm).where(vm.c.vm_id == vm_id).values(generation=generation + 1))
            _refuse_below(connection, vm_id, generation, "rotated", now_s)
        return generation + 1

    def revoke(self, vm_id: str, reason: str, *, now_s: float) -> None:
        """Refuses every token given out so far; the VM must enrol again. Raises UnknownVmError."""
        with self._writing() as connection:
            generation = _generation(connection, vm_id)
            if generation < 1:
                raise UnknownVmError(vm_id)
            _refuse_below(connection, vm_id, generation + 1, reason, now_s)

    def revocations(self) -> Revocations:
        """All that is refused; a door reads it again every 30 s or sooner."""
        statement = sa.select(revocation.c.vm_id, revocation.c.below_generation, revocation.c.reason)
        with self._reading() as connection:
            return Revocations({vm_id: (below, reason) for vm_id, below, reason in connection.execute(statement)})

    def vms(self, *, after: str = "", limit: int | None = None) -> list[VmRecord]:
        """VMs that are known or have a summary, by id, from the first one above `after`; at most `limit`."""
        page = sa.union(
            sa.select(vm.c.vm_id).where(vm.c.vm_id > after),
            sa.select(vm_summary.c.vm_id).where(vm_summary.c.vm_id > after),
        )
        ids = page.order_by(sa.text("1")).limit(limit).subquery()
        with self._reading() as connection:
            return _records(connection, ids)

    def vm(self, vm_id: str) -> VmRecord | None:
        """One VM; None when it is neither known nor has a summary."""
        ids = sa.union(
            sa.select(vm.c.vm_id).where(vm.c.vm_id == vm_id),
            sa.select(vm_summary.c.vm_id).where(vm_summary.c.vm_id == vm_id),
        ).subquery()
        with self._reading() as connection:
            return next(iter(_records(connection, ids)), None)

    def import_csv(self, text: str, *, source: str = "csv") -> ImportResult:
        """Takes over the labels of a CSV, all of it or nothing; `vms_csv.parse_vms_csv` says what it may hold.

        Raises: ConfigError: every mistake with its line and column.
        """
        rows = parse_vms_csv(text, source=source)
        if not rows:
            return ImportResult(added=0, updated=0)
        count = sa.select(sa.func.count()).select_from(vm)
        with self._writing() as connection:
            before = connection.scalar(count) or 0
            statement = _insert(connection, vm)
            labels = {name: statement.excluded[name] for name in rows[0] if name != "vm_id"}
            if labels:
                upsert = statement.on_conflict_do_update(index_elements=[vm.c.vm_id], set_=labels)
            else:
                upsert = statement.on_conflict_do_nothing()
            connection.execute(upsert, rows)
            added = (connection.scalar(count) or 0) - before
        return ImportResult(added=added, updated=len(rows) - added)

    def forget(self, vm_id: str, *, now_s: float) -> None:
        """Deletes all the database holds of a VM but that its tokens are refused; the caller deletes its store.

        Raises: UnknownVmError: nothing was held.
        """
        with self._writing() as connection:
            generation = _generation(connection, vm_id)
            deleted = 0
            for table in (vm, vm_summary, vm_window, vm_evidence):
                deleted += connection.execute(sa.delete(table).where(table.c.vm_id == vm_id)).rowcount
            if not deleted:
                raise UnknownVmError(vm_id)
            # Without its row the generation is unknown; every VM that enrolled holds at least the first.
            _refuse_below(connection, vm_id, max(generation, 1) + 1, "forgotten", now_s)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with _answering_503(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with _answering_503(), reading(self._engine) as connection:
            yield connection


def delete_store(path: Path) -> bool:
    """Deletes a VM's store and the files SQLite keeps beside it; whether there was one. Raises OSError."""
    existed = path.exists()
    for suffix in ("-journal", "-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return existed


@contextmanager
def _answering_503() -> Iterator[None]:
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        problem = Problem(503, "database-unavailable", "the fleet database does not answer", _RETRY_AFTER_S)
        raise Refused(problem) from error


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _insert(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def _use_join_token(connection: sa.Connection, token: str, now_s: float) -> dict[str, Any]:
    this = join_token.c.secret_sha256 == _digest(token)
    used = connection.execute(
        sa.update(join_token)
        .where(this, join_token.c.uses_left > 0, join_token.c.expires_s > now_s)
        .values(uses_left=join_token.c.uses_left - 1)
        .returning(join_token.c.labels)
    ).first()
    if used is not None:
        labels: dict[str, Any] = json.loads(used.labels)
        return labels
    known = connection.execute(sa.select(join_token.c.expires_s).where(this)).first()
    if known is None:
        raise Refused(Problem(401, "join-token-unknown", "join_token: is not known"))
    if known.expires_s <= now_s:
        raise Refused(Problem(401, "join-token-expired", "join_token: has expired"))
    raise Refused(Problem(401, "join-token-used-up", "join_token: is used up"))


def _generation(connection: sa.Connection, vm_id: str) -> int:
    """The newest generation given out, 0 for none; locks the VM's row where the database can."""
    return connection.scalar(sa.select(vm.c.generation).where(vm.c.vm_id == vm_id).with_for_update()) or 0


def _below(connection: sa.Connection, vm_id: str) -> int:
    return connection.scalar(sa.select(revocation.c.below_generation).where(revocation.c.vm_id == vm_id)) or 0


def _refuse_below(connection: sa.Connection, vm_id: str, generation: int, reason: str, now_s: float) -> None:
    # Never lowered, and the reason that refused a generation first stays the one that is shown.
    if generation <= max(_below(connection, vm_id), 1):
        return
    values = {"below_generation": generation, "reason": reason, "created_s": now_s}
    statement = _insert(connection, revocation).values(vm_id=vm_id, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=[revocation.c.vm_id], set_=values))


def _records(connection: sa.Connection, ids: sa.Subquery) -> list[VmRecord]:
    summary_columns = [column for column in vm_summary.c if column.name not in {"vm_id", "updated_s"}]
    vm_columns = [column for column in vm.c if column.name != "vm_id"]
    joined = ids.outerjoin(vm, vm.c.vm_id == ids.c.vm_id).outerjoin(vm_summary, vm_summary.c.vm_id == ids.c.vm_id)
    statement = sa.select(ids.c.vm_id, *vm_columns, *summary_columns).select_from(joined).order_by(ids.c.vm_id)
    return [_record(dict(row._mapping)) for row in connection.execute(statement)]


def _record(row: dict[str, Any]) -> VmRecord:
    for name in ("tags", "ips", "macs", "flags"):
        row[name] = tuple(json.loads(row[name] or "[]"))
    row["machine"] = json.loads(row["machine"] or "{}")
    row["generation"] = row["generation"] or 0
    return VmRecord(vm=row.pop("vm_id"), **row)
