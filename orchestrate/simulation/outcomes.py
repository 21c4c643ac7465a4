"""One policy on one trace: run, measured, and as the object that people and programs read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrate.simulation.accounts import JOULES_PER_KWH, Totals
from orchestrate.simulation.engine import Progress, Result, end_s, simulate, span_s
from orchestrate.simulation.load import Load
from orchestrate.simulation.names import NPA, PolicyName
from orchestrate.simulation.park import Park
from orchestrate.simulation.policies import HONEST_START, make_policy
from orchestrate.simulation.policy import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a run."""

    mode: Mode
    drop_idle: bool
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one policy did on one trace. `run_s`: how long the simulation took."""

    policy: PolicyName
    trace: str
    question: Question
    vms: int
    hosts: int
    result: Result
    run_s: float

    def as_object(self) -> dict[str, object]:
        """As docs/consolidation.md describes it: percents where the published tables have percents."""
        totals, result = self.result.totals, self.result
        return {
            "policy": self.policy.name,
            "parameter": self.policy.parameter,
            "trace": self.trace,
            "mode": self.question.mode.value,
            "drop_idle": self.question.drop_idle,
            "vms": self.vms,
            "hosts": self.hosts,
            "energy_kwh": totals.energy_kwh,
            "migrations": result.migrations,
            "slatah_pct": 100 * totals.slatah_ratio,
            "slatah_tolerant_pct": 100 * totals.slatah_tolerant_ratio,
            "slatah_overload_pct": 100 * totals.slatah_overload_ratio,
            "pdm_pct": 100 * totals.pdm_ratio,
            "slav": totals.slav,
            "esv": totals.esv_kwh,
            "overall_sla_violation_pct": 100 * totals.unserved_ratio,
            "overall_overload_pct": 100 * totals.unserved_overload_ratio,
            "shutdowns": totals.shutdowns,
            "mean_time_to_shutdown_s": totals.mean_time_to_shutdown_s,
            "mean_active_hosts": totals.mean_active_hosts,
            "hosts_woken": result.woken,
            "refused_moves": result.refused,
            "departed_vms": result.departed,
            "run_s": self.run_s,
        }


def run_policy(
    park: Park,
    load: Load,
    policy: PolicyName,
    question: Question,
    *,
    timer: Callable[[], float],
    progress: Progress | None = None,
) -> Outcome:
    """Simulates one policy. Raises CannotPlace: the park is too small.

    Args: timer: seconds, for `run_s`.
    """
    began_s = timer()
    if policy.name == NPA:
        result = _all_on(park, load, question.mode)
    else:
        result = simulate(
            park,
            load,
            make_policy(policy, question.seed),
            mode=question.mode,
            drop_idle=question.drop_idle,
            start=HONEST_START if question.mode is Mode.HONEST else None,
            progress=progress,
        )
    return Outcome(
        policy=policy,
        trace=load.name,
        question=question,
        vms=len(park.vms),
        hosts=len(park.hosts),
        result=result,
        run_s=timer() - began_s,
    )


def _all_on(park: Park, load: Load, mode: Mode) -> Result:
    """NPA: every host at full power all the time, whatever its VMs do; nothing is simulated."""
    run_s = end_s(load) if mode is Mode.HONEST else span_s(load, mode)
    totals = Totals(
        energy_kwh=float(park.hosts.power_w[:, -1].sum()) * run_s / JOULES_PER_KWH,
        slatah_ratio=0.0,
        slatah_tolerant_ratio=0.0,
        slatah_overload_ratio=0.0,
        pdm_ratio=0.0,
        unserved_ratio=0.0,
        unserved_overload_ratio=0.0,
        mean_active_hosts=float(len(park.hosts)),
        shutdowns=0,
        mean_time_to_shutdown_s=None,
    )
    return Result(totals=totals, migrations=0, refused=0, woken=0, departed=0, ticks=())
