"""Which 20 VMs did least in 14 days? Asked of each system in its own language, over HTTP where it has that."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from agent.shapes import INTERVAL_S
from bench.outcome import Say
from bench.pages_token import make_pages_token
from bench.peers_carbon import Carbon
from bench.peers_disk import History, load
from bench.peers_fallow import Fallow
from bench.peers_figures import FIELD_NAMES, Minute
from bench.peers_influx import InfluxDb
from bench.peers_system import System, ask
from bench.peers_victoria import VictoriaMetrics
from bench.programs import ProgramError, Programs

TOP = 20
_TIMES = 21
_SHUFFLE = 7_919  # prime, so that every name comes once
_ADDRESS = re.compile(r"pages on (http://\S+)/")
_PAGES_WITHIN_S = 300.0


@dataclass(frozen=True, slots=True)
class Answered:
    """What a system said. `seconds`: the median of warm answers."""

    system: str
    asked: str
    vms: Sequence[str]
    seconds: float

    def row(self, other: Sequence[str]) -> dict[str, object]:
        """For a table; `other`: what fallow said."""
        return {
            "system": self.system,
            "asked": self.asked,
            "seconds": self.seconds,
            "same_vms": len(set(self.vms) & set(other)),
        }


def ask_all(
    systems: Sequence[System], vms: int, *, days: int, after_s: int, end_s: int, folder: Path, say: Say
) -> list[Answered]:
    """Loads the same CPU of `vms` VMs into each and asks. Raises: ProgramError: one does not answer."""
    answers = []
    for system in systems:
        asking = _QUESTIONS.get(system.name)
        if asking is None:
            continue
        # One after the other: each is alone in the caches while it is asked.
        loaded = load([system], _histories(vms, after_s, end_s, with_memory=isinstance(system, Fallow)))
        if isinstance(system, Fallow):
            system.enrol(loaded.vms)
        answers.append(asking(system, days, end_s, folder))
        if len(answers[-1].vms) != min(TOP, vms):
            raise ProgramError(f"{system.name} named {len(answers[-1].vms)} VMs of {min(TOP, vms)}")
        say(f"lowest {TOP} of {vms}, {system.name}: {answers[-1].seconds * 1e3:.1f} ms ({answers[-1].asked})")
    return answers


def _histories(vms: int, after_s: int, end_s: int, *, with_memory: bool) -> Iterator[History]:
    """VMs of which each has a mean CPU of its own. `with_memory`: fallow takes no sample without."""
    draw = np.random.default_rng(4)
    times = range(after_s + INTERVAL_S, end_s + 1, INTERVAL_S)
    memory = {"mem_total_bytes": "8589934592", "mem_used_bytes": "1073741824"} if with_memory else {}
    others = tuple(memory.get(name) for name in FIELD_NAMES[1:])
    for index in range(vms):
        busy = (0.002 + 0.6 * index / vms) * (0.75 + 0.5 * draw.random(len(times)))
        minutes = [Minute(ts, (f"{ratio:.5f}", *others)) for ts, ratio in zip(times, busy.tolist(), strict=True)]
        # No order of names tells the order of means.
        yield History(f"ask-{index * _SHUFFLE % vms:06d}", INTERVAL_S, minutes)


def _timed(question: Callable[[], Sequence[str]]) -> tuple[Sequence[str], float]:
    """The answer, and the median of the times after the first one, which warms caches up."""
    question()
    took_s = []
    vms: Sequence[str] = ()
    for _ in range(_TIMES):
        began_s = time.perf_counter()
        vms = question()
        took_s.append(time.perf_counter() - began_s)
    return vms, statistics.median(took_s)


def _victoria(system: System, days: int, end_s: int, _folder: Path) -> Answered:
    assert isinstance(system, VictoriaMetrics)
    ask(system.address, "/internal/force_flush")
    vms, seconds = _timed(lambda: system.lowest(TOP, end_s, days))
    return Answered(system.name, "MetricsQL: bottomk of avg_over_time", vms, seconds)


def _influx(system: System, days: int, end_s: int, _folder: Path) -> Answered:
    assert isinstance(system, InfluxDb)
    vms, seconds = _timed(lambda: system.lowest(TOP, end_s, days))
    return Answered(system.name, "InfluxQL: bottom of mean", vms, seconds)


def _carbon(system: System, days: int, end_s: int, _folder: Path) -> Answered:
    assert isinstance(system, Carbon)
    vms, seconds = system.lowest(TOP, end_s, days)
    return Answered(system.name, "no language: means of whisper.fetch, one process", vms, seconds)


def _fallow(system: System, days: int, _end_s: int, folder: Path) -> Answered:
    assert isinstance(system, Fallow)
    # What a peer is asked for by hand, the pages have at hand: they judge on their own after the flush.
    programs = Programs(system.programs.folder, folder / "pages-logs", time)
    try:
        settings = folder / "report.toml"
        settings.write_text(f'[report]\ndata = "{system.data}"\n')
        token = make_pages_token(programs, ["--config", str(settings)], folder / "pages.token")
        server = programs.start(["fallow-report", "serve", "--config", str(settings), "--listen", "127.0.0.1:0"])

        def address() -> str | None:
            found = _ADDRESS.search(server.log.read_text(errors="replace"))
            return None if found is None else found[1]

        url = programs.wait_until(address, running=[server], within_s=60.0, what="the pages' address")
        host, _, port = url.removeprefix("http://").rpartition(":")
        target = f"/v1/report?sort=cpu&order=reverse&verdict=all&window={days}d&top="
        # One VM more each time: the pages remember an answer for some seconds, and no peer does.
        tops = count(TOP)
        headers = {"Authorization": token}

        def lowest() -> list[str]:
            found = json.loads(ask((host, int(port)), f"{target}{next(tops)}", headers=headers))
            return [vm["vm"] for vm in found["vms"]][:TOP]

        def is_judged() -> bool | None:
            return "vms" in json.loads(ask((host, int(port)), f"{target}1", headers=headers)) or None

        programs.wait_until(is_judged, running=[server], within_s=_PAGES_WITHIN_S, what="the first judging")
        vms, seconds = _timed(lowest)
    finally:
        programs.stop_all()
    return Answered(system.name, "GET /v1/report?sort=cpu of the pages", vms, seconds)


_QUESTIONS: dict[str, Callable[[System, int, int, Path], Answered]] = {
    Fallow.name: _fallow,
    VictoriaMetrics.name: _victoria,
    InfluxDb.name: _influx,
    Carbon.name: _carbon,
}
