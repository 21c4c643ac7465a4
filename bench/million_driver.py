"""Pushes of a million VMs at the pace of real life, over few reused connections, for little CPU.

Every VM pushes once a minute, always at the same moment of it. A connection serves any VM, as behind a load balancer,
and has one push under way. Requests are joined from parts that are ready, so that a million VMs fit into memory and a
push costs the driver about fifteen microseconds, both system calls included.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from agent.wire import encode_batch
from bench.fleet_driver import tails
from bench.load_driver import SHAPES, DriveError

_STORED = b"HTTP/1.1 204"
_RECV_BYTES = 512
_PATIENCE_S = 120.0
_TURN_S = 0.001  # sends and answers come in bunches: the driver looks for them no more often
_TS_DIGITS = 10
_NEXT_SAMPLE = b', {"ts": '
_BOOT = "b7d1a5c2-6f0e-4b8e-9d55-0f3c1c2b7a90"

Floats = npt.NDArray[np.float64]
Request = Callable[[int, int], bytes]  # number of a VM, newest ts


class Fleet:
    """VMs and their tokens as the pieces of requests.

    Args:
        vms: ids, all of one length.
        token: token of a VM, all of one length.
    """

    def __init__(self, vms: Sequence[str], token: Callable[[str], str]) -> None:
        self._vms = [vm.encode() for vm in vms]
        self._tokens = [token(vm).encode() for vm in vms]

    def __len__(self) -> int:
        """VMs."""
        return len(self._vms)

    def request(self, samples: int) -> Request:
        """What makes pushes of so many minutes each."""
        vm = self._vms[0]
        kinds = tails()
        body = encode_batch(vm=vm.decode(), boot=_BOOT, seq=1, sent_s=time.time(), interval_s=60, samples=['{"ts": '])
        before, after = body[: body.rindex(b"]")].split(vm)
        inner = [kinds[number % SHAPES].rstrip()[: -len("]}")] + _NEXT_SAMPLE for number in range(samples - 1)]
        length = len(before) + len(vm) + len(after) + sum(map(len, inner)) + samples * _TS_DIGITS + len(kinds[0])
        middle = b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (length, before)
        start = b"POST /v1/samples HTTP/1.1\r\nHost: 127.0.0.1:8899\r\nAuthorization: Bearer "
        vms, tokens = self._vms, self._tokens

        def single(index: int, ts: int) -> bytes:
            vm = vms[index]
            tail = kinds[(index + ts // 60) % SHAPES]
            return b"%b%b\r\nFallow-VM: %b%b%b%b%d%b" % (start, tokens[index], vm, middle, vm, after, ts, tail)

        def several(index: int, ts: int) -> bytes:
            vm = vms[index]
            times = [b"%d" % (ts - 60 * age) for age in range(samples - 1, 0, -1)]
            older = b"".join(chain.from_iterable(zip(times, inner, strict=True)))
            tail = kinds[(index + ts // 60) % SHAPES]
            return b"%b%b\r\nFallow-VM: %b%b%b%b%b%d%b" % (start, tokens[index], vm, middle, vm, after, older, ts, tail)

        return single if samples == 1 else several


class MillionDriver:
    """Connections to the agents' door, open until `close`.

    Args:
        address: host and port.
        connections: how many are kept open.
    """

    def __init__(self, address: tuple[str, int], connections: int) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(connections):
            try:
                sock = socket.create_connection(address, timeout=10)
            except OSError as error:
                raise DriveError(f"{address[0]}:{address[1]}: {error}") from error
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets[sock.fileno()] = sock
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Closes every connection."""
        for sock in self._sockets.values():
            sock.close()
        self._epoll.close()

    def push(self, fleet: Fleet, minutes: Sequence[int], *, pushes_per_s: float | None, samples: int = 1) -> Floats:
        """Pushes once for each VM and minute, minute after minute.

        Args:
            minutes: the newest `ts` of each push.
            pushes_per_s: an even pace; None: as fast as answers come.
            samples: minutes in each push.

        Returns: (minutes * VMs,) seconds from when each push was due to its answer; every one was acknowledged. What
            had to wait for a free connection counts from when it was due.
        Raises: DriveError: an answer other than 204, or none.
        """
        request = fleet.request(samples)
        size = len(fleet)
        total = size * len(minutes)
        ack_s = np.zeros(total)
        step_s = 0.0 if pushes_per_s is None else 1.0 / pushes_per_s
        free = list(self._sockets)
        sockets, poll, clock = self._sockets, self._epoll.poll, time.monotonic
        under_way: dict[int, int] = {}
        sent = 0
        began_s = now_s = heard_s = clock()
        sent_s = np.zeros(total) if pushes_per_s is None else np.zeros(0)
        while sent < total or under_way:
            while free and sent < total and began_s + sent * step_s <= now_s:
                fileno = free.pop()
                minute, index = divmod(sent, size)
                sockets[fileno].sendall(request(index, minutes[minute]))
                under_way[fileno] = sent
                if pushes_per_s is None:
                    sent_s[sent] = now_s
                sent += 1
            wait_s = max(_TURN_S, began_s + sent * step_s - clock()) if free and sent < total else _PATIENCE_S
            if step_s and under_way:
                wait_s = min(wait_s, 0.1)
            events = poll(wait_s)
            # What is there by now had come by now, however long it takes to read all of it.
            now_s = clock()
            for fileno, _ in events:
                answer = sockets[fileno].recv(_RECV_BYTES)
                if not answer.startswith(_STORED):
                    raise DriveError(f"a push was not taken: {answer[:300]!r}")
                ack_s[under_way.pop(fileno)] = now_s
                free.append(fileno)
            if events:
                heard_s = now_s
            elif under_way and now_s - heard_s > _PATIENCE_S:
                raise DriveError(f"{len(under_way)} pushes were not answered within {_PATIENCE_S:.0f} s")
        ack_s -= sent_s if pushes_per_s is None else began_s + step_s * np.arange(total)
        return ack_s
