"""Where the fleet database of an aggregator is, as far as its data directory tells.

Who names no database means `fleet.db` in the data directory. Where the aggregator has another one, that file would be a
fleet that nobody uses: a join token of it opens no door, a list of it is empty. So the aggregator leaves a note.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import sqlalchemy as sa

from agent.settings import ConfigError
from aggregator.node_name import NODE_FILE_NAME

NOTE_FILE_NAME = "fleet.elsewhere"
HOW_TO_NAME_IT = "name it by --config, or by its URL (--fleet-url; in the report and the controller --fleet)"

# What the first start of an aggregator leaves in its data directory.
_SIGNS = (NODE_FILE_NAME, "journal")


def note_place(own_file: Path, url: sa.URL) -> None:
    """Leaves a note in the data directory of an aggregator whose fleet database is elsewhere, or takes it away.

    The note has no secret in it. A disk that takes nothing only costs that.

    Args:
        own_file: where the database is in the data directory unless another is named.
        url: of the database in use.
    """
    note = own_file.with_name(NOTE_FILE_NAME)
    fresh = note.with_name(f"{note.name}.new")
    try:
        if url.get_backend_name() == "sqlite" and Path(url.database or "").resolve() == own_file.resolve():
            note.unlink(missing_ok=True)
        elif (text := f"{_public(url)}\n") != _read(note):
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(note)
    except OSError:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def elsewhere(data_dir: Path) -> str | None:
    """The database that the note in a data directory names, without who logs in to it; None: there is no note.

    Raises: ConfigError: it cannot be read.
    """
    note = data_dir / NOTE_FILE_NAME
    try:
        text = _read(note)
    except OSError as error:
        raise ConfigError(f"{note}: {error.strerror or error}") from error
    return None if text is None else text.strip() or "a place that its note does not tell"


def refuse_elsewhere(data_dir: Path) -> None:
    """Raises ConfigError: as `elsewhere`; a note says that a `fleet.db` in this directory is not the fleet's."""
    place = elsewhere(data_dir)
    if place is not None:
        raise ConfigError(f"{data_dir}: this aggregator's fleet database is elsewhere ({place}): {HOW_TO_NAME_IT}")


def refuse_absent(path: Path) -> None:
    """Raises ConfigError: there is no file of a fleet database at `path`."""
    if path.is_file():
        return
    if has_run(path.parent):
        what = f"this aggregator's fleet database is elsewhere: {HOW_TO_NAME_IT}"
        raise ConfigError(f"{path}: there is no fleet database, though an aggregator ran here; {what}")
    raise ConfigError(f"{path}: there is no fleet database (start fallow-aggregator run first)")


def has_run(data_dir: Path) -> bool:
    """Whether an aggregator was ever started on a data directory."""
    return any((data_dir / name).exists() for name in _SIGNS)


def _public(url: sa.URL) -> str:
    query = {name: value for name, value in url.query.items() if name in {"host", "port", "service"}}
    place = sa.URL.create(url.drivername, host=url.host, port=url.port, database=url.database, query=query)
    return unquote(place.render_as_string())


def _read(note: Path) -> str | None:
    try:
        return note.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
