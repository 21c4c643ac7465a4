"""The real programs, started as a user would, and the little a test needs to talk to them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar

import pytest

from agent.settings import parse_host_port
from agent.wire import encode_batch
from aggregator.store_files import store_path
from bench.demo import Doors, open_doors
from bench.kill import workers
from bench.kill_driver import steps_of, text_of
from bench.programs import Program, Programs
from bench.raw_rows import Row, raw_rows

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sys.executable).parent
INTERVAL_S = 60
SEVEN_DAYS_S = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Answer:
    """What the agents' door said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def acknowledged(self) -> bool:
        return self.status in (200, 204)


@dataclass(frozen=True, slots=True)
class Load:
    """Samples of one VM that can be told from all others: minutes counted from a week before `now_s`."""

    vm: str
    salt: int
    now_s: float

    def ts(self, minute: int) -> int:
        return int(self.now_s - SEVEN_DAYS_S) // INTERVAL_S * INTERVAL_S + minute * INTERVAL_S

    def text(self, minute: int) -> str:
        return text_of(self.ts(minute), steps_of(self.salt, minute))

    def rows(self, minutes: Iterable[int]) -> dict[int, Row]:
        """What a store must hold of these minutes, by `ts`."""
        return {self.ts(minute): (self.ts(minute), INTERVAL_S, *steps_of(self.salt, minute)) for minute in minutes}


class Aggregator:
    """One life of `fallow-aggregator run`."""

    def __init__(self, house: House, program: Program, data: Path, doors: Doors) -> None:
        self._house = house
        self.program = program
        self.data = data
        self.doors = doors

    @property
    def pid(self) -> int:
        return self.program.process.pid

    @property
    def url(self) -> str:
        return f"http://{self.doors.agents}"

    def ask(self, path: str, *, method: str = "GET") -> str:
        """The answer of the admin door."""
        return self.doors.ask(path, method=method, within_s=120.0)

    def flush(self) -> dict[str, Any]:
        """Has everything stored and gives the report."""
        report: dict[str, Any] = json.loads(self.ask("/v1/flush", method="POST"))
        return report

    def metric(self, name: str) -> float:
        """One figure of /metrics without labels."""
        for line in self.ask("/metrics").splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(f"no metric {name}")

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """One request to the agents' door on a connection of its own."""
        host, port = parse_host_port(self.doors.agents)
        connection = HTTPConnection(host, port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def readiness(self) -> Answer:
        return self.request("GET", "/readyz")

    def push(self, load: Load, minutes: Sequence[int]) -> Answer:
        """One push, as the VM's agent would send it."""
        body = encode_batch(
            vm=load.vm,
            boot="b-e2e",
            seq=minutes[0],
            sent_s=time.time(),
            interval_s=INTERVAL_S,
            samples=[load.text(minute) for minute in minutes],
        )
        token = self._house.token(self, load.vm)
        headers = {"Authorization": f"Bearer {token}", "Fallow-VM": load.vm, "Content-Type": "application/json"}
        return self.request("POST", "/v1/samples", body, headers)

    def kill(self) -> None:
        """SIGKILL for it and its workers."""
        os.killpg(self.pid, signal.SIGKILL)
        self.program.process.wait()

    def stop(self, *, within_s: float = 10.0) -> int:
        """SIGTERM; its exit status."""
        self.program.process.terminate()
        return self.program.process.wait(within_s)

    def workers(self) -> list[int]:
        return workers(self.pid)

    def stored(self, vm: str) -> dict[int, Row]:
        """Raw rows of a VM's store by `ts`; none where there is no store."""
        path = store_path(self.data, vm)
        if not path.exists():
            return {}
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        try:
            rows = raw_rows(connection)
        finally:
            connection.close()
        assert len({row[0] for row in rows}) == len(rows)
        return {row[0] or 0: row for row in rows}

    def journal_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self.data / "journal").iterdir())


class House:
    """Everything that one test starts, below one folder; `close` ends all of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.programs = Programs(SCRIPTS, self.logs, time)
        self._mounts: list[Path] = []
        self._tokens: dict[tuple[Path, str], str] = {}
        self._join_tokens: dict[Path, Path] = {}

    def close(self) -> None:
        """Stops every program, then unmounts."""
        for program in self.programs.started:
            if program.process.returncode is None and program.status() is None:
                program.process.send_signal(signal.SIGCONT)
        self.programs.stop_all()
        for place in reversed(self._mounts):
            subprocess.run(["umount", str(place)], check=True)

    def aggregator(self, *options: str, data: Path | None = None, listen: str = "127.0.0.1:0") -> Aggregator:
        """Starts an aggregator and waits until it is ready. It flushes when it is told to, unless `options` say."""
        data = data or self.folder / "data"
        for name in ("agents.address", "admin.address"):
            (data / name).unlink(missing_ok=True)
        program = self.programs.start(
            [
                *("fallow-aggregator", "run", "--data", str(data), "--listen", listen, "--admin", "127.0.0.1:0"),
                *("--flush-interval", "1h", *options),
            ]
        )
        aggregator = Aggregator(self, program, data, open_doors(self.programs, program, data))
        if "--tls-cert" not in options:
            self.until(lambda: aggregator.readiness().status == 200, "readiness", running=[program])
        else:
            self.until(lambda: aggregator.metric("fallow_ready") == 1, "readiness", running=[program])
        return aggregator

    def until(
        self,
        found: Callable[[], T | None],
        what: str,
        *,
        running: Sequence[Program] = (),
        within_s: float = 60.0,
    ) -> T:
        """What `found` gives once it is true. Raises: ProgramError: a program of `running` ended, or nothing came."""
        return self.programs.wait_until(lambda: found() or None, running=running, within_s=within_s, what=what)

    def run(self, *argv: str, stdin: str = "", within_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Runs a console script to its end."""
        return subprocess.run(
            [str(SCRIPTS / argv[0]), *argv[1:]],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
            cwd=ROOT,
        )

    def join_token(self, data: Path, uses: int = 1000) -> Path:
        """A file with a join token for this aggregator."""
        if data not in self._join_tokens:
            done = self.run("fallow-aggregator", "join-token", "--data", str(data), "--uses", str(uses))
            assert done.returncode == 0, done.stderr
            path = self.folder / f"join.token-{len(self._join_tokens)}"
            path.touch(mode=0o600)
            path.write_text(done.stdout)
            self._join_tokens[data] = path
        return self._join_tokens[data]

    def token(self, aggregator: Aggregator, vm: str) -> str:
        """The VM's token; it enrols first if need be."""
        key = aggregator.data, vm
        if key not in self._tokens:
            join_token = self.join_token(aggregator.data).read_text().strip()
            body = json.dumps({"join_token": join_token, "vm": vm}).encode()
            answer = aggregator.request("POST", "/v1/enroll", body, {"Content-Type": "application/json"})
            assert answer.status == 201, answer
            self._tokens[key] = json.loads(answer.body)["token"]
        return self._tokens[key]

    def loads(self, count: int) -> list[Load]:
        now_s = time.time()
        return [Load(f"vm-{salt:03d}", salt, now_s) for salt in range(count)]

    def tmpfs(self, place: Path, options: str) -> None:
        """Mounts a small file system. Skips the test where that is not allowed, which FALLOW_CI=1 forbids."""
        if os.geteuid() != 0 or shutil.which("mount") is None:
            pytest.skip("mounting a tmpfs needs root")
        place.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"this machine lets nobody mount a tmpfs: {done.stderr.strip()}")
        self._mounts.append(place)

    def remount(self, place: Path, options: str) -> None:
        """Changes the size of a file system that `tmpfs` made."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def holds_exactly(aggregator: Aggregator, sent: Mapping[Load, Iterable[int]]) -> None:
    """Asserts that each store holds these minutes, each once and as sent, and nothing else; and that it is sound."""
    from aggregator.check import verify_store

    for load, minutes in sent.items():
        assert aggregator.stored(load.vm) == load.rows(minutes), load.vm
        assert verify_store(store_path(aggregator.data, load.vm), load.vm) == []
