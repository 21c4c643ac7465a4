"""Our agent beside collectd and prometheus-node-exporter, on this machine, in the same minutes."""

from __future__ import annotations

import argparse
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

from bench import agent
from bench.outcome import Say
from bench.peers_system import ask, free_port
from bench.programs import Program, ProgramError, Programs

COLLECTD = Path("/usr/sbin/collectd")
EXPORTER = Path("/usr/bin/prometheus-node-exporter")
_INTERVAL_S = 60
# What our samples hold, by the plugins that read it.
_PLUGINS = ("cpu", "memory", "swap", "disk", "interface", "df", "load", "users", "processes", "network")
_DAY_S = 86_400


def measure(folder: Path, minutes: int, say: Say) -> list[dict[str, object]]:
    """A row for each that is installed: resident bytes and CPU-seconds a day. Raises: ProgramError, AgentDiedError."""
    programs = Programs(Path("/usr/bin"), folder / "logs", time)
    over = threading.Event()
    threads: list[threading.Thread] = []
    others: list[tuple[str, Program]] = []
    try:
        if COLLECTD.exists():
            others.append((f"collectd {_debian('collectd-core')}", _collectd(programs, folder)))
        if EXPORTER.exists():
            port = free_port()
            others.append(
                (
                    f"node-exporter {_debian('prometheus-node-exporter')}",
                    programs.start([str(EXPORTER), f"--web.listen-address=127.0.0.1:{port}"]),
                )
            )
            threads.append(threading.Thread(target=_scrape, args=(port, over), daemon=True))
        for thread in threads:
            thread.start()
        time.sleep(5)  # starting up is no part of a day
        began_s = time.monotonic()
        before_s = [agent.cpu_s(program.process.pid) for _, program in others]
        ours = agent.run(argparse.Namespace(minutes=minutes), say).figures
        rows: list[dict[str, object]] = [
            {
                "agent": "fallow-agent",
                "rss_bytes": ours["rss_bytes"],
                "rss_peak_bytes": ours["rss_peak_bytes"],
                "cpu_s_per_day": ours["cpu_s_per_day"],
                "measured_s": ours["measured_s"],
            }
        ]
        elapsed_s = time.monotonic() - began_s
        for (name, program), cpu_s in zip(others, before_s, strict=True):
            if program.status() is not None:
                raise ProgramError(f"{name} ended with status {program.status()}")
            memory = agent.memory_bytes(program.process.pid)
            rows.append(
                {
                    "agent": name,
                    "rss_bytes": memory["VmRSS"],
                    "rss_peak_bytes": memory["VmHWM"],
                    "cpu_s_per_day": (agent.cpu_s(program.process.pid) - cpu_s) / elapsed_s * _DAY_S,
                    "measured_s": elapsed_s,
                }
            )
        return rows
    finally:
        over.set()
        programs.stop_all()


def _collectd(programs: Programs, folder: Path) -> Program:
    """Reads once a minute and sends over UDP, as a fleet's collectd does."""
    config = folder / "collectd.conf"
    lines = [
        'Hostname "bench"',
        f"Interval {_INTERVAL_S}",
        f'BaseDir "{folder}"',
        f'PIDFile "{folder / "collectd.pid"}"',
        'TypesDB "/usr/share/collectd/types.db"',
        *(f"LoadPlugin {name}" for name in _PLUGINS),
        f'<Plugin network>\n  Server "127.0.0.1" "{free_port()}"\n</Plugin>',
    ]
    config.write_text("\n".join(lines) + "\n")
    return programs.start([str(COLLECTD), "-f", "-C", str(config)])


def _scrape(port: int, over: threading.Event) -> None:
    """Once a minute, as Prometheus would be told to for minutes."""
    while True:
        with suppress(OSError, ProgramError):
            ask(("127.0.0.1", port), "/metrics")
        if over.wait(_INTERVAL_S):
            return


def _debian(package: str) -> str:
    said = subprocess.run(["dpkg-query", "-W", "-f=${Version}", package], capture_output=True, text=True, check=False)
    return said.stdout.strip() or "?"
