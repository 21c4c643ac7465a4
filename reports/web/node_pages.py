"""The aggregators of the fleet: whether they are there, and what each holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reports.fleet import snapshot
from reports.node_rows import read_holdings
from reports.node_words import holding_words, is_trouble, waiting_words
from reports.nodes import Holding
from reports.web.answers import Answer, Asked, Handler
from reports.web.backing import Backing
from reports.web.parts import frame
from reports.web.renderer import Renderer
from reports.web.views import NodeLine, NodesView


def find_nodes(backing: Backing) -> Sequence[Holding]:
    """Every node with what it holds."""
    with snapshot(backing.fleet.reader) as connection:
        return read_holdings(connection, backing.clock())


class NodePages:
    """`/nodes`."""

    def __init__(self, backing: Backing, renderer: Renderer) -> None:
        self._backing = backing
        self._renderer = renderer

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {"nodes": self.show}

    def show(self, asked: Asked) -> Answer:
        """The page."""
        now_s = self._backing.clock()
        view = NodesView(
            frame=frame(asked, "Nodes", "nodes", zone=self._backing.config.zone, now_s=now_s),
            rows=tuple(_line(held, now_s) for held in find_nodes(self._backing)),
        )
        return self._renderer.page(view)


def _line(held: Holding, now_s: float) -> NodeLine:
    node, waiting = held.node, waiting_words(held)
    return NodeLine(
        name=node.name,
        state=node.word(now_s),
        is_trouble=is_trouble(held, now_s),
        words=tuple(each for each in holding_words(held, now_s) if each not in waiting),
        seen_s=node.seen_s,
        version=node.version,
        address=node.admin_url,
        home_vms=held.home_vms,
        heard_vms=node.heard_vms,
        owed=node.owed,
        free_bytes=node.free_bytes,
        parts=held.parts,
        problems=waiting,
    )
