"""Fleet databases with the controller's tables, made once and copied: migrations take longer than most tests."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import sqlalchemy as sa

from aggregator.fleet_db import FILE_NAME, migrate, open_fleet
from orchestrate.schema import open_orchestrate_db


def a_fleet(url: str | None, data_dir: Path) -> None:
    """A fleet database that only an aggregator has seen."""
    engine = open_fleet(url, data_dir)
    migrate(engine)
    engine.dispose()


@cache
def _template() -> bytes:
    folder = Path(mkdtemp())
    try:
        a_fleet(None, folder)
        open_orchestrate_db(None, folder).dispose()
        return (folder / FILE_NAME).read_bytes()
    finally:
        shutil.rmtree(folder)


def open_copy(folder: Path) -> sa.Engine:
    """An engine of a new database of SQLite in `folder`."""
    (folder / FILE_NAME).write_bytes(_template())
    return open_orchestrate_db(None, folder)
