"""Choices out of bytes, so that one target serves both hypothesis and a fuzzer that knows bytes alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, Final, TypeVar

T = TypeVar("T")

# What people and programs put where something else belongs.
_ODD: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    2**63,
    -(10**30),
    0.0,
    -0.5,
    1e308,
    float("inf"),
    float("nan"),
    "",
    " ",
    "5 parsecs",
    "0s",
    "-1s",
    "1e9d",
    "9" * 400 + "GiB",
    "9" * 400 + "d",
    "9" * 5000,
    "0%",
    "101%",
    "\x00",
    "\ud800",
    "ä" * 300,
    "../../x",
    "/",
    "https://",
    "http://[::1",
    "http://x:99999",
    "[::1]:1",
    "::1:70000",
    "file:///etc/passwd",
    "*",
    [],
    [[]],
    [None],
    ["", ""],
    {},
    {"": ""},
    {"name": {"name": {}}},
    [{}],
    datetime(2026, 1, 1, tzinfo=UTC),
    date(1, 1, 1),
)


class Draw:
    """Reads choices from the front of `data`; where it ends, every choice is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, below: int) -> int:
        """0 up to `below`, which counts as 1 if it is less."""
        taken = self._data[self._at : self._at + 2]
        self._at += 2
        return int.from_bytes(taken) % max(1, below)

    def pick(self, choices: Sequence[T]) -> T:
        """One of them."""
        return choices[self.number(len(choices))]

    def piece(self, most: int) -> bytes:
        """Up to `most` bytes."""
        size = self.number(most + 1)
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def text(self, most: int) -> str:
        """Up to `most` bytes as text."""
        return self.piece(most).decode("utf-8", "replace")

    def rest(self) -> bytes:
        """All that is left."""
        taken = self._data[self._at :]
        self._at = len(self._data)
        return taken


def changed(document: Any, draw: Draw) -> Any:
    """A copy of a document of dicts and lists, with some values or keys changed, removed or put in."""
    found = copy.deepcopy(document)
    for _ in range(draw.number(3) + 1):
        places = list(_places(found))
        if not places:
            break
        inside, key = draw.pick(places)
        match draw.number(6):
            case 0:
                del inside[key]
            case 1 if isinstance(inside, dict):
                inside[draw.text(6) or "another"] = draw.pick(_ODD)
            case 2:
                inside[key] = draw.text(20)
            case 3:
                _, other = draw.pick(places)
                inside[key] = copy.deepcopy(inside[other]) if _has(inside, other) else [inside[key]]
            case _:
                inside[key] = copy.deepcopy(draw.pick(_ODD))
    return found


def _has(inside: Any, key: Any) -> bool:
    return key in inside if isinstance(inside, dict) else isinstance(key, int) and 0 <= key < len(inside)


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every dict or list in a document with each of its keys or indices."""
    found: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        inside = waiting.pop()
        pairs = list(inside.items()) if isinstance(inside, dict) else list(enumerate(inside))
        for key, value in pairs:
            found.append((inside, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    return found
