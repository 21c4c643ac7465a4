"""Drives a door of agents from one process: many keep-alive connections, requests made beforehand.

A minimal client on `select.epoll`, so that the driver costs less than what it drives. Each connection is one VM
with one push under way; a push holds one minute, and each VM's minutes go on from run to run.
"""

from __future__ import annotations

import select
import socket
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent.sample import Sample
from agent.wire import encode_batch, encode_sample

SHAPES = 16  # different samples of one VM, so that not every body is the same
_TS_MARK = 1_000_000_020  # stands where a request's own ts goes: as many digits as a real one
_RECV_BYTES = 65536


class DriveError(ConnectionError):
    """The other side does not do its part; the text says how."""


@dataclass(slots=True)
class Drive:
    """What one run of the driver saw.

    Attributes:
        acked: pushes answered 204.
        others: answers by status, 204 left out.
        seconds: length of the run.
        ack_s: time from when a push was due to its answer, one figure a push.
    """

    seconds: float = 0.0
    acked: int = 0
    others: dict[int, int] = field(default_factory=dict)
    ack_s: array[float] = field(default_factory=lambda: array("d"))

    def quantile_s(self, quantile: float) -> float:
        """The ack time that a share of `quantile` of the pushes did not exceed."""
        ordered = sorted(self.ack_s)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


class _Vm:
    """One VM and its connection."""

    __slots__ = ("due_s", "requests", "sock", "ts", "turn", "waiting")

    def __init__(self, sock: socket.socket, requests: Sequence[tuple[bytes, bytes]], ts: int) -> None:
        self.sock = sock
        self.requests = requests
        self.ts = ts
        self.turn = 0
        self.due_s = 0.0
        self.waiting = False

    def send(self, due_s: float) -> None:
        before, after = self.requests[self.turn % SHAPES]
        self.turn += 1
        self.ts += 60
        self.due_s = due_s
        self.waiting = True
        request = b"%b%d%b" % (before, self.ts, after)
        if self.sock.send(request) != len(request):
            raise DriveError("a push did not fit into a socket's buffer")


class Driver:
    """Connections to one address, open until `close`.

    Args:
        address: host and port of the door.
        vms: one connection each.
        token: token of a VM, as text.
        start_ts: minute of the first push of each VM; a multiple of 60.
    """

    def __init__(
        self, address: tuple[str, int], *, vms: Sequence[str], token: Callable[[str], str], start_ts: int
    ) -> None:
        self._epoll = select.epoll()
        self._vms: dict[int, _Vm] = {}
        for index, vm in enumerate(vms):
            try:
                sock = socket.create_connection(address, timeout=10)
            except OSError as error:
                raise DriveError(f"{address[0]}:{address[1]}: {error}") from error
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self._vms[sock.fileno()] = _Vm(sock, requests_of(vm, token(vm), index), start_ts)
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Closes every connection."""
        for vm in self._vms.values():
            vm.sock.close()
        self._epoll.close()

    def saturate(self, seconds: float) -> Drive:
        """Pushes as fast as answers come: each connection sends its next one when the last one is answered."""
        drive = Drive()
        began_s = time.monotonic()
        ends_s = began_s + seconds
        for vm in self._vms.values():
            vm.send(began_s)
        waiting = len(self._vms)
        while waiting:
            now_s = time.monotonic()
            if now_s > ends_s + 30:
                raise DriveError(f"{waiting} pushes were not answered within 30 s")
            for fileno, _ in self._epoll.poll(1.0):
                vm = self._vms[fileno]
                self._read_answer(vm, drive)
                if now_s < ends_s:
                    vm.send(time.monotonic())
                else:
                    waiting -= 1
        drive.seconds = time.monotonic() - began_s
        return drive

    def pace(self, seconds: float, pushes_per_s: float) -> Drive:
        """Pushes at an even rate. A push that has to wait for its connection counts from when it was due."""
        drive = Drive()
        order = list(self._vms.values())
        total = int(seconds * pushes_per_s)
        began_s = time.monotonic()
        sent = 0
        while sent < total or any(vm.waiting for vm in order):
            now_s = time.monotonic()
            if now_s > began_s + seconds + 30:
                raise DriveError("pushes were not answered within 30 s")
            while sent < total and (due_s := began_s + sent / pushes_per_s) <= now_s:
                vm = order[sent % len(order)]
                if vm.waiting:
                    break
                vm.send(due_s)
                sent += 1
            due_s = began_s + sent / pushes_per_s
            for fileno, _ in self._epoll.poll(max(0.0, due_s - time.monotonic()) if sent < total else 0.01):
                self._read_answer(self._vms[fileno], drive)
        drive.seconds = time.monotonic() - began_s
        return drive

    def _read_answer(self, vm: _Vm, drive: Drive) -> None:
        answer = vm.sock.recv(_RECV_BYTES)
        if not answer.startswith(b"HTTP/1.1 "):
            raise DriveError("the connection was closed" if not answer else f"not an answer: {answer[:80]!r}")
        drive.ack_s.append(time.monotonic() - vm.due_s)
        vm.waiting = False
        if answer.startswith(b"HTTP/1.1 204"):
            drive.acked += 1
        else:
            status = int(answer[9:12])
            drive.others[status] = drive.others.get(status, 0) + 1
            if status >= 400:
                raise DriveError(f"a push was refused: {answer.decode('utf-8', 'replace')}")


def requests_of(vm: str, token: str, salt: int) -> list[tuple[bytes, bytes]]:
    """SHAPES requests of one VM, each cut in two where its `ts` goes; `salt` makes VMs differ."""
    return [_request(vm, token, salt * SHAPES + shape) for shape in range(SHAPES)]


def _request(vm: str, token: str, salt: int) -> tuple[bytes, bytes]:
    noise = [((salt * 2654435761 + turn * 40503) % 65521) / 65521 for turn in range(12)]
    sample = Sample(
        ts=_TS_MARK,
        cpu_busy_ratio=0.3 * noise[0],
        cpu_max_ratio=0.3 + 0.6 * noise[1],
        cpu_steal_ratio=0.01 * noise[2],
        cpu_iowait_ratio=0.02 * noise[3],
        cpu_count=4,
        load1=3 * noise[4],
        mem_total_bytes=8_369_094_656,
        mem_used_bytes=1_073_741_824 + int(1e9 * noise[5]) // 1024 * 1024,
        swap_used_bytes=0,
        disk_total_bytes=53_687_091_200,
        disk_used_bytes=21_474_836_480 + int(1e9 * noise[6]) // 4096 * 4096,
        disk_read_bytes_per_s=1e5 * noise[7],
        disk_write_bytes_per_s=1e6 * noise[8],
        net_rx_bytes_per_s=1e5 * noise[9],
        net_tx_bytes_per_s=1e5 * noise[10],
        users=salt % 3,
        procs=90 + salt % 20,
        agent_cpu_s=0.01 * noise[11],
    )
    body = encode_batch(
        vm=vm,
        boot="b7d1a5c2-6f0e-4b8e-9d55-0f3c1c2b7a90",
        seq=100_000 + salt % 1000,
        sent_s=time.time(),
        interval_s=60,
        samples=[encode_sample(sample)],
    )
    head = (
        f"POST /v1/samples HTTP/1.1\r\nHost: 127.0.0.1:8899\r\nAuthorization: Bearer {token}\r\nFallow-VM: {vm}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    before, _, after = (head.encode() + body).partition(b"%d" % _TS_MARK)
    return before, after
