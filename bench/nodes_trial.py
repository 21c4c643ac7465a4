"""Several aggregators behind HAProxy on PostgreSQL under load, while each part is taken away in turn.

One aggregator is killed and comes back, one is drained and restarted, the database is away for a while. All that was
acknowledged is remembered, and in the end everything is flushed and joined.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from bench import haproxy
from bench.nodes_cluster import Cluster
from bench.nodes_compare import Verdict, judge
from bench.nodes_driver import NodesDriver, PacedLedger
from bench.outcome import Say
from bench.postgres import PostgresServer, postgres_server
from bench.programs import ProgramError, Programs
from bench.tree import cpu_s

NAMES = ("one", "two", "three")
_SLICE_S = 0.25
_HOUR_S = 3600
# Samples begin so long before an hour ends that hours close while they come.
_BEGIN_S = 15 * 60
_LAST_MINUTE = 24 * 60
_SETTLE_WITHIN_S = 120.0
_SEEN_WITHIN_S = 30.0
# It is asked for more than the servers of other tests are, and loses no commit when it crashes.
_POSTGRES = {"shared_buffers": "128MB", "max_wal_size": "1GB", "autovacuum": "on", "synchronous_commit": "on"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How large and how long.

    Attributes:
        calm_s: of load between two faults.
        away_s: how long an aggregator is away.
        database_away_s: how long the database is.
        options: of each aggregator.
    """

    vms: int
    connections: int
    pushes_per_s: float
    calm_s: float
    away_s: float
    database_away_s: float
    seed: int
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What the faults did, before anything is compared. Times are seconds.

    Attributes:
        out_s: from the kill until HAProxy sent nothing more to the aggregator.
        database_away_pushes: acknowledged while the database was away.
        largest_parts: histories of which two aggregators held some, at most at one time.
        join_s: from the last flush until none was left.
        cpu_s: of the aggregators with their workers, until all was flushed and joined.
        proxy_cpu_s: of HAProxy.
    """

    out_s: float
    drained_s: float
    database_away_pushes: int
    largest_parts: int
    flush_s: float
    join_s: float
    cpu_s: float
    proxy_cpu_s: float
    seconds: float


class Trial:
    """Everything that runs, from `trial`.

    Attributes:
        largest_parts: histories of which two aggregators held some, at most at one of the looks.
    """

    def __init__(
        self, plan: Plan, server: PostgresServer, url: str, cluster: Cluster, programs: Programs, folder: Path, say: Say
    ) -> None:
        self.plan = plan
        self.cluster = cluster
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)
        self.server = server
        self._say = say
        cluster.start()
        self.place, self._proxy = haproxy.start_somewhere(programs, folder, cluster.addresses)
        self.ledgers = ledgers_of(plan.vms, cluster)
        self.driver = NodesDriver(
            self.place.address, ledgers=self.ledgers, connections=plan.connections, draw=random.Random(plan.seed)
        )
        self.largest_parts = 0

    def run(self) -> Passed:
        """Load, faults, and the end of both. Raises: DriveError, ProgramError, OSError: something did not go on."""
        began_s = time.monotonic()
        self.calm("all three run")
        out_s = self.kill("two")
        drained_s = self.drain("three")
        away_pushes = self.without_database()
        self.calm("all three run again")
        seconds = time.monotonic() - began_s
        flush_s, join_s = self.finish()
        return Passed(
            out_s=out_s,
            drained_s=drained_s,
            database_away_pushes=away_pushes,
            largest_parts=self.largest_parts,
            flush_s=flush_s,
            join_s=join_s,
            cpu_s=self.cluster.cpu_s(),
            proxy_cpu_s=cpu_s(self._proxy.process.pid),
            seconds=seconds,
        )

    def finish(self) -> tuple[float, float]:
        """The last answers, the last flush, the last joins, and the end of all aggregators; seconds of the middle two.

        Raises: DriveError, ProgramError: something is left undone.
        """
        self._say("the last answers")
        self.driver.settle(_SETTLE_WITHIN_S)
        self.driver.close()
        began_s = time.monotonic()
        self.cluster.flush_all()
        flush_s = time.monotonic() - began_s
        self._count_parts()
        self._say(f"flushed in {flush_s:.1f} s, {self.cluster.parts(self.engine).parts} histories still in parts")
        join_s = self.cluster.wait_until_joined(self.engine, within_s=max(120.0, 0.1 * self.plan.vms))
        self.cluster.stop()
        return flush_s, join_s

    def judge(self, folder: Path, *, verify_every: int) -> Verdict:
        """What is stored after `finish`; the arguments are those of `nodes_compare.judge`."""
        return judge(self.cluster, self.engine, self.ledgers, folder, verify_every=verify_every, say=self._say)

    def close(self) -> None:
        """Lets the connections go."""
        self.driver.close()
        self.engine.dispose()

    def calm(self, what: str) -> None:
        """Load for a while. Args: what: for people."""
        self._say(f"{what}: {self.driver.sent.acknowledged:,} pushes acknowledged")
        self.push(self.plan.calm_s)
        self._count_parts()

    def push(self, seconds: float) -> int:
        """Load for so long; how many pushes were acknowledged."""
        before = self.driver.sent.acknowledged
        self.driver.run(seconds, pushes_per_s=self.plan.pushes_per_s)
        return self.driver.sent.acknowledged - before

    def kill(self, name: str) -> float:
        """Kills one, and starts it again after a while; how long until HAProxy had it out."""
        self._say(f"{name} is killed")
        self.cluster.kill(name)
        began_s = time.monotonic()
        self.push_until(f"{name} is out", lambda: self._state(name).startswith("DOWN"))
        out_s = time.monotonic() - began_s
        must(self.push(self.plan.away_s), f"no push is acknowledged while {name} is away")
        self.start_again(name)
        return out_s

    def drain(self, name: str) -> float:
        """Drains one, ends it and starts it again after a while; how long until HAProxy had it out."""
        self._say(f"{name} is drained")
        self.meanwhile(lambda: self.cluster.drain(name))
        began_s = time.monotonic()
        self.push_until(f"{name} is out", lambda: self._state(name).startswith("DOWN"))
        drained_s = time.monotonic() - began_s
        self.push(self.plan.away_s / 2)
        self.meanwhile(lambda: self.cluster.stop(name))
        self.push(self.plan.away_s / 2)
        self.start_again(name)
        return drained_s

    def start_again(self, name: str) -> None:
        """Starts one that was ended, and pushes until it gets pushes."""
        self._say(f"{name} starts again")
        self.meanwhile(lambda: self.cluster.start(name))
        self.push_until(f"{name} takes pushes", lambda: self._state(name).startswith("UP"))
        self.calm(f"{name} is back")

    def without_database(self) -> int:
        """Stops the database for a while; how many pushes were acknowledged meanwhile."""
        self._say(f"the database stops for {self.plan.database_away_s:g} s")
        self.server.stop()
        pushes = self.push(self.plan.database_away_s)
        must(pushes, "no push is acknowledged while the database is away")
        for node in self.cluster.nodes.values():
            must(self._state(node.name).startswith("UP"), f"{node.name} is out because the database is away")
        self.server.start()
        return pushes

    def _state(self, name: str) -> str:
        return haproxy.states(self.place)[name]

    def push_until(self, what: str, found: Callable[[], bool]) -> None:
        """Pushes until it is found. Raises: ProgramError: it is not in time."""
        ends_s = time.monotonic() + _SEEN_WITHIN_S
        while not found():
            must(time.monotonic() < ends_s, f"not within {_SEEN_WITHIN_S:g} s: {what}")
            self.push(_SLICE_S)

    def meanwhile(self, work: Callable[[], object]) -> None:
        """Pushes while `work` is done in a thread. Raises: whatever it raises."""
        failed: list[Exception] = []

        def do() -> None:
            try:
                work()
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=do, daemon=True)
        thread.start()
        while thread.is_alive():
            self.push(_SLICE_S)
        if failed:
            raise failed[0]

    def _count_parts(self) -> None:
        self.largest_parts = max(self.largest_parts, self.cluster.parts(self.engine).parts)


def ledgers_of(vms: int, cluster: Cluster) -> list[PacedLedger]:
    """So many VMs, known to every node of the cluster, which have sent nothing."""
    start_s = int(time.time()) // _HOUR_S * _HOUR_S - 2 * _HOUR_S - _BEGIN_S
    ids = (f"{salt:08x}-6f9c-4b1e-8d2a-3c4d5e6f7a8b" for salt in range(vms))
    return [
        PacedLedger(vm, cluster.keys.make(vm, 1), salt=salt, start_s=start_s, last_minute=_LAST_MINUTE)
        for salt, vm in enumerate(ids)
    ]


@contextmanager
def trial(plan: Plan, folder: Path, programs: Programs, say: Say) -> Iterator[Trial]:
    """A database, three aggregators and HAProxy that run. Raises: PostgresAbsent, ProxyAbsent, ProgramError."""
    with ExitStack() as stack:
        haproxy.program()
        server = stack.enter_context(postgres_server(_POSTGRES))
        url = stack.enter_context(server.database())
        stack.callback(programs.stop_all)
        cluster = Cluster(programs, folder / "nodes", names=NAMES, url=url, options=plan.options)
        made = Trial(plan, server, url, cluster, programs, folder, say)
        stack.callback(made.close)
        yield made


def must(holds: object, why: str) -> None:
    """Raises: ProgramError: it does not hold."""
    if not holds:
        raise ProgramError(why)
