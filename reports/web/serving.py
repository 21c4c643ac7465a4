"""What the pages' server tells whoever started it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Where pages are, and the one-time link that makes the first admin, None where there are accounts."""

    address: str
    first_link: str | None = field(repr=False)
