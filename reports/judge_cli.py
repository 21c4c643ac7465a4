"""`fallow-report judge`: verdicts on recorded VMs, or on the fleet now, stored for the reports to come.

numpy, SQLAlchemy and the renderers load when a command needs them.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from agent.settings import ConfigError, parse_count
from reports.own_policies import ALL
from reports.report_cli import add_question_options, apply_question_options, check_window, option
from reports.words import count_words, printable

if TYPE_CHECKING:
    import sqlalchemy as sa

    from agent.traces import Recording
    from reports.config import ReportConfig
    from reports.facts import Facts
    from reports.policy import Policy
    from reports.recorded import Recorded

Open = Callable[[str | None, Path], "sa.Engine"]

DONE, FAILED = 0, 1
# Of the report of a trace alone.
_OF_TRACE = ("until", "top", "why", "json", "csv")
_SAY_EVERY_VMS = 50
_DISPUTED = 20
_EXAMPLES = """\
examples:
  fallow-report judge --trace rnd.tar.xz                     every recorded VM, judged at the end of the trace
  fallow-report judge --trace rnd.tar.xz --until 2013-08-15  by the 14 days before the end of that day
  fallow-report judge --trace vms.csv --policy all           by every policy, side by side
  fallow-report judge --trace vms.csv --top 20 --why         the most worthwhile ones, with a sentence on each
  fallow-report judge --store                                the fleet now, for the reports and pages to come
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `judge` takes; `run` does it."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--trace",
        metavar="PATH",
        type=Path,
        help="recorded VMs: an archive or folder in the Bitbrains layout, or a CSV",
    )
    what.add_argument("--store", action="store_true", help="judge the fleet now and store the verdicts")
    add_question_options(parser)
    parser.add_argument(
        "--until", metavar="DATE", help="judge a trace as it was at the end of this day, or at this time (UTC)"
    )
    parser.add_argument("--top", metavar="N", type=option(parse_count), help="list the N most worthwhile VMs alone")
    parser.add_argument("--why", action="store_true", help="below the table, a sentence on each VM")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--csv", action="store_true", help="print one row a VM, with --policy all one a policy")


def run(
    options: argparse.Namespace,
    config: ReportConfig,
    *,
    out: TextIO,
    err: TextIO,
    clock: Callable[[], float] = time.time,
    width: int | None = None,
    colour: bool = False,
    open_to_read: Open | None = None,
    open_to_write: Open | None = None,
) -> int:
    """Judges a trace and prints its report, or judges the fleet and stores the verdicts.

    Args:
        err: progress, and what a trace lacks.
        width, colour: of the text, as `terminal.to_text` takes them.
        open_to_read, open_to_write: URL and data directory -> engine; `aggregator.fleet_db.open_fleet_read_only` and
            `reports.schema.open_report_db` unless told.

    Returns: 0 done, 1 another run wrote to the same verdicts meanwhile.

    Raises:
        ConfigError: an option that does not go with --store, no such policy or window, a date that is none, a trace
            that cannot be used, no fleet database.
        sqlalchemy.exc.DBAPIError: of the fleet database.
    """
    if options.store:
        given = [name for name in _OF_TRACE if getattr(options, name) not in {None, False}]
        if given:
            raise ConfigError([f"judge: --{name} goes with --trace, not with --store" for name in given])
    policies, config = _policies(options, config)
    if options.store:
        return _store(policies, config, clock(), out=out, err=err, opened=(open_to_read, open_to_write))
    out.write(_trace(options, policies, config, err=err, width=width, colour=colour))
    return DONE


def _policies(options: argparse.Namespace, config: ReportConfig) -> tuple[tuple[Policy, ...], ReportConfig]:
    if options.policy != ALL:
        config = apply_question_options(options, config)
        return (config.policy,), config
    config = apply_question_options(argparse.Namespace(**{**vars(options), "policy": None}), config)
    return tuple(config.policies.values()), config


def _trace(
    options: argparse.Namespace,
    policies: Sequence[Policy],
    config: ReportConfig,
    *,
    err: TextIO,
    width: int | None,
    colour: bool,
) -> str:
    from reports.compare_render import to_csv as compared_csv  # noqa: PLC0415
    from reports.compare_render import to_json as compared_json  # noqa: PLC0415
    from reports.compare_render import to_text as compared_text  # noqa: PLC0415
    from reports.render import to_csv, to_json  # noqa: PLC0415
    from reports.report import Question  # noqa: PLC0415
    from reports.terminal import to_text  # noqa: PLC0415
    from reports.trace_report import comparison_of, report_of  # noqa: PLC0415

    until_s = _until_s(options.until)
    recorded = _read(options.trace, policies, config, until_s, err)
    adapted = _adapt(policies, recorded, err)
    facts = _join(recorded)
    # Only what the trace itself says is now: a VM whose samples end before the others' is silent.
    now_s = float(facts.newest_s.max()) if math.isinf(until_s) else until_s
    settings = config.settings
    if options.policy == ALL:
        comparison = comparison_of(facts, adapted, settings, now_s=now_s, top=options.top or _DISPUTED)
        if options.json:
            return compared_json(comparison)
        return compared_csv(comparison) if options.csv else compared_text(comparison, width=width, colour=colour)
    question = Question(
        policy=adapted[0], settings=settings, now_s=now_s, reclaimable=options.top is not None, top=options.top
    )
    report = report_of(facts, question)
    if options.json:
        return to_json(report)
    return to_csv(report) if options.csv else to_text(report, width=width, colour=colour, why=options.why)


def _until_s(text: str | None) -> float:
    from reports.exemptions import parse_until  # noqa: PLC0415

    if text is None:
        return math.inf
    try:
        # A day's last second lies within its last interval, which ends with the minute.
        return math.ceil(parse_until(text, now_s=0.0) / 60) * 60.0
    except ValueError as error:
        raise ConfigError(f"--until: {error}") from error


def _read(path: Path, policies: Sequence[Policy], config: ReportConfig, until_s: float, err: TextIO) -> list[Recorded]:
    from agent.traces import TraceError, read_trace  # noqa: PLC0415
    from reports.explain import SHOWN_DAYS  # noqa: PLC0415
    from reports.judging import judged_days  # noqa: PLC0415
    from reports.recorded import recorded_vms  # noqa: PLC0415

    days = sorted({*SHOWN_DAYS, *judged_days(policies, config.settings)})
    try:
        found = list(recorded_vms(_counted(read_trace(path), path, err), days, until_s=until_s))
    except TraceError as error:
        raise ConfigError(f"--trace: {error}") from error
    if not found:
        raise ConfigError(f"--trace: {path}: no VM has a sample" + ("" if math.isinf(until_s) else " until then"))
    return found


def _counted(recordings: Iterable[Recording], path: Path, err: TextIO) -> Iterator[Recording]:
    """The same recordings, with progress, and at the end what cleaning dropped."""
    rows = kept = 0
    for read, recording in enumerate(recordings, 1):
        yield recording
        rows, kept = rows + recording.dirt.rows, kept + recording.dirt.kept
        if read % _SAY_EVERY_VMS == 0:
            print(f"{path.name}: {read} VMs ...", file=err, flush=True)
    if kept < rows:
        print(f"{path.name}: {rows - kept:,} of {rows:,} rows could not be used", file=err)


def _adapt(policies: Sequence[Policy], recorded: Sequence[Recorded], err: TextIO) -> list[Policy]:
    """The policies without rules on what the trace does not record. Raises ConfigError: nothing is left of any."""
    from reports.recorded import adapt, unrecorded  # noqa: PLC0415

    missing = unrecorded(recorded)
    found = []
    for policy in policies:
        adapted = adapt(policy, missing)
        if adapted is None:
            print(f"{policy.name}: left out, the trace records none of its figures", file=err)
            continue
        found.append(adapted.policy)
        if adapted.left_out:
            print(f"{policy.name}: judged without {', '.join(adapted.left_out)}, not recorded in the trace", file=err)
    if not found:
        raise ConfigError("--policy: the trace records none of its figures")
    return found


def _join(recorded: Sequence[Recorded]) -> Facts:
    from reports.recorded import join  # noqa: PLC0415

    return join(recorded)


def _store(
    policies: Sequence[Policy],
    config: ReportConfig,
    now_s: float,
    *,
    out: TextIO,
    err: TextIO,
    opened: tuple[Open | None, Open | None],
) -> int:
    from aggregator.fleet_db import open_fleet_read_only  # noqa: PLC0415
    from reports.judging import store_verdicts  # noqa: PLC0415
    from reports.schema import open_report_db  # noqa: PLC0415
    from reports.verdict_table import RunClash  # noqa: PLC0415
    from reports.verdicts import Verdict  # noqa: PLC0415

    to_read, to_write = opened
    # It makes the report's tables where need be: first, so that the reader finds them.
    writer = (to_write or open_report_db)(config.fleet_url, config.data_dir)
    try:
        reader = (to_read or open_fleet_read_only)(config.fleet_url, config.data_dir)
        try:
            check_window(reader, config.window_days, () if len(policies) > 1 else policies)
            for policy in policies:
                totals = store_verdicts(reader, writer, policy, config.settings, now_s)
                verdicts = ", ".join(f"{totals.of(verdict):,} {verdict.value}" for verdict in Verdict)
                out.write(printable(f"{policy.name}: {count_words(totals.vms, 'VM')} judged: {verdicts}") + "\n")
        except RunClash as error:
            print(f"fallow-report: {error}", file=err)
            return FAILED
        finally:
            reader.dispose()
    finally:
        writer.dispose()
    return DONE
