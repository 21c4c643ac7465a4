"""Real agents whose samples are known: a backlog of ours in the spool, and what they measure themselves."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.settings import ConfigError
from agent.spool import Spool
from agent.status import Status, read_status
from aggregator.check import verify_store
from aggregator.store_files import connect_read_only, store_path
from bench.kill_driver import INTERVAL_S, steps_of, text_of
from bench.programs import Program, Programs
from bench.raw_rows import raw_rows
from tests.faults.tally import FaultError, Tally

LIVE_INTERVAL_S = 1
_DAY_S = 86_400
_WITHIN_S = 120.0


@dataclass(slots=True, kw_only=True)
class Agent:
    """`fallow-agent run`, again and again on one state folder.

    Args:
        home: an existing folder; state, settings and logs lie there under the VM's name.
        vm: its id.
        url: of the aggregator.
        join_token: file with a join token.
        under: what the command line is put behind.
        ca: file of certificates to trust; with `http://` none.
        settings: more lines of TOML, those of tables last.
        name: of its folder, where two agents are one VM.
    """

    programs: Programs
    home: Path
    vm: str
    url: str
    join_token: Path
    under: Sequence[str] = ()
    ca: Path | None = None
    settings: Sequence[str] = ()
    name: str = ""
    program: Program | None = None
    rows: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.home / (self.name or self.vm)

    @property
    def config(self) -> Path:
        return self.home / f"{self.name or self.vm}.toml"

    def backlog(self, minutes: int, *, salt: int, now_s: float) -> None:
        """Puts so many minutes, which end a day ago, into its spool, as an outage would; it must not run."""
        first_ts = int(now_s - _DAY_S) // INTERVAL_S * INTERVAL_S - minutes * INTERVAL_S
        spool = Spool(self._spool(INTERVAL_S), sync=lambda _fd: None)
        for minute in range(minutes):
            ts, steps = first_ts + minute * INTERVAL_S, steps_of(salt, minute)
            spool.append(text_of(ts, steps))
            self.rows[ts] = (ts, INTERVAL_S, *steps)
        spool.close()
        if spool.dropped_total or spool.trouble:
            raise FaultError(f"{self.vm}: the backlog did not fit: {spool.trouble}")

    def start(self) -> None:
        """Starts it; it enrols by itself."""
        self._configure()
        self.program = self.programs.start(["fallow-agent", "run", "--config", str(self.config)], under=self.under)

    def enrol_again(self, data: Path) -> None:
        """Enrols under an id that is known already, which an admin of the aggregator on `data` approves if need be."""
        self._configure()
        argv = ["fallow-agent", "enroll", "--config", str(self.config), "--join-token-file", str(self.join_token)]
        if self.programs.finish(self.programs.start(argv), within_s=_WITHIN_S, accepted=(0, 1)):
            approve = ["fallow-aggregator", "token", "approve", self.vm, "--data", str(data)]
            self.programs.finish(self.programs.start(approve), within_s=_WITHIN_S)
            self.programs.finish(self.programs.start(argv), within_s=_WITHIN_S)

    def _configure(self) -> None:
        lines = [
            f'aggregator = "{self.url}"',
            f'state = "{self.state}"',
            f'vm_id = "{self.vm}"',
            f'interval = "{LIVE_INTERVAL_S}s"',
            f'join_token_file = "{self.join_token}"',
            *([f'ca = "{self.ca}"'] if self.ca else []),
            *([] if any(line.startswith("timeout") for line in self.settings) else ['timeout = "1s"']),
            *self.settings,
        ]
        self.config.write_text("\n".join(lines) + "\n")

    def stop(self) -> None:
        """SIGTERM. Raises: ProgramError: it did not end with 0."""
        self.running.process.terminate()
        self.programs.finish(self.running, within_s=_WITHIN_S)

    def kill(self) -> None:
        """SIGKILL."""
        os.killpg(self.running.process.pid, signal.SIGKILL)
        self.running.process.wait()

    def status(self) -> Status | None:
        """What it last told; None before the first time."""
        try:
            return read_status(self.state / "status.json")
        except (OSError, ConfigError, ValueError):
            return None

    def until(self, what: str, reached: Callable[[Status], object], *, within_s: float = _WITHIN_S) -> Status:
        """The first status that is as wanted. Raises: ProgramError: it ended, or took too long."""

        def found() -> Status | None:
            status = self.status()
            # Not what an earlier life told.
            is_its_own = status is not None and status.pid == self.running.process.pid
            return status if status is not None and is_its_own and reached(status) else None

        return self.programs.wait_until(found, running=[self.running], within_s=within_s, what=f"{self.vm}: {what}")

    def drain(self, *, within_s: float = _WITHIN_S) -> Status:
        """Waits until nothing but the newest sample waits, nothing is wrong, and this life had an ack."""
        return self.until(
            "an empty spool",
            lambda status: (
                status.spool_depth <= 1
                and status.trouble is None
                and (status.last_ack_s or 0) > status.started_s
                and status.sample_ts is not None
            ),
            within_s=within_s,
        )

    def live_ts(self) -> set[int]:
        """`ts` of every sample that it measured and spooled, acknowledged or not."""
        return {
            int(json.loads(line.partition(b" ")[2])["ts"])
            for segment in self.live_spool.glob("*.seg")
            # What follows the last end of line is being written.
            for line in segment.read_bytes().split(b"\n")[:-1]
        }

    def acknowledged_ts(self) -> set[int]:
        """The same, without what still waited when it was stopped."""
        status = self.status()
        live = sorted(self.live_ts())
        return set(live[: len(live) - (status.spool_depth if status is not None else 0)])

    @property
    def live_spool(self) -> Path:
        """Where what it measures waits."""
        return self._spool(LIVE_INTERVAL_S)

    @property
    def running(self) -> Program:
        """The program, which must have been started."""
        assert self.program is not None
        return self.program

    def _spool(self, interval_s: int) -> Path:
        return self.state / "spool" / self.vm / str(interval_s)


def make_join_token(programs: Programs, data: Path, path: Path, *, uses: int = 1_000) -> Path:
    """A file with a join token of the aggregator on `data`."""
    path.touch(mode=0o600)
    argv = ["fallow-aggregator", "join-token", "--data", str(data), "--uses", str(uses), "--ttl", "1h"]
    programs.finish(programs.start(argv, stdout=path), within_s=_WITHIN_S)
    return path


def stored_rows(data: Path, vm: str) -> list[tuple[Any, ...]]:
    """Raw rows of a VM's store, by `ts`; none where there is no store."""
    path = store_path(data, vm)
    if not path.exists():
        return []
    with closing(connect_read_only(path)) as store:
        return [*raw_rows(store)]


def tally_agents(data: Path, agents: Iterable[Agent], *, injections: int, notes: str = "", given_up: int = 0) -> Tally:
    """Agents that drained and were stopped, against the stores of a stopped aggregator.

    All that they spooled counts as acknowledged, but for what still waited at the end.

    Args: given_up: samples that each agent lost, rightly, and counted.
    Raises: FaultError: a store holds what nobody sent or is unsound, or an agent gave samples up.
    """
    acknowledged = stored = lost = doubled = 0
    for agent in agents:
        status = agent.status()
        if status is None or status.samples_dropped_total != given_up or status.samples_quarantined_total:
            raise FaultError(f"{agent.vm}: samples were given up: {status}")
        acked = agent.rows.keys() | agent.acknowledged_ts()
        rows = stored_rows(data, agent.vm)
        found = {row[0] for row in rows}
        unknown = found - agent.rows.keys() - agent.live_ts()
        if unknown:
            raise FaultError(f"{agent.vm}: {len(unknown)} samples are stored that it never spooled")
        wrong = {row[0] for row in rows if row[0] in agent.rows and row != agent.rows[row[0]]}
        problems = verify_store(store_path(data, agent.vm), agent.vm)
        if problems:
            raise FaultError(f"{agent.vm}: {problems[0]}")
        acknowledged += len(acked)
        stored += len(rows)
        lost += len(acked - found) + len(wrong)
        doubled += len(rows) - len(found) + max(0, _counted(data, agent.vm) - len(rows))
    return Tally(
        injections=injections, acknowledged=acknowledged, stored=stored, lost=lost, doubled=doubled, notes=notes
    )


def _counted(data: Path, vm: str) -> int:
    """Samples that the hours of a store say they are made of."""
    try:
        with closing(connect_read_only(store_path(data, vm))) as store:
            return int(store.execute("SELECT ifnull(sum(samples), 0) FROM hour").fetchone()[0])
    except sqlite3.OperationalError as error:
        raise FaultError(f"{vm}: no store: {error}") from error
