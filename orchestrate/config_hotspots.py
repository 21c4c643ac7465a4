"""The table `[orchestrate.hotspots]`: how hot hosts are found, who plans the moves, and within what bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from agent.settings import SettingsReader, parse_count, parse_duration_s
from orchestrate.hotspots.detectors import DETECTORS
from orchestrate.hotspots.planners.registry import PLANNERS
from orchestrate.hotspots.relief import ReliefSettings
from reports.quantities import parse_limit, parse_positive_amount, parse_positive_ratio, parse_ratio

_KEY = "orchestrate.hotspots"

T = TypeVar("T")


def parse_hotspots(reader: SettingsReader, base: ReliefSettings) -> ReliefSettings:
    """Laid over `base`; whether anything may be moved at all stands in `orchestrate.config_reclaim`."""
    hosts, planning = base.hosts, base.planning
    return replace(
        base,
        detector=reader.take(f"{_KEY}.detector", lambda name: _named(name, DETECTORS), base.detector),
        planner=reader.take(f"{_KEY}.planner", lambda name: _named(name, PLANNERS), base.planner),
        life_s=reader.take(f"{_KEY}.life", parse_duration_s, base.life_s),
        cool_down_s=reader.take(f"{_KEY}.cool_down", parse_duration_s, base.cool_down_s),
        no_return_s=reader.take(f"{_KEY}.no_return", parse_duration_s, base.no_return_s),
        hosts=replace(
            hosts,
            link_bytes_per_s=reader.take(f"{_KEY}.link", _parse_rate, hosts.link_bytes_per_s),
            cpu_overcommit_ratio=reader.take(
                f"{_KEY}.cpu_overcommit", parse_positive_amount, hosts.cpu_overcommit_ratio
            ),
            mem_overcommit_ratio=reader.take(
                f"{_KEY}.memory_overcommit", parse_positive_amount, hosts.mem_overcommit_ratio
            ),
        ),
        planning=replace(
            planning,
            use_ratio=reader.take(f"{_KEY}.use", parse_positive_ratio, planning.use_ratio),
            min_gain_ratio=reader.take(f"{_KEY}.min_gain", parse_ratio, planning.min_gain_ratio),
            max_moves=reader.take(f"{_KEY}.max_moves", parse_count, planning.max_moves),
        ),
    )


def _named(name: object, known: Mapping[str, T]) -> T:
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{name!r} is none of {', '.join(known)}")
    return known[name]


def _parse_rate(value: object) -> float:
    rate = parse_limit(value, "bytes_per_s")
    if rate == 0:
        raise ValueError(f"{value!r} is not more than zero")
    return rate
