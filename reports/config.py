"""Settings of the report, from a TOML file with one table, `[report]`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.settings import (
    ConfigError,
    SettingsReader,
    load_toml,
    parse_count,
    parse_duration_s,
    parse_text,
)
from reports.candidates import DAY_S
from reports.policies import DEFAULT_POLICY, POLICIES, Policy
from reports.verdicts import Limits


def parse_window_days(text: object) -> int:
    """Whole days of `14d` or `2w`. Raises: ValueError."""
    seconds = parse_duration_s(text)
    days = int(seconds // DAY_S)
    if days * DAY_S != seconds:
        raise ValueError(f"{text!r} is not a number of whole days (such as 14d)")
    return days


def parse_policy(text: object) -> Policy:
    """The policy of that name. Raises: ValueError: it names those that exist."""
    policy = POLICIES.get(text) if isinstance(text, str) else None
    if policy is None:
        raise ValueError(f"{text!r} is not a policy ({', '.join(POLICIES)})")
    return policy


def parse_tags(value: object) -> tuple[str, ...]:
    """A list of texts; an empty list excludes nothing. Raises: ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list of tags")
    return tuple(parse_text(tag) for tag in value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """What a report is made from and by which rules.

    Args:
        data_dir: the aggregator's data directory; unused with `fleet_url`.
        fleet_url: of SQLAlchemy; it may hold a password.
        top: how many VMs are listed.
    """

    data_dir: Path = Path("/var/lib/fallow")
    fleet_url: str | None = field(default=None, repr=False)
    window_days: int = 14
    policy: Policy = POLICIES[DEFAULT_POLICY]
    top: int = 20
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def parse(cls, table: Mapping[str, Any], *, source: str, base: ReportConfig | None = None) -> ReportConfig:
        """Settings of a file laid over `base`.

        Args: source: what errors call the file.

        Raises: ConfigError: every mistake at once, unknown keys too.
        """
        base = base or cls()
        reader = SettingsReader(table, source=source)
        data = reader.take("report.data", parse_text, "")
        config = cls(
            data_dir=Path(data) if data else base.data_dir,
            fleet_url=reader.take("report.fleet", parse_text, base.fleet_url or "") or None,
            window_days=reader.take("report.window", parse_window_days, base.window_days),
            policy=reader.take("report.policy", parse_policy, base.policy),
            top=reader.take("report.top", parse_count, base.top),
            limits=Limits(
                min_coverage_ratio=base.limits.min_coverage_ratio,
                silent_after_s=reader.take("report.silent_after", parse_duration_s, base.limits.silent_after_s),
                max_skew_s=base.limits.max_skew_s,
                exclude_tags=reader.take("report.exclude_tags", parse_tags, base.limits.exclude_tags),
            ),
        )
        if data and config.fleet_url:
            reader.reject("report.fleet", "not together with report.data: one fleet is read")
        reader.finish()
        return config


def load_config(path: Path, *, base: ReportConfig) -> ReportConfig:
    """The settings of a TOML file laid over `base`.

    Raises: ConfigError: unreadable, mistakes in it, or a password in it that others may read.
    """
    config = ReportConfig.parse(load_toml(path), source=str(path), base=base)
    if config.fleet_url and config.fleet_url != base.fleet_url and _has_password(config.fleet_url):
        mode = path.stat().st_mode
        if mode & 0o077:
            raise ConfigError(
                f"{path}: report.fleet: holds a password, and others may read it "
                f"(mode {mode & 0o777:04o}): run chmod 600 {path}"
            )
    return config


def _has_password(url: str) -> bool:
    try:
        return urlsplit(url).password is not None
    except ValueError:
        return True
