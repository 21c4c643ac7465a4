"""One VM's figures from the nodes that hold its history: its home first, gaps filled from the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from aggregator.series import DEFAULT_POINTS, Series
from reports.node_doors import NodeDoor, in_parallel
from reports.nodes import Node, Whereabouts, find_node, gone_words
from reports.series import AdminSeries, FirstOf, Found, SeriesSource, SeriesUnavailable, UnknownVm
from reports.series_merge import merge_series
from reports.words import time_words

Sources = Callable[[NodeDoor], SeriesSource]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    """A node that has history. Args: oldest_s, newest_s: of its samples, as far as is known; None: not at all."""

    node: Node
    source: SeriesSource | None
    oldest_s: float | None
    newest_s: float | None

    def may_have(self, to_s: float) -> bool:
        """Whether it may have samples up to then. Newer ones than are known of may be in its memory."""
        return self.oldest_s is None or self.oldest_s <= to_s


def asked_at(one: NodeDoor) -> SeriesSource:
    """What a node tells."""
    return AdminSeries(one.door)


class NodeSeries:
    """A SeriesSource over all nodes of a fleet; of a fleet with one node, that one, else the stores on this disk.

    Args:
        doors: every node's; one where there is one node.
        whereabouts: where the history of a VM lies, by its id.
        local: the stores on this disk: another chance where a node does not answer.
        sources: a node's door -> what it tells.
        clock: Unix seconds.
    """

    name = "the nodes of the fleet"

    def __init__(
        self,
        doors: Callable[[], Sequence[NodeDoor]],
        whereabouts: Callable[[str], Whereabouts],
        *,
        local: SeriesSource,
        clock: Callable[[], float],
        sources: Sources = asked_at,
    ) -> None:
        self._doors = doors
        self._whereabouts = whereabouts
        self._local = local
        self._clock = clock
        self._sources = sources

    def read(self, vm_id: str, from_s: int, to_s: int, points: int = DEFAULT_POINTS) -> Series:
        """See SeriesSource; `find` says what is missing."""
        return self.find(vm_id, from_s, to_s, points).series

    def find(self, vm_id: str, from_s: int, to_s: int, points: int = DEFAULT_POINTS) -> Found:
        """What the nodes that hold history of the VM tell, as one, and what of it is missing.

        Raises:
            UnknownVm, SeriesUnavailable, ValueError: as of SeriesSource.
            sqlalchemy.exc.DBAPIError: the fleet database does not say where the VM's history lies.
        """
        doors, where = self._doors(), self._whereabouts(vm_id)
        if len(doors) == 1 and not where.parts:
            return FirstOf([self._sources(doors[0]), self._local]).find(vm_id, from_s, to_s, points)
        holders = [one for one in self._holders(doors, where) if one.may_have(to_s)]

        def ask(holder: _Holder) -> Series | UnknownVm | SeriesUnavailable:
            try:
                if holder.source is None:
                    raise SeriesUnavailable("it is not known where it is asked")
                return holder.source.read(vm_id, from_s, to_s, points)
            except (UnknownVm, SeriesUnavailable) as error:
                return error

        answers = list(zip(holders, in_parallel(ask, holders), strict=True))
        told = [(holder, answer) for holder, answer in answers if isinstance(answer, Series)]
        silent = [(holder, answer) for holder, answer in answers if isinstance(answer, SeriesUnavailable)]
        found, names = [series for _, series in told], [f"node {holder.node.name}" for holder, _ in told]
        if silent and (stored := self._stored(vm_id, from_s, to_s, points)) is not None:
            found.append(stored)
            names.append(self._local.name)
        now_s = self._clock()
        missing = tuple(_missing_words(holder, error, now_s) for holder, error in silent)
        if not found and missing:
            raise SeriesUnavailable("; ".join(missing))
        if not found:
            raise UnknownVm(vm_id)
        return Found(series=merge_series(*found), source=", ".join(names), passed=(), missing=missing)

    def _holders(self, doors: Sequence[NodeDoor], where: Whereabouts) -> Iterator[_Holder]:
        """The home first; every node that is there, where nobody knows of one."""
        by_name = {one.node.name: one for one in doors if one.node is not None}
        nodes = [one.node for one in by_name.values() if one.node is not None]

        def holder(node: Node, oldest_s: float | None, newest_s: float | None) -> _Holder:
            door = by_name.get(node.name)
            source = None if door is None else self._sources(door)
            return _Holder(node=node, source=source, oldest_s=oldest_s, newest_s=newest_s)

        told = {part.holder.name for part in where.parts}
        if where.home:
            yield holder(find_node(nodes, where.home), where.oldest_s, where.newest_s)
        else:
            now_s = self._clock()
            yield from (holder(one, None, None) for one in nodes if one.name not in told and not one.is_gone(now_s))
        for part in where.parts:
            yield holder(find_node(nodes, part.holder.name), part.oldest_s, part.newest_s)

    def _stored(self, vm_id: str, from_s: int, to_s: int, points: int) -> Series | None:
        try:
            return self._local.read(vm_id, from_s, to_s, points)
        except (UnknownVm, SeriesUnavailable):
            return None


def _missing_words(holder: _Holder, error: SeriesUnavailable, now_s: float) -> str:
    span = ""
    if holder.oldest_s is not None and holder.newest_s is not None:
        span = f", from {time_words(holder.oldest_s)} to {time_words(holder.newest_s)} or later,"
    gone = gone_words(holder.node, now_s)
    why = error.reason if gone is None else f"it {gone}"
    return f"What node {holder.node.name} holds{span} is not shown: {why}"
