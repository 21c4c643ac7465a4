"""The tables `[[report.deliveries]]` of the settings as plans, every mistake named with its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from agent.settings import ConfigError, SettingsReader, parse_count, parse_text
from reports.deliver.cron import Cron, parse_cron
from reports.deliver.dial import is_loopback
from reports.deliver.document import Form
from reports.deliver.mail import read_password
from reports.deliver.targets import DirectoryTarget, MailTarget, Plan, Security, Target, WebhookTarget
from reports.deliver.webhook import parse_url, read_signing_secret

KEY = "report.deliveries"
DEFAULT_KEEP = 52
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_HOST = re.compile(r"[A-Za-z0-9.:_-]{1,253}")
# What every mail server takes without quotes. Anything that could end a header or a command is outside.
_MAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_MAX_RECIPIENTS = 100

T = TypeVar("T")


def parse_deliveries(table: Mapping[str, Any], *, source: str) -> tuple[Plan, ...]:
    """The plans of a whole TOML file, in its order; none where it has no such table.

    Args: source: what errors call the file.

    What the paths lead to is not looked at: `check_secrets` does that for whoever delivers.

    Raises: ConfigError: every mistake at once, as in `report.toml: report.deliveries[0].cron: …`.
    """
    report = table.get("report")
    items = report.get("deliveries", []) if isinstance(report, Mapping) else []
    if not isinstance(items, list):
        raise ConfigError(f"{source}: {KEY}: is not a list of tables [[{KEY}]]")
    plans: list[Plan] = []
    problems: list[str] = []
    names: dict[str, int] = {}
    for index, item in enumerate(items):
        place = f"{KEY}[{index}]"
        if not isinstance(item, Mapping):
            problems.append(f"{source}: {place}: is not a table")
            continue
        try:
            plans.append(_plan(_Entry(item, place=place, source=source), names, index))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return tuple(plans)


def check_secrets(plans: Sequence[Plan], *, source: str) -> None:
    """Reads each secret once, so that a wrong one shows before the first report is due.

    Raises: ConfigError: every file that is absent, readable by others or of no use, with its delivery.
    """
    problems: list[str] = []
    for plan in plans:
        target = plan.target
        try:
            if isinstance(target, MailTarget) and target.password_file is not None:
                read_password(target.password_file)
            elif isinstance(target, WebhookTarget):
                read_signing_secret(target.secret_file)
        except ConfigError as error:
            key = "password_file" if isinstance(target, MailTarget) else "secret_file"
            problems += [f"{source}: delivery {plan.name}: {target.kind}.{key}: {each}" for each in error.problems]
    if problems:
        raise ConfigError(problems)


def absent_directories(plans: Sequence[Plan]) -> list[str]:
    """A line on each delivery whose directory is not there now; a disk may be mounted later."""
    return [
        f"{plan.name}: {plan.target.path} is not a directory: until it is, the delivery fails"
        for plan in plans
        if isinstance(plan.target, DirectoryTarget) and not _is_directory(plan.target.path)
    ]


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False  # such as within a folder that others may not enter


class _Entry:
    """One table of the list: settings that must be there, and settings that may."""

    def __init__(self, item: Mapping[str, Any], *, place: str, source: str) -> None:
        self.item = item
        self._place = place
        self._reader = SettingsReader({place: item}, source=source)
        self.finish = self._reader.finish

    def take(self, key: str, parse: Callable[[object], T], default: T) -> T:
        return self._reader.take(f"{self._place}.{key}", parse, default)

    def need(self, key: str, parse: Callable[[object], T], stand_in: T) -> T:
        """As `take`, and an absent one is a mistake. `stand_in` lets the search for mistakes go on."""
        value: Any = self.item
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None:
            self.reject(key, "is missing")
        return self.take(key, parse, stand_in)

    def reject(self, key: str, problem: str) -> None:
        self._reader.reject(f"{self._place}.{key}", problem)


def _plan(entry: _Entry, names: dict[str, int], index: int) -> Plan:
    """Raises: ConfigError."""
    name = entry.need("name", _parse_name, "")
    if name and names.setdefault(name, index) != index:
        entry.reject("name", f"{name!r} is the name of {KEY}[{names[name]}] too")
    cron = entry.need("cron", parse_cron, Cron("* * * * *", "*"))
    target = _target(entry)
    entry.finish()
    assert target is not None
    return Plan(name=name, cron=cron, target=target)


def _target(entry: _Entry) -> Target | None:
    """None after a mistake that leaves open what was meant."""
    kinds: dict[str, Callable[[_Entry], Target]] = {"mail": _mail, "webhook": _webhook, "directory": _directory}
    given = [kind for kind in kinds if kind in entry.item]
    if len(given) != 1:
        entry.reject(given[0] if given else "mail", f"exactly one of {', '.join(kinds)} says where the report goes")
    for kind in given:
        if not isinstance(entry.item[kind], Mapping):
            entry.reject(kind, "is not a table")
            # Known, so that it is not called unknown as well.
            entry.take(kind, str, "")
    targets = [kinds[kind](entry) for kind in given if isinstance(entry.item[kind], Mapping)]
    return targets[0] if targets else None


def _mail(entry: _Entry) -> MailTarget:
    host = entry.need("mail.host", _parse_host, "")
    security = entry.take("mail.security", _parse_security, Security.STARTTLS)
    user = entry.take("mail.user", _parse_user, None)
    password_file = entry.take("mail.password_file", _parse_optional_path, None)
    # The file may be named wrongly: that is one mistake, not two.
    if (user is None) != ("password_file" not in entry.item["mail"]):
        entry.reject("mail.user", "goes together with password_file")
    if security is Security.NONE and host and not is_loopback(host):
        entry.reject("mail.security", f"'none' is for a server on this machine, not for {host}")
    return MailTarget(
        host=host,
        port=entry.take("mail.port", _parse_port, security.usual_port),
        security=security,
        user=user,
        password_file=password_file,
        sender=entry.need("mail.from", _parse_mail, ""),
        recipients=entry.need("mail.to", _parse_recipients, ()),
        attach=entry.take("mail.attach", _parse_forms, (Form.HTML,)),
    )


def _webhook(entry: _Entry) -> WebhookTarget:
    return WebhookTarget(
        url=entry.need("webhook.url", parse_url, ""),
        secret_file=entry.need("webhook.secret_file", _parse_path, Path()),
        form=entry.take("webhook.format", _parse_form, Form.JSON),
    )


def _directory(entry: _Entry) -> DirectoryTarget:
    forms = entry.take("directory.forms", _parse_forms, tuple(Form))
    if not forms:
        entry.reject("directory.forms", "is empty: nothing would be written")
    return DirectoryTarget(
        path=entry.need("directory.path", _parse_path, Path()),
        forms=forms,
        keep=entry.take("directory.keep", parse_count, DEFAULT_KEEP),
    )


def _parse_name(value: object) -> str:
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not a name of lower-case letters, digits and '-' (64 at most)")
    return value


def _parse_host(value: object) -> str:
    if not isinstance(value, str) or _HOST.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not the name or address of a host")
    return value


def _parse_port(value: object) -> int:
    port = parse_count(value)
    if port > 65535:
        raise ValueError(f"{port} is not a port (1 to 65535)")
    return port


def _parse_security(value: object) -> Security:
    try:
        return Security(str(value))
    except ValueError:
        raise ValueError(f"{value!r} is not one of {', '.join(Security)}") from None


def _parse_user(value: object) -> str | None:
    user = parse_text(value)
    if not user.isascii() or not user.isprintable():
        raise ValueError(f"{user!r} is not of printable ASCII characters")
    return user


def _parse_mail(value: object) -> str:
    if not isinstance(value, str) or _MAIL.fullmatch(value) is None or len(value) > 254:
        raise ValueError(f"{value!r} is not a mail address (such as ops@example.org)")
    return value


def _parse_recipients(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_RECIPIENTS:
        raise ValueError(f"is not a list of 1 to {_MAX_RECIPIENTS} mail addresses")
    return tuple(dict.fromkeys(_parse_mail(address) for address in value))


def _parse_form(value: object) -> Form:
    try:
        return Form(str(value))
    except ValueError:
        raise ValueError(f"{value!r} is not one of {', '.join(Form)}") from None


def _parse_forms(value: object) -> tuple[Form, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list of {', '.join(Form)}")
    return tuple(dict.fromkeys(_parse_form(form) for form in value))


def _parse_path(value: object) -> Path:
    text = parse_text(value)
    if "\0" in text:
        raise ValueError(f"{text!r} is not a path")
    return Path(text)


def _parse_optional_path(value: object) -> Path | None:
    return _parse_path(value)
