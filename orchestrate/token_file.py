"""Whose API token a file holds: so a command knows who somebody is, and need not believe it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.settings import read_secret
from reports.people.roles import Role

if TYPE_CHECKING:
    from reports.config import ReportConfig

VARIABLE = "FALLOW_API_TOKEN_FILE"


class TokenRefused(Exception):
    """The token opens nothing, or not this; the text says so for people."""


def approver_of(path: Path, config: ReportConfig, *, now_s: float) -> str:
    """The account that may approve plans by the token in this file.

    Raises:
        agent.settings.ConfigError: the file is absent, empty or readable by others, or there is no fleet database.
        TokenRefused: it is no token in force, or its scope or its account's role does not go so far.
        sqlalchemy.exc.DBAPIError: the database does not answer.
    """
    from reports.people.gate import open_gate  # noqa: PLC0415
    from reports.schema import open_report_db  # noqa: PLC0415

    token = read_secret(path)
    engine = open_report_db(config.fleet_url, config.data_dir)
    try:
        found = open_gate(engine).identify(None, f"Bearer {token}", now_s)
    finally:
        engine.dispose()
    if found is None:
        raise TokenRefused(f"{path}: the token is wrong, over or revoked")
    if not found.role.covers(Role.APPROVER):
        raise TokenRefused(
            f"{path}: approving needs a token of scope approve and an account that is approver; this one of "
            f"{found.account} goes as far as {found.role}"
        )
    return found.account
