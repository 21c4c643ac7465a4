"""Settings of the controller, from a TOML file with two tables: `[report]`, as fallow-report reads it, `[orchestrate]`.

What is not told allows nothing: no drivers, no groups, no moves, no links.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.settings import ConfigError, SettingsReader, load_toml, parse_text
from orchestrate.config_hotspots import parse_hotspots
from orchestrate.config_owners import OwnerConfig, parse_owners
from orchestrate.config_pages import PagesConfig, parse_pages
from orchestrate.config_reclaim import parse_reclaim
from orchestrate.drivers.registry import DriverConfig, parse_drivers
from orchestrate.groups import ReclaimSettings
from orchestrate.hotspots.relief import ReliefSettings
from orchestrate.matching import ENOUGH, MAY_BE_ENOUGH, Evidence
from reports.config import ReportConfig
from reports.judging import settings_sha256 as judged_by
from reports.policy import Policy
from reports.program import refuse_open_password

KEY = "orchestrate"
STOP_FILE = "STOP"
# An address may have been another's yesterday: nothing is ever done on it.
_ENOUGH_TO_ACT = {each.value: each for each in Evidence if each in MAY_BE_ENOUGH}


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrateConfig:
    """What the controller reads, may do and how it tells owners.

    Args:
        report: where the fleet is and by what it is judged.
        data_dir: the key of the links and what the service notes; mode 0700.
        kill_switch_file: while it exists nothing is done; None: STOP in `data_dir`.
        match: what an agent and a VM must have in common to be acted upon.
        drivers: in the order of the file.
    """

    report: ReportConfig = field(default_factory=ReportConfig)
    data_dir: Path = Path("/var/lib/fallow-orchestrate")
    kill_switch_file: Path | None = None
    match: frozenset[Evidence] = frozenset(ENOUGH)
    drivers: tuple[DriverConfig, ...] = ()
    reclaim: ReclaimSettings = field(default_factory=ReclaimSettings)
    hotspots: ReliefSettings = field(default_factory=ReliefSettings)
    owners: OwnerConfig = field(default_factory=OwnerConfig)
    pages: PagesConfig = field(default_factory=PagesConfig)

    @property
    def kill_switch(self) -> Path:
        return self.kill_switch_file or self.data_dir / STOP_FILE

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The report's first, then those that groups name, each once."""
        named = (self.report.find_policy(group.policy) for group in self.reclaim.groups if group.policy is not None)
        return tuple({policy.name: policy for policy in (self.report.policy, *named)}.values())

    @property
    def settings_sha256(self) -> str:
        """Of everything that decides what may be done to which VM: a plan made under other settings is refused."""
        decides = [
            [judged_by(policy, self.report.settings) for policy in self.policies],
            asdict(self.reclaim),
            sorted(self.match),
            [[driver.name, driver.kind] for driver in self.drivers],
        ]
        return hashlib.sha256(json.dumps(decides, sort_keys=True, allow_nan=False).encode()).hexdigest()

    def reading(self, *, data_dir: Path | None = None, fleet_url: str | None = None) -> OrchestrateConfig:
        """The same on another fleet; None leaves what is."""
        report = self.report
        if data_dir is not None:
            report = replace(report, data_dir=data_dir, fleet_url=None)
        if fleet_url is not None:
            report = replace(report, fleet_url=fleet_url)
        return replace(self, report=report)

    @classmethod
    def parse(
        cls, table: Mapping[str, Any], *, source: str, base: OrchestrateConfig | None = None
    ) -> OrchestrateConfig:
        """Settings of a file laid over `base`.

        Args: source: what errors call the file.

        Raises: ConfigError: every mistake at once, unknown keys too.
        """
        base = base or cls()
        problems = [f"{source}: {key}: unknown setting" for key in sorted(table.keys() - {"report", KEY})]
        report = base.report
        try:
            report = ReportConfig.parse({"report": table.get("report", {})}, source=source, base=base.report)
        except ConfigError as error:
            problems += error.problems
        own = table.get(KEY, {})
        if not isinstance(own, Mapping):
            raise ConfigError([*problems, f"{source}: {KEY}: is not a table"])
        try:
            config = _own(own, replace(base, report=report), source)
        except ConfigError as error:
            raise ConfigError([*problems, *error.problems]) from error
        if problems:
            raise ConfigError(problems)
        return config


def load_config(path: Path, *, base: OrchestrateConfig) -> OrchestrateConfig:
    """The settings of a TOML file laid over `base`.

    Raises: ConfigError: unreadable, mistakes in it, or a password in it that others may read.
    """
    config = OrchestrateConfig.parse(load_toml(path), source=str(path), base=base)
    if config.report.fleet_url != base.report.fleet_url:
        refuse_open_password(path, config.report.fleet_url)
    return config


def _own(table: Mapping[str, Any], base: OrchestrateConfig, source: str) -> OrchestrateConfig:
    """Raises: ConfigError: every mistake in `[orchestrate]`."""
    problems: list[str] = []
    drivers = base.drivers
    try:
        drivers = parse_drivers(table["drivers"], source=f"{source}: {KEY}") if "drivers" in table else base.drivers
    except ConfigError as error:
        problems += error.problems
    plain, groups = _apart(table)
    reader = SettingsReader({KEY: plain}, source=source)
    kill_switch = reader.take(f"{KEY}.kill_switch", parse_text, "")
    config = replace(
        base,
        data_dir=Path(reader.take(f"{KEY}.data", parse_text, str(base.data_dir))),
        kill_switch_file=Path(kill_switch) if kill_switch else base.kill_switch_file,
        match=reader.take(f"{KEY}.match", _parse_match, base.match),
        drivers=drivers,
        reclaim=parse_reclaim(reader, groups, base.reclaim, report=base.report, source=source, problems=problems),
        hotspots=parse_hotspots(reader, base.hotspots),
        owners=parse_owners(reader, table.get("notify"), base.owners, source=source, problems=problems),
        pages=parse_pages(reader, base.pages),
    )
    try:
        reader.finish()
    except ConfigError as error:
        problems = [*error.problems, *problems]
    if problems:
        raise ConfigError(problems)
    return config


def _apart(table: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """The settings that a reader of nested tables understands, and the groups; drivers and notices are read apart."""
    plain = {key: value for key, value in table.items() if key not in {"drivers", "notify"}}
    reclaim = plain.get("reclaim")
    if not isinstance(reclaim, Mapping) or "groups" not in reclaim:
        return plain, None
    plain["reclaim"] = {key: value for key, value in reclaim.items() if key != "groups"}
    return plain, reclaim["groups"]


def _parse_match(value: object) -> frozenset[Evidence]:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{value!r} is not a list of {' and '.join(_ENOUGH_TO_ACT)}")
    for each in value:
        if each not in _ENOUGH_TO_ACT:
            raise ValueError(f"{each!r} is not enough to act upon a VM ({', '.join(_ENOUGH_TO_ACT)})")
    return frozenset(_ENOUGH_TO_ACT[each] for each in value)
