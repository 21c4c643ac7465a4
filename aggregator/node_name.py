"""What an aggregator is called among those of its fleet, and where the others reach it. Both last through restarts."""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agent.server import parse_server
from agent.settings import ConfigError, parse_text
from aggregator.addresses import check_askable
from aggregator.tokens import create_secret

NODE_FILE_NAME = "node.id"
STARTS_FILE_NAME = "node.starts"
NODE_NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"

_NODE_NAME = re.compile(NODE_NAME_PATTERN)
_MAX_HOST_CHARS = 40
_KEPT_STARTS = 16


def is_node_name(text: str) -> bool:
    """Whether the whole text may name an aggregator."""
    return _NODE_NAME.fullmatch(text) is not None


def parse_node_name(value: object) -> str:
    """The setting `node.name`. Raises: ValueError."""
    name = parse_text(value)
    if not is_node_name(name):
        raise ValueError(f"{name[:80]!r} is not a name: 1 to 64 of a-z, 0-9, '.', '_' and '-', not '.', '_', '-' first")
    return name


def parse_node_url(value: object) -> str:
    """The setting `node.url`, without a slash at its end.

    Raises: ValueError: not scheme, host and port alone, plain text to another machine, or an address of no machine.
    """
    text = parse_text(value)
    server = parse_server(text)
    if not server.tls and not server.is_loopback:
        raise ValueError(f"{text!r} is plain text to another machine, which shows samples on the way: use https")
    check_askable(server.host)
    return text.rstrip("/")


def load_or_create_name(
    path: Path,
    wanted: str | None,
    *,
    host_name: Callable[[], str] = socket.gethostname,
    random_hex: Callable[[int], str] = secrets.token_hex,
) -> str:
    """The name in the file at `path`, which is made where there is none: as wanted, else of host name and chance.

    Args: wanted: the setting `node.name`; None: any name will do.

    Raises: ConfigError: the file cannot be read or made, holds no name, or another than is wanted.
    """
    if not path.exists():
        create_secret(path, f"{wanted or _made_up(host_name(), random_hex(2))}\n")
    try:
        name = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not is_node_name(name):
        raise ConfigError(f"{path}: {name[:80]!r} is not the name of an aggregator")
    if wanted not in (None, name):
        raise ConfigError(
            f"node.name: is {wanted!r}, but this data directory is that of {name!r} ({path}): the fleet database "
            f"knows its VMs by that name"
        )
    return name


def note_start(path: Path, started_s: float) -> frozenset[float]:
    """Adds a start to the file of the newest ones of a data directory; returns all of them, this one included.

    By them an aggregator tells what an earlier run of its own wrote from what another of the same name did. So those
    of a directory that this one is a copy of do not count: the file begins with the inode. A disk that takes
    nothing only costs that.
    """
    try:
        inode = str(path.parent.stat().st_ino)
        of, *lines = path.read_text(encoding="ascii").split()
        known = [float(line) for line in lines] if of == inode else []
    except (OSError, ValueError):
        known = []
    newest = [*known, started_s][-_KEPT_STARTS:]
    fresh = path.with_name(f"{path.name}.new")
    try:
        lines = [str(path.parent.stat().st_ino), *map(repr, newest)]
        fresh.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
        fresh.replace(path)
    except OSError:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
    return frozenset(newest)


def _made_up(host_name: str, digits: str) -> str:
    host = re.sub(r"[^a-z0-9]+", "-", host_name.partition(".")[0].lower()).strip("-")[:_MAX_HOST_CHARS].rstrip("-")
    return f"{host or 'node'}-{digits}"
