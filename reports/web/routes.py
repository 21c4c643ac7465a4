"""Every address of the pages' server: one table of methods, paths, handlers and who may use them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from urllib.parse import unquote_to_bytes

from aggregator.problems import Problem, Refused

MAX_ID_CHARS = 256


class Role(StrEnum):
    """Who may use a route, once people log in: an operator may also change what is exempt."""

    VIEWER = "viewer"
    OPERATOR = "operator"


class Kind(Enum):
    """How a route takes requests and answers errors."""

    PAGE = "page"
    API = "api"


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `{...}` stands for one segment of the path.

    Args: name: of the handler.
    """

    method: str
    path: str
    name: str
    kind: Kind = Kind.PAGE
    role: Role = Role.VIEWER


def _page(path: str, name: str) -> Route:
    return Route("GET", path, name)


def _form(path: str, name: str) -> Route:
    return Route("POST", path, name, role=Role.OPERATOR)


def _api(path: str, name: str) -> Route:
    return Route("GET", path, name, Kind.API)


ROUTES: tuple[Route, ...] = (
    _page("/", "fleet"),
    _page("/vms", "vms"),
    _page("/vms/{vm}", "vm"),
    _form("/vms/{vm}/keep", "keep"),
    _page("/hosts", "hosts"),
    _page("/hosts/{host}", "host"),
    _page("/health", "health"),
    _page("/exemptions", "exemptions"),
    _form("/exemptions", "add_exemption"),
    _form("/exemptions/{exemption}/end", "end_exemption"),
    _form("/exemptions/{exemption}/renew", "renew_exemption"),
    _page("/deliveries", "deliveries"),
    _page("/policies", "policies"),
    _page("/compare", "compare"),
    _page("/report.html", "report_html"),
    _page("/report.csv", "report_csv"),
    _page("/report.json", "report_json"),
    _page("/static/{file}", "static"),
    _api("/openapi.json", "api_openapi"),
    _api("/v1/report", "api_report"),
    _api("/v1/vms/{vm}", "api_vm"),
    _api("/v1/vms/{vm}/series", "api_series"),
    _api("/v1/vms/{vm}/profile", "api_profile"),
    _api("/v1/vms/{vm}/histogram", "api_histogram"),
    _api("/v1/hosts", "api_hosts"),
    _api("/v1/hosts/{host}", "api_host"),
    _api("/v1/hosts/{host}/series", "api_host_series"),
    _api("/v1/health", "api_health"),
    _api("/v1/policies", "api_policies"),
    _api("/v1/compare", "api_compare"),
    _api("/v1/exemptions", "api_exemptions"),
    Route("POST", "/v1/exemptions", "api_add_exemption", Kind.API, Role.OPERATOR),
    Route("DELETE", "/v1/exemptions/{exemption}", "api_end_exemption", Kind.API, Role.OPERATOR),
    _api("/v1/deliveries", "api_deliveries"),
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
    return path.startswith(b"/v1/") or path in {b"/v1", b"/openapi.json"}


def paths_of(routes: Sequence[Route]) -> Mapping[str, Mapping[str, Route]]:
    """Routes by path and method."""
    found: dict[str, dict[str, Route]] = {}
    for route in routes:
        found.setdefault(route.path, {})[route.method] = route
    return found


def _shape(path: str) -> tuple[str | None, ...]:
    return tuple(None if part.startswith("{") else part for part in path.removeprefix("/").split("/"))


def _fits(want: str | None, got: str) -> bool:
    return 0 < len(got) <= MAX_ID_CHARS if want is None else want == got


def _decode(part: bytes) -> str:
    # A byte that is not UTF-8 becomes a character that no id holds.
    return unquote_to_bytes(part).decode("utf-8", "replace")
