"""`python -m tests.faults`: hurts the real programs in every way that is known here, and counts what came of it."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from agent.settings import parse_count
from tests.faults.registry import SCENARIOS
from tests.faults.scenario import Scenario, surroundings
from tests.faults.tally import Tally, total

_STOPPED = "stopped by hand, and all after it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One scenario that was tried. `failure`: why it came to no tally; `skipped`: what the machine lacks for it."""

    scenario: Scenario
    seconds: float = 0.0
    tally: Tally | None = None
    failure: str = ""
    skipped: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.skipped) or (self.tally is not None and self.tally.ok)


def main(argv: Sequence[str] | None = None) -> int:
    """0: nothing lost, nothing doubled, no failure; 1: some of that; 2: usage."""
    options = _parser().parse_args(argv)
    scenarios = [
        scenario
        for scenario in SCENARIOS
        if (not options.rows or set(scenario.rows) & options.rows) and options.name in scenario.name
    ]
    console = Console(stderr=True)
    # A kill of this program must not leave file systems mounted and strangers running.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))
    outcomes = run_all(scenarios, whole=options.whole, most=options.most, seed=options.seed, console=console)
    Console(width=None if sys.stdout.isatty() else 160).print(table(outcomes))
    if options.json:
        options.json.write_text(json.dumps(as_json(outcomes, seed=options.seed), indent=2) + "\n")
    return 0 if outcomes and all(outcome.ok for outcome in outcomes) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        epilog="examples: python -m tests.faults --all --seed 1;  python -m tests.faults --quick --rows 1,2,24",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--all", dest="whole", action="store_true", help="each scenario in full")
    mode.add_argument("--quick", dest="whole", action="store_false", help="a few injections each (default)")
    parser.add_argument("--rows", metavar="N,N", type=_rows, default=set(), help="of the list of faults (default: all)")
    parser.add_argument("--name", metavar="TEXT", default="", help="only scenarios whose name holds this")
    parser.add_argument("--most", metavar="N", type=_at_least_one, default=sys.maxsize, help="injections a scenario")
    parser.add_argument("--seed", metavar="S", type=int, default=1, help="of what is done, and when (default 1)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="the table as JSON")
    return parser


def _at_least_one(text: str) -> int:
    try:
        return parse_count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _rows(text: str) -> set[int]:
    known = {row for scenario in SCENARIOS for row in scenario.rows}
    try:
        rows = {int(part) for part in text.split(",")}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of row numbers such as 1,2,24") from error
    if not rows <= known:
        raise argparse.ArgumentTypeError(f"no scenario stands for row {min(rows - known)}")
    return rows


def run_all(scenarios: Sequence[Scenario], *, whole: bool, most: int, seed: int, console: Console) -> list[Outcome]:
    """Runs one after the other, with a bar for each."""
    outcomes = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        every = progress.add_task("scenarios", total=len(scenarios))
        for scenario in scenarios:
            injections = min(most, scenario.whole if whole else scenario.quick)
            task = progress.add_task(scenario.id, total=injections)
            try:
                outcome = run_one(scenario, injections=injections, seed=seed, progress=progress, task=task)
            except KeyboardInterrupt:
                outcome = Outcome(scenario=scenario, failure=_STOPPED)
            outcomes.append(outcome)
            progress.remove_task(task)
            progress.advance(every)
            progress.console.print(_line(outcome), highlight=False, markup=False, soft_wrap=True)
            if outcome.failure == _STOPPED:
                break
    return outcomes


def run_one(scenario: Scenario, *, injections: int, seed: int, progress: Progress, task: TaskID) -> Outcome:
    """Runs one scenario; whatever it raises is its failure, and the next one has its turn."""
    if missing := scenario.missing():
        return Outcome(scenario=scenario, skipped=f"needs {', '.join(missing)}")
    began_s = time.monotonic()

    def say(text: str) -> None:
        progress.console.print(f"  {scenario.id}: {text}", highlight=False, markup=False, soft_wrap=True)

    try:
        with surroundings(
            scenario,
            seed=seed,
            injections=injections,
            say=say,
            advance=lambda: progress.advance(task),
        ) as here:
            tally = scenario.run(here)
    except Exception as error:
        return Outcome(
            scenario=scenario, seconds=time.monotonic() - began_s, failure=f"{type(error).__name__}: {error}"
        )
    return Outcome(scenario=scenario, seconds=time.monotonic() - began_s, tally=tally)


def _line(outcome: Outcome) -> str:
    if outcome.skipped:
        return f"{outcome.scenario.id}: skipped: {outcome.skipped}"
    if outcome.tally is None:
        return f"{outcome.scenario.id}: FAILED after {outcome.seconds:.0f} s: {outcome.failure}"
    verdict = "ok" if outcome.tally.ok else "WRONG"
    tally = outcome.tally
    return (
        f"{outcome.scenario.id}: {verdict}: {tally.injections:,} injections, {tally.acknowledged:,} acknowledged, "
        f"{tally.lost} lost, {tally.doubled} doubled, {outcome.seconds:.0f} s"
    )


def table(outcomes: Sequence[Outcome]) -> Table:
    """One line a scenario, and the sum."""
    made = Table(*("rows", "scenario"))
    for name in ("injections", "acknowledged", "stored", "lost", "doubled", "seconds"):
        made.add_column(name, justify="right")
    made.add_column("notes")
    for outcome in outcomes:
        head = (", ".join(map(str, outcome.scenario.rows)), outcome.scenario.name)
        if outcome.tally is None:
            why = f"skipped: {outcome.skipped}" if outcome.skipped else f"FAILED: {outcome.failure.splitlines()[0]}"
            made.add_row(*head, *("-",) * 5, f"{outcome.seconds:.0f}", why)
        else:
            made.add_row(*head, *_figures(outcome.tally), f"{outcome.seconds:.0f}", outcome.tally.notes)
    made.add_section()
    every = total(outcome.tally for outcome in outcomes if outcome.tally is not None)
    made.add_row("", "together", *_figures(every), f"{sum(outcome.seconds for outcome in outcomes):.0f}", "")
    return made


def _figures(tally: Tally) -> tuple[str, ...]:
    figures = (tally.injections, tally.acknowledged, tally.stored, tally.lost, tally.doubled)
    return tuple(f"{figure:,}" for figure in figures)


def as_json(outcomes: Sequence[Outcome], *, seed: int) -> dict[str, object]:
    """The same as plain values."""
    return {
        "seed": seed,
        "scenarios": [
            {
                "rows": list(outcome.scenario.rows),
                "name": outcome.scenario.name,
                "seconds": round(outcome.seconds, 1),
                "failure": outcome.failure,
                "skipped": outcome.skipped,
                "tally": None if outcome.tally is None else asdict(outcome.tally),
            }
            for outcome in outcomes
        ],
        "together": asdict(total(outcome.tally for outcome in outcomes if outcome.tally is not None)),
    }


if __name__ == "__main__":
    sys.exit(main())
