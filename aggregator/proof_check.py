"""Whether a proof of another node, the report or the controller is good now: for this node, in time, and only once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aggregator.admin_client import parse_admin_url
from aggregator.node_proof import WINDOW_S, Proof, Question, fits, parse_proof, proof_key, whom_text
from aggregator.problems import Problem, Refused

# A proof of a clock that is ahead is in time from 60 s before it was made to 60 s after.
_LIFE_S = 2 * WINDOW_S
# About 10 MB: proofs of some hundred questions a second.
MAX_REMEMBERED = 65_536


class Me(Protocol):
    """The part of `OwnNode` that is read: the name, and where others are told to ask; None: nowhere, or not yet."""

    @property
    def name(self) -> str: ...
    @property
    def admin_url(self) -> str | None: ...


class ProofCheck:
    """Judges proofs at the admin door of one node. Called in the reactor's thread.

    Args:
        token: the text of `admin.token`.
        me: the node.
        clock: Unix seconds.
        most: nonces that are remembered of one time of life.
    Attributes:
        key: of proofs and of answers to them.
    """

    def __init__(
        self,
        token: str,
        *,
        me: Me,
        clock: Callable[[], float],
        most: int = MAX_REMEMBERED,
    ) -> None:
        self.key = proof_key(token)
        self._me = me
        self._clock = clock
        self._most = most
        self._fresh: set[str] = set()
        self._older: set[str] = set()
        self._fresh_since_s = clock()

    def authentic(self, text: str, whom: str, question: Callable[[str, str], Question]) -> Proof:
        """The proof, if somebody who has the token made it for this node; `check_once` is still to be asked.

        Args:
            text: what follows the scheme.
            whom: the header `Fallow-Node`; empty: there is none.
            question: makes the question that came of this node's name and address.

        Raises: Refused: 401 or 421; not by the token, so nothing that answers it proves anything.
        """
        proof = parse_proof(text)
        if proof is None:
            raise Refused(Problem(401, "no-proof", "this is no proof that is understood here"))
        # By its address too: somebody who has it sent elsewhere cannot pass it on to here.
        url = _written(self._me.admin_url)
        if url is None or whom != whom_text(self._me.name, url):
            raise Refused(Problem(421, "other-node", f"this is not {whom[:300] or 'a node without a name'}"))
        if not fits(self.key, question(self._me.name, url), proof):
            detail = "the proof was made with another admin.token, or for another request"
            raise Refused(Problem(401, "wrong-proof", detail))
        return proof

    def check_once(self, proof: Proof) -> None:
        """Takes an authentic proof, once. Raises: Refused: it is of another time, or was here before."""
        now_s = self._clock()
        apart_s = now_s - proof.made_s
        if abs(apart_s) > WINDOW_S:
            detail = (
                f"the clocks of node {self._me.name} and of the machine that asks it differ by {abs(apart_s):.0f} s, "
                f"{'the latter is behind' if apart_s > 0 else 'the former is behind'}: up to {WINDOW_S} s are taken"
            )
            raise Refused(Problem(401, "clocks-apart", detail))
        self._age(now_s)
        if proof.nonce in self._fresh or proof.nonce in self._older:
            raise Refused(Problem(401, "used-proof", "this proof was here before: each is good for one request"))
        if len(self._fresh) >= self._most:
            raise Refused(
                Problem(503, "too-many-proofs", "too many requests with proofs at once", retry_after_s=WINDOW_S)
            )
        self._fresh.add(proof.nonce)

    def _age(self, now_s: float) -> None:
        """Forgets nonces after one to two times of life."""
        if now_s < self._fresh_since_s:
            # The clock was set back: those of now are kept for a whole time of life from here.
            self._fresh_since_s = now_s
        elif now_s - self._fresh_since_s > _LIFE_S:
            self._older, self._fresh, self._fresh_since_s = self._fresh, set(), now_s


def _written(url: str | None) -> str | None:
    """An address as `Question.url` has it."""
    try:
        return None if url is None else str(parse_admin_url(url))
    except ValueError:
        return None
