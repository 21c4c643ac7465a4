"""`python -m bench pages`: how long the pages of a large fleet take, on the real server.

Builds a fleet with histograms, judges it, starts `fallow-report serve` and the aggregator over it, and asks for the
ranked list in many ways (searches, filters, sorts, pages, never the same twice in a row) and for pages of VMs. Times
are those of a client on the same machine, from the request to the last byte; CPU is that of the pages' process.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from agent.settings import parse_count, parse_host_port
from aggregator import rows
from aggregator.summary import WINDOWS_DAYS, Taken, WorkerSettings
from aggregator.worker import FlushWorker
from bench import tree
from bench.outcome import Bar, Outcome, Say
from bench.pages_token import make_pages_token
from bench.programs import Program, ProgramError, Programs
from bench.report_fleet import build_fleet

LIST_LIMIT_S = 0.150
VM_LIMIT_S = 0.300
POINTS_LIMIT = 2_000
_DAY_S = 86_400
_STORED_DAYS = 14
_STORED_VMS = 5
_GIB = 1 << 30
_OWNERS = 97  # of the made-up fleet
_SORTS = ("score", "vcpus", "memory", "disk", "money", "energy", "confidence", "cpu", "name", "owner")
_VERDICTS = ("", "all", "idle", "scheduled", "oversized", "active", "insufficient-data", "excluded")
_ADDRESS = re.compile(r"pages on http://(\S+)/")
_JUDGING_S = 1800.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be chosen on the command line."""
    parser.add_argument("--vms", type=parse_count, default=100_000, help="VMs of the fleet (default: 100000)")
    parser.add_argument("--lists", type=parse_count, default=400, help="ranked pages asked for (default: 400)")
    parser.add_argument("--pages", type=parse_count, default=100, help="pages of VMs asked for (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="of the made-up fleet and the questions (default: 1)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Measures; see the module's docstring. Raises: OSError, ProgramError: a program failed."""
    now_s = int(time.time()) // 60 * 60
    with tempfile.TemporaryDirectory(prefix="fallow-bench-") as name:
        folder = Path(name)
        data = folder / "data"
        data.mkdir()
        say(f"a fleet of {options.vms} VMs with histograms ...")
        build_fleet(data, vms=options.vms, now_s=now_s, seed=options.seed)
        vm_ids = _vm_ids(data, random.Random(options.seed), options.pages)
        stored = vm_ids[:_STORED_VMS]
        say(f"{_STORED_DAYS} days of samples for {len(stored)} VMs ...")
        for number, vm_id in enumerate(stored):
            _write_store(data, vm_id, now_s, random.Random(number))
        programs = Programs(Path(sys.executable).parent, folder / "logs", time)
        try:
            aggregator, server, client = _start(programs, data, folder)
            say("the fleet is being judged ...")
            judged_s = _wait_until_judged(programs, server, client)
            return _measure(options, say, client, server, [aggregator], vm_ids, stored, now_s, judged_s)
        finally:
            programs.stop_all()


@dataclass(frozen=True, slots=True)
class Client:
    """Asks over one kept connection, as a browser does, with the token of a program."""

    connection: http.client.HTTPConnection
    authorization: str = field(repr=False)

    def get(self, target: str) -> tuple[int, bytes, float]:
        """Status, body, and seconds to the last byte."""
        began_s = time.perf_counter()
        self.connection.request("GET", target, headers={"Authorization": self.authorization})
        answer = self.connection.getresponse()
        body = answer.read()
        return answer.status, body, time.perf_counter() - began_s


@dataclass(frozen=True, slots=True)
class Times:
    """Of many requests of a kind. `cpu_s`: of the pages' process, for all of them."""

    wall_s: Sequence[float]
    cpu_s: float

    @property
    def p95_s(self) -> float:
        return statistics.quantiles(self.wall_s, n=20)[-1] if len(self.wall_s) > 1 else self.wall_s[0]

    def figures(self) -> dict[str, object]:
        """For an outcome."""
        return {
            "count": len(self.wall_s),
            "p50_s": statistics.median(self.wall_s),
            "p95_s": self.p95_s,
            "max_s": max(self.wall_s),
            "cpu_s_each": self.cpu_s / len(self.wall_s),
        }


def _measure(
    options: argparse.Namespace,
    say: Say,
    client: Client,
    server: Program,
    others: Sequence[Program],
    vm_ids: Sequence[str],
    stored: Sequence[str],
    now_s: int,
    judged_s: float,
) -> Outcome:
    pid = server.process.pid
    draw = random.Random(options.seed)
    lists = [_list_target(draw, options.vms) for _ in range(options.lists)]
    say(f"{len(lists)} ranked pages ...")
    ranked = _times(pid, lists, lambda target: _ask(client, target))
    slowest = sorted(zip(ranked.wall_s, lists, strict=True), reverse=True)[:5]
    say(f"{len(vm_ids)} pages of VMs ...")
    shown = _times(pid, vm_ids, lambda vm_id: _ask(client, f"/vms/{vm_id}"))
    span = urlencode({"from": now_s - _STORED_DAYS * _DAY_S, "to": now_s, "points": POINTS_LIMIT})
    points: list[int] = []

    def whole(vm_id: str) -> float:
        """A page with its charts: what a person waits for."""
        seconds = _ask(client, f"/vms/{vm_id}")
        status, body, more_s = client.get(f"/v1/vms/{vm_id}/series?{span}")
        if status != 200:
            raise ProgramError(f"series of {vm_id}: {status} {body[:200]!r}")
        points.append(len(json.loads(body)["ends_s"]))
        return seconds + more_s

    say("pages with 14 days of charts ...")
    charted = _times(pid, list(stored) * max(options.pages // len(stored), 1), whole)
    others_s = {path: _ask(client, path) for path in ("/", "/hosts", "/health", "/exemptions", "/policies")}
    return Outcome(
        figures={
            "vms": options.vms,
            "judging_s": judged_s,
            "list": ranked.figures(),
            "slowest_lists": [{"seconds": seconds, "target": target} for seconds, target in slowest],
            "vm": shown.figures(),
            "vm_with_charts": charted.figures(),
            "points_a_series": max(points),
            "other_pages_s": {path.strip("/") or "fleet": seconds for path, seconds in others_s.items()},
            "peak_rss_bytes": tree.peak_rss_bytes(pid),
            "aggregators": len(others),
        },
        bars=(
            Bar(f"ranked page of {options.vms} VMs, p95, s", ranked.p95_s, LIST_LIMIT_S),
            Bar(f"one VM's page with charts of {_STORED_DAYS} days, p95, s", charted.p95_s, VM_LIMIT_S),
            Bar("points sent a series", max(points), POINTS_LIMIT),
        ),
    )


def _times(pid: int, items: Sequence[str], ask: Callable[[str], float]) -> Times:
    ask(items[0])
    began_s = tree.own_cpu_s(pid)
    wall_s = [ask(item) for item in items]
    return Times(wall_s, tree.own_cpu_s(pid) - began_s)


def _ask(client: Client, target: str) -> float:
    status, body, seconds = client.get(target)
    if status != 200:
        raise ProgramError(f"{target}: {status} {body[:200]!r}")
    return seconds


def _list_target(draw: random.Random, vms: int) -> str:
    """One way in which a person may ask for the list: most narrow it down, all sort it somehow."""
    query = {"sort": draw.choice(_SORTS), "verdict": draw.choice(_VERDICTS)}
    if draw.random() < 0.3:
        query["order"] = "reverse"
    luck = draw.random()
    if luck < 0.2:
        query["search"] = f"vm-{draw.randrange(vms)}"
    elif luck < 0.35:
        query["search"] = draw.choice(("host", "example", "team-1", "production", "a", "no such text", "TEAM-55"))
    elif luck < 0.5:
        query["owner"] = f"team-{draw.randrange(_OWNERS)}"
    elif luck < 0.8:
        query["page"] = str(draw.randrange(1, max(vms // 50, 2)))
    return f"/vms?{urlencode(query)}"


def _vm_ids(data: Path, draw: random.Random, count: int) -> list[str]:
    with closing(sqlite3.connect(data / "fleet.db")) as connection:
        known = [row[0] for row in connection.execute("SELECT vm_id FROM vm_summary ORDER BY vm_id")]
    return draw.sample(known, min(max(count, _STORED_VMS), len(known)))


def _write_store(data: Path, vm_id: str, now_s: int, draw: random.Random) -> None:
    settings = WorkerSettings(data, WINDOWS_DAYS, 400.0 * _DAY_S, 400.0 * _DAY_S)
    packed = b"".join(_row(draw, now_s - 60 * minute) for minute in range(_STORED_DAYS * 1440 - 1, -1, -1))
    result = FlushWorker(settings).flush([Taken(vm_id, packed, 0, now_s, 0.0, False)], now_s=now_s, may_forget=False)
    if result.failures:
        raise ProgramError(str(result.failures))


def _row(draw: random.Random, ts: int) -> bytes:
    """A sample in which every figure is measured, and all but the sizes move."""
    busy = min(1.0, draw.lognormvariate(-3.5, 0.8))
    used_bytes, disk_bytes = (part + draw.randrange(_GIB) // 4096 * 4096 for part in (_GIB, 20 * _GIB))
    traffic = [draw.lognormvariate(9, 1.5) for _ in range(4)]
    cpu = (busy, min(1.0, 3 * busy), draw.random() * 0.01, draw.random() * 0.02, 4, draw.random() * 3)
    memory = (8 * _GIB, used_bytes, 0, 50 * _GIB, disk_bytes)
    return rows.ROW.pack(ts, 60, *cpu, *memory, *traffic, draw.randrange(3), 100, draw.random() * 0.01)


def _start(programs: Programs, data: Path, folder: Path) -> tuple[Program, Program, Client]:
    doors = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    aggregator = programs.start(["fallow-aggregator", "run", "--data", str(data), *doors])
    admin = programs.wait_for_line(data / "admin.address", running=[aggregator])
    settings = folder / "report.toml"
    settings.write_text(
        f'[report]\ndata = "{data}"\nsilent_after = "1d"\n'
        '[report.prices]\ncurrency = "EUR"\nvcpu_hour = 0.02\nmem_gib_hour = 0.003\n'
        # Once, at the start: the measurement has the machine for itself.
        f'[report.serve]\naggregator = "http://{admin}"\njudge_every = "1d"\nfresh_for = "2d"\n'
    )
    authorization = make_pages_token(programs, ["--config", str(settings)], folder / "pages.token")
    server = programs.start(["fallow-report", "serve", "--config", str(settings), "--listen", "127.0.0.1:0"])

    def address() -> str | None:
        found = _ADDRESS.search(server.log.read_text(errors="replace"))
        return None if found is None else found[1]

    place = programs.wait_until(address, running=[server], within_s=60.0, what="the pages' address")
    host, port = parse_host_port(place)
    return aggregator, server, Client(http.client.HTTPConnection(host, port, timeout=120), authorization)


def _wait_until_judged(programs: Programs, server: Program, client: Client) -> float:
    began_s = time.monotonic()

    def is_ready() -> bool | None:
        status, body, _ = client.get("/v1/report?top=1")
        if status not in {200, 202}:
            raise ProgramError(f"the report answered {status}: {body[:200]!r}")
        return True if status == 200 else None

    programs.wait_until(is_ready, running=[server], within_s=_JUDGING_S, what="the first judging")
    return time.monotonic() - began_s
