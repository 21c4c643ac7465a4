"""Memory and CPU of the agent: a real `fallow-agent run` on this machine, pushing over TLS to a sink of our own."""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import json
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.outcome import Bar, Outcome, Say

RSS_LIMIT_BYTES = 30e6
CPU_LIMIT_S_PER_DAY = 10.0
_FIRST_ACK_TIMEOUT_S = 240.0
_VM = "bench-agent"


class AgentDiedError(subprocess.SubprocessError):
    """The agent ended, or nothing of it arrived; the text holds what it said."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--minutes`."""
    parser.add_argument(
        "--minutes", metavar="N", type=_minutes, default=5, help="how long to measure after the first push (default 5)"
    )


def _minutes(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1440:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number between 1 and 1440")
    return int(text)


class Sink:
    """Answers enrolment and pushes, and counts the samples."""

    def __init__(self) -> None:
        self.samples_acked = 0
        self.changed = threading.Condition()

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body for one request."""
        if path == "/v1/enroll":
            return 201, json.dumps({"vm": json.loads(body)["vm"], "token": "bench", "interval_s": 60}).encode()
        with self.changed:
            # A batch of more than one is gzipped; on an idle machine there is none.
            self.samples_acked += body.count(b'"ts"')
            self.changed.notify_all()
        return 204, b""


@contextmanager
def serve(sink: Sink, context: ssl.SSLContext) -> Iterator[int]:
    """A TLS server on a free port of the loopback, which it yields."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            status, body = sink.answer(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for 127.0.0.1: the file an agent trusts, and the context of its server."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fallow bench")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = folder / "ca.pem", folder / "key.pem"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_path, key_path)
    return certificate_path, context


def cpu_s(pid: int) -> float:
    """CPU seconds of another process, all threads, in nanoseconds' precision where /proc counts ticks of 10 ms.

    Source: clock_getcpuclockid(3): the clock of a process is its inverted id, and 2 for the scheduler's count.
    """
    return time.clock_gettime((~pid << 3) | 2)


def memory_bytes(pid: int) -> dict[str, int]:
    """VmRSS and VmHWM of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS:", "VmHWM:"))}


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Measures one agent. Raises AgentDiedError: it did not stay up or did not push."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ca, context = make_certificate(folder)
        join_token = folder / "join.token"
        join_token.touch(mode=0o600)
        join_token.write_text("bench\n", encoding="ascii")
        sink = Sink()
        with serve(sink, context) as port, (folder / "agent.log").open("w+b") as log:
            argv = [
                *(sys.executable, "-P", "-m", "agent", "run"),
                *("--aggregator", f"https://127.0.0.1:{port}", "--ca", str(ca), "--state", str(folder / "state")),
                *("--join-token-file", str(join_token), "--vm-id", _VM),
            ]
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                figures = _measure(process, sink, minutes=options.minutes, say=say)
            except AgentDiedError as error:
                log.seek(0)
                raise AgentDiedError(f"{error}\n{log.read().decode(errors='replace')}") from error
            finally:
                process.terminate()
                process.wait(timeout=30)
    return Outcome(
        figures,
        (
            Bar("agent: peak resident bytes", figures["rss_peak_bytes"], RSS_LIMIT_BYTES),
            Bar("agent: CPU-seconds a day", figures["cpu_s_per_day"], CPU_LIMIT_S_PER_DAY),
        ),
    )


def _measure(process: subprocess.Popen[bytes], sink: Sink, *, minutes: int, say: Say) -> dict[str, float]:
    say("agent: waiting for its first push (two to three minutes)")
    _wait_for(process, sink, samples=1, timeout_s=_FIRST_ACK_TIMEOUT_S)
    start_cpu_s, start_s, start_samples = cpu_s(process.pid), time.monotonic(), sink.samples_acked
    # From push to push: whole minutes, each with twelve readings, one sample and one push.
    for minute in range(1, minutes + 1):
        _wait_for(process, sink, samples=start_samples + minute, timeout_s=90.0)
        say(f"agent: minute {minute} of {minutes}")
    spent_s, elapsed_s = cpu_s(process.pid) - start_cpu_s, time.monotonic() - start_s
    memory = memory_bytes(process.pid)
    return {
        "rss_bytes": memory["VmRSS"],
        "rss_peak_bytes": memory["VmHWM"],
        "cpu_s_per_day": spent_s / elapsed_s * 86400,
        "start_up_cpu_s": start_cpu_s,
        "measured_s": elapsed_s,
        "samples_acked": sink.samples_acked,
    }


def _wait_for(process: subprocess.Popen[bytes], sink: Sink, *, samples: int, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    with sink.changed:
        while sink.samples_acked < samples:
            if process.poll() is not None:
                raise AgentDiedError(f"the agent ended with status {process.returncode}")
            if time.monotonic() > deadline_s:
                raise AgentDiedError(f"no push within {timeout_s:.0f} s")
            sink.changed.wait(0.5)
