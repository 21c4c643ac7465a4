"""How much may be taken from people at once: per run, hour, host and owner. Over a limit nothing is done. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from orchestrate.plan import Step
from orchestrate.records import Action, Outcome
from orchestrate.refusal import Refusal, Rule
from reports.words import count_words

HOUR_S = 3600.0
NOBODY = "an unknown owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many disruptive actions there may be at most.

    Args:
        run: in one plan. hour: in one hour, the plan included.
        host, owner: of each host and each owner, in one hour, the plan included.
    """

    run: int = 10
    hour: int = 20
    host: int = 3
    owner: int = 5


def over_limits(
    steps: Iterable[Step], actions: Iterable[Action], limits: Limits, *, now_s: float
) -> tuple[Refusal, ...]:
    """Every limit that the steps would exceed after what was done within the hour before `now_s`.

    Actions that began after `now_s` count too: a clock that was put back must not forget them.
    """
    planned = [step for step in steps if step.is_disruptive]
    if not planned:
        return ()
    done = [action.step for action in actions if counts(action) and action.begun_s > now_s - HOUR_S]
    words = [
        *_over("in one run", len(planned), 0, limits.run),
        *_over("in one hour", len(planned), len(done), limits.hour),
        *_over_each("host", _hosts(planned), _hosts(done), limits.host),
        *_over_each("owner", _owners(planned), _owners(done), limits.owner),
    ]
    return tuple(
        Refusal(rule=Rule.OVER_LIMIT, words=f"{each}: plan less with --top N or --vm, or wait") for each in words
    )


def counts(action: Action) -> bool:
    """It was done, or may have been."""
    return action.is_disruptive and action.outcome not in {Outcome.FAILED, Outcome.SKIPPED}


def _hosts(steps: Iterable[Step]) -> Counter[str]:
    """Where each VM is, or was when it was acted upon."""
    return Counter(f"{step.expected.host_id} of {step.ref.driver}" for step in steps)


def _owners(steps: Iterable[Step]) -> Counter[str]:
    return Counter(step.owner or NOBODY for step in steps)


def _over_each(noun: str, planned: Counter[str], done: Counter[str], limit: int) -> Iterator[str]:
    """Of each host or owner; those that the plan does not touch are not its matter."""
    for each in sorted(planned):
        yield from _over(f"in one hour for the {noun} {each}", planned[each], done[each], limit)


def _over(where: str, planned: int, done: int, limit: int) -> Iterator[str]:
    if planned + done > limit:
        before = f" ({done:,} of them before)" if done else ""
        yield f"{count_words(planned + done, 'action')} {where}{before}, and the limit is {limit:,}"
