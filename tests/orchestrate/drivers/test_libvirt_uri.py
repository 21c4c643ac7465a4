"""Which addresses of hypervisors are connected to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.drivers.libvirt_uri import parse_uri

GOOD = [
    ("qemu:///system", None),
    ("qemu:///system?socket=/run/libvirt/libvirt-sock", None),
    ("qemu:///session", None),
    ("qemu+unix:///system", None),
    ("qemu+ssh://root@hv1/system", "hv1"),
    ("qemu+ssh://hv1.example.org:2222/system?keyfile=/etc/fallow/key&known_hosts=/etc/fallow/hosts", "hv1.example.org"),
    ("qemu+tls://hv1/system", "hv1"),
    ("qemu+tls://[2001:db8::1]:16514/system", "2001:db8::1"),
    ("qemu+tls://10.0.0.1/system?pkipath=/etc/fallow/pki", "10.0.0.1"),
    ("test:///default", None),
    ("test:///srv/node.xml", None),
]
BAD = [
    ("", "is not the address"),
    (7, "is not the address"),
    ("qemu+ssh://hv1/system\n", "is not the address"),
    ("qemu+ssh://hv1 -oProxyCommand=x/system", "is not the address"),
    ("file:///etc/passwd", "scheme 'file'"),
    ("http://hv1/", "scheme 'http'"),
    ("qemu+ext://hv1/system?command=/bin/sh", "scheme 'qemu\\+ext'"),
    ("xen:///system", "scheme 'xen'"),
    ("test+tcp://hv1/default", "scheme 'test\\+tcp'"),
    ("hv1", "scheme ''"),
    ("qemu+tcp://hv1/system", "neither encrypts"),
    ("qemu+ssh://hv1/system?command=/bin/sh", "names a program"),
    ("qemu+ssh://hv1/system?netcat=/bin/sh", "names a program"),
    ("qemu+tls://hv1/system?no_verify=1", "turns off the check"),
    ("qemu+ssh://hv1/system?no_verify=1", "turns off the check"),
    ("qemu+ssh://hv1/system?sshauth=agent", "sshauth= is not allowed"),
    ("qemu+tls://hv1/system?socket=/x", "socket= is not allowed"),
    ("qemu:///system?socket=/a&socket=/b", "stands there twice"),
    ("qemu:///system?socket", "cannot be read"),
    ("qemu+ssh:///system", "no host"),
    ("qemu+ssh://-oProxyCommand=x/system", "begin with '-'"),
    ("qemu+ssh://-x@hv1/system", "begin with '-'"),
    ("qemu://hv1/system", "takes no host"),
    ("test://hv1/default", "takes no host"),
    ("qemu+tls://169.254.169.254/system", "not an address of a hypervisor"),
    ("qemu+tls://[fe80::1]/system", "not an address of a hypervisor"),
    ("qemu+tls://[::ffff:169.254.1.1]/system", "not an address of a hypervisor"),
    ("qemu+tls://0.0.0.0/system", "not an address of a hypervisor"),
    ("qemu+tls://224.0.0.1/system", "not an address of a hypervisor"),
    ("qemu+tls://hv1/embed?root=/x", "does not end with"),
    ("qemu+tls://hv1", "does not end with"),
    ("qemu+tls://hv1:99999/system", "is not an address"),
    ("qemu+tls://[::1/system", "is not an address"),
    ("qemu:///system#x", "may follow"),
    ("test:///etc/passwd", "is neither"),
]


@pytest.mark.parametrize(("text", "host"), GOOD)
def test_addresses_of_hypervisors_pass(text: str, host: str | None) -> None:
    """The kinds that are documented, with keys that choose files."""
    uri = parse_uri(text, allow_plain=False)
    assert uri.text.startswith(text)
    assert (uri.host, uri.is_test) == (host, text.startswith("test:"))


@pytest.mark.parametrize(("text", "words"), BAD)
def test_everything_else_is_refused_by_name(text: object, words: str) -> None:
    """Other schemes, programs, unchecked peers, link-local addresses and options in disguise."""
    with pytest.raises(ValueError, match=words):
        parse_uri(text, allow_plain=False)


def test_a_password_is_refused_and_not_repeated() -> None:
    """It would end up in logs."""
    with pytest.raises(ValueError, match="a password must not stand") as raised:
        parse_uri("qemu+ssh://root:hunter2@hv1/system", allow_plain=False)
    assert "hunter2" not in str(raised.value)


def test_plain_connections_need_to_be_asked_for() -> None:
    """And are taken then."""
    assert parse_uri("qemu+tcp://hv1/system", allow_plain=True).host == "hv1"


def test_ssh_asks_nobody_for_a_password() -> None:
    """It would wait for a terminal that a service has not got."""
    assert parse_uri("qemu+ssh://hv1/system", allow_plain=False).text == "qemu+ssh://hv1/system?no_tty=1"
    keyed = parse_uri("qemu+ssh://hv1/system?keyfile=/k", allow_plain=False)
    assert keyed.text == "qemu+ssh://hv1/system?keyfile=/k&no_tty=1"
    told = "qemu+ssh://hv1/system?no_tty=1"
    assert parse_uri(told, allow_plain=False).text == told


PIECES = st.sampled_from(
    ["qemu", "+ssh", "+tcp", "+ext", "://", "/", "@", ":", "?", "&", "=", "#", "[", "]", "::1", "fe80::1%eth0", "hv1"]
    + ["-x", "system", "socket", "command", "netcat", "no_verify", "%00", "\n", "é", "1", "169.254.0.1"]
)


@given(st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=40))
def test_whatever_is_written_passes_whole_or_is_refused(text: str) -> None:
    """Never another error; and what passes runs no program and leads to no link-local address."""
    try:
        uri = parse_uri(text, allow_plain=True)
    except ValueError:
        return
    assert uri.text.partition("?")[0] == text.partition("?")[0]
    for word in ("command=", "netcat=", "no_verify=", "169.254.", "\n", "%00="):
        assert word not in uri.text
    assert not (uri.host or "").startswith(("-", "fe80"))
