"""What happens in a history without the controller: to VMs, agents, hosts, clocks, settings and people's minds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from orchestrate.drivers.simulated_park import ParkVm
from orchestrate.groups import ReclaimSettings
from orchestrate.histories.oracle import Oracle
from orchestrate.histories.truth import DAY_S, DRIVER, HOUR_S, Agent, Truth
from orchestrate.inventory import Shield, VmRef, VmState
from orchestrate.records import Records, Rung
from reports.verdicts import Verdict


class Events:
    """Draws one after another. Each tells what it was, in words."""

    def __init__(self, truth: Truth, oracle: Oracle, records: Records, rng: random.Random) -> None:
        self._truth = truth
        self._oracle = oracle
        self._records = records
        self._rng = rng
        self._of_agents: list[Callable[[Agent], str]] = [
            self._wakes_up,
            self._calms_down,
            self._calms_down,
            self._is_judged_anew,
            self._is_kept,
            self._falls_silent,
            self._is_back,
            self._is_tagged,
            self._lies,
            self._loses_data,
        ]
        self._of_vms: list[Callable[[str], str]] = [
            self._is_deleted,
            self._is_made_anew,
            self._is_forced,
            self._reboots,
            self._is_shielded,
        ]
        self._of_all: list[Callable[[], str]] = [
            self._outage,
            self._end_of_outage,
            self._end_of_outage,
            self._clock_jumps,
            self._clock_is_right,
            self._clock_is_right,
            self._host_is_away,
            self._hosts_are_back,
            self._hosts_are_back,
            self.stop,
            self.stop,
            self._settings_change,
        ]

    def happen(self) -> str:
        """One event."""
        drawn = self._rng.random()
        agents, uuids = self._truth.agents, self._truth.site.guests
        if drawn < 0.5 and agents:
            agent = agents[self._rng.choice(list(agents))]
            return f"{agent.vm_id} {self._rng.choice(self._of_agents)(agent)}"
        if drawn < 0.65 and uuids:
            uuid = self._rng.choice(list(uuids))
            return f"{uuid} {self._rng.choice(self._of_vms)(uuid)}"
        return self._rng.choice(self._of_all)()

    def stop(self) -> str:
        """The kill switch is set, or taken away."""
        self._truth.stop = None if self._truth.stop is not None else "somebody said stop"
        return f"kill switch: {self._truth.stop}"

    # Of agents.

    def _wakes_up(self, agent: Agent) -> str:
        if self._rng.random() < 0.5:
            agent.users = self._rng.choice([1, 3])
            return "is logged in to"
        agent.cpu_ratio, agent.lied_since_s = 0.7, None
        self._use(agent.uuid, 0.7)
        return "works"

    def _calms_down(self, agent: Agent) -> str:
        agent.users, agent.cpu_ratio, agent.lied_since_s, agent.verdict = 0, 0.01, None, Verdict.IDLE
        self._use(agent.uuid, 0.01)
        return "is idle"

    def _is_judged_anew(self, agent: Agent) -> str:
        agent.verdict = self._rng.choice([v for v in Verdict if v is not agent.verdict])
        return f"is judged {agent.verdict.value}"

    def _is_kept(self, agent: Agent) -> str:
        agent.kept_until_s = self._truth.time.true_s + self._rng.choice([HOUR_S, DAY_S, 30 * DAY_S])
        if self._rng.random() < 0.5:
            # Its owner used the link of a notice.
            ref = VmRef(DRIVER, agent.uuid)
            now_s = self._truth.time.wall_s()
            self._records.drop_entry(ref, by="its owner", now_s=now_s, words="keep it")
        return "is to be kept"

    def _falls_silent(self, agent: Agent) -> str:
        agent.silent = True
        return "falls silent"

    def _is_back(self, agent: Agent) -> str:
        agent.silent, agent.lag_s = False, 20.0
        return "tells again"

    def _is_tagged(self, agent: Agent) -> str:
        tag = self._rng.choice(["fallow:keep", "fallow:keep", "fallow:pin"])
        if tag in agent.tags:
            agent.tags = tuple(each for each in agent.tags if each != tag)
        else:
            agent.tags = (*agent.tags, tag)
        return f"is tagged {agent.tags}"

    def _lies(self, agent: Agent) -> str:
        if agent.cpu_ratio < 0.2:
            agent.lied_since_s = self._truth.time.true_s
            self._use(agent.uuid, 0.9)
        return "works and does not say so"

    def _loses_data(self, agent: Agent) -> str:
        match self._rng.randrange(4):
            case 0:
                agent.coverage_ratio = self._rng.choice([None, 0.5, 0.99])
            case 1:
                agent.skew_s = self._rng.choice([None, 500.0, 0.0])
            case 2:
                agent.users = self._rng.choice([None, 0])
            case 3:
                agent.flags = self._rng.choice([(), ("flagged",)])
        return "has other data"

    # Of VMs.

    def _is_deleted(self, uuid: str) -> str:
        self._truth.site.remove(uuid)
        return "is deleted"

    def _is_made_anew(self, uuid: str) -> str:
        self._truth.remake(uuid)
        return "is deleted and made anew under its name"

    def _is_forced(self, uuid: str) -> str:
        state = self._rng.choice([VmState.RUNNING, VmState.RUNNING, VmState.OFF, VmState.PAUSED, VmState.SUSPENDED])
        if self._truth.site.guests[uuid].state is not state:
            self._truth.site.force(uuid, state)
            self._oracle.returned(uuid)
        return f"is made {state}"

    def _reboots(self, uuid: str) -> str:
        if self._truth.site.guests[uuid].state is VmState.RUNNING:
            self._truth.site.force(uuid, VmState.OFF)
            self._truth.site.force(uuid, VmState.RUNNING)
            self._oracle.returned(uuid)
        return "reboots"

    def _is_shielded(self, uuid: str) -> str:
        shields = frozenset({self._rng.choice(list(Shield))}) if self._rng.random() < 0.5 else frozenset()
        self._truth.site.change(uuid, lambda vm: replace(vm, shields=shields))
        return f"is shielded: {sorted(shields)}"

    def _use(self, uuid: str, cpu_ratio: float) -> None:
        def edit(vm: ParkVm) -> ParkVm:
            return replace(vm, cpu_ratio=cpu_ratio)

        if uuid in self._truth.site.guests:
            self._truth.site.change(uuid, edit)

    # Of everything.

    def _outage(self) -> str:
        if self._rng.random() < 0.3:
            self._truth.live = False
            return "the aggregator is down"
        share = self._rng.choice([0.3, 0.6, 1.0])
        for agent in self._truth.agents.values():
            if self._rng.random() < share:
                if self._rng.random() < 0.8:
                    agent.silent = True
                else:
                    agent.verdict = Verdict.ACTIVE if agent.verdict is Verdict.IDLE else Verdict.IDLE
        return f"an outage of {share:.0%}"

    def _end_of_outage(self) -> str:
        self._truth.live = True
        for agent in self._truth.agents.values():
            agent.silent = False
        return "everybody tells again"

    def _clock_jumps(self) -> str:
        jumps = [30.0, -30.0, 250.0, -100.0, HOUR_S, -HOUR_S, 400 * DAY_S, -400 * DAY_S]
        self._truth.time.offset_s = self._rng.choice(jumps)
        return f"the controllers' clock is off by {self._truth.time.offset_s:.0f} s"

    def _clock_is_right(self) -> str:
        self._truth.time.offset_s = 0.0
        return "the controllers' clock is right"

    def _host_is_away(self) -> str:
        host_id = self._rng.choice(list(self._truth.site.hosts))
        if self._rng.random() < 0.7:
            self._truth.site.cut(host_id)
            return f"{host_id} is not reached"
        self._truth.site.lose(host_id)
        for uuid, guest in self._truth.site.guests.items():
            if guest.host_id == host_id and guest.state is VmState.OFF:
                self._oracle.returned(uuid)
        return f"{host_id} loses its power"

    def _hosts_are_back(self) -> str:
        for host_id in list(self._truth.site.down):
            self._truth.site.mend(host_id)
        return "all hosts are back"

    def _settings_change(self) -> str:
        settings = self._truth.settings
        groups = tuple(
            replace(group, up_to=self._rng.choice(list(Rung)), grace_s=self._rng.choice([group.grace_s, DAY_S]))
            for group in settings.groups
        )
        changed: ReclaimSettings = replace(settings, groups=groups)
        self._truth.settings = changed
        self._truth.settings_version += 1
        return f"the settings allow {[group.up_to.value for group in groups]}"
