"""Agents that come back with a full spool: `python -m bench.reconnect_agents KEY_FILE HOST PORT FIRST COUNT`.

Each has its own connection, which stays open as an agent's does, and does what `agent.push` does with an answer: the
same meaning of a status, the same waits. Says `ready`, begins with the first line on stdin, ends with one JSON object.
"""

from __future__ import annotations

import errno
import json
import random
import select
import socket
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import Final

from agent.push import Disposition, backoff_s, disposition, retry_after_s
from agent.sample import Sample
from agent.wire import encode_batch, encode_sample
from aggregator.tokens import TokenKeys

SAMPLES: Final = 60
_INTERVAL_S: Final = 60
_SHAPES: Final = 16
_GIVE_UP_S: Final = 300.0
_ANSWER_WITHIN_S: Final = 60.0
_LOOK_EVERY_S: Final = 1.0
_PER_ADDRESS: Final = 16


@dataclass(slots=True)
class Seen:
    """What one process of agents saw.

    Attributes:
        done_s: for each agent that was acknowledged, seconds after the start.
        statuses: answers.
        broken: connections that were refused, reset or too slow.
        unserved: agents that nobody answered for good.
        cpu_s: what the process used from the start on.
    """

    done_s: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    broken: int = 0
    unserved: int = 0
    cpu_s: float = 0.0


class _Agent:
    """One agent.

    Attributes:
        left: what of its request is still to be sent.
        failures: in a row.
        served: it has nothing to bring any more.
    """

    __slots__ = ("answer", "deadline_s", "failures", "index", "left", "request", "served", "sock", "source")

    def __init__(self, index: int, request: bytes, source: str) -> None:
        self.index = index
        self.served = False
        self.request = request
        self.source = source
        self.sock: socket.socket | None = None
        self.left = b""
        self.answer = b""
        self.failures = 0
        self.deadline_s = 0.0


class Agents:
    """Agents of one process; each has one push of SAMPLES minutes to bring.

    Args:
        address: host and port of the agents' door.
        requests: one for each agent.
        first: number of the first agent.
        clock: seconds that never go back.
    """

    def __init__(
        self, address: tuple[str, int], requests: Sequence[bytes], *, first: int, clock: Callable[[], float]
    ) -> None:
        self._address = address
        self._clock = clock
        self._chance = random.Random(first).random
        self._agents = [_Agent(index, request, source_of(first + index)) for index, request in enumerate(requests)]
        self._epoll = select.epoll()
        self._by_fileno: dict[int, _Agent] = {}
        self._due: list[tuple[float, int]] = []
        self.seen = Seen()

    def run(self) -> None:
        """All agents at once, until each has been acknowledged or the time is up."""
        began_s = self._clock()
        self._due = [(began_s, index) for index in range(len(self._agents))]
        looked_s = began_s
        while self._due or any(not agent.served for agent in self._by_fileno.values()):
            now_s = self._clock()
            if now_s - began_s > _GIVE_UP_S:
                break
            while self._due and self._due[0][0] <= now_s:
                self._connect(heappop(self._due)[1])
            wait_s = min(0.2, max(0.0, self._due[0][0] - now_s)) if self._due else 0.2
            for fileno, event in self._epoll.poll(wait_s):
                if fileno in self._by_fileno:
                    self._serve(self._by_fileno[fileno], event, began_s)
            if now_s - looked_s > _LOOK_EVERY_S:
                looked_s = now_s
                self._cut_the_late()
        self.seen.unserved = len(self._agents) - len(self.seen.done_s)
        for agent in list(self._by_fileno.values()):
            self._hang_up(agent)
        self._epoll.close()

    def _connect(self, index: int) -> None:
        agent = self._agents[index]
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((agent.source, 0))
        code = sock.connect_ex(self._address)
        agent.sock, agent.left, agent.answer = sock, agent.request, b""
        agent.deadline_s = self._clock() + _ANSWER_WITHIN_S
        self._by_fileno[sock.fileno()] = agent
        self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        if code not in (0, errno.EINPROGRESS):
            self._failed(agent, 0.0)

    def _serve(self, agent: _Agent, event: int, began_s: float) -> None:
        assert agent.sock is not None
        try:
            if event & select.EPOLLOUT and agent.left:
                agent.left = agent.left[agent.sock.send(agent.left) :]
                if not agent.left:
                    self._epoll.modify(agent.sock.fileno(), select.EPOLLIN)
            if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                piece = agent.sock.recv(65536)
                agent.answer += piece
                if agent.served:
                    self._hang_up(agent)
                elif b"\r\n\r\n" in agent.answer:
                    self._answered(agent, began_s)
                elif not piece:
                    self._broken(agent)
        except OSError:
            self._broken(agent)

    def _answered(self, agent: _Agent, began_s: float) -> None:
        status = int(agent.answer[9:12])
        self.seen.statuses[str(status)] = self.seen.statuses.get(str(status), 0) + 1
        if disposition(status) is Disposition.DONE:
            self.seen.done_s.append(self._clock() - began_s)
            agent.served = True
        elif disposition(status) is Disposition.RETRY:
            self._failed(agent, retry_after_s(_header(agent.answer, b"retry-after"), now_s=time.time()))
        else:
            self._hang_up(agent)  # never to be served: it stays in `unserved`

    def _broken(self, agent: _Agent) -> None:
        self.seen.broken += 1
        self._failed(agent, 0.0)

    def _failed(self, agent: _Agent, asked_s: float) -> None:
        self._hang_up(agent)
        agent.failures += 1
        wait_s = asked_s + backoff_s(agent.failures, self._chance())
        heappush(self._due, (self._clock() + wait_s, agent.index))

    def _hang_up(self, agent: _Agent) -> None:
        if agent.sock is not None:
            del self._by_fileno[agent.sock.fileno()]
            self._epoll.unregister(agent.sock.fileno())
            agent.sock.close()
            agent.sock = None

    def _cut_the_late(self) -> None:
        now_s = self._clock()
        for agent in [agent for agent in self._by_fileno.values() if not agent.served and agent.deadline_s < now_s]:
            self._broken(agent)


def _header(answer: bytes, name: bytes) -> str | None:
    for line in answer.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().decode("latin-1")
    return None


def vm_name(number: int) -> str:
    """Id of an agent's VM."""
    return f"{number:08x}-0000-4b1e-8d2a-3c4d5e6f7a8b"


def source_of(number: int) -> str:
    """Loopback address of an agent: a few share one, as behind a gateway."""
    shared = number // _PER_ADDRESS
    return f"127.2.{shared // 250}.{shared % 250 + 1}"


def requests_of(keys: TokenKeys, first: int, count: int, newest_ts: int) -> list[bytes]:
    """One push for each agent: the hour up to `newest_ts`, packed as the agent does."""
    hours = [_hour(shape, newest_ts) for shape in range(_SHAPES)]
    return [_request(keys, number, hours[number % _SHAPES]) for number in range(first, first + count)]


def _hour(shape: int, newest_ts: int) -> list[str]:
    draw = random.Random(shape).random
    samples = []
    for back in range(SAMPLES - 1, -1, -1):
        sample = Sample(
            ts=newest_ts - back * _INTERVAL_S,
            cpu_busy_ratio=0.3 * draw(),
            cpu_max_ratio=0.3 + 0.6 * draw(),
            cpu_count=4,
            load1=3 * draw(),
            mem_total_bytes=8_369_094_656,
            mem_used_bytes=1_073_741_824 + int(1e9 * draw()),
            disk_read_bytes_per_s=1e5 * draw(),
            disk_write_bytes_per_s=1e6 * draw(),
            net_rx_bytes_per_s=1e5 * draw(),
            net_tx_bytes_per_s=1e5 * draw(),
            users=1,
            procs=100,
        )
        samples.append(encode_sample(sample))
    return samples


def _request(keys: TokenKeys, number: int, samples: Sequence[str]) -> bytes:
    vm = vm_name(number)
    plain = encode_batch(vm=vm, boot="b1", seq=1, sent_s=time.time(), interval_s=_INTERVAL_S, samples=samples)
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    body = packer.compress(plain) + packer.flush()
    head = (
        f"POST /v1/samples HTTP/1.1\r\nHost: aggregator:8899\r\nAuthorization: Bearer {keys.make(vm, 1)}\r\n"
        f"Fallow-VM: {vm}\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def main(argv: Sequence[str]) -> None:
    """Makes the pushes, waits for the start, and brings them."""
    key_file, host, port, first, count = argv
    newest_ts = int(time.time()) // _INTERVAL_S * _INTERVAL_S
    requests = requests_of(TokenKeys.load_or_create(Path(key_file)), int(first), int(count), newest_ts)
    agents = Agents((host, int(port)), requests, first=int(first), clock=time.monotonic)
    print("ready", flush=True)
    sys.stdin.readline()
    before_s = time.process_time()
    agents.run()
    agents.seen.cpu_s = time.process_time() - before_s
    print(json.dumps(asdict(agents.seen)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
