"""Plans, runs and what the controller remembers as JSON documents: docs/orchestrate.md tells their fields. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from orchestrate.plan import Plan, encode_plan, encode_step
from orchestrate.records import Action, Approval, AuditEntry, Entry, Lease, Run
from orchestrate.refusal import Refusal
from reports.words import iso_time

Document = dict[str, object]


def to_text(document: Mapping[str, object]) -> str:
    """One JSON object and a newline, as every command prints it."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def plan_document(plan: Plan, approvals: Sequence[Approval] = ()) -> Document:
    """A plan as its hash is over it, with the hash and who approved it beside."""
    return {
        "sha256": plan.sha256,
        "made": iso_time(plan.made_s),
        "expires": iso_time(plan.expires_s),
        "approvals": [
            {"by": each.by, "account": each.account, "at_s": each.at_s, "at": iso_time(each.at_s)} for each in approvals
        ],
        "plan": json.loads(encode_plan(plan)),
    }


def refusal_document(refusal: Refusal) -> Document:
    return {"rule": refusal.rule.value, "words": refusal.words, "vm": None if refusal.ref is None else str(refusal.ref)}


def action_document(action: Action) -> Document:
    return {
        "action_id": action.action_id,
        "run_id": action.run_id,
        "step": json.loads(encode_step(action.step)),
        "begun_s": action.begun_s,
        "outcome": action.outcome,
        "settled_s": action.settled_s,
        "words": action.words,
    }


def run_document(run: Run, actions: Iterable[Action] | None = None) -> Document:
    """A run; with its actions where they are given."""
    document: Document = {**asdict(run), "begun": iso_time(run.begun_s)}
    return document if actions is None else document | {"actions": [action_document(each) for each in actions]}


def entry_document(entry: Entry, name: str) -> Document:
    return {**asdict(entry), "ref": str(entry.ref), "name": name}


def lease_document(lease: Lease | None, now_s: float) -> Document | None:
    return None if lease is None else {**asdict(lease), "holds": now_s < lease.expires_s}


def audit_document(entry: AuditEntry) -> Document:
    """A line of the audit log, its body as it was sealed."""
    return {**asdict(entry), "at": iso_time(entry.at_s)}
