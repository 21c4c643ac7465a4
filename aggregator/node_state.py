"""What a node is at, in its own word and in the one that people are told. Pure; loads no database."""

from __future__ import annotations

from enum import StrEnum

AWAY_AFTER_S = 60.0  # a node that said nothing for so long is not asked
NOT_READY = "not ready"


class NodeState(StrEnum):
    """What a node says of itself."""

    UP = "up"
    DRAINING = "draining"
    STOPPED = "stopped"


def state_word(state: str, *, is_leaving: bool, not_ready: str | None) -> str:
    """A state as people are told it: `draining` may be for good, and who is `up` may take no pushes all the same."""
    if state == NodeState.DRAINING and is_leaving:
        return "leaving"
    return NOT_READY if state == NodeState.UP and not_ready is not None else state
