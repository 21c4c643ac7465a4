"""Policies that admins write in TOML, and any policy written that way. Pure; docs/policies.md is for their writers.

A policy's table, and each part of its `all` or `any`, is one of three things: a figure with its limit, `all`, or `any`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from agent.settings import parse_duration_s, parse_flag
from aggregator.vms_csv import parse_text
from reports.facts import DAY_S
from reports.measures import Measure
from reports.policies import POLICIES
from reports.policy import All, Comparison, Either, Expression, Policy, Rule
from reports.quantities import limit_text, parse_limit, parse_window_days, shown

PLACE = "report.policies"
BUILT_IN = frozenset({*POLICIES, "fallow"})
# What asks for every policy where the name of one may stand.
ALL = "all"
# Deeper than anybody reads, and far from where a recursion ends a program.
MAX_DEPTH = 8
MAX_NAME_CHARS = 40
_NAME = re.compile(r"[a-z0-9]+(?:-+[a-z0-9]+)*", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)
_COMPARISONS: Mapping[str, Comparison] = {
    "at_most": Comparison.AT_MOST,
    "below": Comparison.BELOW,
    "at_least": Comparison.AT_LEAST,
}
_KEYS = {comparison: key for key, comparison in _COMPARISONS.items()}
_KINDS = ("figure", "all", "any")
_BESIDE_FIGURE = frozenset({*_COMPARISONS, "window", "optional"})
_OF_POLICY = frozenset({"summary", "source", "min_age"})


def read_policies(
    table: object, *, source: str, taken: Container[str] = BUILT_IN
) -> tuple[dict[str, Policy], list[str]]:
    """The policies of the table `report.policies` by name, without those that hold mistakes; and every mistake.

    Args:
        source: what mistakes call the file.
        taken: names that no policy here may have.
    """
    reader = _Reader(source)
    if not isinstance(table, Mapping):
        reader.note(PLACE, f"{shown(table)} is not a table of policies")
        return {}, reader.problems
    found = {name: reader.policy(name, body, taken) for name, body in table.items()}
    return {name: policy for name, policy in found.items() if policy is not None}, reader.problems


class _Reader:
    """Reads what it can and notes every mistake with its place."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.problems: list[str] = []

    def note(self, place: str, problem: object) -> None:
        self.problems.append(f"{self._source}: {place}: {problem}")

    def policy(self, name: str, body: object, taken: Container[str]) -> Policy | None:
        before = len(self.problems)
        place = f"{PLACE}.{_word(name)}"
        if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
            self.note(place, f"a name is of a-z, 0-9 and - between them, at most {MAX_NAME_CHARS} characters")
        elif name == ALL:
            self.note(place, "means every policy where a name may stand: choose another")
        elif name in taken:
            self.note(place, "is the name of a built-in policy: choose another")
        if not isinstance(body, Mapping):
            self.note(place, f"{shown(body)} is not a table")
            return None
        summary = self._line(body, "summary", place)
        if summary is None and "summary" not in body:
            self.note(f"{place}.summary", "is missing: say in a line what the policy looks for")
        origin = self._line(body, "source", place) or f"written for this cloud in {self._source}"
        min_age_days = self._age_days(body, place)
        rules = {key: value for key, value in body.items() if key not in _OF_POLICY}
        idle_when = self._expression(rules, place, depth=0)
        if idle_when is not None and _asks_nothing(idle_when):
            self.note(place, "would call a VM idle of which nothing was measured: not every figure may be optional")
        if idle_when is None or len(self.problems) > before:
            return None
        return Policy(name=name, summary=summary or "", source=origin, idle_when=idle_when, min_age_days=min_age_days)

    def _line(self, body: Mapping[str, Any], key: str, place: str) -> str | None:
        if key not in body:
            return None
        value = body[key]
        try:
            line = parse_text(value) if isinstance(value, str) else None
        except ValueError as error:
            self.note(f"{place}.{key}", error)
            return None
        if line is None:
            self.note(f"{place}.{key}", f"{shown(value)} is not a line of text")
        return line

    def _age_days(self, body: Mapping[str, Any], place: str) -> float:
        if "min_age" not in body:
            return 0.0
        try:
            return parse_duration_s(body["min_age"]) / DAY_S
        except ValueError as error:
            self.note(f"{place}.min_age", error)
            return 0.0

    def _expression(self, table: object, place: str, *, depth: int) -> Expression | None:
        if not isinstance(table, Mapping):
            self.note(place, f"{shown(table)} is not a table of figure, all or any")
            return None
        kinds = [kind for kind in _KINDS if kind in table]
        for key in sorted(table.keys() - set(_KINDS)):
            if key not in _BESIDE_FIGURE:
                self.note(f"{place}.{_word(key)}", "unknown setting")
            elif "figure" not in kinds:
                self.note(f"{place}.{key}", "stands beside a figure alone")
        if len(kinds) != 1:
            has = " and ".join(kinds) or "none of them"
            self.note(place, f"takes one of figure, all and any; it has {has}")
            return None
        match kinds[0]:
            case "figure":
                return self._rule(table, place)
            case "all":
                parts = self._parts(table["all"], f"{place}.all", depth=depth + 1)
                return None if parts is None else All(parts)
        parts = self._parts(table["any"], f"{place}.any", depth=depth + 1)
        return None if parts is None else Either(parts)

    def _parts(self, value: object, place: str, *, depth: int) -> tuple[Expression, ...] | None:
        if not isinstance(value, list):
            self.note(place, f"{shown(value)} is not a list of tables")
            return None
        if not value:
            self.note(place, "is empty: it takes one figure at least")
            return None
        if depth > MAX_DEPTH:
            self.note(place, f"is nested more than {MAX_DEPTH} deep")
            return None
        parts = [self._expression(part, f"{place}[{index}]", depth=depth) for index, part in enumerate(value)]
        known = tuple(part for part in parts if part is not None)
        return known if len(known) == len(parts) else None

    def _rule(self, table: Mapping[str, Any], place: str) -> Rule | None:
        days = self._take(table, "window", parse_window_days, place)
        measure = self._take(table, "figure", lambda text: Measure.parse(text, days), place)
        optional = self._take(table, "optional", parse_flag, place)
        keys = [key for key in _COMPARISONS if key in table]
        if len(keys) != 1:
            has = " and ".join(keys) or "none of them"
            self.note(place, f"takes one of {', '.join(_COMPARISONS)}; it has {has}")
            return None
        if measure is None:
            return None  # whose unit would tell what the limit means
        key = keys[0]
        limit = self._take(table, key, lambda value: parse_limit(value, measure.unit), place)
        if limit is None:
            return None
        if limit == 0 and key == "below":
            self.note(f"{place}.below", "no figure is below 0; at_most = 0 asks for none")
            return None
        return Rule(measure=measure, comparison=_COMPARISONS[key], limit=limit, optional=bool(optional))

    def _take(self, table: Mapping[str, Any], key: str, parse: Any, place: str) -> Any:
        if key not in table:
            return None
        try:
            return parse(table[key])
        except ValueError as error:
            self.note(f"{place}.{key}", error)
            return None


def _word(key: str) -> str:
    """A key as TOML shows it: quoted where it is no plain word."""
    return key if _PLAIN.fullmatch(key) else shown(key)


def _asks_nothing(expression: Expression) -> bool:
    """Whether it holds when no figure is known."""
    match expression:
        case All(parts):
            return all(map(_asks_nothing, parts))
        case Either(parts):
            return any(map(_asks_nothing, parts))
    return expression.optional


def to_toml(policy: Policy) -> str:
    """The policy as `[report.policies.NAME]`; `read_policies` makes the same of it, but for a built-in one's name."""
    lines = [f"[{PLACE}.{policy.name}]", f"summary = {_quoted(policy.summary)}", f"source = {_quoted(policy.source)}"]
    if policy.min_age_days:
        lines.append(f'min_age = "{_age_text(policy.min_age_days)}"')
    match policy.idle_when:
        case Rule() as rule:
            lines += _pairs(rule)
        case All(parts):
            lines += ["all = [", *_part_lines(parts, 1), "]"]
        case Either(parts):
            lines += ["any = [", *_part_lines(parts, 1), "]"]
    return "\n".join(lines) + "\n"


def _part_lines(parts: tuple[Expression, ...], depth: int) -> list[str]:
    # An inline table may not be broken into lines, an array within it may.
    indent, found = "  " * depth, []
    for part in parts:
        if isinstance(part, Rule):
            found.append(f"{indent}{{ {', '.join(_pairs(part))} }},")
        else:
            kind = "all" if isinstance(part, All) else "any"
            found += [f"{indent}{{ {kind} = [", *_part_lines(part.parts, depth + 1), f"{indent}] }},"]
    return found


def _pairs(rule: Rule) -> list[str]:
    measure = rule.measure
    pairs = [
        f'figure = "{measure.metric}.{measure.statistic}"',
        f"{_KEYS[rule.comparison]} = {limit_text(rule.limit, measure.unit)}",
    ]
    if measure.days is not None:
        pairs.append(f'window = "{measure.days}d"')
    if rule.optional:
        pairs.append("optional = true")
    return pairs


def _quoted(line: str) -> str:
    return '"' + line.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _age_text(days: float) -> str:
    for unit, unit_s in (("d", DAY_S), ("h", 3_600), ("s", 1)):
        count = days * DAY_S / unit_s
        if count.is_integer():
            return f"{count:.0f}{unit}"
    return f"{days * DAY_S:f}s"
