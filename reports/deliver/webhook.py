"""A report as a signed POST, and how a receiver verifies one. docs/deliveries.md describes the request.

The signature is HMAC-SHA256 with the shared secret over timestamp, a full stop and the body.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from agent.settings import ConfigError, read_secret
from reports.deliver.dial import (
    STEP_TIMEOUT_S,
    WHOLE_TIMEOUT_S,
    dialled,
    is_loopback,
    parse_address,
    reason,
    refuse_address,
    refuse_remote,
)
from reports.deliver.document import Document
from reports.deliver.targets import DeliveryError, WebhookTarget
from reports.words import printable

TIMESTAMP_HEADER = "Fallow-Timestamp"
SIGNATURE_HEADER = "Fallow-Signature"
DELIVERY_HEADER = "Fallow-Delivery"
TOLERANCE_S = 300.0
_VERSION = "v1="
_MAX_REASON_CHARS = 100
_MIN_SECRET_CHARS = 16
_MAX_TIMESTAMP_CHARS = 15
# The server asks for time: what it refuses otherwise, it refuses for good.
_TRY_AGAIN = frozenset({408, 429})


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """The value of Fallow-Signature: `v1=` and 64 hex digits."""
    return (
        _VERSION
        + hmac.digest(secret.encode(), timestamp.encode("utf-8", "replace") + b"." + body, hashlib.sha256).hex()
    )


def verify(
    secret: str, headers: Mapping[str, str], body: bytes, now_s: float, tolerance_s: float = TOLERANCE_S
) -> bool:
    """Whether whoever knows the secret sent this body within `tolerance_s` of `now_s`. Takes constant time.

    Args:
        headers: of the request, by name in upper or lower case.
        body: as received, before anything decodes it.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    timestamp = lower.get(TIMESTAMP_HEADER.lower(), "")
    signature = lower.get(SIGNATURE_HEADER.lower(), "")
    fits = hmac.compare_digest(sign(secret, timestamp, body).encode(), signature.encode("utf-8", "replace"))
    if not fits or not (timestamp.isascii() and timestamp.isdigit()) or len(timestamp) > _MAX_TIMESTAMP_CHARS:
        return False
    return abs(now_s - int(timestamp)) <= tolerance_s


def read_signing_secret(path: Path) -> str:
    """Raises: ConfigError: as `agent.settings.read_secret`; shorter than 16 characters."""
    secret = read_secret(path)
    if len(secret) < _MIN_SECRET_CHARS:
        raise ConfigError(f"{path}: is not at least {_MIN_SECRET_CHARS} characters")
    return secret


def parse_url(url: object) -> str:
    """A URL that a report may go to: https, or http to this machine.

    Raises: ValueError: anything else. The message repeats no more of it than scheme and host.
    """
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("is not a URL of printable ASCII characters (such as https://hooks.example.org/fallow)")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is not a URL: its host or port cannot be read") from None
    if parts.scheme not in {"https", "http"}:
        raise ValueError(f"{printable(parts.scheme)[:20]!r} is not a scheme that a report goes by (https)")
    if not host or port == 0:
        raise ValueError("is not a URL with a host (such as https://hooks.example.org/fallow)")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user or password: the signature tells the receiver who sends")
    if parts.fragment:
        raise ValueError("ends in a fragment, which no server is sent")
    address = parse_address(host)
    if address is not None:
        refuse_address(address)
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError(f"http to {host}: only https leaves this machine")
    return url


def deliver(
    document: Document,
    target: WebhookTarget,
    *,
    delivery_id: str,
    now_s: float,
    tls: ssl.SSLContext | None = None,
    step_timeout_s: float = STEP_TIMEOUT_S,
    whole_timeout_s: float = WHOLE_TIMEOUT_S,
) -> None:
    """Posts the report. No redirect is followed, no proxy asked.

    Args:
        delivery_id: the same at each try of one delivery.
        now_s: of the signature, Unix seconds.
        tls: verifies the server; by the system's authorities unless told.

    Raises: DeliveryError: as `post`.
    """
    post(
        document.body(target.form),
        target.form.media_type,
        target,
        delivery_id=delivery_id,
        now_s=now_s,
        tls=tls,
        step_timeout_s=step_timeout_s,
        whole_timeout_s=whole_timeout_s,
    )


def post(
    body: bytes,
    media_type: str,
    target: WebhookTarget,
    *,
    delivery_id: str,
    now_s: float,
    tls: ssl.SSLContext | None = None,
    step_timeout_s: float = STEP_TIMEOUT_S,
    whole_timeout_s: float = WHOLE_TIMEOUT_S,
) -> None:
    """Posts a signed body. Arguments as for `deliver`.

    Raises: DeliveryError: not answered 2xx; final when answered 4xx other than 408 and 429.
    """
    try:
        secret = read_signing_secret(target.secret_file)
    except ConfigError as error:
        raise DeliveryError(str(error), retry=True) from error
    timestamp = str(int(now_s))
    headers = {
        "Content-Type": media_type,
        "User-Agent": "fallow",
        "Connection": "close",
        TIMESTAMP_HEADER: timestamp,
        SIGNATURE_HEADER: sign(secret, timestamp, body),
        DELIVERY_HEADER: delivery_id,
    }
    status, words = _post(
        urlsplit(target.url), body, headers, tls or ssl.create_default_context(), step_timeout_s, whole_timeout_s
    )
    if 200 <= status < 300:
        return
    hint = ": redirects are not followed" if 300 <= status < 400 else ""
    answer = printable(f"{status} {words}".strip())[:_MAX_REASON_CHARS]
    raise DeliveryError(
        f"{target.words}: answered {answer}{hint}", retry=not 400 <= status < 500 or status in _TRY_AGAIN
    )


def _post(
    url: SplitResult,
    body: bytes,
    headers: Mapping[str, str],
    context: ssl.SSLContext,
    step_timeout_s: float,
    whole_timeout_s: float,
) -> tuple[int, str]:
    """Status and reason of the answer. Raises: DeliveryError."""
    host, is_secure = url.hostname or "", url.scheme == "https"
    port = url.port or (443 if is_secure else 80)
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    with dialled(
        host,
        port,
        check=refuse_address if is_secure else refuse_remote,
        step_timeout_s=step_timeout_s,
        whole_timeout_s=whole_timeout_s,
    ) as sock:
        connection: http.client.HTTPConnection
        if is_secure:
            connection = http.client.HTTPSConnection(host, port, context=context)
        else:
            connection = http.client.HTTPConnection(host, port)
        try:
            # Given a socket it makes no connection of its own, and so none to an address that was not looked at.
            connection.sock = context.wrap_socket(sock, server_hostname=host) if is_secure else sock
            connection.request("POST", path, body, dict(headers))
            with connection.getresponse() as response:
                return response.status, response.reason
        except (OSError, http.client.HTTPException) as error:
            raise DeliveryError(f"{host}:{port}: {printable(reason(error))[:200]}", retry=True) from error
        finally:
            connection.close()
