"""Tokens of VMs: made at enrolment, checked at every push without a look-up. Pure but for the key file.

A token is `kid.generation.mac`; its mac is HMAC-SHA256 over `vm id|kid|generation`. No VM id and no kid holds
a `|`, so no two triples share a text. A token does not say whose it is, it only fits one VM: a door verifies
it for the VM of the `Fallow-VM` header (401 when it does not fit) and then compares header and body (403 when
they differ), which is how a token of A with data of B is found out.

The key file `token.key` is shared by the aggregators of a fleet: lines `kid:hex`, blank lines and lines
that begin with `#` aside. The first line signs, the second is accepted; `aggregator.key_file` changes them.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from hmac import compare_digest
from pathlib import Path
from types import MappingProxyType
from typing import Final

from agent.settings import ConfigError, read_secret
from agent.wire import is_vm_id

KEY_FILE_NAME = "token.key"
MAX_KEYS = 2
MAX_GENERATION = 2**31 - 1  # an SQL integer
IDENTITY_CONFLICT = "identity-conflict"  # why the tokens of two machines that push as one are refused
MAX_TOKEN_BYTES = 80  # kid 16, generation 10, mac 43, two dots

_KEY_BYTES = 32
_MIN_KEY_BYTES = 16
_HMAC_BLOCK_BYTES = 64
_KID = re.compile(r"[a-z0-9]{1,16}")


class _Mac:
    """HMAC-SHA256 (RFC 2104) with the key's two blocks hashed once: less than half the time of `hmac.digest`."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = (hashlib.sha256(key).digest() if len(key) > _HMAC_BLOCK_BYTES else key).ljust(_HMAC_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def text(self, message: bytes) -> bytes:
        """The mac of `message` in base64url without padding."""
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return urlsafe_b64encode(outer.digest())[:43]


class TokenKeys:
    """The keys that sign and verify; the first one signs.

    Args:
        keys: kid (1 to 16 lower-case letters and digits) → key of at least 16 bytes; one or two of them.
        settling: of two, the first is so new that others may not know it yet: the second still signs.

    Raises: ValueError: anything else.
    """

    __slots__ = ("_macs", "_outdated", "_signs_with")

    def __init__(self, keys: Mapping[str, bytes], *, settling: bool = False) -> None:
        if not 1 <= len(keys) <= MAX_KEYS:
            raise ValueError(f"{len(keys)} keys: one or two are needed")
        for kid, key in keys.items():
            if _KID.fullmatch(kid) is None:
                raise ValueError("a kid is not 1 to 16 lower-case letters and digits")
            if len(key) < _MIN_KEY_BYTES:
                raise ValueError(f"key {kid} is shorter than {_MIN_KEY_BYTES} bytes")
        self._macs: Final = {kid.encode(): _Mac(key) for kid, key in keys.items()}
        kids = list(self._macs)
        self._signs_with: Final = kids[-1] if settling else kids[0]
        # While a key settles nobody is sent for another token: it would be of the key that is about to go.
        self._outdated: Final = None if settling or len(kids) == 1 else kids[1] + b"."

    def __repr__(self) -> str:
        return f"TokenKeys(kids={sorted(self.kids)})"

    @property
    def kids(self) -> tuple[str, ...]:
        """Ids of the keys, the newest first."""
        return tuple(kid.decode() for kid in self._macs)

    @property
    def signs_with(self) -> str:
        """Id of the key of new tokens."""
        return self._signs_with.decode()

    def fingerprints(self, of: str = "") -> dict[str, str]:
        """By kid what its key makes of a text: 16 characters that only the same key gives, and that are no token's."""
        # No message of a token begins so: there are no spaces in VM ids.
        message = b"fallow fingerprint\0" + of.encode()
        return {kid.decode(): mac.text(message)[:16].decode() for kid, mac in self._macs.items()}

    def is_outdated(self, token: bytes) -> bool:
        """Whether a token that verifies is of the key that is to go: its VM should ask for another."""
        return self._outdated is not None and token.startswith(self._outdated)

    @classmethod
    def load_or_create(cls, path: Path, *, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> TokenKeys:
        """The keys of the file at `path`, which is made with one new key and mode 0600 where there is none.

        Raises: ConfigError: readable by others, unreadable, or a line that is not a key (the key is not repeated).
        """
        if not path.exists():
            create_secret(path, new_line("k1", random_bytes))
        return parse_keys(read_secret(path), source=str(path))

    def make(self, vm_id: str, generation: int) -> str:
        """The token of one VM and generation; the same every time. Raises ValueError: not an id, or out of range."""
        if not is_vm_id(vm_id):
            raise ValueError(f"{vm_id!r} is not a VM id")
        if not 0 <= generation <= MAX_GENERATION:
            raise ValueError(f"{generation} is not a generation")
        kid = self._signs_with
        number = b"%d" % generation
        mac = self._macs[kid].text(b"%b|%b|%b" % (vm_id.encode(), kid, number))
        return b".".join((kid, number, mac)).decode()

    def verify(self, vm_id: str, token: bytes) -> int | None:
        """The generation of a token that was made for `vm_id`; None for anything else, garbage included."""
        if len(token) > MAX_TOKEN_BYTES or not vm_id.isascii():
            return None
        parts = token.split(b".")
        if len(parts) != 3:
            return None
        kid, number, mac = parts
        key = self._macs.get(kid)
        if key is None or not compare_digest(key.text(b"%b|%b|%b" % (vm_id.encode(), kid, number)), mac):
            return None
        # The mac covers the digits as they stand, and only `make` writes them.
        return int(number)


class Revocations:
    """Which generations of which VMs are refused; immutable, replaced as a whole when it is read again.

    Args:
        below: VM id → (first generation that is accepted, why the older ones are refused).
        clones: VMs as which two machines pushed, and which nobody has enrolled again since.
    """

    __slots__ = ("_below", "clones")

    def __init__(
        self, below: Mapping[str, tuple[int, str]] = MappingProxyType({}), *, clones: frozenset[str] = frozenset()
    ) -> None:
        self._below: Final = dict(below)
        self.clones: Final = clones

    def __len__(self) -> int:
        return len(self._below)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Revocations):
            return NotImplemented
        return self._below == other._below and self.clones == other.clones

    __hash__ = None  # type: ignore[assignment]

    @property
    def below(self) -> Mapping[str, tuple[int, str]]:
        """As it was made with."""
        return MappingProxyType(self._below)

    def refuses(self, vm_id: str, generation: int) -> str | None:
        """Why this generation of the VM's token is refused; None when it is not."""
        entry = self._below.get(vm_id)
        return None if entry is None or generation >= entry[0] else entry[1]


def new_line(kid: str, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """A line of a key file with a new key."""
    return f"{kid}:{random_bytes(_KEY_BYTES).hex()}\n"


def parse_keys(text: str, *, source: str, settling: bool = False) -> TokenKeys:
    """Keys from the text of a key file; `settling` as in `TokenKeys`.

    Raises: ConfigError: naming the line, never its key.
    """
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        kid, colon, digits = stripped.partition(":")
        try:
            key = bytes.fromhex(digits)
        except ValueError:
            key = b""
        if not colon or not key:
            raise ConfigError(f"{source}: line {number}: is not KID:HEX")
        if kid in keys:
            raise ConfigError(f"{source}: line {number}: its kid is there already")
        keys[kid] = key
    try:
        return TokenKeys(keys, settling=settling)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error


def create_secret(path: Path, text: str) -> None:
    """Writes `text` to a new file that its owner alone may read, whole or not at all.

    Another process that makes the same file at the same time wins or loses as a whole; its file then stays.

    Raises: ConfigError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(partial, path)
            except FileExistsError:
                return
        finally:
            partial.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be made: {error.strerror or error}") from error


def sync_directory(path: Path) -> None:
    """Makes the names in a directory last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
