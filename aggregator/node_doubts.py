"""What this aggregator learns of itself by looking at the others: whether its keys and its clock are the fleet's."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.logger import Logger

from aggregator.key_camps import KeyDifference
from aggregator.node_problems import clock_words, compare_keys, do_keys_differ, is_clock_wrong
from aggregator.node_row import Node, NodeTable, is_away


class NodeDoubts:
    """Looks at the table `node` whenever that was read. Each change is logged once.

    Attributes:
        keys: how its keys differ from those of the fleet; None: they do not, as far as is known.
        ahead_s: its clock less the fleet database's; None: not known yet.
    """

    _log = Logger()

    def __init__(self) -> None:
        self.keys: KeyDifference | None = None
        self.ahead_s: float | None = None

    @property
    def refused(self) -> str | None:
        """Why no pushes are taken; None: they are."""
        return self.keys.words if self.keys is not None and self.keys.is_stranger else None

    def recall(self, words: str | None) -> None:
        """Begins with what an earlier run left. Args: words: why no pushes are taken; None: they are."""
        self._take(None if words is None else KeyDifference(words=words, is_stranger=True))

    def look(self, me: Node, table: NodeTable, home_vms: Mapping[str, int] | None) -> bool:
        """Judges anew; returns whether keys were judged, too.

        Args:
            me: what this node says of itself, in the table or not.
            home_vms: of how many VMs each node keeps the history; None: they have not been counted, so that keys
                which differ stay judged as they were.
        """
        self._look_at_clock(me.ahead_s)
        nodes = [*(node for node in table.nodes if node.node != me.node), me]
        if home_vms is None and do_keys_differ(nodes):
            return False
        there = {node.node for node in nodes if node is me or not is_away(node, table.now_s)}
        self._take(compare_keys(nodes, there=there, home_vms=home_vms or {}).get(me.node))
        return True

    def _take(self, found: KeyDifference | None) -> None:
        if found is not None and (self.keys is None or found.words != self.keys.words):
            self._log.error("keys: {words}", words=found.words)
        elif found is None and self.keys is not None:
            self._log.info("keys: they are those of the fleet")
        self.keys = found

    def _look_at_clock(self, ahead_s: float | None) -> None:
        was_wrong, is_wrong = is_clock_wrong(self.ahead_s), is_clock_wrong(ahead_s)
        if is_wrong and not was_wrong:
            self._log.error("clock: {words}: does a time service run?", words=clock_words(ahead_s or 0.0))
        elif was_wrong and not is_wrong:
            self._log.info("clock: it is that of the fleet database again")
        self.ahead_s = ahead_s
