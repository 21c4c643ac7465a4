"""How owners are told, and when the service looks: the tables `links`, `notify` and `watch` of `[orchestrate]`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from agent.settings import ConfigError, SettingsReader, parse_duration_s, parse_host_port
from aggregator.listen_settings import ListenSettings, take_listen_settings
from orchestrate.owners.notify import LinkSettings, NotifySettings
from orchestrate.watch_state import WatchSettings
from reports.deliver.config import KEY as DELIVERIES
from reports.deliver.config import parse_deliveries
from reports.deliver.dial import is_loopback
from reports.deliver.targets import MailTarget, WebhookTarget

_LINKS = "orchestrate.links"
_NOTIFY = "orchestrate.notify"
_WATCH = "orchestrate.watch"
# What a delivery of reports has to have and a notice has no use for.
_NEVER_DUE = "0 0 1 1 *"
# What only a delivery has: a notice goes to the owner, in a form of its own.
_OF_REPORTS = {"mail": ("to", "attach"), "webhook": ("format",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerConfig:
    """How owners are told, and when the service looks.

    Args: door: how the owners' pages listen.
    """

    links: LinkSettings = field(default_factory=LinkSettings)
    door: ListenSettings = field(default_factory=ListenSettings)
    notify: NotifySettings = field(default_factory=NotifySettings)
    watch: WatchSettings = field(default_factory=WatchSettings)


def parse_owners(
    reader: SettingsReader, notify: object, base: OwnerConfig, *, source: str, problems: list[str]
) -> OwnerConfig:
    """Laid over `base`.

    Args:
        reader: of the whole file, without `notify`. notify: the value of `[orchestrate.notify]`, or None.
        problems: gets each mistake in that.
    """
    links = replace(
        base.links,
        url=reader.take(f"{_LINKS}.url", _parse_url, base.links.url),
        listen=reader.take(f"{_LINKS}.listen", parse_host_port, base.links.listen),
        life_s=reader.take(f"{_LINKS}.life", parse_duration_s, base.links.life_s),
        keep_for_s=reader.take(f"{_LINKS}.keep_for", parse_duration_s, base.links.keep_for_s),
    )
    told = base.notify if notify is None else _notify(notify, source, problems)
    watch = replace(
        base.watch,
        every_s=reader.take(f"{_WATCH}.every", parse_duration_s, base.watch.every_s),
        reclaim_every_s=reader.take(f"{_WATCH}.reclaim_every", parse_duration_s, base.watch.reclaim_every_s),
    )
    door = take_listen_settings(reader, _LINKS, base.door)
    return OwnerConfig(links=links, door=door, notify=told, watch=watch)


def _notify(table: object, source: str, problems: list[str]) -> NotifySettings:
    if not isinstance(table, Mapping):
        problems.append(f"{source}: {_NOTIFY}: is not a table")
        return NotifySettings()
    problems += [f"{source}: {_NOTIFY}.{key}: unknown setting" for key in sorted(table.keys() - _OF_REPORTS.keys())]
    found: dict[str, Any] = {}
    for kind in _OF_REPORTS:
        if kind in table:
            found[kind] = _target(kind, table[kind], source, problems)
    mail, webhook = found.get("mail"), found.get("webhook")
    return NotifySettings(
        mail=mail if isinstance(mail, MailTarget) else None,
        webhook=webhook if isinstance(webhook, WebhookTarget) else None,
    )


def _target(kind: str, table: object, source: str, problems: list[str]) -> object:
    """Where notices go, read as what a delivery of reports has under the same name. None: mistakes in it."""
    if not isinstance(table, Mapping):
        problems.append(f"{source}: {_NOTIFY}.{kind}: is not a table")
        return None
    problems += [
        f"{source}: {_NOTIFY}.{kind}.{key}: unknown setting: a notice goes to the owner, as it is"
        for key in _OF_REPORTS[kind]
        if key in table
    ]
    told = {key: value for key, value in table.items() if key not in _OF_REPORTS[kind]}
    if kind == "mail" and "from" in told:
        # Each notice has an owner's address in its place.
        told["to"] = [told["from"]]
    delivery = {"name": "owners", "cron": _NEVER_DUE, kind: told}
    try:
        (plan,) = parse_deliveries({"report": {"deliveries": [delivery]}}, source=source)
    except ConfigError as error:
        said = [problem.replace(f"{DELIVERIES}[0].", f"{_NOTIFY}.") for problem in error.problems]
        # Without `from` there is no `to` either, and that is one mistake; a wrong one is told once.
        problems += [problem for problem in said if f"{_NOTIFY}.mail.to:" not in problem]
        return None
    return plan.target


def _parse_url(value: object) -> str:
    """Where owners reach the door of the links. Raises: ValueError."""
    text = value if isinstance(value, str) else ""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in {"http", "https"} or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{value!r} is not a URL such as https://fallow.example.org")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError(f"{text!r} is plain http: whoever reads along could use an owner's links")
    return text.rstrip("/")
