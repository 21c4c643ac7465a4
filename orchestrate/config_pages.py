"""Where people find plans and approve them: the table `pages` of `[orchestrate]`."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.settings import SettingsReader, parse_host_port
from aggregator.listen_settings import ListenSettings, take_listen_settings
from reports.people.settings import parse_names

PAGES = "orchestrate.pages"


@dataclass(frozen=True, slots=True, kw_only=True)
class PagesConfig:
    """How the controller's pages are served.

    Args:
        listen: host and port; port 0 takes any free one.
        door: TLS, or plain text behind a proxy.
        names: of this server, under which browsers may come, beside those of this machine.
    """

    listen: tuple[str, int] = ("127.0.0.1", 8903)
    door: ListenSettings = field(default_factory=ListenSettings)
    names: tuple[str, ...] = ()


def parse_pages(reader: SettingsReader, base: PagesConfig) -> PagesConfig:
    """Laid over `base`. Args: reader: of the whole file."""
    return PagesConfig(
        listen=reader.take(f"{PAGES}.listen", parse_host_port, base.listen),
        door=take_listen_settings(reader, PAGES, base.door),
        names=reader.take(f"{PAGES}.names", parse_names, base.names),
    )
