"""`python -m bench simulate`: the simulator against the published tables, and our policy against the published ones."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from agent.settings import ConfigError
from bench.outcome import Bar, Outcome, Say
from bench.simulate_tables import BANDS, STILL_BAND, Published, published
from orchestrate.simulation.load import Load
from orchestrate.simulation.machines import REFERENCE
from orchestrate.simulation.names import DVFS, FALLOW, NPA, PolicyName, parse_policy
from orchestrate.simulation.outcomes import Question, run_policy
from orchestrate.simulation.policy import Mode
from orchestrate.simulation.traces import Trace, read_file

Figures = Mapping[str, object]

# The published program's own time for a day of LR-MMT.
_REFERENCE_RUN_S = 24.0
_RIVALS = (NPA, DVFS, *(f"{test}-{rule}" for rule in ("MMT", "MU", "MC") for test in ("THR", "IQR", "MAD", "LR")))
_SHOWN = (
    "trace",
    "policy",
    "energy_kwh",
    "migrations",
    "slatah_pct",
    "slatah_overload_pct",
    "pdm_pct",
    "esv",
    "overall_sla_violation_pct",
    "shutdowns",
    "mean_active_hosts",
    "run_s",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be chosen on the command line."""
    parser.add_argument(
        "--trace", type=Path, nargs="+", required=True, metavar="FILE", help="PlanetLab days, such as 20110303.csv.gz"
    )
    parser.add_argument(
        "--policies", nargs="+", metavar="NAME", default=list(_RIVALS), help="the published ones to run (all but RS)"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("tables", "ours", "honest"),
        default=["tables", "ours", "honest"],
        help="tables: figure by figure, idle VMs dropped and kept; ours: reference mode; honest: honest mode",
    )
    parser.add_argument(
        "--shuffle",
        type=int,
        nargs="+",
        default=[],
        metavar="SEED",
        help="our policy on the same days with VMs in other orders too, so that load and size meet otherwise",
    )


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Runs everything asked for. Raises ConfigError: a trace or a policy that is none."""
    traces = [read_file(path, days=1) for path in options.trace]
    try:
        policies = [parse_policy(name) for name in options.policies]
    except ValueError as error:
        raise ConfigError(f"--policies: {error}") from error
    figures: dict[str, object] = {}
    bars: list[Bar] = []
    days = [*traces, *(shuffled(trace, seed) for trace in traces for seed in options.shuffle)]
    if "tables" in options.parts:
        rows, found = _tables(traces, {policy.name for policy in policies}, say)
        figures["tables"], bars = rows, [*bars, *found]
    if "ours" in options.parts:
        kept = [each for trace in days for each in _runs(trace, policies, _question(Mode.REFERENCE), say)]
        figures["reference"], bars = [_shown(each) for each in kept], [*bars, *_our_bars(kept)]
    if "honest" in options.parts:
        honest = [each for trace in days for each in _runs(trace, policies, _question(Mode.HONEST), say)]
        figures["honest"], bars = [_shown(each) for each in honest], [*bars, *_honest_bars(honest)]
    return Outcome(figures=figures, bars=tuple(bars))


def shuffled(trace: Trace, seed: int) -> Trace:
    """The same VMs in another order: sizes follow the row, so that each load gets another size."""
    order = np.random.default_rng(seed).permutation(trace.load.ratio.shape[1])
    load = Load(name=f"{trace.load.name} shuffled {seed}", ratio=np.ascontiguousarray(trace.load.ratio[:, order]))
    return replace(trace, load=load)


def deviation(row: Published, found: Figures) -> dict[str, float]:
    """By how much each figure that has a band differs, as a share of the published one."""
    return {
        name: abs(float(str(found[name])) - float(row.figures[name])) / (float(row.figures[name]) or 1.0)
        for name in BANDS
        if row.policy != DVFS or name == "energy_kwh"
    }


def _question(mode: Mode, *, drop_idle: bool = False) -> Question:
    return Question(mode=mode, drop_idle=drop_idle, seed=1)


def _simulate(trace: Trace, policy: PolicyName, question: Question, say: Say) -> Figures:
    park = REFERENCE.park(trace.sizes)
    say(f"{trace.load.name}: {policy.name}, {question.mode.value} ...")
    return run_policy(park, trace.load, policy, question, timer=time.perf_counter).as_object()


def _runs(trace: Trace, policies: Sequence[PolicyName], question: Question, say: Say) -> list[Figures]:
    return [_simulate(trace, policy, question, say) for policy in (*policies, PolicyName(name=FALLOW))]


def _shown(found: Figures) -> dict[str, object]:
    return {name: found[name] for name in _SHOWN}


def _tables(traces: Sequence[Trace], names: set[str], say: Say) -> tuple[list[dict[str, object]], list[Bar]]:
    rows: list[dict[str, object]] = []
    bars: list[Bar] = []
    for trace in traces:
        for row in published():
            if not trace.load.name.startswith(row.day) or row.policy not in names:
                continue
            question = _question(Mode.REFERENCE, drop_idle=row.drop_idle)
            found = _simulate(trace, PolicyName(name=row.policy), question, say)
            apart = deviation(row, found)
            name = f"{row.day} {row.policy}, idle {'dropped' if row.drop_idle else 'kept'}"
            rows.append({"row": name, **{f"{each}_off": apart.get(each) for each in BANDS}})
            share = max(value / (STILL_BAND if row.policy == DVFS else BANDS[each]) for each, value in apart.items())
            bars.append(Bar(f"{name}: share of the band", share, 1.0))
            if row.policy == "LR-MMT" and row.drop_idle:
                bars.append(Bar(f"{row.day} LR-MMT: run_s", float(str(found["run_s"])), _REFERENCE_RUN_S))
    return rows, bars


def _by_name(found: Sequence[Figures], trace: object) -> dict[str, dict[str, float]]:
    names = ("energy_kwh", "esv", "overall_sla_violation_pct")
    return {
        str(each["policy"]): {name: float(str(each[name])) for name in names}
        for each in found
        if each["trace"] == trace
    }


def _our_bars(found: Sequence[Figures]) -> list[Bar]:
    bars: list[Bar] = []
    for trace in dict.fromkeys(each["trace"] for each in found):
        by_name = _by_name(found, trace)
        ours = by_name.pop(FALLOW)
        if "LR-MMT" in by_name:
            limit = 0.95 * by_name["LR-MMT"]["energy_kwh"]
            bars.append(Bar(f"{trace}: fallow's energy, kWh", ours["energy_kwh"], limit))
        migrating = [each["esv"] for each in by_name.values() if each["esv"] > 0]
        if migrating:
            bars.append(Bar(f"{trace}: fallow's ESV", ours["esv"], min(migrating) / 100))
        if "THR-MMT" in by_name:
            limit = by_name["THR-MMT"]["overall_sla_violation_pct"] / 2
            bars.append(Bar(f"{trace}: fallow's unserved demand, %", ours["overall_sla_violation_pct"], limit))
    return bars


def _honest_bars(found: Sequence[Figures]) -> list[Bar]:
    """No other policy both uses no more and violates less, nor uses less and violates no more."""
    bars: list[Bar] = []
    for trace in dict.fromkeys(each["trace"] for each in found):
        by_name = _by_name(found, trace)
        ours = by_name.pop(FALLOW)
        for name, other in by_name.items():
            if other["overall_sla_violation_pct"] < ours["overall_sla_violation_pct"]:
                bars.append(Bar(f"{trace}: {name} violates less; energy", ours["energy_kwh"], other["energy_kwh"]))
            if other["energy_kwh"] < ours["energy_kwh"]:
                ratio = ours["overall_sla_violation_pct"], other["overall_sla_violation_pct"]
                bars.append(Bar(f"{trace}: {name} uses less; unserved demand, %", *ratio))
    return bars
