"""The controller as a history runs it: the real planner, guards, executor and reconciling, as the service has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from orchestrate.checks import FreshChecks
from orchestrate.executor import Executor, Result
from orchestrate.groups import Approve
from orchestrate.histories.sources import HistorySources
from orchestrate.histories.truth import DRIVER
from orchestrate.histories.watched import Setting, WatchedDriver
from orchestrate.inventory import Vm, VmRef
from orchestrate.moves import plan_moves
from orchestrate.orders import Timeouts
from orchestrate.plan import Plan, PlanKind, Step
from orchestrate.reclaim import Reclaim, plan_reclaim
from orchestrate.reconcile import reconcile
from orchestrate.records import Lease, StaleLease
from orchestrate.sources import Sources

LEASE_LIFE_S = 120.0
_TIMEOUTS = Timeouts()


class Controller:
    """One process. After a crash another one takes its place, under another name."""

    def __init__(self, who: str, setting: Setting) -> None:
        self.who = who
        self._setting = setting
        self._driver = WatchedDriver(who, setting)
        self._sources = HistorySources(who, setting, self._driver)

    def watch(self) -> None:
        """What the service does now and then: looks, and applies what needs no approval."""
        lease = self._lead()
        if lease is not None:
            plan = self._planned(approve=Approve.AUTO).plan
            if plan.steps:
                self._run(plan, lease, unattended=True)
            self._release(lease)

    def plan(self, top: int | None) -> Plan:
        """What a person sees; nothing is done."""
        return self._planned(top=top).plan

    def apply(self, plan: Plan) -> Result | None:
        """What a person asks for; None: somebody else leads, or it was not to be."""
        lease = self._lead()
        if lease is None:
            return None
        result = self._run(plan, lease, unattended=False)
        self._release(lease)
        return result

    def relieve(self) -> Plan:
        """Moves off hot hosts, as a person sees them."""
        setting, sources = self._setting, cast(Sources, self._sources)
        plan = plan_moves(sources, sources.world(all_minutes=True), PlanKind.RELIEF, made_by=self.who).plan
        if plan.steps:
            setting.records.add_plan(plan)
            setting.oracle.previewed(plan)
        return plan

    def live(self) -> Mapping[VmRef, Vm]:
        """VMs as they are."""
        inventories, _ = self._sources.look()
        return {vm.ref: vm for inventory in inventories for vm in inventory.vms}

    def _planned(self, *, top: int | None = None, approve: Approve | None = None) -> Reclaim:
        setting, config = self._setting, self._sources.config
        world = self._sources.world()
        found = plan_reclaim(
            world,
            config.reclaim,
            made_by=self.who,
            settings_sha256=config.settings_sha256,
            top=top,
            approve=approve,
        )
        setting.oracle.looked(world.now_s, believed=found.seen is not None)
        now_s = setting.truth.time.wall_s()
        for drop in found.drops:
            setting.records.drop_entry(drop.ref, by=self.who, now_s=now_s, words=drop.words)
        if found.seen is not None:
            setting.records.put_seen(found.seen)
        if found.plan.steps:
            setting.records.add_plan(found.plan)
            setting.oracle.previewed(found.plan)
        return found

    def _lead(self) -> Lease | None:
        time, records = self._setting.truth.time, self._setting.records
        lease = records.acquire(self.who, now_s=time.wall_s(), life_s=LEASE_LIFE_S)
        if lease is None:
            return None
        try:
            reconcile(
                records,
                {DRIVER: self._driver},
                lease,
                by=self.who,
                clock=time.wall_s,
                timeouts=_TIMEOUTS,
                lease_life_s=LEASE_LIFE_S,
            )
        except StaleLease:
            return None
        return lease

    def _release(self, lease: Lease) -> None:
        try:
            self._setting.records.release(lease, now_s=self._setting.truth.time.wall_s())
        except StaleLease:
            return

    def _run(self, plan: Plan, lease: Lease, *, unattended: bool) -> Result | None:
        setting = self._setting
        checks = FreshChecks(cast(Sources, self._sources), unattended=unattended)
        executor = Executor(
            setting.records,
            {DRIVER: self._driver},
            checks,
            notify=self._notify,
            clock=setting.truth.time.wall_s,
            stopped=self._sources.stopped,
            timeouts=_TIMEOUTS,
            lease_life_s=LEASE_LIFE_S,
            make_id=lambda: f"{setting.rng.getrandbits(64):016x}",
        )
        plan = setting.breakage.planned(plan)
        setting.oracle.begins(self.who, plan, unattended=unattended, wall_s=setting.truth.time.wall_s())
        try:
            return executor.apply(plan, lease, by=self.who)
        except (StaleLease, ValueError):
            return None
        finally:
            setting.oracle.ends(self.who)

    def _notify(self, step: Step, plan: Plan) -> str:
        setting = self._setting
        if plan.kind is not PlanKind.RECLAIM or setting.rng.random() < setting.notice_fails_ratio:
            raise OSError("the mail server said no")
        setting.oracle.delivered(self.who, step.ref.uuid, step.grace_s)
        setting.moment(self.who, "notified")
        return "told"
