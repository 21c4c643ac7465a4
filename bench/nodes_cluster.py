"""Several real aggregators of one fleet: one database, one set of tokens, a name and a data directory for each.

They keep their ports through restarts, as a load balancer has their addresses.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aggregator.admin import TOKEN_FILE_NAME, load_or_create_admin_token
from aggregator.fleet import vm_part, vm_summary
from aggregator.store_files import store_path
from aggregator.tokens import KEY_FILE_NAME, TokenKeys, create_secret
from bench.demo import Doors
from bench.haproxy import free_ports
from bench.kill_lives import FLUSH_WITHIN_S, READY_WITHIN_S, STOP_WITHIN_S, is_ready
from bench.programs import Program, ProgramError, Programs
from bench.tree import cpu_s

_LOOK_S = 0.2
_DRAIN_WITHIN_S = 60.0
_WRITTEN_WITHIN_S = 5.0


@dataclass(slots=True)
class Node:
    """One aggregator through its lives.

    Attributes:
        spent_s: CPU of the lives that are over, workers included, as far as it was read before they ended.
    """

    name: str
    data: Path
    doors: Doors
    program: Program | None = None
    spent_s: float = 0.0

    @property
    def address(self) -> tuple[str, int]:
        """Of the agents' door."""
        host, _, port = self.doors.agents.rpartition(":")
        return host, int(port)

    @property
    def running(self) -> Program:
        """Raises: ProgramError: it does not run."""
        if self.program is None:
            raise ProgramError(f"{self.name} does not run")
        return self.program

    def cpu_s(self) -> float:
        """CPU of all its lives and their workers."""
        return self.spent_s + (cpu_s(self.program.process.pid) if self.program is not None else 0.0)

    def metric(self, name: str) -> float:
        """The sum of a figure of /metrics over its labels. Raises: OSError, HTTPException."""
        lines = self.doors.ask("/metrics", method="GET", within_s=READY_WITHIN_S).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the fleet database says of histories: of how many VMs, of how many by node, and how many are in parts."""

    vms: int
    parts: int
    problems: Mapping[str, int]
    homes: Mapping[str, int] = field(default_factory=dict)


class Cluster:
    """The aggregators `names` below a folder; none runs yet.

    Args:
        url: of the fleet database.
        options: of each start of each.
    """

    def __init__(
        self, programs: Programs, folder: Path, *, names: Sequence[str], url: str, options: Sequence[str] = ()
    ) -> None:
        self._programs = programs
        self._url = url
        self._options = options
        first = folder / names[0]
        first.mkdir(parents=True)
        self.keys = TokenKeys.load_or_create(first / KEY_FILE_NAME)
        token = load_or_create_admin_token(first / TOKEN_FILE_NAME)
        ports = free_ports(2 * len(names))
        self.nodes: dict[str, Node] = {}
        for name in names:
            data = folder / name
            data.mkdir(exist_ok=True)
            for file in (KEY_FILE_NAME, TOKEN_FILE_NAME):
                if data != first:
                    create_secret(data / file, (first / file).read_text())
            doors = Doors(f"127.0.0.1:{ports.pop()}", f"127.0.0.1:{ports.pop()}", token)
            self.nodes[name] = Node(name, data, doors)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The agents' doors of all, as a load balancer needs them."""
        return [node.address for node in self.nodes.values()]

    def begin(self, name: str) -> Node:
        """Starts one and does not wait."""
        node = self.nodes[name]
        for file in ("agents.address", "admin.address"):
            (node.data / file).unlink(missing_ok=True)
        argv = ["fallow-aggregator", "run", "--data", str(node.data), "--node-name", name, "--fleet-url", self._url]
        argv += ["--listen", node.doors.agents, "--admin", node.doors.admin, "--proxies", "127.0.0.1"]
        node.program = self._programs.start([*argv, *self._options])
        return node

    def start(self, *names: str) -> None:
        """Starts these, or all, and waits until they take pushes. Raises: ProgramError: one does not."""
        begun = [self.begin(name) for name in names or self.nodes]
        for node in begun:
            self._programs.wait_for_line(node.data / "admin.address", running=[node.running])
            self._programs.wait_until(
                lambda node=node: is_ready(node.doors) or None,  # type: ignore[misc]
                running=[node.running],
                within_s=READY_WITHIN_S,
                what=f"readiness of {node.name}",
            )

    def kill(self, name: str) -> None:
        """SIGKILL for it and its workers."""
        node = self.nodes[name]
        group = node.running.process.pid
        node.spent_s = node.cpu_s()
        os.killpg(group, signal.SIGKILL)
        node.running.process.wait()
        node.program = None

    def stop(self, *names: str) -> None:
        """SIGTERM for these, or all that run. Raises: ProgramError: one did not end with 0 in time."""
        for name in names or [name for name, node in self.nodes.items() if node.program is not None]:
            node = self.nodes[name]
            node.spent_s = node.cpu_s()
            node.running.process.terminate()
            self._programs.finish(node.running, within_s=STOP_WITHIN_S)
            node.running.process.wait()
            node.program = None

    def drain(self, name: str) -> None:
        """Has the others take its VMs. Raises: OSError, HTTPException."""
        self.nodes[name].doors.ask("/v1/drain", method="POST", within_s=_DRAIN_WITHIN_S)

    def undrain(self, name: str) -> None:
        """Has it take VMs again. Raises: OSError, HTTPException."""
        self.nodes[name].doors.ask("/v1/undrain", method="POST", within_s=_DRAIN_WITHIN_S)

    def flush(self, name: str, *, figures: str = "all") -> Mapping[str, Any]:
        """Has one store all that it holds; the report.

        Args: figures: "due": those of VMs whose hours closed, as a flush of its own would; else "all".
        Raises: OSError, HTTPException.
        """
        path = "/v1/flush?figures=due" if figures == "due" else "/v1/flush"
        said: Mapping[str, Any] = json.loads(self.nodes[name].doors.ask(path, method="POST", within_s=FLUSH_WITHIN_S))
        return said

    def flush_all(self, *, figures: str = "all", within_s: float = FLUSH_WITHIN_S) -> None:
        """Has all store and sum up all. Raises: ProgramError: a store failed, or summaries stay owed for so long."""
        ends_s = time.monotonic() + within_s
        for node in self.nodes.values():
            while True:
                report = self.flush(node.name, figures=figures)
                if report["failures"] or time.monotonic() > ends_s:
                    raise ProgramError(f"{node.name}: the flush left something undone: {report}")
                if self._owes_nothing(node):
                    break

    @staticmethod
    def _owes_nothing(node: Node) -> bool:
        """Whether the database has all summaries of a node soon. What did not fit into memory, its next flush reads."""
        ends_s = time.monotonic() + _WRITTEN_WITHIN_S
        while node.metric("fallow_summaries_owed"):
            if time.monotonic() > ends_s:
                return False
            time.sleep(_LOOK_S)
        return True

    def parts(self, engine: sa.Engine) -> Parts:
        """What lies where, as the fleet database says."""
        with engine.connect() as connection:
            homes = connection.execute(sa.select(vm_summary.c.node, sa.func.count()).group_by(vm_summary.c.node)).all()
            found = connection.execute(sa.select(vm_part.c.problem, sa.func.count()).group_by(vm_part.c.problem)).all()
        by_home = {str(name): int(count) for name, count in homes}
        problems = {str(problem): int(count) for problem, count in found if problem is not None}
        return Parts(sum(by_home.values()), sum(int(count) for _, count in found), problems, by_home)

    def wait_until_joined(self, engine: sa.Engine, *, within_s: float) -> float:
        """Waits until no history is in parts; how long that took. Raises: ProgramError: it did not come to that."""
        began_s = time.monotonic()
        while (parts := self.parts(engine)).parts:
            if time.monotonic() - began_s > within_s:
                raise ProgramError(f"histories of {parts.parts} VMs are still in parts: {dict(parts.problems)}")
            time.sleep(_LOOK_S)
        return time.monotonic() - began_s

    def stores(self, vm: str) -> list[Path]:
        """Every store of a VM, of whichever node."""
        paths = (store_path(node.data, vm) for node in self.nodes.values())
        return [path for path in paths if path.exists()]

    def cpu_s(self) -> float:
        """CPU of all aggregators and their workers, of lives that are over too."""
        return sum(node.cpu_s() for node in self.nodes.values())
