"""Where each aggregator of a fleet is asked: the address that it gave, or that of the settings for an only one.

The token of the fleet goes to the address of the settings alone. An address that the fleet database gave is asked with
proofs, by the name of its node (see `aggregator.node_proof`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from aggregator.admin_client import DEFAULT_TIMEOUT_S, AdminAnswer, AdminClient, AdminUnavailable
from reports.config import ReportConfig, ServeConfig, parse_aggregator_url
from reports.nodes import Node, NodeState

# Addresses change when somebody changes settings: not between two charts of a page.
KEEP_S = 5.0
# As many nodes are asked at once.
_THREADS = 16

_Asked = TypeVar("_Asked")
_Told = TypeVar("_Told")


class Door(Protocol):
    """The part of `aggregator.admin_client.AdminClient` that is asked."""

    @property
    def place(self) -> str: ...
    def get(self, target: str) -> AdminAnswer: ...
    def get_json(self, target: str) -> object: ...
    def decoded(self, answer: AdminAnswer) -> object: ...


@dataclass(frozen=True, slots=True)
class ClosedDoor:
    """Of a node that cannot be asked at all. `reason`: why, said of `it`."""

    place: str
    reason: str

    def get(self, target: str) -> AdminAnswer:  # noqa: ARG002  the protocol's
        """Raises: AdminUnavailable: always."""
        raise AdminUnavailable(self.reason)

    def get_json(self, target: str) -> object:  # noqa: ARG002  the protocol's
        """Raises: AdminUnavailable: always."""
        raise AdminUnavailable(self.reason)

    def decoded(self, answer: AdminAnswer) -> object:  # noqa: ARG002  the protocol's
        """Raises: AdminUnavailable: always."""
        raise AdminUnavailable(self.reason)


class Connect(Protocol):
    """Makes doors of addresses that `parse_aggregator_url` takes."""

    def __call__(self, url: str, node: str | None, /) -> Door:
        """Args: node: whose address the fleet database says that it is; None: it is one of the settings."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDoor:
    """A node and where it is asked. `node`: None for an aggregator that has told nothing of itself."""

    node: Node | None
    door: Door


class NodeDoors:
    """The nodes of a fleet with their doors, remembered for some seconds. Any thread may ask.

    Args:
        read: the nodes that the fleet database has, by name.
        clock: Unix seconds.
    """

    def __init__(
        self,
        read: Callable[[], Sequence[Node]],
        serve: ServeConfig,
        *,
        clock: Callable[[], float],
        connect: Connect,
    ) -> None:
        self._read = read
        self._serve = serve
        self._clock = clock
        self._connect = connect
        self._known: tuple[float, tuple[NodeDoor, ...]] | None = None

    def all(self) -> tuple[NodeDoor, ...]:
        """Every node, those that were stopped or are away too; never none. Raises: what `read` raises."""
        now_s, known = self._clock(), self._known
        if known is None or not 0 <= now_s - known[0] < KEEP_S:
            known = self._known = now_s, doors_of(self._read(), self._serve, self._connect)
        return known[1]

    def to_ask(self) -> tuple[NodeDoor, ...]:
        """All but those that said that they stop; of a fleet with one node, that one whatever it said.

        One that is silent is asked all the same: it may have lost the database alone.
        """
        known = self.all()
        asked = tuple(one for one in known if one.node is None or one.node.said != NodeState.STOPPED)
        return known if len(known) == 1 else asked


def connector(
    config: ReportConfig, *, timeout_s: float = DEFAULT_TIMEOUT_S, clock: Callable[[], float] = time.time
) -> Connect:
    """Makes doors of addresses by the settings, with the one token of all nodes. `clock`: Unix seconds, for proofs."""
    token_file, ca = config.admin_token_file, config.serve.nodes_ca

    def connect(url: str, node: str | None) -> Door:
        return AdminClient(url, token_file, node=node, timeout_s=timeout_s, ca=ca, unix_clock=clock)

    return connect


def doors_of(nodes: Sequence[Node], serve: ServeConfig, connect: Connect) -> tuple[NodeDoor, ...]:
    """A door for each node; where there is at most one node, one door.

    Args: serve: its `aggregator_url` is the door of an only node, unless that gave an address and settings do not.
    """
    if len(nodes) > 1:
        return tuple(NodeDoor(node=node, door=_door(node, connect)) for node in nodes)
    only = nodes[0] if nodes else None
    if only is not None and serve.aggregator_url == ServeConfig().aggregator_url and _problem(only) is None:
        return (NodeDoor(node=only, door=connect(str(only.admin_url), only.name)),)
    return (NodeDoor(node=only, door=connect(serve.aggregator_url, None)),)


def in_parallel(ask: Callable[[_Asked], _Told], whom: Iterable[_Asked]) -> list[_Told]:
    """The answers in the order of whom was asked: one that is slow holds up none of the others. `ask` is to catch."""
    asked = list(whom)
    if len(asked) < 2:
        return [ask(one) for one in asked]
    with ThreadPoolExecutor(max_workers=min(len(asked), _THREADS), thread_name_prefix="node") as pool:
        return list(pool.map(ask, asked))


def _door(node: Node, connect: Connect) -> Door:
    problem = _problem(node)
    return connect(str(node.admin_url), node.name) if problem is None else ClosedDoor(f"node {node.name}", problem)


def _problem(node: Node) -> str | None:
    if node.admin_url is None:
        return "it has told no address at which it can be asked (node.url)"
    try:
        parse_aggregator_url(node.admin_url)
    except ValueError as error:
        return f"it cannot be asked at the address that it gave: {error}"
    return None
