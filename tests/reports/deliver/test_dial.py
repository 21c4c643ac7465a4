"""Connections: to whom one may be made, whatever a name leads to."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from reports.deliver.dial import Address, dialled, is_loopback, parse_address, refuse_address, refuse_remote
from reports.deliver.targets import DeliveryError
from tests.reports.deliver.servers import silent_server


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_no_report_goes_where_clouds_keep_their_keys(address: str) -> None:
    """Link-local and metadata addresses, also when written as IPv6, and what is no server's."""
    found = parse_address(address)
    assert found is not None
    with pytest.raises(ValueError, match="address"):
        refuse_address(found)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.9", "93.184.216.34", "2a00:1450::5"])
def test_servers_may_be_anywhere_else(address: str) -> None:
    """On this machine, on private networks, on the net."""
    refuse_address(ip_address(address))


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost.example.org", False),
        ("10.0.0.1", False),
        ("::", False),
    ],
)
def test_this_machine_is_known(host: str, ours: bool) -> None:
    """By loopback address or as `localhost`; no other name counts, wherever it leads."""
    assert is_loopback(host) is ours


@pytest.mark.real
def test_the_address_that_answers_is_looked_at() -> None:
    """A name says nothing: the check sees the peer, and nothing is sent when it objects."""
    seen: list[Address] = []

    def refuse(address: Address) -> None:
        seen.append(address)
        raise ValueError("not there")

    with (
        silent_server() as port,
        pytest.raises(DeliveryError, match=r"localhost:.*not there") as raised,
        dialled("localhost", port, check=refuse),
    ):
        pytest.fail("it was given a connection")
    assert seen == [ip_address("127.0.0.1")]
    assert not raised.value.retry


@pytest.mark.real
@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "no-such-host.invalid"])
def test_a_host_that_is_none_is_told(host: str) -> None:
    """Names that cannot be looked up are a delivery's problem, never a crash."""
    with pytest.raises(DeliveryError, match=host), dialled(host, 25, check=refuse_remote):
        pytest.fail("it was given a connection")
