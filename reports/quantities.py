"""Shares, rates, amounts and windows as an admin writes them in TOML, and limits written back. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal

from agent.settings import parse_duration_s
from reports.facts import DAY_S
from reports.words import number

# The aggregator keeps no longer windows.
MAX_WINDOW_DAYS = 50
_NUMBER_AND_UNIT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(.*)", re.ASCII)
_PERCENT: Mapping[str, Decimal] = {"%": Decimal("0.01")}
# A megabit is no megabyte: the B is never small.
_BYTES: Mapping[str, Decimal] = {
    "B": Decimal(1),
    **{f"{prefix}B": Decimal(1000) ** power for power, prefix in enumerate("kMGT", 1)},
    **{f"{prefix}iB": Decimal(1024) ** power for power, prefix in enumerate("KMGT", 1)},
    "KB": Decimal(1000),
}
# Unit of a measure -> what may stand behind the number, and what people are told.
_UNITS: Mapping[str, tuple[Mapping[str, Decimal], str]] = {
    "ratio": (_PERCENT, 'a share (such as "5%" or 0.05)'),
    "bytes_per_s": ({f"{unit}/s": scale for unit, scale in _BYTES.items()}, 'a rate (such as "2 kB/s", or B/s: 2000)'),
    "bytes_per_day": (
        {f"{unit}{day}": scale for unit, scale in _BYTES.items() for day in ("", " a day")},
        'an amount a day (such as "5 MB", or bytes: 5000000)',
    ),
    "vcpus": ({}, "a number of vCPUs (such as 0.03)"),
}
# The units that limits are written in, the largest first.
_WRITTEN: Mapping[str, tuple[str, ...]] = {
    "ratio": ("%",),
    "bytes_per_s": ("GB/s", "MB/s", "kB/s", "B/s"),
    "bytes_per_day": ("GB", "MB", "kB", "B"),
    "vcpus": (),
}
_MAX_WRITTEN_CHARS = 16
_MAX_SHOWN_CHARS = 60


def parse_limit(value: object, unit: str) -> float:
    """A limit in the unit of its measure, as text with a unit or as a plain number.

    Args: unit: `ratio`, `bytes_per_s`, `bytes_per_day` or `vcpus`.

    Raises: ValueError: another unit, below zero, no number, or a ratio above 1.
    """
    scales, wanted = _UNITS[unit]
    limit = _scaled(value, scales) if isinstance(value, str) else _plain(value)
    if limit is None or not 0 <= limit < math.inf:
        raise ValueError(f"{shown(value)} is not {wanted}")
    if unit == "ratio" and limit > 1:
        raise ValueError(f"{shown(value)} is more than the whole; it is not {wanted}")
    return limit


def parse_ratio(value: object) -> float:
    """A share of `"5%"` or 0.05, 0 to 1. Raises: ValueError."""
    return parse_limit(value, "ratio")


def parse_positive_ratio(value: object) -> float:
    """The same, but not 0. Raises: ValueError."""
    ratio = parse_limit(value, "ratio")
    if ratio == 0:
        raise ValueError(f"{value!r} is not more than zero")
    return ratio


def parse_amount(value: object) -> float:
    """A number of at least zero, such as a price. Raises: ValueError."""
    amount = _plain(value)
    if amount is None or not 0 <= amount < math.inf:
        raise ValueError(f"{shown(value)} is not a number of at least 0")
    return amount


def parse_positive_amount(value: object) -> float:
    """The same, but not 0. Raises: ValueError."""
    amount = parse_amount(value)
    if amount == 0:
        raise ValueError(f"{shown(value)} is not more than zero")
    return amount


def whole_number(least: int, most: int) -> Callable[[object], int]:
    """A parser of whole numbers within bounds, which raises ValueError."""

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{shown(value)} is not a whole number from {least} to {most}")
        return value

    return parse


def parse_window_days(text: object) -> int:
    """Whole days of `14d` or `2w`. Raises: ValueError."""
    seconds = parse_duration_s(text)
    if seconds % DAY_S or seconds > MAX_WINDOW_DAYS * DAY_S:
        raise ValueError(f"{text!r} is not a number of whole days, at most {MAX_WINDOW_DAYS} (such as 14d)")
    return int(seconds // DAY_S)


def limit_text(value: float, unit: str) -> str:
    """A limit as a value of TOML that `parse_limit` reads as the same number: `"5%"`, `"2 kB/s"`, `0.03`."""
    exact = Decimal(repr(float(value)))
    scales, _ = _UNITS[unit]
    for written in _WRITTEN[unit]:
        space = "" if unit == "ratio" else " "
        count = exact / scales[written]
        text = f"{count.normalize():f}{space}{written}"
        fits = count >= 1 or written == _WRITTEN[unit][-1]
        if fits and len(text) <= _MAX_WRITTEN_CHARS and _scaled(text, scales) == value:
            return f'"{text}"'
    return repr(float(value))


def limit_words(value: float, unit: str) -> str:
    """A limit for people, exact where that is short: `5%`, `2 kB/s`, `5 MB`, `0.03 vCPU`."""
    if unit == "vcpus":
        return f"{value:g} vCPU"
    text = limit_text(value, unit)
    return text.strip('"') if text.startswith('"') else number(value, unit)


def shown(value: object) -> str:
    """A wrong value as a message quotes it: its beginning."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**_MAX_SHOWN_CHARS else "a very large number"
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}…"


def _scaled(text: str, scales: Mapping[str, Decimal]) -> float | None:
    match = _NUMBER_AND_UNIT.fullmatch(text)
    scale = scales.get(match[2]) if match else None
    return None if match is None or scale is None else float(Decimal(match[1]) * scale)


def _plain(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number of 400 digits
        return math.inf
