"""`python -m bench histories`: random histories of the whole controller, and whatever it did that it never may.

A seed that failed is printed; `--seed SEED --count 1 --verbose` tells its history again, to the last call.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

from agent.settings import parse_count
from bench.outcome import Bar, Outcome, Say
from orchestrate.histories.history import run_history

CHUNK = 250
_SAY_EVERY_S = 10.0
# What ought to happen now and then: without it, nothing was tried.
DEEDS = ("suspend", "resume", "stop", "start", "migrate-live", "notice", "crash", "refused")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be chosen on the command line."""
    parser.add_argument("--count", type=parse_count, default=100_000, metavar="N", help="histories (100,000)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the first; the others follow it (1)")
    parser.add_argument(
        "--processes", type=parse_count, default=os.cpu_count() or 1, metavar="N", help="at work (one for each core)"
    )
    parser.add_argument("--verbose", action="store_true", help="tell each history line by line, in this process")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some histories. Args: forbidden: seed and what was seen, also where the controller itself broke."""

    count: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    forbidden: tuple[tuple[int, str], ...] = ()
    cpu_s: float = 0.0

    def __add__(self, other: Part) -> Part:
        return Part(
            count=self.count + other.count,
            counts=self.counts + other.counts,
            forbidden=self.forbidden + other.forbidden,
            cpu_s=self.cpu_s + other.cpu_s,
        )


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Lives through all of them."""
    began_s = time.monotonic()
    seeds = range(options.seed, options.seed + options.count)
    part = live(seeds, say) if options.verbose else _spread(seeds, options.processes, say)
    for seed, words in part.forbidden:
        say(f"seed {seed}: {words}: replay with --seed {seed} --count 1 --verbose")
    figures = {
        "histories": part.count,
        "seed": options.seed,
        "forbidden": len(part.forbidden),
        "forbidden_seeds": [seed for seed, _ in part.forbidden],
        "seconds": time.monotonic() - began_s,
        "cpu_ms_per_history": 1000.0 * part.cpu_s / part.count,
        "deeds": {name: part.counts[name] for name in sorted({*part.counts, *DEEDS})},
    }
    return Outcome(figures, (Bar("histories with something forbidden", float(len(part.forbidden)), 0.0),))


def live(seeds: range, say: Say | None = None) -> Part:
    """Lives through some in this process. Args: say: told every line of each."""
    counts: Counter[str] = Counter()
    forbidden: list[tuple[int, str]] = []
    began_s = time.process_time()
    for seed in seeds:
        try:
            history = run_history(seed, say=say)
        except Exception as error:  # a controller that breaks is a finding, and the others are still to be tried
            forbidden.append((seed, f"{type(error).__name__}: {error}"))
            continue
        counts += history.counts
        if history.forbidden is not None:
            forbidden.append((seed, history.forbidden))
    return Part(count=len(seeds), counts=counts, forbidden=tuple(forbidden), cpu_s=time.process_time() - began_s)


def _spread(seeds: range, processes: int, say: Say) -> Part:
    """Over processes. What is found is told at once."""
    total, said_s = Part(), time.monotonic()
    for part in _parts(seeds, processes):
        total += part
        for seed, words in part.forbidden:
            say(f"seed {seed}: {words}")
        if time.monotonic() - said_s >= _SAY_EVERY_S:
            said_s = time.monotonic()
            say(f"{total.count:,} of {len(seeds):,} histories, {len(total.forbidden)} with something forbidden")
    return total


def _parts(seeds: range, processes: int) -> Iterator[Part]:
    """As they end."""
    if len(seeds) <= CHUNK or processes == 1:
        yield from map(live, _chunks(seeds))
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(live, chunk) for chunk in _chunks(seeds)]):
            yield future.result()


def _chunks(seeds: range) -> Iterator[range]:
    for first in range(seeds.start, seeds.stop, CHUNK):
        yield range(first, min(first + CHUNK, seeds.stop))
