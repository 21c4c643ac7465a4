"""The tables `[[report.deliveries]]`: what they may say, and every mistake at once."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import ConfigError
from reports.deliver.config import absent_directories, check_secrets, parse_deliveries
from reports.deliver.document import Form
from reports.deliver.targets import DirectoryTarget, MailTarget, Plan, Security, WebhookTarget
from tests.reports.deliver.values import SECRET, secret_file

MAIL = {"host": "mail.example.org", "from": "fallow@example.org", "to": ["ops@example.org"]}


def parsed(*items: object) -> tuple[Plan, ...]:
    return parse_deliveries({"report": {"deliveries": list(items)}}, source="report.toml")


def problems(*items: object) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parsed(*items)
    return raised.value.problems


def mail(**changes: Any) -> dict[str, Any]:
    """A delivery by mail; a setting of None is left out."""
    settings = {name: value for name, value in {**MAIL, **changes}.items() if value is not None}
    return {"name": "weekly", "cron": "0 7 * * 1", "mail": settings}


def test_every_setting_is_read(tmp_path: Path) -> None:
    """A file with one delivery of each kind, everything set."""
    secret = secret_file(tmp_path)
    text = f"""
[report]
window = "14d"

[[report.deliveries]]
name = "weekly"
cron = "0 7 * * 1"
[report.deliveries.mail]
host = "mail.example.org"
port = 2525
security = "tls"
user = "fallow"
password_file = "{secret}"
from = "fallow@example.org"
to = ["ops@example.org", "boss@example.org"]
attach = ["html", "csv"]

[[report.deliveries]]
name = "hook-2"
cron = "*/15 * * * *"
webhook = {{ url = "https://hooks.example.org/x", secret_file = "{secret}", format = "csv" }}

[[report.deliveries]]
name = "archive"
cron = "30 6 * * *"
directory = {{ path = "{tmp_path}", forms = ["json"], keep = 9 }}
"""
    plans = parse_deliveries(tomllib.loads(text), source="report.toml")
    assert [(plan.name, plan.cron.text) for plan in plans] == [
        ("weekly", "0 7 * * 1"),
        ("hook-2", "*/15 * * * *"),
        ("archive", "30 6 * * *"),
    ]
    assert [plan.target for plan in plans] == [
        MailTarget(
            host="mail.example.org",
            port=2525,
            security=Security.TLS,
            user="fallow",
            password_file=secret,
            sender="fallow@example.org",
            recipients=("ops@example.org", "boss@example.org"),
            attach=(Form.HTML, Form.CSV),
        ),
        WebhookTarget(url="https://hooks.example.org/x", secret_file=secret, form=Form.CSV),
        DirectoryTarget(path=tmp_path, forms=(Form.JSON,), keep=9),
    ]


def test_what_may_be_left_out(tmp_path: Path) -> None:
    """The defaults are those of the document."""
    secret = secret_file(tmp_path)
    plans = parsed(
        mail(),
        {"name": "b", "cron": "0 7 * * 1", "webhook": {"url": "https://h.example.org/", "secret_file": str(secret)}},
        {"name": "c", "cron": "0 7 * * 1", "directory": {"path": str(tmp_path)}},
    )
    by_mail, hook, folder = (plan.target for plan in plans)
    assert isinstance(by_mail, MailTarget)
    assert (by_mail.security, by_mail.port, by_mail.user) == (Security.STARTTLS, 587, None)
    assert by_mail.attach == (Form.HTML,)
    assert isinstance(hook, WebhookTarget)
    assert hook.form is Form.JSON
    assert folder == DirectoryTarget(path=tmp_path, forms=tuple(Form), keep=52)


@pytest.mark.parametrize("table", [{}, {"report": {}}, {"report": {"deliveries": []}}, {"report": 3}])
def test_no_deliveries_are_fine(table: dict[str, Any]) -> None:
    """A file without them configures none."""
    assert parse_deliveries(table, source="report.toml") == ()


def test_usual_ports() -> None:
    """Each kind of protection has its own."""
    ports = {kind: parsed(mail(security=kind, host="localhost"))[0].target for kind in ("starttls", "tls", "none")}
    assert {kind: target.port for kind, target in ports.items() if isinstance(target, MailTarget)} == {
        "starttls": 587,
        "tls": 465,
        "none": 25,
    }


def test_every_mistake_is_named_at_once_with_its_place() -> None:
    """Several in several deliveries: one line each."""
    found = problems(
        {"name": "Weekly!", "cron": "7", "mail": {"host": "h", "from": "nobody", "to": [], "cc": ["x@y"]}},
        {"cron": "0 7 * * 1", "directory": {"path": "", "keep": 0}},
        "daily",
    )
    assert [problem.split(":")[1].strip() for problem in found] == [
        "report.deliveries[0].name",
        "report.deliveries[0].cron",
        "report.deliveries[0].mail.from",
        "report.deliveries[0].mail.to",
        "report.deliveries[0].mail.cc",
        "report.deliveries[1].name",
        "report.deliveries[1].directory.path",
        "report.deliveries[1].directory.keep",
        "report.deliveries[2]",
    ]
    assert all(problem.startswith("report.toml: ") for problem in found)


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (mail(host=None), "mail.host: is missing"),
        (mail(host="a b"), "mail.host: 'a b' is not the name"),
        (mail(host="h\r\nX"), "mail.host: .* is not the name"),
        (mail(to=None), "mail.to: is missing"),
        (mail(to="ops@example.org"), "mail.to: is not a list"),
        (mail(to=["ops@example.org\r\nRCPT TO:<x@y>"]), "mail.to: .* is not a mail address"),
        (mail(to=["Ops <ops@example.org>"]), "mail.to: .* is not a mail address"),
        (mail(to=["ops@example.org, x@example.org"]), "mail.to: .* is not a mail address"),
        (mail(**{"from": "fallow"}), "mail.from: 'fallow' is not a mail address"),
        (mail(port=0), "mail.port: 0 is not at least 1"),
        (mail(port=70_000), "mail.port: 70000 is not a port"),
        (mail(security="ssl"), "mail.security: 'ssl' is not one of starttls, tls, none"),
        (mail(security="none"), "mail.security: 'none' is for a server on this machine, not for mail.example.org"),
        (mail(user="me"), "mail.user: goes together with password_file"),
        (mail(user="me", password_file="a\0b"), "mail.password_file: .* is not a path"),
        (mail(attach=["pdf"]), "mail.attach: 'pdf' is not one of html, json, csv"),
        (mail(attach="html"), "mail.attach: 'html' is not a list"),
        ({"name": "a", "cron": "0 7 * * 1"}, "mail: exactly one of mail, webhook, directory"),
        ({**mail(), "directory": {"path": "/"}}, "mail: exactly one of mail, webhook, directory"),
        ({"name": "a", "cron": "0 7 * * 1", "mail": "ops@example.org"}, "mail: is not a table"),
        ({"name": "a", "cron": "0 7 * * 1", "mail": {}}, "mail.host: is missing"),
        ({"name": "a", "cron": "0 7 * * 1", "directory": {}}, "directory.path: is missing"),
        ({"name": "a", "cron": "0 7 * * 1", "directory": {"path": "/", "forms": []}}, "directory.forms: is empty"),
        ({"name": "a", "cron": "0 7 * * 1", "webhook": {}}, "webhook.url: is missing"),
        ({"name": "a", "cron": "0 7 * * 1", "webhook": {"url": "http://x.org/"}}, "webhook.url: http to x.org"),
        ({**mail(), "cron": "0 7 1 * 1"}, "cron: .* names days of the month and days of the week"),
        ({**mail(), "name": "x" * 65}, "name: .* is not a name"),
        ({**mail(), "when": "now"}, "when: unknown setting"),
    ],
)
def test_a_mistake_is_named(item: dict[str, Any], problem: str) -> None:
    """With file, place, and what would be right."""
    with pytest.raises(ConfigError, match=rf"report\.toml: report\.deliveries\[0\]\.{problem}"):
        parsed(item)


def test_names_are_used_once() -> None:
    """The second one is told where the first is."""
    assert problems(mail(), mail()) == [
        "report.toml: report.deliveries[1].name: 'weekly' is the name of report.deliveries[0] too"
    ]


def test_a_list_of_something_else_is_refused() -> None:
    """`[report.deliveries]` with one pair of brackets is an easy mistake."""
    with pytest.raises(ConfigError, match=r"report\.deliveries: is not a list of tables"):
        parse_deliveries({"report": {"deliveries": mail()}}, source="report.toml")


def hook_to(secret: Path, name: str = "a") -> dict[str, Any]:
    return {"name": name, "cron": "0 7 * * 1", "webhook": {"url": "https://x.org/", "secret_file": str(secret)}}


def test_what_paths_lead_to_is_not_looked_at(tmp_path: Path) -> None:
    """A command that delivers nothing reads the file although secrets and directories are absent."""
    absent = tmp_path / "absent"
    by_mail, hook, folder = parsed(
        mail(user="me", password_file=str(absent)),
        hook_to(absent),
        {"name": "c", "cron": "0 7 * * 1", "directory": {"path": str(absent)}},
    )
    assert isinstance(by_mail.target, MailTarget)
    assert isinstance(hook.target, WebhookTarget)
    assert isinstance(folder.target, DirectoryTarget)
    assert {by_mail.target.password_file, hook.target.secret_file, folder.target.path} == {absent}


def test_secrets_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """Absent, readable by others, or too short to sign with: each with file, delivery and key; a good one is fine."""
    secret = secret_file(tmp_path)
    plans = parsed(mail(user="me", password_file=str(secret)), hook_to(secret), hook_to(tmp_path / "absent", "b"))
    check_secrets(plans[:2], source="report.toml")
    secret.chmod(0o640)
    with pytest.raises(ConfigError) as raised:
        check_secrets(plans, source="report.toml")
    readable = f"{secret}: readable by others (mode 0640): run chmod 600 {secret}"
    assert raised.value.problems == [
        f"report.toml: delivery weekly: mail.password_file: {readable}",
        f"report.toml: delivery a: webhook.secret_file: {readable}",
        f"report.toml: delivery b: webhook.secret_file: {tmp_path / 'absent'}: No such file or directory",
    ]
    secret.chmod(0o600)
    secret.write_text("short")
    with pytest.raises(ConfigError, match=r"delivery a: .* is not at least 16 characters"):
        check_secrets(plans[:2], source="report.toml")


def test_absent_directories_are_told(tmp_path: Path) -> None:
    """One that is there is not, a file in its place is."""
    (tmp_path / "file").touch()
    paths = {"here": tmp_path, "file": tmp_path / "file", "absent": tmp_path / "absent"}
    items = [{"name": name, "cron": "0 7 * * 1", "directory": {"path": str(path)}} for name, path in paths.items()]
    assert absent_directories(parsed(mail(), *items)) == [
        f"{name}: {paths[name]} is not a directory: until it is, the delivery fails" for name in ("file", "absent")
    ]


def test_nothing_shows_a_secret(tmp_path: Path) -> None:
    """Neither what is written for programmers nor what is written for people holds one, the URL's path included."""
    secret = secret_file(tmp_path)
    hook = {
        "name": "a",
        "cron": "0 7 * * 1",
        "webhook": {"url": "https://x.example.org/T0K3N?key=T0K3N", "secret_file": str(secret)},
    }
    plans = parsed(mail(user="me", password_file=str(secret)), hook)
    for plan in plans:
        shown = f"{plan!r} {plan.target.words}"
        assert SECRET not in shown
        assert "T0K3N" not in shown
    assert plans[1].target.words == "https://x.example.org"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "cron", "mail", "webhook", "directory", "url", "to", "host", "keep", "x"]),
                inner,
                max_size=5,
            )
        ),
        max_leaves=15,
    )
)
def test_whatever_a_file_holds_only_a_config_error_comes_of_it(deliveries: object) -> None:
    """Any shape of value is either deliveries or a list of mistakes."""
    with suppress(ConfigError):
        parse_deliveries({"report": {"deliveries": deliveries}}, source="x")
