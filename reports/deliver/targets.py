"""Where a report goes, as values without a secret in them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from reports.deliver.cron import Cron
from reports.deliver.document import Form


class DeliveryError(Exception):
    """A report that did not get where it should.

    Args:
        problem: for people; holds no secret.
        retry: whether it may work later without anybody changing something.
    """

    def __init__(self, problem: str, *, retry: bool) -> None:
        self.problem = problem
        self.retry = retry
        super().__init__(problem)


class Security(StrEnum):
    """How a connection to a mail server is protected."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"

    @property
    def usual_port(self) -> int:
        return {Security.STARTTLS: 587, Security.TLS: 465, Security.NONE: 25}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class MailTarget:
    """A mail server and who is written to.

    Args:
        user: None: the server asks for no password.
        password_file: read at each delivery; None without a user.
    """

    kind: ClassVar[str] = "mail"

    host: str
    port: int
    security: Security
    user: str | None
    password_file: Path | None
    sender: str
    recipients: tuple[str, ...]
    attach: tuple[Form, ...]

    @property
    def words(self) -> str:
        return f"{', '.join(self.recipients)} by {self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookTarget:
    """A URL that takes a POST.

    Args:
        url: its path and query may be as good as a password.
        secret_file: signs; read at each delivery.
    """

    kind: ClassVar[str] = "webhook"

    url: str = field(repr=False)
    secret_file: Path
    form: Form

    @property
    def words(self) -> str:
        """The URL without path and query."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryTarget:
    """A directory that fills with reports.

    Args:
        keep: how many reports stay; older ones go.
    """

    kind: ClassVar[str] = "directory"

    path: Path
    forms: tuple[Form, ...]
    keep: int

    @property
    def words(self) -> str:
        return str(self.path)


Target = MailTarget | WebhookTarget | DirectoryTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One configured delivery: what it is called, when it is due, where it goes."""

    name: str
    cron: Cron
    target: Target
