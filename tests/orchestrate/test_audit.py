"""Whoever changes the audit log afterwards is seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.audit import GENESIS, anchor_of, canonical, parse_anchor, seal, verify, verify_log
from orchestrate.records import Anchor, AuditEntry
from tests.orchestrate.fakes import NOW_S


def a_log(lines: int = 5) -> list[AuditEntry]:
    """Sealed one after the other."""
    made: list[AuditEntry] = []
    for number in range(lines):
        last = anchor_of(made[-1]) if made else GENESIS
        body = canonical({"n": number})
        made.append(seal(last, at_s=NOW_S + number, who="ann", what="note", body=body))
    return made


def check(log: Sequence[AuditEntry], *anchors: Anchor, page: int = 2) -> tuple[int, int | None]:
    """Lines that hold, and the number of the first that does not."""
    found = verify_log(
        lambda after, limit: [entry for entry in log if entry.number > after][:limit], anchors, page=page
    )
    return found.lines, None if found.broken is None else found.broken.number


def test_a_log_as_written_holds() -> None:
    """Whole, in pages, from its middle on, and empty."""
    log = a_log()
    assert verify(log) is None
    assert verify(log[2:], since=anchor_of(log[1])) is None
    assert verify([]) is None
    assert check(log) == (5, None)
    assert check([]) == (0, None)


@given(index=st.integers(0, 4), field=st.sampled_from(["at_s", "who", "what", "body", "sha256", "number"]))
def test_a_changed_line_is_found(index: int, field: str) -> None:
    """Whichever line and whatever of it: that line is the first that is broken."""
    log = a_log()
    changed: dict[str, Any] = {
        "at_s": NOW_S - 1,
        "who": "bob",
        "what": "x",
        "body": "{}",
        "sha256": "0" * 64,
        "number": 99,
    }
    log[index] = replace(log[index], **{field: changed[field]})
    broken = verify(log)
    assert broken is not None
    assert broken.number == log[index].number


@given(index=st.integers(0, 4), cut=st.integers(1, 4))
def test_a_removed_line_is_found(index: int, cut: int) -> None:
    """Also several in a row; only the log's own end can go unseen, which is what anchors are for."""
    log = a_log(6)
    left = log[:index] + log[index + cut :]
    broken = verify(left)
    assert (broken is None) is (index + cut >= 6)
    if broken is not None:
        assert broken.number == index + cut + 1


@given(index=st.integers(0, 5), number=st.integers(1, 7))
def test_a_line_put_in_is_found(index: int, number: int) -> None:
    """Whatever number it takes: made by somebody who knows how lines are sealed, it breaks the one after it."""
    log = a_log()
    last = anchor_of(log[index - 1]) if index else GENESIS
    forged = seal(replace(last, number=number - 1), at_s=NOW_S, who="bob", what="note", body="{}")
    whole = [*log[:index], forged, *log[index:]]
    # At the very end, with the right number, it is a line like any other.
    assert (verify(whole) is None) is (index == 5 and number == 6)


@given(order=st.permutations(range(5)))
def test_a_log_out_of_order_is_found(order: list[int]) -> None:
    """Lines that changed places, numbers left or numbers made to fit."""
    log = a_log()
    moved = [log[index] for index in order]
    is_same = order == list(range(5))
    assert (verify(moved) is None) is is_same
    renumbered = [replace(entry, number=number) for number, entry in enumerate(moved, 1)]
    assert (verify(renumbered) is None) is is_same


@given(kept=st.integers(0, 5))
def test_a_log_cut_short_is_found_by_an_anchor(kept: int) -> None:
    """Without one it is a shorter log; with one its end is missed."""
    log = a_log()
    assert check(log[:kept]) == (kept, None)
    expected = None if kept == 5 else 5
    assert check(log[:kept], anchor_of(log[4])) == (kept, expected)


def test_a_log_written_anew_is_found_by_an_anchor() -> None:
    """A chain that holds in itself, of the same length, with one line that is another."""
    log, anew = a_log(), a_log(3)
    for number in (3, 4):
        anew.append(seal(anchor_of(anew[-1]), at_s=NOW_S + number, who="bob", what="note", body="{}"))
    assert check(anew) == (5, None)
    assert check(anew, anchor_of(log[2])) == (5, None)
    assert check(anew, anchor_of(log[2]), anchor_of(log[4])) == (4, 5)
    assert check(anew, anchor_of(log[4]), anchor_of(anew[4])) == (4, 5)


def test_fields_do_not_run_into_each_other() -> None:
    """The same characters, divided otherwise among who and what, have another hash."""
    one = seal(GENESIS, at_s=NOW_S, who="ab", what="c", body="{}")
    other = seal(GENESIS, at_s=NOW_S, who="a", what="bc", body="{}")
    assert one.sha256 != other.sha256


def test_the_hash_is_what_the_document_says() -> None:
    """SHA-256 over a JSON array, so that others can check a log without this program."""
    entry = seal(GENESIS, at_s=1.5, who="ann", what="note", body='{"n":1}')
    text = '["' + "0" * 64 + '",1,1.5,"ann","note","{\\"n\\":1}"]'
    assert entry.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_anchors_are_read_as_they_are_written() -> None:
    """NUMBER:HASH, blanks around it aside."""
    anchor = anchor_of(a_log()[4])
    assert parse_anchor(f" {anchor}\n") == anchor


@pytest.mark.parametrize("text", ["", "5", "5:", f"0:{'a' * 64}", f"-1:{'a' * 64}", f"5:{'A' * 64}", f"٥:{'a' * 64}"])
def test_what_is_no_anchor_is_refused(text: str) -> None:
    """With the form that is wanted."""
    with pytest.raises(ValueError, match="NUMBER:HASH"):
        parse_anchor(text)


@pytest.mark.parametrize("body", [{"x": float("nan")}, {"x": object()}])
def test_what_json_cannot_say_is_refused(body: dict[str, object]) -> None:
    """Rather than written in a way that others read otherwise."""
    with pytest.raises((ValueError, TypeError)):
        canonical(body)
