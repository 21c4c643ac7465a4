"""How an outcome is written down together with where the VM then stands on the ladder."""

from __future__ import annotations

from orchestrate.ladder import entry_after
from orchestrate.plan import PlanKind
from orchestrate.records import Action, Outcome, Records


def settle(
    records: Records, action: Action, outcome: Outcome, words: str, *, kind: str, by: str, now_s: float
) -> Action:
    """The action as it now stands. Args: kind: of its run; only reclaiming takes VMs down the ladder."""
    step, entry = action.step, None
    if outcome is Outcome.DONE and kind == PlanKind.RECLAIM:
        before = records.find_entry(step.ref)
        vm_id = step.vm_id or (before.vm_id if before is not None else step.ref.uuid)
        entry = entry_after(step, before, vm_id=vm_id, at_s=now_s, run_id=action.run_id)
    return records.settle(action, outcome, plain(words), by=by, now_s=now_s, entry=entry)


def plain(words: str) -> str:
    """One line that every database takes, whatever a hypervisor or a mail server had to say."""
    return " ".join(words.replace("\x00", "").encode("utf-8", "replace").decode().split())
