"""What was taken from VMs' users within an hour, and whether it was too much: rule 4, for the oracle alone."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrate.driver import Verb
from orchestrate.drivers.simulated_values import Job, JobState
from orchestrate.histories.rules import CLOCK_SLACK_S, Forbidden
from orchestrate.histories.truth import HOUR_S, Truth
from orchestrate.plan import Plan
from orchestrate.refusal import Rule

TAKING = frozenset({Verb.SUSPEND, Verb.STOP, Verb.MIGRATE_LIVE, Verb.MIGRATE_COLD})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """An order that took something from a VM. Args: host_id, owner: as they were."""

    at_s: float
    job: Job
    host_id: str
    owner: str | None


class Takings:
    """All such orders."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._all: list[_Taken] = []

    def add(self, job: Job, host_id: str) -> None:
        """One that the hypervisor accepted. Args: host_id: where the VM was."""
        if job.order.verb in TAKING:
            agents = self._truth.agents_of(job.order.uuid)
            owner = agents[0].owner if agents else None
            self._all.append(_Taken(at_s=self._truth.time.true_s, job=job, host_id=host_id, owner=owner))

    def forget(self, uuid: str) -> None:
        """Somebody looked, and says that nothing was taken from the VM."""
        self._all = [each for each in self._all if each.job.order.uuid != uuid]

    def check(self, uuid: str) -> None:
        """One more is about to be taken. Raises: Forbidden: it is one too many within an hour."""
        guest, agents = self._truth.guest(uuid), self._truth.agents_of(uuid)
        host_id, owner = guest.host_id if guest else "", agents[0].owner if agents else None
        recent, limits = self._recent(), self._truth.settings.limits
        counts = {
            "in an hour": (len(recent), limits.hour),
            f"on {host_id}": (sum(each.host_id == host_id for each in recent), limits.host),
            f"of {owner}": (sum(each.owner == owner for each in recent), limits.owner),
        }
        for where, (count, limit) in counts.items():
            if count + 1 > limit:
                raise Forbidden(Rule.OVER_LIMIT, f"{uuid} would be number {count + 1} {where}, of {limit}")

    def too_many(self, plan: Plan) -> str | None:
        """Why a plan is over a limit, and not to be begun."""
        taking, before = sum(step.verb in TAKING for step in plan.steps), len(self._recent())
        limits = self._truth.settings.limits
        if taking > limits.run:
            return f"{taking} at once, of {limits.run}"
        if taking and taking + before > limits.hour:
            return f"{taking} after {before} in an hour, of {limits.hour}"
        return None

    def _recent(self) -> list[_Taken]:
        """What was not carried out counts no more."""
        since_s = self._truth.time.true_s - HOUR_S + CLOCK_SLACK_S
        return [each for each in self._all if each.at_s > since_s and each.job.state is not JobState.FAILED]
