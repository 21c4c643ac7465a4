"""A node takes a proof for itself, in time, and once."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.node_proof import WINDOW_S, Proof, Question, make_proof, proof_key
from aggregator.problems import Problem, Refused
from aggregator.proof_check import ProofCheck

TOKEN = "0123456789abcdef"
URL = "https://agg1.example:8900"
NOW_S = 1_790_000_000.0


@dataclass
class Me:
    name: str = "agg-1"
    admin_url: str | None = URL


class Bench:
    """One node's check, and somebody who asks it."""

    def __init__(self, me: Me | None = None, *, most: int = 100) -> None:
        self.now_s = NOW_S
        self.me = me or Me()
        self.check = ProofCheck(TOKEN, me=self.me, clock=lambda: self.now_s, most=most)
        self.count = 0

    def made(self, at_s: float | None = None, *, node: str = "agg-1", url: str = URL, token: str = TOKEN) -> Proof:
        """A proof for GET /."""
        self.count += 1
        question = Question(node, url, "GET", "/")
        nonce = f"{self.count:032x}"
        return make_proof(proof_key(token), question, now_s=self.now_s if at_s is None else at_s, nonce=nonce)

    def take(self, proof: Proof, whom: str = f"agg-1 {URL}") -> Problem | None:
        """Why it is refused."""
        try:
            found = self.check.authentic(proof.text, whom, lambda node, url: Question(node, url, "GET", "/"))
            self.check.check_once(found)
        except Refused as refused:
            return refused.problem
        return None


def reason(problem: Problem | None) -> str | None:
    return None if problem is None else problem.reason


def test_a_proof_is_taken_once() -> None:
    """The second time it is refused, and said to be a second time."""
    bench = Bench()
    proof = bench.made()
    assert bench.take(proof) is None
    again = bench.take(proof)
    assert again is not None
    assert (again.status, again.reason) == (401, "used-proof")
    assert bench.take(bench.made()) is None


@pytest.mark.parametrize(
    ("made", "whom", "refused"),
    [
        ({}, "agg-2 https://agg1.example:8900", "other-node"),
        ({"node": "agg-2"}, f"agg-1 {URL}", "wrong-proof"),
        ({}, "agg-1 https://evil.example:8900", "other-node"),
        ({"url": "https://evil.example:8900"}, f"agg-1 {URL}", "wrong-proof"),
        ({"token": "another-token-of-it"}, f"agg-1 {URL}", "wrong-proof"),
        ({}, "", "other-node"),
    ],
)
def test_a_proof_is_for_this_node_at_this_address(made: dict[str, str], whom: str, refused: str) -> None:
    """One that another node, or somebody else at another address, was sent does not open this door."""
    bench = Bench()
    assert reason(bench.take(bench.made(**made), whom)) == refused  # type: ignore[arg-type]


def test_a_node_that_told_no_address_takes_none() -> None:
    """Nor one whose address is none: nobody can have asked there."""
    for url in (None, "nowhere"):
        bench = Bench(Me(admin_url=url))
        assert reason(bench.take(bench.made(url=str(url)), f"agg-1 {url}")) == "other-node"


def test_addresses_are_compared_as_they_are_asked() -> None:
    """A port left out and capitals are written as the one who asks writes them."""
    bench = Bench(Me(admin_url="https://AGG1.example/"))
    assert bench.take(bench.made()) is None


@given(apart_s=st.integers(-4000, 4000))
def test_clocks_that_are_apart_are_told(apart_s: int) -> None:
    """Up to the window a proof is taken; beyond, the refusal says how far the clocks are apart and which is behind."""
    bench = Bench()
    problem = bench.take(bench.made(NOW_S + apart_s))
    if abs(apart_s) <= WINDOW_S:
        assert problem is None
        return
    assert problem is not None
    assert (problem.status, problem.reason) == (401, "clocks-apart")
    assert f"the clocks of node agg-1 and of the machine that asks it differ by {abs(apart_s)} s" in problem.detail
    assert ("the former is behind" in problem.detail) == (apart_s > 0)


def test_no_proof() -> None:
    """What cannot be read as a proof is refused before anything is compared."""
    with pytest.raises(Refused) as caught:
        Bench().check.authentic("v2.1.2.3", f"agg-1 {URL}", lambda node, url: Question(node, url, "GET", "/"))
    assert (caught.value.problem.status, caught.value.problem.reason) == (401, "no-proof")


@given(
    step_s=st.integers(1, 90),
    ahead_s=st.lists(st.integers(-WINDOW_S, WINDOW_S), min_size=1, max_size=4),
    first_s=st.integers(0, 200),
)
def test_no_proof_is_ever_taken_twice(step_s: int, ahead_s: list[int], first_s: int) -> None:
    """However long it was kept, and whatever the clock of the one who made it said: used, or of another time."""
    bench = Bench(most=1000)
    bench.now_s += first_s
    taken: list[Proof] = []
    for turn in range(12):
        # The first to come after a while has what is old forgotten.
        taken.append(bench.made(bench.now_s + ahead_s[turn % len(ahead_s)]))
        assert bench.take(taken[-1]) is None
        assert {reason(bench.take(proof)) for proof in taken} <= {"used-proof", "clocks-apart"}
        bench.now_s += step_s


def test_memory_of_proofs_is_bounded() -> None:
    """One more than is remembered is refused for now; those of before go when they are too old anyhow."""
    bench = Bench(most=3)
    for _ in range(3):
        assert bench.take(bench.made()) is None
    full = bench.take(bench.made())
    assert full is not None
    assert (full.status, full.retry_after_s) == (503, WINDOW_S)
    bench.now_s += 2 * WINDOW_S + 1
    assert bench.take(bench.made()) is None
    assert len(bench.check._fresh) == 1
    assert len(bench.check._older) == 3


def test_a_clock_that_is_set_back_does_not_keep_nonces_for_ever() -> None:
    """They are forgotten a time of life after the clock goes on."""
    bench = Bench(most=1)
    assert bench.take(bench.made()) is None
    bench.now_s -= 3600.0
    assert reason(bench.take(bench.made())) == "too-many-proofs"
    bench.now_s += 2 * WINDOW_S + 1
    assert bench.take(bench.made()) is None
