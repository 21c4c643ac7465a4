"""`fallow-orchestrate detect`: all detectors on recorded load, side by side.

numpy, rich and the readers of traces load when the command runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from agent.settings import ConfigError, parse_count, parse_duration_s
from reports.quantities import parse_positive_amount, parse_positive_ratio
from reports.report_cli import option
from reports.words import count_words, duration_words, number, printable

if TYPE_CHECKING:
    from agent.traces import Recording
    from orchestrate.hotspots.detect_replay import Tally
    from orchestrate.hotspots.host_loads import Floats

DONE = 0
NAMES = ("sandpiper", "mean", "weighted", "static-shares", "lr", "mad", "iqr")
_ALL_DAYS = 100_000
_EXAMPLES = """\
Each recorded VM is looked at as if it were a host; with --vms-per-host N, N of them together are one.

examples:
  fallow-orchestrate detect --trace 20110303.csv.gz
  fallow-orchestrate detect --trace 20110303.csv.gz --vms-per-host 10 --overcommit 3
  fallow-orchestrate detect --trace vms.csv --detector sandpiper lr --overload 95% --json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `detect` takes; `run` does it."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--trace",
        metavar="FILE",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        help="recorded load: a PlanetLab day, our CSV, or the Bitbrains layout",
    )
    parser.add_argument(
        "--detector", metavar="NAME", choices=NAMES, nargs="+", action="extend", help=f"of {', '.join(NAMES)} (all)"
    )
    parser.add_argument(
        "--overload",
        metavar="RATIO",
        type=option(parse_positive_ratio),
        default=0.9,
        help="what a real overload is: CPU from this on (90%%)",
    )
    parser.add_argument(
        "--horizon",
        metavar="TIME",
        type=option(parse_duration_s),
        default=1800.0,
        help="a warning counts for an overload that comes within this (30min)",
    )
    parser.add_argument(
        "--vms-per-host", metavar="N", type=option(parse_count), default=1, help="VMs that make one host (1)"
    )
    parser.add_argument(
        "--overcommit",
        metavar="RATIO",
        type=option(_amount),
        default=1.0,
        help="CPU of a host's VMs together, of the host's (1)",
    )
    parser.add_argument("--json", action="store_true", help="print a list of one object a trace and detector")


def run(
    options: argparse.Namespace, *, out: TextIO, err: TextIO, width: int | None = None, colour: bool = False
) -> int:
    """Replays each trace by each detector and prints what came of it.

    Args:
        err: progress, on a terminal alone.
        width, colour: of the table, as `reports.terminal.open_console` takes them.

    Returns: 0.

    Raises: ConfigError: a trace that cannot be used.
    """
    from orchestrate.hotspots.detect_replay import grouped, replay  # noqa: PLC0415
    from orchestrate.hotspots.detectors import DETECTORS  # noqa: PLC0415

    chosen = [DETECTORS[name] for name in dict.fromkeys(options.detector or NAMES)]
    tallies: list[Tally] = []
    for path in options.trace:
        if err.isatty():
            print(f"{path.name} ...", file=err, flush=True)
        for interval_s, ratio in _series(path):
            hosts = grouped(ratio, options.vms_per_host, options.overcommit)
            if not len(hosts):
                raise ConfigError(f"--vms-per-host: {path}: has {count_words(len(ratio), 'VM')} of one interval only")
            tallies += replay(
                path.name,
                hosts,
                interval_s,
                chosen,
                overload_ratio=options.overload,
                horizon_s=options.horizon,
            )
    out.write(_to_json(tallies) if options.json else _to_text(tallies, width=width, colour=colour))
    return DONE


def _amount(text: object) -> float:
    try:
        return parse_positive_amount(float(str(text)))
    except ValueError:
        raise ValueError(f"{text!r} is not a number above 0") from None


def _series(path: Path) -> list[tuple[float, Floats]]:
    """Interval, and (n, T) CPU shares of the VMs that were recorded at it. Raises: ConfigError."""
    from agent.traces import TraceError, read_trace  # noqa: PLC0415
    from orchestrate.simulation.policy import TICK_S  # noqa: PLC0415
    from orchestrate.simulation.traces import read_file  # noqa: PLC0415

    try:
        recordings = [recording for recording in read_trace(path) if recording.rows]
    except (TraceError, UnicodeDecodeError):
        # A PlanetLab day, or what that reader has better words for.
        return [(float(TICK_S), read_file(path, days=_ALL_DAYS).load.ratio.T)]
    if not recordings:
        raise ConfigError(f"--trace: {path}: no VM has a sample")
    intervals = sorted({recording.interval_s for recording in recordings})
    return [(float(each), _on_grid([one for one in recordings if one.interval_s == each])) for each in intervals]


def _on_grid(recordings: Sequence[Recording]) -> Floats:
    import numpy as np  # noqa: PLC0415

    interval_s = recordings[0].interval_s
    first_s = min(recording.rows[0][0] for recording in recordings)
    last_s = max(recording.rows[-1][0] for recording in recordings)
    ratio = np.full((len(recordings), (last_s - first_s) // interval_s + 1), np.nan)
    for row, recording in enumerate(recordings):
        column = recording.fields.index("cpu_busy_ratio")
        places = [(ts - first_s) // interval_s for ts, _ in recording.rows]
        ratio[row, places] = [_number(figures[column]) for _, figures in recording.rows]
    return ratio


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _to_json(tallies: Sequence[Tally]) -> str:
    return "[\n" + ",\n".join(json.dumps(asdict(tally)) for tally in tallies) + "\n]\n"


def _to_text(tallies: Sequence[Tally], *, width: int | None, colour: bool) -> str:
    from rich.table import Table  # noqa: PLC0415

    from reports.terminal import open_console  # noqa: PLC0415

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("trace", overflow="fold")
    table.add_column("detector", no_wrap=True)
    for name in ("hot minutes", "overloads", "warned", "lead", "late", "missed", "alarms", "false"):
        table.add_column(name, justify="right")
    for one in tallies:
        lead = "–" if one.lead_s is None else duration_words(one.lead_s)
        wrong = "–" if not one.alarms else number(one.false_alarms / one.alarms, "ratio")
        table.add_row(
            printable(one.trace),
            one.detector,
            f"{one.hot_minutes:,.0f}",
            f"{one.overloads:,}",
            f"{one.warned:,}",
            lead,
            f"{one.late:,}",
            f"{one.missed:,}",
            f"{one.alarms:,}",
            wrong,
        )
    buffer, console = open_console(width=width, colour=colour)
    console.print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
