"""Signed links by which an owner keeps a VM or has it back: no account, no password, one VM, one purpose, an end.

A link is `purpose`, driver, UUID, the agent's id and expiry as JSON in base64url, a full stop, and HMAC-SHA256 over
that text under the key file `links.key`. It says nothing that its owner does not know, and whoever has it may do what
it says: it travels in mails, never in logs. Following one changes nothing; only the form behind it does.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agent.settings import ConfigError, read_secret
from aggregator.tokens import create_secret
from orchestrate.inventory import VmRef

KEY_FILE_NAME = "links.key"
MAX_LINK_CHARS = 1000
_KEY_BYTES = 32


class Purpose(StrEnum):
    """What a link is for. One for keeping cannot wake, and the other way round."""

    KEEP = "keep"
    RESUME = "resume"


class LinkRefused(Exception):
    """A link that does nothing. The text is for its holder. Args: expired: it was one of ours."""

    def __init__(self, words: str, *, expired: bool = False) -> None:
        self.expired = expired
        super().__init__(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What a link says. Args: vm_id: of the agent that the notice was about. expires_s: whole Unix seconds."""

    purpose: Purpose
    ref: VmRef
    vm_id: str
    expires_s: int


class LinkKey:
    """Signs and reads links.

    Args: key: at least 16 bytes.

    Raises: ValueError: a shorter one.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < _KEY_BYTES // 2:
            raise ValueError(f"the key is shorter than {_KEY_BYTES // 2} bytes")
        self._key = key

    @classmethod
    def load_or_create(cls, path: Path, *, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> LinkKey:
        """The key of the file, which is made with mode 0600 where there is none.

        Raises: ConfigError: readable by others, unreadable, or no key (which is not repeated).
        """
        if not path.exists():
            create_secret(path, f"{random_bytes(_KEY_BYTES).hex()}\n")
        try:
            return cls(bytes.fromhex(read_secret(path)))
        except ValueError as error:
            raise ConfigError(f"{path}: is not a key of at least {_KEY_BYTES // 2} bytes in hexadecimal") from error

    def make(self, link: Link) -> str:
        """The text that stands in the address; the same every time."""
        told = [link.purpose, link.ref.driver, link.ref.uuid, link.vm_id, link.expires_s]
        body = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
        text = urlsafe_b64encode(body).rstrip(b"=")
        return b".".join((text, self._mac(text))).decode()

    def read(self, text: str, *, purpose: Purpose, now_s: float) -> Link:
        """What the text says. Takes constant time over its signature.

        Raises: LinkRefused: not one of ours, for something else, or past its end.
        """
        if len(text) > MAX_LINK_CHARS or not text.isascii():
            raise LinkRefused("This link is not one of ours, or a part of it is missing.")
        body, _, mac = text.encode().partition(b".")
        if not hmac.compare_digest(self._mac(body), mac):
            raise LinkRefused("This link is not one of ours, or a part of it is missing.")
        try:
            what, driver, uuid, vm_id, expires_s = json.loads(urlsafe_b64decode(body + b"=" * (-len(body) % 4)))
            link = Link(purpose=Purpose(what), ref=VmRef(driver, uuid), vm_id=vm_id, expires_s=expires_s)
        except (Base64Error, ValueError, TypeError) as error:
            raise LinkRefused("This link was made by another version of this program.") from error
        if link.purpose is not purpose:
            raise LinkRefused(f"This link is for {link.purpose.value}, not for {purpose.value}.")
        if now_s > link.expires_s:
            raise LinkRefused("This link has expired. Please ask whoever runs this cloud.", expired=True)
        return link

    def _mac(self, body: bytes) -> bytes:
        return urlsafe_b64encode(hmac.digest(self._key, body, hashlib.sha256)).rstrip(b"=")
