"""Accounts, for admins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import quote

from reports.people.accounts import Account, PeopleRefused, UnknownPerson
from reports.people.roles import Role, parse_role
from reports.web.account_pages import AccountPages, actor, person
from reports.web.answers import Answer, Asked, Handler, not_found, see_other, stale
from reports.web.login_pages import Desk, LoginPages
from reports.web.parts import choices
from reports.web.views import Form, Notice, PeopleView, PersonLine

_ROLES = (
    (Role.VIEWER, "viewer: looks"),
    (Role.OPERATOR, "operator: exempts VMs, makes plans"),
    (Role.APPROVER, "approver: approves plans"),
    (Role.ADMIN, "admin: keeps accounts"),
)


def people_handlers(desk: Desk) -> Mapping[str, Handler]:
    """Of `reports.web.routes.PEOPLE_ROUTES`, by name."""
    return {**LoginPages(desk).handlers(), **AccountPages(desk).handlers(), **PeoplePages(desk).handlers()}


class PeoplePages:
    """`/people` and what is posted there."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._gate = desk.gate

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {
            "people": self._page,
            "add_person": self.add,
            "change_role": self.change_role,
            "disable_person": self.disable,
            "enable_person": self.enable,
            "make_link": self.make_link,
        }

    def add(self, asked: Asked) -> Answer:
        """Adds an account, and shows the link by which its owner sets a password."""
        form, by = asked.form, actor(asked, self._desk.clock())
        try:
            role = parse_role(form.get("role", ""))
        except ValueError as error:
            return self._page(asked, problems={"role": str(error)}, status=422)
        try:
            added = self._gate.people.add(form.get("name", ""), role, None, by)
            secret = self._gate.people.make_password_link(added.name, by)
        except PeopleRefused as error:
            return self._page(asked, problems={"name": str(error)}, status=422)
        self._gate.changed()
        return self._page(asked, link=self._link(asked, secret), link_account=added.name)

    def change_role(self, asked: Asked) -> Answer:
        """Gives another role."""
        try:
            role = parse_role(asked.form.get("role", ""))
        except ValueError as error:
            return self._page(asked, notice=_problem(str(error)), status=422)
        name = self._unchanged(asked).name
        return self._changed(asked, lambda: self._gate.people.set_role(name, role, actor(asked, self._desk.clock())))

    def disable(self, asked: Asked) -> Answer:
        """Lets somebody in no more."""
        name = self._unchanged(asked).name
        return self._changed(asked, lambda: self._gate.people.disable(name, actor(asked, self._desk.clock())))

    def enable(self, asked: Asked) -> Answer:
        """Lets somebody in again."""
        name = self._unchanged(asked).name
        return self._changed(asked, lambda: self._gate.people.enable(name, actor(asked, self._desk.clock())))

    def make_link(self, asked: Asked) -> Answer:
        """Makes a link for a new password, and shows it this once."""
        name = self._find(asked).name
        try:
            secret = self._gate.people.make_password_link(name, actor(asked, self._desk.clock()))
        except PeopleRefused as error:
            return self._page(asked, notice=_problem(str(error)), status=422)
        return self._page(asked, link=self._link(asked, secret), link_account=name)

    def _link(self, asked: Asked, secret: str) -> str:
        return f"{self._desk.link_origin(asked.origin)}/password/{secret}"

    def _find(self, asked: Asked) -> Account:
        try:
            return self._gate.people.account(asked.ids[0])
        except UnknownPerson as error:
            raise not_found("account", str(error)) from error

    def _unchanged(self, asked: Asked) -> Account:
        """The account, if it is still what the page showed. Raises: Refused: 404, 412."""
        found = self._find(asked)
        if asked.form.get("was", "") != state_of(found):
            raise stale(f"{found.name}: somebody changed this account since the page was made: look again")
        return found

    def _changed(self, asked: Asked, change: Callable[[], None]) -> Answer:
        try:
            change()
        except PeopleRefused as error:
            return self._page(asked, notice=_problem(str(error)), status=422)
        self._gate.changed()
        return see_other("/people")

    def _page(
        self,
        asked: Asked,
        *,
        problems: Mapping[str, str] | None = None,
        notice: Notice | None = None,
        link: str | None = None,
        link_account: str = "",
        status: int = 200,
    ) -> Answer:
        who = person(asked)
        values = {name: asked.form.get(name, "") for name in ("name", "role")} if problems else {}
        view = PeopleView(
            frame=self._desk.frame(asked, "People", "people", notice=notice),
            rows=tuple(_line(one, who.account) for one in self._gate.people.accounts()),
            add=Form(action="/people", values=values, problems=problems or {}),
            roles=choices(_ROLES, values.get("role", Role.VIEWER.value)),
            link=link,
            link_account=link_account,
        )
        return self._desk.renderer.page(view, status=status)


def state_of(account: Account) -> str:
    """What a form about an account was made for."""
    return f"{account.role} {'enabled' if account.disabled_s is None else 'disabled'}"


def _line(account: Account, own: str) -> PersonLine:
    return PersonLine(
        account=account,
        roles=choices(((role.value, role.value) for role in Role), account.role.value),
        action=f"/people/{quote(account.name, safe='')}",
        was=state_of(account),
        is_self=account.name == own,
        takes_links=account.subject is None and account.disabled_s is None,
    )


def _problem(text: str) -> Notice:
    return Notice(kind="error", text=f"Nothing was changed. {text}")
