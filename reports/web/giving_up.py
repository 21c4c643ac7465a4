"""A source of series that hangs, within one request: it costs one time-out, not one for each VM."""

from __future__ import annotations

from aggregator.series import DEFAULT_POINTS, Series
from reports.node_doors import NodeDoor
from reports.node_series import Sources, asked_at
from reports.series import SeriesSource, SeriesUnavailable


class GivingUp:
    """Asks a source until it once cannot tell, and not again from then on. For one request, in one thread."""

    def __init__(self, source: SeriesSource) -> None:
        self._source = source
        self._reason: str | None = None

    @property
    def name(self) -> str:
        return self._source.name

    def read(self, vm_id: str, from_s: int, to_s: int, points: int = DEFAULT_POINTS) -> Series:
        """See SeriesSource; after the first SeriesUnavailable every answer is that one."""
        if self._reason is not None:
            raise SeriesUnavailable(self._reason)
        try:
            return self._source.read(vm_id, from_s, to_s, points)
        except SeriesUnavailable as error:
            self._reason = error.reason
            raise


def giving_up_on_each(ask: Sources = asked_at) -> Sources:
    """For one request: the same source for a node each time, which gives it up."""
    known: dict[str | None, SeriesSource] = {}

    def source(one: NodeDoor) -> SeriesSource:
        return known.setdefault(None if one.node is None else one.node.name, GivingUp(ask(one)))

    return source
