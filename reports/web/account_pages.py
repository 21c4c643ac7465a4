"""One's own account: the password, other sessions, API tokens."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from aggregator.problems import Problem, Refused
from reports.people.accounts import PeopleRefused
from reports.people.administration import Actor
from reports.people.api_tokens import ApiToken
from reports.people.identity import Identity, Via
from reports.people.passwords import MIN_CHARS
from reports.people.roles import Scope, parse_scope
from reports.people.sessions import session_token
from reports.web.answers import Answer, Asked, Handler, not_found, see_other
from reports.web.login_pages import DIFFERENT, Desk
from reports.web.parts import choices
from reports.web.views import AccountView, Form, Notice, TokenLine

_DAY_S = 86_400
_SCOPES = (
    (Scope.READ, "read: look at everything"),
    (Scope.WRITE, "write: also exempt VMs and make plans"),
    (Scope.APPROVE, "approve: also approve plans"),
    (Scope.ADMIN, "admin: also keep accounts"),
)
_LIVES = (("30", "30 days"), ("90", "90 days"), ("365", "a year"))
_LIVES_DAYS = {value: int(value) for value, _ in _LIVES}
_MAX_SHOWN = 100


def actor(asked: Asked, now_s: float) -> Actor:
    """Who changes accounts, of a request on a route that is not open."""
    return Actor(name=person(asked).account, now_s=now_s, address=asked.address)


def person(asked: Asked) -> Identity:
    """Who asks. Raises: Refused, 401: a route that should have needed a role."""
    if asked.who is None:
        raise Refused(Problem(401, "unknown", "log in first"))
    return asked.who


def own(asked: Asked) -> Identity:
    """The person whose account it is. Raises: Refused, 403: a program with a token, which must not give itself more."""
    who = person(asked)
    if who.via is not Via.SESSION:
        raise Refused(Problem(403, "session", "this is for people who are logged in, not for API tokens"))
    return who


class AccountPages:
    """`/account` and what is posted there."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._gate = desk.gate

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {
            "account": self.show,
            "change_password": self.change_password,
            "end_sessions": self.end_sessions,
            "add_token": self.add_token,
            "revoke_token": self.revoke_token,
        }

    def show(self, asked: Asked) -> Answer:
        """The page."""
        return self._page(asked)

    def change_password(self, asked: Asked) -> Answer:
        """Changes the password; every other session ends."""
        who, form, by = own(asked), asked.form, actor(asked, self._desk.clock())
        if form.get("password", "") != form.get("again", ""):
            return self._page(asked, problems={"again": DIFFERENT}, status=422)
        try:
            self._gate.change_password(
                who, form.get("old", ""), form.get("password", ""), cookie_header=asked.cookie, by=by
            )
        except Refused as refused:
            # Not 401: that one is logged in.
            status = 422 if refused.problem.status == 401 else refused.problem.status
            return self._page(asked, problems={"old": refused.problem.detail}, status=status)
        except PeopleRefused as error:
            return self._page(asked, problems={"password": str(error)}, status=422)
        return self._page(asked, said="The password is changed, and your other sessions have ended.")

    def end_sessions(self, asked: Asked) -> Answer:
        """Logs out everywhere else."""
        who = own(asked)
        self._gate.people.end_sessions(who.account, actor(asked, self._desk.clock()), keep=session_token(asked.cookie))
        self._gate.changed()
        return self._page(asked, said="Your other sessions have ended.")

    def add_token(self, asked: Asked) -> Answer:
        """Makes an API token, and shows it this once."""
        who, form, by = own(asked), asked.form, actor(asked, self._desk.clock())
        try:
            scope = parse_scope(form.get("scope", ""))
            days = _LIVES_DAYS[form.get("life", "")]
        except (ValueError, KeyError):
            return self._page(asked, token_problems={"": "choose a scope and a time"}, status=422)
        try:
            _, text = self._gate.people.make_token(who.account, form.get("label", ""), scope, days * _DAY_S, by)
        except PeopleRefused as error:
            return self._page(asked, token_problems={"": str(error)}, status=422)
        return self._page(asked, shown=text)

    def revoke_token(self, asked: Asked) -> Answer:
        """A token opens nothing any more."""
        who = own(asked)
        try:
            self._gate.people.revoke_token(asked.ids[0], actor(asked, self._desk.clock()), account=who.account)
        except PeopleRefused as error:
            raise not_found("token", str(error)) from error
        self._gate.changed()
        return see_other("/account")

    def _page(
        self,
        asked: Asked,
        *,
        problems: Mapping[str, str] | None = None,
        token_problems: Mapping[str, str] | None = None,
        said: str | None = None,
        shown: str | None = None,
        status: int = 200,
    ) -> Answer:
        who, now_s = person(asked), self._desk.clock()
        people = self._gate.people
        account = people.account(who.account)
        notice = None if said is None else Notice(kind="info", text=said)
        values = {name: asked.form.get(name, "") for name in ("label", "scope", "life")} if token_problems else {}
        scopes = [(scope.value, words) for scope, words in _SCOPES if account.role.covers(scope.role)]
        view = AccountView(
            frame=self._desk.frame(asked, "Your account", "account", notice=notice),
            account=account,
            sessions=people.count_sessions(who.account, now_s),
            password=Form(action="/account/password", problems=problems or {}) if account.has_password else None,
            tokens=tuple(token_line(one, now_s) for one in people.tokens(who.account)[:_MAX_SHOWN]),
            add_token=Form(action="/account/tokens", values=values, problems=token_problems or {}),
            scopes=choices(scopes, values.get("scope", Scope.READ.value)),
            lives=choices(_LIVES, values.get("life", "90")),
            min_chars=MIN_CHARS,
            shown=shown,
        )
        return self._desk.renderer.page(view, status=status)


def token_line(token: ApiToken, now_s: float) -> TokenLine:
    """One token for a page."""
    is_open = token.is_in_force(now_s)
    state = "in force" if is_open else "expired" if token.revoked_s is None else "revoked"
    action = f"/account/tokens/{quote(token.id, safe='')}/revoke" if is_open else None
    return TokenLine(token=token, state=state, revoke_action=action)
