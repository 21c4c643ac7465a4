"""Addresses: whom to believe about them, and how many connections each may hold."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address

from aggregator.addresses import (
    NO_PROXIES,
    PerAddress,
    Proxies,
    check_askable,
    group_of,
    is_loopback,
    parse_networks,
    peer_of,
    per_address_of,
)

PROXIES = Proxies(parse_networks(["10.0.0.0/28", "192.0.2.1", "2001:db8:1::/48"]))
HOSTS = st.sampled_from(
    [
        "127.0.0.1",
        "::1",
        "10.0.0.1",
        "198.51.100.7",
        "198.51.100.8",
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8:0:1::1",
        "",
    ]
)


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.7, 192.0.2.1", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7:5000", "198.51.100.7"),
        ("10.0.0.1", "[2001:db8::7]:5000", "2001:db8::7"),
        ("10.0.0.1", "2001:db8::7", "2001:db8::7"),
        ("10.0.0.1", "::ffff:198.51.100.7", "198.51.100.7"),
        ("::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7, nonsense", "10.0.0.1"),
        ("10.0.0.1", "fe80::7%\x9b2J", "fe80::7"),
        ("10.0.0.1", "10.0.0.2, 10.0.0.3", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", ",,", "10.0.0.1"),
        ("2001:db8:1::5", "198.51.100.7", "198.51.100.7"),
    ],
)
def test_the_last_address_that_is_no_proxys_counts(peer: str, header: str, client: str) -> None:
    """What stands before it was written by somebody whom nobody vouches for."""
    assert PROXIES.client(peer, header) == client


@pytest.mark.parametrize("peer", ["198.51.100.7", "127.0.0.1", "10.0.0.16", "::1", "2001:db8:2::1", ""])
def test_forged_x_forwarded_for_is_ignored_unless_from_a_configured_proxy(peer: str) -> None:
    """Of anybody else the header is worth nothing, of loopback too where it is not configured."""
    for header in ("10.0.0.1", "192.0.2.1", "6.6.6.6", "127.0.0.1"):
        assert PROXIES.client(peer, header) == peer
        assert NO_PROXIES.client(peer, header) == peer


@given(st.text(max_size=60), st.lists(HOSTS, max_size=5))
def test_whatever_a_client_writes_before_the_proxys_word_changes_nothing(forged: str, hops: list[str]) -> None:
    """A proxy adds the address that it saw behind what was there: that one counts."""
    header = ", ".join([forged, *hops, "198.51.100.9"])
    assert PROXIES.client("10.0.0.1", header) == "198.51.100.9"


@pytest.mark.parametrize(
    "value", ["10.0.0.1/8", "10.0.0.0/33", "proxy.example", "", "10.0.0.0/8,", ["10.0.0.0/8", 5], 5, None, [None]]
)
def test_networks_that_are_none_are_refused(value: object) -> None:
    """A typo must not trust a network that nobody meant."""
    with pytest.raises(ValueError, match="is not a"):
        parse_networks(value)


def test_networks_of_a_file_and_of_the_command_line_are_the_same() -> None:
    """A list of texts, or one text with commas; an address alone is a network of one."""
    wanted = (ip_network("10.0.0.0/8"), ip_network("2001:db8::1"))
    assert parse_networks(["10.0.0.0/8", "2001:db8::1"]) == parse_networks("10.0.0.0/8, 2001:db8::1") == wanted
    assert parse_networks([]) == ()


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1")),
        *((host, False) for host in ("0.0.0.0", "::", "192.168.1.5", "localhost.example", "example.org", "", "127.1")),
    ],
)
def test_what_only_this_machine_reaches(host: str, is_ours: bool) -> None:
    """A name but localhost may point anywhere, so it never counts."""
    assert is_loopback(host) is is_ours


@given(st.lists(st.tuples(st.booleans(), HOSTS), max_size=60), st.integers(1, 4))
def test_counts_are_those_of_the_connections_there_are(moves: list[tuple[bool, str]], most: int) -> None:
    """Whatever comes and goes: one is over exactly when more than `most` of its group are there, and none is left."""
    bound = PerAddress(most, Proxies(parse_networks(["10.0.0.0/8"])))
    present: list[str] = []
    for comes, host in moves:
        if comes:
            group = bound.enter(host)
            assert (group == "") is (host in {"", "127.0.0.1", "::1", "10.0.0.1"})
            if group:
                present.append(group)
            assert bound.is_over(group) is (Counter(present)[group] > most)
        elif present:
            bound.leave(present.pop())
    for group in present:
        bound.leave(group)
    assert not bound._counts


@pytest.mark.parametrize(
    ("host", "peer"),
    [("198.51.100.7", "198.51.100.7"), ("::ffff:198.51.100.7", "198.51.100.7"), ("2001:db8::7", "2001:db8::7")],
)
def test_an_ipv4_peer_is_one_whatever_the_socket(host: str, peer: str) -> None:
    """A door on `[::]` shows it as an IPv6 address; networks of IPv4 must still hold it."""
    assert peer_of(IPv4Address("TCP", host, 1)) == peer
    assert peer_of(None) == ""


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "no address", False),
    ],
)
def test_network_of_ip_6_is_one_address(one: str, other: str, same: bool) -> None:
    """Whoever has one address of a /64 has them all: they are counted together, and those of IPv4 apart."""
    assert (group_of(one) == group_of(other)) is same


def test_a_subscribers_ipv6_network_is_one_address() -> None:
    """Who has one address of a /64 has them all."""
    bound = PerAddress(2)
    assert bound.enter("2001:db8::1") == bound.enter("2001:db8::ffff:1") != bound.enter("2001:db8:0:1::1")


@pytest.mark.parametrize(("connections", "each"), [(65_000, 6_500), (744, 74), (100, 16), (10, 10), (1, 1)])
def test_one_address_may_hold_a_tenth(connections: int, each: int) -> None:
    """A NAT has many agents behind it; never more than there are in all."""
    assert per_address_of(connections) == each


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        # As resolvers read them.
        ("2852039166", "link-local"),
        ("0xa9fea9fe", "link-local"),
        ("0251.0376.0251.0376", "link-local"),
        ("169.254.43518", "link-local"),
        ("0.0.0.0", "unspecified"),
        ("0", "unspecified"),
        ("::", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
    ],
)
def test_nobody_is_asked_at_an_address_of_no_machine(host: str, kind: str) -> None:
    """The metadata of a cloud, every address at once and groups, however they are written."""
    with pytest.raises(ValueError, match=f"an address that is {kind}"):
        check_askable(host)


@pytest.mark.parametrize("host", ["10.0.0.7", "127.0.0.1", "2001:db8::7", "fd00::7", "agg1.example", "ä", "localhost"])
def test_machines_are_asked(host: str) -> None:
    """Addresses of one machine, and names."""
    check_askable(host)
