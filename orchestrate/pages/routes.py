"""Every address of the controller's pages. Pure."""

from __future__ import annotations

from reports.people.roles import Role
from reports.web.routes import PEOPLE_ROUTES, Kind, Route, api, form, page

ROUTES: tuple[Route, ...] = (
    *PEOPLE_ROUTES,
    page("/", "plans"),
    page("/plans/{hash}", "plan"),
    form("/plans/{hash}/approve", "approve", Role.APPROVER),
    page("/runs", "runs"),
    page("/runs/{run}", "run"),
    page("/audit", "audit"),
    page("/stop", "stop"),
    form("/stop", "pull", Role.OPERATOR),
    form("/stop/release", "let_go", Role.ADMIN),
    Route("GET", "/openapi.json", "api_openapi", Kind.API, open=True),
    api("/v1/plans", "api_plans"),
    api("/v1/plans/{hash}", "api_plan"),
    Route("POST", "/v1/plans/{hash}/approve", "api_approve", Kind.API, Role.APPROVER),
    api("/v1/runs", "api_runs"),
    api("/v1/runs/{run}", "api_run"),
    api("/v1/audit", "api_audit"),
    api("/v1/stop", "api_stop"),
    Route("PUT", "/v1/stop", "api_pull", Kind.API, Role.OPERATOR),
    Route("DELETE", "/v1/stop", "api_let_go", Kind.API, Role.ADMIN),
)
