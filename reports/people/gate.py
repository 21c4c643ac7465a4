"""Who is let in: the one face of accounts, sessions, API tokens and links towards servers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from aggregator.addresses import group_of
from aggregator.fleet_db import reading
from aggregator.problems import Problem, Refused
from reports.people import accounts, api_tokens, sessions
from reports.people.administration import Actor, Administration
from reports.people.api_tokens import bearer_of
from reports.people.events import Event, What, forget_events, write_event
from reports.people.identity import Identity, Via
from reports.people.life import Life
from reports.people.passwords import MAX_CHARS, Hasher
from reports.people.roles import Role
from reports.people.sessions import digest, session_token
from reports.people.throttle import Seldom, Throttle

# What is taken away elsewhere is gone here so much later at most.
REMEMBERED_S = 5.0
MAX_REMEMBERED = 2_000
# In the record, for whoever is no account; not a name that one could have.
NO_ACCOUNT = "(no account)"
_NOTE_EVERY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session that has just begun. `token` goes into the browser's cookie, and nowhere else."""

    token: str = field(repr=False)
    account: str
    role: Role
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outsider:
    """Somebody whom an OpenID provider has vouched for. `role`: what the settings make of its claims."""

    subject: str
    name: str
    role: Role


class Gate:
    """Lets people in. Any thread may use it; every method but `shows_something` blocks: none is for the reactor.

    Args:
        engine: gives the engine to use now.
        people: changes accounts.
        throttle: of passwords that are tried.

    What a method raises where the database does not answer is sqlalchemy.exc.DBAPIError. Made by `open_gate`.
    """

    def __init__(
        self, engine: Callable[[], sa.Engine], people: Administration, hasher: Hasher, throttle: Throttle, life: Life
    ) -> None:
        self.people = people
        self._engine = engine
        self._hasher = hasher
        self._throttle = throttle
        self._life = life
        self._known: OrderedDict[str, tuple[Identity, float]] = OrderedDict()
        self._noted = Seldom(_NOTE_EVERY_S)
        self._lock = threading.Lock()

    @staticmethod
    def shows_something(cookie_header: str | None, authorization: str | None) -> bool:
        """Whether `identify` could find anybody; without asking anything."""
        return (
            session_token(cookie_header) is not None if authorization is None else bearer_of(authorization) is not None
        )

    def identify(self, cookie_header: str | None, authorization: str | None, now_s: float) -> Identity | None:
        """Who sends these headers; None for nobody. Known for REMEMBERED_S without asking the database.

        With `Authorization` the cookie does not count, even where the former is wrong.
        """
        if authorization is not None:
            shown = bearer_of(authorization)
            if shown is None:
                return None
            return self._remembered(f"{shown.id} {shown.secret}", now_s, lambda: self._of_token(shown, now_s))
        token = session_token(cookie_header)
        return None if token is None else self._remembered(token, now_s, lambda: self._of_session(token, now_s))

    def log_in(
        self, account: str, password: str, address: str, now_s: float, *, old_cookie: str | None = None
    ) -> Session:
        """Begins a session with an id of its own; the one that the browser had, `old_cookie`, ends.

        Raises: Refused: 401 wrong, 429 too many tries, 503 too many at once.
        """
        name = accounts.normal_name(account)
        typed = name or account[:64]
        try:
            self._throttle.begin(typed, address, now_s)
        except Refused:
            # They come by the thousand, with names that were never typed before.
            self.note_once(self._shown(name), What.LOG_IN_THROTTLED, "", address, now_s, of=group_of(address))
            raise
        known = None
        if name is not None:
            with reading(self._engine()) as connection:
                known = accounts.password_hash_of(connection, name)
        is_right = self._verify(known, password, typed, address, now_s)
        if name is None or known is None or not is_right:
            self.note(self._shown(name), What.LOG_IN_FAILED, "", address, now_s)
            raise _wrong()
        self._throttle.succeeded(typed, address, now_s)
        session = self.begin_session(name, address, now_s, how="password", old_cookie=old_cookie, known=known)
        self._renew_hash(name, known, password)
        return session

    def log_in_outsider(
        self, outsider: Outsider, address: str, now_s: float, *, old_cookie: str | None = None
    ) -> Session:
        """Begins a session of somebody whom the OpenID provider vouches for; makes the account, or brings its role up.

        Raises: Refused: 403 disabled here, or the name is of another account; 503 made twice at once.
        """
        try:
            with self._engine().begin() as connection:
                found = accounts.find_subject(connection, outsider.subject)
                problem = self._settle(connection, outsider, found, address, now_s)
        except sa.exc.IntegrityError as error:
            raise Refused(Problem(503, "busy", "somebody makes this account just now", retry_after_s=1)) from error
        if problem is not None:
            self.note(outsider.name, What.LOG_IN_FAILED, problem, address, now_s)
            raise Refused(Problem(403, "login", problem))
        name = outsider.name if found is None else found.name
        self._forget_all()
        return self.begin_session(name, address, now_s, how="OpenID Connect", old_cookie=old_cookie)

    def begin_session(
        self,
        name: str,
        address: str,
        now_s: float,
        *,
        how: str,
        old_cookie: str | None = None,
        known: str | None = None,
    ) -> Session:
        """Begins a session of an account that has shown who it is.

        Args: known: the hash of the password that was shown.

        Raises: Refused, 401: it is disabled or gone, or has another password by now.
        """
        token, old = sessions.make_session_token(), session_token(old_cookie)
        with self._engine().begin() as connection:
            found = accounts.find_account(connection, name, lock=True)
            if found is None or found.disabled_s is not None:
                raise _wrong()
            # Whoever changes a password ends the sessions that there are: one of the old password must not begin then.
            if known is not None and accounts.password_hash_of(connection, name) != known:
                raise _wrong()
            if old is not None:
                sessions.delete_session(connection, old)
            sessions.insert_session(connection, token, name, address, now_s, self._life)
            write_event(connection, Event(at_s=now_s, who=name, what=What.LOGGED_IN, detail=how, address=address))
            forget_events(connection, now_s)
        self._forget_all()
        return Session(token=token, account=name, role=found.role, until_s=now_s + self._life.most_s)

    def log_out(self, cookie_header: str | None, address: str, now_s: float) -> None:
        """Ends the session of a cookie, if there is one."""
        token = session_token(cookie_header)
        if token is None:
            return
        with self._engine().begin() as connection:
            account = sessions.delete_session(connection, token)
            if account is not None:
                write_event(
                    connection, Event(at_s=now_s, who=account, what=What.LOGGED_OUT, detail="", address=address)
                )
        self._forget_all()

    def change_password(self, who: Identity, old: str, new: str, *, cookie_header: str | None, by: Actor) -> None:
        """Changes one's own password; the session that asks goes on, the others end.

        Raises: Refused: 401 the old one is wrong, 429; PeopleRefused: the new one cannot be.
        """
        self._throttle.begin(who.account, by.address, by.now_s)
        with reading(self._engine()) as connection:
            known = accounts.password_hash_of(connection, who.account)
        if not self._verify(known, old, who.account, by.address, by.now_s):
            self.note(who.account, What.LOG_IN_FAILED, "old password, to change it", by.address, by.now_s)
            raise Refused(Problem(401, "login", "the old password is wrong"))
        self._throttle.succeeded(who.account, by.address, by.now_s)
        self.people.set_password(who.account, new, by, keep=session_token(cookie_header), was=known)
        self._forget_all()

    def changed(self) -> None:
        """Accounts, sessions or tokens were changed by `people`: what was remembered no longer counts."""
        self._forget_all()

    def note(self, who: str, what: str, detail: str, address: str, now_s: float) -> None:
        """Writes down what somebody did or was refused (`people_event`)."""
        with self._engine().begin() as connection:
            write_event(connection, Event(at_s=now_s, who=who, what=what, detail=detail, address=address))

    def note_once(self, who: str, what: str, detail: str, address: str, now_s: float, *, of: str) -> bool:
        """As `note`, once a minute for each `what` and `of`, and whether it did: nobody fills logs by asking again."""
        if is_due := self._noted.is_due(f"{what} {of}", now_s):
            self.note(who, what, detail, address, now_s)
        return is_due

    def _shown(self, name: str | None) -> str:
        """How the record calls somebody who tries to log in. Some type a password where the name belongs."""
        if name is not None:
            with reading(self._engine()) as connection:
                if accounts.find_account(connection, name) is not None:
                    return name
        return NO_ACCOUNT

    def _verify(self, known: str | None, password: str, typed: str, address: str, now_s: float) -> bool:
        """Raises: Refused, 503: too many at once; that was no try."""
        try:
            # A password of megabytes is wrong, and is not hashed to find that out.
            return self._hasher.verify(known, password[: MAX_CHARS + 1])
        except Refused:
            self._throttle.unchecked(typed, address, now_s)
            raise

    def _renew_hash(self, name: str, known: str, password: str) -> None:
        """A hash of older parameters is made anew, unless there is no room now: then at the next log-in."""
        if not self._hasher.is_outdated(known):
            return
        try:
            made = self._hasher.hash(password)
        except Refused:
            return
        with self._engine().begin() as connection:
            accounts.update_password(connection, name, made, was=known)

    def _settle(
        self, connection: sa.Connection, outsider: Outsider, found: accounts.Account | None, address: str, now_s: float
    ) -> str | None:
        """The account of an outsider, made or brought up; what keeps it out, if anything."""
        if found is None:
            if accounts.find_account(connection, outsider.name) is not None:
                return f"{outsider.name}: is the name of another account here"
            accounts.insert_account(
                connection,
                outsider.name,
                outsider.role,
                password_hash=None,
                now_s=now_s,
                by="OpenID Connect",
                subject=outsider.subject,
            )
            what, detail = What.ACCOUNT_ADDED, f"{outsider.name} as {outsider.role}, by OpenID Connect"
        elif found.disabled_s is not None:
            return f"{found.name}: is disabled here"
        elif found.role is outsider.role:
            return None
        else:
            try:
                accounts.update_role(connection, found.name, outsider.role)
            except accounts.PeopleRefused as refused:
                return str(refused)
            sessions.delete_sessions(connection, found.name)
            what, detail = What.ROLE_CHANGED, f"{found.name} to {outsider.role}, by OpenID Connect"
        write_event(connection, Event(at_s=now_s, who=outsider.name, what=what, detail=detail, address=address))
        return None

    def _of_token(self, shown: api_tokens.Shown, now_s: float) -> Identity | None:
        with reading(self._engine()) as connection:
            found = api_tokens.identify_token(connection, shown, now_s)
        if found is None:
            return None
        identity, token = found
        if token.used_s is None or now_s - token.used_s > api_tokens.USED_EVERY_S:
            self._write_softly(lambda connection: api_tokens.touch_token(connection, token.id, now_s))
        return identity

    def _of_session(self, token: str, now_s: float) -> Identity | None:
        with reading(self._engine()) as connection:
            seen = sessions.find_session(connection, token, now_s, self._life)
        if seen is None:
            return None
        if now_s - seen.seen_s > sessions.SEEN_EVERY_S:
            self._write_softly(lambda connection: sessions.touch_session(connection, token, now_s))
        return Identity(
            account=seen.account,
            role=Role(seen.role),
            via=Via.SESSION,
            csrf_secret=sessions.csrf_secret(token),
        )

    def _write_softly(self, write: Callable[[sa.Connection], None]) -> None:
        try:
            with self._engine().begin() as connection:
                write(connection)
        except DBAPIError:
            # When it was last used is worth no error page; what cannot be written now is written next time.
            return

    def _remembered(self, secret: str, now_s: float, find: Callable[[], Identity | None]) -> Identity | None:
        key = digest(secret)
        with self._lock:
            known = self._known.get(key)
        if known is not None and 0 <= now_s - known[1] < REMEMBERED_S:
            return known[0]
        identity = find()
        if identity is not None:
            with self._lock:
                self._known.pop(key, None)
                self._known[key] = (identity, now_s)
                while len(self._known) > MAX_REMEMBERED:
                    self._known.popitem(last=False)
        return identity

    def _forget_all(self) -> None:
        with self._lock:
            self._known.clear()


def _wrong() -> Refused:
    return Refused(Problem(401, "login", "the account or the password is wrong"))


def open_gate(
    engine: sa.Engine | Callable[[], sa.Engine],
    *,
    life: Life | None = None,
    hasher: Hasher | None = None,
    throttle: Throttle | None = None,
) -> Gate:
    """The gate of a fleet database, which `reports.schema.open_report_db` has opened.

    Args:
        engine: or what gives the engine to use now.
        life: of sessions.
        hasher, throttle: new ones unless told; one process has one of each.
    """
    given = engine
    source: Callable[[], sa.Engine] = (lambda: given) if isinstance(given, sa.Engine) else given
    made = hasher or Hasher()
    kept = life or Life()
    return Gate(source, Administration(source, made, kept), made, throttle or Throttle(), kept)
