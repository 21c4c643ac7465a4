"""Both ends of joining histories as one aggregator has them: it takes parts in, and gives its own away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from twisted.internet.defer import Deferred

from aggregator.admin_client import AdminClient
from aggregator.bequest import Bequest
from aggregator.bequest_table import BequestTable
from aggregator.buffer import Buffer
from aggregator.config import AggregatorConfig
from aggregator.fleet_link import in_daemon_thread
from aggregator.flush import Flusher
from aggregator.giver import Giver
from aggregator.joiner import Joiner
from aggregator.known_samples import with_store
from aggregator.node_name import parse_node_url
from aggregator.part_file import MAX_PART_BYTES
from aggregator.part_turns import PartTurns
from aggregator.parts import Parts
from aggregator.pool import Caller
from aggregator.store_files import store_path
from aggregator.summaries import SummaryWriter
from aggregator.summary import Summary

_TIMEOUT_S = 60.0  # for 64 MiB
_KEPT = 4  # connections to each node: as many parts are on their way at once


class Joining(NamedTuple):
    """The two ends, the doors of others that the first asks, and what has others take parts over."""

    joiner: Joiner
    giver: Giver
    doors: NodeDoors
    bequest: Bequest

    def tick(self) -> None:
        """Begins a round of what there is to do, unless one still runs."""
        self.joiner.tick()
        self.bequest.tick()

    def stop(self) -> None:
        """Takes no more in, and gives no more away."""
        self.joiner.stop()
        self.bequest.stop()
        self.doors.close()


def make_joining(
    config: AggregatorConfig,
    *,
    name: str,
    engine: sa.Engine,
    writer: SummaryWriter,
    is_leaving: Callable[[], bool],
    token_file: Path,
    buffer: Buffer,
    flusher: Flusher,
    workers: Caller,
    written: Callable[[Summary, Mapping[str, int]], Deferred[None]],
    reactor: Any,
    clock: Callable[[], float],
) -> Joining:
    """Builds both ends of the aggregator `name`.

    Args:
        engine, writer: of the fleet database.
        is_leaving: whether this aggregator leaves for good.
        token_file: `admin.token`, which all nodes of a fleet share.
        written: as `Joiner` takes it.
    """
    parts = Parts(engine, name)
    turns = PartTurns()
    doors = NodeDoors(token_file, config.node_ca, clock)

    def in_thread(work: Callable[[], Any]) -> Deferred[Any]:
        return in_daemon_thread(reactor, work)

    joiner = Joiner(
        parts=parts,
        connect=doors.open,
        workers=workers,
        turns=turns,
        flusher=flusher,
        written=written,
        in_thread=in_thread,
        call_in_reactor=reactor.callFromThread,
        clock=clock,
        after_s=config.join_after_s,
        pause_s=config.join_interval_s,
    )
    giver = Giver(
        name=name,
        store_path=lambda vm_id: store_path(config.data_dir, vm_id),
        home_of=parts.home_of,
        buffer=buffer,
        flusher=flusher,
        workers=workers,
        turns=turns,
        in_thread=in_thread,
        call_in_reactor=reactor.callFromThread,
    )
    bequest = Bequest(
        BequestTable(engine, name, writer),
        is_leaving=is_leaving,
        buffer=buffer,
        flusher=flusher,
        with_store=with_store(config.data_dir),
        in_thread=in_thread,
        clock=clock,
    )
    return Joining(joiner, giver, doors, bequest)


class NodeDoors:
    """Other nodes' admin doors by their names and addresses, one of each node. Called in the reactor's thread.

    Args:
        ca: as `AdminClient` takes it.
        clock: Unix time in seconds, for proofs.
    """

    def __init__(self, token_file: Path, ca: Path | None, clock: Callable[[], float]) -> None:
        self._token_file = token_file
        self._ca = ca
        self._clock = clock
        self._known: dict[str, tuple[str, AdminClient]] = {}

    def open(self, node: str, url: str) -> AdminClient:
        """Raises: ValueError: nobody may be asked at that address, such as in plain text on another machine."""
        known = self._known.get(node)
        if known is not None and known[0] == url:
            return known[1]
        client = AdminClient(
            parse_node_url(url),
            self._token_file,
            node=node,
            timeout_s=_TIMEOUT_S,
            ca=self._ca,
            max_bytes=MAX_PART_BYTES,
            kept=_KEPT,
            unix_clock=self._clock,
        )
        if known is not None:
            known[1].close()
        self._known[node] = url, client
        return client

    def close(self) -> None:
        """Closes the connections that are kept for later questions."""
        for _, client in self._known.values():
            client.close()
