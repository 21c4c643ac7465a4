"""`python -m tests.whole --seeds 1000`: random histories of a whole fleet, in one process or several."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import track

from tests.whole.history import History, open_ground, run_history


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 nothing was broken, 1 something was."""
    options = _parser().parse_args(argv)
    # A fleet in trouble warns of it without end.
    logging.getLogger().addHandler(logging.NullHandler())
    if options.seed is not None:
        with open_ground() as ground:
            history = run_history(options.seed, ground, say=print if options.verbose else None)
        print(_words(history))
        return 0 if history.broken is None else 1
    began_s, cpu_s, counts, broken = time.monotonic(), 0.0, Counter[str](), []
    seeds = range(options.first, options.first + options.seeds)
    found = track(_histories(seeds, options.jobs), total=len(seeds), console=Console(stderr=True), description="seeds")
    for history, seconds in found:
        cpu_s += seconds
        counts += history.counts
        counts["steps"] += history.steps
        if history.broken is not None:
            broken.append(history)
            print(_words(history))
    for name, count in sorted(counts.items()):
        print(f"{count:10d}  {name}")
    seconds = time.monotonic() - began_s
    print(
        f"{len(seeds)} seeds, {len(broken)} broken, {seconds:.0f} s, {cpu_s / len(seeds):.2f} s of CPU a seed: "
        f"{' '.join(str(history.seed) for history in broken)}"
    )
    return 1 if broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.whole",
        description=__doc__,
        epilog="Example: python -m tests.whole --seed 4711 -v    lives through one history again, and tells it.",
    )
    parser.add_argument("--seeds", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--first", type=int, default=1, help="the first of them (default 1)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (default 1)")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell what happens in it")
    return parser


def _words(history: History) -> str:
    """How it ended, and what happened last where it ended badly."""
    if history.broken is None:
        return f"seed {history.seed}: {history.steps} steps, nothing broken, {history.digest[:16]}"
    lines = "\n".join(f"    {line}" for line in history.told)
    return f"seed {history.seed}: broken at step {history.steps}: {history.broken}\n{lines}"


def _histories(seeds: range, jobs: int) -> Iterator[tuple[History, float]]:
    if jobs == 1:
        yield from _some(seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        parts = [seeds[start : start + 10] for start in range(0, len(seeds), 10)]
        for part in pool.imap(_list, parts):
            yield from part


def _list(seeds: range) -> list[tuple[History, float]]:
    logging.getLogger().addHandler(logging.NullHandler())
    return list(_some(seeds))


def _some(seeds: range) -> Iterator[tuple[History, float]]:
    with open_ground() as ground:
        for seed in seeds:
            began_s = time.process_time()
            history = run_history(seed, ground)
            yield history, time.process_time() - began_s


if __name__ == "__main__":
    sys.exit(main())
