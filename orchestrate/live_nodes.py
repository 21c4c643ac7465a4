"""What all aggregators of a fleet have in memory, as one. Blocking.

A VM pushes to one of them; where several know it, because it was moved, the one with its newest push counts.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from operator import itemgetter

from aggregator.admin_client import AdminUnavailable
from orchestrate.live_source import LiveSource, LiveVm, PartlyUnavailable
from reports.node_doors import NodeDoor, in_parallel

_Told = tuple[str, LiveVm]
# As many as an aggregator remembers.
_MINUTES = 10


@dataclass(slots=True)
class _Stream:
    """One node's VMs, by id, until it cannot be asked any more."""

    door: NodeDoor
    source: LiveSource
    with_minutes: Container[str] | None
    problem: str | None = None
    _rest: Iterator[_Told] = field(default_factory=lambda: iter(()))

    def begun(self) -> Iterator[_Told]:
        """Asks for its first page at once, and yields it all."""
        self._rest = self._told()
        first = next(self._rest, None)
        return self._rest if first is None else chain([first], self._rest)

    def _told(self) -> Iterator[_Told]:
        last = ""
        try:
            for vm_id, seen in self.source.read(self.with_minutes):
                if vm_id <= last:
                    raise AdminUnavailable(f"{self.door.door.place} told of its VMs out of their order")
                last = vm_id
                yield vm_id, seen
        except AdminUnavailable as error:
            self.problem = named(self.door, error)


class LiveNodes:
    """All nodes of a fleet.

    Args:
        doors: those to ask, at least one: of `reports.node_doors.NodeDoors`.
        clock: Unix seconds of this controller, with which each node's is compared.
    """

    def __init__(self, doors: Callable[[], Sequence[NodeDoor]], *, clock: Callable[[], float]) -> None:
        self._doors = doors
        self._clock = clock

    def read(self, with_minutes: Container[str] | None = None) -> Iterator[_Told]:
        """See Live. In memory is a page of each node.

        Raises: also sqlalchemy.exc.DBAPIError: the fleet database does not say which nodes there are.
        """
        doors = self._doors()
        if len(doors) == 1:
            yield from self._source(doors[0]).read(with_minutes)
            return
        streams = [_Stream(door=one, source=self._source(one), with_minutes=with_minutes) for one in doors]
        begun = in_parallel(_Stream.begun, streams)
        for vm_id, told in groupby(heapq.merge(*begun, key=itemgetter(0)), key=itemgetter(0)):
            yield vm_id, newest(seen for _, seen in told)
        problems = [one.problem for one in streams if one.problem is not None]
        _raise(problems, len(streams))

    def read_one(self, vm_id: str) -> LiveVm | None:
        """See Live. Who knows the VM is believed, whether the others can be asked or not: it says how old that is.

        Raises: as `read`; AdminUnavailable too where nobody knows it and somebody could not be asked.
        """
        doors = self._doors()
        if len(doors) == 1:
            return self._source(doors[0]).read_one(vm_id)

        def ask(door: NodeDoor) -> LiveVm | AdminUnavailable | None:
            try:
                return self._source(door).read_one(vm_id)
            except AdminUnavailable as error:
                return AdminUnavailable(named(door, error))

        answers = in_parallel(ask, doors)
        known = [one for one in answers if isinstance(one, LiveVm)]
        if known:
            return newest(known)
        _raise([one.reason for one in answers if isinstance(one, AdminUnavailable)], len(doors))
        return None

    def _source(self, one: NodeDoor) -> LiveSource:
        return LiveSource(one.door, clock=self._clock)


def named(one: NodeDoor, error: AdminUnavailable) -> str:
    """Why a node could not be asked, with its name."""
    return error.reason if one.node is None else f"node {one.node.name}: {error.reason}"


def newest(told: Iterable[LiveVm]) -> LiveVm:
    """One VM as several nodes know it: the one with its newest push, with what makes it doubtful or shows its use.

    Flags and minutes are of all: a VM that worked a few minutes ago did so wherever it told of it.
    """
    first, *others = sorted(told, key=lambda one: -one.received_s)
    if not others:
        return first
    every = (first, *others)
    minutes = {minute.ts_s: minute for one in reversed(every) for minute in one.minutes}
    return replace(
        first,
        newest_s=max((one.newest_s for one in every if one.newest_s is not None), default=None),
        flags=tuple(dict.fromkeys(flag for one in every for flag in one.flags)),
        minutes=tuple(minutes[ts_s] for ts_s in sorted(minutes)[-_MINUTES:]),
    )


def _raise(problems: Sequence[str], of: int) -> None:
    if problems and len(problems) == of:
        raise AdminUnavailable("; ".join(problems))
    if problems:
        raise PartlyUnavailable("; ".join(problems))
