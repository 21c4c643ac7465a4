"""The certificate of the agents' door: what cannot be used is named, and nobody else may read the key."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from agent.settings import ConfigError
from aggregator.tls import server_context


class Pair(NamedTuple):
    """A certificate and its key."""

    cert: Path
    key: Path


def make_pair(folder: Path, name: str, passphrase: bytes | None = None) -> Pair:
    """A self-signed certificate."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pair.cert.write_bytes(certificate.public_bytes(pem))
    pair.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked))
    pair.key.chmod(0o600)
    return pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("tls"), "aggregator")


def handshake(pair: Pair, most: int) -> str:
    """The version that a client of at most `most` gets, over memory alone."""
    client_context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client_context.set_max_proto_version(most)
    client_context.set_cipher_list(b"ALL:@SECLEVEL=0")
    client, server = SSL.Connection(client_context), SSL.Connection(server_context(*pair).getContext())
    client.set_connect_state()
    server.set_accept_state()
    for _ in range(10):
        for one, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                one.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(1 << 16))
    assert client.get_peer_certificate() is not None
    return client.get_protocol_version_name()


def test_no_certificate_is_no_tls() -> None:
    """A plain listener behind a proxy needs neither file."""
    assert server_context(None, None) is None


def test_tls_1_2_and_newer_only(pair: Pair) -> None:
    """A client of 1.2 or 1.3 is served, one of 1.1 is not."""
    assert handshake(pair, SSL.TLS1_3_VERSION) == "TLSv1.3"
    assert handshake(pair, SSL.TLS1_2_VERSION) == "TLSv1.2"
    with pytest.raises(SSL.Error):
        handshake(pair, SSL.TLS1_1_VERSION)


def test_a_chain_is_sent_whole(tmp_path: Path, pair: Pair) -> None:
    """The first certificate is the server's, the others go with it."""
    other = make_pair(tmp_path, "authority")
    chain = tmp_path / "chain.pem"
    chain.write_text(pair.cert.read_text() + "comment\n" + other.cert.read_text())
    options = server_context(chain, pair.key)
    sent = [options.certificate, *options.extraCertChain]
    names = [one.to_cryptography().subject.rfc4514_string() for one in sent]
    assert names == ["CN=aggregator", "CN=authority"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_world_readable_key_is_refused(tmp_path: Path, mode: int) -> None:
    """A world-readable secret is refused; the message says what to do."""
    mine = make_pair(tmp_path, "open")
    mine.key.chmod(mode)
    with pytest.raises(ConfigError, match=r"open\.key: readable by others .* chmod 600"):
        server_context(*mine)


def test_a_key_with_a_passphrase_is_refused_and_never_asked_for(tmp_path: Path) -> None:
    """A daemon that waits on a terminal for a passphrase does not run."""
    locked = make_pair(tmp_path, "locked", b"abcd")
    with pytest.raises(ConfigError, match=r"locked\.key"):
        server_context(*locked)


def test_a_key_of_another_certificate_is_refused(tmp_path: Path, pair: Pair) -> None:
    """Found at the start, not at the first handshake."""
    other = make_pair(tmp_path, "other")
    with pytest.raises(ConfigError, match=r"aggregator\.pem with the key .*other\.key"):
        server_context(pair.cert, other.key)


@pytest.mark.parametrize(
    "content", [b"", b"not a certificate", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"]
)
def test_files_that_are_none_are_named(tmp_path: Path, pair: Pair, content: bytes) -> None:
    """Empty, garbage or absent, as certificate or as key: an error with the path, never a traceback."""
    bad = tmp_path / "bad.pem"
    bad.write_bytes(content)
    bad.chmod(0o600)
    with pytest.raises(ConfigError, match=r"bad\.pem"):
        server_context(bad, pair.key)
    with pytest.raises(ConfigError, match=r"bad\.pem"):
        server_context(pair.cert, bad)
    bad.unlink()
    with pytest.raises(ConfigError, match=r"bad\.pem"):
        server_context(bad, pair.key)
    with pytest.raises(ConfigError, match=r"bad\.pem"):
        server_context(pair.cert, bad)
