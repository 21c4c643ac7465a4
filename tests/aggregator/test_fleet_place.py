"""A data directory says whether the fleet database in it is the fleet's, and no secret of one that is elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from agent.settings import ConfigError
from aggregator.fleet_db import FILE_NAME, open_fleet, open_fleet_read_only, open_part
from aggregator.fleet_place import NOTE_FILE_NAME, elsewhere, has_run, note_place, refuse_elsewhere
from reports.schema import REPORT

POSTGRES = "postgresql+psycopg://fallow:s3cret@db.example:5433/fallow?sslmode=require&passfile=/srv/pgpass"


def noted(data_dir: Path, url: str) -> str | None:
    note_place(data_dir / FILE_NAME, sa.make_url(url))
    return elsewhere(data_dir)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (POSTGRES, "postgresql+psycopg://db.example:5433/fallow"),
        ("postgresql+psycopg:///fallow?host=/run/postgresql", "postgresql+psycopg:///fallow?host=/run/postgresql"),
        ("postgresql+psycopg://u:s3cret@/fallow?host=a:1&host=b:2", "postgresql+psycopg:///fallow?host=a:1&host=b:2"),
        ("sqlite:////srv/fleet/fleet.db", "sqlite:////srv/fleet/fleet.db"),
    ],
)
def test_the_note_tells_where_and_not_who(tmp_path: Path, url: str, told: str) -> None:
    """Server and database, neither login nor options: others may read the directory."""
    assert noted(tmp_path, url) == told
    text = (tmp_path / NOTE_FILE_NAME).read_text(encoding="utf-8")
    assert not any(secret in text for secret in ("s3cret", "pgpass", "u:"))


def test_the_note_follows_the_aggregator(tmp_path: Path) -> None:
    """Another server replaces it; one that comes back to the directory takes it away, however the path is spelt."""
    own = tmp_path / "a" / FILE_NAME
    own.parent.mkdir()
    noted(own.parent, POSTGRES)
    assert noted(own.parent, "postgresql+psycopg://other/fallow") == "postgresql+psycopg://other/fallow"
    assert noted(own.parent, f"sqlite:///{tmp_path}/b/../a/{FILE_NAME}") is None
    assert list(own.parent.iterdir()) == []


def test_a_note_that_is_damaged_still_refuses(tmp_path: Path) -> None:
    """An empty one, or one of other bytes, says elsewhere all the same; the next start writes it anew."""
    note = tmp_path / NOTE_FILE_NAME
    for content in (b"", b"\xff\xfe"):
        note.write_bytes(content)
        with pytest.raises(ConfigError, match="is elsewhere"):
            refuse_elsewhere(tmp_path)
    assert noted(tmp_path, POSTGRES) == "postgresql+psycopg://db.example:5433/fallow"


def test_a_disk_that_takes_nothing_stops_no_start(tmp_path: Path) -> None:
    """The note only helps: its directory may be full, read-only or gone."""
    note_place(tmp_path / "gone" / FILE_NAME, sa.make_url(POSTGRES))
    (tmp_path / f"{NOTE_FILE_NAME}.new").mkdir()
    note_place(tmp_path / FILE_NAME, sa.make_url(POSTGRES))
    assert elsewhere(tmp_path) is None


def test_nobody_opens_the_file_of_a_fleet_that_is_elsewhere(tmp_path: Path) -> None:
    """Neither the aggregator's programs nor the report and the controller: there may be a stray one."""
    (tmp_path / FILE_NAME).touch()
    noted(tmp_path, POSTGRES)
    for attempt in (open_fleet, open_fleet_read_only, lambda url, data_dir: open_part(REPORT, url, data_dir)):
        with pytest.raises(ConfigError, match=r"db\.example:5433/fallow.*--config"):
            attempt(None, tmp_path)
    open_fleet(f"sqlite:///{tmp_path}/{FILE_NAME}", tmp_path).dispose()


@pytest.mark.parametrize("sign", ["node.id", "journal"])
def test_a_directory_of_an_aggregator_is_known(tmp_path: Path, sign: str) -> None:
    """By what its first start leaves; keys that were copied there before are no sign."""
    (tmp_path / "token.key").touch()
    assert not has_run(tmp_path)
    (tmp_path / sign).mkdir()
    assert has_run(tmp_path)
    with pytest.raises(ConfigError, match=f"{FILE_NAME}: there is no fleet database, though an aggregator ran here"):
        open_fleet_read_only(None, tmp_path)


def test_a_password_after_the_question_mark_is_refused(tmp_path: Path) -> None:
    """There no check of the file's mode would see it, and messages would repeat it."""
    with pytest.raises(ConfigError) as refused:
        open_fleet("postgresql+psycopg://fallow@db/fallow?password=s3cret", tmp_path)
    assert "s3cret" not in str(refused.value)
