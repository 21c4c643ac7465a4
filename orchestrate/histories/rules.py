"""What may never be, one by one: doubt, exemptions, an outage, the guest's word against its hypervisor's.

For the oracle alone: written from the nine rules over what is true, and shares no code with the guards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrate.histories.truth import DAY_S, Agent, Truth
from orchestrate.inventory import VmState
from orchestrate.refusal import Rule
from reports.verdicts import Verdict

# How far a controller's clock can be off while samples still look fresh to it, at both ends of a span.
CLOCK_SLACK_S = 900.0
# Looking comes before acting, and what changes in between nobody can see: a reading takes seconds, and a controller may
# stand still for as long as its lease holds. What was true at a look no older than this is what an order is judged by.
LOOK_S = 120.0
# Two looks no further apart see the same change, and a verdict may be compared with that of either.
AT_ONCE_S = 1800.0
# Of a VM whose use changed within that time, the mean of two readings may say this or that.
_SETTLED_S = 1000.0


class Forbidden(BaseException):
    """Something was done that never may be. No `except Exception` of the controller hides it."""

    def __init__(self, rule: Rule, words: str) -> None:
        self.rule = rule
        super().__init__(f"{rule}: {words}")


def check_doubt(truth: Truth, uuid: str, *, wall_s: float, newest_s: float | None) -> None:
    """Rule 2: enough data, fresh, and idle now; what is not known is no idleness.

    Args: wall_s: by the controller's clock, when it looked. newest_s: of the samples that there were by then.
    """
    agents = truth.agents_of(uuid)
    if len(agents) != 1:
        raise Forbidden(Rule.ON_DOUBT, f"{uuid} has {len(agents)} agents")
    agent, wanted = agents[0], truth.settings
    days = None if agent.newest_s is None or agent.began_s is None else (agent.newest_s - agent.began_s) / DAY_S
    age_s = None if agent.newest_s is None else truth.time.true_s - agent.newest_s
    doubts = {
        "is not idle": agent.verdict is not Verdict.IDLE,
        "has too few days": days is None or days < wanted.min_days,
        "has gaps": agent.coverage_ratio is None or agent.coverage_ratio < wanted.min_coverage_ratio,
        "is not fresh": age_s is None or age_s >= wanted.fresh_s + CLOCK_SLACK_S,
        "is not fresh by the clock": newest_s is None or wall_s - newest_s >= wanted.fresh_s,
        "has a wrong clock": agent.skew_s is None or abs(agent.skew_s) > wanted.max_skew_s,
        "is flagged": bool(agent.flags),
        "woke up": agent.cpu_ratio > wanted.recent_cpu_ratio,
        "has users": agent.users is None or agent.users > 0,
        "cannot be asked about": not truth.live,
    }
    for words, holds in doubts.items():
        if holds:
            raise Forbidden(Rule.ON_DOUBT, f"{uuid} {words} and is suspended")


def check_exempt(truth: Truth, uuid: str, wall_s: float) -> None:
    """Rule 5: tags, exemptions, shields, age and owners."""
    guest, wanted = truth.guest(uuid), truth.settings
    for agent in truth.agents_of(uuid):
        group = truth.group_of(agent)
        if set(agent.tags) & set(wanted.exclude_tags):
            raise Forbidden(Rule.EXEMPT, f"{uuid} is tagged {agent.tags}")
        if agent.is_kept(wall_s):
            raise Forbidden(Rule.EXEMPT, f"{uuid} is kept by its owner")
        owned = agent.owner is not None or (guest is not None and guest.vm.owner is not None)
        if not owned and not (group is not None and group.unknown_owner):
            raise Forbidden(Rule.EXEMPT, f"{uuid} has no known owner")
    if guest is not None and guest.vm.shields:
        raise Forbidden(Rule.EXEMPT, f"{uuid} is shielded: {sorted(guest.vm.shields)}")
    made_s = None if guest is None else guest.vm.created_s
    if made_s is not None and truth.time.true_s - made_s < wanted.min_days * DAY_S - CLOCK_SLACK_S:
        raise Forbidden(Rule.EXEMPT, f"{uuid} is too young")


def check_pinned(truth: Truth, uuid: str) -> None:
    """Rule 5, of moves: pins and shields. An exemption does not forbid them."""
    guest = truth.guest(uuid)
    if guest is not None and guest.vm.shields:
        raise Forbidden(Rule.EXEMPT, f"{uuid} is moved and shielded: {sorted(guest.vm.shields)}")
    if any(set(agent.tags) & set(truth.settings.pin_tags) for agent in truth.agents_of(uuid)):
        raise Forbidden(Rule.EXEMPT, f"{uuid} is moved and pinned")


def check_guest(truth: Truth, uuid: str) -> None:
    """Rule 9: what the hypervisor sees is not far from what the agent says."""
    agent, guest = truth.agents_of(uuid)[0], truth.guest(uuid)
    wanted = truth.settings
    lied_s = agent.lied_since_s
    if guest is None or lied_s is None or truth.time.true_s - lied_s < _SETTLED_S:
        return
    if guest.vm.cpu_ratio - agent.cpu_ratio > wanted.agree_cpu_ratio + wanted.emulation_cores / guest.vm.vcpus:
        raise Forbidden(Rule.GUEST_ALONE, f"{uuid} works at {guest.vm.cpu_ratio:.0%} and its agent does not say so")


def is_in_use(truth: Truth, agent: Agent, wall_s: float) -> bool:
    """By all signs, at a look that shows it: it comes off the ladder."""
    wanted, guest = truth.settings, truth.guest(agent.uuid)
    if guest is None or guest.host_id in truth.site.down or guest.state is not VmState.RUNNING:
        return False
    if guest.job is not None or len(truth.agents_of(agent.uuid)) != 1 or agent.newest_s is None:
        return False
    woke = agent.cpu_ratio > wanted.recent_cpu_ratio or (agent.users or 0) > 0
    return agent.is_kept(wall_s) or agent.verdict is Verdict.ACTIVE or woke


def outage_of(
    truth: Truth,
    awake: Sequence[Agent],
    asleep: Sequence[Agent],
    roused: Sequence[Agent],
    believed: Mapping[str, Sequence[tuple[Verdict, float]]],
    wall_s: float,
) -> str | None:
    """Rule 3: too many silent, or judged anew, at once.

    Args:
        awake: agents whose VMs no controller put to sleep, nor woke just now. asleep, roused: those whose VMs one did.
            They belong to the fleet all the same; their silence or another verdict is the controllers' own doing.
        believed: by the agent's id, its verdict at the last look that was no outage and at those shortly before, and
            when they were. What flaps between two of these has not changed.
    """
    if not truth.live:
        return "the aggregator does not answer"
    wanted = truth.settings
    told = [agent.newest_s for agent in awake if agent.newest_s is not None]
    # One that was woken and tells again may count by now.
    told += [at_s for agent in roused if (at_s := agent.newest_s) is not None and wall_s - at_s < wanted.fresh_s]
    known = [at_s for at_s in told if wall_s - at_s <= DAY_S]
    silent = sum(wall_s - at_s >= wanted.fresh_s for at_s in known)
    if told and not known:
        return "nobody has told within a day"
    if known and silent / len(known) > wanted.outage_ratio:
        return f"{silent} of {len(known)} are silent"
    compared = sum(agent.vm_id in believed for agent in (*asleep, *roused))
    changed = 0
    for agent in awake:
        looks = believed.get(agent.vm_id, ())
        if looks and abs(wall_s - looks[-1][1]) <= DAY_S:
            now = agent.told_verdict(wall_s)
            compared += 1
            changed += all(verdict is not now and abs(wall_s - at_s) <= DAY_S for verdict, at_s in looks)
    if compared and changed / compared > wanted.outage_ratio:
        return f"{changed} of {compared} are judged anew"
    return None
