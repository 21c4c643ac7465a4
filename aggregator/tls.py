"""TLS for the agents' door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.settings import ConfigError


def server_context(cert: Path | None, key: Path | None) -> Any:
    """What an endpoint needs to speak TLS 1.2 or newer; None where no certificate is configured.

    Raises: ConfigError: a file is missing, the key is readable by others, or the two do not belong together.
    """
    if cert is None or key is None:
        return None
    from OpenSSL import SSL, crypto  # noqa: PLC0415 - 6 MB that a plain listener behind a proxy does not need
    from twisted.internet.ssl import CertificateOptions, TLSVersion  # noqa: PLC0415

    from agent.settings import read_secret  # noqa: PLC0415

    try:
        chain = [
            crypto.load_certificate(crypto.FILETYPE_PEM, part.encode())
            for part in _certificates(cert.read_text(encoding="ascii"))
        ]
        if not chain:
            raise ConfigError(f"{cert}: holds no certificate")
        # Without a passphrase OpenSSL would ask for one on the terminal, and a daemon would wait for ever.
        private = crypto.load_privatekey(crypto.FILETYPE_PEM, read_secret(key).encode(), passphrase=b"")
        options = CertificateOptions(
            privateKey=private,
            certificate=chain[0],
            extraCertChain=chain[1:],
            raiseMinimumTo=TLSVersion.TLSv1_2,
        )
        options.getContext().check_privatekey()
    except (OSError, UnicodeDecodeError, crypto.Error, SSL.Error) as error:
        raise ConfigError(f"tls.cert {cert}, tls.key {key}: {error}") from error
    return options


def _certificates(text: str) -> list[str]:
    end = "-----END CERTIFICATE-----"
    return [f"{part}{end}\n" for part in text.split(end)[:-1]]
