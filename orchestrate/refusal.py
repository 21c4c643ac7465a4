"""Why the controller does not act: one value for every rule that it keeps. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from orchestrate.inventory import VmRef


class Rule(StrEnum):
    """What the controller never does. docs/orchestrate.md tells each; every one has a test that names it."""

    BY_DEFAULT = "acts by default"
    ON_DOUBT = "acts on doubt"
    IN_OUTAGE = "acts in an outage"
    OVER_LIMIT = "exceeds a limit"
    EXEMPT = "touches the exempt"
    SURPRISE = "surprises"
    TWICE = "acts twice or as two"
    IRREVERSIBLE = "does what it can't undo"
    GUEST_ALONE = "believes only the guest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One reason not to act, with its figures in words. `ref`: the VM it concerns; None for a whole plan."""

    rule: Rule
    words: str
    ref: VmRef | None = None
