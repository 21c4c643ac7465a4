"""`Records` in memory: what simulations of many histories run on. The same as in SQL, without a disk.

The audit log is sealed when it is read: most histories never look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrate import audit_lines, leases
from orchestrate.audit import GENESIS, anchor_of, canonical, seal
from orchestrate.audit_lines import Line
from orchestrate.inventory import VmRef
from orchestrate.outcomes import GIVES_BACK, is_order, resettled
from orchestrate.plan import Plan, Step
from orchestrate.records import (
    Action,
    Anchor,
    Approval,
    AuditEntry,
    Entry,
    Hold,
    Lease,
    Outcome,
    Run,
    Seen,
    StaleLease,
)


class MemoryRecords:
    """All of it in dictionaries. For one thread; gone with the object."""

    def __init__(self) -> None:
        self._lease: Lease | None = None
        self._plans: dict[str, Plan] = {}
        self._approvals: dict[tuple[str, str], Approval] = {}
        self._runs: dict[str, Run] = {}
        self._actions: list[Action] = []
        # Index into `_actions`: it is asked before every step, and holds hardly ever one.
        self._unsettled: dict[int, None] = {}
        self._entries: dict[VmRef, Entry] = {}
        self._seen: dict[str, Seen] = {}
        self._holds: dict[str, Hold] = {}
        self._lines: list[Line] = []
        self._sealed: list[AuditEntry] = []
        # Line number by plan's hash and by run.
        self._anchored: dict[str, int] = {}

    def acquire(self, holder: str, *, now_s: float, life_s: float) -> Lease | None:
        granted = leases.grant(self._lease, holder, now_s=now_s, life_s=life_s)
        if granted is not None:
            self._lease = granted
            self._tell(audit_lines.lease_taken(granted, now_s))
        return granted

    def renew(self, lease: Lease, *, now_s: float, life_s: float) -> Lease:
        known = self._check(lease, now_s)
        self._lease = replace(known, expires_s=now_s + life_s)
        return self._lease

    def release(self, lease: Lease, *, now_s: float) -> None:
        try:
            known = self._check(lease, now_s)
        except StaleLease:
            return
        self._lease = replace(known, expires_s=now_s)
        self._tell(audit_lines.lease_released(lease, now_s))

    def leader(self) -> Lease | None:
        return self._lease

    def add_plan(self, plan: Plan) -> str:
        sha256 = plan.sha256
        if sha256 not in self._plans:
            self._plans[sha256] = plan
            self._tell(audit_lines.plan_kept(plan, sha256), anchors=sha256)
        return sha256

    def plans(self, *, limit: int = 20) -> Sequence[Plan]:
        return [*reversed(self._plans.values())][:limit]

    def find_plans(self, prefix: str) -> Sequence[Plan]:
        return [plan for sha256, plan in self._plans.items() if sha256.startswith(prefix)]

    def approve(self, approval: Approval) -> None:
        key = (approval.plan_sha256, approval.by)
        known = self._approvals.get(key)
        if known is None or (known.account is None and approval.account is not None):
            self._approvals[key] = approval
            self._tell(audit_lines.approved(approval))

    def approvals(self, plan_sha256: str) -> Sequence[Approval]:
        return [approval for approval in self._approvals.values() if approval.plan_sha256 == plan_sha256]

    def begin_run(self, run: Run, lease: Lease, *, now_s: float) -> None:
        self._check(lease, now_s)
        acted = {action.run_id for action in self._actions}
        for known in self._runs.values():
            if known.run_id == run.run_id:
                raise ValueError(f"there is a run {run.run_id} already")
            if known.plan_sha256 == run.plan_sha256 and (known.ended_s is None or known.run_id in acted):
                raise ValueError(f"the plan was applied before, by run {known.run_id}")
        self._runs[run.run_id] = run
        self._tell(audit_lines.run_begun(run, lease), anchors=run.run_id)

    def end_run(self, run_id: str, lease: Lease, *, now_s: float, words: str | None = None) -> None:
        self._check(lease, now_s)
        run = self._runs[run_id]
        self._runs[run_id] = replace(run, ended_s=now_s, words=words)
        self._tell(audit_lines.run_ended(run_id, lease, now_s, words), anchors=run_id)

    def runs(self, *, limit: int = 20) -> Sequence[Run]:
        return [*reversed(self._runs.values())][:limit]

    def find_run(self, run_id: str) -> Run | None:
        return self._runs.get(run_id)

    def intend(self, run_id: str, step: Step, lease: Lease, *, now_s: float) -> Action:
        self._check(lease, now_s)
        number = len(self._actions)
        action = Action(action_id=number + 1, run_id=run_id, step=step, begun_s=now_s, lease_token=lease.token)
        self._actions.append(action)
        self._unsettled[number] = None
        self._tell(audit_lines.intended(action, lease))
        return action

    def settle(
        self, action: Action, outcome: Outcome, words: str, *, by: str, now_s: float, entry: Entry | None = None
    ) -> Action:
        number = action.action_id - 1
        if not 0 <= number < len(self._actions):
            raise ValueError(f"there is no action {action.action_id}")
        known = self._actions[number]
        stands = resettled(known, outcome, words, now_s=now_s)
        self._actions[number] = stands
        if stands.outcome is Outcome.UNKNOWN:
            self._unsettled[number] = None
        else:
            self._unsettled.pop(number, None)
        self._tell(audit_lines.settled(stands, outcome, words, by=by, now_s=now_s))
        if stands is not known and stands.outcome is Outcome.DONE:
            if entry is not None:
                self.put_entry(entry, by=by, now_s=now_s)
            elif stands.step.verb in GIVES_BACK:
                self.drop_entry(stands.step.ref, by=by, now_s=now_s, words=stands.step.verb)
        return stands

    def actions(self, run_id: str) -> Sequence[Action]:
        return [action for action in self._actions if action.run_id == run_id]

    def unsettled(self) -> Sequence[Action]:
        return [self._actions[number] for number in sorted(self._unsettled)]

    def actions_since(self, since_s: float) -> Sequence[Action]:
        return [action for action in self._actions if action.begun_s >= since_s]

    def last_order(self, ref: VmRef) -> Action | None:
        return next((each for each in reversed(self._actions) if each.step.ref == ref and is_order(each)), None)

    def entries(self) -> Mapping[VmRef, Entry]:
        return dict(self._entries)

    def find_entry(self, ref: VmRef) -> Entry | None:
        return self._entries.get(ref)

    def put_entry(self, entry: Entry, *, by: str, now_s: float) -> None:
        self._entries[entry.ref] = entry
        self._tell(audit_lines.ladder_put(entry, by=by, now_s=now_s))

    def drop_entry(self, ref: VmRef, *, by: str, now_s: float, words: str) -> None:
        entry = self._entries.pop(ref, None)
        if entry is not None:
            self._tell(audit_lines.ladder_dropped(entry, words, by=by, now_s=now_s))

    def seen(self) -> Mapping[str, Seen]:
        return self._seen

    def put_seen(self, seen: Mapping[str, Seen]) -> None:
        self._seen = dict(seen)

    def holds(self, now_s: float) -> Sequence[Hold]:
        return [hold for _, hold in sorted(self._holds.items()) if now_s < hold.expires_s]

    def put_hold(self, hold: Hold, *, by: str) -> None:
        self._holds[hold.hold_id] = hold
        self._tell(audit_lines.hold_put(hold, by=by))

    def drop_hold(self, hold_id: str, *, by: str, now_s: float) -> None:
        if self._holds.pop(hold_id, None) is not None:
            self._tell(audit_lines.hold_dropped(hold_id, by=by, now_s=now_s))

    def note(self, what: str, body: Mapping[str, object], *, who: str, now_s: float) -> None:
        self._tell(Line(at_s=now_s, who=who, what=what, body=dict(body)))

    def audit(self, *, after: int = 0, limit: int = 1000) -> Sequence[AuditEntry]:
        last = anchor_of(self._sealed[-1]) if self._sealed else GENESIS
        for line in self._lines[len(self._sealed) :]:
            entry = seal(last, at_s=float(line.at_s), who=line.who, what=line.what, body=canonical(line.body))
            self._sealed.append(entry)
            last = anchor_of(entry)
        return self._sealed[after : after + limit]

    def anchors(self) -> Sequence[Anchor]:
        entries = self.audit(limit=len(self._lines))
        return [anchor_of(entries[number - 1]) for number in sorted(self._anchored.values())]

    def _check(self, lease: Lease, now_s: float) -> Lease:
        return leases.check(self._lease, lease, now_s=now_s)

    def _tell(self, line: Line, *, anchors: str | None = None) -> None:
        self._lines.append(line)
        if anchors is not None:
            self._anchored[anchors] = len(self._lines)
