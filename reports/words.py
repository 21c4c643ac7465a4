"""Numbers and times as people read them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

NOT_MEASURED = "–"
_MAX_DIGITS = 8


def number(value: float | None, unit: str, *, beside: float | None = None) -> str:
    """`3.1%` for a ratio, `1.2 MB/s`, `3.2 d`; a dash for None.

    Args:
        unit: `ratio`, `bytes_per_s` or `s`.
        beside: a limit the number will stand next to: it gets as many digits as it takes to show which
            side of the limit it is on, so that 10.04 % above 10 % does not read as 10.0 %.
    """
    if value is None:
        return NOT_MEASURED
    if unit == "s":
        words = duration_words(value)
        return f"{value:.10g} s" if beside not in {None, value} and words == duration_words(beside or 0) else words
    if unit == "bytes_per_s":
        return _rate_words(value)
    percent = 100 * value
    digits = 1
    if beside is not None and value != beside:
        limit = 100 * beside
        while digits < _MAX_DIGITS and round(percent, digits) == round(limit, digits):
            digits += 1
    if digits == 1 and 0 < percent < 0.05:
        return "<0.1%"
    text = f"{percent:.{digits}f}"
    return f"{text.removesuffix('.0')}%"


def _rate_words(bytes_per_s: float) -> str:
    for unit, unit_bytes_per_s in (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3)):
        if bytes_per_s >= unit_bytes_per_s:
            return f"{bytes_per_s / unit_bytes_per_s:.3g} {unit}"
    return f"{bytes_per_s:.3g} B/s"


def duration_words(seconds: float) -> str:
    """`45 s`, `12 min`, `5 h`, `3.2 d`."""
    for unit, unit_s, from_s in (("d", 86_400, 2 * 86_400), ("h", 3_600, 3_600), ("min", 60, 60)):
        if abs(seconds) >= from_s:
            return f"{seconds / unit_s:.1f}".removesuffix(".0") + f" {unit}"
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
    """`1,024.0 GiB`."""
    return f"{size_bytes / 2**30:,.1f} GiB"


def printable(text: str) -> str:
    """`text` without anything that could move a terminal's cursor or colour it."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
