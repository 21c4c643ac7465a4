"""`python -m bench NAME [options] [--json]`: runs one benchmark and holds its figures against their bars.

Each NAME is a module of this package with `add_options(parser)` and `run(options, say) -> Outcome`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TextIO, cast

from agent.settings import ConfigError
from bench.outcome import Outcome, Say
from bench.programs import INTERRUPTED, ProgramError

NAMES: Mapping[str, str] = {
    "sink": "the agents' door alone: Protocol and decoder without token, journal and buffer",
    "ingest": "the real aggregator under load: pushes per CPU-second, ack times, memory, disk",
    "flush": "buffer to stores to summaries, on stores that already hold a history",
    "million": "a million VMs on one node: a VM-minute's way in and through a flush, memory, disk",
    "agent": "memory and CPU of the agent on this machine, with TLS",
    "report": "the top 20 of a large fleet, from the summaries",
    "pages": "the pages of a large fleet: the ranked list asked for in many ways, one VM with its charts",
    "verdicts": "every policy on recorded VMs: what it frees, and how much of that was used later",
    "simulate": "the consolidation simulator against the published tables, our policy against the published ones",
    "histories": "100,000 random histories of the controller: whatever it did that it never may",
    "relief": "a plan that relieves hot hosts, by every planner: 500 VMs and 100,000",
    "bad-input": "a million bad inputs at the agents' door: what answers of a wrong class, fails or grows",
    "slow": "2,000 slow connections beside 1,000 pushes a second: what they do to the times of answers",
    "reconnect": "10,000 agents come back at once after an hour: how long until all of it is stored",
    "peers": "the same work through fallow, VictoriaMetrics, InfluxDB and carbon; our agent beside two others",
    "kill": "kill -9 under load, again and again: what was acknowledged against what is stored",
    "nodes": "three nodes behind HAProxy on PostgreSQL: each fails in turn, nothing is lost or counted twice",
}

EXAMPLES = """\
examples:
  python -m bench ingest --json
  python -m bench kill --help
"""


class Benchmark(Protocol):
    """What a module of this package offers."""

    def add_options(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace, say: Say) -> Outcome: ...


def flatten(figures: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Figures in one level, `{"ack": {"p99_s": 1}}` as `ack_p99_s`; what is not finite becomes None.

    Raises: ValueError: two figures of one name, or one that is called `bars`.
    """
    flat: dict[str, object] = {}
    for name, value in figures.items():
        inner = (
            flatten(value, f"{prefix}{name}_") if isinstance(value, Mapping) else {f"{prefix}{name}": _finite(value)}
        )
        for key in inner:
            if key in flat or key == "bars":
                raise ValueError(f"two figures are called {key}")
        flat.update(inner)
    return flat


def as_json(outcome: Outcome) -> str:
    """One object: each figure, and `bars` with the name, value, limit and verdict of each."""
    bars = [{"name": bar.name, "value": _finite(bar.value), "limit": bar.limit, "ok": bar.ok} for bar in outcome.bars]
    return json.dumps({**flatten(outcome.figures), "bars": bars}, allow_nan=False)


def as_table(outcome: Outcome) -> str:
    """The same for people, a line each; a figure that is a list of rows as a table below."""
    figures = flatten(outcome.figures)
    tables = {name: table for name, value in figures.items() if (table := _rows(value))}
    rows = [(name, _number(value)) for name, value in figures.items() if name not in tables]
    for bar in outcome.bars:
        side = "at least" if bar.at_least else "at most"
        verdict = "ok" if bar.ok else "MISSED"
        rows.append((bar.name, f"{_number(bar.value)} ({side} {_number(bar.limit)}): {verdict}"))
    width = max((len(name) for name, _ in rows), default=0)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    for name, table in tables.items():
        lines += ["", f"{name}:", *_table_lines(table)]
    return "\n".join(lines)


def _rows(value: object) -> list[Mapping[str, object]]:
    """The rows of a figure that is a table; none where it is another figure."""
    is_table = isinstance(value, list) and len(value) > 0 and all(isinstance(row, Mapping) for row in value)
    return value if is_table else []  # type: ignore[return-value]


def _table_lines(rows: Sequence[Mapping[str, object]]) -> list[str]:
    header = list(rows[0])
    cells = [header, *([_number(row[name]) for name in header] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _finite(value: object) -> object:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(_number, value)) or "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if 10_000 <= abs(value) < 1e12 else f"{value:,.4g}"
    return str(value)


def load(name: str) -> Benchmark:
    """The module of benchmark `name`. Raises ConfigError: it, or a package it needs, is not there."""
    try:
        return cast(Benchmark, importlib.import_module(f"bench.{name.replace('-', '_')}"))
    except ModuleNotFoundError as error:
        raise ConfigError(f"{name}: {error}: ./run_tests.sh installs what the benchmarks need") from error


def main(
    argv: Sequence[str] | None = None,
    *,
    find: Callable[[str], Benchmark] = load,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Runs one benchmark: 0 when it measured, missed bars included, 1 when it could not, 2 for usage, 130 interrupted.

    Args: out, err: where the figures and the progress go; stdout and stderr unless told.
    """
    out, err = out or sys.stdout, err or sys.stderr

    def say(line: str) -> None:
        print(line, file=err, flush=True)

    chosen = _parser().parse_args(argv)
    try:
        benchmark = find(chosen.name)
        parser = argparse.ArgumentParser(prog=f"python -m bench {chosen.name}", description=NAMES[chosen.name])
        parser.add_argument("--json", action="store_true", help="print one JSON object: figures and bars")
        benchmark.add_options(parser)
        options = parser.parse_args(chosen.options)
        outcome = benchmark.run(options, say)
    except ConfigError as error:
        say(f"bench {chosen.name}: {error}")
        return 2
    except (OSError, subprocess.SubprocessError, ProgramError) as error:
        say(f"bench {chosen.name}: could not measure: {error}")
        return 1
    except KeyboardInterrupt:
        say(f"bench {chosen.name}: interrupted")
        return INTERRUPTED
    print(as_json(outcome) if options.json else as_table(outcome), file=out)
    return 0


def _parser() -> argparse.ArgumentParser:
    summaries = "\n".join(f"  {name:<11}{summary}" for name, summary in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures fallow against its bars. Progress goes to stderr, figures to stdout.",
        epilog=f"benchmarks:\n{summaries}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", choices=tuple(NAMES), help="which benchmark; its options follow it")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="NAME --help shows them")
    return parser


def _end_as_interrupted() -> None:
    """What a benchmark started has to end with it, whoever ends it, also where a shell has it ignore Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    _end_as_interrupted()
    sys.exit(main())
