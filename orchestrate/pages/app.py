"""The controller's pages put together: every handler by the name of its route."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus

from aggregator.problems import Problem
from orchestrate.pages.api import Api
from orchestrate.pages.audit_pages import AuditPages
from orchestrate.pages.backing import Backing
from orchestrate.pages.deeds import Deeds
from orchestrate.pages.plan_pages import PlanPages
from orchestrate.pages.refusals import RefusalLog
from orchestrate.pages.routes import ROUTES
from orchestrate.pages.run_pages import RunPages
from orchestrate.pages.stop_pages import StopPages
from reports.web.answers import Answer, Asked, Handler
from reports.web.fleet_source import refusing
from reports.web.login_pages import Desk
from reports.web.parts import frame
from reports.web.people_pages import people_handlers
from reports.web.views import ErrorView

ErrorPage = Callable[[Problem, Asked], Answer]


def make_handlers(backing: Backing, desk: Desk, refusals: RefusalLog) -> tuple[Mapping[str, Handler], ErrorPage]:
    """Handlers by the names of routes, which block, and what shows a problem to a person, which does not.

    Args: desk: for the pages about accounts, over the same templates.
    """
    deeds = Deeds(backing, refusals)
    parts: list[Mapping[str, Handler]] = [
        PlanPages(backing, deeds).handlers(),
        RunPages(backing).handlers(),
        AuditPages(backing).handlers(),
        StopPages(backing, deeds).handlers(),
        Api(backing, deeds).handlers(),
        people_handlers(desk),
    ]
    by_name = {name: handler for part in parts for name, handler in part.items()}
    reads = {route.name for route in ROUTES if route.method == "GET"}
    guarded = {name: partial(_guarded, handler, name in reads) for name, handler in by_name.items()}

    def error_page(problem: Problem, asked: Asked) -> Answer:
        phrase = HTTPStatus(problem.status).phrase
        # Not the backing's own frame, which looks at the kill switch's file: this may be the reactor's thread.
        around = frame(
            asked, phrase, "", zone=backing.config.report.zone, now_s=backing.clock(), is_outside=asked.who is None
        )
        view = ErrorView(frame=around, status=problem.status, phrase=phrase, detail=problem.detail)
        retry = {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
        return backing.page(view, status=problem.status, headers=retry)

    return guarded, error_page


def _guarded(handler: Handler, reads: bool, asked: Asked) -> Answer:
    """What only reads may be tried once more on a new connection."""
    return refusing(lambda: handler(asked), again=reads)
