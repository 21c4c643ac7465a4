"""A report as files of a directory: whole or not at all, the oldest making room."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aggregator.tokens import sync_directory
from reports.deliver.document import Document, report_of_file
from reports.deliver.targets import DeliveryError, DirectoryTarget

_PARTIAL = ".partial"
# Nobody takes that long to write a report: whoever began it was killed.
_PARTIAL_AGE_S = 3600.0


def deliver(document: Document, target: DirectoryTarget, *, clock: Callable[[], float] = time.time) -> None:
    """Writes a file a form, then deletes reports beyond `target.keep`, and no file of another name.

    Args: clock: Unix seconds, as the file system counts them.

    Raises: DeliveryError: not written; or written, but older ones do not go, which is final.
    """
    bodies = {document.file_name(form): document.body(form) for form in target.forms}
    try:
        _write(target.path, bodies)
    except OSError as error:
        raise DeliveryError(f"{target.path}: {error.strerror or error}", retry=True) from error
    try:
        _prune(target.path, target.keep, spare=set(bodies), now_s=clock())
    except OSError as error:
        raise DeliveryError(
            f"{target.path}: the report is there, but older ones cannot be deleted: {error.strerror or error}",
            retry=False,
        ) from error


def _write(folder: Path, bodies: dict[str, bytes]) -> None:
    # All of them first: a disk that fills up midway then leaves no half of a report.
    written: dict[Path, Path] = {}
    try:
        for name, body in bodies.items():
            partial = folder / f".{name}.{secrets.token_hex(4)}{_PARTIAL}"
            written[partial] = folder / name
            with partial.open("xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
        for partial, path in written.items():
            partial.replace(path)
        sync_directory(folder)
    except BaseException:
        for partial in written:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        raise


def _prune(folder: Path, keep: int, *, spare: set[str], now_s: float) -> None:
    """Deletes reports beyond the newest `keep`, and what writers that were killed have left."""
    reports: dict[str, list[Path]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                continue
            report = report_of_file(entry.name)
            if report is not None:
                reports.setdefault(report, []).append(Path(entry.path))
            elif _is_partial(entry.name) and entry.stat().st_mtime < now_s - _PARTIAL_AGE_S:
                Path(entry.path).unlink(missing_ok=True)
    for report in sorted(reports, reverse=True)[keep:]:
        for path in reports[report]:
            # With a clock that was ahead once, the newest report may not bear the latest time.
            if path.name not in spare:
                path.unlink(missing_ok=True)


def _is_partial(name: str) -> bool:
    """`.fallow-2026-11-21T070000Z.html.1a2b3c4d.partial`."""
    stem, _, number = name.removesuffix(_PARTIAL).rpartition(".")
    return (
        name.endswith(_PARTIAL)
        and name.startswith(".")
        and len(number) == 8
        and report_of_file(stem.removeprefix(".")) is not None
    )
