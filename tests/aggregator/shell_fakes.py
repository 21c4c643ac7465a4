"""A shell for tests of the commands: what an admin types, without a process for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aggregator.__main__ import build_parser
from aggregator.catalogue import Catalogue, VmRecord
from aggregator.enrolment import Enrolment
from aggregator.fleet_db import migrate, open_fleet
from aggregator.store_files import store_path

NOW_S = 1_790_000_000.0


class Shell:
    """Runs a command line on one data directory."""

    def __init__(self, data_dir: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.data_dir = data_dir
        self._capture = capture

    def run(self, *words: str, data: bool = True) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        self._capture.readouterr()
        try:
            options = build_parser().parse_args([*words, *(["--data", str(self.data_dir)] if data else [])])
        except SystemExit as stopped:
            return int(str(stopped.code)), *self._capture.readouterr()
        return options.command(options), *self._capture.readouterr()

    def with_engine(self, work: Callable[[sa.Engine], Any]) -> Any:
        """What `work` returns, on an engine of its own."""
        engine = open_fleet(None, self.data_dir)
        migrate(engine)
        try:
            return work(engine)
        finally:
            engine.dispose()

    def with_catalogue(self, work: Callable[[Catalogue], Any]) -> Any:
        """What `work` returns, on an engine of its own."""
        return self.with_engine(lambda engine: work(Catalogue(engine)))

    def record(self, vm_id: str) -> VmRecord | None:
        """The VM as the database has it now."""
        found: VmRecord | None = self.with_catalogue(lambda catalogue: catalogue.vm(vm_id))
        return found

    def enroll(self, token: str, vm_id: str, now_s: float = NOW_S) -> int:
        """Enrols a VM; its generation."""
        request = Enrolment(join_token=token, vm=vm_id)
        generation: int = self.with_catalogue(lambda catalogue: catalogue.enroll(request, now_s=now_s))
        return generation

    def add(self, *vm_ids: str) -> None:
        """VMs with a store each."""
        self.with_catalogue(lambda catalogue: catalogue.import_csv("vm\n" + "\n".join(vm_ids) + "\n"))
        for vm_id in vm_ids:
            path = store_path(self.data_dir, vm_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def stores(self) -> set[str]:
        """Ids of the VMs that have a store."""
        return {path.stem for path in (self.data_dir / "stores").rglob("*.db")}
