"""Which judged VMs a question lists, and in which order. Pure.

`reports.verdict_table` says the same in SQL for verdicts that are stored; a test holds the two together.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from aggregator.histogram import Floats
from reports.facts import Facts, Vm
from reports.report import RECLAIMABLE, Question, Sort
from reports.verdicts import CAUSES, Judged, Verdict

# Of the other keys the largest comes first.
RISING = frozenset({Sort.NAME, Sort.OWNER})
# These say nothing of what is freed: VMs that free nothing stand among the others.
OF_ALL = frozenset({Sort.CPU, Sort.NAME, Sort.OWNER})
Value = float | str | None
# Rising: group, whether the value is unknown, a number, the characters of a text.
_Key = tuple[int, bool, float, tuple[int, ...]]


class Page(NamedTuple):
    """Part of a list. `matching` counts the VMs of the whole list."""

    vm_ids: tuple[str, ...]
    matching: int


def name_of(vm: Vm) -> str:
    """What people call it."""
    return vm.name or vm.hostname or vm.vm_id


def search_text(vm: Vm) -> str:
    """What a search looks in: a line each for id, names, owner and tags, whatever their case."""
    return "\n".join(part for part in (vm.vm_id, vm.name, vm.hostname, vm.owner, *vm.tags) if part).casefold()


def wanted_verdicts(question: Question) -> tuple[Verdict, ...]:
    """The verdicts of the VMs that are listed."""
    if question.verdict is not None:
        return (question.verdict,)
    return RECLAIMABLE if question.reclaimable else tuple(Verdict)


def groups(question: Question) -> Mapping[Verdict, int]:
    """The place of each verdict's VMs in the list: those that give something back come first, and together."""
    if question.sort in OF_ALL:
        return dict.fromkeys(Verdict, 0)
    return {verdict: 0 if verdict in RECLAIMABLE else place for place, verdict in enumerate(Verdict)}


def is_falling(question: Question) -> bool:
    """Whether the largest comes first."""
    return question.ascending == (question.sort in RISING)


def rank(chunks: Iterable[tuple[Facts, Judged]], question: Question) -> Page:
    """The page of a fleet that is judged chunk by chunk; of VMs that are not on it, nothing is kept."""
    matching = 0
    best: list[tuple[_Key, str]] = []
    upto = None if question.top is None else question.offset + question.top
    for facts, judged in chunks:
        found = list(_matching(facts, judged, question))
        matching += len(found)
        if upto is None:
            best += found
        else:
            best = heapq.nsmallest(upto, [*best, *found])
    return Page(tuple(vm_id for _, vm_id in sorted(best)[question.offset : upto]), matching)


def _matching(facts: Facts, judged: Judged, question: Question) -> Iterator[tuple[_Key, str]]:
    wanted = judged.of(*(cause for cause in CAUSES if cause.verdict in wanted_verdicts(question)))
    place, falls = groups(question), is_falling(question)
    values = _VALUES[question.sort](facts, judged, question)
    search = question.search.casefold()
    for row in np.flatnonzero(wanted).tolist():
        vm = facts.vms[row]
        if question.owner is not None and vm.owner != question.owner:
            continue
        if search and search not in search_text(vm):
            continue
        yield _key(place[judged.cause(row).verdict], values[row], falls=falls), vm.vm_id


def _key(group: int, value: Value, *, falls: bool) -> _Key:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return group, True, 0.0, ()
    if isinstance(value, str):
        # Behind the last character stands what makes the longer of two texts the larger one.
        return group, False, 0.0, tuple(-ord(each) for each in value) + (1,) if falls else tuple(map(ord, value))
    return group, False, -value if falls else value, ()


def cpu_mean(facts: Facts, days: int) -> Floats:
    """(n,) of the window of so many days."""
    return facts.column(days, "cpu_busy_mean_ratio")


_VALUES: Mapping[Sort, Callable[[Facts, Judged, Question], Floats | list[Value]]] = {
    Sort.SCORE: lambda _facts, judged, _question: judged.score,
    Sort.VCPUS: lambda _facts, judged, _question: judged.freed.vcpus,
    Sort.MEMORY: lambda _facts, judged, _question: judged.freed.mem_bytes,
    Sort.DISK: lambda _facts, judged, _question: judged.freed.disk_bytes,
    Sort.MONEY: lambda _facts, judged, _question: judged.worth.money_per_month,
    Sort.ENERGY: lambda _facts, judged, _question: judged.worth.kwh_per_month,
    Sort.CONFIDENCE: lambda _facts, judged, _question: judged.confidence_ratio,
    Sort.CPU: lambda facts, _judged, question: cpu_mean(facts, question.settings.window_days),
    Sort.NAME: lambda facts, _judged, _question: [name_of(vm) for vm in facts.vms],
    Sort.OWNER: lambda facts, _judged, _question: [vm.owner for vm in facts.vms],
}
