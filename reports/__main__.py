"""`fallow-report`: reads the fleet database and says which VMs can be reclaimed, and why.

Where the fleet and the configuration are is the same for every command, and so is what becomes of what one raises:
here it turns into an exit code.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from reports.commands import COMMANDS, Command, Surroundings
from reports.config import ReportConfig, load_config
from reports.program import flush, guarded, line_width
from reports.source_options import add_source_options

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
        width=line_width(environ, out),
        colour=out.isatty(),
        arguments=_source_arguments(options, environ),
    )
    code = guarded(
        lambda: command.run(options, _configure(options, environ), surroundings), err, program="fallow-report"
    )
    return code if code else flush(out)


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
    add_source_options(parser)
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
