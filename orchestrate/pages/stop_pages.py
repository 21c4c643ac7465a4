"""`/stop`: the kill switch."""

from __future__ import annotations

from collections.abc import Mapping

from aggregator.problems import Refused
from orchestrate.pages.backing import Backing
from orchestrate.pages.deeds import Deeds
from orchestrate.pages.switch import switch_sha256
from orchestrate.pages.views import StopView
from reports.people.roles import Role
from reports.web.answers import Answer, Asked, Handler, see_other
from reports.web.params import check_names, href
from reports.web.views import Form, Notice

_SAID: Mapping[str, str] = {
    "pulled": "The kill switch is on: no step is begun any more.",
    "on": "The kill switch was on before: it says what it said.",
    "released": "The kill switch is off: what is approved is done again.",
    "off": "The kill switch was off before.",
}


class StopPages:
    """The switch's page and its two forms."""

    def __init__(self, backing: Backing, deeds: Deeds) -> None:
        self._backing = backing
        self._deeds = deeds

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {"stop": self.stop, "pull": self.pull, "let_go": self.let_go}

    def stop(self, asked: Asked) -> Answer:
        """How the switch stands."""
        check_names(asked.query, "said")
        words = _SAID.get(asked.query.get("said", ""))
        return self._page(asked, notice=None if words is None else Notice(kind="info", text=words))

    def pull(self, asked: Asked) -> Answer:
        """Stops everything. It asks for no state that was seen: stopping is never wrong."""
        try:
            is_new = self._deeds.pull(asked, reason=asked.form.get("reason", ""))
        except Refused as refused:
            return self._page(asked, problem=refused)
        return _back("pulled" if is_new else "on")

    def let_go(self, asked: Asked) -> Answer:
        """Lets things be done again."""
        try:
            is_new = self._deeds.let_go(asked, seen=asked.form.get("seen", ""))
        except Refused as refused:
            notice = Notice(kind="error", text=f"Nothing was let go: {refused.problem.detail}.")
            return self._page(asked, notice=notice, status=refused.problem.status)
        return _back("released" if is_new else "off")

    def _page(
        self, asked: Asked, *, notice: Notice | None = None, problem: Refused | None = None, status: int = 200
    ) -> Answer:
        backing = self._backing
        switch = backing.switch
        stop = switch.read()
        frame = backing.frame(asked, "Kill switch", "stop", notices=[notice])
        values = {"reason": asked.form.get("reason", "")}
        problems: dict[str, str] = {}
        if problem is not None:
            detail = problem.problem.detail
            problems["reason"] = detail.removeprefix("reason: ")
        needed = Role.OPERATOR if stop is None else Role.ADMIN
        may = frame.may(needed)
        view = StopView(
            frame=frame,
            stop=stop,
            path=str(switch.path),
            pull=Form(action="/stop", values=values, problems=problems) if stop is None and may else None,
            let_go=Form(action="/stop/release", values={"seen": switch_sha256(stop)})
            if stop is not None and may
            else None,
            why_not="" if may else ("Operators may pull it." if stop is None else "Admins may let go of it."),
        )
        return backing.page(view, status=status if problem is None else problem.problem.status)


def _back(said: str) -> Answer:
    return see_other(href("/stop", {"said": said}))
