"""Totals of a fleet that is judged chunk by chunk, and their form in the table `judging`. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from reports.facts import Facts
from reports.judgement import Savings
from reports.report import RECLAIMABLE, Totals
from reports.verdicts import CAUSES, Cause, Judged


class Tally:
    """Totals that grow with every chunk; each VM is added once."""

    def __init__(self) -> None:
        self._by_cause = np.zeros(len(CAUSES), np.int64)
        self._freed = {verdict: np.zeros(5) for verdict in RECLAIMABLE}
        self._unknown_size = 0

    def add(self, facts: Facts, judged: Judged) -> None:
        """Counts the VMs of `facts` by their verdicts."""
        self._by_cause += np.bincount(judged.codes, minlength=len(CAUSES))
        parts = np.nan_to_num(
            np.array([*judged.freed, judged.worth.kwh_per_month, judged.worth.money_per_month], np.float64)
        )
        unknown = np.isnan(facts.cpu_count) | np.isnan(facts.mem_total_bytes)
        for verdict in RECLAIMABLE:
            chosen = judged.of(*(cause for cause in CAUSES if cause.verdict is verdict))
            self._freed[verdict] += parts[:, chosen].sum(axis=1)
            self._unknown_size += int(np.count_nonzero(chosen & unknown))

    def totals(self, *, priced: bool) -> Totals:
        """All so far. Args: priced: without prices there is no money."""
        return Totals(
            by_cause=dict(zip(CAUSES, self._by_cause.tolist(), strict=True)),
            freed={verdict: _savings(sums.tolist(), priced=priced) for verdict, sums in self._freed.items()},
            unknown_size=self._unknown_size,
        )


def _savings(sums: Sequence[float], *, priced: bool) -> Savings:
    vcpus, mem_bytes, disk_bytes, kwh_per_month, money_per_month = sums
    return Savings(
        vcpus=vcpus,
        mem_bytes=mem_bytes,
        disk_bytes=disk_bytes,
        kwh_per_month=kwh_per_month,
        money_per_month=money_per_month if priced else None,
    )


def encode_totals(totals: Totals) -> str:
    """Totals as a JSON object."""
    return json.dumps(
        {
            "by_cause": {cause.name: count for cause, count in totals.by_cause.items()},
            "freed": {verdict.name: asdict(savings) for verdict, savings in totals.freed.items()},
            "unknown_size": totals.unknown_size,
        },
        allow_nan=False,
    )


def decode_totals(text: str) -> Totals:
    """What `encode_totals` made. Raises: ValueError: it did not, or it is of another version."""
    try:
        found = json.loads(text)
        by_cause: Mapping[str, int] = found["by_cause"]
        return Totals(
            by_cause={cause: by_cause[cause.name] for cause in Cause},
            freed={verdict: Savings(**found["freed"][verdict.name]) for verdict in RECLAIMABLE},
            unknown_size=found["unknown_size"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"totals of another version: {error}") from error
