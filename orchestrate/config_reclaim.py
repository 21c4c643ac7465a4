"""How far the controller may go: `[orchestrate.reclaim]` with its groups, `limits`, `hotspots`, `consolidation`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from agent.settings import ConfigError, SettingsReader, parse_count, parse_duration_s, parse_flag, parse_text
from orchestrate.groups import Approve, Group, MoveSettings, ReclaimSettings
from orchestrate.limits import Limits
from orchestrate.records import Rung
from reports.config import ReportConfig
from reports.quantities import (
    parse_amount,
    parse_limit,
    parse_positive_amount,
    parse_positive_ratio,
    parse_ratio,
)

_RECLAIM = "orchestrate.reclaim"
_LIMITS = "orchestrate.limits"
_GROUPS = f"{_RECLAIM}.groups"
_MIGRATE = "migrate"
_NEVER = "never"
_NONE: tuple[str, ...] = ()


def parse_reclaim(
    reader: SettingsReader,
    groups: object,
    base: ReclaimSettings,
    *,
    report: ReportConfig,
    source: str,
    problems: list[str],
) -> ReclaimSettings:
    """The settings that decide, laid over `base`; tags, clocks and policies are those of the report.

    Args:
        reader: of the whole file, without the groups. groups: the value of `[[orchestrate.reclaim.groups]]`, or None.
        problems: gets each mistake in the groups.
    """

    def take(key: str, parse: Callable[[object], Any], default: Any) -> Any:
        return reader.take(f"{_RECLAIM}.{key}", parse, default)

    return replace(
        base,
        groups=base.groups if groups is None else _groups(groups, report, source, problems),
        fresh_s=take("fresh", parse_duration_s, base.fresh_s),
        min_days=take("min_days", parse_positive_amount, base.min_days),
        min_coverage_ratio=take("min_coverage", parse_positive_ratio, base.min_coverage_ratio),
        max_skew_s=report.limits.max_skew_s,
        recent_cpu_ratio=take("recent_cpu", parse_positive_ratio, base.recent_cpu_ratio),
        agree_cpu_ratio=take("agree_cpu", parse_positive_ratio, base.agree_cpu_ratio),
        emulation_cores=take("emulation_cores", parse_amount, base.emulation_cores),
        agree_net_factor=take("agree_net_factor", parse_positive_amount, base.agree_net_factor),
        agree_net_bytes_per_s=take("agree_net", _parse_rate, base.agree_net_bytes_per_s),
        outage_ratio=take("outage", parse_ratio, base.outage_ratio),
        batch=take("batch", parse_count, base.batch),
        exclude_tags=report.limits.exclude_tags,
        limits=_limits(reader, base.limits),
        relief=_moves(reader, "orchestrate.hotspots", base.relief),
        consolidation=_moves(reader, "orchestrate.consolidation", base.consolidation),
        two_persons_above=reader.take("orchestrate.approval.two_persons_above", _parse_above, base.two_persons_above),
    )


def _limits(reader: SettingsReader, base: Limits) -> Limits:
    limits = Limits(
        run=reader.take(f"{_LIMITS}.run", parse_count, base.run),
        hour=reader.take(f"{_LIMITS}.hour", parse_count, base.hour),
        host=reader.take(f"{_LIMITS}.host", parse_count, base.host),
        owner=reader.take(f"{_LIMITS}.owner", parse_count, base.owner),
    )
    if limits.hour < limits.run:
        reader.reject(f"{_LIMITS}.hour", f"is less than run ({limits.run}): no run could be as large as it may")
    return limits


def _moves(reader: SettingsReader, key: str, base: MoveSettings) -> MoveSettings:
    allowed = reader.take(f"{key}.up_to", _parse_move, base.allowed)
    return MoveSettings(allowed=allowed, approve=reader.take(f"{key}.approve", _parse_approve, base.approve))


def _groups(tables: object, report: ReportConfig, source: str, problems: list[str]) -> tuple[Group, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        problems.append(f"{source}: {_GROUPS}: is not a list of tables ([[{_GROUPS}]])")
        return ()
    found: dict[str, Group] = {}
    for number, table in enumerate(tables):
        place = f"{source}: {_GROUPS}[{number}]"
        try:
            group = _group(table, report, place)
        except ConfigError as error:
            problems += error.problems
            continue
        if group.name in found:
            problems.append(f"{place}: name: {group.name!r} is the name of another group too")
        found[group.name] = group
    return tuple(found.values())


def _group(table: Mapping[str, Any], report: ReportConfig, place: str) -> Group:
    """Raises: ConfigError."""
    reader = SettingsReader(table, source=place)
    if "name" not in table:
        reader.reject("name", "is missing")
    # Stands in for what is not told, and knows the defaults.
    plain = Group(name="?", names=("*",))
    group = replace(
        plain,
        name=reader.take("name", parse_text, plain.name),
        policy=reader.take("policy", lambda name: report.find_policy(name).name, plain.policy),
        up_to=reader.take("up_to", _parse_rung, plain.up_to),
        grace_s=reader.take("grace", parse_duration_s, plain.grace_s),
        stop_grace_s=reader.take("stop_grace", parse_duration_s, plain.stop_grace_s),
        unknown_owner=reader.take("unknown_owner", parse_flag, plain.unknown_owner),
        approve=reader.take("approve", _parse_approve, plain.approve),
    )
    tags, owners, names = (reader.take(key, _parse_texts, _NONE) for key in ("tags", "owners", "names"))
    reader.finish()
    try:
        return replace(group, tags=tags, owners=owners, names=names)
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error


def _parse_texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{value!r} is not a list of texts")
    return tuple(parse_text(each) for each in value)


def _parse_rung(value: object) -> Rung:
    try:
        return Rung(str(value))
    except ValueError:
        raise ValueError(f"{value!r} is none of {', '.join(Rung)}") from None


def _parse_approve(value: object) -> Approve:
    try:
        return Approve(str(value))
    except ValueError:
        raise ValueError(f"{value!r} is none of {', '.join(Approve)}") from None


def _parse_above(value: object) -> int | None:
    if value == _NEVER:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f'{value!r} is neither a number of VMs (0: every plan that takes something) nor "{_NEVER}"')
    return value


def _parse_move(value: object) -> bool:
    choices = (Rung.REPORT.value, _MIGRATE)
    if value not in choices:
        raise ValueError(f"{value!r} is none of {', '.join(choices)}")
    return value == _MIGRATE


def _parse_rate(value: object) -> float:
    return parse_limit(value, "bytes_per_s")
