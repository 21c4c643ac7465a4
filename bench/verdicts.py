"""`python -m bench verdicts`: verdicts on recorded VMs, held against what these did afterwards."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from agent.settings import ConfigError, parse_count
from agent.traces import TraceError, read_trace
from bench.outcome import Bar, Outcome, Say
from bench.verdict_outcomes import Clairvoyant, LaterUse, Stakes, Worth, beaten_by, later_use, points_needed, worth_of
from reports.facts import DAY_S, Facts
from reports.policies import POLICIES
from reports.policy import Bools, Policy
from reports.recorded import TS, Recorded, adapt, began_s, between, catalogued, join, record, table_of, unrecorded
from reports.verdicts import Cause, Limits, Settings, Verdict, judge

OURS_PREFIX = "fallow-"
_SAY_EVERY_VMS = 50


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be chosen on the command line."""
    parser.add_argument(
        "--trace",
        type=Path,
        required=True,
        metavar="PATH",
        help="recorded VMs: an archive or folder in the Bitbrains layout, or our CSV",
    )
    parser.add_argument(
        "--later",
        type=Path,
        metavar="PATH",
        help="the same VMs afterwards: judge by the last days of --trace (default: by its first days, and the rest"
        " of --trace shows what they did)",
    )
    parser.add_argument("--judge-days", type=parse_count, default=14, metavar="N", help="days to judge by (14)")
    parser.add_argument(
        "--skip-days", type=_natural, default=0, metavar="N", help="leave out so many days of each VM first (0)"
    )
    parser.add_argument(
        "--halves",
        type=_natural,
        default=0,
        metavar="N",
        help="hold so many random halves of the VMs against the bars (0)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the halves (1)")


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """VMs that have both a judged part and a later one, row by row.

    Attributes:
        left_out: VMs that lack one of them.
    """

    recorded: Sequence[Recorded]
    later: Sequence[LaterUse]
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """What one policy said.

    Attributes:
        left_out: figures in words that the trace does not record.
        judged: VMs it could judge; idle: (n,) those it calls idle.
    """

    left_out: tuple[str, ...]
    judged: int
    idle: Bools


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Judges every VM of a trace by every policy, and looks at what it did afterwards.

    Raises: ConfigError: no such trace, none of its VMs has both parts, or options that do not go together.
    """
    if options.later is not None and options.skip_days:
        raise ConfigError("--skip-days: with --later it is the last days of --trace that are judged")
    began_at_s = time.perf_counter()
    days = sorted({options.judge_days, *(each for policy in POLICIES.values() for each in policy.days(1))})
    try:
        if options.later is None:
            seen = _read_one(options.trace, options.judge_days, options.skip_days, days, say)
        else:
            seen = _read_two(options.trace, options.later, options.judge_days, days, say)
    except TraceError as error:
        raise ConfigError(str(error)) from error
    if not seen.recorded:
        raise ConfigError(f"{options.trace}: no VM has {options.judge_days} days to judge by and a time afterwards")
    facts = _shortened(join(seen.recorded), options.judge_days)
    missing = unrecorded(seen.recorded)
    called = {name: said for name, policy in POLICIES.items() if (said := call(facts, policy, missing, options))}
    stakes = Stakes.of(seen.later, facts.cpu_count, facts.mem_total_bytes)
    worths = {name: worth_of(stakes, said.idle) for name, said in called.items()}
    ours = [name for name in called if name.startswith(OURS_PREFIX)]
    clairvoyant = Clairvoyant(stakes)
    halves = _halves(stakes, {name: said.idle for name, said in called.items()}, ours, options.halves, options.seed)
    return Outcome(
        figures={
            "vms": len(facts),
            "left_out_vms": seen.left_out,
            "judge_days": options.judge_days,
            "skip_days": options.skip_days,
            "later_vcpu_h": float(stakes.vcpu_h.sum()),
            "later_cpu_h": float(stakes.cpu_h.sum()),
            "not_asked": [name for name in POLICIES if name not in called],
            "clairvoyant_points": points_needed(
                [worth for name, worth in worths.items() if name not in ours], clairvoyant
            ),
            "policies": _rows(called, worths, ours, clairvoyant),
            **({"halves": options.halves, "held_in_halves": halves} if options.halves else {}),
            "seconds": time.perf_counter() - began_at_s,
        },
        bars=tuple(_bar(worths, ours, name) for name in worths if name not in ours),
    )


def call(facts: Facts, policy: Policy, missing: frozenset[str], options: argparse.Namespace) -> Called | None:
    """What a policy says of the VMs; None when every figure it asks for is one that the trace does not record."""
    adapted = adapt(policy, missing)
    if adapted is None:
        return None
    # Each VM is judged at the end of its own part, which for nobody is a silence.
    limits = Limits(silent_after_s=math.inf)
    settings = Settings(window_days=options.judge_days, limits=limits)
    judged = judge(facts, adapted.policy, settings, now_s=float(np.nanmax(facts.newest_s, initial=0.0)))
    insufficient = judged.of(*(cause for cause in Cause if cause.verdict is Verdict.INSUFFICIENT))
    return Called(left_out=adapted.left_out, judged=len(facts) - int(insufficient.sum()), idle=judged.of(Cause.IDLE))


def _read_one(trace: Path, judge_days: int, skip_days: int, days: Sequence[int], say: Say) -> Seen:
    recorded, later, read = [], [], 0
    for recording in read_trace(trace):
        read = _progress(read, trace, say)
        table = table_of(recording)
        if not len(table):
            continue
        from_s = began_s(table) + skip_days * DAY_S
        until_s = from_s + judge_days * DAY_S
        judged, rest = between(table, from_s, until_s), between(table, until_s, np.inf)
        if len(judged) and len(rest):
            recorded.append(record(catalogued(recording, judged), judged, days))
            later.append(later_use(rest, until_s))
    return Seen(recorded=recorded, later=later, left_out=read - len(recorded))


def _read_two(trace: Path, after: Path, judge_days: int, days: Sequence[int], say: Say) -> Seen:
    uses: dict[str, LaterUse] = {}
    read = 0
    for recording in read_trace(after):
        read = _progress(read, after, say)
        table = table_of(recording)
        if len(table):
            uses[recording.vm] = later_use(table, began_s(table))
    recorded, read = [], 0
    for recording in read_trace(trace):
        read = _progress(read, trace, say)
        table = table_of(recording)
        if len(table) and recording.vm in uses:
            judged = between(table, int(table[-1, TS]) - judge_days * DAY_S, np.inf)
            recorded.append(record(catalogued(recording, judged), judged, days))
    vm_ids = [one.vm.vm_id for one in recorded]
    return Seen(recorded=recorded, later=[uses[vm_id] for vm_id in vm_ids], left_out=read - len(recorded))


def _progress(read: int, path: Path, say: Say) -> int:
    if (read + 1) % _SAY_EVERY_VMS == 0:
        say(f"{path.name}: {read + 1} VMs ...")
    return read + 1


def _shortened(facts: Facts, judge_days: int) -> Facts:
    """A window longer than the judged part is all of that part, and not one half empty."""
    windows = {days: facts.windows[min(days, judge_days)] for days in facts.windows}
    return replace(facts, windows=windows)


def _rows(
    called: Mapping[str, Called], worths: Mapping[str, Worth], ours: Sequence[str], clairvoyant: Clairvoyant
) -> list[dict[str, object]]:
    found = []
    for name, said in called.items():
        worth = worths[name]
        row: dict[str, object] = {"policy": name, "without": list(said.left_out), "judged": said.judged}
        row.update(asdict(worth))
        regret = worth.regret_ratio
        row["clairvoyant_freed_vcpu_h"] = None if regret is None else clairvoyant.most_freed_vcpu_h(regret)
        row["clairvoyant_regret_ratio"] = clairvoyant.least_regret_ratio(worth.freed_vcpu_h)
        row["beaten_by"] = [] if name in ours else list(beaten_by(worths, ours, name))
        found.append(row)
    return found


def _bar(worths: Mapping[str, Worth], ours: Sequence[str], other: str) -> Bar:
    """The most that one of ours frees at no more regret, against what the other frees."""
    limit_regret = worths[other].regret_ratio
    within = {
        name: worths[name].freed_vcpu_h
        for name in ours
        if limit_regret is None or (worths[name].regret_ratio or 0.0) <= limit_regret
    }
    best = max(within, key=lambda name: within[name], default=None)
    by = "none of ours" if best is None else best
    return Bar(
        f"{other}: vCPU-hours freed by {by} at no more regret",
        0.0 if best is None else within[best],
        worths[other].freed_vcpu_h,
        at_least=True,
    )


def _halves(stakes: Stakes, idle: Mapping[str, Bools], ours: Sequence[str], count: int, seed: int) -> dict[str, int]:
    """In how many random halves of the VMs each other policy was beaten."""
    draw = np.random.default_rng(seed)
    size = len(stakes.vcpu_h)
    held = dict.fromkeys((name for name in idle if name not in ours), 0)
    for _ in range(count):
        half = np.zeros(size, bool)
        half[draw.permutation(size)[: (size + 1) // 2]] = True
        worths = {name: worth_of(stakes, chosen & half) for name, chosen in idle.items()}
        for name in held:
            held[name] += bool(beaten_by(worths, ours, name))
    return held
