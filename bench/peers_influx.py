"""InfluxDB 1.x beside fallow."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from agent.sample import FIELDS, Unit
from bench.peers_figures import Minute, Texts
from bench.peers_system import System, allocated_bytes, ask, ask_json, free_port, post
from bench.programs import Program

PROGRAM = Path("/usr/bin/influxd")
_DATABASE = "fleet"
_WRITE = f"/write?db={_DATABASE}&precision=s"
_SETTLE_LOOK_S = 5.0
_SAME_LOOKS = 5
_COMPACT_NOW = {
    "INFLUXDB_DATA_CACHE_SNAPSHOT_WRITE_COLD_DURATION": "2s",
    "INFLUXDB_DATA_COMPACT_FULL_WRITE_COLD_DURATION": "2s",
}


_WHOLE = frozenset(field.name for field in FIELDS if field.unit in {Unit.BYTES, Unit.BYTES_PER_S, Unit.COUNT})


def line_of(vm: str, minute: Minute) -> bytes:
    """A VM's minute in line protocol; whole figures as integers, which take less room there."""
    fields = ",".join(f"{name}={text}{'i' if name in _WHOLE else ''}" for name, text in minute.known())
    return f"vm,id={vm} {fields} {minute.ts}\n".encode()


class InfluxDb(System):
    """Line protocol; one line a minute of a VM, the minutes of a batch in one request."""

    name = "InfluxDB"
    _port = 0

    def __init__(self, folder: Path, *, compacts_now: bool = False) -> None:
        """Args: compacts_now: what it would do once a shard was cold for minutes and hours, it does after 2 s."""
        super().__init__(folder)
        self._more = _COMPACT_NOW if compacts_now else {}

    @cached_property
    def version(self) -> str:
        said = subprocess.run([str(PROGRAM), "version"], capture_output=True, text=True, check=False).stdout
        return said.partition(" (")[0].strip()

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self._port

    def begin(self) -> Program:
        self._port = free_port()
        config = self.folder / "influxdb.conf"
        config.write_text(
            "reporting-disabled = true\n"
            f'bind-address = "127.0.0.1:{free_port()}"\n'
            f'[meta]\n  dir = "{self.folder / "meta"}"\n'
            f'[data]\n  dir = "{self.folder / "data"}"\n  wal-dir = "{self.folder / "wal"}"\n'
            f'[http]\n  bind-address = "127.0.0.1:{self._port}"\n'
        )
        settings = [f"{name}={value}" for name, value in self._more.items()]
        return self.programs.start([str(PROGRAM), "-config", str(config)], under=["/usr/bin/env", *settings])

    def start(self) -> None:
        super().start()
        ask(self.address, "/query?" + urlencode({"q": f"CREATE DATABASE {_DATABASE}"}), method="POST")

    def minute(self, vm: str, texts: Texts, ts: int) -> bytes:
        return post(_WRITE, line_of(vm, Minute(ts, texts)))

    def batch(self, vm: str, minutes: Sequence[Minute], interval_s: int) -> bytes:  # noqa: ARG002
        return post(_WRITE, b"".join(line_of(vm, minute) for minute in minutes))

    def stored(self, vms: Sequence[str], after_s: int) -> int:
        found = self._query(f"SELECT count(cpu_busy_ratio) FROM vm WHERE time > {after_s}s GROUP BY id")
        names = set(vms)
        return sum(each["values"][0][1] for each in found if each["tags"]["id"] in names)

    def lowest(self, top: int, end_s: int, days: int) -> list[str]:
        """VMs with the lowest mean CPU, by InfluxQL."""
        inner = (
            "SELECT mean(cpu_busy_ratio) AS mean FROM vm "
            f"WHERE time > {end_s - days * 86400}s AND time <= {end_s}s GROUP BY id"
        )
        rows = self._query(f"SELECT bottom(mean, id, {top}) FROM ({inner})")[0]["values"]
        return [row[2] for row in sorted(rows, key=lambda row: row[1])]

    def _query(self, question: str) -> list[Any]:
        target = "/query?" + urlencode({"db": _DATABASE, "q": question})
        found: list[Any] = ask_json(self.address, target)["results"][0].get("series", [])
        return found

    def settle(self) -> None:
        """Waits until compactions are over; where they come at once, that is soon."""
        same, before_bytes = 0, -1
        while same < _SAME_LOOKS:
            time.sleep(_SETTLE_LOOK_S)
            size_bytes = self.disk_bytes()
            same = same + 1 if size_bytes == before_bytes else 0
            before_bytes = size_bytes

    def disk_bytes(self) -> int:
        """Its own measurements of itself left out."""
        return sum(allocated_bytes(self.folder / part / _DATABASE) for part in ("data", "wal"))
