"""Sends requests to any of the compared servers over kept connections, at a pace or as fast as answers come."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress

from bench.load_driver import Drive, DriveError

_RECV_BYTES = 65536
_PATIENCE_S = 120.0


class Pusher:
    """Connections to one address, open until `close`.

    Args:
        answer: how an acknowledgement begins; None where none ever comes: then what the socket took counts as sent.
    """

    def __init__(self, address: tuple[str, int], *, connections: int, answer: bytes | None) -> None:
        self._address = address
        self._answer = answer
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(connections):
            self._open()

    def close(self) -> None:
        """Closes every connection."""
        for sock in self._sockets.values():
            sock.close()
        self._epoll.close()

    def _open(self) -> int:
        try:
            sock = socket.create_connection(self._address, timeout=_PATIENCE_S)
        except OSError as error:
            raise DriveError(f"{self._address[0]}:{self._address[1]}: {error}") from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets[sock.fileno()] = sock
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return sock.fileno()

    def _reopen(self, fileno: int) -> int:
        self._epoll.unregister(fileno)
        self._sockets.pop(fileno).close()
        return self._open()

    def push(self, requests: Iterable[bytes], drive: Drive, *, pushes_per_s: float | None = None) -> None:
        """Sends all of them and waits for their answers; adds to `drive`.

        At a pace, a push that has to wait for a connection counts from when it was due.

        Raises: DriveError: an answer that is none of the good ones, or none.
        """
        for fileno, _ in self._epoll.poll(0):
            self._reopen(fileno)  # the server closed it meanwhile, since nothing came
        began_s = time.monotonic()
        if self._answer is None:
            self._send_only(iter(requests), drive, began_s, pushes_per_s)
        else:
            self._exchange(iter(requests), self._answer, drive, began_s, pushes_per_s)
        drive.seconds += time.monotonic() - began_s

    def _send_only(self, requests: Iterator[bytes], drive: Drive, began_s: float, pushes_per_s: float | None) -> None:
        sockets = list(self._sockets.values())
        for number, request in enumerate(requests):
            if pushes_per_s is not None:
                time.sleep(max(0.0, began_s + number / pushes_per_s - time.monotonic()))
            try:
                sockets[number % len(sockets)].sendall(request)
            except OSError as error:
                raise DriveError(f"a push was not taken: {error}") from error
            drive.acked += 1

    def _exchange(
        self,
        requests: Iterator[bytes],
        good: bytes,
        drive: Drive,
        began_s: float,
        pushes_per_s: float | None,
    ) -> None:
        free = deque(self._sockets)  # in turn, since servers close connections that are not used
        due_s: dict[int, float] = {}  # of the push that is under way on a socket
        request = next(requests, None)
        number = 0
        while request is not None or due_s:
            now_s = time.monotonic()
            next_s = now_s
            while request is not None and free:
                next_s = now_s if pushes_per_s is None else began_s + number / pushes_per_s
                if next_s > now_s:
                    break
                fileno = free.popleft()
                due_s[fileno] = next_s
                self._send(self._sockets[fileno], request)
                number += 1
                request = next(requests, None)
            is_paused = request is not None and bool(free)
            for fileno, _ in self._wait(max(0.0, next_s - time.monotonic()) if is_paused else _PATIENCE_S):
                if fileno not in due_s:
                    free.remove(fileno)
                    free.append(self._reopen(fileno))
                    continue
                is_last = self._take(self._sockets[fileno], good)
                drive.ack_s.append(time.monotonic() - due_s.pop(fileno))
                drive.acked += 1
                free.append(self._reopen(fileno) if is_last else fileno)

    def _wait(self, timeout_s: float) -> list[tuple[int, int]]:
        events = self._epoll.poll(timeout_s)
        if not events and timeout_s >= _PATIENCE_S:
            raise DriveError(f"pushes were not answered within {_PATIENCE_S:.0f} s")
        return events

    @staticmethod
    def _send(sock: socket.socket, request: bytes) -> None:
        try:
            sock.sendall(request)
        except OSError as error:
            raise DriveError(f"a push was not taken: {error}") from error

    @staticmethod
    def _take(sock: socket.socket, good: bytes) -> bool:
        """Reads an answer; whether the server closes the connection after it."""
        answer = b""
        with suppress(ConnectionError):
            answer = sock.recv(_RECV_BYTES)
        if not answer.startswith(good):
            raise DriveError(f"a push was not taken: {answer[:300]!r}" if answer else "the connection was closed")
        return b"\r\nConnection: close\r\n" in answer
