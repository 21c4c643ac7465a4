"""An executor with everything around it, all of it fake and at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from orchestrate.executor import Executor, Result
from orchestrate.inventory import VmState
from orchestrate.memory import MemoryRecords
from orchestrate.orders import Timeouts
from orchestrate.plan import Plan, PlanKind, Step
from orchestrate.records import Lease, Outcome
from tests.orchestrate.fakes import (
    Clock,
    FakeChecks,
    FakeDriver,
    a_lease,
    a_plan,
    a_vm,
    ref,
)

LIFE_S = 60.0


@dataclass
class House:
    """A controller with everything around it."""

    clock: Clock = field(default_factory=Clock)
    records: MemoryRecords = field(default_factory=MemoryRecords)
    checks: FakeChecks = field(default_factory=FakeChecks)
    stop: str | None = None
    notices: list[str] = field(default_factory=list)
    notice_error: Exception | None = None
    runs: Iterator[int] = field(default_factory=lambda: count(1))
    driver: FakeDriver = field(init=False)

    def __post_init__(self) -> None:
        self.driver = FakeDriver(*(a_vm(number) for number in (1, 2, 3)), clock=self.clock)

    def executor(self, *, life_s: float = LIFE_S, **timeouts: Any) -> Executor:
        return Executor(
            self.records,
            {"lab": self.driver},
            self.checks,
            notify=self._notify,
            clock=self.clock,
            stopped=lambda: self.stop,
            timeouts=Timeouts(**timeouts),
            lease_life_s=life_s,
            make_id=lambda: f"r{next(self.runs)}",
        )

    def apply(self, *steps: Step, kind: PlanKind = PlanKind.RELIEF, **timeouts: Any) -> Result:
        return self.run(a_plan(*steps, kind=kind), **timeouts)

    def run(self, plan: Plan, *, lease: Lease | None = None, **timeouts: Any) -> Result:
        lease = lease or a_lease(self.records, now_s=self.clock(), life_s=LIFE_S)
        return self.executor(**timeouts).apply(plan, lease, by="ann")

    def is_now(self, number: int = 1) -> VmState:
        return self.driver.vms[ref(number).uuid].state

    def told(self) -> list[str]:
        return [entry.what for entry in self.records.audit(limit=1000)]

    def _notify(self, step: Step, _plan: Plan) -> str:
        if self.notice_error is not None:
            raise self.notice_error
        self.notices.append(step.name)
        return "mail to ann@example.org"


def outcomes(result: Result) -> list[Outcome | None]:
    return [action.outcome for action in result.actions]


def words(result: Result) -> str:
    return result.actions[-1].words or ""
