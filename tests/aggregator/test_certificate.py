"""A server's certificate while the server runs: new files count, bad ones do not, and clients are asked for theirs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from agent.settings import ConfigError
from aggregator.listen_settings import TlsFiles
from aggregator.tls import Certificate
from tests.aggregator.certificates import DAY, Authority, Pair, any_client, shake_hands


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "ours")


@pytest.fixture
def pair(tmp_path: Path, authority: Authority) -> Pair:
    return authority.issue("first", into=Pair(tmp_path / "cert.pem", tmp_path / "key.pem", 0.0))


def certificate_of(pair: Pair, client_ca: Path | None = None) -> Certificate:
    return Certificate(TlsFiles(cert=pair.cert, key=pair.key, client_ca=client_ca))


def served(certificate: Certificate, client: SSL.Connection | None = None, *, clients: bool = True) -> str:
    """Who a client finds at the other end."""
    return shake_hands(server_end(certificate.for_server(clients=clients)), client or any_client())


def server_end(port: object) -> SSL.Connection:
    """The server's end of a new connection, as a listening port makes it."""
    factory = TLSMemoryBIOFactory(port, False, Factory.forProtocol(Protocol))  # type: ignore[arg-type]
    protocol = factory.buildProtocol(None)
    made: SSL.Connection = port.serverConnectionForTLS(protocol)  # type: ignore[attr-defined]
    return made


def test_row_41_a_new_certificate_is_read_while_the_server_runs(authority: Authority, pair: Pair) -> None:
    """Handshakes get the new one from the next look on; a port that was made before the change too."""
    certificate = certificate_of(pair)
    port = certificate.for_server(clients=True)
    assert certificate.expires_s == pair.expires_s
    assert not certificate.look(time.time())
    newer = authority.issue("second", into=pair, ends=2 * DAY)
    assert served(certificate) == "first"
    assert certificate.look(time.time())
    assert served(certificate) == "second"
    assert shake_hands(server_end(port), any_client()) == "second"
    assert (certificate.expires_s, certificate.failures) == (newer.expires_s, 0)


def test_row_41_a_connection_of_before_stays(authority: Authority, pair: Pair) -> None:
    """What was said hello to with the old certificate goes on with it."""
    certificate = certificate_of(pair)
    server, client = server_end(certificate.for_server(clients=True)), any_client()
    shake_hands(server, client)
    authority.issue("second", into=pair)
    certificate.look(time.time())
    client.send(b"still here")
    server.bio_write(client.bio_read(1 << 16))
    assert server.recv(100) == b"still here"


def test_row_41_half_a_pair_is_waited_for(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    """A certificate whose key has not come yet: the old pair serves, it is counted once, and then both are taken."""
    certificate = certificate_of(pair)
    new = authority.issue("second", into=Pair(tmp_path / "new.pem", tmp_path / "new.key", 0.0))
    pair.cert.write_bytes(new.cert.read_bytes())
    assert [certificate.look(time.time()) for _ in range(3)] == [False] * 3
    assert (served(certificate), certificate.failures) == ("first", 1)
    pair.key.write_bytes(new.key.read_bytes())
    assert certificate.look(time.time())
    assert (served(certificate), certificate.failures) == ("second", 1)


@pytest.mark.parametrize("which", ["cert", "client_ca"])
def test_row_41_a_file_that_ends_within_a_certificate_is_waited_for(
    authority: Authority, pair: Pair, tmp_path: Path, which: str
) -> None:
    """Half of a chain, or of the authorities, is not taken for all of it: those who need the rest would be refused."""
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes(authority.ca.read_bytes())
    certificate = certificate_of(pair, authorities)
    path = pair.cert if which == "cert" else authorities
    both = path.read_bytes() + authority.ca.read_bytes()
    path.write_bytes(both[:-60])
    assert [certificate.look(time.time()) for _ in range(2)] == [False, False]
    assert certificate.failures == 1
    path.write_bytes(both)
    assert certificate.look(time.time())


def test_a_pair_put_in_its_place_by_a_link_is_seen(authority: Authority, tmp_path: Path) -> None:
    """As certbot and Kubernetes do it: the path leads elsewhere, the files keep their times."""
    old = authority.issue("first", into=Pair(tmp_path / "1.pem", tmp_path / "1.key", 0.0))
    new = authority.issue("second", into=Pair(tmp_path / "2.pem", tmp_path / "2.key", 0.0))
    live = Pair(tmp_path / "live.pem", tmp_path / "live.key", 0.0)
    live.cert.symlink_to(old.cert)
    live.key.symlink_to(old.key)
    certificate = certificate_of(live)
    for link, path in ((live.cert, new.cert), (live.key, new.key)):
        link.unlink()
        link.symlink_to(path)
    assert certificate.look(time.time())
    assert served(certificate) == "second"


def test_a_key_that_others_may_read_is_not_taken(authority: Authority, pair: Pair) -> None:
    """A world-readable secret is refused while running too, and taken once it is private."""
    certificate = certificate_of(pair)
    authority.issue("second", into=pair)
    pair.key.chmod(0o644)
    assert not certificate.look(time.time())
    assert (served(certificate), certificate.failures) == ("first", 1)
    pair.key.chmod(0o600)
    assert certificate.look(time.time())
    assert served(certificate) == "second"


def test_row_41_a_new_pair_that_has_expired_is_not_taken(authority: Authority, pair: Pair) -> None:
    """One that still holds is not given away for one that does not; after its own end any is as good."""
    certificate = certificate_of(pair)
    authority.issue("old", into=pair, begins=-2 * DAY, ends=-DAY)
    assert not certificate.look(time.time())
    assert (served(certificate), certificate.failures) == ("first", 1)
    assert certificate.look(time.time() + 10 * DAY.total_seconds())
    assert served(certificate) == "old"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(garbage=st.one_of(st.none(), st.binary(max_size=300)), which=st.sampled_from(["cert", "key", "both"]))
def test_whatever_the_files_become_the_old_pair_serves(
    authority: Authority, pair: Pair, garbage: bytes | None, which: str
) -> None:
    """Gone, empty or anything: no exception, and handshakes as before; the right pair afterwards is taken."""
    authority.issue("first", into=pair)
    certificate = certificate_of(pair)
    for path in {"cert": [pair.cert], "key": [pair.key], "both": [pair.cert, pair.key]}[which]:
        if garbage is None:
            path.unlink()
        else:
            path.write_bytes(garbage)
    assert not certificate.look(time.time())
    assert served(certificate) == "first"
    authority.issue("second", into=pair)
    assert certificate.look(time.time())
    assert served(certificate) == "second"


# Certificates of clients.


def test_a_client_without_the_right_certificate_is_refused_at_the_handshake(
    authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    """None, and one of a stranger: refused; one of the authority: served. A server that asks nobody serves all."""
    stranger = Authority(tmp_path / "stranger", "stranger").issue("agent")
    certificate = certificate_of(pair, authority.ca)
    for client in (any_client(), any_client(stranger)):
        with pytest.raises(SSL.Error):
            served(certificate, client)
    assert served(certificate, any_client(authority.issue("agent"))) == "first"
    assert served(certificate, any_client(), clients=False) == "first"


def test_another_authority_of_clients_counts_without_a_restart(
    authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    """Row 41 for agents' certificates: two authorities in the file let both in, then the old one is taken out."""
    newer = Authority(tmp_path / "newer", "newer")
    trusted = tmp_path / "agents.pem"
    trusted.write_bytes(authority.ca.read_bytes())
    certificate = certificate_of(pair, trusted)
    of_old, of_new = authority.issue("agent"), newer.issue("agent")
    with pytest.raises(SSL.Error):
        served(certificate, any_client(of_new))
    trusted.write_bytes(authority.ca.read_bytes() + newer.ca.read_bytes())
    assert certificate.look(time.time())
    assert served(certificate, any_client(of_old)) == served(certificate, any_client(of_new)) == "first"
    trusted.write_bytes(newer.ca.read_bytes())
    assert certificate.look(time.time())
    with pytest.raises(SSL.Error):
        served(certificate, any_client(of_old))


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"\xff"])
def test_authorities_that_are_none_are_named(pair: Pair, tmp_path: Path, content: bytes | None) -> None:
    """A file without a certificate would let nobody in, or everybody: an error with its path."""
    path = tmp_path / "agents.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"agents\.pem"):
        certificate_of(pair, path)
