"""Accounts, tokens and events as tables and JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from reports.people.accounts import Account
from reports.people.api_tokens import ApiToken
from reports.people.events import Event
from reports.terminal import open_console
from reports.words import printable, time_words


def accounts_text(accounts: Sequence[Account], *, width: int | None, colour: bool) -> str:
    """A table of accounts."""
    if not accounts:
        return "There is no account yet: fallow-report user add, or the link that fallow-report serve prints.\n"
    rows = [(one.name, one.role, _way(one), time_words(one.created_s), one.created_by) for one in accounts]
    return _table(("account", "role", "logs in", "made", "by"), rows, width=width, colour=colour)


def accounts_json(accounts: Sequence[Account]) -> str:
    """One object."""
    return _json({"accounts": [{**asdict(one), "enabled": one.disabled_s is None} for one in accounts]})


def tokens_text(tokens: Sequence[ApiToken], now_s: float, *, width: int | None, colour: bool) -> str:
    """A table of tokens, without their secrets."""
    if not tokens:
        return "There is no token.\n"
    rows = [
        (
            one.id,
            one.account,
            one.label,
            one.scope,
            _state(one, now_s),
            time_words(one.until_s),
            "never" if one.used_s is None else time_words(one.used_s),
        )
        for one in tokens
    ]
    heads = ("id", "account", "for", "scope", "state", "until", "last used")
    return _table(heads, rows, width=width, colour=colour)


def tokens_json(tokens: Sequence[ApiToken], now_s: float) -> str:
    """One object."""
    return _json({"tokens": [_token(one, now_s) for one in tokens]})


def token_json(token: ApiToken, text: str, now_s: float) -> str:
    """A token that was made just now, with its text."""
    return _json({**_token(token, now_s), "token": text})


def events_text(events: Sequence[Event], *, width: int | None, colour: bool) -> str:
    """A table of events, the newest first."""
    if not events:
        return "Nothing has happened yet.\n"
    rows = [(time_words(one.at_s), one.who, one.what, one.detail, one.address) for one in events]
    return _table(("when", "who", "what", "detail", "from"), rows, width=width, colour=colour)


def events_json(events: Sequence[Event]) -> str:
    """One object."""
    return _json({"events": [asdict(one) for one in events]})


def _token(one: ApiToken, now_s: float) -> dict[str, object]:
    return {**asdict(one), "state": _state(one, now_s)}


def _state(one: ApiToken, now_s: float) -> str:
    if one.revoked_s is not None:
        return "revoked"
    return "in force" if one.is_in_force(now_s) else "expired"


def _way(one: Account) -> str:
    if one.disabled_s is not None:
        return f"disabled {time_words(one.disabled_s)}"
    if one.subject is not None:
        return "by OpenID Connect"
    return "by password" if one.has_password else "no password"


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None, colour: bool) -> str:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    buffer, console = open_console(width=width, colour=colour)
    console.print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
