"""`fallow-report`: reads the fleet database and prints which VMs can be reclaimed, and why."""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from agent.settings import ConfigError, parse_count, parse_duration_s, parse_text
from reports.config import ReportConfig, load_config, parse_policy, parse_window_days
from reports.policies import DEFAULT_POLICY, POLICIES
from reports.verdicts import Verdict

if TYPE_CHECKING:
    import sqlalchemy as sa

    from reports.query import Report

T = TypeVar("T")

DONE, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 69

EXAMPLES = """\
examples:
  fallow-report --data /var/lib/fallow           the 20 most worthwhile idle VMs of the last 14 days
  fallow-report --policy p95 --window 7d         judged by their 95th percentile, over a week
  fallow-report --verdict insufficient --top 50  which VMs cannot be judged, and why
  fallow-report --all --csv > fleet.csv          every VM with its verdict
  fallow-report --config report.toml --json      for programs; a database's password belongs in the file

exit codes: 0 done, 1 failed, 2 usage or configuration, 69 the fleet database does not answer
"""


def main(
    argv: Sequence[str] | None = None,
    *,
    clock: Callable[[], float] = time.time,
    environ: Mapping[str, str] | None = None,
    out: TextIO | None = None,
    err: TextIO | None = None,
    open_fleet: Callable[[str | None, Path], sa.Engine] | None = None,
) -> int:
    """Prints one report; the exit codes are those of `--help`.

    Args:
        clock: tells the time of the report, Unix seconds.
        environ: FALLOW_DATA and COLUMNS are read; the process's own unless told.
        out, err: stdout and stderr unless told.
        open_fleet: URL and data directory -> the fleet; `aggregator.fleet_db.open_fleet_read_only` unless told.
    """
    environ = os.environ if environ is None else environ
    out, err = out or sys.stdout, err or sys.stderr
    options = _parser().parse_args(argv)
    try:
        config = _configure(options, environ)
    except ConfigError as error:
        return _fail(err, USAGE, error)
    import sqlalchemy.exc

    from aggregator.fleet_db import open_fleet_read_only

    try:
        engine = (open_fleet or open_fleet_read_only)(config.fleet_url, config.data_dir)
        try:
            report = _read(engine, options, config, clock())
        finally:
            engine.dispose()
    except ConfigError as error:
        # A file that is locked is not a mistake in the settings.
        cause = error.__cause__
        locked = isinstance(cause, sqlalchemy.exc.OperationalError) and _does_not_answer(cause.orig)
        return _fail(err, UNREACHABLE if locked else USAGE, error)
    except sqlalchemy.exc.OperationalError as error:
        if _does_not_answer(error.orig):
            return _fail(err, UNREACHABLE, f"the fleet database does not answer: {_first_line(error.orig)}")
        return _fail(err, FAILED, f"the fleet database cannot be read: {_first_line(error.orig)}")
    except sqlalchemy.exc.DBAPIError as error:
        return _fail(err, FAILED, f"the fleet database cannot be read: {_first_line(error.orig)}")
    return _write(_render(report, options, environ, out), out)


def _read(engine: sa.Engine, options: argparse.Namespace, config: ReportConfig, now_s: float) -> Report:
    from reports.query import Question, read_report, read_window_days, snapshot

    with snapshot(engine) as connection:
        known_days = read_window_days(connection)
        if config.window_days not in known_days:
            known = ", ".join(f"{days}d" for days in known_days)
            raise ConfigError(
                f"--window: the aggregator keeps no window of {config.window_days}d (choose from {known})"
            )
        question = Question(
            policy=config.policy,
            limits=config.limits,
            window_days=config.window_days,
            now_s=now_s,
            verdict=options.verdict or (None if options.all else Verdict.IDLE),
            top=None if options.all else config.top,
        )
        return read_report(connection, question)


def _render(report: Report, options: argparse.Namespace, environ: Mapping[str, str], out: TextIO) -> str:
    if options.json or options.csv:
        from reports.render import to_csv, to_json

        return to_json(report) if options.json else to_csv(report)
    from reports.terminal import to_text

    terminal = out.isatty()
    columns = environ.get("COLUMNS", "")
    width = int(columns) if columns.isascii() and columns.isdigit() and int(columns) else None
    if width is None and terminal:
        width = shutil.get_terminal_size().columns
    return to_text(report, width=width, colour=terminal)


def _write(text: str, out: TextIO) -> int:
    try:
        out.write(text)
        out.flush()
    except BrokenPipeError:
        # The reader has seen enough, as `| head` does. Python flushes stdout once more at exit: let it.
        if out is sys.stdout:
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
    return DONE


def _configure(options: argparse.Namespace, environ: Mapping[str, str]) -> ReportConfig:
    """Defaults, then the environment, then the file, then the command line. Raises ConfigError."""
    config = ReportConfig()
    if environ.get("FALLOW_DATA"):
        config = replace(config, data_dir=Path(environ["FALLOW_DATA"]))
    if options.config is not None:
        config = load_config(options.config, base=config)
    if options.data is not None:
        config = replace(config, data_dir=options.data, fleet_url=None)
    if options.fleet is not None:
        config = replace(config, fleet_url=options.fleet)
    if options.silent_after is not None:
        config = replace(config, limits=replace(config.limits, silent_after_s=options.silent_after))
    given = {name: getattr(options, name) for name in ("window_days", "policy", "top")}
    return replace(config, **{name: value for name, value in given.items() if value is not None})


def _fail(err: TextIO, code: int, problem: object) -> int:
    print("\n".join(f"fallow-report: {line}" for line in str(problem).splitlines()), file=err)
    return code


def _does_not_answer(error: BaseException | None) -> bool:
    """Whether a driver's operational error means a database out of reach; SQLite reports much else as one too."""
    if not isinstance(error, sqlite3.Error):
        return True
    # The lower byte is the kind, the rest tells details of it.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}


def _first_line(error: BaseException | None) -> str:
    return next(iter(str(error).splitlines()), "no reason given")


def _option(parse: Callable[[object], T]) -> Callable[[str], T]:
    """A parser of settings as a type of argparse, so that its own message is shown."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def _parse_verdict(text: object) -> Verdict:
    words = str(text).replace("-", " ").lower()
    if words == "insufficient":
        return Verdict.INSUFFICIENT
    try:
        return Verdict(words)
    except ValueError:
        names = ", ".join(verdict.value.split()[0] for verdict in Verdict)
        raise ValueError(f"{text!r} is not a verdict ({names})") from None


def _parser() -> argparse.ArgumentParser:
    policies = "\n".join(f"  {policy.name:<9}{policy.summary}" for policy in POLICIES.values())
    parser = argparse.ArgumentParser(
        prog="fallow-report",
        description="Ranks the VMs that lie fallow, with the figures beside their limits.",
        epilog=f"policies:\n{policies}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        help="the aggregator's data directory (default: $FALLOW_DATA or /var/lib/fallow)",
    )
    source.add_argument("--fleet", metavar="URL", type=_option(parse_text), help="the fleet database, of SQLAlchemy")
    parser.add_argument(
        "--window",
        metavar="14d",
        dest="window_days",
        type=_option(parse_window_days),
        help="judge these days (default: 14d)",
    )
    parser.add_argument(
        "--policy",
        metavar="NAME",
        type=_option(parse_policy),
        help=f"{' or '.join(POLICIES)} (default: {DEFAULT_POLICY})",
    )
    parser.add_argument(
        "--silent-after",
        metavar="1h",
        type=_option(parse_duration_s),
        help="a newest sample older than this is silence",
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--top", metavar="20", type=_option(parse_count), help="list at most so many VMs (default: 20)")
    amount.add_argument("--all", action="store_true", help="list every VM with its verdict")
    parser.add_argument(
        "--verdict",
        metavar="V",
        type=_option(_parse_verdict),
        help="list VMs that are idle (the default), active, insufficient (data) or excluded",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--csv", action="store_true", help="print one row a VM")
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings in TOML, in a table [report]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
