"""Every address of the pages' server: one table of methods, paths, handlers and who may use them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote_to_bytes

from aggregator.problems import Problem, Refused
from reports.people.roles import Role

MAX_ID_CHARS = 256


class Kind(Enum):
    """How a route takes requests and answers errors."""

    PAGE = "page"
    API = "api"


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `{...}` stands for one segment of the path.

    Args:
        name: of the handler.
        role: the least that may use it; None for a route that is `open` to everybody, logged in or not.

    Raises: ValueError: neither a role nor open, or both: nothing is let in by forgetting.
    """

    method: str
    path: str
    name: str
    kind: Kind = Kind.PAGE
    role: Role | None = None
    open: bool = False

    def __post_init__(self) -> None:
        if (self.role is None) is not self.open:
            raise ValueError(f"{self.method} {self.path}: needs a role, or has to be open")


def page(path: str, name: str, role: Role = Role.VIEWER) -> Route:
    """What people look at."""
    return Route("GET", path, name, role=role)


def form(path: str, name: str, role: Role = Role.OPERATOR) -> Route:
    """What pages post."""
    return Route("POST", path, name, role=role)


def api(path: str, name: str, role: Role = Role.VIEWER) -> Route:
    """What programs read."""
    return Route("GET", path, name, Kind.API, role)


# Of every server whose people log in.
PEOPLE_ROUTES: tuple[Route, ...] = (
    Route("GET", "/login", "login", open=True),
    Route("POST", "/login", "log_in", open=True),
    Route("GET", "/login/provider", "login_provider", open=True),
    Route("GET", "/login/return", "login_return", open=True),
    Route("GET", "/first/{secret}", "first", open=True),
    Route("POST", "/first/{secret}", "use_first", open=True),
    Route("GET", "/password/{secret}", "password", open=True),
    Route("POST", "/password/{secret}", "use_password", open=True),
    form("/logout", "log_out", Role.VIEWER),
    page("/account", "account"),
    form("/account/password", "change_password", Role.VIEWER),
    form("/account/sessions/end", "end_sessions", Role.VIEWER),
    form("/account/tokens", "add_token", Role.VIEWER),
    form("/account/tokens/{token}/revoke", "revoke_token", Role.VIEWER),
    page("/people", "people", Role.ADMIN),
    form("/people", "add_person", Role.ADMIN),
    form("/people/{account}/role", "change_role", Role.ADMIN),
    form("/people/{account}/disable", "disable_person", Role.ADMIN),
    form("/people/{account}/enable", "enable_person", Role.ADMIN),
    form("/people/{account}/link", "make_link", Role.ADMIN),
    Route("GET", "/static/{file}", "static", open=True),
    Route("GET", "/healthz", "healthz", Kind.API, open=True),
)

ROUTES: tuple[Route, ...] = (
    *PEOPLE_ROUTES,
    page("/", "fleet"),
    page("/vms", "vms"),
    page("/vms/{vm}", "vm"),
    form("/vms/{vm}/keep", "keep"),
    page("/hosts", "hosts"),
    page("/hosts/{host}", "host"),
    page("/health", "health"),
    page("/nodes", "nodes"),
    page("/exemptions", "exemptions"),
    form("/exemptions", "add_exemption"),
    form("/exemptions/{exemption}/end", "end_exemption"),
    form("/exemptions/{exemption}/renew", "renew_exemption"),
    page("/deliveries", "deliveries"),
    page("/policies", "policies"),
    page("/compare", "compare"),
    page("/report.html", "report_html"),
    page("/report.csv", "report_csv"),
    page("/report.json", "report_json"),
    Route("GET", "/openapi.json", "api_openapi", Kind.API, open=True),
    api("/v1/report", "api_report"),
    api("/v1/vms/{vm}", "api_vm"),
    api("/v1/vms/{vm}/series", "api_series"),
    api("/v1/vms/{vm}/profile", "api_profile"),
    api("/v1/vms/{vm}/histogram", "api_histogram"),
    api("/v1/hosts", "api_hosts"),
    api("/v1/hosts/{host}", "api_host"),
    api("/v1/hosts/{host}/series", "api_host_series"),
    api("/v1/health", "api_health"),
    api("/v1/nodes", "api_nodes"),
    api("/v1/policies", "api_policies"),
    api("/v1/compare", "api_compare"),
    api("/v1/exemptions", "api_exemptions"),
    Route("POST", "/v1/exemptions", "api_add_exemption", Kind.API, Role.OPERATOR),
    Route("DELETE", "/v1/exemptions/{exemption}", "api_end_exemption", Kind.API, Role.OPERATOR),
    api("/v1/deliveries", "api_deliveries"),
)


class MethodRefused(Refused):
    """A path that is there, asked in a way it does not know. `allowed`: the ways it does."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self.allowed = tuple(allowed)
        super().__init__(Problem(405, "method", f"only {', '.join(allowed)} here"))


@dataclass(frozen=True, slots=True)
class Found:
    """A route and what stands in its places."""

    route: Route
    ids: tuple[str, ...]


class Router:
    """Finds routes.

    Args: routes: no two of them with one method and one shape of path.
    """

    def __init__(self, routes: Sequence[Route] = ROUTES) -> None:
        self._by_shape: dict[tuple[str | None, ...], dict[str, Route]] = {}
        for route in routes:
            self._by_shape.setdefault(_shape(route.path), {})[route.method] = route

    def find(self, method: str, path: bytes) -> Found:
        """The route of a request line. HEAD is answered as GET.

        Raises: Refused: 404, no such path; MethodRefused, 405.
        """
        given = [_decode(part) for part in path.removeprefix(b"/").split(b"/")]
        for shape, methods in self._by_shape.items():
            if len(shape) == len(given) and all(map(_fits, shape, given)):
                route = methods.get("GET" if method == "HEAD" else method)
                if route is None:
                    raise MethodRefused([*sorted(methods), *(["HEAD"] if "GET" in methods else [])])
                return Found(route, tuple(got for want, got in zip(shape, given, strict=True) if want is None))
        raise Refused(Problem(404, "not-found", "there is no such page"))


def is_api(path: bytes) -> bool:
    """Whether errors of this path are for programs."""
    return path.startswith(b"/v1/") or path in {b"/v1", b"/openapi.json", b"/healthz"}


def _shape(path: str) -> tuple[str | None, ...]:
    return tuple(None if part.startswith("{") else part for part in path.removeprefix("/").split("/"))


def _fits(want: str | None, got: str) -> bool:
    return 0 < len(got) <= MAX_ID_CHARS if want is None else want == got


def _decode(part: bytes) -> str:
    # A byte that is not UTF-8 becomes a character that no id holds.
    return unquote_to_bytes(part).decode("utf-8", "replace")
