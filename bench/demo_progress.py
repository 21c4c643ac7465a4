"""How far the fleet is, for whoever waits: a bar on a terminal, the fleet's own lines elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TextIO

_PERCENT = re.compile(r"(\d{1,3}) %, ")

Show = Callable[[str], None]


class LogFollower:
    """Gives what was added to a log since the last look, in whole lines."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._seen_bytes = 0

    def lines(self) -> list[str]:
        """New lines, oldest first; none while the log is not there."""
        try:
            with open(self._log, "rb") as log:
                log.seek(self._seen_bytes)
                added = log.read()
        except FileNotFoundError:
            return []
        whole = added[: added.rfind(b"\n") + 1]
        self._seen_bytes += len(whole)
        return whole.decode("utf-8", "replace").splitlines()


def percent_of(line: str) -> int | None:
    """The share that a line of `fallow-agent simulate` names; None where it knows of no end."""
    match = _PERCENT.match(line)
    return int(match[1]) if match else None


def showing_progress(stream: TextIO) -> AbstractContextManager[Show]:
    """What to call with each line of the fleet while it runs."""
    return _bar(stream) if stream.isatty() else _plain(stream)


@contextmanager
def _plain(stream: TextIO) -> Iterator[Show]:
    def show(line: str) -> None:
        print(line, file=stream, flush=True)

    yield show


@contextmanager
def _bar(stream: TextIO) -> Iterator[Show]:
    # Late: the driver's --help comes before anything is installed.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (BarColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=stream)) as progress:
        task = progress.add_task("the fleet starts", total=None)

        def show(line: str) -> None:
            percent = percent_of(line)
            progress.update(task, description=line, completed=percent or 0, total=None if percent is None else 100)

        yield show
