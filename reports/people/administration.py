"""What admins and people themselves change about accounts; every change is written down in its transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from aggregator.fleet_db import reading
from reports.people import accounts, api_tokens, links, sessions
from reports.people.accounts import Account, PeopleRefused, Unfit
from reports.people.api_tokens import ApiToken
from reports.people.events import Event, What, read_events, write_event
from reports.people.life import Life
from reports.people.links import Link, LinkKind
from reports.people.passwords import Hasher, check_password
from reports.people.roles import Role, Scope

MAX_LABEL_CHARS = 100
MAX_TOKEN_LIFE_S = 5 * 366 * 86_400.0
# More than anybody keeps apart: whoever makes tokens in a loop must not fill the database.
MAX_TOKENS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who changes something, when and from where. `address` is empty at the command line."""

    name: str
    now_s: float
    address: str = ""


class Administration:
    """Accounts, their passwords, roles, links and tokens. Any thread may use it; it blocks.

    Args:
        engine: gives the engine to use now, of `reports.schema.open_report_db`.
        hasher: of passwords.
        life: of sessions.

    Every method raises PeopleRefused, with a text for people, where something cannot be: UnknownPerson where there
    is no such account or token, Unfit where what was typed cannot be; and sqlalchemy.exc.DBAPIError where the
    database does not answer.
    """

    def __init__(self, engine: Callable[[], sa.Engine], hasher: Hasher, life: Life) -> None:
        self._engine = engine
        self._hasher = hasher
        self._life = life

    def accounts(self) -> list[Account]:
        """All of them, by name."""
        with reading(self._engine()) as connection:
            return accounts.read_accounts(connection)

    def account(self, name: str) -> Account:
        """Raises: UnknownPerson."""
        with reading(self._engine()) as connection:
            return accounts.need_account(connection, name)

    def has_accounts(self) -> bool:
        """Whether anybody could log in at all."""
        with reading(self._engine()) as connection:
            return accounts.has_accounts(connection)

    def events(self, *, limit: int, who: str | None = None) -> list[Event]:
        """What was done and refused, the newest first."""
        return read_events(self._engine(), limit=limit, who=who)

    def tokens(self, account: str | None = None) -> list[ApiToken]:
        """API tokens of one account or of all, the newest first."""
        with reading(self._engine()) as connection:
            return api_tokens.read_tokens(connection, account)

    def count_sessions(self, account: str, now_s: float) -> int:
        """In how many browsers somebody is logged in."""
        with reading(self._engine()) as connection:
            return sessions.count_sessions(connection, account, now_s, self._life)

    def add(self, name: str, role: Role, password: str | None, by: Actor) -> Account:
        """Adds an account. Args: password: None: none opens it, until a link or an admin sets one."""
        kept = accounts.check_name(name)
        known = None if password is None else self._hash(password, kept)
        with self._changing(by, What.ACCOUNT_ADDED, f"{kept} as {role}") as connection:
            accounts.insert_account(connection, kept, role, password_hash=known, now_s=by.now_s, by=by.name)
            return accounts.need_account(connection, kept)

    def set_role(self, name: str, role: Role, by: Actor) -> None:
        """Gives another role, and ends the account's sessions: nobody goes on with what is taken away."""
        with self._changing(by, What.ROLE_CHANGED, f"{name} to {role}") as connection:
            accounts.need_account(connection, name)
            accounts.update_role(connection, name, role)
            sessions.delete_sessions(connection, name)

    def set_password(
        self, name: str, password: str, by: Actor, *, keep: str | None = None, was: str | None = None
    ) -> None:
        """Gives another password; the account's sessions and links for a password end.

        Args: keep: the secret of a session that stays; was: the hash of the old one, where that was shown.
        """
        known = self._hash(password, name)
        with self._changing(by, What.PASSWORD_CHANGED, name) as connection:
            _refuse_foreign(accounts.need_account(connection, name))
            if not accounts.update_password(connection, name, known, was=was):
                raise PeopleRefused(f"{name}: somebody has just given it another password: log in with that one")
            sessions.delete_sessions(connection, name, but=keep)
            links.delete_links(connection, name)

    def disable(self, name: str, by: Actor) -> None:
        """Lets an account in no more; its sessions end, its tokens open nothing while it lasts."""
        with self._changing(by, What.DISABLED, name) as connection:
            accounts.need_account(connection, name)
            accounts.disable(connection, name, by.now_s)
            sessions.delete_sessions(connection, name)

    def enable(self, name: str, by: Actor) -> None:
        """Lets it in again."""
        with self._changing(by, What.ENABLED, name) as connection:
            accounts.need_account(connection, name)
            accounts.enable(connection, name)

    def end_sessions(self, name: str, by: Actor, *, keep: str | None = None) -> None:
        """Logs an account out everywhere. Args: keep: the secret of a session that stays."""
        with self._changing(by, What.SESSIONS_ENDED, name) as connection:
            accounts.need_account(connection, name)
            sessions.delete_sessions(connection, name, but=keep)

    def make_token(self, account: str, label: str, scope: Scope, life_s: float, by: Actor) -> tuple[ApiToken, str]:
        """An API token and its text, which is never shown again."""
        label = label.strip()
        if not label or len(label) > MAX_LABEL_CHARS or not label.isprintable():
            raise Unfit(f"a token needs a label of 1 to {MAX_LABEL_CHARS} characters that can be printed")
        if not 0 < life_s <= MAX_TOKEN_LIFE_S:
            raise Unfit("a token lasts at most five years")
        with self._changing(by, What.TOKEN_MADE, f"{label} of {account}, scope {scope}") as connection:
            # Locked: of two that are made at once the second is counted with the first.
            found = accounts.need_account(connection, account, lock=True)
            known = api_tokens.count_tokens(connection, account, by.now_s)
            if known >= MAX_TOKENS:
                raise PeopleRefused(
                    f"{account}: has {known} API tokens in force, and {MAX_TOKENS} is the most: revoke one"
                )
            if not found.role.covers(scope.role):
                raise PeopleRefused(
                    f"{account}: is {found.role}, so its tokens go no further than that, not to {scope}"
                )
            return api_tokens.insert_token(
                connection, account, label, scope, until_s=by.now_s + life_s, now_s=by.now_s, by=by.name
            )

    def revoke_token(self, token_id: str, by: Actor, *, account: str | None = None) -> ApiToken:
        """A token that opens nothing any more. Args: account: whose it has to be, None for anybody's."""
        with self._changing(by, What.TOKEN_REVOKED, token_id) as connection:
            return api_tokens.revoke_token(connection, token_id, by.now_s, account=account)

    def make_password_link(self, account: str, by: Actor) -> str:
        """The secret of a link by which the account's owner sets a password, once, within a day."""
        with self._changing(by, What.PASSWORD_LINK, account) as connection:
            found = accounts.need_account(connection, account)
            _refuse_foreign(found)
            if found.disabled_s is not None:
                raise PeopleRefused(f"{account}: is disabled")
            return links.insert_link(
                connection, Link(kind=LinkKind.PASSWORD, account=account), by=by.name, now_s=by.now_s
            )

    def make_first_link(self, by: Actor) -> str | None:
        """The secret of a link that makes the first admin, once, within a day; None where there are accounts."""
        if self.has_accounts():
            return None
        with self._changing(by, What.FIRST_LINK, "") as connection:
            return links.insert_link(connection, Link(kind=LinkKind.FIRST, account=None), by=by.name, now_s=by.now_s)

    def find_link(self, secret: str, now_s: float) -> Link:
        """What a link opens, without using it up. Raises: UnknownPerson."""
        with reading(self._engine()) as connection:
            link = links.find_link(connection, secret, now_s)
            _refuse_late(connection, link)
            return link

    def use_link(self, secret: str, name: str, password: str, *, now_s: float, address: str) -> str:
        """Makes the first admin, or sets the password that the link is for; returns the account's name.

        Args: name: of the first admin; otherwise it does not count.
        """
        link = self.find_link(secret, now_s)
        kept = link.account or accounts.check_name(name)
        known = self._hash(password, kept)
        what = What.ACCOUNT_ADDED if link.account is None else What.PASSWORD_CHANGED
        with self._changing(Actor(name=kept, now_s=now_s, address=address), what, f"{kept}, by link") as connection:
            link = links.use_link(connection, secret, now_s)
            _refuse_late(connection, link)
            if link.kind is LinkKind.FIRST:
                accounts.insert_account(connection, kept, Role.ADMIN, password_hash=known, now_s=now_s, by="first link")
            else:
                accounts.update_password(connection, kept, known)
                sessions.delete_sessions(connection, kept)
        return kept

    def _hash(self, password: str, account: str) -> str:
        try:
            check_password(password, account)
        except ValueError as error:
            raise Unfit(str(error), field="password") from None
        return self._hasher.hash(password)

    @contextmanager
    def _changing(self, by: Actor, what: What, detail: str) -> Iterator[sa.Connection]:
        try:
            with self._engine().begin() as connection:
                yield connection
                event = Event(at_s=by.now_s, who=by.name, what=what, detail=detail, address=by.address)
                write_event(connection, event)
        except sa.exc.IntegrityError as error:
            raise PeopleRefused(f"{detail}: somebody else did the same at the same time: look again") from error


def _refuse_foreign(account: Account) -> None:
    if account.subject is not None:
        raise PeopleRefused(f"{account.name}: logs in by OpenID Connect, and has no password here")


def _refuse_late(connection: sa.Connection, link: Link) -> None:
    if link.kind is LinkKind.FIRST and accounts.has_accounts(connection):
        raise accounts.UnknownPerson("there are accounts by now: ask an admin for one, or for a new link")
    if link.account is not None and accounts.need_account(connection, link.account).disabled_s is not None:
        raise accounts.UnknownPerson(f"{link.account}: is disabled")
