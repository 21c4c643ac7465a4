"""`/` and `/plans/…`: what is to be done, and somebody's yes."""

from __future__ import annotations

from collections.abc import Mapping

from aggregator.problems import Refused
from orchestrate.approvals import NotApprovable, Standing, State, check_approvable, need_words, read_standings
from orchestrate.pages.backing import Backing
from orchestrate.pages.deeds import Deeds
from orchestrate.pages.lines import approval_lines, plan_href, plan_line, run_line, state_mark, step_lines, verb_words
from orchestrate.pages.views import PlansView, PlanView
from orchestrate.words import freed_words, limit_line, short
from reports.people.roles import Role
from reports.web.answers import Answer, Asked, Handler, see_other
from reports.web.params import check_names, href, read_whole
from reports.web.views import Form, Notice
from reports.words import count_words, printable

USUAL_PLANS, MOST_PLANS = 30, 300
_DONE, _BEFORE = "approved", "before"


class PlanPages:
    """The list of plans, one plan, and its form."""

    def __init__(self, backing: Backing, deeds: Deeds) -> None:
        self._backing = backing
        self._deeds = deeds

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {"plans": self.plans, "plan": self.plan, "approve": self.approve}

    def plans(self, asked: Asked) -> Answer:
        """The newest plans."""
        check_names(asked.query, "limit")
        limit = read_whole(asked.query, "limit", USUAL_PLANS, 1, MOST_PLANS)
        backing, now_s = self._backing, self._backing.clock()
        found = backing.records.plans(limit=limit + 1)
        listed = read_standings(backing.records, found[:limit], above=backing.two_persons_above)
        states = [standing.state(now_s) for standing in listed]
        view = PlansView(
            frame=backing.frame(asked, "Plans", "plans", stop=backing.switch.read()),
            rows=tuple(plan_line(standing, now_s) for standing in listed),
            waiting=sum(state in {State.WAITING, State.ONE_OF_TWO} for state in states),
            more_href=href("/", {"limit": str(MOST_PLANS)}) if len(found) > limit < MOST_PLANS else None,
        )
        return backing.page(view)

    def plan(self, asked: Asked) -> Answer:
        """One plan whole."""
        check_names(asked.query, "said")
        standing = self._deeds.find(asked.ids[0])
        if standing.plan.sha256 != asked.ids[0]:
            return see_other(plan_href(standing.plan.sha256))
        said = {
            _DONE: Notice(kind="info", text="Your approval is noted."),
            _BEFORE: Notice(kind="info", text="You had approved this plan before: nothing new was noted."),
        }.get(asked.query.get("said", ""))
        return self._page(asked, standing, notice=said)

    def approve(self, asked: Asked) -> Answer:
        """Notes the yes of whoever sends the form, or shows the plan again with what keeps it from that."""
        sha256 = asked.ids[0]
        try:
            done = self._deeds.approve(
                asked, sha256, seen=asked.form.get("seen", ""), reason=asked.form.get("reason", "")
            )
        except Refused as refused:
            problem = refused.problem
            if problem.reason == "plan":
                raise
            notice = Notice(kind="error", text=f"Nothing was approved: {problem.detail}.")
            return self._page(asked, self._deeds.find(sha256), notice=notice, status=problem.status)
        return see_other(href(plan_href(sha256), {"said": _DONE if done.is_new else _BEFORE}))

    def _page(self, asked: Asked, standing: Standing, *, notice: Notice | None, status: int = 200) -> Answer:
        backing, now_s, plan = self._backing, self._backing.clock(), standing.plan
        stop, records = backing.switch.read(), backing.records
        frame = backing.frame(asked, f"Plan {short(plan.sha256)}", "plans", notices=[notice], stop=stop)
        why_not = self._why_not(asked, standing, now_s)
        reason = asked.form.get("reason", "")
        view = PlanView(
            frame=frame,
            sha256=plan.sha256,
            kind=plan.kind.value,
            made_s=plan.made_s,
            made_by=printable(plan.made_by),
            expires_s=plan.expires_s,
            steps_words=f"{count_words(len(plan.steps), 'step')}: {verb_words(plan.steps)}",
            mark=state_mark(standing, now_s),
            need=need_words(standing),
            gives=freed_words(plan.steps, backing.config.report.prices.currency),
            limits=limit_line(plan.steps, backing.config.reclaim.limits).removeprefix("Limits: "),
            undoes=plan.undoes,
            notes=tuple(map(printable, plan.notes)),
            approvals=tuple(approval_lines(standing)),
            steps=tuple(step_lines(plan.steps)),
            runs=tuple(run_line(run, records.actions(run.run_id)) for run in standing.runs),
            approve=None
            if why_not
            else Form(
                action=f"{plan_href(plan.sha256)}/approve",
                values={"seen": standing.fingerprint(stop), "reason": reason},
            ),
            why_not=why_not,
        )
        return backing.page(view, status=status)

    @staticmethod
    def _why_not(asked: Asked, standing: Standing, now_s: float) -> str:
        """Why whoever looks cannot approve it; empty: they can."""
        if asked.who is None:
            return "Log in to approve it."
        if standing.find(asked.who.account) is not None:
            return "You have approved it."
        try:
            check_approvable(standing, asked.who.account, now_s=now_s)
        except NotApprovable as error:
            words = str(error)
            return f"{words[:1].upper()}{words[1:]}."
        if asked.who.role.covers(Role.APPROVER):
            return ""
        return "It has what it needs." if standing.is_approved else "Approvers may approve it."
