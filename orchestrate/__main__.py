"""`fallow-orchestrate`: gives back the capacity of VMs that lie fallow, as a plan that a person approved.

Where the fleet, the hypervisors and the settings are is the same for every command, and so is what becomes of what one
raises: here it turns into an exit code.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from orchestrate.commands import COMMANDS, Command
from orchestrate.surroundings import Surroundings

if TYPE_CHECKING:
    from orchestrate.config import OrchestrateConfig

PROGRAM = "fallow-orchestrate"
_EXIT_CODES = "exit codes: 0 done, 1 failed or refused, 2 usage or configuration, 69 the other side does not answer"
_EXAMPLES = """\
examples:
  fallow-orchestrate inventory               which VM of which hypervisor runs which agent
  fallow-orchestrate plan --top 5            a dry run: what is due, why, and what is left out
  fallow-orchestrate approve 3f9c2b          somebody's yes to the plan whose hash begins so
  fallow-orchestrate apply 3f9c2b            that plan and nothing else, each step re-checked just before
  fallow-orchestrate undo 1b2c3d4e           brings back what a run took
  fallow-orchestrate status                  who leads, what is under way, what waits for a person
"""


def main(
    argv: Sequence[str] | None = None,
    *,
    clock: Callable[[], float] = time.time,
    pause: Callable[[float], None] = time.sleep,
    environ: Mapping[str, str] | None = None,
    out: TextIO | None = None,
    err: TextIO | None = None,
    commands: Mapping[str, Command] = COMMANDS,
) -> int:
    """Runs one command; the exit codes are those of `--help`.

    Args:
        clock: Unix seconds. pause: waits so many seconds.
        environ: FALLOW_DATA, FALLOW_API_TOKEN_FILE and COLUMNS are read; the process's own unless told.
        out, err: stdout and stderr unless told.
        commands: by name.
    """
    from reports.program import USAGE, complain, flush, guarded, line_width

    argv = sys.argv[1:] if argv is None else list(argv)
    environ = os.environ if environ is None else environ
    out, err = out or sys.stdout, err or sys.stderr
    if not argv or argv[0] not in commands:
        if argv and argv[0] in {"-h", "--help"}:
            out.write(_overview(commands))
            return flush(out)
        said = f"{argv[0]!r} is no command" if argv else "a command is missing"
        return complain(err, PROGRAM, USAGE, f"{said} (commands: {', '.join(commands)}; --help tells what they do)")
    command = commands[argv[0]]
    options = _parser(argv[0], command).parse_args(argv[1:])
    _take_environment(options, environ)
    around = Surroundings(
        clock=clock,
        pause=pause,
        out=out,
        err=err,
        width=line_width(environ, out),
        colour=out.isatty(),
        arguments=_source_arguments(options, environ),
    )
    code = guarded(lambda: command.run(options, _configure(options, environ), around), err, program=PROGRAM)
    return code if code else flush(out)


def _configure(options: argparse.Namespace, environ: Mapping[str, str]) -> OrchestrateConfig:
    """Defaults, then the environment, then the file, then the command line. Raises ConfigError."""
    from orchestrate.config import OrchestrateConfig, load_config

    data = environ.get("FALLOW_DATA")
    config = OrchestrateConfig().reading(data_dir=Path(data) if data else None)
    if options.config is not None:
        config = load_config(options.config, base=config)
    return config.reading(data_dir=options.data, fleet_url=options.fleet)


def _take_environment(options: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """What the environment says where the command line does not."""
    from orchestrate.token_file import VARIABLE

    if "api_token_file" in options and options.api_token_file is None:
        options.api_token_file = environ.get(VARIABLE) or None


def _source_arguments(options: argparse.Namespace, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Options that make another command read the same fleet by the same settings."""
    found: list[str] = []
    for name in ("config", "data", "fleet"):
        if getattr(options, name) is not None:
            found += [f"--{name}", str(getattr(options, name))]
    if environ.get("FALLOW_DATA") and options.data is None and options.config is None:
        found += ["--data", environ["FALLOW_DATA"]]
    return tuple(found)


def _overview(commands: Mapping[str, Command]) -> str:
    width = max(map(len, commands))
    lines = "\n".join(f"  {each:<{width}}  {commands[each].summary}" for each in commands)
    return (
        f"usage: {PROGRAM} COMMAND [options]\n\nGives back the capacity of VMs that lie fallow, safely.\n\n"
        f"commands ({PROGRAM} COMMAND --help):\n{lines}\n\n{_EXAMPLES}\n{_EXIT_CODES}\n"
    )


def _parser(name: str, command: Command) -> argparse.ArgumentParser:
    from agent.settings import parse_text
    from reports.report_cli import option

    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {name}", description=command.summary, allow_abbrev=False)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        help="the aggregator's data directory (default: $FALLOW_DATA or /var/lib/fallow)",
    )
    source.add_argument("--fleet", metavar="URL", type=option(parse_text), help="the fleet database, of SQLAlchemy")
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="settings in TOML: the tables [report] and [orchestrate]"
    )
    command.options(parser)
    parser.epilog = "\n".join((parser.epilog or "", _EXIT_CODES))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


if __name__ == "__main__":
    sys.exit(main())
