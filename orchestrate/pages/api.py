"""The same for programs: JSON below `/v1`, as `openapi.json` beside this module tells it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from aggregator.problems import Problem, Refused
from orchestrate.approvals import Standing, approval_document, read_standings
from orchestrate.documents import audit_document, plan_document, run_document
from orchestrate.pages.backing import Backing
from orchestrate.pages.deeds import Deeds
from orchestrate.pages.plan_pages import MOST_PLANS, USUAL_PLANS
from orchestrate.pages.run_pages import MOST_RUNS, USUAL_RUNS
from orchestrate.pages.switch import switch_sha256
from reports.web.answers import JSON, Answer, Asked, Handler, json_answer, not_found, wrong
from reports.web.params import check_names, read_whole

USUAL_LINES, MOST_LINES = 100, 1000
_MOST_NUMBER = 9_999_999_999


class Api:
    """The routes below `/v1`, and `/openapi.json`."""

    def __init__(self, backing: Backing, deeds: Deeds) -> None:
        self._backing = backing
        self._deeds = deeds
        self._openapi = files("orchestrate.pages").joinpath("openapi.json").read_bytes()

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {
            "api_openapi": lambda _asked: Answer(body=self._openapi, content_type=JSON),
            "api_plans": self.plans,
            "api_plan": self.plan,
            "api_approve": self.approve,
            "api_runs": self.runs,
            "api_run": self.run,
            "api_audit": self.audit,
            "api_stop": self.stop,
            "api_pull": self.pull,
            "api_let_go": self.let_go,
        }

    def plans(self, asked: Asked) -> Answer:
        """The newest plans, without their steps."""
        check_names(asked.query, "limit")
        limit = read_whole(asked.query, "limit", USUAL_PLANS, 1, MOST_PLANS)
        backing, now_s = self._backing, self._backing.clock()
        records = backing.records
        listed = read_standings(records, records.plans(limit=limit), above=backing.two_persons_above)
        return json_answer({"plans": [_summary(standing, now_s) for standing in listed]})

    def plan(self, asked: Asked) -> Answer:
        """One plan whole; its ETag is what an approval has to name."""
        check_names(asked.query)
        standing, backing = self._deeds.find(asked.ids[0]), self._backing
        runs = [run_document(run, backing.records.actions(run.run_id)) for run in standing.runs]
        document = {
            **plan_document(standing.plan, standing.approvals),
            **approval_document(standing, backing.clock()),
            "runs": runs,
        }
        return json_answer(document, headers=_etag(standing.fingerprint(backing.switch.read())))

    def approve(self, asked: Asked) -> Answer:
        """Notes the yes of whoever asks."""
        reason = _reason(asked.document, needed=False)
        done = self._deeds.approve(asked, asked.ids[0], seen=_seen(asked), reason=reason)
        now_s = self._backing.clock()
        return json_answer({"new": done.is_new, **_summary(done.standing, now_s)})

    def runs(self, asked: Asked) -> Answer:
        """The newest runs, without their actions."""
        check_names(asked.query, "limit")
        limit = read_whole(asked.query, "limit", USUAL_RUNS, 1, MOST_RUNS)
        return json_answer({"runs": [run_document(run) for run in self._backing.records.runs(limit=limit)]})

    def run(self, asked: Asked) -> Answer:
        """One run with its actions."""
        check_names(asked.query)
        records, run_id = self._backing.records, asked.ids[0]
        run = records.find_run(run_id)
        if run is None:
            raise not_found("run", f"{run_id[:80]}: there is no such run")
        return json_answer(run_document(run, records.actions(run_id)))

    def audit(self, asked: Asked) -> Answer:
        """Lines after a number, rising; `next` is where to go on, null at the end."""
        check_names(asked.query, "after", "limit")
        after = read_whole(asked.query, "after", 0, 0, _MOST_NUMBER)
        limit = read_whole(asked.query, "limit", USUAL_LINES, 1, MOST_LINES)
        found = self._backing.records.audit(after=after, limit=limit + 1)
        entries = found[:limit]
        following = entries[-1].number if len(found) > limit else None
        return json_answer({"entries": [audit_document(entry) for entry in entries], "next": following})

    def stop(self, asked: Asked) -> Answer:
        """How the kill switch stands; its ETag is what letting go has to name."""
        check_names(asked.query)
        return self._switch()

    def pull(self, asked: Asked) -> Answer:
        """Stops everything."""
        return self._switch(new=self._deeds.pull(asked, reason=_reason(asked.document, needed=True)))

    def let_go(self, asked: Asked) -> Answer:
        """Lets things be done again."""
        return self._switch(new=self._deeds.let_go(asked, seen=_seen(asked)))

    def _switch(self, **more: object) -> Answer:
        stop = self._backing.switch.read()
        document = {"on": stop is not None, "words": stop, **more}
        return json_answer(document, headers=_etag(switch_sha256(stop)))


def _summary(standing: Standing, now_s: float) -> dict[str, object]:
    plan = standing.plan
    document = {name: value for name, value in plan_document(plan, standing.approvals).items() if name != "plan"}
    return {
        **document,
        "kind": plan.kind.value,
        "made_by": plan.made_by,
        "made_s": plan.made_s,
        "expires_s": plan.expires_s,
        "steps": len(plan.steps),
        "taken": standing.taken,
        **approval_document(standing, now_s),
    }


def _etag(fingerprint: str) -> Mapping[str, str]:
    return {"ETag": f'"{fingerprint}"'}


def _seen(asked: Asked) -> str:
    """What a program has seen of what it changes. Raises: Refused, 428."""
    if not asked.if_match:
        raise Refused(Problem(428, "precondition", "send If-Match with the ETag of what you looked at"))
    return asked.if_match.strip().removeprefix('"').removesuffix('"')


def _reason(document: object, *, needed: bool) -> str:
    """Raises: Refused, 422."""
    given: Any = document
    if not isinstance(given, dict) or given.keys() - {"reason"} or not isinstance(given.get("reason", ""), str):
        raise wrong('the body is {"reason": TEXT}' + ("" if needed else ", or {}"))
    said: str = given.get("reason", "")
    return said
