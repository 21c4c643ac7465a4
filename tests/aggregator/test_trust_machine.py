"""Join tokens, enrolments, rotations, revocations, changes of key in any order: nobody is let in who must not be."""

from __future__ import annotations

import secrets

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from aggregator.admission import Bound, Kind
from aggregator.catalogue import Catalogue
from aggregator.enrolment import Enrolment
from aggregator.fleet import metadata
from aggregator.join_tokens import Labels
from aggregator.problems import Refused
from aggregator.tokens import TokenKeys
from aggregator.waits import State, UnknownWaitError

VMS = ("a", "b")
MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")


class Trust(RuleBasedStateMachine):
    """The oracle: a token is accepted if and only if it is of a key that is there, was given to that VM, and neither
    a later enrolment, nor the second rotation after it, nor an admin took it back. Uses of a join token that were
    spent are the enrolments it let in."""

    joins = Bundle("joins")
    tokens = Bundle("tokens")

    @initialize()
    def begin(self) -> None:
        self.engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
        metadata.create_all(self.engine)
        self.catalogue = Catalogue(self.engine)
        self.now_s = 1_790_000_000.0
        self.kids = {"k1": secrets.token_bytes(32)}
        self.newest_kid = 1
        self.uses: dict[str, int] = {}
        self.spent: dict[str, int] = {}
        self.dead_joins: set[str] = set()
        # VM → generations that count; and the MAC each VM enrolled with.
        self.live: dict[str, set[int]] = {vm: set() for vm in VMS}
        self.macs: dict[str, str] = {}
        self.approved: set[tuple[str, str]] = set()
        self.refused: set[tuple[str, str]] = set()
        self.given: list[tuple[str, int, str, str]] = []

    @property
    def keys(self) -> TokenKeys:
        return TokenKeys(dict(reversed(self.kids.items())))

    @rule(target=joins, uses=st.integers(1, 3), bound=st.none() | st.sampled_from(VMS))
    def mint(self, uses: int, bound: str | None) -> tuple[str, str | None]:
        token = self.catalogue.mint(
            now_s=self.now_s,
            ttl_s=1e6,
            uses=uses,
            labels=Labels(),
            bound=None if bound is None else Bound(Kind.VM, bound),
        ).token
        self.uses[token] = uses
        self.spent[token] = 0
        return token, bound

    @rule(join=joins)
    def revoke_join(self, join: tuple[str, str | None]) -> None:
        number = list(self.uses).index(join[0])
        known = sorted(self.catalogue.join_tokens(), key=lambda token: token.created_s)
        (mine,) = [token for token in known if token.created_s == known[number].created_s]
        self.catalogue.revoke_join_token(mine.id, now_s=self.now_s)
        self.dead_joins.add(join[0])

    @rule(target=tokens, join=joins, vm=st.sampled_from(VMS), mac=st.sampled_from(MACS))
    def enrol(self, join: tuple[str, str | None], vm: str, mac: str) -> tuple[str, int, str, str] | None:
        token, bound = join
        may = self.spent[token] < self.uses[token] and token not in self.dead_joins and bound in {None, vm}
        sure = bound == vm or vm not in self.macs or self.macs[vm] == mac
        may = may and (vm, mac) not in self.refused and (sure or (vm, mac) in self.approved)
        request = Enrolment(join_token=token, vm=vm, macs=(mac,))
        if not may:
            with pytest.raises(Refused) as caught:
                self.catalogue.enroll(request, now_s=self.now_s)
            assert caught.value.problem.status in {401, 403}
            return None
        generation = self.catalogue.enroll(request, now_s=self.now_s)
        self.spent[token] += 1
        self.macs[vm] = mac
        self.approved.discard((vm, mac))
        self.live[vm] = {generation}
        return self.give(vm, generation)

    @rule(target=tokens, token=tokens)
    def rotate(self, token: tuple[str, int, str, str] | None) -> tuple[str, int, str, str] | None:
        if token is None or not self.is_accepted(token):
            return None
        vm, generation, _, _ = token
        newer = self.catalogue.rotate(vm, generation, now_s=self.now_s)
        assert newer == max(*self.live[vm], generation + 1)
        self.live[vm] = {newer - 1, newer} & (self.live[vm] | {newer})
        return self.give(vm, newer)

    @rule(vm=st.sampled_from(VMS))
    def revoke(self, vm: str) -> None:
        if vm in self.macs:
            self.catalogue.revoke(vm, "revoked", now_s=self.now_s)
            self.live[vm] = set()

    @rule(vm=st.sampled_from(VMS), mac=st.sampled_from(MACS), state=st.sampled_from(State))
    def decide(self, vm: str, mac: str, state: State) -> None:
        requests = {wait.request: wait for wait in self.catalogue.waits() if wait.vm == vm}
        request = next((name for name, wait in requests.items() if wait.evidence["macs"] == [mac]), None)
        if request is None or requests[request].state == state:
            with pytest.raises(UnknownWaitError):
                self.catalogue.decide(vm, state, by="x", now_s=self.now_s, request=request or "none")
            return
        self.catalogue.decide(vm, state, by="x", now_s=self.now_s, request=request)
        self.approved.discard((vm, mac))
        self.refused.discard((vm, mac))
        if state is not State.WAITING:
            (self.approved if state is State.APPROVED else self.refused).add((vm, mac))

    @rule()
    def new_key(self) -> None:
        if len(self.kids) == 1:
            self.newest_kid += 1
            self.kids[f"k{self.newest_kid}"] = secrets.token_bytes(32)

    @rule()
    def drop_key(self) -> None:
        if len(self.kids) == 2:
            del self.kids[next(iter(self.kids))]

    @rule(token=consumes(tokens))
    def lose(self, token: tuple[str, int, str, str] | None) -> None:
        """An agent forgets a token; what others hold of it counts as before."""

    def give(self, vm: str, generation: int) -> tuple[str, int, str, str]:
        kid = next(reversed(self.kids))
        given = (vm, generation, self.keys.make(vm, generation), kid)
        self.given.append(given)
        return given

    def is_accepted(self, token: tuple[str, int, str, str]) -> bool:
        """What a door would say that has just read keys and revocations."""
        vm, generation, text, _ = token
        found = self.keys.verify(vm, text.encode())
        assert found in {None, generation}
        return found is not None and self.catalogue.revocations().refuses(vm, found) is None

    @invariant()
    def only_live_tokens_count(self) -> None:
        for token in getattr(self, "given", ()):
            vm, generation, text, kid = token
            assert self.is_accepted(token) is (generation in self.live[vm] and kid in self.kids), token
            assert all(self.keys.verify(other, text.encode()) is None for other in VMS if other != vm)

    @invariant()
    def uses_are_never_overspent(self) -> None:
        if hasattr(self, "catalogue"):
            known = sorted(self.catalogue.join_tokens(), key=lambda token: token.created_s)
            left = sorted((token.uses, token.uses_left) for token in known)
            assert left == sorted((self.uses[token], self.uses[token] - self.spent[token]) for token in self.uses)

    @invariant()
    def time_goes_on(self) -> None:
        if hasattr(self, "now_s"):
            self.now_s += 1.0

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.dispose()


TestTrust = Trust.TestCase
TestTrust.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
