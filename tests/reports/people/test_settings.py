"""`[report.login]` and `[report.serve] names`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.settings import ConfigError
from reports.config import ReportConfig
from reports.people.roles import Role
from reports.people.settings import OpenIdConfig

OIDC: dict[str, Any] = {
    "issuer": "https://login.example.org/realms/main",
    "client_id": "fallow",
    "client_secret_file": "/etc/fallow/oidc.secret",
    "roles": {"cloud.admins": "admin", "everybody here": "viewer"},
}


def parse(**tables: Any) -> ReportConfig:
    return ReportConfig.parse({"report": tables}, source="report.toml")


def problems(**tables: Any) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse(**tables)
    return refused.value.problems


def test_everything_can_be_said() -> None:
    """Names of groups may hold anything."""
    config = parse(
        login={
            "session_idle": "1h",
            "session_max": "1d",
            "oidc": {**OIDC, "role_claim": "roles", "name_claim": "email"},
        },
        serve={"names": ["Fallow.Example.org", "10.0.0.5"]},
    )
    assert (config.login.life.idle_s, config.login.life.most_s) == (3600.0, 86_400.0)
    assert config.login.openid == OpenIdConfig(
        issuer=OIDC["issuer"],
        client_id="fallow",
        client_secret_file=Path("/etc/fallow/oidc.secret"),
        roles={"cloud.admins": Role.ADMIN, "everybody here": Role.VIEWER},
        role_claim="roles",
        name_claim="email",
    )
    assert config.serve.names == ("fallow.example.org", "10.0.0.5")


def test_nothing_need_be_said() -> None:
    """Passwords alone, twelve hours, seven days."""
    config = parse()
    assert config.login.openid is None
    assert (config.login.life.idle_s, config.login.life.most_s) == (12 * 3600.0, 7 * 86_400.0)


@pytest.mark.parametrize(
    ("tables", "wanted"),
    [
        ({"login": 5}, "report.login: is not a table"),
        ({"login": {"session": "1h"}}, "report.login.session: unknown setting"),
        ({"login": {"session_idle": 5}}, "report.login.session_idle: 5 is not a duration"),
        ({"login": {"session_max": "91d"}}, "report.login.session_max: '91d' is more than 90 days"),
        ({"login": {"session_idle": "8d"}}, "report.login.session_idle: is longer than session_max"),
        ({"login": {"oidc": 5}}, "report.login.oidc: 5 is not a table"),
        ({"login": {"oidc": {**OIDC, "more": 1}}}, "report.login.oidc.more: unknown setting"),
        ({"login": {"oidc": {"roles": {"a": "admin"}, "client_id": "x"}}}, "report.login.oidc.issuer: is missing"),
        ({"login": {"oidc": {**OIDC, "roles": {}}}}, "report.login.oidc.roles: is not a table"),
        ({"login": {"oidc": {**OIDC, "roles": {"a.b": "boss"}}}}, "report.login.oidc.roles.a.b: 'boss' is not a role"),
        (
            {"login": {"oidc": {**OIDC, "scopes": "profile"}}},
            "report.login.oidc.scopes: 'profile' does not hold",
        ),
        ({"serve": {"names": "a"}}, "report.serve.names: 'a' is not a list"),
        ({"serve": {"names": ["a:80"]}}, "report.serve.names: 'a:80' is not a host name"),
        ({"serve": {"names": ["*.example.org"]}}, "report.serve.names: '*.example.org' is not a host name"),
    ],
)
def test_mistakes_are_named(tables: dict[str, Any], wanted: str) -> None:
    """With the place of each."""
    assert any(problem.startswith(f"report.toml: {wanted}") for problem in problems(**tables)), problems(**tables)


@pytest.mark.parametrize(
    "issuer",
    [
        *(
            "http://login.example.org",
            "ftp://x",
            "file:///etc/passwd",
            "login.example.org",
            "https://",
            "https://a?b=c",
        ),
        *("https://user@login.example.org", "https://a#b", ""),
    ],
)
def test_issuer_is_reached_over_tls(issuer: str) -> None:
    """Plain text would hand over everybody's log-in; loopback is this machine."""
    assert any("issuer" in problem for problem in problems(login={"oidc": {**OIDC, "issuer": issuer}}))
    parse(login={"oidc": {**OIDC, "issuer": "http://127.0.0.1:8080/realms/main"}})


def test_every_mistake_is_told_at_once() -> None:
    """Those of the log-in beside those of the rest."""
    found = problems(login={"session_max": "x", "oidc": {**OIDC, "client_id": 5}}, top="x")
    assert len(found) == 3
