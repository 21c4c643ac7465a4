"""`fallow-report` without a command: which VMs can be reclaimed, why, and what that frees.

SQLAlchemy and the renderers load when a report is made, so that `--help` stays light.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from agent.settings import ConfigError, parse_count, parse_duration_s
from reports.config import ReportConfig, choose_policy
from reports.fallow_policy import STRICTNESS
from reports.policies import DEFAULT_POLICY, POLICIES
from reports.quantities import parse_window_days
from reports.report import Sort
from reports.verdicts import Verdict

if TYPE_CHECKING:
    import sqlalchemy as sa

    from reports.policy import Policy
    from reports.report import Question, Report

T = TypeVar("T")
Open = Callable[[str | None, Path], "sa.Engine"]

DONE = 0
_MAX_SINCE_DAYS = 400  # as far as hours are kept
_SHORT = {"insufficient": Verdict.INSUFFICIENT}
_EXAMPLES = """\
examples:
  fallow-report --data /var/lib/fallow           the 20 most worthwhile VMs of the last 14 days
  fallow-report --why                            with a paragraph on each
  fallow-report --strictness cautious            only what does nothing at all
  fallow-report --policy p95 --window 7d         judged by their 95th percentile, over a week
  fallow-report --verdict insufficient --top 50  which VMs cannot be judged, and why
  fallow-report --owner ann --html > ann.html    one file to forward
  fallow-report --all --csv > fleet.csv          every VM with its verdict
  fallow-report --config report.toml --json      for programs; a database's password belongs in the file
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what can be asked, and in which form the answer is wanted."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_question_options(parser)
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--top", metavar="20", type=option(parse_count), help="list at most so many VMs (default: 20)")
    amount.add_argument("--all", action="store_true", help="list every VM with its verdict")
    names = ", ".join(verdict.value.split()[0] for verdict in Verdict)
    parser.add_argument("--verdict", metavar="V", type=option(_parse_verdict), help=f"list VMs of one verdict: {names}")
    parser.add_argument(
        "--sort",
        metavar="KEY",
        type=option(_parse_sort),
        default=Sort.SCORE,
        help=f"order by {', '.join(sort.value for sort in Sort)} (default: score, capacity x confidence)",
    )
    parser.add_argument("--search", metavar="TEXT", default="", help="list VMs whose id, names, owner or tags hold it")
    parser.add_argument("--owner", metavar="WHO", help="list VMs of this owner")
    parser.add_argument(
        "--since",
        metavar="7d",
        type=option(_parse_since_s),
        help="tell what was reclaimed, kept and objected to in this time",
    )
    parser.add_argument("--why", action="store_true", help="below the table, a paragraph on each VM")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--csv", action="store_true", help="print one row a VM")
    form.add_argument("--html", action="store_true", help="print one HTML page that needs nothing else")
    form.add_argument("--mail", action="store_true", help="print the text of a mail")


def add_question_options(parser: argparse.ArgumentParser) -> None:
    """Adds by what VMs are judged: the options that reports, comparisons and judging share."""
    parser.add_argument(
        "--window", metavar="14d", type=option(parse_window_days), help="judge these days (default: 14d)"
    )
    by = parser.add_mutually_exclusive_group()
    by.add_argument(
        "--policy",
        metavar="NAME",
        help=f"{', '.join(POLICIES)}, or one of the configuration (default: {DEFAULT_POLICY})",
    )
    by.add_argument("--strictness", metavar="S", choices=tuple(STRICTNESS), help=f"of our own: {', '.join(STRICTNESS)}")
    parser.add_argument(
        "--silent-after",
        metavar="1h",
        type=option(parse_duration_s),
        help="a newest sample older than this is silence",
    )


def apply_question_options(options: argparse.Namespace, config: ReportConfig) -> ReportConfig:
    """The configuration with what the command line says laid over it. Raises: ConfigError: no such policy."""
    if options.window is not None:
        config = replace(config, window_days=options.window)
    if options.silent_after is not None:
        config = replace(config, limits=replace(config.limits, silent_after_s=options.silent_after))
    try:
        policy = choose_policy(options.policy, options.strictness, own=config.own_policies, default=config.policy)
    except ValueError as error:
        raise ConfigError(f"--policy: {error}") from error
    return replace(config, policy=policy)


def run(
    options: argparse.Namespace,
    config: ReportConfig,
    *,
    out: TextIO,
    clock: Callable[[], float] = time.time,
    width: int | None = None,
    colour: bool = False,
    open_to_read: Open | None = None,
) -> int:
    """Prints one report.

    Args:
        width, colour: of the text, as `terminal.to_text` takes them.
        open_to_read: URL and data directory -> engine; `aggregator.fleet_db.open_fleet_read_only` unless told.

    Raises:
        ConfigError: no such policy, no window of this length or that the policy fixes, an order by money without
            prices, or of `open_to_read`.
        sqlalchemy.exc.DBAPIError: of the fleet database.
    """
    from aggregator.fleet_db import open_fleet_read_only  # noqa: PLC0415
    from reports.fleet_report import make_report  # noqa: PLC0415

    config = apply_question_options(options, config)
    if options.sort is Sort.MONEY and config.prices.currency is None:
        raise ConfigError("--sort: money needs prices, which the configuration has in [report.prices]")
    now_s = clock()
    engine = (open_to_read or open_fleet_read_only)(config.fleet_url, config.data_dir)
    try:
        check_window(engine, config.window_days, (config.policy,))
        report = make_report(
            engine,
            _question(options, config, now_s),
            fresh_s=config.serve.fresh_for_s,
            since_s=None if options.since is None else now_s - options.since,
        )
    finally:
        engine.dispose()
    out.write(_render(report, options, config, width=width, colour=colour))
    return DONE


def check_window(engine: sa.Engine, days: int, policies: Sequence[Policy] = ()) -> None:
    """Whether there can be figures of the window asked for, and of the windows that these policies fix.

    Raises: ConfigError: the aggregator does not keep one of them.
    """
    from reports.fleet import read_window_days, snapshot  # noqa: PLC0415

    with snapshot(engine) as connection:
        known = read_window_days(connection)
    choice = ", ".join(f"{each}d" for each in known)
    if days not in known:
        raise ConfigError(f"--window: the aggregator keeps no window of {days}d (choose from {choice})")
    problems = []
    for policy in policies:
        lacking = ", ".join(f"{each}d" for each in sorted(policy.days(days)) if each not in known)
        if lacking:
            problems.append(f"policy {policy.name}: the aggregator keeps no window of {lacking} (it keeps {choice})")
    if problems:
        raise ConfigError(problems)


def _question(options: argparse.Namespace, config: ReportConfig, now_s: float) -> Question:
    from reports.report import Question  # noqa: PLC0415

    return Question(
        policy=config.policy,
        settings=config.settings,
        now_s=now_s,
        verdict=options.verdict,
        reclaimable=not options.all,
        search=options.search,
        owner=options.owner,
        sort=options.sort,
        top=None if options.all else options.top or config.top,
    )


def _render(
    report: Report, options: argparse.Namespace, config: ReportConfig, *, width: int | None, colour: bool
) -> str:
    if options.json or options.csv:
        from reports.render import to_csv, to_json  # noqa: PLC0415

        return to_json(report) if options.json else to_csv(report)
    if options.html:
        from reports.html import to_html  # noqa: PLC0415

        return to_html(report, zone=config.zone)
    if options.mail:
        from reports.mail import to_mail  # noqa: PLC0415

        return to_mail(report)
    from reports.terminal import to_text  # noqa: PLC0415

    return to_text(report, width=width, colour=colour, why=options.why)


def option(parse: Callable[[object], T]) -> Callable[[str], T]:
    """A parser of settings as a type of argparse, so that its own message is shown."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def _parse_verdict(text: object) -> Verdict:
    words = str(text).replace("-", " ").lower()
    try:
        return _SHORT.get(words) or Verdict(words)
    except ValueError:
        names = ", ".join(verdict.value.split()[0] for verdict in Verdict)
        raise ValueError(f"{text!r} is not a verdict ({names})") from None


def _parse_since_s(text: object) -> float:
    since_s = parse_duration_s(text)
    if since_s > _MAX_SINCE_DAYS * 86_400:
        raise ValueError(f"{text!r} is more than {_MAX_SINCE_DAYS} days")
    return since_s


def _parse_sort(text: object) -> Sort:
    try:
        return Sort(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a key to order by ({', '.join(sort.value for sort in Sort)})") from None
