"""How long sessions last. Pure, and light: settings need it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Of a session. Args: idle_s: without a request; most_s: in all."""

    idle_s: float = 12 * 3600.0
    most_s: float = 7 * 86_400.0
