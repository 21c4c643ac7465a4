"""What the audit log says of each thing that is written down: one function for each. Pure.

Steps are told without their evidence: the line of the plan has the hash that covers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrate.plan import Plan
from orchestrate.records import Action, Approval, Entry, Hold, Lease, Outcome, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line before it is sealed. `body`: of JSON's own types."""

    at_s: float
    who: str
    what: str
    body: Mapping[str, object]


def lease_taken(lease: Lease, now_s: float) -> Line:
    body = {"token": lease.token, "expires_s": lease.expires_s}
    return Line(at_s=now_s, who=lease.holder, what="lease taken", body=body)


def lease_released(lease: Lease, now_s: float) -> Line:
    return Line(at_s=now_s, who=lease.holder, what="lease released", body={"token": lease.token})


def plan_kept(plan: Plan, sha256: str) -> Line:
    body = {"plan": sha256, "kind": plan.kind, "steps": len(plan.steps), "undoes": plan.undoes}
    return Line(at_s=plan.made_s, who=plan.made_by, what="plan", body=body)


def approved(approval: Approval) -> Line:
    body = {"plan": approval.plan_sha256, "account": approval.account}
    return Line(at_s=approval.at_s, who=approval.by, what="approval", body=body)


def run_begun(run: Run, lease: Lease) -> Line:
    body = {"run": run.run_id, "plan": run.plan_sha256, "kind": run.kind, "token": lease.token}
    return Line(at_s=run.begun_s, who=run.by, what="run begun", body=body)


def run_ended(run_id: str, lease: Lease, now_s: float, words: str | None) -> Line:
    body = {"run": run_id, "words": words, "token": lease.token}
    return Line(at_s=now_s, who=lease.holder, what="run ended", body=body)


def intended(action: Action, lease: Lease) -> Line:
    step = action.step
    body = {
        "action": action.action_id,
        "run": action.run_id,
        "step": step.number,
        "verb": step.verb,
        "inverse": step.inverse,
        "vm": str(step.ref),
        "name": step.name,
        "host": step.expected.host_id,
        "target": step.target_host_id,
        "token": lease.token,
    }
    return Line(at_s=action.begun_s, who=lease.holder, what="intent", body=body)


def settled(action: Action, outcome: Outcome, words: str, *, by: str, now_s: float) -> Line:
    """Args: action: as it stands now. outcome, words: as they were told, which may be another outcome."""
    body = {
        "action": action.action_id,
        "run": action.run_id,
        "verb": action.step.verb,
        "vm": str(action.step.ref),
        "outcome": outcome,
        "stands": action.outcome,
        "words": words,
    }
    return Line(at_s=now_s, who=by, what="outcome", body=body)


def ladder_put(entry: Entry, *, by: str, now_s: float) -> Line:
    body = {"vm": str(entry.ref), "rung": entry.rung, "group": entry.group, "run": entry.run_id}
    return Line(at_s=now_s, who=by, what="ladder", body=body)


def ladder_dropped(entry: Entry, words: str, *, by: str, now_s: float) -> Line:
    body = {"vm": str(entry.ref), "rung": entry.rung, "words": words}
    return Line(at_s=now_s, who=by, what="off the ladder", body=body)


def hold_put(hold: Hold, *, by: str) -> Line:
    body = {
        "hold": hold.hold_id,
        "host": f"{hold.driver}/{hold.host_id}",
        "vcpus": hold.vcpus,
        "mem_bytes": hold.mem_bytes,
        "what": hold.what,
        "expires_s": hold.expires_s,
    }
    return Line(at_s=hold.made_s, who=by, what="hold", body=body)


def hold_dropped(hold_id: str, *, by: str, now_s: float) -> Line:
    return Line(at_s=now_s, who=by, what="hold dropped", body={"hold": hold_id})
