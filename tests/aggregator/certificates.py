"""Authorities and certificates of tests: for 127.0.0.1, and gone with the folder they lie in."""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate, its key of mode 0600, and when it ends."""

    cert: Path
    key: Path
    expires_s: float


class Authority:
    """An authority whose certificate is `ca`."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.name = name
        self.ca = folder / f"{name}-ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        certificate = (
            self._builder(self._subject, self._key, now - DAY, now + 2 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, into: Pair | None = None, begins: timedelta = -DAY, ends: timedelta = DAY) -> Pair:
        """A certificate for 127.0.0.1. Args: into: files to write it into, instead of new ones."""
        now = datetime.now(UTC).replace(microsecond=0)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, now + begins, now + ends)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        cert_path, key_path = (
            (self.folder / f"{name}.pem", self.folder / f"{name}.key") if into is None else (into.cert, into.key)
        )
        key_path.touch(mode=0o600)
        cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return Pair(cert_path, key_path, (now + ends).timestamp())

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, begins: datetime, ends: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )


def client_context(ca: Path, pair: Pair | None = None) -> ssl.SSLContext:
    """What a client of the standard library trusts and shows."""
    context = ssl.create_default_context(cafile=str(ca))
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    return context


def shake_hands(server: SSL.Connection, client: SSL.Connection) -> str:
    """The name in the certificate that the client gets, over memory alone. Raises: SSL.Error: one refused the other."""
    client.set_connect_state()
    server.set_accept_state()
    for _ in range(10):
        for one, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                one.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(1 << 16))
    # With TLS 1.3 a client is done before the server has looked at its certificate.
    with contextlib.suppress(SSL.WantReadError):
        client.recv(1)
    certificate = client.get_peer_certificate()
    assert certificate is not None
    return str(certificate.get_subject().CN)


def any_client(pair: Pair | None = None) -> SSL.Connection:
    """A client that verifies nobody, and shows a certificate if it has one."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if pair is not None:
        context.use_certificate_file(str(pair.cert))
        context.use_privatekey_file(str(pair.key))
    return SSL.Connection(context)
