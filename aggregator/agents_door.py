"""The door of the agents, 8899: pushes, enrolment, rotation of tokens, health. docs/wire.md is its contract.

A push is answered only once its record is on disk. Strangers are turned away before anything is decompressed
or decoded for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from agent.wire import is_vm_id
from aggregator.answers import STORED, STORED_CLOSE, render
from aggregator.clock_doubt import ClockDoubt
from aggregator.connection import HttpConnection, Slot
from aggregator.connections import HttpConnectionFactory, failure_now
from aggregator.decode import CLOCKS_APART_S, ClocksApart, Push, clocks_apart, decode_push, decompress
from aggregator.door_parts import Clock, DoorParts, TokenKeys
from aggregator.enrolment import MAX_ENROLMENT_BYTES
from aggregator.http import Request
from aggregator.problems import Problem, Refused
from aggregator.record import encode_record
from aggregator.rows import ROW_BYTES, row_ts
from aggregator.shared_reads import SharedReads
from aggregator.tokens import IDENTITY_CONFLICT

_METHODS: Mapping[bytes, tuple[bytes, ...]] = {
    b"/v1/samples": (b"POST",),
    b"/v1/enroll": (b"POST",),
    b"/v1/token": (b"POST",),
    b"/healthz": (b"GET", b"HEAD"),
    b"/readyz": (b"GET", b"HEAD"),
}
_DROPPED_DIGITS = 12  # more samples no agent ever had
_HEALTHY = b'{"status": "ok"}'


class _PushSlot(Slot):
    """A push on its way to the disk."""

    __slots__ = ("outdated", "parts", "push", "received_s", "rejected")

    connection: AgentsDoor

    def __init__(self, door: AgentsDoor, push: Push, received_s: float, rejected: list[dict[str, object]]) -> None:
        # What the base class sets, without the call: every push comes through here.
        self.connection = door
        self.close = door.closes
        self.linger = False
        self.answer = None
        self.begun_s = door.factory.now_s
        self.parts = door.parts
        self.push = push
        self.received_s = received_s
        self.rejected = rejected
        self.outdated = door.outdated

    def durable(self, error: Exception | None) -> None:
        """The journal calls this; nothing that goes wrong here may reach it."""
        self.connection.factory.release(self.push.vm)
        try:
            if error is None:
                self.settle(self._stored())
            else:
                later = self.connection.factory.later
                self.refuse(later("journal", f"the journal cannot take it just now: {error}"))
        except Exception:
            self.fail(failure_now())

    def _stored(self) -> bytes:
        parts = self.parts
        push = self.push
        added = parts.buffer.add(push, self.received_s)
        counters = parts.counters
        counters.pushes += 1
        counters.samples += added.stored
        counters.unknown_fields += push.unknown_fields
        if added.stored == push.count and not self.rejected and not self.outdated:
            return STORED_CLOSE if self.close else STORED
        counters.duplicates += added.duplicate
        counters.conflicts += added.conflict
        counters.outdated_tokens += self.outdated
        body = stored_body(added.stored, added.duplicate, added.conflict, self.rejected, outdated=self.outdated)
        return render(200, body, close=self.close)


class AgentsDoor(HttpConnection):
    """One connection of an agent, or of a load balancer with many agents behind it.

    Attributes:
        outdated: the token of the request at hand is of a key that is to go.
        generation: of that token.
    """

    factory: AgentsDoorFactory

    def __init__(self, factory: AgentsDoorFactory) -> None:
        super().__init__(factory)
        self.parts = factory.parts
        self.outdated = False
        self.generation = 0
        self._verified: tuple[bytes, bytes, str, int, TokenKeys] | None = None

    def on_request(self, request: Request) -> None:
        """Raises Refused: the answer."""
        if request.path == b"/v1/samples" and request.method == b"POST":
            self._on_push(request)
            return
        methods = _METHODS.get(request.path)
        head_only = request.method == b"HEAD"
        if methods is None:
            self.refuse(Problem(404, "path", "there is nothing at this path"), head_only=head_only)
        elif request.method not in methods:
            allow = b", ".join(methods)
            problem = Problem(405, "method", f"the methods here are {allow.decode()}")
            self.refuse(problem, head_only=head_only, headers={b"Allow": allow})
        elif request.path == b"/v1/enroll":
            self._on_enroll(request)
        elif request.path == b"/v1/token":
            self._on_rotate(request)
        elif request.path == b"/readyz" and (unready := self.parts.ready()) is not None:
            self.refuse(self.factory.later("not-ready", unready), head_only=head_only)
        elif request.path == b"/readyz" and (leaving := self.parts.leaving()) is not None:
            self.refuse(self.factory.later("draining", leaving), head_only=head_only)
        else:
            self.new_slot().settle(render(200, _HEALTHY, close=self.closes, head_only=head_only))

    def _on_push(self, request: Request) -> None:
        if request.content_type != b"application/json":
            check_json(request.content_type)
        vm = self.authorise(request)
        if request.fallow_dropped:
            self.factory.note_dropped(vm, request.fallow_dropped)
        received_s = self.parts.clock()
        encoding = request.content_encoding
        try:
            push = decode_push(
                request.body,
                content_encoding=encoding.decode("latin-1") if encoding else None,
                now_s=received_s,
                limits=self.parts.limits.decode,
                generation=self.generation,
            )
        except ClocksApart as apart:
            if self.factory.clock_doubt.is_ours(vm, received_s):
                raise
            raise Refused(apart.otherwise) from apart
        if push.vm != vm:
            raise Refused(Problem(403, "wrong-vm", f"Fallow-VM is {vm[:64]!r}, but the body is of {push.vm!r}"))
        self.keep(push, received_s)

    def peer_address(self, request: Request) -> str:
        """Where a request comes from: the peer, or whom a configured proxy asks for. Empty: not known."""
        if not request.forwarded_for:
            return self.peer
        return self.parts.proxies.client(self.peer, request.forwarded_for.decode("latin-1"))

    def authorise(self, request: Request) -> str:
        """The VM that a push speaks for. Raises Refused: it may not, or pushes cannot be taken now."""
        vm = self._verify(request)[0]
        parts = self.parts
        unready = parts.ready()
        if unready is not None:
            raise Refused(self.factory.later("not-ready", unready))
        if parts.journal.queued_bytes > parts.limits.queued_bytes:
            raise Refused(self.factory.later("overloaded", "the disk is behind"))
        if self.factory.in_flight.get(vm, 0) >= parts.limits.per_token:
            raise Refused(self.factory.later("per-token", f"too many pushes of {vm} at once", status=429))
        return vm

    def _verify(self, request: Request) -> tuple[str, int]:
        authorization = request.authorization
        fallow_vm = request.fallow_vm
        verified = self._verified
        keys = self.parts.keys
        if (
            verified is not None
            and verified[0] == authorization
            and verified[1] == fallow_vm
            and verified[4] is keys  # the key file may have changed since
        ):
            vm, generation = verified[2], verified[3]
        else:
            vm, generation = self._verify_token(authorization, fallow_vm)
            self.outdated = self.parts.is_outdated(authorization[7:])
            # An agent comes with the same token again and again: its mac need not be computed each time.
            self._verified = (authorization, fallow_vm, vm, generation, keys)
        self.generation = generation
        reason = self.parts.revocations().refuses(vm, generation)
        if reason is not None:
            status = 409 if reason == IDENTITY_CONFLICT else 401
            raise Refused(Problem(status, reason, f"the token of {vm} counts no more ({reason}): enrol again"))
        return vm, generation

    def _verify_token(self, authorization: bytes, fallow_vm: bytes) -> tuple[str, int]:
        if authorization[:7].lower() != b"bearer ":
            raise Refused(Problem(401, "token", "Authorization: a bearer token is needed"))
        if not fallow_vm:
            raise Refused(Problem(400, "vm-header", "Fallow-VM: is missing"))
        vm = fallow_vm.decode("latin-1")
        generation = self.parts.keys.verify(vm, authorization[7:])
        if generation is None:
            if not is_vm_id(vm):
                raise Refused(Problem(422, "vm-id", f"Fallow-VM: {vm[:100]!r} is not a VM id"))
            raise Refused(Problem(401, "token", f"the token is not one of {vm}"))
        return vm, generation

    def keep(self, push: Push, received_s: float) -> None:
        """Sends a push on its way to the disk. Raises Refused: the buffer does not take it."""
        parts = self.parts
        rejected: list[dict[str, object]] = []
        cutoff_ts = received_s - parts.raw_retention_s
        if push.oldest_ts < cutoff_ts:
            apart = received_s - push.sent_s > CLOCKS_APART_S
            young_there = push.oldest_ts >= push.sent_s - parts.raw_retention_s
            if apart and young_there and self.factory.clock_doubt.is_ours(push.vm, received_s):
                raise Refused(clocks_apart(push.sent_s, received_s))
            young, rejected = without_old(push, cutoff_ts)
            parts.counters.samples_too_old += len(rejected)
            if young is None:
                self.new_slot().settle(render(200, stored_body(0, 0, 0, rejected), close=self.closes))
                return
            push = young
        problem = parts.buffer.admit(push, received_s)
        if problem is not None:
            raise Refused(problem)
        record = encode_record(push, received_s)
        self.factory.claim(push.vm)
        slot = _PushSlot(self, push, received_s, rejected)
        self.slots.append(slot)
        try:
            parts.journal.append(record, slot.durable)
        except Exception:
            # Not left to the connection: it does not know that this request has its slot already.
            self.factory.release(push.vm)
            slot.fail(failure_now())

    def _on_enroll(self, request: Request) -> None:
        check_json(request.content_type)
        # Before anybody knows who asks: nothing larger than what is taken is made of it.
        body = decompress(request.body, request.content_encoding.decode("latin-1"), MAX_ENROLMENT_BYTES)

        def enrolled(answer: bytes) -> bytes:
            self.parts.counters.enrolments += 1
            return answer

        peer = self.peer_address(request)
        self._answer_later(201, self._bounded(lambda: self.parts.enroll(body, peer)).addCallback(enrolled))

    def _on_rotate(self, request: Request) -> None:
        vm, generation = self._verify(request)

        def rotated(answer: bytes) -> bytes:
            self.parts.counters.rotations += 1
            return answer

        self._answer_later(200, self._bounded(lambda: self.parts.rotate(vm, generation)).addCallback(rotated))

    def _bounded(self, work: Callable[[], Deferred[bytes]]) -> Deferred[bytes]:
        """Begins what asks the fleet database. Raises Refused: 429, too much of that is under way."""
        factory = self.factory
        if factory.enrolling >= self.parts.limits.enrolments:
            raise Refused(factory.later("enrolments", "too many enrolments at once", status=429))
        factory.enrolling += 1

        def done(outcome: Any) -> Any:
            factory.enrolling -= 1
            return outcome

        return work().addBoth(done)

    def _answer_later(self, status: int, body: Deferred[bytes]) -> None:
        slot = self.new_slot()
        body.addCallback(lambda found: slot.settle(render(status, found, close=slot.close)))
        body.addErrback(slot.fail)


class AgentsDoorFactory(HttpConnectionFactory):
    """Makes the doors.

    Args:
        parts: what the doors work with.
        clock: the reactor.
        door: the kind of door to make.
        reads: makes what reads from plain sockets.
    Attributes:
        enrolling: enrolments and rotations under way.
        in_flight: by VM, pushes on their way to the disk.
        clock_doubt: whose clock is wrong, ours or a VM's.
    """

    def __init__(
        self,
        parts: DoorParts,
        clock: Clock,
        door: type[AgentsDoor] = AgentsDoor,
        *,
        reads: Callable[[Any], SharedReads] = SharedReads,
    ) -> None:
        super().__init__(parts.limits, parts.counters, clock, parts.proxies, reads=reads)
        self.parts = parts
        self.enrolling = 0
        self.clock_doubt = ClockDoubt(parts.buffer.heard_between)
        self._dropped: dict[str, int] = {}
        self.in_flight: dict[str, int] = {}
        self._door = door

    def make_connection(self) -> AgentsDoor:
        """A door for one connection."""
        return self._door(self)

    def claim(self, vm: str) -> None:
        """Counts in a push of `vm` that is on its way to the disk."""
        self.in_flight[vm] = self.in_flight.get(vm, 0) + 1

    def release(self, vm: str) -> None:
        """Counts it out."""
        count = self.in_flight.get(vm, 1) - 1
        if count:
            self.in_flight[vm] = count
        else:
            self.in_flight.pop(vm, None)

    def note_dropped(self, vm: str, told: bytes) -> None:
        """Counts the samples that an agent had to give up. Args: told: how many it has so far, as it says."""
        if not told.isdigit() or len(told) > _DROPPED_DIGITS:
            return
        grown = int(told) - self._dropped.get(vm, 0)
        if grown > 0:
            self._dropped[vm] = int(told)
            self.parts.counters.agents_dropped += grown
            self.log.warn("the agent of {vm} had to give up {grown} samples", vm=vm, grown=grown)


def check_json(content_type: bytes) -> None:
    """Raises Refused: 415, for anything but `application/json`, whatever its parameters."""
    if content_type.partition(b";")[0].strip().lower() != b"application/json":
        found = content_type[:100].decode("latin-1")
        raise Refused(Problem(415, "content-type", f"Content-Type: {found!r} is not application/json"))


def stored_body(
    stored: int, duplicate: int, conflict: int, rejected: list[dict[str, object]], *, outdated: bool = False
) -> bytes:
    """Body of a 200: what became of the samples of a push that were not simply all stored.

    Args: outdated: the token is of a key that is to go: its agent should rotate it now.
    """
    said = {"stored": stored, "duplicate": duplicate, "conflict": conflict, "rejected": rejected}
    return json.dumps(said | ({"token": "rotate"} if outdated else {})).encode()


def without_old(push: Push, cutoff_ts: float) -> tuple[Push | None, list[dict[str, object]]]:
    """The push without the samples before `cutoff_ts` (None if none is left), and those as the answer names them."""
    young = []
    timestamps = []
    rejected: list[dict[str, object]] = []
    for index in range(push.count):
        ts = row_ts(push.rows, index)
        if ts < cutoff_ts:
            rejected.append({"ts": ts, "reason": "too_old"})
        else:
            young.append(push.rows[index * ROW_BYTES : (index + 1) * ROW_BYTES])
            timestamps.append(ts)
    if not young:
        return None, rejected
    kept = Push(
        vm=push.vm,
        boot=push.boot,
        seq=push.seq,
        sent_s=push.sent_s,
        interval_s=push.interval_s,
        rows=b"".join(young),
        count=len(young),
        oldest_ts=min(timestamps),
        newest_ts=max(timestamps),
        unknown_fields=push.unknown_fields,
        generation=push.generation,
    )
    return kept, rejected
