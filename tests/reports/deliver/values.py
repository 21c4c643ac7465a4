"""Reports, targets and databases for these tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aggregator.fleet_db import open_fleet
from reports.deliver.cron import parse_cron
from reports.deliver.document import Document, Form
from reports.deliver.targets import DeliveryError, DirectoryTarget, MailTarget, Plan, Security, Target, WebhookTarget
from reports.tables import metadata

# Saturday, 2026-11-21 07:00:00 UTC.
DUE_S = 1_795_244_400.0
SECRET = "a secret of the tests"


def document(generated_s: float = DUE_S, _since_s: float | None = None, **changes: Any) -> Document:
    values: dict[str, Any] = {
        "subject": "fallow: 3 VMs lie fallow",
        "text": "3 VMs: zürich-1, two, three\n",
        "html": "<!doctype html><title>fallow</title><p>3 VMs: zürich-1</p>\n",
        "json": '{"vms": 3}\n',
        "csv": "vm\r\none\r\n",
        "generated_s": generated_s,
    }
    return Document(**{**values, **changes})


def mail_target(port: int = 25, **changes: Any) -> MailTarget:
    values: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "security": Security.NONE,
        "user": None,
        "password_file": None,
        "sender": "fallow@example.org",
        "recipients": ("ops@example.org", "boss@example.org"),
        "attach": (Form.HTML,),
    }
    return MailTarget(**{**values, **changes})


def secret_file(folder: Path, text: str = SECRET) -> Path:
    path = folder / "secret"
    path.touch(mode=0o600)
    path.write_text(f"{text}\n", encoding="utf-8")
    return path


def webhook_target(folder: Path, url: str, form: Form = Form.JSON) -> WebhookTarget:
    return WebhookTarget(url=url, secret_file=secret_file(folder), form=form)


def plan(name: str = "daily", cron: str = "0 7 * * *", target: Target | None = None) -> Plan:
    target = target or DirectoryTarget(path=Path("/nowhere"), forms=(Form.HTML,), keep=1)
    return Plan(name=name, cron=parse_cron(cron), target=target)


@contextmanager
def table(folder: Path) -> Iterator[sa.Engine]:
    """A fleet database with the tables of the report alone."""
    engine = open_fleet(None, folder)
    metadata.create_all(engine)
    try:
        yield engine
    finally:
        engine.dispose()


@dataclass
class Clock:
    """Tells the time it is given."""

    now_s: float = DUE_S

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Sender:
    """Notes what it is asked to send, and raises the next of `failures` first."""

    failures: list[BaseException] = field(default_factory=list)
    sent: list[tuple[Document, Target, str, float]] = field(default_factory=list)
    calls: int = 0

    def __call__(self, made: Document, target: Target, delivery_id: str, now_s: float) -> None:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append((made, target, delivery_id, now_s))


def refusal(*, retry: bool = True) -> DeliveryError:
    return DeliveryError("the other side is out", retry=retry)
