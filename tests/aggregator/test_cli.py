"""`fallow-aggregator run` as a user starts it: what is wrong is named with the right exit code, on stderr."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest

from aggregator.__main__ import build_parser, main
from aggregator.config import AggregatorConfig, option_name
from tests.aggregator.test_tls import make_pair

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0


def usage(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that ends before anything starts."""
    try:
        status = main(list(words))
    except SystemExit as ended:
        status = int(ended.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def command(data: Path, *words: str) -> list[str]:
    base = [sys.executable, "-m", "aggregator", "run", "--data", str(data)]
    return [*base, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--flush-workers", "1", *words]


def ended(data: Path, *words: str, **environment: str) -> tuple[int, str]:
    """Exit code and stderr of a run that does not come up."""
    done = subprocess.run(
        command(data, *words),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@contextmanager
def daemon(data: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A run that is up: its doors' addresses are written."""
    process = subprocess.Popen(
        command(data, *words),
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until_s = time.monotonic() + PATIENCE_S
        while not (data / "admin.address").exists() or not (data / "admin.address").read_text().endswith("\n"):
            if process.poll() is not None:
                pytest.fail(process.communicate()[1])
            assert time.monotonic() < until_s
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def metric(data: Path, name: str) -> float:
    """One figure of /metrics."""
    address = (data / "admin.address").read_text().strip()
    token = (data / "admin.token").read_text().strip()
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    pytest.fail(f"no {name}")


def test_help_shows_examples_and_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """--help on stdout with exit 0, an example of each kind; every setting has its option."""
    status, out, _ = usage(capsys, "--help")
    assert status == 0
    assert "examples:" in out
    assert "fallow-aggregator run" in out
    status, out, _ = usage(capsys, "run", "--help")
    assert status == 0
    for item in fields(AggregatorConfig):
        assert option_name(item.metadata["key"]) in out
    assert len({option_name(item.metadata["key"]) for item in fields(AggregatorConfig)}) == len(
        fields(AggregatorConfig)
    )


@pytest.mark.parametrize("words", [(), ("fly",), ("run", "--colour", "red"), ("run", "--flush-interval")])
def test_usage_errors_are_2(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    """No command, an unknown one, an unknown option, an option without its value: named on stderr."""
    status, out, err = usage(capsys, *words)
    assert (status, out) == (2, "")
    assert "fallow-aggregator" in err
    for word in words[1:]:
        assert word in err


@pytest.mark.parametrize("text", ["0s", "5 parsecs", "-5s", "0"])
def test_intervals_zero_negative_or_5_parsecs_are_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    """Interval 0, negative or "5 parsecs" exit 2, given as an option or in the file; the message names it."""
    for words in (("--flush-interval", text), (f"--flush-interval={text}",)):
        status, out, err = usage(capsys, "run", *words)
        assert (status, out) == (2, "")
        assert "--flush-interval" in err
    file = tmp_path / "aggregator.toml"
    file.write_text(f'[flush]\ninterval = "{text}"\n')
    status, _, err = usage(capsys, "run", "--config", str(file))
    assert status == 2
    assert f"{file}: flush.interval: " in err


def test_an_unknown_key_is_2_and_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Unknown key exit 2 naming it; all mistakes at once, each on a line of its own."""
    file = tmp_path / "aggregator.toml"
    file.write_text('colour = "red"\n[flush]\nintervall = "5min"\nworkers = 0\n')
    status, out, err = usage(capsys, "run", "--config", str(file), "--listen", "nowhere")
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 4
    for part in ("colour: unknown setting", "flush.intervall: unknown setting", "flush.workers: ", "--listen: "):
        assert sum(part in line for line in lines) == 1
    assert all(line.startswith("fallow-aggregator: ") for line in lines)


@pytest.mark.parametrize("content", [None, b"a = = 1", b"\xff"])
def test_a_file_that_cannot_be_read_is_2_and_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None
) -> None:
    """Absent, no TOML, no UTF-8."""
    file = tmp_path / "aggregator.toml"
    if content is not None:
        file.write_bytes(content)
    status, _, err = usage(capsys, "run", "--config", str(file))
    assert status == 2
    assert str(file) in err


def test_a_password_in_an_open_file_is_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """World-readable secret refused; the password is not repeated."""
    file = tmp_path / "aggregator.toml"
    file.write_text('[fleet]\nurl = "postgresql+psycopg://u:s3cret@db/fallow"\n')
    file.chmod(0o644)
    status, _, err = usage(capsys, "run", "--config", str(file))
    assert status == 2
    assert "chmod 600" in err
    assert "s3cret" not in err


def test_the_parser_is_made_without_the_server() -> None:
    """A flush worker imports the program again: it must not load Twisted or the database for that."""
    code = (
        "import sys; import aggregator.__main__; print(sorted(set(sys.modules) & {'twisted', 'sqlalchemy', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert build_parser().prog == "fallow-aggregator"


@pytest.mark.real
def test_run_stop_and_start_again(tmp_path: Path) -> None:
    """SIGTERM ends it with 0, nothing on stdout, addresses gone; the directory can be used again."""
    for _ in range(2):
        with daemon(tmp_path) as process:
            assert metric(tmp_path, "fallow_ready") in (0.0, 1.0)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, out) == (0, "")
        assert "Traceback" not in err
        assert not (tmp_path / "agents.address").exists()
        assert not (tmp_path / "admin.address").exists()


@pytest.mark.real
def test_a_second_daemon_on_the_same_data_directory_is_1(tmp_path: Path) -> None:
    """A second daemon on the same data directory: exit 1 by file lock; the first goes on."""
    with daemon(tmp_path) as first:
        status, err = ended(tmp_path)
        assert status == 1
        assert f"{tmp_path} is in use by another fallow-aggregator" in err
        assert first.poll() is None
        assert metric(tmp_path, "fallow_connections") >= 0
        first.kill()
        first.wait(PATIENCE_S)
        # Even kill -9 leaves no lock behind.
        (tmp_path / "admin.address").unlink()
        with daemon(tmp_path):
            pass


@pytest.mark.real
def test_a_world_readable_secret_is_2(tmp_path: Path) -> None:
    """World-readable secret refused: the TLS key, token.key and admin.token."""
    data = tmp_path / "data"
    pair = make_pair(tmp_path, "door")
    with daemon(data, "--tls-cert", str(pair.cert), "--tls-key", str(pair.key)):
        pass
    for secret, words in (
        (data / "token.key", ()),
        (data / "admin.token", ()),
        (pair.key, ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key))),
    ):
        assert secret.stat().st_mode & 0o077 == 0
        secret.chmod(0o644)
        status, err = ended(data, *words)
        assert status == 2
        assert f"{secret}: readable by others" in err
        secret.chmod(0o600)


@pytest.mark.real
def test_an_address_in_use_is_1_and_named(tmp_path: Path) -> None:
    """The port is somebody else's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, err = ended(tmp_path, "--listen", f"127.0.0.1:{port}")
    assert status == 1
    assert str(port) in err


@pytest.mark.real
def test_a_data_directory_that_is_a_file_is_2(tmp_path: Path) -> None:
    """The option is named."""
    (tmp_path / "data").touch()
    status, err = ended(tmp_path / "data")
    assert status == 2
    assert "--data: " in err


@pytest.mark.real
def test_row_42_a_journal_of_another_version_is_1_and_named(tmp_path: Path) -> None:
    """Fault 42: refused loudly, and left as it is."""
    (tmp_path / "journal").mkdir()
    strange = tmp_path / "journal" / "00000001.seg"
    strange.write_bytes(b"something else altogether" * 10)
    before = strange.read_bytes()
    status, err = ended(tmp_path)
    assert status == 1
    assert "00000001.seg" in err
    assert strange.read_bytes() == before


@pytest.mark.real
def test_a_database_that_does_not_answer_is_69(tmp_path: Path) -> None:
    """The other side is unreachable; the password in its URL is not repeated."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"postgresql+psycopg://fallow:s3cret@127.0.0.1:{taken.getsockname()[1]}/fallow"
        status, err = ended(tmp_path / "data", "--fleet-url", url)
    assert status == 69
    assert "the fleet database does not answer" in err
    assert "s3cret" not in err


MOVED_CLOCK = """
import os, time
_now = time.time
time.time = lambda: _now() - (365 * 86400 if os.path.exists(os.environ["CLOCK_SET_BACK"]) else 0)
"""


@pytest.mark.real
def test_row_22_a_clock_set_back_by_a_year_stops_no_timer(tmp_path: Path) -> None:
    """Flushes go on: timers do not count on the wall clock."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(MOVED_CLOCK)
    data, mark = tmp_path / "data", tmp_path / "set-back"
    environment = {"PYTHONPATH": str(tmp_path / "site"), "CLOCK_SET_BACK": str(mark)}
    with daemon(data, "--flush-interval", "200ms", **environment):
        mark.touch()
        # One may have been under way: only those after it say that timers still run.
        before = metric(data, "fallow_flushes_total") + 1
        until_s = time.monotonic() + PATIENCE_S
        while metric(data, "fallow_flushes_total") <= before + 1:
            assert time.monotonic() < until_s, "no flush since the clock was set back"
            time.sleep(0.1)


@pytest.mark.real
def test_settings_of_the_command_line_go_over_the_file(tmp_path: Path) -> None:
    """The data directory of the option is used, the flush interval of the file is."""
    file = tmp_path / "aggregator.toml"
    file.write_text(f'data = {json.dumps(str(tmp_path / "not-this"))}\n[flush]\ninterval = "200ms"\n')
    with daemon(tmp_path / "data", "--config", str(file)):
        until_s = time.monotonic() + PATIENCE_S
        while metric(tmp_path / "data", "fallow_flushes_total") < 1:
            assert time.monotonic() < until_s
            time.sleep(0.05)
    assert not (tmp_path / "not-this").exists()
