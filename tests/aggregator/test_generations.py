"""Which tokens of a VM count, whatever happened to it in whatever order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from aggregator.catalogue import Catalogue, Labels
from aggregator.enrolment import Enrolment
from aggregator.fleet import metadata, vm
from aggregator.lives import TOKENS_A_LIFE, first_of, life_of
from aggregator.problems import Refused

NOW_S = 1_790_000_000.0


def enroll(catalogue: Catalogue) -> int:
    token = catalogue.mint_join_token(now_s=NOW_S, ttl_s=60.0, uses=1, labels=Labels())
    return catalogue.enroll(Enrolment(join_token=token, vm="a"), now_s=NOW_S)


def below_of(catalogue: Catalogue) -> int:
    """The first generation of the VM that is not refused."""
    return catalogue.revocations().below.get("a", (0, ""))[0]


class Generations(RuleBasedStateMachine):
    """Whatever happens to one VM, the token handed out last counts unless it was revoked or forgotten since, the one
    before it counts only after a rotation, and no generation is ever handed out to two enrolments."""

    @initialize()
    def begin(self) -> None:
        self.engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
        metadata.create_all(self.engine)
        self.catalogue = Catalogue(self.engine)
        self.newest = 0
        self.enrolled: set[int] = set()
        self.live: set[int] = set()
        self.known = False

    @rule()
    def enrol(self) -> None:
        before, was_known = self.newest, self.known
        self.newest = enroll(self.catalogue)
        # Only forgetting begins another life.
        assert life_of(self.newest) == life_of(before) + (bool(before) and not was_known)
        assert self.newest not in self.enrolled
        self.enrolled.add(self.newest)
        self.live = {self.newest}
        self.known = True
        self.check()

    @rule(back=st.integers(0, 3))
    def rotate(self, back: int) -> None:
        asks = self.newest - back
        if asks in self.live and self.known:
            given = self.catalogue.rotate("a", asks, now_s=NOW_S)
            assert given == (self.newest + 1 if back == 0 else self.newest)
            self.newest = given
            self.live = {given - 1, given}
        else:
            with pytest.raises(Refused):
                self.catalogue.rotate("a", asks, now_s=NOW_S)
        self.check()

    @rule()
    def revoke(self) -> None:
        if self.known:
            self.catalogue.revoke("a", "revoked", now_s=NOW_S)
            self.live = set()
        self.check()

    @rule()
    def forget(self) -> None:
        if self.known:
            before = max(self.newest, below_of(self.catalogue))
            assert self.catalogue.forget("a", now_s=NOW_S) == life_of(before) + 1
            self.live, self.known = set(), False
        self.check()

    def check(self) -> None:
        revocations = self.catalogue.revocations()
        last = first_of(life_of(self.newest))
        near = {*range(1, min(100, self.newest + 1)), *range(max(1, last - 100), self.newest + 1)}
        accepted = {number for number in near if revocations.refuses("a", number) is None}
        assert accepted == self.live

    def teardown(self) -> None:
        self.engine.dispose()


TestGenerations = Generations.TestCase


def test_tokens_of_a_life_run_out_before_the_next_begins() -> None:
    """Neither a rotation nor an enrolment gives a token out whose refusal would end the life; forgetting helps."""
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    metadata.create_all(engine)
    catalogue = Catalogue(engine)
    enroll(catalogue)
    with engine.begin() as connection:
        connection.execute(sa.update(vm).values(generation=TOKENS_A_LIFE - 2))
    asks: list[Callable[[], int]] = [
        lambda: catalogue.rotate("a", TOKENS_A_LIFE - 2, now_s=NOW_S),
        lambda: enroll(catalogue),
    ]
    for ask in asks:
        with pytest.raises(Refused) as refused:
            ask()
        assert (refused.value.problem.status, refused.value.problem.reason) == (403, "tokens-spent")
    catalogue.revoke("a", "revoked", now_s=NOW_S)
    assert life_of(below_of(catalogue)) == 0
    assert catalogue.forget("a", now_s=NOW_S) == 1
    assert enroll(catalogue) == first_of(1)
    engine.dispose()
