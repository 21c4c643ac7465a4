"""What is true in a history: VMs that are used or not, agents that tell of it well or badly, hypervisors, a clock.

The controller sees it through `Truth.fleet` and a driver alone. The oracle looks at all of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from orchestrate.drivers.simulated_park import Park, ParkHost, ParkVm
from orchestrate.drivers.simulated_site import SimulatedSite
from orchestrate.drivers.simulated_values import Guest
from orchestrate.groups import Approve, Group, MoveSettings, ReclaimSettings
from orchestrate.inventory import Shield, VmState
from orchestrate.limits import Limits
from orchestrate.records import Rung
from orchestrate.sighting import Fleet, Minute, Sighting
from reports.verdicts import Verdict

DRIVER = "lab"
START_S = 1_700_000_000.0
HOUR_S = 3600.0
DAY_S = 86_400.0
MINUTE_S = 60.0
_GIB = 1 << 30
# A VM that was not heard of for longer is judged no more.
_SILENT_S = 3600.0
_MINUTES = 2


class Time:
    """Simulated hypervisors go by `now_s`; the controllers' clock may be off.

    Attributes: ticks: told of every change.
    """

    def __init__(self) -> None:
        self.true_s = START_S
        self.offset_s = 0.0
        self.ticks: list[Callable[[float], None]] = []

    def now_s(self) -> float:
        """What time it is."""
        return self.true_s

    def wall_s(self) -> float:
        """What the controllers think it is."""
        return self.true_s + self.offset_s

    def sleep_until(self, at_s: float) -> None:
        if at_s > self.true_s:
            self.true_s = at_s
            for tick in self.ticks:
                tick(at_s)

    def pass_(self, span_s: float) -> None:
        """Lets time go by."""
        self.sleep_until(self.true_s + span_s)

    def wake(self) -> None:
        """Nobody else sleeps."""


@dataclass(slots=True, kw_only=True)
class Agent:
    """One VM's agent and what is known of the VM beside its hypervisor.

    Args:
        uuid: of the VM that it runs in; its own id may be written otherwise.
        verdict: as judged by its history.
        began_s: of its oldest sample; None: it never reported. newest_s: of its newest.
        coverage_ratio, skew_s, users: None is not known.
        cpu_ratio, net_bytes_per_s: as it tells them.
        silent: it tells nothing, whatever its VM does.
        kept_until_s: an exemption.
    """

    vm_id: str
    uuid: str
    owner: str | None
    tags: tuple[str, ...]
    verdict: Verdict
    began_s: float | None
    newest_s: float | None
    coverage_ratio: float | None
    skew_s: float | None
    cpu_ratio: float
    net_bytes_per_s: float
    users: int | None = 0
    lag_s: float = 20.0
    silent: bool = False
    boot: int = 1
    flags: tuple[str, ...] = ()
    kept_until_s: float | None = None
    lied_since_s: float | None = None

    def is_kept(self, now_s: float) -> bool:
        """An exemption is in force."""
        return self.kept_until_s is not None and now_s < self.kept_until_s

    def told_verdict(self, now_s: float) -> Verdict:
        """What is told of it. Args: now_s: by whose clock it is judged."""
        if self.is_kept(now_s):
            return Verdict.EXCLUDED
        if self.newest_s is None or now_s - self.newest_s > _SILENT_S:
            return Verdict.INSUFFICIENT
        return self.verdict

    def sighting(self, now_s: float) -> Sighting:
        """What the agents' side says of it. Args: now_s: by whose clock it is judged."""
        newest_s, began_s = self.newest_s, self.began_s
        return Sighting(
            vm_id=self.vm_id,
            name=self.vm_id,
            owner=self.owner,
            mail=None if self.owner is None else f"{self.owner}@example.org",
            tags=self.tags,
            macs=(),
            addresses=(),
            policy="fallow",
            verdict=self.told_verdict(now_s),
            cause="in a history",
            sentence="in a history",
            score=1.0,
            confidence_ratio=1.0,
            days=None if newest_s is None or began_s is None else (newest_s - began_s) / DAY_S,
            coverage_ratio=self.coverage_ratio,
            newest_s=newest_s,
            skew_s=self.skew_s,
            minutes=tuple(self._minutes()),
            boot=str(self.boot),
            kept="somebody until later" if self.is_kept(now_s) else None,
            flags=self.flags,
        )

    def _minutes(self) -> Iterator[Minute]:
        if self.newest_s is not None:
            for back in range(_MINUTES - 1, -1, -1):
                yield Minute(
                    ts_s=self.newest_s - back * MINUTE_S,
                    interval_s=MINUTE_S,
                    cpu_busy_ratio=self.cpu_ratio,
                    mem_used_bytes=1e9,
                    users=self.users,
                    net_rx_bytes_per_s=self.net_bytes_per_s,
                    net_tx_bytes_per_s=self.net_bytes_per_s,
                )


@dataclass(slots=True, kw_only=True)
class Truth:
    """All of it.

    Args:
        agents: by their ids.
        settings: what people want; the controllers are told the same unless a test breaks them.
        settings_version: counts their changes.
        stop: the kill switch. live: the aggregator answers.
    """

    time: Time
    site: SimulatedSite
    agents: dict[str, Agent]
    settings: ReclaimSettings
    settings_version: int = 1
    stop: str | None = None
    live: bool = True
    made: int = 0
    # Of each VM, how often it had started when its agent last told.
    _by_uuid: dict[str, list[Agent]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for agent in self.agents.values():
            self._by_uuid.setdefault(agent.uuid, []).append(agent)
        self.time.ticks.append(self.tick)
        self.tick(self.time.true_s)

    def tick(self, now_s: float) -> None:
        """Agents in running VMs tell of the last minutes."""
        self.site.advance(now_s)
        guests = self.site.guests
        for agent in self.agents.values():
            guest = guests.get(agent.uuid)
            if guest is not None and guest.state is VmState.RUNNING and not agent.silent and agent.began_s is not None:
                # A guest that is being saved or moved goes on telling until it stands still.
                agent.newest_s = now_s - agent.lag_s
                agent.boot = guest.boot

    def agents_of(self, uuid: str) -> list[Agent]:
        """Whoever claims to run in a VM."""
        return self._by_uuid.get(uuid, [])

    def guest(self, uuid: str) -> Guest | None:
        """The VM itself."""
        return self.site.guests.get(uuid)

    def fleet(self, wall_s: float) -> Fleet:
        """What the agents' side shows."""
        sightings = {agent.vm_id: agent.sighting(wall_s) for agent in self.agents.values()}
        problem = None if self.live else "the aggregator does not answer"
        return Fleet(read_s=wall_s, sightings=sightings, live=self.live, problem=problem)

    def group_of(self, agent: Agent) -> Group | None:
        """By its tag: in a history no other thing makes a group."""
        return next((group for group in self.settings.groups if group.tags[0] in agent.tags), None)

    def remake(self, uuid: str) -> None:
        """Somebody deletes a VM and makes another one of its name, with a UUID of its own and no history."""
        old = self.site.guests[uuid].vm
        self.site.remove(uuid)
        self.made += 1
        fresh = f"{uuid}-again-{self.made}"
        self.site.add(
            ParkVm(
                uuid=fresh,
                name=old.name,
                host_id=old.host_id,
                vcpus=old.vcpus,
                mem_bytes=old.mem_bytes,
                owner=old.owner,
                tags=old.tags,
                created_s=self.time.true_s,
                state=VmState.RUNNING,
            )
        )


def draw_truth(rng: random.Random) -> Truth:
    """A small site with its fleet, most of it idle."""
    time = Time()
    cores = rng.choice([8, 64])
    hosts = tuple(ParkHost(host_id=f"h{n}", cores=cores, mem_bytes=512 * _GIB) for n in range(rng.randint(1, 4)))
    settings = draw_settings(rng)
    vms: list[ParkVm] = []
    agents: dict[str, Agent] = {}
    sound = rng.choice([0.4, 0.8, 0.95, 1.0])
    for number in range(min(rng.randint(1, 30), rng.randint(1, 30), rng.randint(1, 30))):
        uuid = f"vm-{number}"
        agent = _draw_agent(rng, uuid, sound, settings)
        outside = agent.cpu_ratio
        if rng.random() < 0.04 * (1.0 - sound):
            outside, agent.lied_since_s = 0.6, START_S - DAY_S
        vms.append(_draw_vm(rng, uuid, agent, rng.choice(hosts).host_id, outside))
        if rng.random() > 0.03:
            agents[agent.vm_id] = agent
            if rng.random() < 0.03 * (1.0 - sound):
                # Another agent says that it is the same VM.
                twin = _draw_agent(rng, uuid, sound, settings)
                twin.vm_id = uuid.upper()
                agents[twin.vm_id] = twin
    site = SimulatedSite(Park(hosts=hosts, vms=tuple(vms)), now_s=START_S, driver=DRIVER)
    return Truth(time=time, site=site, agents=agents, settings=settings)


def draw_settings(rng: random.Random) -> ReclaimSettings:
    """Groups by the tags `g:0`, `g:1` …, and limits that are easily met."""
    rungs = rng.choices(list(Rung), weights=[1, 1, 1, 5, 6], k=rng.randint(1, 3))
    groups = tuple(
        Group(
            name=f"g{number}",
            tags=(f"g:{number}",),
            up_to=rung,
            grace_s=rng.choice([0.0, 6 * HOUR_S, DAY_S, 7 * DAY_S]),
            stop_grace_s=rng.choice([HOUR_S, DAY_S, 30 * DAY_S]),
            unknown_owner=rng.random() < 0.3,
            approve=rng.choice([Approve.AUTO, Approve.AUTO, Approve.PERSON]),
        )
        for number, rung in enumerate(rungs)
    )
    limits = Limits(
        run=rng.choice([1, 2, 5, 10]), hour=rng.choice([1, 3, 20]), host=rng.choice([1, 3, 5]), owner=rng.choice([1, 5])
    )
    return ReclaimSettings(
        groups=groups,
        batch=rng.choice([None, 1, 1, 2, 5]),
        outage_ratio=rng.choice([0.1, 0.3, 0.6]),
        limits=limits,
        relief=MoveSettings(allowed=rng.random() < 0.7, approve=rng.choice(list(Approve))),
    )


def _draw_agent(rng: random.Random, uuid: str, sound: float, settings: ReclaimSettings) -> Agent:
    """An agent of a VM that is idle by all signs with the probability `sound`, else wrong in some way."""
    agent = Agent(
        vm_id=uuid,
        uuid=uuid,
        owner=rng.choice(["ada", "bob", "eve"]),
        tags=(f"g:{rng.randrange(len(settings.groups))}",),
        verdict=Verdict.IDLE,
        began_s=START_S - rng.choice([14.1, 20.0, 40.0]) * DAY_S,
        newest_s=START_S,
        coverage_ratio=rng.choice([0.95, 0.99, 1.0]),
        skew_s=rng.choice([0.0, 0.2, -100.0, 120.0]),
        cpu_ratio=rng.choice([0.0, 0.01, 0.03, 0.1]),
        net_bytes_per_s=rng.choice([0.0, 50.0, 2000.0]),
    )
    if rng.random() < 0.1:
        agent.tags = (*agent.tags, "fallow:pin")
    if rng.random() >= sound:
        _spoil(rng, agent)
    return agent


def _spoil(rng: random.Random, agent: Agent) -> None:
    """One thing about it speaks against acting."""
    spoiled: dict[str, list[object]] = {
        "verdict": [verdict for verdict in Verdict if verdict is not Verdict.IDLE],
        "began_s": [None, START_S - 3 * DAY_S, START_S - 13.9 * DAY_S],
        "coverage_ratio": [None, 0.0, 0.949],
        "skew_s": [None, 121.0, -7200.0],
        "cpu_ratio": [0.11, 0.5],
        "users": [None, 1, 7],
        "silent": [True],
        "newest_s": [None, START_S - 400.0, START_S - 3 * DAY_S],
        "lag_s": [299.0, 301.0, 900.0],
        "flags": [("identity conflict",)],
        "kept_until_s": [START_S + HOUR_S, START_S + 5 * DAY_S, START_S + 100 * DAY_S],
        "owner": [None],
        "tags": [(), (*agent.tags, "fallow:keep")],
    }
    name = rng.choice(list(spoiled))
    setattr(agent, name, rng.choice(spoiled[name]))


def _draw_vm(rng: random.Random, uuid: str, agent: Agent, host_id: str, outside: float) -> ParkVm:
    odd = rng.random()
    return ParkVm(
        uuid=uuid,
        name=f"name-{rng.randrange(8)}",
        host_id=host_id,
        vcpus=rng.choice([1, 2, 8]),
        mem_bytes=rng.choice([1, 4, 16]) * _GIB,
        owner=agent.owner,
        created_s=rng.choice([None, START_S - 100 * DAY_S]) if odd > 0.03 else START_S - 5 * DAY_S,
        shields=frozenset({rng.choice(list(Shield))}) if 0.03 < odd < 0.06 else frozenset(),
        state=VmState.RUNNING if odd < 0.95 else rng.choice([VmState.OFF, VmState.PAUSED, VmState.SUSPENDED]),
        cpu_ratio=outside,
        net_bytes_per_s=agent.net_bytes_per_s,
        deaf=0.06 < odd < 0.08,
    )
