"""A certificate authority of a scenario's own, whose certificates live as short as wished."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """`path` is its own certificate; those that it issues lie beside it."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def path(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, cert: Path, key: Path, *, address: str = "127.0.0.1", life_s: float = _DAY_S) -> None:
        """Replaces both files by a new pair for `address` that is good from an hour ago on and for so long from now."""
        fresh = ec.generate_private_key(ec.SECP256R1())
        host = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        issued = (
            _builder("server", self.certificate.subject, fresh, life_s=life_s)
            .add_extension(host, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        # Each file is whole at any moment; that the two may not fit for a moment is part of life.
        _replace(key, _key_pem(fresh))
        _replace(cert, issued.public_bytes(serialization.Encoding.PEM))


def make_authority(folder: Path) -> Authority:
    """A new authority in a new folder."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(folder.name, None, key, life_s=_DAY_S)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(folder=folder, key=key, certificate=certificate)


def tls_options(cert: Path, key: Path) -> tuple[str, ...]:
    """Options of an aggregator that shows this certificate."""
    return ("--tls-cert", str(cert), "--tls-key", str(key))


def _builder(
    name: str, issuer: x509.Name | None, key: ec.EllipticCurvePrivateKey, *, life_s: float
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(seconds=life_s))
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(content)
    os.replace(fresh, path)
