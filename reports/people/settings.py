"""The table `[report.login]` of the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from agent.settings import ConfigError, SettingsReader, parse_duration_s, parse_text
from aggregator.addresses import is_loopback
from reports.people.life import Life
from reports.people.roles import Role, parse_role

KEY = "report.login"
MAX_LIFE_S = 90 * 86_400.0
_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,62})(?:\.[a-z0-9-]{1,63})*|\[[0-9a-f:.]+\])\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIdConfig:
    """Logging in by an OpenID provider.

    Args:
        issuer: its address, as it names itself.
        client_secret_file: None for a public client, which PKCE alone protects.
        roles: by the values of `role_claim`; who has none of them is not let in.
        name_claim: what becomes the account's name.
    """

    issuer: str
    client_id: str
    client_secret_file: Path | None = None
    roles: Mapping[str, Role] = field(default_factory=lambda: MappingProxyType({}))
    role_claim: str = "groups"
    name_claim: str = "preferred_username"
    scopes: str = "openid profile email"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginConfig:
    """How people log in. Args: openid: None where passwords alone open the pages."""

    life: Life = field(default_factory=Life)
    openid: OpenIdConfig | None = None


def parse_names(value: object) -> tuple[str, ...]:
    """Host names, in lower case. Raises: ValueError."""
    if not isinstance(value, list):
        raise ValueError(f'{value!r} is not a list of host names (such as ["fallow.example.org"])')
    for name in value:
        if not isinstance(name, str) or not _NAME.match(name.lower()):
            raise ValueError(f"{name!r} is not a host name, without a port (such as fallow.example.org)")
    return tuple(name.lower() for name in value)


def login_of(tables: Mapping[str, Any], problems: list[str], *, source: str, base: LoginConfig) -> LoginConfig:
    """The settings of the table `login` among others, if it is there; `problems` is given every mistake in it."""
    try:
        return parse_login(tables["login"], source=source, base=base) if "login" in tables else base
    except ConfigError as error:
        problems.extend(error.problems)
        return base


def parse_login(table: object, *, source: str, base: LoginConfig) -> LoginConfig:
    """The settings of `[report.login]`, laid over `base`.

    Args:
        table: what stands there.
        source: what errors call the file.

    Raises: ConfigError: every mistake at once, unknown keys too.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{source}: {KEY}: is not a table")
    plain, roles = _apart(table)
    reader = SettingsReader({"report": {"login": plain}}, source=source)
    life = Life(
        idle_s=reader.take(f"{KEY}.session_idle", _parse_life_s, base.life.idle_s),
        most_s=reader.take(f"{KEY}.session_max", _parse_life_s, base.life.most_s),
    )
    if life.idle_s > life.most_s:
        reader.reject(f"{KEY}.session_idle", "is longer than session_max")
    openid = _openid(reader, plain.get("oidc"), roles) if "oidc" in table else base.openid
    reader.finish()
    return LoginConfig(life=life, openid=openid)


def _apart(table: Mapping[str, Any]) -> tuple[dict[str, Any], object]:
    """The settings without the roles, whose names are groups of somebody else: they may hold dots."""
    oidc = table.get("oidc")
    if not isinstance(oidc, Mapping):
        return dict(table), None
    return {**table, "oidc": {key: oidc[key] for key in oidc if key != "roles"}}, oidc.get("roles")


def _openid(reader: SettingsReader, table: object, roles: object) -> OpenIdConfig | None:
    key = f"{KEY}.oidc"
    if not isinstance(table, Mapping):
        reader.take(key, _refuse_table, None)
        return None
    secret_file = reader.take(f"{key}.client_secret_file", parse_text, "")
    issuer = reader.take(f"{key}.issuer", parse_issuer, "")
    client_id = reader.take(f"{key}.client_id", parse_text, "")
    for name in ("issuer", "client_id"):
        if name not in table:
            reader.reject(f"{key}.{name}", "is missing")
    return OpenIdConfig(
        issuer=issuer,
        client_id=client_id,
        client_secret_file=Path(secret_file) if secret_file else None,
        roles=_roles(reader, roles),
        role_claim=reader.take(f"{key}.role_claim", parse_text, "groups"),
        name_claim=reader.take(f"{key}.name_claim", parse_text, "preferred_username"),
        scopes=reader.take(f"{key}.scopes", _parse_scopes, "openid profile email"),
    )


def _roles(reader: SettingsReader, roles: object) -> Mapping[str, Role]:
    key = f"{KEY}.oidc.roles"
    if not isinstance(roles, Mapping) or not roles:
        reader.reject(key, 'is not a table such as { "cloud-admins" = "admin", "staff" = "viewer" }')
        return {}
    found: dict[str, Role] = {}
    for group, role in roles.items():
        try:
            found[group] = parse_role(role)
        except ValueError as error:
            reader.reject(f"{key}.{group}", str(error))
    return found


def parse_issuer(text: object) -> str:
    """An address over https, or http on this machine. Raises: ValueError."""
    address = parse_text(text)
    parts = urlsplit(address)
    is_local = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if (
        not (parts.scheme == "https" or is_local)
        or not parts.hostname
        or parts.query
        or parts.fragment
        or parts.username
    ):
        raise ValueError(f"{text!r} is not the address of an issuer (such as https://login.example.org/realms/main)")
    return address


def _parse_scopes(text: object) -> str:
    if "openid" not in parse_text(text).split():
        raise ValueError(f"{text!r} does not hold openid")
    return str(text)


def _parse_life_s(text: object) -> float:
    seconds = parse_duration_s(text)
    if seconds > MAX_LIFE_S:
        raise ValueError(f"{text!r} is more than 90 days")
    return seconds


def _refuse_table(value: object) -> None:
    raise ValueError(f"{value!r} is not a table")
