"""A policy and its rules for people and for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from reports.policy import All, Comparison, Either, Expression, Policy, Rule
from reports.quantities import limit_words
from reports.words import printable

_SIDES = {Comparison.AT_MOST: "at most", Comparison.BELOW: "below", Comparison.AT_LEAST: "at least"}


def rule_words(rule: Rule) -> str:
    """`mean CPU of 7 days at most 5%`, and whether a VM without the figure keeps it."""
    words = f"{rule.measure.words} {_SIDES[rule.comparison]} {limit_words(rule.limit, rule.measure.unit)}"
    return f"{words}, where it is measured" if rule.optional else words


def policy_lines(policy: Policy) -> list[str]:
    """Name, summary and source, then the rules as an outline, each with the name of its figure."""
    lines = [f"{policy.name}: {policy.summary}", f"  source: {policy.source}"]
    if policy.min_age_days:
        lines.append(f"  a VM must be {policy.min_age_days:g} days old")
    lines.append("  idle when")
    lines += _outline(policy.idle_when, depth=2)
    return [printable(line) for line in lines]


def _outline(expression: Expression, *, depth: int) -> Iterator[str]:
    indent = "  " * depth
    match expression:
        case Rule():
            yield f"{indent}- {rule_words(expression)} ({expression.measure.name})"
            return
        case All(parts):
            yield f"{indent}- all of"
        case Either(parts):
            yield f"{indent}- any of"
    for part in parts:
        yield from _outline(part, depth=depth + 1)


def policy_object(policy: Policy, *, own: bool) -> dict[str, object]:
    """The policy as JSON has it; docs/policies.md describes the keys.

    Args: own: it is of an admin's configuration.
    """
    return {
        "name": policy.name,
        "summary": policy.summary,
        "source": policy.source,
        "own": own,
        "min_age_days": policy.min_age_days,
        "idle_when": _object(policy.idle_when),
    }


def _object(expression: Expression) -> dict[str, object]:
    match expression:
        case All(parts):
            return {"all": [_object(part) for part in parts]}
        case Either(parts):
            return {"any": [_object(part) for part in parts]}
    measure = expression.measure
    return {
        "figure": f"{measure.metric}.{measure.statistic}",
        "words": measure.words,
        "comparison": expression.comparison.value,
        "limit": expression.limit,
        "unit": measure.unit,
        "days": measure.days,
        "optional": expression.optional,
    }
