"""What may come to the agents' door by mistake or malice, made from a seed: the parts that all kinds of it share.

An input depends on the seed and its number alone, so that a wrong answer can be had again. The grammar is that of a
push: each kind changes the one thing it is about, and everything else varies within what is allowed.
"""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from agent.sample import FIELDS
from agent.wire import MAX_BODY_BYTES, is_vm_id

REVOKED_VM, CLONED_VM = "revoked-vm", "cloned-vm"
OTHER_VM, MUTANT_VM = "another-vm", "mutant-vm"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BOMB_BYTES = (MAX_BODY_BYTES + 1, 4 << 20, 64 << 20)
_BAD_IDS = ("../../x", "/etc/passwd", "a\0b", "web\n", "a'--", 'x"; DROP TABLE vm', "A", "x" * 65, "ä", "", ".x", "a/b")


@dataclass(frozen=True, slots=True)
class Kind:
    """One line of the rules.

    Attributes:
        name: for people.
        answers: for each answer in order the statuses it may have; none: anything that is no mistake of ours.
        make: the bytes of one connection.
        weight: how often, against the others.
        stored: samples that are new with it.
        holds: what the body of the last answer must hold.
    """

    name: str
    answers: tuple[tuple[int, ...], ...]
    make: Callable[[Maker], bytes]
    weight: float = 1.0
    stored: int = 0
    holds: bytes = b""


class Surroundings:
    """What all inputs of a run share.

    Args: token: of a VM, as text.  vms: pushed for in turn.  start_ts: minute of their first push.  now_s: Unix time.
    """

    def __init__(self, *, token: Callable[[str], str], vms: Sequence[str], start_ts: int, now_s: float) -> None:
        self.vms = vms
        self.start_ts = start_ts
        self.now_s = now_s
        self.tokens = {vm: token(vm) for vm in (*vms, REVOKED_VM, CLONED_VM, OTHER_VM, MUTANT_VM)}

    @cached_property
    def bombs(self) -> tuple[bytes, ...]:
        """Small bodies that are too large once unpacked."""
        return tuple(gzip.compress(b" " * size, 9) for size in _BOMB_BYTES)

    @cached_property
    def packed(self) -> bytes:
        """A body that gzip made."""
        return gzip.compress(b'{"v": 1}' * 20)

    @property
    def minute(self) -> str:
        """A sample, and the comma after it."""
        return f'{{"ts": {self.start_ts}, "cpu_busy_ratio": 0.1, "mem_total_bytes": 9, "mem_used_bytes": 1}}, '


class Maker:
    """Makes input `number` of a run; its VM and minute belong to no other number."""

    def __init__(self, shared: Surroundings, seed: int, number: int) -> None:
        self.shared = shared
        self.draw = random.Random(seed << 40 | number)
        self.vm = shared.vms[number % len(shared.vms)]
        self.ts = shared.start_ts + 60 * (number // len(shared.vms))

    def request(self, body: bytes | None = None, *, path: str = "/v1/samples", **changes: str | None) -> bytes:
        """A push that is right but for what is given; a header that is None is left out."""
        body = self.push() if body is None else body
        headers: dict[str, str | None] = {
            "host": "aggregator:8899",
            "authorization": f"Bearer {self.shared.tokens[self.vm]}",
            "fallow-vm": self.vm,
            "content-type": "application/json",
        }
        luck = self.draw.random()
        if luck < 0.1 and "content_encoding" not in changes:
            packer = zlib.compressobj(1, zlib.DEFLATED, 31)
            body = packer.compress(body) + packer.flush()
            headers["content-encoding"] = "gzip"
        if luck > 0.9 and body and "content_length" not in changes:
            headers["transfer-encoding"] = "chunked"
            body = self._chunked(body)
        else:
            headers["content-length"] = str(len(body))
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        return self.head("POST", path, headers) + body

    def head(self, method: str, path: str, headers: Mapping[str, str | None]) -> bytes:
        """Request line and headers, with one more now and then that means nothing."""
        lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
        if self.draw.random() < 0.2:
            lines.insert(self.draw.randrange(len(lines) + 1), f"x-{self.word()}: {self.word()}")
        return "\r\n".join((f"{method} {path} HTTP/1.1", *lines, "", "")).encode("latin-1")

    def _chunked(self, body: bytes) -> bytes:
        size = self.draw.randrange(1, len(body) + 1)
        pieces = [body[at : at + size] for at in range(0, len(body), size)][:50]
        pieces.append(body[size * len(pieces) :])
        return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"

    def push(self, sample: Mapping[str, str | None] | None = None, /, **literals: str | None) -> bytes:
        """A body of one minute; each given value stands there as it is written, None leaves its key out."""
        uniform = self.draw.random
        figures: dict[str, str | None] = {
            "ts": str(self.ts),
            "cpu_busy_ratio": f"{uniform():.5f}",
            "mem_total_bytes": "8589934592",
            "mem_used_bytes": str(int(uniform() * 8e9)),
        }
        message: dict[str, str | None] = {
            "v": "1",
            "vm": f'"{self.vm}"',
            "boot": '"b7d1a5c2-6f0e-4b8e-9d55-0f3c1c2b7a90"',
            "seq": "1",
            "sent_s": str(self.ts + 1),
            "interval_s": "60",
            "samples": f"[{_object(figures | dict(sample or {}))}]",
        }
        return _object(message | literals).encode("utf-8", "surrogateescape")

    def word(self) -> str:
        """A few small letters."""
        return "".join(self.draw.choices(_LETTERS, k=self.draw.randrange(1, 12)))

    def one(self, *choices: str) -> str:
        """One of them."""
        return self.draw.choice(choices)

    def figure(self) -> str:
        """Name of a figure."""
        return self.draw.choice(FIELDS).name

    @staticmethod
    def is_id(text: str) -> bool:
        """Whether the door would take it for a VM id."""
        return is_vm_id(text)

    def bad_id(self) -> str:
        """Anything that is not a VM id."""
        while True:
            text = self.draw.choice(_BAD_IDS)
            if self.draw.random() < 0.5:
                text = "".join(chr(self.draw.randrange(32, 127)) for _ in range(self.draw.randrange(70)))
            if not self.is_id(text):
                return text


def _object(members: Mapping[str, str | None]) -> str:
    return "{" + ", ".join(f'"{name}": {value}' for name, value in members.items() if value is not None) + "}"
