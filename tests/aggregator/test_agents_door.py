"""The agents' door: acknowledged means durable, answers keep their order, nobody holds a connection for ever."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure

from aggregator.enrolment import MAX_ENROLMENT_BYTES
from aggregator.problems import Problem, Refused
from aggregator.record import decode_record
from tests.aggregator.door_fakes import (
    NOW_S,
    OTHER_VM,
    TOKEN,
    TS,
    VM,
    Added,
    Bench,
    Line,
    push_body,
    request,
    sample,
)

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
ROOT = Path(__file__).resolve().parents[2]


def statuses(line: Line) -> list[int]:
    return [answer.status for answer in line.answers()]


def test_a_push_is_answered_once_it_is_durable() -> None:
    """No answer, and nothing in the buffer, before the journal says so; then 204 without a body."""
    bench = Bench()
    bench.journal.at_once = False
    line = bench.connect()
    line.send(request())
    assert line.sent == b""
    assert bench.buffer.pushes == []
    bench.journal.commit()
    assert line.sent == b"HTTP/1.1 204 No Content\r\n\r\n"
    assert [push.vm for push in bench.buffer.pushes] == [VM]
    assert (bench.counters.pushes, bench.counters.samples) == (1, 1)


def test_the_journal_gets_what_the_buffer_gets() -> None:
    """A replayed record is the push that was added, with the time it came."""
    bench = Bench()
    bench.ask(request(push_body(sample(TS - 60), sample(TS))))
    push, received_s = decode_record(bench.journal.payloads[0])
    (added,) = bench.buffer.pushes
    assert (push.vm, push.rows, push.seq, received_s) == (added.vm, added.rows, added.seq, NOW_S)


def test_a_push_that_is_not_durable_is_503_and_not_kept() -> None:
    """A full disk turns into a longer spool in the agent: 503 with a Retry-After, nothing in the buffer."""
    bench = Bench()
    bench.journal.error = OSError("No space left on device")
    answer = bench.ask(request())
    assert (answer.status, answer.reason) == (503, "journal")
    assert int(answer.headers["retry-after"]) > 0
    assert bench.buffer.pushes == []
    assert bench.counters.pushes == 0


def test_a_lost_ack_is_answered_as_a_duplicate() -> None:
    """Fault 25: the retry of a push whose answer was lost succeeds, and says that nothing was stored again."""
    bench = Bench()
    bench.buffer.answers = [Added(1), Added(0, 1)]
    assert bench.ask(request()).status == 204
    answer = bench.ask(request())
    assert answer.status == 200
    assert answer.document == {"stored": 0, "duplicate": 1, "conflict": 0, "rejected": []}
    assert bench.counters.duplicates == 1


def test_row_27_conflicts_are_counted_and_told() -> None:
    """Fault 27 at the door: the first sample of a time stays, the answer and a counter say so."""
    bench = Bench()
    bench.buffer.answers = [Added(1, 0, 1)]
    answer = bench.ask(request(push_body(sample(TS - 60), sample(TS))))
    assert (answer.status, answer.document["conflict"]) == (200, 1)
    assert (bench.counters.samples, bench.counters.conflicts) == (1, 1)


def test_two_machines_with_one_identity_are_409() -> None:
    """Fault 29: what the buffer finds out reaches both agents, before anything is journalled."""
    bench = Bench()
    bench.buffer.refusal = Problem(409, "identity-conflict", "two boots push as one VM")
    answer = bench.ask(request())
    assert (answer.status, answer.reason) == (409, "identity-conflict")
    assert bench.journal.payloads == []


def test_unknown_fields_are_counted() -> None:
    """An agent that is ahead of its aggregator shows in the figures."""
    bench = Bench()
    assert bench.ask(request(push_body().replace(b'"v": 1', b'"v": 1, "color": "red"'))).status == 204
    assert bench.counters.unknown_fields == 1


def test_not_ready_is_503_for_pushes_and_readyz_alone() -> None:
    """/readyz takes it out of the load balancer; /healthz goes on as long as the reactor runs."""
    bench = Bench()
    assert bench.ask(request(b"", method="GET", path="/readyz")).status == 200
    bench.unready = "the stores' disk is full"
    answer = bench.ask(request())
    assert (answer.status, answer.document["detail"]) == (503, "the stores' disk is full")
    assert "retry-after" in answer.headers
    assert bench.ask(request(b"", method="GET", path="/readyz")).status == 503
    assert bench.ask(request(b"", method="GET", path="/healthz")).status == 200


def test_who_is_drained_takes_what_comes_all_the_same() -> None:
    """/readyz alone is 503 `draining`; what keeps pushes from being taken is told before that."""
    bench = Bench()
    bench.leaving = "others take its VMs"
    answer = bench.ask(request(b"", method="GET", path="/readyz"))
    assert (answer.status, answer.reason, answer.document["detail"]) == (503, "draining", "others take its VMs")
    assert bench.ask(request()).status == 204
    assert bench.ask(request(b"", method="GET", path="/healthz")).status == 200
    bench.unready = "starting"
    assert bench.ask(request(b"", method="GET", path="/readyz")).reason == "not-ready"


def test_a_disk_that_is_behind_sheds_load() -> None:
    """Over the bound of what waits for the disk, pushes are 503 until it has caught up."""
    bench = Bench(queued_bytes=1000)
    bench.journal.queued_bytes = 1001
    assert bench.ask(request()).reason == "overloaded"
    bench.journal.queued_bytes = 1000
    assert bench.ask(request()).status == 204


def test_refused_together_return_apart() -> None:
    """Fault 33: the waits asked for differ, so that 10,000 agents do not come back in the same second."""
    bench = Bench(retry_after_s=5)
    bench.unready = "starting"
    waits_s = {int(bench.ask(request()).headers["retry-after"]) for _ in range(100)}
    assert waits_s == set(range(5, 16))


def test_head_has_no_body() -> None:
    """HEAD is answered as GET is, without the body."""
    bench = Bench()
    line = bench.connect()
    line.send(request(b"", method="HEAD", path="/healthz"))
    head, separator, rest = line.sent.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert (separator, rest) == (b"\r\n\r\n", b"")


def test_enrolment_hands_over_the_body() -> None:
    """201 with what the catalogue says, later; no token is needed to come this far."""
    bench = Bench()
    waiting: Deferred[bytes] = Deferred()
    bench.enroll_answer = lambda: waiting
    line = bench.connect()
    line.send(request(b'{"vm": "a"}', path="/v1/enroll", drop=("authorization", "fallow-vm")))
    assert bench.enrolments == [b'{"vm": "a"}']
    assert line.sent == b""
    waiting.callback(b'{"token": "t"}')
    (answer,) = line.answers()
    assert (answer.status, answer.document) == (201, {"token": "t"})
    assert bench.counters.enrolments == 1


def test_a_refused_enrolment_is_its_problem() -> None:
    """The catalogue's refusal is the answer; anything else it raises is our mistake."""
    bench = Bench()
    bench.enroll_answer = lambda: fail(Refused(Problem(401, "join-token", "expired")))
    refused = bench.ask(request(b"{}", path="/v1/enroll"))
    assert (refused.status, refused.reason) == (401, "join-token")
    assert bench.counters.enrolments == 0
    assert bench.factory.enrolling == 0


def test_a_stranger_has_no_more_unpacked_than_an_enrolment_may_hold() -> None:
    """Over 64 KiB once decompressed is 413 before anybody looks at it, though a push may be larger."""
    bench = Bench()
    body = gzip.compress(b" " * (MAX_ENROLMENT_BYTES + 1))
    answer = bench.ask(request(body, path="/v1/enroll", content_encoding="gzip"))
    assert (answer.status, bench.enrolments) == (413, [])
    bench.ask(request(gzip.compress(b" " * MAX_ENROLMENT_BYTES), path="/v1/enroll", content_encoding="gzip"))
    assert len(bench.enrolments) == 1


def test_enrolments_are_bounded() -> None:
    """Above so many at once, 429 with a Retry-After; below, they go on."""
    bench = Bench(enrolments=2)
    waiting: list[Deferred[bytes]] = []

    def later() -> Deferred[bytes]:
        waiting.append(Deferred())
        return waiting[-1]

    bench.enroll_answer = later
    enrolment = request(b"{}", path="/v1/enroll")
    lines = [bench.connect() for _ in range(3)]
    for line in lines:
        line.send(enrolment)
    assert [statuses(line) for line in lines] == [[], [], [429]]
    assert "retry-after" in lines[2].answers()[0].headers
    waiting[0].callback(b"{}")
    lines[2].send(enrolment)
    assert len(waiting) == 3


def test_rotation_needs_a_right_token() -> None:
    """A new token is given to whoever holds the old one, and to nobody else."""
    bench = Bench()
    rotation = {"path": "/v1/token", "body": b""}
    assert bench.ask(request(**rotation, authorization="Bearer x")).status == 401  # type: ignore[arg-type]
    assert bench.rotations == []
    answer = bench.ask(request(**rotation))  # type: ignore[arg-type]
    assert (answer.status, answer.document) == (200, {"vm": VM, "token": "new"})
    assert bench.rotations == [(VM, 1)]


def test_answers_keep_the_order_of_pipelined_requests() -> None:
    """What is ready early waits for what was asked before it."""
    bench = Bench()
    bench.journal.at_once = False
    line = bench.connect()
    line.send(request() + HEALTH + request(method="GET") + request())
    assert line.sent == b""
    first, second = bench.journal.waiting
    second(None)
    assert line.sent == b""
    first(None)
    assert statuses(line) == [204, 200, 405, 204]


@given(st.lists(st.sampled_from(["push", "health", "wrong", "stranger"]), max_size=12), st.data())
def test_any_order_of_commits_and_cuts_keeps_the_order_of_answers(kinds: list[str], data: st.DataObject) -> None:
    """However the bytes are cut and whenever each record becomes durable, answers come in order, each once."""
    known = {
        "push": (request(), 204),
        "health": (HEALTH, 200),
        "wrong": (request(b"{}"), 422),
        "stranger": (request(authorization="x"), 401),
    }
    bench = Bench()
    bench.journal.at_once = False
    line = bench.connect()
    stream = b"".join(known[kind][0] for kind in kinds)
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        line.send(stream[:size])
        stream = stream[size:]
        waiting = bench.journal.waiting
        for _ in range(data.draw(st.integers(0, len(waiting)))):
            waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))(None)
    bench.journal.commit()
    assert statuses(line) == [known[kind][1] for kind in kinds]


def test_reading_pauses_while_many_requests_wait() -> None:
    """A client that pipelines more than it is answered is not read until half of it is done."""
    bench = Bench(pipelined=4)
    bench.journal.at_once = False
    line = bench.connect()
    line.send(request() * 4)
    assert line.transport.producerState == "producing"
    line.send(request())
    assert line.transport.producerState == "paused"
    for done in bench.journal.waiting[:2]:
        done(None)
    assert line.transport.producerState == "paused"
    bench.journal.waiting[2](None)
    assert line.transport.producerState == "producing"


def test_connection_close_is_kept() -> None:
    """The last request's answer says close, and closes once it is sent."""
    bench = Bench()
    bench.journal.at_once = False
    line = bench.connect()
    line.send(request() + request(connection="close") + request())
    assert not line.closed
    bench.journal.commit()
    assert ["connection" in answer.headers for answer in line.answers()] == [False, True]
    assert line.closed


def test_a_framing_error_waits_for_the_answers_before_it() -> None:
    """Pushes that came before the broken bytes are answered first, then 400, then the end."""
    bench = Bench()
    bench.journal.at_once = False
    line = bench.connect()
    line.send(request() + b"\0\0" + request())
    assert line.sent == b""
    bench.journal.commit()
    assert statuses(line) == [204, 400]
    assert line.closed


def test_expectations_are_answered_in_order() -> None:
    """`100 Continue` does not overtake the answer of an earlier push."""
    bench = Bench()
    bench.journal.at_once = False
    line = bench.connect()
    body = push_body()
    line.send(request() + request(body, expect="100-continue")[: -len(body)])
    assert line.sent == b""
    bench.journal.commit()
    line.send(body)
    bench.journal.commit()
    assert statuses(line) == [204, 100, 204]


def test_a_push_is_stored_though_its_agent_is_gone() -> None:
    """A connection lost while the disk works loses the answer, not the samples."""
    bench = Bench()
    bench.journal.at_once = False
    line = bench.connect()
    line.send(request())
    line.door.connectionLost()
    bench.journal.commit()
    assert len(bench.buffer.pushes) == 1
    assert line.sent == b""
    assert bench.counters.connections_open == 0


# Mistakes of ours.


@pytest.fixture
def failures() -> Iterator[list[Failure]]:
    """Failures logged during the test."""
    found: list[Failure] = []

    def observe(event: LogEvent) -> None:
        if isinstance(failure := event.get("log_failure"), Failure):
            found.append(failure)

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    yield found
    globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]


def test_a_bug_in_the_journal_is_500_counted_and_logged(failures: list[Failure]) -> None:
    """The connection ends with 500; the reactor and other connections never notice."""
    bench = Bench()
    bench.journal.breaks = ZeroDivisionError("a bug")
    answer = bench.ask(request())
    assert (answer.status, answer.headers["connection"]) == (500, "close")
    assert "bug" not in answer.body.decode()
    assert bench.counters.errors == 1
    assert [failure.type for failure in failures] == [ZeroDivisionError]
    bench.journal.breaks = None
    assert bench.ask(request()).status == 204


def test_a_bug_in_the_buffer_does_not_reach_the_journal(failures: list[Failure]) -> None:
    """The journal calls many pushes in a row: one that fails must not keep the others from their answers."""
    bench = Bench()
    bench.journal.at_once = False
    lines = [bench.connect() for _ in range(2)]
    for line in lines:
        line.send(request())
    first, second = bench.journal.waiting
    bench.buffer.breaks = ZeroDivisionError("a bug")
    first(None)
    bench.buffer.breaks = None
    second(None)
    assert [statuses(line) for line in lines] == [[500], [204]]
    assert bench.counters.errors == 1
    assert len(failures) == 1


def test_a_bug_before_the_journal_is_500(failures: list[Failure]) -> None:
    """Whatever a part raises, the peer gets an answer and the connection ends."""
    bench = Bench()

    def broken() -> str | None:
        raise ZeroDivisionError("a bug")

    bench.parts.ready = broken
    line = bench.connect()
    line.send(request() + request())
    assert statuses(line) == [500]
    assert line.closed
    assert len(failures) == 1


def test_a_bug_in_enrolment_is_500(failures: list[Failure]) -> None:
    """A failure that is no refusal is logged, and not shown."""
    bench = Bench()
    bench.enroll_answer = lambda: fail(ZeroDivisionError("a bug"))
    answer = bench.ask(request(b"{}", path="/v1/enroll"))
    assert (answer.status, answer.reason) == (500, "internal")
    assert len(failures) == 1


# The end.


def test_close_all_waits_for_answers() -> None:
    """Idle connections end at once, those that wait for the disk after their answer, then it fires."""
    bench = Bench()
    bench.journal.at_once = False
    idle, busy = bench.connect(), bench.connect()
    busy.send(request())
    closed: list[None] = []
    bench.factory.close_all().addCallback(closed.append)
    assert (idle.closed, busy.closed) == (True, False)
    bench.journal.commit()
    assert busy.answers()[0].headers["connection"] == "close"
    assert busy.closed
    for line in (idle, busy):
        assert closed == []
        line.door.connectionLost()
    assert closed == [None]
    bench.factory.stopFactory()
    assert bench.clock.getDelayedCalls() == []


def test_close_all_does_not_wait_for_ever() -> None:
    """A disk that hangs does not hold up the end."""
    bench = Bench()
    bench.journal.at_once = False
    line = bench.connect()
    line.send(request())
    bench.factory.close_all()
    bench.clock.advance(bench.parts.limits.farewell_s)
    assert line.aborted


def test_close_all_with_nobody_there_fires_at_once() -> None:
    """Nothing to wait for."""
    closed: list[None] = []
    Bench().factory.close_all().addCallback(closed.append)
    assert closed == [None]


def test_pushes_of_one_connection_may_be_of_many_vms() -> None:
    """A load balancer reuses its connections: each push brings its own token."""
    bench = Bench()
    line = bench.connect()
    other = request(push_body(vm=OTHER_VM), fallow_vm=OTHER_VM, authorization=f"Bearer token-of-{OTHER_VM}")
    line.send(request() + other + request(fallow_vm=OTHER_VM))
    assert statuses(line) == [204, 204, 401]
    assert [push.vm for push in bench.buffer.pushes] == [VM, OTHER_VM]


def test_a_token_once_verified_counts_for_its_connection_and_its_vm_alone() -> None:
    """The mac is computed once for the pushes of one VM, revocation is looked at each time, another VM starts anew."""
    bench = Bench()
    line = bench.connect()
    line.send(request() * 3)
    assert bench.keys.asked == 1
    line.send(request(fallow_vm=OTHER_VM) + request(authorization=f"Bearer token-of-{OTHER_VM}") + request())
    bench.revocations.reasons[VM, 1] = "revoked"
    line.send(request())
    assert statuses(line) == [204, 204, 204, 401, 401, 204, 401]
    assert bench.ask(request(fallow_vm=OTHER_VM)).status == 401


def test_an_enrolment_comes_with_the_address_it_comes_from() -> None:
    """The peer of the connection; what a stranger writes into X-Forwarded-For is not believed."""
    bench = Bench()
    line = bench.connect()
    line.door.peer = "192.0.2.7"
    line.send(request(b"{}", path="/v1/enroll", x_forwarded_for="10.0.0.1"))
    assert bench.peers == ["192.0.2.7"]


def test_rotations_are_bounded_as_enrolments_are() -> None:
    """A key that is changed sends the whole fleet for new tokens: above so many at once, 429."""
    bench = Bench(enrolments=1)
    bench.enroll_answer = Deferred
    bench.connect().send(request(b"{}", path="/v1/enroll"))
    answer = bench.ask(request(path="/v1/token", body=b""))
    assert (answer.status, answer.reason, bench.rotations) == (429, "enrolments", [])


def test_a_token_of_a_key_that_is_to_go_is_told_to_rotate() -> None:
    """The push is stored and acknowledged; 200 says so, for each push until the token is a new one."""
    bench = Bench()
    bench.parts.is_outdated = lambda token: token == TOKEN.encode()
    line = bench.connect()
    for _ in range(2):
        line.send(request())
    line.send(request(authorization=f"Bearer token-2-of-{VM}"))
    told = {"stored": 1, "duplicate": 0, "conflict": 0, "rejected": [], "token": "rotate"}
    first, second, third = line.answers()
    assert [(one.status, one.document) for one in (first, second)] == [(200, told)] * 2
    assert (third.status, len(bench.buffer.pushes), bench.counters.outdated_tokens) == (204, 3, 2)


def test_changed_keys_count_on_open_connections_too() -> None:
    """A token that was verified once is verified again when the key file has changed."""
    bench = Bench()
    line = bench.connect()
    line.send(request())

    class NoKeys:
        def verify(self, vm_id: str, token: bytes, /) -> int | None:
            return None

    bench.parts.keys = NoKeys()
    line.send(request())
    assert statuses(line) == [204, 401]
