"""Settings of the report, from a TOML file with one table, `[report]`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from agent.settings import (
    ConfigError,
    SettingsReader,
    load_toml,
    parse_count,
    parse_duration_s,
    parse_host_port,
    parse_size_bytes,
    parse_text,
)
from aggregator.listen_settings import ListenSettings, take_listen_settings
from aggregator.vms_csv import parse_text as parse_label
from reports.fallow_policy import STRICTNESS
from reports.own_policies import read_policies
from reports.people.settings import LoginConfig, login_of, parse_names
from reports.policies import DEFAULT_POLICY, POLICIES, find_policy
from reports.policy import Policy
from reports.program import refuse_open_password
from reports.quantities import (
    parse_amount,
    parse_positive_amount,
    parse_positive_ratio,
    parse_ratio,
    parse_window_days,
    whole_number,
)
from reports.savings import Prices
from reports.sizing import SizingLimits
from reports.timetable import WEEK_HOURS, TimetableLimits
from reports.verdicts import Limits, Settings

if TYPE_CHECKING:
    from reports.deliver.targets import Plan

FALLOW = "fallow"
_MAX_CURRENCY_CHARS = 8
_PROFILE_WEEKS = 4
_PRICES = ("vcpu_hour", "mem_gib_hour", "disk_gib_month", "kwh")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Settings of the pages.

    Args:
        listen: host and port; port 0 takes any free one.
        door: TLS, or plain text behind a proxy.
        names: of this server, under which browsers may come, beside those of this machine.
        aggregator_url: the admin door of a fleet's one aggregator, which has the samples. Several each tell their own.
        admin_token_file: None: `admin.token` in the data directory. All aggregators of a fleet have the same.
        nodes_ca: PEM file of the authorities that aggregators are verified by; None: the system's.
        judge_every_s: how often the whole fleet is judged.
        fresh_for_s: older verdicts are no longer shown as those of now.
    """

    listen: tuple[str, int] = ("127.0.0.1", 8901)
    door: ListenSettings = field(default_factory=ListenSettings)
    names: tuple[str, ...] = ()
    aggregator_url: str = "http://127.0.0.1:8900"
    admin_token_file: Path | None = None
    nodes_ca: Path | None = None
    judge_every_s: float = 3600.0
    fresh_for_s: float = 7200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """What a report is made from and by which rules.

    Args:
        data_dir: the aggregator's data directory.
        fleet_url: of SQLAlchemy, instead of the fleet database in `data_dir`; it may hold a password.
        top: how many VMs are listed.
        zone: in which people read times.
        login: how people log in to the pages.
        deliveries: in the order of the file.
        own_policies: those that the file adds, by name.
    """

    data_dir: Path = Path("/var/lib/fallow")
    fleet_url: str | None = field(default=None, repr=False)
    window_days: int = 14
    policy: Policy = POLICIES[DEFAULT_POLICY]
    top: int = 20
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    limits: Limits = field(default_factory=Limits)
    sizing: SizingLimits = field(default_factory=SizingLimits)
    timetable: TimetableLimits = field(default_factory=TimetableLimits)
    prices: Prices = field(default_factory=Prices)
    serve: ServeConfig = field(default_factory=ServeConfig)
    login: LoginConfig = field(default_factory=LoginConfig)
    deliveries: tuple[Plan, ...] = ()
    own_policies: Mapping[str, Policy] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """Everything but the policy that a verdict depends on."""
        return Settings(
            window_days=self.window_days,
            limits=self.limits,
            sizing=self.sizing,
            timetable=self.timetable,
            prices=self.prices,
        )

    @property
    def policies(self) -> Mapping[str, Policy]:
        """Every policy by name: the built-in ones, then the admin's own."""
        return {**POLICIES, **self.own_policies}

    @property
    def admin_token_file(self) -> Path:
        return self.serve.admin_token_file or self.data_dir / "admin.token"

    def find_policy(self, name: object) -> Policy:
        """A built-in policy or one of the file. Raises: ValueError: there is none; it names those that exist."""
        return find_policy(name, self.own_policies)

    @classmethod
    def parse(cls, table: Mapping[str, Any], *, source: str, base: ReportConfig | None = None) -> ReportConfig:
        """Settings of a file laid over `base`.

        Args: source: what errors call the file.

        Raises: ConfigError: every mistake at once, unknown keys too.
        """
        base = base or cls()
        report, lists = _apart(table.get("report", {}))
        reader = SettingsReader({**table, "report": report}, source=source)
        own, deliveries = base.own_policies, base.deliveries
        problems: list[str] = []
        unread: frozenset[str] = frozenset()
        if "policies" in lists:
            own, problems = read_policies(lists["policies"], source=source)
            if isinstance(lists["policies"], Mapping):
                unread = frozenset(lists["policies"].keys() - own.keys())
        if "deliveries" in lists:
            deliveries = _deliveries(table, source, problems)
        login = login_of(lists, problems, source=source, base=base.login)
        data = reader.take("report.data", parse_text, "")
        config = cls(
            data_dir=Path(data) if data else base.data_dir,
            fleet_url=reader.take("report.fleet", parse_text, base.fleet_url or "") or None,
            window_days=reader.take("report.window", parse_window_days, base.window_days),
            policy=_policy(reader, base.policy, own, unread),
            top=reader.take("report.top", parse_count, base.top),
            zone=reader.take("report.timezone", parse_zone, base.zone),
            limits=_limits(reader, base.limits),
            sizing=_sizing(reader, base.sizing),
            timetable=_timetable(reader, base.timetable),
            prices=_prices(reader, base.prices),
            serve=_serve(reader, base.serve),
            login=login,
            deliveries=deliveries,
            own_policies=own,
        )
        if data and config.fleet_url:
            reader.reject("report.fleet", "not together with report.data: one fleet is read")
        try:
            reader.finish()
        except ConfigError as error:
            problems = [*error.problems, *problems]
        if problems:
            raise ConfigError(problems)
        return config


def load_config(path: Path, *, base: ReportConfig) -> ReportConfig:
    """The settings of a TOML file laid over `base`.

    Raises: ConfigError: unreadable, mistakes in it, or a password in it that others may read.
    """
    config = ReportConfig.parse(load_toml(path), source=str(path), base=base)
    if config.fleet_url != base.fleet_url:
        refuse_open_password(path, config.fleet_url)
    return config


def choose_policy(name: object, strictness: object, *, own: Mapping[str, Policy], default: Policy) -> Policy:
    """The policy that a name, a strictness or both ask for; None is not asked.

    Raises: ValueError: no such policy or strictness; or a strictness for another policy than `fallow`.
    """
    if strictness is None:
        return default if name is None else find_policy(name, own)
    if name not in {None, FALLOW}:
        raise ValueError(f'goes with the policy "{FALLOW}" alone, not with {name!r}')
    return POLICIES[f"{FALLOW}-{parse_strictness(strictness)}"]


def parse_strictness(text: object) -> str:
    """One of STRICTNESS. Raises: ValueError: it names them."""
    if not isinstance(text, str) or text not in STRICTNESS:
        raise ValueError(f"{text!r} is not a strictness ({', '.join(STRICTNESS)})")
    return text


def parse_tags(value: object) -> tuple[str, ...]:
    """A list of texts; an empty list excludes nothing. Raises: ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list of tags")
    return tuple(parse_text(tag) for tag in value)


def parse_zone(text: object) -> ZoneInfo:
    """A zone such as `Europe/Berlin`. Raises: ValueError: there is none of that name."""
    try:
        return ZoneInfo(parse_text(text))
    except (LookupError, ValueError, OSError) as error:
        raise ValueError(f"{text!r} is not a time zone (such as UTC or Europe/Berlin)") from error


def _apart(report: Any) -> tuple[Any, dict[str, Any]]:
    """The settings that a reader of nested tables understands, and the parts with readers of their own."""
    if not isinstance(report, Mapping):
        return report, {}
    lists = {key: report[key] for key in ("policies", "deliveries", "login") if key in report}
    return {key: value for key, value in report.items() if key not in lists}, lists


def _deliveries(table: Mapping[str, Any], source: str, problems: list[str]) -> tuple[Plan, ...]:
    # Only who has deliveries waits for the mail and web libraries that check them.
    from reports.deliver.config import parse_deliveries  # noqa: PLC0415

    try:
        return parse_deliveries(table, source=source)
    except ConfigError as error:
        problems.extend(error.problems)
        return ()


def _policy(reader: SettingsReader, base: Policy, own: Mapping[str, Policy], unread: frozenset[str]) -> Policy:
    """Args: unread: names of policies whose own mistakes are known already."""

    def parse_name(value: object) -> str:
        if not isinstance(value, str) or value not in unread:
            find_policy(value, own)
        return str(value)

    name = reader.take("report.policy", parse_name, None)
    strictness = reader.take("report.strictness", parse_strictness, None)
    if name in unread:
        return base
    try:
        return choose_policy(name, strictness, own=own, default=base)
    except ValueError as error:
        reader.reject("report.strictness", str(error))
        return base


def _limits(reader: SettingsReader, base: Limits) -> Limits:
    return replace(
        base,
        min_coverage_ratio=reader.take("report.min_coverage", parse_positive_ratio, base.min_coverage_ratio),
        silent_after_s=reader.take("report.silent_after", parse_duration_s, base.silent_after_s),
        exclude_tags=reader.take("report.exclude_tags", parse_tags, base.exclude_tags),
    )


def _sizing(reader: SettingsReader, base: SizingLimits) -> SizingLimits:
    return SizingLimits(
        cpu_p95_ratio=reader.take("report.sizing.cpu_p95", parse_positive_ratio, base.cpu_p95_ratio),
        mem_max_ratio=reader.take("report.sizing.memory_peak", parse_positive_ratio, base.mem_max_ratio),
        mem_step_bytes=float(reader.take("report.sizing.memory_step", parse_size_bytes, base.mem_step_bytes)),
        min_saving_ratio=reader.take("report.sizing.min_saving", parse_ratio, base.min_saving_ratio),
    )


def _timetable(reader: SettingsReader, base: TimetableLimits) -> TimetableLimits:
    key = "report.timetable"
    limits = TimetableLimits(
        rest_ratio=reader.take(f"{key}.rest", parse_ratio, base.rest_ratio),
        work_ratio=reader.take(f"{key}.work", parse_ratio, base.work_ratio),
        min_rest_h=reader.take(f"{key}.min_rest_h", whole_number(1, WEEK_HOURS), base.min_rest_h),
        early_h=reader.take(f"{key}.early_h", whole_number(0, WEEK_HOURS), base.early_h),
        min_off_h_per_week=reader.take(
            f"{key}.min_off_h_per_week", whole_number(1, WEEK_HOURS), base.min_off_h_per_week
        ),
        min_weeks=reader.take(f"{key}.min_weeks", whole_number(1, _PROFILE_WEEKS), base.min_weeks),
    )
    if limits.rest_ratio >= limits.work_ratio:
        reader.reject(f"{key}.work", "is not above rest")
    if limits.min_rest_h + limits.early_h > WEEK_HOURS:
        reader.reject(f"{key}.min_rest_h", f"is more than a week together with early_h ({WEEK_HOURS} hours)")
    return limits


def _prices(reader: SettingsReader, base: Prices) -> Prices:
    key = "report.prices"
    prices = Prices(
        currency=reader.take(f"{key}.currency", _parse_currency, base.currency),
        vcpu_hour=reader.take(f"{key}.vcpu_hour", parse_amount, base.vcpu_hour),
        mem_gib_hour=reader.take(f"{key}.mem_gib_hour", parse_amount, base.mem_gib_hour),
        disk_gib_month=reader.take(f"{key}.disk_gib_month", parse_amount, base.disk_gib_month),
        kwh=reader.take(f"{key}.kwh", parse_amount, base.kwh),
        watts_per_vcpu=reader.take(f"{key}.watts_per_vcpu", parse_amount, base.watts_per_vcpu),
        watts_per_mem_gib=reader.take(f"{key}.watts_per_mem_gib", parse_amount, base.watts_per_mem_gib),
        mem_gib_per_vcpu=reader.take(f"{key}.mem_gib_per_vcpu", parse_positive_amount, base.mem_gib_per_vcpu),
    )
    if prices.currency is None and any(getattr(prices, name) for name in _PRICES):
        reader.reject(f"{key}.currency", "is missing beside the prices")
    return prices


def _serve(reader: SettingsReader, base: ServeConfig) -> ServeConfig:
    key = "report.serve"
    token_file = reader.take(f"{key}.admin_token_file", parse_text, "")
    nodes_ca = reader.take(f"{key}.nodes_ca", parse_text, "")
    serve = ServeConfig(
        listen=reader.take(f"{key}.listen", parse_host_port, base.listen),
        door=take_listen_settings(reader, key, base.door),
        names=reader.take(f"{key}.names", parse_names, base.names),
        aggregator_url=reader.take(f"{key}.aggregator", parse_aggregator_url, base.aggregator_url),
        admin_token_file=Path(token_file) if token_file else base.admin_token_file,
        nodes_ca=Path(nodes_ca) if nodes_ca else base.nodes_ca,
        judge_every_s=reader.take(f"{key}.judge_every", parse_duration_s, base.judge_every_s),
        fresh_for_s=reader.take(f"{key}.fresh_for", parse_duration_s, base.fresh_for_s),
    )
    if serve.fresh_for_s < serve.judge_every_s:
        reader.reject(
            f"{key}.fresh_for", "is shorter than judge_every: verdicts would be old before the next ones come"
        )
    return serve


def parse_aggregator_url(text: object) -> str:
    """Where an admin door is asked. Raises: ValueError: no address, plain text to another machine, or of no machine."""
    from aggregator.addresses import check_askable  # noqa: PLC0415
    from aggregator.admin_client import parse_admin_url  # noqa: PLC0415

    server = parse_admin_url(text)
    if not server.tls and not server.is_loopback:
        raise ValueError(f"{text!r} is on another machine, where the token would be readable on the way: use https")
    check_askable(server.host)
    return str(server)


def _parse_currency(value: object) -> str:
    text = parse_label(value) if isinstance(value, str) else None
    if text is None or len(text) > _MAX_CURRENCY_CHARS:
        raise ValueError(f"{value!r} is not a currency (such as EUR)")
    return text
