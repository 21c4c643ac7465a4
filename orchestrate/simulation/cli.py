"""`fallow-orchestrate simulate`: what a policy would have cost on recorded load, the fleet's own or another's.

numpy, rich and the stores load when the command runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from agent.settings import ConfigError, parse_count
from orchestrate.simulation.names import DEFAULTS, NAMES, PolicyName, parse_policy

if TYPE_CHECKING:
    from orchestrate.simulation.engine import Progress
    from orchestrate.simulation.machines import Machines
    from orchestrate.simulation.outcomes import Outcome, Question
    from orchestrate.simulation.traces import Trace

DONE = 0
MODES = ("honest", "reference")
_SAY_EVERY_TICKS = 10
_MAX_DAYS = 400  # no more is kept of a fleet
_EXAMPLES = f"""\
policies: {", ".join(NAMES)}
  A combination takes a parameter of its overload test: THR-MMT-0.9.

examples:
  fallow-orchestrate simulate --days 7                            the fleet's own last week, from its stores
  fallow-orchestrate simulate --trace 20110303.csv.gz             a recorded day, by the usual policies
  fallow-orchestrate simulate --trace vms.csv --machines park.toml --policy fallow LR-MMT
  fallow-orchestrate simulate --trace 20110303.csv.gz --mode reference --drop-idle --policy THR-MMT
                                                                  the published tables, figure by figure
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `simulate` takes beside where the fleet is; `run` does it."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--trace",
        metavar="FILE",
        type=Path,
        nargs="+",
        action="extend",
        help="recorded load: a PlanetLab day, our CSV, or the Bitbrains layout (default: the fleet's own)",
    )
    parser.add_argument(
        "--policy",
        metavar="NAME",
        type=_policy,
        nargs="+",
        action="extend",
        help=f"which policies (default: {', '.join(DEFAULTS)})",
    )
    parser.add_argument(
        "--machines",
        metavar="FILE",
        type=Path,
        help="types of hosts and VMs in TOML (default: the published park; common servers for recorded sizes)",
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        default=MODES[0],
        help="honest: memory binds and waking costs; reference: the published model (default: honest)",
    )
    parser.add_argument(
        "--drop-idle", action="store_true", help="let VMs leave for good when they ask for nothing, as published"
    )
    parser.add_argument(
        "--days",
        metavar="N",
        type=_days,
        default=1,
        help="the last N days of a trace with times, or of the fleet (default: 1)",
    )
    parser.add_argument("--seed", metavar="N", type=_seed, default=1, help="of policies that draw lots (default: 1)")
    parser.add_argument("--json", action="store_true", help="print a list of one object a policy and trace")


def run(
    options: argparse.Namespace,
    *,
    data_dir: Path,
    out: TextIO,
    err: TextIO,
    width: int | None = None,
    colour: bool = False,
    clock: Callable[[], float] = time.time,
    timer: Callable[[], float] = time.perf_counter,
) -> int:
    """Simulates each policy on each trace and prints what came of it.

    Args:
        data_dir: the aggregator's, whose stores are replayed where no trace is given.
        err: progress, on a terminal alone.
        width, colour: of the text, as `reports.terminal.to_text` takes them.
        clock: Unix seconds. timer: seconds of any beginning, for how long a run took.

    Returns: 0.

    Raises:
        ConfigError: a trace or machines that cannot be used, or a park too small for the VMs.
    """
    from orchestrate.simulation.machines import machines_for, read_machines  # noqa: PLC0415
    from orchestrate.simulation.outcomes import Question  # noqa: PLC0415
    from orchestrate.simulation.policy import Mode  # noqa: PLC0415
    from orchestrate.simulation.render import to_json, to_text  # noqa: PLC0415

    told = None if options.machines is None else read_machines(options.machines)
    question = Question(mode=Mode(options.mode), drop_idle=options.drop_idle, seed=options.seed)
    policies = list(dict.fromkeys(options.policy or map(parse_policy, DEFAULTS)))
    show = _Line(err) if err.isatty() else None
    outcomes: list[Outcome] = []
    for trace in _traces(options, data_dir, clock()):
        machines = told or machines_for(trace.sizes)
        outcomes += _simulate(trace, machines, policies, question, timer=timer, show=show)
    out.write(to_json(outcomes) if options.json else to_text(outcomes, width=width, colour=colour))
    return DONE


def _traces(options: argparse.Namespace, data_dir: Path, now_s: float) -> Iterator[Trace]:
    from orchestrate.simulation.traces import read_file, read_fleet  # noqa: PLC0415

    if not options.trace:
        yield read_fleet(data_dir, days=options.days, now_s=now_s)
    for path in options.trace or ():
        yield read_file(path, days=options.days)


def _simulate(
    trace: Trace,
    machines: Machines,
    policies: Sequence[PolicyName],
    question: Question,
    *,
    timer: Callable[[], float],
    show: _Line | None,
) -> Iterator[Outcome]:
    from orchestrate.simulation.outcomes import run_policy  # noqa: PLC0415
    from orchestrate.simulation.policy import CannotPlace  # noqa: PLC0415

    park = machines.park(trace.sizes)
    for policy in policies:
        progress = None if show is None else show.of(f"{trace.load.name}: {policy.name}")
        try:
            yield run_policy(park, trace.load, policy, question, timer=timer, progress=progress)
        except CannotPlace as error:
            raise ConfigError(
                f"{trace.load.name}: {policy.name}: {error}; --machines describes larger hosts"
            ) from error
        finally:
            if show is not None:
                show.clear()


class _Line:
    """One line of a terminal that is written over and over."""

    def __init__(self, err: TextIO) -> None:
        self._err = err

    def of(self, what: str) -> Progress:
        def progress(done: int, ticks: int) -> None:
            if done % _SAY_EVERY_TICKS == 0:
                self._err.write(f"\r\x1b[K{what}: {100 * done // ticks} %")
                self._err.flush()

        return progress

    def clear(self) -> None:
        self._err.write("\r\x1b[K")
        self._err.flush()


def _policy(text: str) -> PolicyName:
    try:
        return parse_policy(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _days(text: str) -> int:
    try:
        days = parse_count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if days > _MAX_DAYS:
        raise argparse.ArgumentTypeError(f"{days} is more than {_MAX_DAYS} days")
    return days


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)
