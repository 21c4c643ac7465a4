"""The VMs of the fleet: join tokens, enrolment, generations of tokens, labels. Blocking: call it in a thread.

Every method raises Refused (503, `database-unavailable`) when the database does not answer.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from aggregator import join_tokens, waits
from aggregator.admission import Bound, Check
from aggregator.enrolling import admit
from aggregator.enrolment import Enrolment, MachineValue
from aggregator.fleet import revocation, vm, vm_summary
from aggregator.fleet_db import reading
from aggregator.generations import (
    begin_lives,
    below,
    check_unspent,
    drop_figures,
    hold_summary,
    insert_into,
    newest,
    refuse_below,
)
from aggregator.join_tokens import JoinToken, Labels, Minted
from aggregator.lives import MAX_LIFE, first_of, life_of
from aggregator.problems import Problem, Refused
from aggregator.tokens import IDENTITY_CONFLICT, Revocations
from aggregator.vms_csv import parse_vms_csv
from aggregator.waits import State, Wait

__all__ = ["Catalogue", "ImportResult", "Labels", "UnknownVmError", "VmRecord"]

_RETRY_AFTER_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class VmRecord:
    """One VM as the catalogue and its summary have it.

    From the table `vm`: the attributes up to `generation`; `enrolled_s` None: it never enrolled. From
    `vm_summary`: the others, all None until its first samples are flushed; `node` is the aggregator that keeps its
    history. Times are Unix seconds.
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
    node: str | None


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
    """The tables `vm`, `join_token`, `enrolment_wait` and `revocation`.

    Args:
        engine: of `fleet_db.open_fleet`, migrated; of `open_fleet_read_only` for what only reads.
        make_secret: a new unguessable text at each call.
        check: what enrolments are held against.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        make_secret: Callable[[], str] = secrets.token_urlsafe,
        check: Check = Check.AUTO,
    ) -> None:
        self._engine = engine
        self._make_secret = make_secret
        self._check = check

    def mint(
        self,
        *,
        now_s: float,
        ttl_s: float,
        uses: int,
        labels: Labels,
        bound: Bound | None = None,
        created_by: str | None = None,
    ) -> Minted:
        """A join token for `uses` enrolments within `ttl_s`. Raises ValueError: either is not more than zero."""
        with self._writing() as connection:
            return join_tokens.insert(
                connection,
                lambda: f"join-{self._make_secret()}",
                now_s=now_s,
                ttl_s=ttl_s,
                uses=uses,
                labels=labels,
                bound=bound,
                created_by=created_by,
            )

    def mint_join_token(self, *, now_s: float, ttl_s: float, uses: int, labels: Labels) -> str:
        """The text of a join token that is bound to nothing; as `mint`."""
        return self.mint(now_s=now_s, ttl_s=ttl_s, uses=uses, labels=labels).token

    def join_tokens(self) -> list[JoinToken]:
        """Every join token that is still known, the newest first."""
        with self._reading() as connection:
            return join_tokens.all_of_them(connection)

    def revoke_join_token(self, token_id: str, *, now_s: float) -> bool:
        """Lets nobody in with it any more; whether there is such a token."""
        with self._writing() as connection:
            return join_tokens.revoke(connection, token_id, now_s)

    def waits(self) -> list[Wait]:
        """Every request to enrol that needs or had a person's word."""
        with self._reading() as connection:
            return waits.all_of_them(connection)

    def count_waiting(self) -> int:
        """How many requests an admin has not decided on."""
        with self._reading() as connection:
            return waits.count_waiting(connection)

    def decide(self, vm_id: str, state: State, *, by: str, now_s: float, request: str | None = None) -> str:
        """Notes what an admin said to a request; as `waits.decide`."""
        with self._writing() as connection:
            return waits.decide(connection, vm_id, state, by=by, now_s=now_s, request=request)

    def enroll(self, request: Enrolment, *, now_s: float, peer: str | None = None, heard_s: float | None = None) -> int:
        """Lets a VM in and returns the generation of its token; every earlier generation is refused from now on.

        Labels of the join token replace those that are known. An answer that is lost costs one use.

        Args:
            peer: address that the connection comes from; None fits no network.
            heard_s: when memory says the newest push of this id came.

        Raises: Refused: 401 for a join token that lets nobody in; 403 where it is bound elsewhere, or an admin must
            decide or refused. No use is spent then.
        """
        with self._reading() as connection:
            # Whoever holds no join token must not take the lock for writing, as often as they like.
            join_tokens.known(connection, request.join_token, now_s)
        with self._writing() as connection:
            outcome = admit(connection, request, check=self._check, peer=peer, heard_s=heard_s, now_s=now_s)
        # Not inside: what an admin is to decide on would be rolled back.
        if isinstance(outcome, Problem):
            raise Refused(outcome)
        return outcome

    def rotate(self, vm_id: str, generation: int, *, now_s: float) -> int:
        """The generation that follows the one in use; both are accepted, older ones are refused from now on.

        Asking again with the generation before the newest returns the newest: the answer was lost.

        Raises: Refused: 401 when `generation` is not accepted any more or the VM is not enrolled.
        """
        with self._writing() as connection:
            last = newest(connection, vm_id)
            if last < 1:
                raise Refused(Problem(401, "not-enrolled", f"{vm_id} is not enrolled: enrol it again"))
            if generation < max(last - 1, below(connection, vm_id), 1):
                raise Refused(Problem(401, "revoked", f"generation {generation} of the token of {vm_id} is refused"))
            if generation == last - 1:
                return last
            check_unspent(vm_id, generation + 1)
            connection.execute(sa.update(vm).where(vm.c.vm_id == vm_id).values(generation=generation + 1))
            refuse_below(connection, vm_id, generation, "rotated", now_s)
        return generation + 1

    def revoke(self, vm_id: str, reason: str, *, now_s: float) -> None:
        """Refuses every token given out so far; the VM must enrol again. Raises UnknownVmError."""
        with self._writing() as connection:
            generation = newest(connection, vm_id)
            if generation < 1:
                raise UnknownVmError(vm_id)
            refuse_below(connection, vm_id, generation + 1, reason, now_s)

    def revocations(self) -> Revocations:
        """All that is refused; a door reads it again every 30 s or sooner."""
        refused = revocation.c
        everything = sa.select(refused.vm_id, refused.below_generation, refused.reason)
        # Whoever enrolled since has a generation that counts.
        still = sa.func.coalesce(vm.c.generation, 0) < refused.below_generation
        joined = revocation.outerjoin(vm, vm.c.vm_id == refused.vm_id)
        clones = sa.select(refused.vm_id).select_from(joined).where(refused.reason == IDENTITY_CONFLICT, still)
        with self._reading() as connection:
            below = {vm_id: (generation, reason) for vm_id, generation, reason in connection.execute(everything)}
            return Revocations(below, clones=frozenset(connection.scalars(clones)))

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
            statement = insert_into(connection, vm)
            labels = {name: statement.excluded[name] for name in rows[0] if name != "vm_id"}
            if labels:
                upsert = statement.on_conflict_do_update(index_elements=[vm.c.vm_id], set_=labels)
            else:
                upsert = statement.on_conflict_do_nothing()
            connection.execute(upsert, rows)
            added = (connection.scalar(count) or 0) - before
        return ImportResult(added=added, updated=len(rows) - added)

    def forget(self, vm_id: str, *, now_s: float) -> int:
        """Deletes all the database holds of a VM but that its tokens are refused; returns the life that counts now.

        Each aggregator deletes what it holds of lives before when it reads the revocations again.

        Raises:
            UnknownVmError: nothing was held.
            Refused: 409 `older-nodes`, as `begin_lives`; 409 `lives-spent`.
        """
        with self._writing() as connection:
            generation = newest(connection, vm_id)
            deleted = -1 if hold_summary(connection, vm_id) else 0
            waits.forget_vm(connection, vm_id)
            deleted += connection.execute(sa.delete(vm).where(vm.c.vm_id == vm_id)).rowcount
            deleted += drop_figures(connection, vm_id)
            if not deleted:
                raise UnknownVmError(vm_id)
            begin_lives(connection)
            life = life_of(max(generation, below(connection, vm_id))) + 1
            if life > MAX_LIFE:
                raise Refused(Problem(409, "lives-spent", f"{vm_id} was forgotten {MAX_LIFE} times before"))
            refuse_below(connection, vm_id, first_of(life), "forgotten", now_s)
        return life

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with _answering_503(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with _answering_503(), reading(self._engine) as connection:
            yield connection


@contextmanager
def _answering_503() -> Iterator[None]:
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        problem = Problem(503, "database-unavailable", "the fleet database does not answer", _RETRY_AFTER_S)
        raise Refused(problem) from error


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
    row["node"] = row["node"] or None
    return VmRecord(vm=row.pop("vm_id"), **row)
