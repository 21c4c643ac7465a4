"""The agent's benchmark measures what it says: another process's CPU and memory, and only whole pushes."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from agent.link import Link, Trust
from agent.server import Server
from bench.agent import AgentDiedError, Sink, _wait_for, add_options, cpu_s, make_certificate, memory_bytes, serve

pytestmark = pytest.mark.real


def test_the_cpu_of_another_process_is_its_own_count() -> None:
    """A process that burnt CPU says how much; read from outside it is at least that, and what Linux says at its end."""
    program = "import time\nwhile time.process_time() < 0.2: pass\nprint(time.process_time(), flush=True)\ninput()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said_s = float(process.stdout.readline())
    seen_s = cpu_s(process.pid)
    memory = memory_bytes(process.pid)
    process.communicate("\n")
    assert said_s <= seen_s < said_s + 5
    assert 1 << 20 < memory["VmRSS"] <= memory["VmHWM"]


def test_the_sink_enrols_and_counts_samples(tmp_path: Path) -> None:
    """A push of two samples over TLS is answered 204 and counted as two."""
    ca, context = make_certificate(tmp_path)
    sink = Sink()
    with serve(sink, context) as port:
        link = Link(Server(True, "127.0.0.1", port), trust=Trust(ca))
        assert link.post("/v1/enroll", b'{"vm": "a"}', {}).status == 201
        assert link.post("/v1/samples", b'{"samples": [{"ts": 60}, {"ts": 120}]}', {}).status == 204
        link.close()
    assert sink.samples_acked == 2


def test_an_agent_that_ends_is_an_error_and_not_a_figure() -> None:
    """A process that dies before its first push is told at once."""
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    with pytest.raises(AgentDiedError, match="status 3"):
        _wait_for(process, Sink(), samples=1, timeout_s=3600.0)


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "100000"])
def test_minutes_out_of_range_are_a_usage_error(text: str) -> None:
    """At least one minute, at most a day."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser)
    with pytest.raises(argparse.ArgumentError, match="minutes"):
        parser.parse_args(["--minutes", text])
