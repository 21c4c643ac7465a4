"""What the pages about accounts show. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from reports.people.accounts import Account
from reports.people.api_tokens import ApiToken
from reports.web.views_shared import Choice, Form, Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginView:
    """`/login` (template `login.html.j2`).

    Attributes:
        form: fields `account`, `password` and `next`.
        provider_href: where logging in by OpenID Connect begins, None without it.
        has_accounts: False: nobody can log in yet, and the server has told of a link.
    """

    frame: Frame
    form: Form
    provider_href: str | None
    has_accounts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkView:
    """A one-time link (template `link.html.j2`): fields `password`, `again`, and `account` for the first admin.

    Attributes: account: whose password it sets; None for the first admin.
    """

    frame: Frame
    form: Form
    account: str | None
    min_chars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLine:
    """One API token. `state`: `in force`, `expired` or `revoked`; `revoke_action`: None where that is over."""

    token: ApiToken
    state: str
    revoke_action: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountView:
    """`/account` (template `account.html.j2`): one's own account.

    Attributes:
        sessions: in how many browsers one is logged in.
        password: fields `old`, `password`, `again`; None where no password opens the account.
        add_token: fields `label`, `scope`, `life`.
        shown: a token that was made just now, to be seen once.
    """

    frame: Frame
    account: Account
    sessions: int
    password: Form | None
    tokens: tuple[TokenLine, ...]
    add_token: Form
    scopes: tuple[Choice, ...]
    lives: tuple[Choice, ...]
    min_chars: int
    shown: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonLine:
    """One account, as admins see it.

    Attributes:
        roles: to choose another from.
        action: address before `/role`, `/disable`, `/enable` and `/link`.
        was: what its forms carry in the field `was`: for another state they would be stale.
        takes_links: whether a link can set its password.
    """

    account: Account
    roles: tuple[Choice, ...]
    action: str
    was: str
    is_self: bool
    takes_links: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleView:
    """`/people` (template `people.html.j2`).

    Attributes:
        add: fields `name` and `role`.
        link: a one-time link that was made just now, and `link_account`, whom it is for.
    """

    frame: Frame
    rows: tuple[PersonLine, ...]
    add: Form
    roles: tuple[Choice, ...]
    link: str | None = field(default=None, repr=False)
    link_account: str = ""
