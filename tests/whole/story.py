"""What a history is made of: who there is, how it goes on, how it is mended, and what must hold at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path

from aggregator.catalogue import Catalogue, Labels
from aggregator.check import verify_store
from aggregator.store_files import store_path
from aggregator.tokens import TokenKeys
from aggregator.waits import State
from tests.whole.controller import Controller
from tests.whole.database import Database
from tests.whole.disk import Disk
from tests.whole.hub import Broken, Hub
from tests.whole.ledger import Ledger
from tests.whole.machine import DAY_S, START_S, Machine
from tests.whole.network import Network, Weather
from tests.whole.planted import Planted
from tests.whole.server import Aggregator, Site
from tests.whole.workers import Worker

_MENDING_S = 2 * 3600.0
_LOOK_S = 300.0
# Far enough for a sample to look as if it came from tomorrow.
_FAR_S = 23 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What is made once for many histories. Args: database: of the fleet. worker: as which all others are made."""

    database: Database
    worker: Worker


class Story:
    """One history as it goes on.

    Args:
        folder: an empty one. stage: what it shares with others.
    Attributes:
        machines: all VMs there ever were, clones too; `retired` of them run no more.
        twins: VMs as which two machines ever were.
        lied_s: how far off any clock ever was.
        mended: nothing goes wrong any more.
    """

    def __init__(self, hub: Hub, folder: Path, stage: Stage, planted: Planted) -> None:
        rng = hub.rng
        self.hub = hub
        self.folder = folder
        self.planted = planted
        self.ledger = Ledger(folder)
        self.database = database = stage.database
        database.renew()
        self.site = Site(
            data_dir=folder,
            disk=Disk(hub, self.ledger),
            database=self.database,
            keys=TokenKeys({"k1": b"0123456789abcdef0123456789abcdef"}),
            worker=stage.worker,
            flush_interval_s=rng.choice((300.0, 600.0, 900.0)),
            buffer_rows=rng.choice((600, 2_000, 10_000)),
            segment_bytes=rng.choice((2_000, 30_000, 1 << 20)),
            partitions=rng.choice((1, 2)),
            raw_retention_s=rng.choice((14 * DAY_S, 14 * DAY_S, 4 * 3600.0)),
        )
        self.ledger.raw_retention_s = self.site.raw_retention_s
        self.aggregator = Aggregator(self.site, hub, self.ledger, planted)
        self.network = Network(hub, self.aggregator, self.ledger)
        self.network.weather = Weather(latency_s=rng.choice((0.001, 0.05, 0.8)))
        self.machines: list[Machine] = []
        self.retired: set[str] = set()
        self.twins: set[str] = set()
        self.lied_s = 0.0
        self.mended = False
        self._at_steps: list[tuple[int, int, Callable[[], object]]] = []
        self._asked = 0
        self.events: Counter[str] = Counter()
        self.until_s = rng.choice((600.0, 1200.0, 2400.0))
        self._secrets = 0
        with self.database.reachable() as engine:
            catalogue = Catalogue(engine, make_secret=self._secret)
            self._join_token = catalogue.mint_join_token(now_s=START_S, ttl_s=10**7, uses=10_000, labels=Labels())
        self.controller = Controller(hub, self.aggregator, database.engine, self.ledger, planted.sighting)
        self._look()
        self.aggregator.start()
        bound = rng.choice((10_000, 10_000, 10))
        backlog_s = rng.choice((0.0, 0.0, 3600.0, 12 * 3600.0))
        for number in range(rng.randint(3, 8) if rng.random() < 0.3 else 3):
            machine = self.add_machine(f"vm-{number}", f"vm-{number}", begins_s=rng.uniform(0.0, 90.0))
            machine.hardware.max_samples = bound
            if backlog_s and rng.random() < 0.4:
                machine.fill(
                    [age_s for age_s in range(int(backlog_s), 0, -rng.choice((60, 600))) if rng.random() < 0.9]
                )

    def add_machine(self, name: str, vm: str, *, begins_s: float) -> Machine:
        """A VM that starts its agent after a while."""
        machine = Machine(
            name,
            vm,
            self.folder / "vms" / name,
            hub=self.hub,
            network=self.network,
            ledger=self.ledger,
            planted=self.planted.agents,
        )
        machine.join_token = self._join_token
        self.machines.append(machine)
        self.hub.call_later(begins_s, self.start, machine)
        return machine

    def start(self, machine: Machine) -> None:
        """Its agent begins, if it does not run."""
        if not machine.runs and machine.name not in self.retired:
            machine.start()

    def at_step(self, step: int, work: Callable[[], object]) -> None:
        """Between that step and the next."""
        self._asked += 1
        heappush(self._at_steps, (step, self._asked, work))

    def set_clock(self, offset_s: float) -> None:
        """The aggregator's wall clock is off by so much."""
        self.site.clock_offset_s = offset_s
        self.lied_s = max(self.lied_s, abs(offset_s))
        self.ledger.clock_is_right = not offset_s

    def help(self, machine: Machine) -> None:
        """A person looks at a VM that cannot get in: has it enrol anew, and approves of that."""
        agent = machine.agent
        if agent is None or not agent.status().enrolment_needed:
            return
        self.hub.tell(f"{machine.name} enrols anew")
        with self.database.reachable() as engine:
            catalogue = Catalogue(engine)
            for wait in catalogue.waits():
                if wait.vm == machine.vm and wait.state is State.WAITING:
                    now_s = START_S + self.hub.now_s
                    catalogue.decide(wait.vm, State.APPROVED, by="a person", now_s=now_s, request=wait.request)
        machine.person_enrols()
        machine.kill()
        machine.start()

    def revoke(self, vm: str) -> None:
        """An admin revokes the VM's tokens."""
        with self.database.reachable() as engine:
            catalogue = Catalogue(engine)
            record = catalogue.vm(vm)
            if record is not None and record.generation:
                catalogue.revoke(vm, "revoked", now_s=START_S + self.hub.now_s)
                self.ledger.revoked(vm, record.generation + 1, self.hub.now_s)

    def _look(self) -> None:
        """The controller's, now and then."""
        if self.hub.now_s:
            self.controller.look()
        self.hub.call_later(self.hub.rng.choice((60.0, 300.0, 600.0)), self._look)

    def mend(self) -> None:
        """Whatever was wrong is put right; the history goes on until all that waits has arrived."""
        hub, site = self.hub, self.site
        hub.tell("all is mended")
        self.mended = True
        self.network.weather = Weather(latency_s=0.002)
        disk = site.disk
        disk.capacity_bytes, disk.slow_s = None, 0.0
        disk.fails.clear()
        self.set_database(away=False)
        self.database.mute = 0
        self.set_clock(0.0)
        site.workers.slow_s, site.workers.dies = 0.0, 0
        site.workers.refused.clear()
        if self.aggregator.life is None:
            self.aggregator.start()
        for machine in self.machines:
            hardware = machine.hardware
            hardware.offset_s, hardware.full, hardware.sync_fails = 0.0, False, 0
            if machine.name != machine.vm:
                self.retire(machine)
            self.start(machine)
        until_s = hub.now_s + _MENDING_S
        self._advance(hub.now_s + _LOOK_S)
        while hub.now_s < until_s and not self._all_arrived():
            self._help()
            self._advance(hub.now_s + _LOOK_S)
        if not self._all_arrived():
            raise Broken(f"nothing is wrong any more, and after {_MENDING_S:.0f} s this waits: {self._waiting()}")
        for machine in self.machines:
            machine.kill()
        self._flush()

    def live(self) -> None:
        """With all its troubles, which its events bring."""
        self._advance(self.until_s)

    def check(self) -> None:
        """All of the oracle, over what there is now."""
        given: dict[str, int] = {}
        waiting: set[int] = set()
        for machine in self.machines:
            given[machine.vm] = given.get(machine.vm, 0) + machine.given.total + machine.joined
            waiting |= machine.waiting()
            if machine.given.quarantined and self.lied_s < _FAR_S:
                raise Broken(f"{machine.name} was told to give up {machine.given.quarantined} good samples")
            if machine.faults:
                raise Broken(f"the agent of {machine.name} failed {machine.faults} times on mistakes of its own")
        self.ledger.check_end(waiting=waiting, given_up=given)
        for vm in sorted(self.ledger.stored):
            if self.ledger.stored[vm]:
                problems = verify_store(store_path(self.folder, vm), vm)
                if problems:
                    raise Broken(f"the store of {vm}: {problems}")
        self._check_summaries()

    def counts(self) -> Counter[str]:
        """What happened, how often."""
        ledger = self.ledger
        return Counter(
            {
                **self.events,
                **self.network.counts,
                **self.aggregator.counts,
                "controller acts": self.controller.acts,
                "controller holds": self.controller.holds,
                "made": len(ledger.made),
                "acknowledged": len(ledger.acked),
                "stored": sum(map(len, ledger.stored.values())),
                "given up": sum(machine.given.total for machine in self.machines),
            }
        )

    def close(self) -> None:
        """Ends everything that still runs."""
        for machine in self.machines:
            machine.kill()
        if self.aggregator.life is not None:
            self.aggregator.life.process.die()
        self.ledger.close()
        self.database.close()

    def retire(self, machine: Machine) -> None:
        """It is switched off for good."""
        machine.kill()
        # Damage that its agent will never come across is counted by nobody.
        self.ledger.gone |= machine.flipped
        self.retired.add(machine.name)

    def set_database(self, *, away: bool) -> None:
        """The fleet database goes or comes."""
        if self.database.away != away:
            self.database.away = away
            self.ledger.database(away=away, now_s=self.hub.now_s)

    def _advance(self, until_s: float) -> None:
        self.hub.run(until_s, after_step=self._after_step)

    def _after_step(self) -> None:
        self.ledger.true_now_s = START_S + self.hub.now_s
        while self._at_steps and self._at_steps[0][0] <= self.hub.step:
            heappop(self._at_steps)[2]()

    def _help(self) -> None:
        """A person sees who cannot get in, and has them enrol; they do not wait for their next try."""
        for machine in self.machines:
            self.help(machine)

    def _waiting(self) -> list[str]:
        return [
            f"{machine.name} ({machine.agent.status().trouble if machine.agent else 'does not run'})"
            for machine in self.machines
            if machine.name not in self.retired and self._is_behind(machine)
        ]

    def _is_behind(self, machine: Machine) -> bool:
        waiting = machine.waiting()
        newest_s = START_S + self.hub.now_s - 180.0
        return any(self.ledger.made[serial].ts < newest_s for serial in waiting)

    def _all_arrived(self) -> bool:
        life = self.aggregator.life
        return life is not None and life.not_ready() is None and not self._waiting()

    def _flush(self) -> None:
        """Twice: what the first finds in the making, the second stores."""
        for _ in range(2):
            life = self.aggregator.life
            assert life is not None
            done: list[object] = []
            life.flusher.flush(all_figures=True).addCallback(life.flusher.until_written).addBoth(done.append)
            self._advance(self.hub.now_s + 60.0)
            failures = getattr(done[0], "failures", done) if done else "it does not end"
            if failures:
                raise Broken(f"nothing is wrong any more, and a flush fails: {failures}")
            life.check()

    def _check_summaries(self) -> None:
        pending = self.folder / "summaries.pending"
        if pending.exists() and pending.read_text():
            raise Broken(f"summaries are owed for ever: {pending.read_text().split()}")
        with self.database.reachable() as engine:
            known = {record.vm: record for record in Catalogue(engine).vms()}
        for vm, rows in self.ledger.stored.items():
            if rows and known[vm].newest_s != max(rows):
                raise Broken(f"the summary of {vm} ends at {known[vm].newest_s}, its store at {max(rows)}")

    def _secret(self) -> str:
        self._secrets += 1
        return f"secret-{self._secrets}"
