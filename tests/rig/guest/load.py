"""Runs in a guest: keeps its processor as busy as the last datagram said, a number from 0 to 1; nothing at first.

The guest has one processor. Each tenth of a second is split into work and rest.
"""

import contextlib
import socket
import sys
import time

PERIOD_S = 0.1


def work(door: socket.socket) -> None:
    busy_ratio = 0.0
    while True:
        # While there is no load, only a datagram wakes this: an idle guest stays idle.
        door.settimeout(max((1.0 - busy_ratio) * PERIOD_S, 0.001) if busy_ratio > 0 else None)
        with contextlib.suppress(TimeoutError):
            busy_ratio = min(max(float(door.recv(64)), 0.0), 1.0)
        ends_s = time.monotonic() + busy_ratio * PERIOD_S
        while time.monotonic() < ends_s:
            pass


if __name__ == "__main__":
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind(("0.0.0.0", int(sys.argv[1])))
        work(door)
