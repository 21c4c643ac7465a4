"""What the controller's pages tell whoever started them. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Where pages are, and whether anybody can log in to them."""

    address: str
    has_accounts: bool
