"""Pushes minute after minute of a large fleet, one VM-minute a request, over few reused connections.

Unlike `load_driver`, a connection serves any VM, as behind a load balancer; requests are put together from a part
that depends on the VM and one that depends on the sample, so that 100,000 VMs fit into memory.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence

from agent.wire import encode_batch
from bench.load_driver import SHAPES, DriveError, requests_of

_TS_MARK = b'"samples": [{"ts": '
_RECV_BYTES = 65536
_PATIENCE_S = 120.0


class FleetDriver:
    """Connections to one address, open until `close`.

    Args:
        address: host and port of the agents' door.
        vms: ids, all of one length.
        token: token of a VM.
        connections: how many are kept open.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        vms: Sequence[str],
        token: Callable[[str], str],
        connections: int,
    ) -> None:
        self._tails = tails()
        self._heads = [_head(vm, token(vm), len(self._tails[0])) for vm in vms]
        self._address = address
        self._connections = connections
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._connect()

    def close(self) -> None:
        """Closes every connection."""
        self._disconnect()
        self._epoll.close()

    def connect_anew(self) -> None:
        """After a pause: the aggregator has closed what was idle for long."""
        self._disconnect()
        self._connect()

    def _connect(self) -> None:
        for _ in range(self._connections):
            sock = socket.create_connection(self._address, timeout=10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets[sock.fileno()] = sock
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _disconnect(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def push(self, minutes: Sequence[int]) -> int:
        """Pushes each of these `ts` for every VM, as fast as answers come; returns how many were acknowledged.

        Raises: DriveError: an answer other than 204, or none.
        """
        requests = self._requests(minutes)
        acknowledged = 0
        waiting = 0
        for sock in self._sockets.values():
            request = next(requests, None)
            if request is None:
                break
            sock.sendall(request)
            waiting += 1
        while waiting:
            events = self._epoll.poll(_PATIENCE_S)
            if not events:
                raise DriveError(f"{waiting} pushes were not answered within {_PATIENCE_S:.0f} s")
            for fileno, _ in events:
                sock = self._sockets[fileno]
                answer = sock.recv(_RECV_BYTES)
                if not answer.startswith(b"HTTP/1.1 204"):
                    raise DriveError(f"a push was not taken: {answer[:300]!r}")
                acknowledged += 1
                request = next(requests, None)
                if request is None:
                    waiting -= 1
                else:
                    sock.sendall(request)
        return acknowledged

    def _requests(self, minutes: Sequence[int]) -> Iterator[bytes]:
        heads, tails = self._heads, self._tails
        for ts in minutes:
            turn = ts // 60
            for index, head in enumerate(heads):
                yield b"%b%d%b" % (head, ts, tails[(index + turn) % SHAPES])


def tails() -> list[bytes]:
    """What follows `ts` in a body, in SHAPES kinds padded to one length."""
    kinds = [after for _, after in requests_of("x", "x", 7)]
    longest = max(map(len, kinds))
    return [kind.ljust(longest) for kind in kinds]


def _head(vm: str, token: str, tail_bytes: int) -> bytes:
    """A request up to `ts`."""
    body = encode_batch(
        vm=vm,
        boot="b7d1a5c2-6f0e-4b8e-9d55-0f3c1c2b7a90",
        seq=1,
        sent_s=time.time(),
        interval_s=60,
        samples=['{"ts": '],
    )
    start = body[: body.index(_TS_MARK) + len(_TS_MARK)]
    length = len(start) + len("1700000000") + tail_bytes
    head = (
        f"POST /v1/samples HTTP/1.1\r\nHost: 127.0.0.1:8899\r\nAuthorization: Bearer {token}\r\nFallow-VM: {vm}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
    return head.encode() + start
