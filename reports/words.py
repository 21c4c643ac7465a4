"""Numbers and times as people read them. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

NOT_MEASURED = "–"
# More than any two doubles need to be told apart.
_MAX_DIGITS = 17
_SMALLEST_PERCENT = 0.0001


def number(value: float | None, unit: str, *, beside: float | None = None) -> str:
    """`3.1%` for a ratio, `1.2 MB/s`, `3.2 d`; a dash for None.

    Args:
        unit: `ratio`, `bytes_per_s`, `bytes_per_day` (written as bytes: the day stands in the name of the figure),
            `vcpus` or `s`.
        beside: a limit the number will stand next to: it gets as many digits as it takes to show which
            side of the limit it is on, so that 10.04% above 10% does not read as 10%.
    """
    if value is None:
        return NOT_MEASURED
    write = _WRITERS[unit]
    text = write(value, 1)
    if beside is None or value == beside:
        return text
    digits = 1
    while text == write(beside, digits) and digits < _MAX_DIGITS:
        digits += 1
        text = write(value, digits)
    return text


def _percent_words(ratio: float, digits: int) -> str:
    percent = 100 * ratio
    if 0 < percent < _SMALLEST_PERCENT and digits == 1:
        return f"<{_SMALLEST_PERCENT}%"
    if round(percent, digits) == 0:
        return f"{_significant(percent, digits + 1)}%"
    return f"{_trimmed(f'{percent:.{digits}f}')}%"


def _rate_words(bytes_per_s: float, digits: int) -> str:
    return f"{_bytes_words(bytes_per_s, digits)}/s"


def _bytes_words(count: float, digits: int) -> str:
    figures = digits + 2
    # 999,960 B are 1 MB and not 1000 kB.
    rounded = float(f"{count:.{figures}g}")
    for unit, size_bytes in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(rounded) >= size_bytes:
            return f"{_significant(count / size_bytes, figures)} {unit}"
    return f"{_significant(count, figures)} B"


def _vcpus_words(vcpus: float, digits: int) -> str:
    return f"{_significant(vcpus, digits + 1)} vCPU"


def _duration_words(seconds: float, digits: int) -> str:
    return duration_words(seconds) if digits == 1 else f"{_significant(seconds, digits + 8)} s"


_WRITERS: Mapping[str, Callable[[float, int], str]] = {
    "ratio": _percent_words,
    "bytes_per_s": _rate_words,
    "bytes_per_day": _bytes_words,
    "vcpus": _vcpus_words,
    "s": _duration_words,
}


def _significant(value: float, figures: int) -> str:
    """So many figures at least, never as `1e+06`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    before_point = math.floor(math.log10(abs(value))) + 1
    return _trimmed(f"{value:,.{max(figures - before_point, 0)}f}")


def _trimmed(text: str) -> str:
    """Without zeros at the end of a fraction."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration_words(seconds: float) -> str:
    """`45 s`, `12 min`, `5 h`, `3.2 d`."""
    for unit, unit_s, from_s in (("d", 86_400, 2 * 86_400), ("h", 3_600, 3_600), ("min", 60, 60)):
        if abs(seconds) >= from_s:
            return f"{seconds / unit_s:,.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.0f} s"


def time_words(unix_s: float) -> str:
    """`2026-11-20 03:00 UTC`; the bare number when no calendar holds it."""
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return f"{unix_s:.0f} s"


def iso_time(unix_s: float) -> str:
    """`2026-11-20T03:00:00Z`, to the second; empty when no calendar holds it."""
    try:
        return datetime.fromtimestamp(int(unix_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return ""


def gib(size_bytes: float) -> str:
    """`1,024.0 GiB`; what is less than can be shown so is not written as nothing."""
    size_gib = size_bytes / 2**30
    return "<0.1 GiB" if 0 < size_gib < 0.05 else f"{size_gib:,.1f} GiB"


def vcpu_words(vcpus: float) -> str:
    """`1,234.5`, without the unit; one digit behind the point where there is need of it."""
    return "<0.1" if 0 < vcpus < 0.05 else f"{vcpus:,.1f}".removesuffix(".0")


def kwh_words(kwh: float) -> str:
    """`1,234 kWh`, `1.5 kWh`."""
    if 0 < kwh < 0.05:
        return "<0.1 kWh"
    return f"{kwh:,.0f} kWh" if kwh >= 10 else f"{_trimmed(f'{kwh:.1f}')} kWh"


def printable(text: str) -> str:
    """`text` without anything that could move a terminal's cursor or colour it."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def count_words(count: int, noun: str) -> str:
    """`1 VM`, `1,200 VMs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed_words(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def money_words(amount: float | None, currency: str | None) -> str:
    """`1,234.50 EUR`; a dash for None."""
    if amount is None:
        return NOT_MEASURED
    return f"{amount:,.2f}" + (f" {printable(currency)}" if currency else "")
