"""Both ends of joining histories as one aggregator has them: it takes parts in, and gives its own away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from twisted.internet.defer import Deferred

from aggregator.admin_client import AdminClient
from aggregator.buffer import Buffer
from aggregator.config import AggregatorConfig
from aggregator.fleet_link import in_daemon_thread
from aggregator.flush import Flusher
from aggregator.giver import Giver
from aggregator.joiner import Joiner
from aggregator.node_name import parse_node_url
from aggregator.part_file import MAX_PART_BYTES
from aggregator.part_turns import PartTurns
from aggregator.parts import Parts
from aggregator.pool import Caller
from aggregator.store_files import store_path
from aggregator.summary import Summary

_TIMEOUT_S = 60.0  # for 64 MiB


class Joining(NamedTuple):
    """The two ends."""

    joiner: Joiner
    giver: Giver


def make_joining(
    config: AggregatorConfig,
    *,
    name: str,
    engine: sa.Engine,
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
        engine: of the fleet database.
        token_file: `admin.token`, which all nodes of a fleet share.
        written: as `Joiner` takes it.
    """
    parts = Parts(engine, name)
    turns = PartTurns()

    def in_thread(work: Callable[[], Any]) -> Deferred[Any]:
        return in_daemon_thread(reactor, work)

    joiner = Joiner(
        parts=parts,
        connect=connector(token_file, config.node_ca),
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
    return Joining(joiner, giver)


def connector(token_file: Path, ca: Path | None) -> Callable[[str], AdminClient]:
    """Makes clients of other nodes' admin doors by their addresses.

    Each raises ValueError for an address that the token must not be sent to: plain text to another machine.
    """

    def connect(url: str) -> AdminClient:
        return AdminClient(parse_node_url(url), token_file, timeout_s=_TIMEOUT_S, ca=ca, max_bytes=MAX_PART_BYTES)

    return connect
