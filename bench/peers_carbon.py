"""Graphite's carbon beside fallow: carbon-cache with whisper files, in an environment of its own.

carbon is no package of Debian 12. Where it is not found, an environment is made with what PyPI gives: carbon and
whisper 1.1.10, on whatever Twisted pip takes with them.
"""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from bench.outcome import Say
from bench.peers_figures import FIELD_NAMES, Minute, Texts
from bench.peers_system import System, allocated_bytes, free_port
from bench.programs import Program, ProgramError

VERSION = "1.1.10"
_MADE_WITHIN_S = 600.0
_SLICE_POINTS = 500  # what carbon's own relay puts into a message
_CPU = FIELD_NAMES.index("cpu_busy_ratio")
# Run by the environment's Python, since whisper is there alone. Each reads a question as JSON and answers in JSON.
_COUNT = """
import json, sys, whisper
root, vms, after_s = json.load(sys.stdin)
total = 0
for vm in vms:
    try:
        found = whisper.fetch(f"{root}/vm/{vm}/cpu_busy_ratio.wsp", after_s)
    except OSError:
        continue
    total += sum(value is not None for value in found[1])
print(json.dumps(total))
"""
_LOWEST = """
import json, os, statistics, sys, time, whisper
root, top, end_s, days = json.load(sys.stdin)
took_s = []
for _ in range(4):
    began_s = time.perf_counter()
    means = []
    for vm in os.listdir(root + "/vm"):
        found = whisper.fetch(f"{root}/vm/{vm}/cpu_busy_ratio.wsp", end_s - days * 86400, end_s)
        known = [value for value in found[1] if value is not None]
        if known:
            means.append((sum(known) / len(known), vm))
    lowest = [vm for _, vm in sorted(means)[:top]]
    took_s.append(time.perf_counter() - began_s)
print(json.dumps([lowest, statistics.median(took_s[1:])]))
"""


class CarbonHome:
    """The environment that carbon is in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"

    def make(self, say: Say) -> None:
        """Makes it if it is not there. Raises: ProgramError: pip could not."""
        if (self.folder / "bin" / "carbon-cache.py").exists():
            return
        say(f"making an environment for carbon {VERSION} in {self.folder}")
        packages = [f"carbon=={VERSION}", f"whisper=={VERSION}"]
        for argv in (
            [sys.executable, "-m", "venv", str(self.folder)],
            [str(self.python), "-m", "pip", "install", "--quiet", "--no-cache-dir", *packages],
        ):
            made = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_MADE_WITHIN_S)
            if made.returncode:
                raise ProgramError(f"carbon cannot be installed: {made.stderr[-2000:]}")

    def answer(self, script: str, question: object) -> object:
        """What a script prints. Raises: ProgramError."""
        asked = subprocess.run(
            [str(self.python), "-c", script], input=json.dumps(question), capture_output=True, text=True, check=False
        )
        if asked.returncode:
            raise ProgramError(f"whisper: {asked.stderr[-2000:]}")
        return json.loads(asked.stdout)


class Carbon(System):
    """Pickled messages, the cheaper of its two ways. It acknowledges nothing."""

    name = "carbon"
    acknowledges = False
    settings = "whisper files of 60s:14d; MAX_CREATES_PER_MINUTE = inf, since 50 files a minute never begin"
    _ports = (0, 0)

    def __init__(self, folder: Path, home: CarbonHome) -> None:
        super().__init__(folder)
        self._home = home

    @cached_property
    def version(self) -> str:
        listed = subprocess.run(
            [str(self._home.python), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        found = dict(line.split("==") for line in listed.splitlines() if "==" in line)
        python = ".".join(map(str, sys.version_info[:3]))
        return (
            f"carbon {found.get('carbon')} (whisper {found.get('whisper')}, Twisted {found.get('Twisted')}, "
            f"Python {python})"
        )

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self._ports[0]

    @property
    def _whisper(self) -> Path:
        return self.folder / "storage" / "whisper"

    def begin(self) -> Program:
        self._ports = free_port(), free_port()
        conf = self.folder / "conf"
        conf.mkdir(exist_ok=True)
        (conf / "carbon.conf").write_text(
            "[cache]\nUSER =\nMAX_CREATES_PER_MINUTE = inf\n"
            f"LINE_RECEIVER_INTERFACE = 127.0.0.1\nLINE_RECEIVER_PORT = {free_port()}\n"
            f"PICKLE_RECEIVER_INTERFACE = 127.0.0.1\nPICKLE_RECEIVER_PORT = {self._ports[0]}\n"
            f"CACHE_QUERY_INTERFACE = 127.0.0.1\nCACHE_QUERY_PORT = {self._ports[1]}\n"
        )
        (conf / "storage-schemas.conf").write_text("[all]\npattern = .*\nretentions = 60s:14d\n")
        (self.folder / "carbon.pid").unlink(missing_ok=True)
        script = self._home.folder / "bin" / "carbon-cache.py"
        return self.programs.start(
            [str(self._home.python), "-u", str(script), "--nodaemon", f"--config={conf / 'carbon.conf'}"]
            + [f"--pidfile={self.folder / 'carbon.pid'}", f"--logdir={self.folder / 'log'}", "start"],
            under=["/usr/bin/env", f"GRAPHITE_ROOT={self.folder}"],
        )

    def minute(self, vm: str, texts: Texts, ts: int) -> bytes:
        return _message([(f"vm.{vm}.{name}", (ts, float(text))) for name, text in Minute(ts, texts).known()])

    def batch(self, vm: str, minutes: Sequence[Minute], interval_s: int) -> bytes:  # noqa: ARG002
        points = [(f"vm.{vm}.{name}", (minute.ts, float(text))) for minute in minutes for name, text in minute.known()]
        points.sort(key=lambda point: point[0])
        return b"".join(
            _message(points[start : start + _SLICE_POINTS]) for start in range(0, len(points), _SLICE_POINTS)
        )

    def stored(self, vms: Sequence[str], after_s: int) -> int:
        found = self._home.answer(_COUNT, [str(self._whisper), list(vms), after_s])
        assert isinstance(found, int)
        return found

    def lowest(self, top: int, end_s: int, days: int) -> tuple[list[str], float]:
        """VMs with the lowest mean CPU, and the seconds that takes; carbon itself answers no such question."""
        found = self._home.answer(_LOWEST, [str(self._whisper), top, end_s, days])
        assert isinstance(found, list)
        return found[0], found[1]

    def disk_bytes(self) -> int:
        return allocated_bytes(self._whisper / "vm")


def _message(points: list[tuple[str, tuple[int, float]]]) -> bytes:
    payload = pickle.dumps(points, protocol=2)
    return struct.pack("!L", len(payload)) + payload
