"""A controller that looks at the fleet now and then: may it act on a VM? The real guards say, over the real figures.

Of the guards only those run whose facts come from the fleet: doubt and outage. What a controller does then has
histories of its own, `orchestrate.histories`. No history is long enough for a verdict: each VM counts as idle, so that
it is the age, the clocks and the flags of its figures that must keep the controller from acting.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import sqlalchemy as sa

from aggregator.admin_client import AdminAnswer, AdminUnavailable
from orchestrate import clauses, outage
from orchestrate.fleet_source import Judging, read_fleet
from orchestrate.groups import ReclaimSettings
from orchestrate.inventory import Inventory, Vm, VmRef, VmState
from orchestrate.live_source import LiveSource
from orchestrate.sighting import Fleet, Sighting
from orchestrate.world import make_world
from reports.policies import DEFAULT_POLICY, find_policy
from reports.verdicts import Settings, Verdict
from tests.whole.hub import Broken, Hub
from tests.whole.ledger import Ledger
from tests.whole.machine import START_S
from tests.whole.server import Aggregator

_SETTINGS = ReclaimSettings(min_days=0.001, recent_cpu_ratio=1.0, outage_ratio=0.4)
# How far figures that still count as fresh may be from it: two clocks that are off by what is allowed, and the way.
_SLACK_S = 300.0


class Door:
    """The aggregator's admin door, as far as a controller asks it."""

    place = "the aggregator"

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator

    def get(self, target: str) -> AdminAnswer:
        """`/v1/live`. Raises: AdminUnavailable: it is down."""
        life = self._aggregator.life
        if life is None:
            raise AdminUnavailable("nobody listens")
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        document = {"now_s": life.wall_s(), "next": None, "vms": life.buffer.live(0.0, vm=query.get("vm"))}
        return AdminAnswer(status=200, body=json.dumps(document).encode())

    def decoded(self, answer: AdminAnswer) -> object:
        """Of JSON."""
        return json.loads(answer.body)


class Controller:
    """Looks, and would act on whomever its guards leave.

    Args: sighting: as it takes it; a planted bug changes it.
    Attributes: acts: how often it would have acted. holds: how often something held it back.
    """

    def __init__(
        self,
        hub: Hub,
        aggregator: Aggregator,
        engine: sa.Engine,
        ledger: Ledger,
        sighting: Callable[[Sighting, float], Sighting],
    ) -> None:
        self._hub = hub
        self._engine = engine
        self._ledger = ledger
        self._sighting = sighting
        self._live = LiveSource(Door(aggregator), clock=self._now_s)
        self._judging = Judging(
            settings=Settings(window_days=1),
            policies=(find_policy(DEFAULT_POLICY),),
            choose=lambda _sighting: DEFAULT_POLICY,
        )
        self.acts = self.holds = 0

    def look(self) -> None:
        """At all VMs. Raises: Broken: it would act on doubt."""
        try:
            fleet = read_fleet(self._engine, self._live, self._judging, clock=self._now_s, all_minutes=True)
        except sa.exc.OperationalError:
            self.holds += 1
            return
        now_s = self._now_s()
        sightings = {vm_id: self._idle(one, now_s) for vm_id, one in fleet.sightings.items()}
        vms = tuple(_vm(vm_id) for vm_id in sightings)
        world = make_world(
            now_s=now_s,
            fleet=replace(fleet, sightings=sightings),
            inventories=[Inventory(driver="lab", read_s=now_s, hosts=(), vms=vms)],
            capabilities={},
        )
        if outage.look(world, _SETTINGS).refusals:
            self.holds += 1
            return
        self._check_outage(fleet)
        for vm in vms:
            if clauses.on_doubt(world.scene(vm.ref), None, _SETTINGS):
                self.holds += 1
            else:
                self.acts += 1
                self._check_doubt(vm.ref.uuid)

    def _idle(self, sighting: Sighting, now_s: float) -> Sighting:
        minutes = tuple(replace(one, users=0) for one in sighting.minutes)
        return self._sighting(replace(sighting, verdict=Verdict.IDLE, coverage_ratio=1.0, minutes=minutes), now_s)

    def _check_doubt(self, vm: str) -> None:
        ledger = self._ledger
        age_s = self._hub.now_s - ledger.heard_s.get(vm, float("-inf"))
        if age_s > _SETTINGS.fresh_s + _SLACK_S:
            raise Broken(f"{vm} is suspended, and its newest sample was made {age_s:.0f} s ago")
        offset_s = min(ledger.offsets_s[vm], key=abs)
        if abs(offset_s) > _SETTINGS.max_skew_s + _SLACK_S:
            raise Broken(f"{vm} is suspended, and its clock is {offset_s:.0f} s off")
        if vm in ledger.in_conflict:
            raise Broken(f"{vm} is suspended, and two machines push as it")

    def _check_outage(self, fleet: Fleet) -> None:
        if not fleet.live:
            raise Broken("the aggregator does not answer, and that is no outage")
        ledger = self._ledger
        # Of what is in the journal alone, or owed to the database, nobody knows while the journal is replayed; and
        # what a wrong clock says is no silence.
        heard = {
            vm: at_s
            for vm, at_s in ledger.heard_s.items()
            if (one := fleet.sightings.get(vm)) is not None
            and one.newest_s is not None
            and max(map(abs, ledger.offsets_s[vm])) < _SLACK_S
        }
        silent = [vm for vm, at_s in heard.items() if self._hub.now_s - at_s > _SETTINGS.fresh_s + _SLACK_S]
        if len(silent) > len(heard) * 0.5:
            raise Broken(f"{silent} of {len(heard)} are silent, and that is no outage")

    def _now_s(self) -> float:
        return START_S + self._hub.now_s


def _vm(vm_id: str) -> Vm:
    ref = VmRef("lab", vm_id)
    return Vm(ref=ref, name=vm_id, host_id="h0", state=VmState.RUNNING, vcpus=2, mem_bytes=8 << 30)
