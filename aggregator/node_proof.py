"""Proofs with which programs of a fleet ask each other's admin doors at addresses that the fleet database gave.

Whoever may write those addresses must learn nothing that is good for anything else. So `admin.token` is never sent
there: the one who asks proves that it has the token, for one question to one node at one address, once and for a
minute. The answer proves the same, so that nobody else's is believed. Pure.

A question has two headers: `Fallow-Node: NAME URL`, whom it is for, and `Authorization: Fallow-Proof
v1.TIME.NONCE.MAC`. The answer to a proof that fits has one: `Fallow-Proof: v1.MAC`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from hmac import compare_digest
from typing import Final, NamedTuple

SCHEME: Final = "Fallow-Proof"
FOR_HEADER: Final = "Fallow-Node"
ANSWER_HEADER: Final = "Fallow-Proof"
# So much the two clocks may be apart, on the way included.
WINDOW_S: Final = 60
NONCE_BYTES: Final = 16

_LABEL = b"fallow proof between nodes v1"
_PROOF = re.compile(r"v1\.(0|[1-9][0-9]{0,10})\.([0-9a-f]{32})\.([0-9a-f]{64})")


class Question(NamedTuple):
    """What a proof is for.

    Attributes:
        node: the name of the node that is asked.
        url: where it is asked, as `str(parse_admin_url(...))` writes it.
        target: path and query as they stand in the request.
        if_match: that header; empty: there is none.
    """

    node: str
    url: str
    method: str
    target: str
    if_match: str = ""
    body: bytes = b""

    @property
    def whom(self) -> str:
        """The value of `Fallow-Node`."""
        return whom_text(self.node, self.url)


class Proof(NamedTuple):
    """That somebody who has the token asked a question.

    Attributes:
        made_s: Unix seconds, the clock of the one who asks.
        nonce: 32 hexadecimal digits of chance.
        mac: 64 hexadecimal digits over all else and the question.
    """

    made_s: int
    nonce: str
    mac: str

    @property
    def text(self) -> str:
        """What follows the scheme in `Authorization`."""
        return f"v1.{self.made_s}.{self.nonce}.{self.mac}"


class Said(NamedTuple):
    """What an answer proves. `body_hash`: see `hash_body`; `etag`: with its quotes, empty where there is none."""

    status: int
    etag: str
    body_hash: bytes


def whom_text(node: str, url: str) -> str:
    """A node as `Fallow-Node` names it."""
    return f"{node} {url}"


def proof_key(token: str) -> bytes:
    """The key of proofs, from the text of `admin.token`; the token cannot be had from it."""
    return hmac.digest(token.encode(), _LABEL, "sha256")


def hash_body(body: bytes) -> bytes:
    """SHA-256. Not in the reactor's thread where the body is large."""
    return hashlib.sha256(body).digest()


def make_proof(key: bytes, question: Question, *, now_s: float, nonce: str) -> Proof:
    """Args: nonce: 32 hexadecimal digits that were never used before."""
    made_s = max(0, int(now_s))
    return Proof(made_s, nonce, _question_mac(key, question, made_s, nonce))


def parse_proof(text: str) -> Proof | None:
    """The proof that `Proof.text` wrote; None: the text is none."""
    found = _PROOF.fullmatch(text)
    return None if found is None else Proof(int(found[1]), found[2], found[3])


def fits(key: bytes, question: Question, proof: Proof) -> bool:
    """Whether the proof was made with this key for this question, whenever that was."""
    return compare_digest(_question_mac(key, question, proof.made_s, proof.nonce), proof.mac)


def answer_text(key: bytes, proof: Proof, said: Said) -> str:
    """The value of the answer's `Fallow-Proof`: for this answer to the question of this proof."""
    mac = _mac(key, b"answer", proof.mac.encode(), b"%d" % said.status, said.etag.encode(), said.body_hash)
    return f"v1.{mac}"


def answer_fits(key: bytes, proof: Proof, said: Said, text: str) -> bool:
    """Whether `text` is what `answer_text` says."""
    return compare_digest(answer_text(key, proof, said).encode(), text.encode())


def _question_mac(key: bytes, question: Question, made_s: int, nonce: str) -> str:
    texts = (question.node, question.url, question.method, question.target, question.if_match, nonce)
    return _mac(key, b"question", b"%d" % made_s, hash_body(question.body), *(text.encode() for text in texts))


def _mac(key: bytes, *parts: bytes) -> str:
    # Each with its length before it: no two lists of parts are one message.
    message = b"".join(b"%d:%b," % (len(part), part) for part in parts)
    return hmac.digest(key, message, "sha256").hex()
