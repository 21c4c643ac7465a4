"""`fallow-orchestrate watch`: the service, until SIGTERM.

Twisted, APScheduler and the rest load when it runs, so that `--help` stays light.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent.settings import ConfigError
from orchestrate.cli_parts import PROGRAM
from orchestrate.surroundings import Surroundings
from reports.program import DONE, FAILED

if TYPE_CHECKING:
    from orchestrate.config import OrchestrateConfig
    from reports.daemon import Startable

_EXAMPLES = """\
examples:
  fallow-orchestrate watch --config orchestrate.toml       takes a turn every minute, and serves the owners' pages
  fallow-orchestrate watch --config orchestrate.toml --once    one turn, and its words
  fallow-orchestrate status                                what the last turn did
"""


def add_watch_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `watch` takes beside the options that every command has."""
    parser.epilog = _EXAMPLES
    parser.add_argument("--once", action="store_true", help="take one turn, say what it did, and end")


def run_once(config: OrchestrateConfig, around: Surroundings) -> int:
    """One turn. Returns: 0; 1: somebody has to look. Raises: as `orchestrate.control.open_control`."""
    from orchestrate.control import open_control  # noqa: PLC0415
    from orchestrate.owners.wakes import Wakes  # noqa: PLC0415
    from orchestrate.owners.waking import Waker  # noqa: PLC0415
    from orchestrate.watch import Watch  # noqa: PLC0415

    with open_control(config, clock=around.clock, pause=around.pause) as control:
        waker = Waker(control, Wakes(), pause=around.pause, ending=lambda: False, log=lambda _line: None)
        turn = Watch(control, config.owners.watch, waker, log=lambda _line: None).turn()
    lines = (f"turn: {turn.end}", *turn.words, *([f"problem: {turn.problem}"] if turn.problem else ()))
    around.out.writelines(f"{line}\n" for line in lines)
    return FAILED if turn.problem else DONE


def run_watch(
    config: OrchestrateConfig,
    around: Surroundings,
    *,
    reactor: Any,
    make_service: Callable[[Callable[[str], None]], Startable[str | None]],
) -> int:
    """Watches until SIGTERM or SIGINT; returns the exit code.

    Args:
        reactor: of Twisted, not running yet.
        make_service: given what logs a line.

    Raises: ConfigError: nothing to watch; as `orchestrate.control.open_control`.
    """
    from reports.daemon import run_service  # noqa: PLC0415

    if not config.drivers:
        raise ConfigError("no hypervisors: the configuration has no [[orchestrate.drivers]] (--config FILE)")

    def started(address: str | None, say: Callable[[str], None]) -> None:
        say(f"watching; a turn every {config.owners.watch.every_s:g} s")
        say(f"owners' pages on {address}" if address else "no owners' pages: [orchestrate.links] has no url")

    return run_service(make_service, started, program=PROGRAM, err=around.err, reactor=reactor)
