"""`fallow-agent` as a user meets it: real processes, real files, a real server on the loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.sample import FIELDS, Sample
from agent.spool import Spool
from agent.wire import decode_batch

pytestmark = pytest.mark.real

PATIENCE_S = 60.0


def agent(*words: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "agent", *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env={**os.environ, **environ},
    )


def eventually(true: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    """Waits until `true`, for a program's own time."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert process is None or process.poll() is None, "the agent ended"
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(0.05)


class Aggregator:
    """Enrols anybody who says `join`, takes what has the right token while `up`."""

    def __init__(self) -> None:
        self.up = True
        self.stored: dict[int, Sample] = {}
        self.repeated: list[int] = []
        self.seqs: list[int] = []
        self.tokens = {"first": "vm-1"}
        house = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                status, body = house.answer(
                    self.path, self.rfile.read(int(self.headers["Content-Length"])), self.headers
                )
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def answer(self, path: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        if not self.up:
            return 503, b""
        if path == "/v1/enroll":
            message = json.loads(body)
            if message["join_token"] != "join":
                return 401, b'{"detail": "unknown join token"}'
            return 201, json.dumps({"vm": message["vm"], "token": "first", "interval_s": 1}).encode()
        if headers["Authorization"] not in {f"Bearer {token}" for token in self.tokens}:
            return 401, b'{"detail": "unknown token"}'
        if path == "/v1/token":
            self.tokens = {"second": "vm-1"}
            return 200, b'{"vm": "vm-1", "token": "second"}'
        batch = decode_batch(zlib.decompress(body, 31) if headers["Content-Encoding"] == "gzip" else body)
        self.seqs.append(batch.seq)
        for sample in batch.samples:
            if sample.ts in self.stored:
                self.repeated.append(sample.ts)
            self.stored.setdefault(sample.ts, sample)
        return 204, b""

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def aggregator() -> Iterator[Aggregator]:
    aggregator = Aggregator()
    yield aggregator
    aggregator.close()


@pytest.fixture
def join_token(tmp_path: Path) -> Path:
    path = tmp_path / "join.token"
    path.touch(mode=0o600)
    path.write_text("join\n")
    return path


class Running:
    """Starts `fallow-agent run` and sees to its end."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "agent", "run", *self.words]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        return self.process

    def __enter__(self) -> Running:
        return self

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Ends it with a signal. Returns: status and what it logged."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, err.decode()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def settings(folder: Path, aggregator: Aggregator, join_token: Path) -> list[str]:
    """Options for an agent whose minute is a second."""
    config = folder / "agent.toml"
    config.write_text(f'aggregator = "{aggregator.url}"\nvm_id = "vm-1"\ninterval = "1s"\n')
    return ["--config", str(config), "--state", str(folder / "state"), "--join-token-file", str(join_token)]


def test_once_prints_a_sample_as_it_would_be_pushed() -> None:
    """--json is one object with every figure of the wire that this machine has; without it a line for each."""
    done = agent("once", "--json", "--seconds", "0.2")
    assert (done.returncode, done.stderr) == (0, "")
    table = json.loads(done.stdout)
    assert table["ts"] % 60 == 0
    assert Sample(**table).mem_total_bytes > 0
    text = agent("once", "--seconds", "0.2").stdout
    assert [line.split()[0] for line in text.splitlines()] == ["ts", *(field.name for field in FIELDS)]


def test_run_enrols_pushes_and_stops(tmp_path: Path, aggregator: Aggregator, join_token: Path) -> None:
    """With a join token alone it enrols, pushes samples, tells its status, and ends with 0 at SIGTERM."""
    state = str(tmp_path / "state")
    with Running(*settings(tmp_path, aggregator, join_token)) as running:
        eventually(lambda: len(aggregator.stored) >= 3, running.process)
        eventually(lambda: agent("status", "--state", state).returncode == 0, running.process)
        second = agent("run", *running.words)
        assert second.returncode == 1
        assert "another fallow-agent" in second.stderr
        status, log = running.stop()
    assert status == 0, log
    assert (tmp_path / "state/token.json").stat().st_mode & 0o777 == 0o600
    assert "first" not in log
    told = json.loads(agent("status", "--state", state, "--json").stdout)
    assert (told["vm"], told["enrolment_needed"]) == ("vm-1", False)
    assert told["samples_acked_total"] == len(aggregator.stored)


def test_an_outage_and_kill_9_lose_nothing_that_was_spooled(
    tmp_path: Path, aggregator: Aggregator, join_token: Path
) -> None:
    """503 for a while, then kill -9, then a restart: every sample of the spool arrives, acknowledged ones not again."""
    with Running(*settings(tmp_path, aggregator, join_token)) as running:
        eventually(lambda: len(aggregator.stored) >= 2, running.process)
        aggregator.up = False
        folder = tmp_path / "state/spool/vm-1/1"

        def waiting() -> int:
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            spool = Spool(copy)
            spool.close()
            return spool.depth

        eventually(lambda: waiting() >= 3, running.process)
        running.stop(signal.SIGKILL)
        spool = Spool(folder)
        chunk = spool.peek(max_samples=500, max_bytes=1 << 20)
        spool.close()
        assert chunk is not None
        spooled = {json.loads(text)["ts"] for text in chunk.texts}
        before = set(aggregator.stored)
        aggregator.up = True
        running.start()
        eventually(lambda: spooled <= aggregator.stored.keys(), running.process)
        assert running.stop()[0] == 0
    assert len(spooled) >= 3
    assert not set(aggregator.repeated) & (before - spooled)
    assert aggregator.seqs == sorted(aggregator.seqs)


def test_a_rotated_token_is_used_without_a_restart(tmp_path: Path, aggregator: Aggregator, join_token: Path) -> None:
    """`enroll --rotate` beside a running agent: pushes go on with the new token."""
    with Running(*settings(tmp_path, aggregator, join_token)) as running:
        eventually(lambda: len(aggregator.stored) >= 1, running.process)
        rotated = agent("enroll", "--rotate", *running.words)
        assert (rotated.returncode, rotated.stdout) == (0, "vm-1\n")
        seen = len(aggregator.stored)
        eventually(lambda: len(aggregator.stored) > seen + 1, running.process)
        assert running.stop()[0] == 0


def test_enroll_takes_the_join_token_from_file_stdin_or_environment(tmp_path: Path, aggregator: Aggregator) -> None:
    """Three ways in, none of them the command line; the id is printed, the token is not."""
    words = ["enroll", "--aggregator", aggregator.url, "--vm-id", "vm-1", "--state", str(tmp_path / "state")]
    file = tmp_path / "join.token"
    file.touch(mode=0o600)
    file.write_text("join")
    for done in (
        agent(*words, "--join-token-file", str(file)),
        agent(*words, "--join-token-file", "-", stdin="join\n"),
        agent(*words, FALLOW_JOIN_TOKEN="join"),
    ):
        assert (done.returncode, done.stdout, done.stderr) == (0, "vm-1\n", "")
    refused = agent(*words, FALLOW_JOIN_TOKEN="wrong")
    assert refused.returncode == 1
    assert "unknown join token" in refused.stderr


def test_exit_codes_name_what_is_wrong(tmp_path: Path) -> None:
    """2 for usage and settings, naming option or key; 69 for an aggregator that is away; never a traceback."""
    state = ("--state", str(tmp_path / "state"))
    readable = tmp_path / "readable"
    readable.write_text("join")
    readable.chmod(0o644)
    config = tmp_path / "agent.toml"
    config.write_text('interval = "5 parsecs"\ncolour = "red"\n')
    plain = ("enroll", *state, "--vm-id", "vm-1")
    cases: Sequence[tuple[int, str, Sequence[str]]] = [
        (2, "COMMAND", ()),
        (2, "--nonsense", ("run", "--nonsense")),
        (2, "--seconds", ("once", "--seconds", "0")),
        (2, "colour: unknown setting", ("run", "--config", str(config), *state)),
        (2, "interval", ("status", "--config", str(config))),
        (2, "absent.toml", ("run", "--config", str(tmp_path / "absent.toml"))),
        (2, "--vm-id", ("run", *state, "--vm-id", "../../x")),
        (2, "--aggregator", ("run", *state, "--aggregator", "http://10.0.0.1")),
        (2, "--join-token-file", plain),
        (2, "readable by others", (*plain, "--join-token-file", str(readable))),
        (2, "readable by others", ("run", *state, "--vm-id", "vm-1", "--join-token-file", str(readable))),
        (2, "--rotate", (*plain, "--rotate")),
        (2, "stdin", (*plain, "--join-token-file", "-")),
        (1, "no agent has run", ("status", *state)),
    ]
    for status, said, words in cases:
        done = agent(*words, FALLOW_JOIN_TOKEN="")
        assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (status, True, False), done
    away = agent(*plain, "--aggregator", "http://127.0.0.1:1", FALLOW_JOIN_TOKEN="join")
    assert (away.returncode, "Traceback" in away.stderr) == (69, False)


@pytest.mark.parametrize("command", ["run", "once", "enroll", "status"])
def test_help_has_examples(command: str) -> None:
    """Each command shows how it is used."""
    done = agent(command, "--help")
    assert done.returncode == 0
    assert f"fallow-agent {command}" in done.stdout.partition("examples:")[2]


def test_all_commands_are_listed() -> None:
    """The commands of the issue are there."""
    text = agent("--help").stdout
    assert set(re.findall(r"^    (\w+) ", text, re.MULTILINE)) == {
        "run",
        "once",
        "enroll",
        "status",
        "simulate",
        "replay",
    }


def test_the_running_agent_loads_no_more_than_it_needs() -> None:
    """An event loop, a database or a test framework in every VM's memory would be a mistake of an import."""
    program = "import sys, agent.service, agent.__main__; print(' '.join(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"asyncio", "sqlite3", "twisted", "numpy", "agent.simulate", "importlib.metadata"} & set(loaded)
