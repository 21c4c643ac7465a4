"""Proofs between nodes: good for exactly one question to one node, and answers for exactly that question."""

from __future__ import annotations

import re

from hypothesis import assume, given
from hypothesis import strategies as st

from aggregator.node_proof import (
    Proof,
    Question,
    Said,
    answer_fits,
    answer_text,
    fits,
    hash_body,
    make_proof,
    parse_proof,
    proof_key,
)

TOKEN = "0123456789abcdef"
KEY = proof_key(TOKEN)
NONCE = "0f" * 16
NOW_S = 1_790_000_000
# What any part of a question may hold, seams of other encodings too.
TEXTS = st.text(st.sampled_from("ab0|\n:,. /?=é"), max_size=6)
QUESTIONS = st.builds(
    Question, node=TEXTS, url=TEXTS, method=TEXTS, target=TEXTS, if_match=TEXTS, body=st.binary(max_size=4)
)
NONCES = st.text("0123456789abcdef", min_size=32, max_size=32)
PROOFS = st.builds(
    Proof, made_s=st.integers(0, 10**11 - 1), nonce=NONCES, mac=st.text("0123456789abcdef", min_size=64, max_size=64)
)
ANSWERS = st.builds(Said, status=st.integers(100, 599), etag=TEXTS, body_hash=st.binary(max_size=4).map(hash_body))
QUESTION = Question("agg-1", "https://agg1.example:8900", "DELETE", "/v1/vms/a/part?node=agg-1", '"00"', b"x")


@given(question=QUESTIONS, now_s=st.floats(0, 1e10), nonce=NONCES)
def test_a_proof_fits_the_question_it_was_made_for(question: Question, now_s: float, nonce: str) -> None:
    """Written and read again, it is the same proof, of that second."""
    proof = make_proof(KEY, question, now_s=now_s, nonce=nonce)
    assert fits(KEY, question, proof)
    assert parse_proof(proof.text) == proof
    assert (proof.made_s, proof.nonce) == (int(now_s), nonce)


@given(one=QUESTIONS, other=QUESTIONS)
def test_a_proof_fits_no_other_question(one: Question, other: Question) -> None:
    """Whatever stands in which part: no two questions are one message."""
    assume(one != other)
    assert not fits(KEY, other, make_proof(KEY, one, now_s=NOW_S, nonce=NONCE))


@given(seam=st.sampled_from(["", ",", ":", "1:", ",1:", "\n", "|", "."]), parts=st.permutations(["a", "b", "c"]))
def test_a_seam_between_parts_cannot_be_moved(seam: str, parts: list[str]) -> None:
    """What stands between two parts in a message may stand in a part too: that is another question."""
    one, two, three = parts
    left = QUESTION._replace(method=f"{one}{seam}{two}", target=three)
    right = QUESTION._replace(method=one, target=f"{two}{seam}{three}")
    assert not fits(KEY, right, make_proof(KEY, left, now_s=NOW_S, nonce=NONCE))


@given(
    change=st.sampled_from(
        [
            {"node": "agg-2"},
            {"url": "https://agg2.example:8900"},
            {"url": "http://agg1.example:8900"},
            {"method": "GET"},
            {"target": "/v1/vms/b/part?node=agg-1"},
            {"target": "/v1/vms/a/part"},
            {"if_match": '"01"'},
            {"if_match": ""},
            {"body": b""},
            {"body": b"y"},
            # The same characters, elsewhere.
            {"node": "agg-1https:", "url": "//agg1.example:8900"},
            {"method": "DELETE/v1", "target": "/vms/a/part?node=agg-1"},
        ]
    ),
    nonce=NONCES,
)
def test_every_part_of_a_question_counts(change: dict[str, object], nonce: str) -> None:
    """Node, address, method, path, query, If-Match and body: another one in any of them is refused."""
    proof = make_proof(KEY, QUESTION, now_s=NOW_S, nonce=nonce)
    assert not fits(KEY, QUESTION._replace(**change), proof)  # type: ignore[arg-type]


@given(seconds=st.integers(1, 10**6), nonce=NONCES, token=st.text("abcdef0123456789", min_size=16, max_size=20))
def test_time_nonce_and_key_count(seconds: int, nonce: str, token: str) -> None:
    """A proof cannot be made younger, used under another nonce, or made with another token."""
    proof = make_proof(KEY, QUESTION, now_s=NOW_S, nonce=NONCE)
    assert not fits(KEY, QUESTION, proof._replace(made_s=NOW_S + seconds))
    assert fits(KEY, QUESTION, proof._replace(nonce=nonce)) == (nonce == NONCE)
    assert fits(proof_key(token), QUESTION, proof) == (token == TOKEN)


@given(proof=PROOFS)
def test_no_proof_is_guessed(proof: Proof) -> None:
    """Any other mac than the right one is refused."""
    right = make_proof(KEY, QUESTION, now_s=proof.made_s, nonce=proof.nonce)
    assert fits(KEY, QUESTION, proof) == (proof.mac == right.mac)


@given(
    text=st.one_of(
        st.text(max_size=120),
        st.from_regex(re.compile(r"v[12]\.[0-9]{1,12}\.[0-9a-fA-F]{31,33}\.[0-9a-f]{63,65}\n?"), fullmatch=True),
        PROOFS.map(lambda proof: proof.text),
    )
)
def test_what_is_read_is_written_the_same(text: str) -> None:
    """A text is the one way to write its proof, or is none."""
    proof = parse_proof(text)
    assert proof is None or proof.text == text


def test_what_is_no_proof() -> None:
    """Other versions, numbers written otherwise, ends of lines and digits of other scripts are none."""
    good = make_proof(KEY, QUESTION, now_s=NOW_S, nonce=NONCE).text
    assert parse_proof(good) is not None
    for wrong in (
        "",
        good.replace("v1", "v2"),
        good + "\n",
        " " + good,
        good.upper(),
        good.replace("v1.", "v1.0"),
        good.replace("v1.", "v1.-"),
        good.replace(str(NOW_S), "١٧٩"),
        good[:-1],
        good + "0",
    ):
        assert parse_proof(wrong) is None, wrong


def test_a_clock_before_1970_makes_a_proof_of_1970() -> None:
    """It is refused for its time, in words about clocks, and not for how it is written."""
    assert parse_proof(make_proof(KEY, QUESTION, now_s=-5.0, nonce=NONCE).text) is not None


@given(said=ANSWERS, other=ANSWERS)
def test_an_answer_proves_itself_alone(said: Said, other: Said) -> None:
    """Another status, tag or body does not fit."""
    proof = make_proof(KEY, QUESTION, now_s=NOW_S, nonce=NONCE)
    text = answer_text(KEY, proof, said)
    assert answer_fits(KEY, proof, said, text)
    assert answer_fits(KEY, proof, other, text) == (said == other)


@given(nonce=NONCES, garbage=st.text(max_size=80))
def test_an_answer_is_of_one_question(nonce: str, garbage: str) -> None:
    """The answer to an earlier question, one made with another key, and any other text, is none."""
    assume(nonce != NONCE)
    said = Said(404, "", hash_body(b"{}"))
    proof, earlier = (make_proof(KEY, QUESTION, now_s=NOW_S, nonce=each) for each in (NONCE, nonce))
    assert not answer_fits(KEY, proof, said, answer_text(KEY, earlier, said))
    assert not answer_fits(KEY, proof, said, answer_text(proof_key("another-token-of-it"), proof, said))
    assert not answer_fits(KEY, proof, said, garbage)
    # What a listener was shown is not an answer either.
    assert not answer_fits(KEY, proof, said, f"v1.{proof.mac}")


def test_the_token_is_in_nothing_that_is_sent() -> None:
    """Neither as it is nor in hexadecimal; the key is not the token."""
    proof = make_proof(KEY, QUESTION, now_s=NOW_S, nonce=NONCE)
    sent = f"{QUESTION.whom} {proof.text} {answer_text(KEY, proof, Said(200, '', b''))}"
    for secret in (TOKEN, TOKEN.encode().hex(), KEY.hex()):
        assert secret not in sent
