"""fallow itself, as a user would run it, beside its peers."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from agent.settings import parse_host_port
from agent.wire import encode_batch
from aggregator.store_files import read_samples, store_path
from aggregator.tokens import KEY_FILE_NAME, TokenKeys
from bench.admin_door import AdminDoor
from bench.peers_figures import Minute, Texts
from bench.peers_system import System, allocated_bytes, ask, ask_json, post
from bench.programs import START_WITHIN_S, Program, ProgramError, Programs

_END_S = 1 << 40

_BOOT = "b7d1a5c2-6f0e-4b8e-9d55-0f3c1c2b7a90"
_INTERVAL_S = 60


class Fallow(System):
    """The agents' door; one minute as it is, batches packed with gzip, as its agent sends them.

    Args: turns: flushes in which each VM is stored once, 4 as it comes.
    """

    name = "fallow"
    settings = "flushes when the bench asks for them, since its clock is compressed"

    def __init__(self, folder: Path, turns: int = 4) -> None:
        super().__init__(folder)
        self._turns = turns
        self.programs = Programs(Path(sys.executable).parent, folder / "logs", time)
        self.data = folder / "data"
        self.data.mkdir()
        self._keys = TokenKeys.load_or_create(self.data / KEY_FILE_NAME)
        self._heads: dict[str, tuple[str, str]] = {}
        self._agents = self._admin = ("", 0)

    @cached_property
    def version(self) -> str:
        return f"fallow {version('fallow')} (Twisted {version('twisted')}, Python {sys.version.split()[0]})"

    @property
    def address(self) -> tuple[str, int]:
        return self._agents

    @property
    def admin(self) -> tuple[str, int]:
        """Its admin door."""
        return self._admin

    def begin(self) -> Program:
        for name in ("agents.address", "admin.address"):
            (self.data / name).unlink(missing_ok=True)
        program = self.programs.start(
            ["fallow-aggregator", "run", "--data", str(self.data), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
            + ["--flush-interval", "1d", "--flush-turns", str(self._turns)]
        )
        self._agents, self._admin = (
            parse_host_port(self.programs.wait_for_line(self.data / name, running=[program]))
            for name in ("agents.address", "admin.address")
        )
        return program

    def is_up(self) -> bool:
        try:
            ask_json(self._agents, "/readyz")
        except ProgramError:
            return False
        return True

    def prefill(self, vms: Sequence[str], templates: Sequence[Path]) -> None:
        """Stores that already hold a history, in turn."""
        for index, vm in enumerate(vms):
            path = store_path(self.data, vm)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(templates[index % len(templates)], path)
        os.sync()  # a history is at rest: what was just copied must not be written during the measurement

    def enrol(self, vms: Sequence[str]) -> None:
        """Makes them known, as their agents would: reports tell only of VMs that enrolled. Raises: ProgramError."""
        path = self.folder / "join.token"
        path.touch(mode=0o600)
        argv = ["fallow-aggregator", "join-token", "--data", str(self.data), "--uses", str(len(vms)), "--ttl", "1h"]
        self.programs.finish(self.programs.start(argv, stdout=path), within_s=START_WITHIN_S)
        join_token = path.read_text("ascii").strip()
        headers = {"Content-Type": "application/json"}
        for vm in vms:
            body = json.dumps({"join_token": join_token, "vm": vm, "hostname": vm}).encode()
            ask(self._agents, "/v1/enroll", method="POST", headers=headers, body=body)

    def _head(self, vm: str) -> tuple[str, str]:
        """Headers of a VM, and the first half of its body."""
        if vm not in self._heads:
            headers = (
                f"Authorization: Bearer {self._keys.make(vm, 1)}\r\nFallow-VM: {vm}\r\n"
                "Content-Type: application/json\r\n"
            )
            body = encode_batch(
                vm=vm, boot=_BOOT, seq=1, sent_s=time.time(), interval_s=_INTERVAL_S, samples=[]
            ).decode()
            self._heads[vm] = headers, body.removesuffix("]}")
        return self._heads[vm]

    def minute(self, vm: str, texts: Texts, ts: int) -> bytes:
        headers, start = self._head(vm)
        return post("/v1/samples", f"{start}{_sample(Minute(ts, texts))}]}}".encode(), headers)

    def batch(self, vm: str, minutes: Sequence[Minute], interval_s: int) -> bytes:
        headers, _ = self._head(vm)
        body = encode_batch(
            vm=vm,
            boot=_BOOT,
            seq=1,
            sent_s=time.time(),
            interval_s=interval_s,
            samples=[_sample(minute) for minute in minutes],
        )
        return post("/v1/samples", gzip.compress(body, 6), headers + "Content-Encoding: gzip\r\n")

    def store(self) -> int:
        """The next scheduled flush: of the VMs whose turn it is. Raises: ProgramError: something was left undone."""
        return int(self._door.flush_turn()["samples"])

    def store_all(self) -> None:
        """Flushes every VM. Raises: ProgramError: something was left undone."""
        self._door.flush()

    def waiting(self) -> int:
        """Raises: ProgramError: it does not tell."""
        return self._door.buffered_samples()

    @property
    def _door(self) -> AdminDoor:
        return AdminDoor(self._admin, self.data)

    def stored(self, vms: Sequence[str], after_s: int) -> int:
        self.store_all()
        total = 0
        for vm in vms:
            total += len(read_samples(store_path(self.data, vm), after_s + 1, _END_S))
        return total

    def settle(self) -> None:
        self.store_all()

    def disk_bytes(self) -> int:
        """Stores with their rollups, and the fleet database with its summaries."""
        return allocated_bytes(self.data / "stores") + sum(
            path.stat().st_blocks * 512 for path in self.data.glob("fleet.db*")
        )


def _sample(minute: Minute) -> str:
    figures = ", ".join(f'"{name}": {text}' for name, text in minute.known())
    return f'{{"ts": {minute.ts}, {figures}}}'
