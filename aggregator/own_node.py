"""What this aggregator says of itself to the others of its fleet."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from aggregator.addresses import is_loopback
from aggregator.fleet_db import SCHEMA_REVISION
from aggregator.listen_settings import ListenSettings
from aggregator.node_row import Node
from aggregator.node_state import NodeState

_EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104


class Drain(Enum):
    """Whether VMs should be sent elsewhere."""

    WANTED = "wanted"
    # Others take over what this one keeps, too.
    FOR_GOOD = "for good"
    UNDONE = "undone"


def admin_url(
    host: str, port: int, listening: ListenSettings, *, host_name: Callable[[], str] = socket.gethostname
) -> str | None:
    """Where others reach an admin door, as far as its own settings tell; None: they do not.

    Args:
        host: that it is told to listen at.
        port: that it listens at.
        host_name: of this machine: stands for every address it has.
    """
    if is_loopback(host):
        scheme = "http"
    elif listening.tls is not None:
        scheme = "https"
    else:
        return None  # a proxy ends TLS, and it alone knows where
    name = host_name() if host in _EVERYWHERE else host
    return f"{scheme}://{f'[{name}]' if ':' in name else name}:{port}"


class OwnNode:
    """This aggregator as a row of the table `node`.

    Args:
        name: of the fleet's nodes.
        data_dir: whose disk has so much room.
        started_s: Unix time.
        clock: Unix time in seconds.
        not_ready: why it takes no pushes; None: it does.
        vms: how many VMs it heard of within a day.
        owed: how many summaries it has still to write.
        key_marks: of its keys, as `key_marks.mark_keys` writes them.
    Attributes:
        listen: host:port of the agents' door, once it listens.
        admin_url: where the others and the report ask it.
        is_draining: VMs should be sent elsewhere.
        is_leaving: for good: others take over what it keeps.
    """

    def __init__(
        self,
        name: str,
        *,
        data_dir: Path,
        started_s: float,
        clock: Callable[[], float],
        not_ready: Callable[[], str | None],
        vms: Callable[[], int],
        owed: Callable[[], int],
        key_marks: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.name = name
        self.listen: str | None = None
        self.admin_url: str | None = None
        self.is_draining = False
        self.is_leaving = False
        self._data_dir = data_dir
        self._started_s = started_s
        self._clock = clock
        self._not_ready = not_ready
        self._vms = vms
        self._owed = owed
        self._key_marks = key_marks
        self._version = _version()

    def describe(self, *, stopped: bool = False) -> Node:
        """As it is now, but for the disk."""
        state = NodeState.STOPPED if stopped else NodeState.DRAINING if self.is_draining else NodeState.UP
        return Node(
            node=self.name,
            admin_url=self.admin_url,
            listen=self.listen,
            version=self._version,
            revision=SCHEMA_REVISION,
            state=state,
            not_ready=self._not_ready(),
            started_s=self._started_s,
            seen_s=self._clock(),
            vms=self._vms(),
            owed=self._owed(),
            free_bytes=None,
            key_marks=self._key_marks(),
            is_leaving=self.is_leaving,
        )

    def drain(self, wanted: Drain) -> None:
        """Has VMs sent elsewhere, or takes that back. For good stays so until it is taken back."""
        self.is_draining = wanted is not Drain.UNDONE
        self.is_leaving = self.is_draining and (self.is_leaving or wanted is Drain.FOR_GOOD)

    def with_disk(self, node: Node) -> Node:
        """What `describe` made, with the room on the disk. Blocks: a disk may hang."""
        try:
            return replace(node, free_bytes=shutil.disk_usage(self._data_dir).free)
        except OSError:
            return node


def _version() -> str:
    try:
        return version("fallow")
    except PackageNotFoundError:
        return "unknown"
