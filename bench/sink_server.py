"""Serves a kind of agents' door with no parts, on the epoll reactor, until SIGTERM."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any, NoReturn

from aggregator.agents_door import AgentsDoor, AgentsDoorFactory
from aggregator.decode import Push
from aggregator.door_parts import DoorParts
from aggregator.problems import Problem


class _Absent:
    """Stands for every part that a sink has not: none of them may be reached."""

    queued_bytes = 0

    def verify(self, vm_id: str, token: bytes, /) -> NoReturn:
        raise NotImplementedError(f"a sink has no keys: {vm_id} {len(token)}")

    def refuses(self, vm_id: str, generation: int, /) -> NoReturn:
        raise NotImplementedError(f"a sink has no revocations: {vm_id} {generation}")

    def append(self, payload: bytes, done: Callable[[Exception | None], None], /) -> NoReturn:
        raise NotImplementedError(f"a sink has no journal: {len(payload)} bytes for {done}")

    def heard_between(self, _from_s: float, _to_s: float, /) -> int:
        """How many VMs had their newest push taken between two times of our clock, Unix seconds."""
        return 0

    def admit(self, push: Push, received_s: float, /) -> Problem | None:
        raise NotImplementedError(f"a sink has no buffer: {push.vm} at {received_s}")

    def add(self, push: Push, received_s: float, /) -> NoReturn:
        raise NotImplementedError(f"a sink has no buffer: {push.vm} at {received_s}")


def _unreachable(*_: object) -> NoReturn:
    raise NotImplementedError("a sink takes pushes alone")


def serve(reactor: Any, door: type[AgentsDoor]) -> None:
    """Prints host and port once it listens; returns after SIGTERM."""
    absent = _Absent()
    parts = DoorParts(
        keys=absent,
        revocations=lambda: absent,
        journal=absent,
        buffer=absent,
        enroll=_unreachable,
        rotate=_unreachable,
        ready=lambda: None,
        raw_retention_s=14 * 86400.0,
        clock=time.time,
    )
    port = reactor.listenTCP(0, AgentsDoorFactory(parts, reactor, door), backlog=1024, interface="127.0.0.1")
    address = port.getHost()
    print(address.host, address.port, flush=True)
    # As the aggregator does: what is alive now is not walked at every collection.
    gc.collect()
    gc.freeze()
    reactor.run()
