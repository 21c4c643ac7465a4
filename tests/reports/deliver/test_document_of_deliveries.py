"""docs/deliveries.md: its settings can be used, and its receiver tells true from false."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from reports.deliver.config import parse_deliveries
from reports.deliver.targets import DirectoryTarget, MailTarget, WebhookTarget
from reports.deliver.webhook import sign
from tests.reports.deliver.values import DUE_S, SECRET, secret_file

TEXT = (Path(__file__).parents[3] / "docs" / "deliveries.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_settings_that_are_shown_work(tmp_path: Path) -> None:
    """Every block of TOML, with its files where it says."""
    secret = secret_file(tmp_path)
    (shown,) = blocks("toml")
    text = re.sub(r'"/etc/fallow/[\w.]+"', f'"{secret}"', shown).replace("/srv/fallow/reports", str(tmp_path))
    plans = parse_deliveries(tomllib.loads(text), source="docs/deliveries.md")
    assert [(plan.name, type(plan.target)) for plan in plans] == [
        ("weekly", MailTarget),
        ("chat", WebhookTarget),
        ("archive", DirectoryTarget),
    ]


def test_the_table_names_every_setting(tmp_path: Path) -> None:
    """What a target holds has a row, by the name it has in the file."""
    names = {"sender": "from", "recipients": "to", "form": "format"}
    kinds: dict[str, Any] = {"mail": MailTarget, "webhook": WebhookTarget, "directory": DirectoryTarget}
    settings = {
        f"{kind}.{names.get(name, name)}"
        for kind, target in kinds.items()
        for name in (field.name for field in fields(target))
    }
    cells = re.findall(r"^\| (`[^|]+) \|", TEXT, re.MULTILINE)
    shown = {name for cell in cells for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", cell)}
    assert shown == settings


def test_the_receiver_that_is_shown_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes what we sign, and nothing that was changed, is old or is not signed."""
    (code,) = blocks("python")
    receiver: dict[str, Any] = {}
    exec(code, receiver)
    monkeypatch.setattr("time.time", lambda: DUE_S + 10)
    is_genuine = receiver["is_genuine"]
    stamp = str(int(DUE_S))
    headers = {"Fallow-Timestamp": stamp, "Fallow-Signature": sign(SECRET, stamp, b"body")}
    assert is_genuine(SECRET, headers, b"body")
    assert not is_genuine(SECRET, headers, b"bodY")
    assert not is_genuine("another secret of tests", headers, b"body")
    assert not is_genuine(SECRET, {}, b"body")
    monkeypatch.setattr("time.time", lambda: DUE_S + 301)
    assert not is_genuine(SECRET, headers, b"body")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
