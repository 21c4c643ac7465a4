"""`bench bad-input`: each kind gets its answer, an input can be had again, and a wrong answer is noticed."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.answers import STORED, render_problem
from aggregator.door_parts import DoorCounters
from aggregator.http import HttpLimits, Request, RequestParser
from aggregator.problems import Problem
from bench.bad_input import ask, outcome, without_socket
from bench.bad_input_doors import AnswerError, Doors, answers_in
from bench.bad_input_findings import KINDS, Findings, Made, inputs, pieces_of
from bench.bad_input_maker import Kind, Maker, Surroundings
from bench.bad_input_tcp import mistakes_in, over_tcp
from bench.load_driver import DriveError
from bench.sink import minute_days_ago, vm_names


def surroundings(doors: Doors, now_s: float) -> Surroundings:
    return Surroundings(
        token=lambda vm: doors.keys.make(vm, 1), vms=vm_names(3), start_ts=minute_days_ago(5), now_s=now_s
    )


def of_kind(name: str, data: bytes = b"x") -> Made:
    (kind,) = [kind for kind in KINDS if kind.name == name]
    return Made(kind, 1, 2, data, [data])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_gets_the_answer_that_is_promised(kind: Kind) -> None:
    """A few of each kind, whole, at the real door: none of a wrong class, nothing stored that should not be."""
    now_s = time.time()
    doors = Doors(now_s)
    shared = surroundings(doors, now_s)
    found = Findings()
    for number in range(12):
        data = kind.make(Maker(shared, 5, number))
        before = doors.counters.samples
        found.take(Made(kind, 5, number, data, [data]), doors.ask([data]))
        assert not kind.answers or doors.counters.samples - before == kind.stored
    assert found.wrong == []
    assert doors.counters.errors == 0


def test_a_run_is_without_fault_and_its_bars_hold() -> None:
    """Some thousand inputs, cut as TCP might, meet the door: everything is counted, nothing is wrong."""
    found = without_socket(3, 0, 3000, lambda _line: None)
    assert (found.inputs, found.failures) == (3000, 0)
    assert found.wrong == []
    assert found.stored > 0
    assert {200, 204, 400, 401, 403, 404, 405, 409, 413, 415, 422, 431} <= set(found.by_status)
    assert found.rss_half_bytes > 0
    assert [bar.name for bar in outcome(found, found).bars if not bar.ok] == []


def test_an_input_depends_on_the_seed_and_its_number_alone() -> None:
    """Input 7 of a seed is the same alone and among others; another seed gives another."""
    doors = Doors(1.79e9)
    shared = surroundings(doors, 1.79e9)
    among = list(inputs(shared, 1, range(20)))[7]
    (alone,) = inputs(shared, 1, range(7, 8))
    assert (alone.kind, alone.data, alone.pieces) == (among.kind, among.data, among.pieces)
    others = [made.data for made in inputs(shared, 2, range(20))]
    assert among.data not in others


@given(st.binary(min_size=1, max_size=50), st.integers())
def test_pieces_are_the_whole(data: bytes, seed: int) -> None:
    """Cutting loses nothing and makes no empty piece."""
    pieces = pieces_of(data, random.Random(seed))
    assert b"".join(pieces) == data
    assert all(pieces)


def test_valid_inputs_are_pushes() -> None:
    """What is called valid parses as one request, whichever way it is packed."""
    doors = Doors(1.79e9)
    shared = surroundings(doors, 1.79e9)
    for number in range(30):
        (request,) = RequestParser(HttpLimits()).feed(Maker(shared, 1, number).request())
        assert isinstance(request, Request)
        assert request.path == b"/v1/samples"


def test_a_wrong_class_is_told_with_what_it_takes_to_have_it_again() -> None:
    """The line names the kind, the seed, the number and the bytes."""
    found = Findings()
    found.take(of_kind("no token", b"the bytes"), STORED)
    assert found.wrong_count == 1
    (line,) = found.wrong
    assert "no token (--seed 1 --first 2): answered [204] instead of [[401]]: b'the bytes'" in line


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("valid", b""),
        ("valid", STORED + STORED),
        ("valid, then the same again", STORED),
        ("too old", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("mutated bytes", render_problem(Problem(500, "internal", "x"))),
        ("mutated bytes", render_problem(Problem(503, "later", "x"))),
        ("mutated bytes", b"nonsense"),
    ],
)
def test_missing_surplus_and_unexpected_answers_are_wrong(name: str, answers: bytes) -> None:
    """Too few, too many, without what belongs in it, 5xx, or no HTTP at all."""
    found = Findings()
    found.take(of_kind(name), answers)
    assert found.wrong_count == 1


def test_mutated_bytes_may_be_answered_with_any_refusal_or_not_at_all() -> None:
    """They may still be a push, too."""
    found = Findings()
    for answers in (
        b"",
        STORED,
        render_problem(Problem(400, "http", "x")),
        render_problem(Problem(501, "upgrade", "x")),
    ):
        found.take(of_kind("mutated bytes"), answers)
    assert found.wrong == []


def test_what_the_door_raises_is_a_failure() -> None:
    """It is counted and told, and the run goes on."""

    class Raising:
        counters = DoorCounters()

        def ask(self, pieces: list[bytes]) -> bytes:
            raise RecursionError("too deep")

    found = Findings()
    ask(Raising(), of_kind("valid"), found)
    assert (found.failures, found.wrong_count) == (1, 1)
    assert "RecursionError('too deep')" in found.wrong[0]


def test_answers_are_taken_apart() -> None:
    """Whole answers with their bodies; `100 Continue` is none, one that is cut off is left out."""
    data = b"HTTP/1.1 100 Continue\r\n\r\n" + STORED + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" + STORED[:9]
    assert answers_in(data) == [(204, b""), (200, b"{}")]
    assert answers_in(b"") == []


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}",
        render_problem(Problem(400, "http", "x")).replace(b'"status": 400', b'"status": 401'),
    ],
)
def test_what_is_no_answer_of_ours_is_refused(data: bytes) -> None:
    """Another protocol, an error that is no problem document, a document of another status."""
    with pytest.raises(AnswerError):
        answers_in(data)


def test_mistakes_are_read_from_the_metrics() -> None:
    """The counter's value; without it the run is void."""
    assert mistakes_in("# HELP x\nfallow_errors_total 3.0\n") == 3
    with pytest.raises(DriveError):
        mistakes_in("fallow_errors_created 3.0\n")


@pytest.mark.real
def test_a_real_aggregator_answers_them_over_tcp(tmp_path: Path) -> None:
    """The same kinds over sockets; what was acknowledged is in the stores."""
    found = over_tcp(tmp_path, 4, 0, 600, lambda _line: None)
    assert (found.inputs, found.failures) == (600, 0)
    assert found.wrong == []
    assert found.stored > 0
