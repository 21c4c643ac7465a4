"""`/runs…`: what was done."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrate.pages.backing import Backing
from orchestrate.pages.lines import action_line, plan_href, run_line, undo_words
from orchestrate.pages.views import RunsView, RunView
from orchestrate.words import short
from reports.web.answers import Answer, Asked, Handler, not_found
from reports.web.params import check_names, href, read_whole

USUAL_RUNS, MOST_RUNS = 30, 300


class RunPages:
    """The list of runs, and one run."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {"runs": self.runs, "run": self.run}

    def runs(self, asked: Asked) -> Answer:
        """The newest runs."""
        check_names(asked.query, "limit")
        limit = read_whole(asked.query, "limit", USUAL_RUNS, 1, MOST_RUNS)
        backing = self._backing
        records = backing.records
        found = records.runs(limit=limit + 1)
        view = RunsView(
            frame=backing.frame(asked, "Runs", "runs", stop=backing.switch.read()),
            rows=tuple(run_line(run, records.actions(run.run_id)) for run in found[:limit]),
            more_href=href("/runs", {"limit": str(MOST_RUNS)}) if len(found) > limit < MOST_RUNS else None,
        )
        return backing.page(view)

    def run(self, asked: Asked) -> Answer:
        """One run, step by step. Raises: Refused, 404."""
        check_names(asked.query)
        backing = self._backing
        records, run_id = backing.records, asked.ids[0]
        run = records.find_run(run_id)
        if run is None:
            raise not_found("run", f"{run_id[:80]}: there is no such run")
        actions = records.actions(run_id)
        is_kept = bool(records.find_plans(run.plan_sha256))
        view = RunView(
            frame=backing.frame(asked, f"Run {run.run_id}", "runs", stop=backing.switch.read()),
            run=run_line(run, actions),
            plan_href=plan_href(run.plan_sha256) if is_kept else None,
            plan_digits=short(run.plan_sha256),
            actions=tuple(map(action_line, actions)),
            undo=undo_words(run, actions),
        )
        return backing.page(view)
