"""What `plan` answers: the plan with its evidence, what is left out and why, and what stands against it. Pure."""

from __future__ import annotations

from dataclasses import asdict

from orchestrate.documents import plan_document, refusal_document, to_text
from orchestrate.limits import Limits
from orchestrate.plan import Mark
from orchestrate.planning import Planned
from orchestrate.reclaim import Reclaim, counted
from orchestrate.refusal import Rule
from orchestrate.words import known, left_out_lines, limit_line, plan_lines, refusal_lines
from orchestrate.world import World
from reports.words import count_words, printable, time_words

_NO_WAY = "No owner can be told, and no VM gets past its mark: [orchestrate.notify] has neither mail nor webhook."
_NOTHING_DONE = "This was a dry run: nothing was done."


def plan_json(planned: Planned, world: World, *, following: str | None) -> str:
    """The answer for programs. Args: following: what to type next; None: nothing that would help."""
    made = planned.reclaim
    return to_text(
        {
            **plan_document(planned.plan),
            "kept": bool(planned.plan.steps),
            "unread": dict(world.unread),
            "aggregator_problem": world.fleet.problem,
            "stopped": [refusal_document(each) for each in planned.stopped],
            "refusals": [refusal_document(each) for each in planned.refusals],
            **({"hot": [asdict(each) for each in planned.hot]} if made is None else _reclaim_document(made)),
            "next": following,
        }
    )


def _reclaim_document(made: Reclaim) -> dict[str, object]:
    return {
        "left_out": [
            {
                "vm_id": each.vm_id,
                "name": each.name,
                "vm": None if each.ref is None else str(each.ref),
                "refusals": [refusal_document(one) for one in each.refusals],
            }
            for each in made.left_out
        ],
        "left_out_by_rule": {rule.value: count for rule, count in counted(made.left_out).items()},
        "waiting": [
            {"vm": str(each.ref), "name": each.name, "next": each.next_verb, "due_s": each.due_s}
            for each in made.waiting
        ],
        "later": [str(ref) for ref in made.later],
        "dropped": [{"vm": str(each.ref), "words": each.words} for each in made.drops],
    }


def plan_text(
    planned: Planned, world: World, *, limits: Limits, tells: bool, currency: str | None, following: str | None
) -> str:
    """The answer for people.

    Args:
        tells: there is a way to owners.
        following: what to type next; None: nothing that would help.
    """
    plan, made = planned.plan, planned.reclaim
    if planned.stopped:
        return _lines(
            ["Nothing is planned: the look at the fleet is not to be believed.", *refusal_lines(planned.stopped)]
        )
    lines = [*_unread(world), *(f"hot: {known(each.host_id)}: {printable(each.words)}" for each in planned.hot)]
    lines += [""] if lines else []
    if plan.steps:
        lines += plan_lines(plan, now_s=world.now_s, approvals=(), currency=currency, notes=made is None)
        lines += [limit_line(plan.steps, limits)]
    else:
        lines += ["Nothing is due."] if made is not None else ["No move helps.", *map(printable, plan.notes)]
    lines += [] if made is None else [*_left_out(made), *_waiting(made), *_dropped(made, world)]
    if planned.refusals:
        lines += ["", "As it stands, it would be refused whole:", *refusal_lines(planned.refusals)]
    if not tells and any(step.verb is Mark.NOTIFY for step in plan.steps):
        lines += ["", _NO_WAY]
    lines += ["", _NOTHING_DONE]
    if following is not None:
        lines += [f"Next: {following}"]
    return _lines(lines)


def _left_out(made: Reclaim) -> list[str]:
    by_rule: dict[Rule, list[tuple[str, str]]] = {}
    for each in sorted(made.left_out, key=lambda one: list(Rule).index(one.refusals[0].rule)):
        first = each.refusals[0]
        by_rule.setdefault(first.rule, []).append((each.name, first.words))
    lines = list(left_out_lines(by_rule))
    return ["", *lines] if lines else []


def _waiting(made: Reclaim) -> list[str]:
    lines = [
        f"  {printable(each.name)} ({each.ref}): {each.next_verb} from {time_words(each.due_s)} on"
        for each in made.waiting
    ]
    later = f"Due too, and not among the best of this plan: {count_words(len(made.later), 'VM')}." if made.later else ""
    return [*(["", "Not due yet:", *lines] if lines else []), *(["", later] if later else [])]


def _dropped(made: Reclaim, world: World) -> list[str]:
    lines = [f"  {printable(world.scene(drop.ref).name)} ({drop.ref}): {printable(drop.words)}" for drop in made.drops]
    return ["", "Taken off the ladder:", *lines] if lines else []


def _unread(world: World) -> list[str]:
    """Aggregators, sites and hosts that do not answer: of their VMs nothing is known, and nothing is planned."""
    fleet = world.fleet
    lines = [] if fleet.problem is None else [f"some newest minutes are not known: {printable(fleet.problem)}"]
    lines += [f"{printable(name)}: does not answer: {printable(why)}" for name, why in sorted(world.unread.items())]
    lines += [
        f"{printable(one.driver)} {printable(host_id)}: does not answer: {printable(why)}"
        for one in world.inventories
        for host_id, why in sorted(one.unreachable.items())
    ]
    return [*lines, ""] if lines else []


def _lines(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
