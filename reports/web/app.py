"""Which handler answers which route: the pages and the API put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus

from aggregator.problems import Problem
from reports.web.answers import Answer, Asked, Handler
from reports.web.api import Api
from reports.web.backing import Backing
from reports.web.comparing import Comparing
from reports.web.delivery_pages import DeliveryPages
from reports.web.exemption_pages import ExemptionPages
from reports.web.fleet_source import refusing
from reports.web.health_pages import HealthPages
from reports.web.host_pages import HostPages
from reports.web.judging_runs import JudgingRuns
from reports.web.list_pages import ListPages
from reports.web.login_pages import Desk
from reports.web.node_pages import NodePages
from reports.web.parts import frame
from reports.web.people_pages import people_handlers
from reports.web.policy_pages import PolicyPages
from reports.web.renderer import Renderer
from reports.web.routes import ROUTES
from reports.web.views import ErrorView
from reports.web.vm_pages import VmPages

ErrorPage = Callable[[Problem, Asked], Answer]


def make_handlers(
    backing: Backing, renderer: Renderer, runs: JudgingRuns, desk: Desk
) -> tuple[Mapping[str, Handler], ErrorPage]:
    """Handlers by the names of routes, which block, and what shows a problem to a person, which does not.

    Args: desk: for the pages about accounts.
    """
    comparing = Comparing(backing)
    parts: list[Mapping[str, Handler]] = [
        ListPages(backing, renderer, runs).handlers(),
        VmPages(backing, renderer, runs).handlers(),
        HostPages(backing, renderer, runs).handlers(),
        HealthPages(backing, renderer).handlers(),
        NodePages(backing, renderer).handlers(),
        ExemptionPages(backing, renderer, runs.judge_again).handlers(),
        DeliveryPages(backing, renderer).handlers(),
        PolicyPages(backing, renderer, comparing).handlers(),
        Api(backing, runs, comparing).handlers(),
        people_handlers(desk),
    ]
    by_name = {name: handler for part in parts for name, handler in part.items()}
    reads = {route.name for route in ROUTES if route.method == "GET"}
    guarded = {name: partial(_guarded, handler, name in reads) for name, handler in by_name.items()}

    def error_page(problem: Problem, asked: Asked) -> Answer:
        phrase = HTTPStatus(problem.status).phrase
        view = ErrorView(
            frame=frame(
                asked, phrase, "", zone=backing.config.zone, now_s=backing.clock(), is_outside=asked.who is None
            ),
            status=problem.status,
            phrase=phrase,
            detail=problem.detail,
        )
        retry = {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
        return renderer.page(view, status=problem.status, headers=retry)

    return guarded, error_page


def _guarded(handler: Handler, reads: bool, asked: Asked) -> Answer:
    """What only reads may be tried once more on a new connection."""
    return refusing(lambda: handler(asked), again=reads)
