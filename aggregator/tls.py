"""A server's certificate: PEM files → TLS, and read again while the server runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from zope.interface import implementer  # type: ignore[import-untyped]

from agent.settings import ConfigError, read_secret, secret_path
from aggregator.listen_settings import TlsFiles

if TYPE_CHECKING:
    from OpenSSL.SSL import Connection
    from twisted.internet.ssl import CertificateOptions

# Of TLS 1.2: a key for each connection, and encryption that authenticates. TLS 1.3 has no others.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"


def server_context(cert: Path | None, key: Path | None, client_ca: Path | None = None) -> Any:
    """What an endpoint needs to speak TLS 1.2 or newer; None where no certificate is configured.

    Args: client_ca: a client without a certificate of one of these authorities is refused at the handshake.

    Raises: ConfigError: a file is missing, the key is readable by others, or the two do not belong together.
    """
    if cert is None or key is None:
        return None
    from OpenSSL import SSL, crypto  # noqa: PLC0415 - 6 MB that a plain listener behind a proxy does not need
    from twisted.internet.ssl import AcceptableCiphers, CertificateOptions, TLSVersion  # noqa: PLC0415

    try:
        chain = _load_certificates(cert)
        # Without a passphrase OpenSSL would ask for one on the terminal, and a daemon would wait for ever.
        private = crypto.load_privatekey(crypto.FILETYPE_PEM, read_secret(key).encode(), passphrase=b"")
        options = CertificateOptions(
            privateKey=private,
            certificate=chain[0],
            extraCertChain=chain[1:],
            raiseMinimumTo=TLSVersion.TLSv1_2,
            acceptableCiphers=AcceptableCiphers.fromOpenSSLCipherString(_CIPHERS),  # type: ignore[no-untyped-call]
            # Not caCerts: without a word about verification that would let anybody in.
            trustRoot=None if client_ca is None else _trust_root(client_ca),
        )
        options.getContext().check_privatekey()
    except (OSError, UnicodeDecodeError, crypto.Error, SSL.Error) as error:
        raise ConfigError(f"the certificate {cert} with the key {key}: {error}") from error
    return options


@implementer(IOpenSSLServerConnectionCreator)
class _Newest:
    """Gives each handshake the certificate of now."""

    def __init__(self, certificate: Certificate, *, clients: bool) -> None:
        self._certificate = certificate
        self._clients = clients

    def serverConnectionForTLS(self, protocol: Any) -> Connection:
        """The TLS of one connection."""
        options = self._certificate.options if self._clients else self._certificate.options_for_anybody
        return options.serverConnectionForTLS(protocol)


class Certificate:
    """The certificate of a program's servers. New files count for handshakes from then on; connections stay.

    Attributes:
        options: of servers that ask for certificates of clients, where there is `client_ca`.
        options_for_anybody: of the others.
        expires_s: when the first of the chain ends, Unix time.
        failures: new files that could not be used.

    Raises: ConfigError: as `server_context`.
    """

    _log = Logger()

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = self._signature()
        self._is_owed = False
        self.failures = 0
        self.options: CertificateOptions
        self.options_for_anybody: CertificateOptions
        self.expires_s: float
        self._take(*self._read())

    def for_server(self, *, clients: bool) -> _Newest:
        """What a port needs. Args: clients: it asks for their certificates, where there is `client_ca`."""
        return _Newest(self, clients=clients)

    def look(self, now_s: float) -> bool:
        """Reads the files again where they changed. A pair that cannot be used leaves the one there was.

        Args: now_s: Unix time. Returns: whether there is a new certificate.
        """
        signature = self._signature()
        is_news = signature != self._seen
        if not is_news and not self._is_owed:
            return False
        self._seen, self._is_owed = signature, True
        try:
            new = self._read()
            if new[2] <= now_s < self.expires_s:
                raise ConfigError(f"{self._files.cert}: has expired already")
        except ConfigError as error:
            # A pair that is half written is tried again at the next look, and told of once.
            if is_news:
                self.failures += 1
                self._log.warn("the certificate of before stays in use: {error}", error=error)
            return False
        self._is_owed = False
        self._take(*new)
        self._log.info("{path}: a new certificate is in use", path=str(self._files.cert))
        return True

    def _read(self) -> tuple[CertificateOptions, CertificateOptions, float]:
        files = self._files
        anybody: CertificateOptions = server_context(files.cert, files.key)
        options = anybody
        if files.client_ca is not None:
            options = server_context(files.cert, files.key, files.client_ca)
        assert anybody.certificate is not None
        return options, anybody, anybody.certificate.to_cryptography().not_valid_after_utc.timestamp()

    def _take(self, options: CertificateOptions, anybody: CertificateOptions, expires_s: float) -> None:
        self.options, self.options_for_anybody, self.expires_s = options, anybody, expires_s

    def _signature(self) -> tuple[tuple[int, ...] | None, ...]:
        """What changes with the files, whether they are written over or put in their place by a rename or a link."""
        found: list[tuple[int, ...] | None] = []
        for path in (self._files.cert, self._files.key, self._files.client_ca):
            try:
                stat = None if path is None else secret_path(path).stat()
            except (OSError, ConfigError):
                stat = None
            found.append(
                None if stat is None else (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
            )
        return tuple(found)


def _load_certificates(path: Path) -> list[Any]:
    """Raises: ConfigError: there is none; OSError, UnicodeDecodeError, OpenSSL.crypto.Error."""
    from OpenSSL import crypto  # noqa: PLC0415

    *parts, rest = path.read_text(encoding="ascii").split(_END)
    if not parts:
        raise ConfigError(f"{path}: holds no certificate")
    if _BEGIN in rest:
        # Half written: without the last one of a chain, or of the authorities, others would be refused.
        raise ConfigError(f"{path}: ends within a certificate")
    return [crypto.load_certificate(crypto.FILETYPE_PEM, f"{part}{_END}\n".encode()) for part in parts]


def _trust_root(path: Path) -> Any:
    """Raises: ConfigError, naming the file."""
    from OpenSSL import crypto  # noqa: PLC0415
    from twisted.internet.ssl import Certificate as Authority  # noqa: PLC0415
    from twisted.internet.ssl import trustRootFromCertificates  # noqa: PLC0415

    try:
        found = _load_certificates(path)
    except (OSError, UnicodeDecodeError, crypto.Error) as error:
        raise ConfigError(f"{path}: {error}: not a file of PEM certificates") from error
    return trustRootFromCertificates([Authority(one) for one in found])  # type: ignore[no-untyped-call]
