"""`fallow-report compare` and `policies`: one fleet by several policies, and which policies there are.

numpy, SQLAlchemy and the renderers load when a command needs them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from agent.settings import ConfigError, parse_count, parse_duration_s
from reports.quantities import parse_window_days
from reports.report_cli import check_window, option
from reports.words import printable

if TYPE_CHECKING:
    import sqlalchemy as sa

    from reports.config import ReportConfig
    from reports.policy import Policy

Open = Callable[[str | None, Path], "sa.Engine"]

DONE = 0
_RENAME = "# A built-in policy: give it a name of your own."
_COMPARE_EXAMPLES = """\
examples:
  fallow-report compare                                 every policy, built-in and of the configuration
  fallow-report compare --policy fallow-bold --policy aws --top 50
  fallow-report compare --window 30d --json             for programs
"""
_POLICIES_EXAMPLES = """\
examples:
  fallow-report policies                                the name of each, and what it looks for
  fallow-report policies google                         its figures and limits
  fallow-report policies google --toml                  a beginning for one of your own
"""


def add_compare_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `compare` takes; `run_compare` does it."""
    parser.epilog = _COMPARE_EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--policy", metavar="NAME", action="append", default=[], help="judge by this one (may repeat; default: by all)"
    )
    parser.add_argument(
        "--window", metavar="14d", type=option(parse_window_days), help="judge these days (default: 14d)"
    )
    parser.add_argument(
        "--silent-after",
        metavar="1h",
        type=option(parse_duration_s),
        help="a newest sample older than this is silence",
    )
    parser.add_argument(
        "--top", metavar="20", type=option(parse_count), help="name at most so many VMs on which policies differ (20)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--csv", action="store_true", help="print one row a policy")


def add_policies_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `policies` takes; `run_policies` does it."""
    parser.epilog = _POLICIES_EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this one with its figures and limits")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--toml", action="store_true", help="print it as a configuration has it")
    form.add_argument("--json", action="store_true", help="print one JSON object")


def run_compare(
    options: argparse.Namespace,
    config: ReportConfig,
    *,
    out: TextIO,
    clock: Callable[[], float] = time.time,
    width: int | None = None,
    colour: bool = False,
    open_to_read: Open | None = None,
) -> int:
    """Judges the fleet by every policy, or by those asked for, and prints what they say.

    Args:
        width, colour: of the text, as `terminal.to_text` takes them.
        open_to_read: URL and data directory -> engine; `aggregator.fleet_db.open_fleet_read_only` unless told.

    Raises:
        ConfigError: no such policy or window, or of `open_to_read`.
        sqlalchemy.exc.DBAPIError: of the fleet database.
    """
    from aggregator.fleet_db import open_fleet_read_only  # noqa: PLC0415
    from reports.compare_fleet import compare_fleet  # noqa: PLC0415
    from reports.compare_render import to_csv, to_json, to_text  # noqa: PLC0415

    if options.window is not None:
        config = replace(config, window_days=options.window)
    if options.silent_after is not None:
        config = replace(config, limits=replace(config.limits, silent_after_s=options.silent_after))
    policies = _chosen(options.policy, config, said="--policy")
    engine = (open_to_read or open_fleet_read_only)(config.fleet_url, config.data_dir)
    try:
        check_window(engine, config.window_days)
        comparison = compare_fleet(engine, policies, config.settings, now_s=clock(), top=options.top or config.top)
    finally:
        engine.dispose()
    if options.json:
        out.write(to_json(comparison))
    elif options.csv:
        out.write(to_csv(comparison))
    else:
        out.write(to_text(comparison, width=width, colour=colour))
    return DONE


def _chosen(names: Sequence[str], config: ReportConfig, *, said: str) -> tuple[Policy, ...]:
    """Those asked for, each once, in their order; all when none is.

    Args: said: where they were asked for.

    Raises: ConfigError: every unknown name.
    """
    found: dict[str, Policy] = {}
    problems = []
    for name in names or config.policies:
        try:
            policy = config.find_policy(name)
        except ValueError as error:
            problems.append(f"{said}: {error}")
        else:
            found[policy.name] = policy
    if problems:
        raise ConfigError(problems)
    return tuple(found.values())


def run_policies(options: argparse.Namespace, config: ReportConfig, *, out: TextIO) -> int:
    """Lists the policies, or shows the one that is named.

    Raises: ConfigError: no such policy.
    """
    from reports.own_policies import to_toml  # noqa: PLC0415
    from reports.policy_words import policy_lines, policy_object  # noqa: PLC0415

    policies = _chosen([] if options.name is None else [options.name], config, said="policies")
    if options.json:
        objects = [policy_object(policy, own=policy.name in config.own_policies) for policy in policies]
        body = ",\n".join(map(json.dumps, objects))
        out.write(f'{json.dumps({"default": config.policy.name})[:-1]}, "policies": [\n{body}\n]}}\n')
    elif options.toml:
        own = config.own_policies
        texts = [to_toml(policy) if policy.name in own else f"{_RENAME}\n{to_toml(policy)}" for policy in policies]
        out.write("\n".join(texts))
    elif options.name is not None:
        out.write("\n".join(line for policy in policies for line in policy_lines(policy)) + "\n")
    else:
        out.write(_listing(policies, config))
    return DONE


def _listing(policies: Sequence[Policy], config: ReportConfig) -> str:
    widest = max(len(policy.name) for policy in policies)
    lines = []
    for policy in policies:
        mark = "*" if policy.name == config.policy.name else " "
        lines.append(f"{mark} {policy.name:<{widest}}  {policy.summary}")
        lines.append(f"  {'':<{widest}}  source: {policy.source}")
    lines.append("* judges unless another is asked for; `fallow-report policies NAME` shows figures and limits.")
    return "\n".join(map(printable, lines)) + "\n"
