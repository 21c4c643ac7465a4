"""The rules of enrolment: whom a join token fits, and when a person must decide."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.admission import (
    HEARD_RECENTLY_S,
    Asking,
    Bound,
    Check,
    Kind,
    Known,
    clean_mac,
    clean_macs,
    doubt,
    fits,
    parse_bound,
    parse_check,
)

NOW_S = 1_790_000_000.0
MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"
ASKING = Asking(vm="a", peer="10.1.2.3", macs=frozenset({MAC}))
NOBODY = Known(
    enrolled=False, macs=frozenset(), heard_s=None, inventory_macs=None, pools=frozenset(), has_inventory=False
)
SAME = replace(NOBODY, enrolled=True, macs=frozenset({MAC, OTHER_MAC}))
LISTED = replace(NOBODY, has_inventory=True, inventory_macs=frozenset({MAC}))
macs = st.frozensets(st.sampled_from([MAC, OTHER_MAC, "52:54:00:00:00:03"]))
knowns = st.builds(
    Known,
    enrolled=st.booleans(),
    macs=macs,
    heard_s=st.none() | st.floats(NOW_S - 1e6, NOW_S + 1e6),
    inventory_macs=st.none() | macs,
    pools=st.just(frozenset()),
    has_inventory=st.booleans(),
)


def why(known: Known, asking: Asking = ASKING, bound: Bound | None = None, check: Check = Check.AUTO) -> str | None:
    return doubt(asking, known, bound=bound, check=check, now_s=NOW_S)


@pytest.mark.parametrize(
    ("bound", "peer", "is_let_in"),
    [
        (None, None, True),
        (Bound(Kind.VM, "a"), None, True),
        (Bound(Kind.VM, "b"), "10.1.2.3", False),
        (Bound(Kind.POOL, "web"), None, True),
        (Bound(Kind.POOL, "we"), None, False),
        (Bound(Kind.NETWORK, "10.1.0.0/16"), "10.1.2.3", True),
        (Bound(Kind.NETWORK, "10.1.0.0/16"), "::ffff:10.1.2.3", True),
        (Bound(Kind.NETWORK, "10.1.0.0/16"), "10.2.0.1", False),
        (Bound(Kind.NETWORK, "0.0.0.0/0"), "2001:db8::1", False),
        (Bound(Kind.NETWORK, "2001:db8::/32"), "2001:db8::1", True),
        (Bound(Kind.NETWORK, "0.0.0.0/0"), None, False),
        (Bound(Kind.NETWORK, "0.0.0.0/0"), "", False),
        (Bound(Kind.NETWORK, "0.0.0.0/0"), "somewhere", False),
    ],
)
def test_a_bound_join_token_fits_what_it_names(bound: Bound | None, peer: str | None, is_let_in: bool) -> None:
    """A VM, a pool, a network; an address that is not known is in no network, be it as wide as it may."""
    assert fits(bound, replace(ASKING, peer=peer), {"web"}) is is_let_in


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4))
def test_a_network_is_what_its_bits_say(address: object, bits: int, peer: object) -> None:
    """For any network and peer the answer is that of the network itself."""
    network = ip_network(f"{address}/{bits}", strict=False)
    bound = parse_bound(Kind.NETWORK, str(network))
    assert fits(bound, replace(ASKING, peer=str(peer)), ()) is (ip_address(str(peer)) in network)


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (NOBODY, None),
        (LISTED, None),
        (replace(LISTED, inventory_macs=None), "does not know it"),
        (replace(LISTED, inventory_macs=frozenset({OTHER_MAC})), "none of the MACs that the inventory"),
        (replace(LISTED, inventory_macs=frozenset()), None),
        (SAME, None),
        (replace(SAME, macs=frozenset()), None),
        (replace(SAME, macs=frozenset({OTHER_MAC})), "none of the MACs that this id"),
        (replace(SAME, heard_s=NOW_S - HEARD_RECENTLY_S + 1), "within the last hour"),
        (replace(SAME, heard_s=NOW_S - HEARD_RECENTLY_S), None),
        (replace(SAME, heard_s=NOW_S + 86_400), "within the last hour"),
        (replace(NOBODY, heard_s=NOW_S), None),
        (replace(LISTED, enrolled=True, macs=frozenset({OTHER_MAC})), "none of the MACs that this id"),
    ],
)
def test_when_a_person_must_decide(known: Known, reason: str | None) -> None:
    """Unknown to the inventory, other MACs, or an id that another machine uses; else nobody need look."""
    found = why(known)
    assert found is None if reason is None else reason in str(found)


def test_a_machine_without_macs_meets_none() -> None:
    """Saying nothing is no way around what is known."""
    mute = replace(ASKING, macs=frozenset())
    assert why(LISTED, mute) is not None
    assert why(SAME, mute) is not None
    assert why(NOBODY, mute) is None


def test_a_join_token_for_exactly_this_vm_is_an_admins_word_on_its_id() -> None:
    """A rebuilt VM gets in at once with it, other MACs and a push a minute ago or not; the inventory still counts."""
    taken = replace(SAME, macs=frozenset({OTHER_MAC}), heard_s=NOW_S - 60)
    assert why(taken, bound=Bound(Kind.VM, "a")) is None
    assert why(taken, bound=Bound(Kind.NETWORK, "10.0.0.0/8")) is not None
    assert why(replace(taken, has_inventory=True), bound=Bound(Kind.VM, "a")) == "the inventory does not know it"


def test_the_check_can_be_demanded_and_left_out() -> None:
    """`inventory` counts an empty inventory as one that knows nobody; `off` asks nothing."""
    assert why(NOBODY, check=Check.INVENTORY) == "the inventory does not know it"
    worst = replace(SAME, heard_s=NOW_S, has_inventory=True)
    assert why(worst) is not None
    assert why(worst, check=Check.OFF) is None


@given(knowns, macs, st.sampled_from(Check))
def test_nobody_takes_an_id_over_unseen(known: Known, said: frozenset[str], check: Check) -> None:
    """Unless told `off`: who gets an enrolled id shares a MAC with its VM, and that one was silent for an hour."""
    asking = replace(ASKING, macs=said)
    if why(known, asking, check=check) is None and known.enrolled and check is not Check.OFF:
        assert not known.macs or known.macs & said
        assert known.heard_s is None or NOW_S - known.heard_s >= HEARD_RECENTLY_S


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("52:54:00:AB:cd:01", "52:54:00:ab:cd:01"),
        ("52-54-00-ab-cd-01", "52:54:00:ab:cd:01"),
        ("5254.00ab.cd01", "52:54:00:ab:cd:01"),
        (" 525400abcd01 ", "52:54:00:ab:cd:01"),
        ("00:00:00:00:00:00", None),
        ("ff:ff:ff:ff:ff:ff", None),
        ("52:54:00:ab:cd", None),
        ("52:54:00:ab:cd:0g", None),
        ("", None),
    ],
)
def test_macs_have_one_spelling(text: str, clean: str | None) -> None:
    """However they are written they compare; those that name no card are none."""
    assert clean_mac(text) == clean


@given(st.lists(st.text(max_size=20)))
def test_any_text_may_stand_for_a_mac(texts: list[str]) -> None:
    """What a VM sends never raises, and what is left is a MAC."""
    assert all(clean_mac(mac) == mac for mac in clean_macs(texts))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Kind.VM, "../../x"),
        (Kind.VM, "a\n"),
        (Kind.VM, ""),
        (Kind.POOL, ""),
        (Kind.POOL, "a\x1b"),
        (Kind.POOL, "x" * 257),
        (Kind.NETWORK, "10.0.0.1/8"),
        (Kind.NETWORK, "10.0.0.0/33"),
        (Kind.NETWORK, "everywhere"),
    ],
)
def test_what_nothing_can_be_bound_to_is_refused(kind: Kind, text: str) -> None:
    """A ValueError that says what is wrong."""
    with pytest.raises(ValueError, match="is not"):
        parse_bound(kind, text)


@pytest.mark.parametrize("value", ["on", "", None, True, 1, "OFF"])
def test_a_check_that_there_is_not_is_refused(value: object) -> None:
    """The message names those that there are."""
    with pytest.raises(ValueError, match="auto, inventory, off"):
        parse_check(value)
    assert parse_check("off") is Check.OFF
