"""`fallow-report`: reads the fleet database and says which VMs can be reclaimed, and why.

Where the fleet and the configuration are is the same for every command, and so is what becomes of what one raises:
here it turns into an exit code.
"""

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
from typing import TextIO

from agent.settings import ConfigError, parse_text
from reports.commands import COMMANDS, Command, Surroundings
from reports.config import ReportConfig, load_config
from reports.report_cli import option

DONE, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 69
_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 usage or configuration, 69 the fleet database does not answer"


def main(
    argv: Sequence[str] | None = None,
    *,
    clock: Callable[[], float] = time.time,
    environ: Mapping[str, str] | None = None,
    out: TextIO | None = None,
    err: TextIO | None = None,
    commands: Mapping[str, Command] = COMMANDS,
) -> int:
    """Runs one command; the exit codes are those of `--help`.

    Args:
        clock: tells the time of the report, Unix seconds.
        environ: FALLOW_DATA and COLUMNS are read; the process's own unless told.
        out, err: stdout and stderr unless told.
        commands: by name; the one without a name is the report itself.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    environ = os.environ if environ is None else environ
    out, err = out or sys.stdout, err or sys.stderr
    name = argv[0] if argv and argv[0] in commands else ""
    command = commands[name]
    options = _parser(name, command, commands).parse_args(argv[1:] if name else argv)
    surroundings = Surroundings(
        clock=clock,
        out=out,
        err=err,
        width=_width(environ, out),
        colour=out.isatty(),
        arguments=_source_arguments(options, environ),
    )
    code = _guarded(lambda: command.run(options, _configure(options, environ), surroundings), err)
    return code if code else _flush(out)


def _guarded(run: Callable[[], int], err: TextIO) -> int:
    try:
        return run()
    except BrokenPipeError:
        # The reader has seen enough, as `| head` does.
        return DONE
    except ConfigError as error:
        # A file that is locked is not a mistake in the settings.
        cause = error.__cause__
        return _fail(err, UNREACHABLE if _is_unreachable(cause) else USAGE, error)
    except Exception as error:
        import sqlalchemy.exc

        from reports.fleet import FleetDamaged

        if isinstance(error, FleetDamaged):
            return _fail(err, FAILED, f"the fleet database cannot be used: {error}")
        if not isinstance(error, sqlalchemy.exc.DBAPIError):
            raise
        if _is_unreachable(error):
            return _fail(err, UNREACHABLE, f"the fleet database does not answer: {_first_line(error.orig)}")
        return _fail(err, FAILED, f"the fleet database cannot be used: {_first_line(error.orig)}")


def _is_unreachable(error: BaseException | None) -> bool:
    import sqlalchemy.exc

    return isinstance(error, sqlalchemy.exc.OperationalError) and _does_not_answer(error.orig)


def _does_not_answer(error: BaseException | None) -> bool:
    """Whether a driver's operational error means a database out of reach; SQLite reports much else as one too."""
    if not isinstance(error, sqlite3.Error):
        return True
    # The lower byte is the kind, the rest tells details of it.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}


def _first_line(error: BaseException | None) -> str:
    return next(iter(str(error).splitlines()), "no reason given")


def _flush(out: TextIO) -> int:
    try:
        out.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at exit: let it.
        if out is sys.stdout:
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
    return DONE


def _fail(err: TextIO, code: int, problem: object) -> int:
    print("\n".join(f"fallow-report: {line}" for line in str(problem).splitlines()), file=err)
    return code


def _width(environ: Mapping[str, str], out: TextIO) -> int | None:
    columns = environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns):
        return int(columns)
    return shutil.get_terminal_size().columns if out.isatty() else None


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
    return config


def _source_arguments(options: argparse.Namespace, environ: Mapping[str, str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in ("config", "data", "fleet"):
        if getattr(options, name) is not None:
            found += [f"--{name}", str(getattr(options, name))]
    if environ.get("FALLOW_DATA") and options.data is None and options.config is None:
        found += ["--data", environ["FALLOW_DATA"]]
    return tuple(found)


def _parser(name: str, command: Command, commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"fallow-report {name}".rstrip(), description=command.summary, allow_abbrev=False
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        help="the aggregator's data directory (default: $FALLOW_DATA or /var/lib/fallow)",
    )
    source.add_argument("--fleet", metavar="URL", type=option(parse_text), help="the fleet database, of SQLAlchemy")
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings in TOML, in a table [report]")
    command.options(parser)
    notes = [parser.epilog or ""]
    if not name:
        width = max(map(len, commands))
        lines = "\n".join(f"  {each:<{width}}  {commands[each].summary}" for each in commands if each)
        notes.append(f"commands (fallow-report COMMAND --help):\n{lines}\n")
    parser.epilog = "\n".join((*notes, _EXIT_CODES))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


if __name__ == "__main__":
    sys.exit(main())
