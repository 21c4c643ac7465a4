"""VictoriaMetrics beside fallow."""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import urlencode

from bench.peers_figures import Minute, Texts
from bench.peers_influx import line_of
from bench.peers_system import System, allocated_bytes, ask, ask_json, free_port, post
from bench.programs import Program

PROGRAM = Path("/usr/bin/victoria-metrics")
_METRIC = "vm_cpu_busy_ratio"
_SETTLE_LOOK_S = 1.0
_SAME_LOOKS = 5


class VictoriaMetrics(System):
    """Single minutes as Influx lines, the cheapest of its ways for one VM; batches as JSON lines, a line a series."""

    name = "VictoriaMetrics"
    _port = 0

    @cached_property
    def version(self) -> str:
        said = subprocess.run(["dpkg-query", "-W", "victoria-metrics"], capture_output=True, text=True, check=False)
        return said.stdout.strip().replace("\t", " ") or "victoria-metrics"

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self._port

    def begin(self) -> Program:
        self._port = free_port()
        return self.programs.start(
            [str(PROGRAM), f"-storageDataPath={self.folder / 'data'}", f"-httpListenAddr=127.0.0.1:{self._port}"]
        )

    def minute(self, vm: str, texts: Texts, ts: int) -> bytes:
        return post("/write?precision=s", line_of(vm, Minute(ts, texts)))

    def batch(self, vm: str, minutes: Sequence[Minute], interval_s: int) -> bytes:  # noqa: ARG002
        series: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for minute in minutes:
            for name, text in minute.known():
                values, times = series[name]
                values.append(text)
                times.append(f"{minute.ts}000")
        lines = (
            f'{{"metric":{{"__name__":"vm_{name}","id":"{vm}"}},'
            f'"values":[{",".join(values)}],"timestamps":[{",".join(times)}]}}\n'
            for name, (values, times) in series.items()
        )
        return post("/api/v1/import", "".join(lines).encode())

    def stored(self, vms: Sequence[str], after_s: int) -> int:
        ask(self.address, "/internal/force_flush")
        now_s = int(time.time())
        names = set(vms)
        found = self._query(f"count_over_time({_METRIC}[{now_s - after_s}s])", now_s)
        return sum(int(value) for vm, value in found if vm in names)

    def _query(self, question: str, at_s: int) -> list[tuple[str, str]]:
        target = "/api/v1/query?" + urlencode({"query": question, "time": at_s, "nocache": 1})
        found = ask_json(self.address, target)["data"]["result"]
        return [(each["metric"].get("id", ""), each["value"][1]) for each in found]

    def lowest(self, top: int, end_s: int, days: int) -> list[str]:
        """VMs with the lowest mean CPU, by MetricsQL."""
        return [vm for vm, _ in self._query(f"bottomk({top}, avg_over_time({_METRIC}[{days}d]))", end_s)]

    def settle(self) -> None:
        ask(self.address, "/internal/force_flush")
        ask(self.address, "/internal/force_merge")
        same, before_bytes = 0, -1
        while same < _SAME_LOOKS:
            time.sleep(_SETTLE_LOOK_S)
            metrics = ask(self.address, "/metrics").decode()
            merging = any(
                line.startswith("vm_active_merges") and not line.endswith(" 0") for line in metrics.splitlines()
            )
            size_bytes = self.disk_bytes()
            same = same + 1 if size_bytes == before_bytes and not merging else 0
            before_bytes = size_bytes

    def disk_bytes(self) -> int:
        return allocated_bytes(self.folder / "data")
