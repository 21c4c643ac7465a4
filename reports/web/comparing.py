"""The fleet by every policy side by side: at once for a small fleet, by a process of its own for a large one."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import sqlalchemy as sa

from aggregator.fleet import vm
from aggregator.problems import Problem, Refused
from reports.compare_fleet import compare_fleet
from reports.compare_render import to_json
from reports.fleet import snapshot
from reports.web.background import State, Task
from reports.web.backing import Backing

TOP = 50
ASK_AGAIN_S = 3
_TRY_AGAIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An answer that is being made. `text` says so."""

    text: str


def is_small(connection: sa.Connection, most: int) -> bool:
    """Whether the fleet has at most so many VMs."""
    beyond = sa.select(vm.c.vm_id).order_by(vm.c.vm_id).offset(most).limit(1)
    return connection.execute(beyond).first() is None


class Comparing:
    """Comparisons by window, as `fallow-report compare --json` prints them. Any thread may use it."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self._lock = Lock()
        self._known: dict[int, tuple[float | None, dict[str, Any]]] = {}

    def find(self, days: int) -> dict[str, Any] | Waiting:
        """The comparison over a window, not older than the settings call fresh where that can be.

        Raises: Refused, 503: it failed a moment ago.
        """
        backing = self._backing
        with snapshot(backing.fleet.reader) as connection:
            small = is_small(connection, backing.on_the_spot_vms)
        now_s = backing.clock()
        if small:
            settings = replace(backing.config.settings, window_days=days)
            policies = tuple(backing.config.policies.values())
            return _read(to_json(compare_fleet(backing.fleet.reader, policies, settings, now_s=now_s, top=TOP)))
        key = f"comparing over {days} days"
        task = backing.tasks.find(key)
        known = self._newest(days, task)
        if known is not None and now_s - known["generated_at_s"] <= backing.config.serve.fresh_for_s:
            return known
        if task is None or not (task.is_under_way or _failed_just_now(task, now_s)):
            window = ("--window", f"{days}d", "--top", str(TOP), "--json")
            task = backing.tasks.ask(key, ("compare", *window, *backing.arguments))
        if known is not None:
            return known
        if task.state is State.FAILED:
            raise Refused(Problem(503, "comparing", f"the policies could not be compared: {task.problem}", ASK_AGAIN_S))
        return Waiting(text="All policies are judging the fleet, which takes up to a minute where it is large.")

    def _newest(self, days: int, task: Task | None) -> dict[str, Any] | None:
        with self._lock:
            finished_s, known = self._known.get(days, (None, None))
            if task is not None and task.state is State.DONE and task.finished_s not in {None, finished_s}:
                known = _read(task.output)
                self._known[days] = task.finished_s, known
            return known


def _failed_just_now(task: Task, now_s: float) -> bool:
    return task.state is State.FAILED and task.finished_s is not None and now_s - task.finished_s < _TRY_AGAIN_S


def _read(text: str | bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found
