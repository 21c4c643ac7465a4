"""What this aggregator learns of itself by looking at the others: whether its keys and its clock are the fleet's."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger

from aggregator.key_marks import KeyDifference
from aggregator.node_problems import clock_words, compare_keys, is_clock_wrong
from aggregator.nodes import Node, NodeTable, is_away


class NodeDoubts:
    """Looks at the table `node` whenever that was read. Each change is logged once.

    Args: name: of this node.

    Attributes:
        keys: how its keys differ from those of the fleet; None: they do not, as far as is known.
        ahead_s: its clock less the fleet database's; None: not known yet.
    """

    _log = Logger()

    def __init__(self, name: str) -> None:
        self.keys: KeyDifference | None = None
        self.ahead_s: float | None = None
        self._name = name
        self._marks: str | None = None

    @property
    def refused(self) -> str | None:
        """Why no pushes are taken; None: they are."""
        return self.keys.words if self.keys is not None and self.keys.is_stranger else None

    def look(self, me: Node, table: NodeTable) -> None:
        """Args: me: what this node says of itself, in the table or not."""
        others = [node for node in table.nodes if node.node != self._name]
        there = [node for node in others if not is_away(node, table.now_s)]
        found = compare_keys([*there, me]).get(self._name)
        if found is None and self._is_still_strange(me, others, there):
            found = self.keys
        if found is not None and (self.keys is None or found.words != self.keys.words):
            self._log.error("keys: {words}", words=found.words)
        elif found is None and self.keys is not None:
            self._log.info("keys: they are those of the fleet")
        self.keys, self._marks = found, me.key_marks
        self._look_at_clock(me.ahead_s)

    def _is_still_strange(self, me: Node, others: Sequence[Node], there: Sequence[Node]) -> bool:
        """While those that took pushes are away, one whose keys are strange must not become the measure of all."""
        if self.refused is None or me.key_marks != self._marks:
            return False
        has_measure = any(node.key_marks is not None and node.not_ready is None for node in there)
        return not has_measure and any(node.key_marks is not None for node in others)

    def _look_at_clock(self, ahead_s: float | None) -> None:
        was_wrong, is_wrong = is_clock_wrong(self.ahead_s), is_clock_wrong(ahead_s)
        if is_wrong and not was_wrong:
            self._log.error("clock: {words}: does a time service run?", words=clock_words(ahead_s or 0.0))
        elif was_wrong and not is_wrong:
            self._log.info("clock: it is that of the fleet database again")
        self.ahead_s = ahead_s
