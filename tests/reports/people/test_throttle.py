"""How often a password may be tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.problems import Refused
from reports.people.throttle import ACCOUNT, ADDRESS, KNOWN_S, Seldom, Throttle

HOUR_S = 3600.0
T0 = 1_800_000_000.0


def attempt(throttle: Throttle, now_s: float, account: str = "ann", address: str = "a") -> int | None:
    """None where a try may be made; else the seconds to wait."""
    try:
        throttle.begin(account, address, now_s)
    except Refused as refused:
        return refused.problem.retry_after_s
    return None


def test_waits_double_up_to_a_bound() -> None:
    """Who comes exactly when told waits 2, 4, 8 ... seconds, and never more than the rule's most."""
    throttle, now_s, waits = Throttle(), T0, []
    for number in range(ACCOUNT.free + 14):
        wait_s = attempt(throttle, now_s, address=str(number))
        if wait_s is not None:
            waits.append(wait_s)
            assert attempt(throttle, now_s + wait_s, address=str(number)) is None
            now_s += wait_s
    assert waits[:4] == [2, 4, 8, 16]
    assert max(waits) == ACCOUNT.most_wait_s


def test_success_begins_anew() -> None:
    """The account is free again; the address gets back the one try, no more."""
    throttle = Throttle()
    for _ in range(ACCOUNT.free - 1):
        throttle.begin("ann", "a", T0)
    throttle.begin("ann", "a", T0)
    throttle.succeeded("ann", "a", T0)
    assert attempt(throttle, T0, address="b") is None
    for number in range(ADDRESS.free - ACCOUNT.free + 1):
        assert attempt(throttle, T0, account=f"other-{number}") is None
    assert attempt(throttle, T0, account="another") is not None


def test_failures_are_forgotten() -> None:
    """After an hour without one, mistyping begins from nothing."""
    throttle = Throttle()
    for _ in range(ACCOUNT.free):
        throttle.begin("ann", "a", T0)
    assert attempt(throttle, T0 + 1) is not None
    later_s = T0 + HOUR_S + 1
    for _ in range(ACCOUNT.free):
        assert attempt(throttle, later_s) is None


def test_what_is_remembered_is_bounded() -> None:
    """A million names fill no memory."""
    throttle = Throttle(max_keys=100)
    for number in range(1_000):
        attempt(throttle, T0, account=str(number), address=str(number))
    assert [len(known) for known in throttle._tries.values()] == [100, 100, 0]


def test_clock_set_back_locks_nobody_out() -> None:
    """A wait that was counted on a clock of next year lasts no longer than the rule says."""
    throttle = Throttle()
    for _ in range(ACCOUNT.free + 1):
        attempt(throttle, T0 + 365 * 86_400)
    wait_s = attempt(throttle, T0)
    assert wait_s is not None
    assert wait_s <= ADDRESS.most_wait_s


@given(gaps_s=st.lists(st.floats(min_value=0, max_value=30), min_size=60, max_size=200))
def test_tries_in_an_hour_are_few(gaps_s: list[float]) -> None:
    """However they are timed, wrong tries of one account that get through are no more than the waits leave room for."""
    throttle, now_s, through = Throttle(), T0, 0
    for number, gap_s in enumerate(gaps_s):
        now_s += gap_s
        through += attempt(throttle, now_s, address=str(number)) is None
    # Waits of 2 s that double to 256 s take 510 s; after that one try in five minutes.
    assert through <= ACCOUNT.free + 9 + (now_s - T0) / ACCOUNT.most_wait_s


def test_right_after_a_wait_it_is_let_in() -> None:
    """The seconds that are told are enough."""
    throttle = Throttle()
    for _ in range(ACCOUNT.free + 1):
        attempt(throttle, T0 + 0.7)
    wait_s = attempt(throttle, T0 + 0.7)
    assert wait_s is not None
    assert attempt(throttle, T0 + 0.7 + wait_s) is None
    with pytest.raises(Refused):
        throttle.begin("ann", "a", T0 + 0.7 + wait_s)


def test_owner_is_not_kept_out_by_others() -> None:
    """Whoever tries for ever, elsewhere or behind the same address, keeps nobody out who logged in from there."""
    throttle = Throttle()
    throttle.begin("ann", "a", T0)
    throttle.succeeded("ann", "a", T0)
    for number in range(ACCOUNT.free + 1):
        attempt(throttle, T0, address=f"evil-{number}")
    for number in range(ADDRESS.free + 1):
        attempt(throttle, T0, account=f"other-{number}")
    attempt(throttle, T0, account="ann a", address="evil")
    assert attempt(throttle, T0, address="b") is not None
    assert attempt(throttle, T0, account="bob") is not None
    assert attempt(throttle, T0) is None
    assert attempt(throttle, T0 + KNOWN_S, address="a") is None
    assert len(throttle._tries["known"]) == 1


def test_known_address_is_throttled_too() -> None:
    """An address that somebody logged in from guesses no faster than others."""
    throttle = Throttle()
    throttle.begin("ann", "a", T0)
    throttle.succeeded("ann", "a", T0)
    assert [attempt(throttle, T0) for _ in range(ACCOUNT.free + 1)] == [*[None] * ACCOUNT.free, 2]


def test_unchecked_try_is_none() -> None:
    """Who was turned away for want of room has tried nothing, however often."""
    throttle = Throttle()
    for _ in range(100):
        assert attempt(throttle, T0) is None
        throttle.unchecked("ann", "a", T0)
    assert attempt(throttle, T0) is None


def test_one_a_minute_is_due() -> None:
    """The first of each key, the next after the time, and what is remembered is bounded."""
    seldom = Seldom(60.0, max_keys=2)
    assert [seldom.is_due("a", T0 + at) for at in (0, 1, 59, 60, 61)] == [True, False, False, True, False]
    assert [seldom.is_due(key, T0 + 61) for key in ("b", "c", "a")] == [True, True, True]
