"""What the running agent tells about itself: a file it replaces once an interval and whenever
something goes wrong or right; and how to read that file."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

# An agent that has not written for so many intervals does not run; a push has missed as many turns.
_SILENT_INTERVALS = 3
_UNACKED_INTERVALS = 5
_GRACE_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """State of one agent. Times are Unix seconds, None: never. Totals outlive a restart of the agent.

    Attributes:
        sample_ts: of the newest sample made.
        last_ack_s: when the aggregator last took samples.
        token_made_s: when the present token came; None: not enrolled.
        spool_depth, spool_bytes: samples waiting, and the disk they take.
        samples_dropped_total: given up because the spool was full.
        samples_damaged_total: lost on the disk.
        samples_rejected_total: which the aggregator listed as rejected.
        samples_quarantined_total: which the aggregator would not take as a batch of one.
        intervals_skipped_total: without a sample because the clock jumped or the VM slept.
        faults_total: mistakes of the agent itself, each logged.
        trouble: why samples wait; None: nothing is wrong.
        boot, seq: number of the last push of that boot.
    """

    updated_s: float
    started_s: float
    pid: int
    vm: str
    aggregator: str
    interval_s: int
    boot: str
    seq: int
    sample_ts: int | None = None
    last_ack_s: float | None = None
    token_made_s: float | None = None
    spool_depth: int = 0
    spool_bytes: int = 0
    samples_acked_total: int = 0
    samples_dropped_total: int = 0
    samples_damaged_total: int = 0
    samples_rejected_total: int = 0
    samples_quarantined_total: int = 0
    intervals_skipped_total: int = 0
    faults_total: int = 0
    enrolment_needed: bool = False
    trouble: str | None = None


def verdict(status: Status, *, now_s: float) -> str | None:
    """What is wrong with the agent, for a person; None: it runs and its samples arrive."""
    silent_s = now_s - status.updated_s
    if silent_s > _SILENT_INTERVALS * status.interval_s + _GRACE_S:
        return f"not running: last heard of {silent_s:.0f} s ago"
    if status.trouble is not None:
        return status.trouble
    if status.last_ack_s is None:
        return "no sample has been acknowledged yet"
    if now_s - status.last_ack_s > _UNACKED_INTERVALS * status.interval_s:
        return f"no sample has been acknowledged for {now_s - status.last_ack_s:.0f} s"
    return None


def write_status(path: Path, status: Status) -> None:
    """Replaces the file at once. Raises OSError."""
    table = {field.name: getattr(status, field.name) for field in fields(Status)}
    replace_file(path, json.dumps(table) + "\n", mode=0o644, sync=False)


def read_status(path: Path) -> Status | None:
    """What `write_status` wrote; None where the file is absent or damaged. Raises OSError: it may not be read."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        names = {field.name for field in fields(Status)}
        return _checked(Status(**{name: value for name, value in table.items() if name in names}))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _checked(status: Status) -> Status:
    for field in fields(Status):
        value: Any = getattr(status, field.name)
        kinds = str(field.type).split(" | ")
        kind = "None" if value is None else type(value).__name__
        if kind not in kinds and not (kind == "int" and "float" in kinds):
            raise TypeError(f"{field.name}: {value!r}")
    return status


def replace_file(path: Path, text: str, *, mode: int, sync: bool) -> None:
    """Writes a file that is either the old or the new one to whoever looks.

    Args:
        mode: permissions from its first moment on.
        sync: on disk when this returns, and owned by the folder's owner.

    Raises: OSError: and the old file is as it was.
    """
    fresh = f"{path}.new"
    with suppress(FileNotFoundError):
        # What a killed process left may have other permissions.
        os.unlink(fresh)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            content = text.encode()
            if os.write(fd, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                _give_to_owner_of(path.parent, fd)
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(fresh, path)
    except OSError:
        os.unlink(fresh)
        raise
    if sync:
        folder_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)


def _give_to_owner_of(folder: Path, fd: int) -> None:
    """Root enrols for the agent, which runs as the owner of the folder and must be able to read its token."""
    if os.geteuid() == 0:
        owner = os.stat(folder)
        os.fchown(fd, owner.st_uid, owner.st_gid)
