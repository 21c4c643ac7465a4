"""What the commands of `fallow-aggregator` that end by themselves share: options, exit codes, output.

SQLAlchemy and the rest load when a command needs them, so that `--help` and the daemon's workers stay light.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from agent.settings import ConfigError
from agent.wire import is_vm_id
from aggregator.config import load_config

EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE = 1, 2, 69

T = TypeVar("T")
Command = Callable[[argparse.Namespace], int]


def add_command(
    subparsers: Any, name: str, command: Command, summary: str, *examples: str, is_inner: bool = False
) -> argparse.ArgumentParser:
    """A parser below what `argparse.ArgumentParser.add_subparsers` returned, with `--data` and `--config`.

    It sets `command`: parsed options → exit code, with what a user, a disk or a database may cause on stderr.

    Args:
        examples: whole command lines, for `--help`.
        is_inner: below a command that has the options too: what is given there is not overwritten by a default.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="\n  ".join(["example:" if len(examples) == 1 else "examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = argparse.SUPPRESS if is_inner else None
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        default=default,
        help="data directory (default: $FALLOW_DATA, else /var/lib/fallow)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=default,
        help="settings of run, in TOML: data directory and fleet database; options given here go over them",
    )
    parser.set_defaults(command=partial(_guarded, command))
    return parser


def add_fleet_url(parser: argparse.ArgumentParser, *, is_inner: bool = False) -> None:
    """`--fleet-url`, for a command that reads or writes the fleet database; `is_inner` as in `add_command`."""
    default = argparse.SUPPRESS if is_inner else None
    told = "fleet database, as in run (SQLite in the data directory)"
    parser.add_argument("--fleet-url", metavar="URL", default=default, help=told)


def _guarded(command: Command, options: argparse.Namespace) -> int:
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from aggregator.fleet_errors import AWAY, is_refusal, trouble  # noqa: PLC0415
    from aggregator.problems import Refused  # noqa: PLC0415

    status = EXIT_FAILED
    try:
        _take_settings(options)
        status = command(options)
        sys.stdout.flush()
    except ConfigError as error:
        complain(*error.problems)
        status = EXIT_USAGE
    except Refused as error:
        complain(str(error))
        status = EXIT_UNREACHABLE if error.problem.status == 503 else EXIT_FAILED
    except SQLAlchemyError as error:
        refuses = is_refusal(error)
        if not (refuses or isinstance(error, AWAY)):
            raise
        complain(trouble(error))
        status = EXIT_USAGE if refuses else EXIT_UNREACHABLE
    except BrokenPipeError:
        # Whoever read the results has gone; without this Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_FAILED
    except OSError as error:
        complain(str(error))
        status = EXIT_FAILED
    except KeyboardInterrupt:
        complain("interrupted")
    return status


def _take_settings(options: argparse.Namespace) -> None:
    """Sets `data` and `fleet_url` as `run` would: by the command line, else the file, else the default.

    Raises: ConfigError: mistakes in the file, whatever they are about, as in `run`.
    """
    told = {"data": options.data, "fleet.url": getattr(options, "fleet_url", None)}
    config = load_config(options.config, {key: str(value) for key, value in told.items() if value is not None})
    options.data, options.fleet_url = config.data_dir, config.fleet_url


def existing_data_dir(options: argparse.Namespace) -> Path:
    """The data directory of a command. Raises ConfigError: it is no directory."""
    data_dir: Path = options.data
    if not data_dir.is_dir():
        raise ConfigError(f"--data: {data_dir} is not a directory")
    return data_dir


def typed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse` for argparse, which hides the text of a ValueError."""

    def parse_argument(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_argument


def parse_vm(text: str) -> str:
    """An id that may name a VM. Raises: ValueError."""
    if not is_vm_id(text):
        raise ValueError(f"{text!r} is not a VM id")
    return text


def counted(count: int, noun: str) -> str:
    """`1 VM`, `2 VMs`; of nouns that take an s."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def say(text: str, end: str = "\n") -> None:
    """A result, on stdout."""
    sys.stdout.write(text + end)


def say_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns as wide as their widest cell; each row has a cell for each of `header`."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [header, *rows]:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def complain(*problems: str) -> None:
    """What is wrong, a line each, on stderr."""
    for problem in problems:
        sys.stderr.write(f"fallow-aggregator: {problem}\n")


def time_text(time_s: float | None) -> str:
    """Unix seconds as UTC, to the second; `-` for None."""
    return "-" if time_s is None else datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
