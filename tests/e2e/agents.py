"""Real agents of this machine, each with a state folder and an id of its own and an interval of seconds."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from agent.status import Status, read_status
from bench.programs import Program
from tests.e2e.house import House

INTERVAL_S = 2


class RealAgent:
    """`fallow-agent run`, again and again on one state folder."""

    def __init__(self, house: House, vm: str, url: str, *, ca: Path | None = None) -> None:
        self._house = house
        self.vm = vm
        self.state = house.folder / vm
        self.config = house.folder / f"{vm}.toml"
        self.point_at(url, ca=ca)
        self.program: Program | None = None

    def point_at(self, url: str, *, ca: Path | None = None) -> None:
        """Writes the settings; they count from the next start on."""
        lines = [
            f'aggregator = "{url}"',
            f'state = "{self.state}"',
            f'vm_id = "{self.vm}"',
            f'interval = "{INTERVAL_S}s"',
            'timeout = "1s"',
            *([f'ca = "{ca}"'] if ca else []),
        ]
        self.config.write_text("\n".join(lines) + "\n")

    def enrol(self, join_token: Path) -> int:
        """Runs `fallow-agent enroll`; its exit status. What it said is in `said`."""
        done = self._house.run(
            *("fallow-agent", "enroll", "--config", str(self.config), "--join-token-file", str(join_token))
        )
        self.said = done.stderr
        return done.returncode

    def start(self) -> None:
        self.program = self._house.programs.start(["fallow-agent", "run", "--config", str(self.config)])

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self.program is not None
        self.program.process.terminate()
        return self.program.process.wait(10)

    def kill(self) -> None:
        assert self.program is not None
        os.killpg(self.program.process.pid, signal.SIGKILL)
        self.program.process.wait()

    def status(self) -> Status:
        found = read_status(self.state / "status.json")
        assert found is not None
        return found

    def wait_for(self, what: str, **least: int) -> Status:
        """The status once each figure named has reached its least value."""

        def reached() -> Status | None:
            found = read_status(self.state / "status.json")
            far = found is not None and all((getattr(found, name) or 0) >= value for name, value in least.items())
            return found if far else None

        assert self.program is not None
        return self._house.until(reached, f"{self.vm}: {what}", running=[self.program])

    def wait_until_drained(self, beyond: int) -> Status:
        """The status once everything is acknowledged, and more than `beyond` samples in all."""

        def drained() -> Status | None:
            found = read_status(self.state / "status.json")
            assert found is not None
            return found if found.spool_depth == 0 and found.samples_acked_total > beyond else None

        assert self.program is not None
        return self._house.until(drained, f"{self.vm}: an empty spool", running=[self.program])

    def spooled_ts(self) -> set[int]:
        """`ts` of every sample in the files of the spool, acknowledged ones among them."""
        return {
            json.loads(line.partition(b" ")[2])["ts"]
            for segment in (self.state / "spool" / self.vm / str(INTERVAL_S)).glob("*.seg")
            for line in segment.read_bytes().splitlines()
        }
