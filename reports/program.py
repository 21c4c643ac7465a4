"""What the programs that people call have in common: what becomes of errors, of the output, and how wide it is."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from agent.settings import ConfigError

DONE, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 69


def guarded(run: Callable[[], int], err: TextIO, *, program: str) -> int:
    """The exit code of `run`, or the one that what it raised stands for; that is told on `err`.

    Args: program: stands in front of each line.
    """
    try:
        return run()
    except BrokenPipeError:
        # The reader has seen enough, as `| head` does.
        return DONE
    except ConfigError as error:
        # A file that is locked is not a mistake in the settings.
        cause = error.__cause__
        return complain(err, program, UNREACHABLE if _is_unreachable(cause) else USAGE, error)
    except Exception as error:
        # Loaded by now where they can be raised at all.
        import sqlalchemy.exc  # noqa: PLC0415

        from aggregator.fleet_errors import is_refusal, trouble  # noqa: PLC0415
        from reports.fleet import FleetDamaged  # noqa: PLC0415

        if isinstance(error, FleetDamaged):
            return complain(err, program, FAILED, f"the fleet database cannot be used: {error}")
        if not isinstance(error, sqlalchemy.exc.DBAPIError):
            raise
        if is_refusal(error) or _is_unreachable(error):
            return complain(err, program, USAGE if is_refusal(error) else UNREACHABLE, trouble(error))
        return complain(err, program, FAILED, f"the fleet database cannot be used: {_first_line(error.orig)}")


def complain(err: TextIO, program: str, code: int, problem: object) -> int:
    """Tells a problem, each of its lines with the program's name. Returns: `code`."""
    print("\n".join(f"{program}: {line}" for line in str(problem).splitlines()), file=err)
    return code


def flush(out: TextIO) -> int:
    """Writes out what is buffered, though nobody may read it any more. Returns: DONE."""
    try:
        out.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at exit: let it.
        if out is sys.stdout:
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
    return DONE


def line_width(environ: Mapping[str, str], out: TextIO) -> int | None:
    """Columns that a line on `out` may have: COLUMNS, else the terminal's; None where it may have any length."""
    columns = environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns):
        return int(columns)
    return shutil.get_terminal_size().columns if out.isatty() else None


def refuse_open_password(path: Path, url: str | None) -> None:
    """Raises: ConfigError: the URL of the fleet database that `path` told holds a password, and others may read it."""
    if url is None or not _has_password(url):
        return
    mode = path.stat().st_mode
    if mode & 0o077:
        raise ConfigError(
            f"{path}: report.fleet: holds a password, and others may read it "
            f"(mode {mode & 0o777:04o}): run chmod 600 {path}"
        )


def _has_password(url: str) -> bool:
    try:
        return urlsplit(url).password is not None
    except ValueError:
        return True


def _is_unreachable(error: BaseException | None) -> bool:
    import sqlalchemy.exc  # noqa: PLC0415

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
