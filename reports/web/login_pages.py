"""Logging in and out, and the one-time links that make the first admin or set a password."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Protocol
from urllib.parse import quote

from aggregator.problems import Refused
from reports.people.accounts import PeopleRefused, UnknownPerson
from reports.people.gate import Gate, Outsider, Session
from reports.people.links import Link, LinkKind
from reports.people.passwords import MIN_CHARS
from reports.people.sessions import clear_session_cookie, set_session_cookie
from reports.web.answers import Answer, Asked, Handler, not_found, see_other
from reports.web.parts import frame
from reports.web.renderer import Renderer
from reports.web.security import next_path
from reports.web.views import Form, Frame, LinkView, LoginView, Notice

_PROVIDER, _RETURN = "/login/provider", "/login/return"
DIFFERENT = "the two are not the same"


class Came(Protocol):
    """Who came back from a provider, and where to go on."""

    @property
    def outsider(self) -> Outsider: ...

    @property
    def next_path(self) -> str: ...


class Provider(Protocol):
    """`reports.people.openid.OpenId`, as pages use it."""

    def begin(self, redirect_uri: str, browser: str, next_path: str) -> str:
        """Where to send a person."""

    def finish(self, answer: Mapping[str, str], browser: str | None) -> Came:
        """Who came back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What the pages about accounts are made from.

    Attributes:
        zone: of the reader.
        clock: Unix time in seconds.
        secure: cookies go over TLS alone.
        provider: of OpenID Connect, None without it.
        link_origin: where links for others lead, of the origin that a request was sent to.
    """

    gate: Gate
    renderer: Renderer
    zone: tzinfo
    clock: Callable[[], float]
    secure: bool = False
    provider: Provider | None = None
    link_origin: Callable[[str], str] = lambda origin: origin

    def frame(self, asked: Asked, title: str, section: str, *, notice: Notice | None = None) -> Frame:
        """What is round a page."""
        outside = section == ""
        return frame(asked, title, section, zone=self.zone, now_s=self.clock(), notices=[notice], is_outside=outside)

    def entered(self, session: Session, href: str) -> Answer:
        """Goes on as whoever has just logged in."""
        return see_other(href, {"Set-Cookie": set_session_cookie(session.token, secure=self.secure)})


class LoginPages:
    """`/login`, `/logout`, `/first/…` and `/password/…`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._gate = desk.gate

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {
            "login": self.show,
            "log_in": self.log_in,
            "log_out": self.log_out,
            "login_provider": self.go_to_provider,
            "login_return": self.come_back,
            "first": lambda asked: self.show_link(asked, LinkKind.FIRST),
            "use_first": lambda asked: self.use_link(asked, LinkKind.FIRST),
            "password": lambda asked: self.show_link(asked, LinkKind.PASSWORD),
            "use_password": lambda asked: self.use_link(asked, LinkKind.PASSWORD),
        }

    def show(self, asked: Asked) -> Answer:
        """The form; whoever is logged in goes on at once."""
        href = next_path(asked.query.get("next", "/"))
        if asked.who is not None:
            return see_other(href)
        return self._page(asked, {"next": href})

    def log_in(self, asked: Asked) -> Answer:
        """Begins a session; the form again where that cannot be."""
        href, account = next_path(asked.form.get("next", "") or "/"), asked.form.get("account", "")
        try:
            session = self._gate.log_in(
                account,
                asked.form.get("password", ""),
                asked.address,
                self._desk.clock(),
                old_cookie=asked.cookie,
            )
        except Refused as refused:
            return self._page(asked, {"next": href, "account": account}, refused)
        return self._desk.entered(session, href)

    def log_out(self, asked: Asked) -> Answer:
        """Ends the session of this browser."""
        self._gate.log_out(asked.cookie, asked.address, self._desk.clock())
        return see_other("/login", {"Set-Cookie": clear_session_cookie(secure=self._desk.secure)})

    def go_to_provider(self, asked: Asked) -> Answer:
        """Sends a person to the provider."""
        href = next_path(asked.query.get("next", "/"))
        try:
            there = self._provider().begin(asked.origin + _RETURN, asked.browser or "", href)
        except Refused as refused:
            return self._page(asked, {"next": href}, refused)
        return see_other(there)

    def come_back(self, asked: Asked) -> Answer:
        """Begins a session of whoever the provider says came back."""
        try:
            arrived = self._provider().finish(asked.query, asked.browser)
            session = self._gate.log_in_outsider(
                arrived.outsider, asked.address, self._desk.clock(), old_cookie=asked.cookie
            )
        except Refused as refused:
            return self._page(asked, {"next": "/"}, refused)
        return self._desk.entered(session, arrived.next_path)

    def show_link(self, asked: Asked, kind: LinkKind) -> Answer:
        """The form of a link, which it does not use up: mail programs look at links before people do."""
        return self._link_page(asked, self._find_link(asked, kind), {})

    def use_link(self, asked: Asked, kind: LinkKind) -> Answer:
        """Does what the link is for, and logs in."""
        link, form, now_s = self._find_link(asked, kind), asked.form, self._desk.clock()
        problems = {}
        if form.get("password", "") != form.get("again", ""):
            problems = {"again": DIFFERENT}
        else:
            try:
                name = self._gate.people.use_link(
                    asked.ids[0], form.get("account", ""), form.get("password", ""), now_s=now_s, address=asked.address
                )
                self._gate.changed()
                session = self._gate.begin_session(name, asked.address, now_s, how="link", old_cookie=asked.cookie)
            except UnknownPerson as error:
                raise not_found("link", str(error)) from error
            except PeopleRefused as error:
                problems = {error.field: str(error)}
            else:
                return self._desk.entered(session, "/")
        return self._link_page(asked, link, problems)

    def _provider(self) -> Provider:
        if self._desk.provider is None:
            raise not_found("provider", "these pages know no OpenID provider")
        return self._desk.provider

    def _find_link(self, asked: Asked, kind: LinkKind) -> Link:
        try:
            link = self._gate.people.find_link(asked.ids[0], self._desk.clock())
        except PeopleRefused as error:
            raise not_found("link", str(error)) from error
        if link.kind is not kind:
            raise not_found("link", "this link is for something else")
        return link

    def _link_page(self, asked: Asked, link: Link, problems: Mapping[str, str]) -> Answer:
        title = "The first admin" if link.account is None else "A new password"
        view = LinkView(
            frame=self._desk.frame(asked, title, ""),
            form=Form(
                action=asked.target.partition("?")[0],
                values={"account": asked.form.get("account", "")},
                problems=problems,
            ),
            account=link.account,
            min_chars=MIN_CHARS,
        )
        # The link stands in the address: it must not go on with what this page loads or leads to.
        return self._desk.renderer.page(view, status=422 if problems else 200, headers={"Referrer-Policy": "origin"})

    def _page(self, asked: Asked, values: Mapping[str, str], refused: Refused | None = None) -> Answer:
        problem = None if refused is None else refused.problem
        notice = (
            None if problem is None else Notice(kind="error", text=f"{problem.detail[:1].upper()}{problem.detail[1:]}.")
        )
        provider = None if self._desk.provider is None else f"{_PROVIDER}?next={quote(values['next'], safe='')}"
        view = LoginView(
            frame=self._desk.frame(asked, "Log in", "", notice=notice),
            form=Form(action="/login", values=values),
            provider_href=provider,
            has_accounts=self._gate.people.has_accounts(),
        )
        retry_s = None if problem is None else problem.retry_after_s
        return self._desk.renderer.page(
            view,
            status=200 if problem is None else problem.status,
            headers={} if retry_s is None else {"Retry-After": str(retry_s)},
        )
