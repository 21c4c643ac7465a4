"""A fleet database that goes away, comes back and is replaced while the server runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, OperationalError

from agent.settings import ConfigError
from aggregator.fleet import vm as vms
from aggregator.problems import Refused
from reports.web.fleet_source import FleetGone, FleetSource, refusing
from tests.reports.fleets import NOW_S, Spec, write_fleet
from tests.reports.web.house import pages
from tests.reports.web.test_pages import PAGES, listed, text_of

# They need no fleet.
STANDING = {"/policies"}


def _dead(*, invalidated: bool) -> OperationalError:
    error = OperationalError("SELECT 1", {}, Exception("server closed the connection\nat line 5"))
    error.connection_invalidated = invalidated
    return error


def test_database_that_goes_away_gives_503_and_comes_back(tmp_path: Path) -> None:
    """Every page says so while it is gone, in words for people and for programs, and works again afterwards."""
    with pages(tmp_path, [Spec(vm_id="only")]) as house:
        assert house.browser.get("/vms").status == 200
        file, away = tmp_path / "fleet.db", tmp_path / "away.db"
        file.rename(away)
        for path in {*PAGES, "/vms/only", "/hosts/h1"} - STANDING:
            got = house.browser.get(path)
            assert (got.status, got.headers["content-type"]) == (503, "text/html; charset=utf-8"), path
            assert "the fleet database does not answer" in text_of(got.text)
            assert got.headers["retry-after"]
        for path in STANDING:
            assert house.browser.get(path).status == 200
        for path in ("/v1/report", "/v1/vms/only", "/v1/vms/only/series", "/v1/exemptions"):
            got = house.browser.get(path)
            assert (got.status, got.headers["content-type"]) == (503, "application/problem+json"), path
        away.rename(file)
        assert house.browser.get("/vms").status == 200


def test_restored_database_is_read_at_once(tmp_path: Path) -> None:
    """A file that was put in the place of another is the fleet from then on."""
    other = tmp_path / "other"
    other.mkdir()
    write_fleet(other, [Spec(vm_id="restored")])
    with sa.create_engine(f"sqlite:///{other / 'fleet.db'}").connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    with pages(tmp_path, [Spec(vm_id="former")]) as house:
        assert listed(house.browser.get("/vms").text) == ["former"]
        for name in ("fleet.db-wal", "fleet.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        (other / "fleet.db").replace(tmp_path / "fleet.db")
        assert listed(house.browser.get("/vms").text) == ["restored"]


def test_database_that_breaks_midway_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is half read when the database goes becomes one of 503, whole."""
    with pages(tmp_path, [Spec(vm_id="only")]) as house:

        def breaks(*_: object, **__: object) -> None:
            raise _dead(invalidated=False)

        monkeypatch.setattr("reports.web.vm_pages.read_events", breaks)
        got = house.browser.get("/vms/only")
        assert got.status == 503
        assert "server closed the connection." in text_of(got.text)
        assert "at line 5" not in got.text


def test_damaged_database_is_no_outage(tmp_path: Path) -> None:
    """What cannot be read is a fault that will not pass by waiting."""

    def damaged() -> None:
        raise DatabaseError("SELECT 1", {}, Exception("database disk image is malformed"))

    with pytest.raises(Refused) as refused:
        refusing(damaged, again=True)
    assert refused.value.problem.status == 500
    assert "malformed" in refused.value.problem.detail


def test_dead_connection_is_tried_once_more_for_reading() -> None:
    """After a restart of the server the pool's connections are dead: a reader does not notice, a writer is told."""
    tries: list[int] = []

    def first_dead() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise _dead(invalidated=True)
        return "answer"

    assert refusing(first_dead, again=True) == "answer"
    tries.clear()
    with pytest.raises(Refused) as refused:
        refusing(first_dead, again=False)
    assert (refused.value.problem.status, len(tries)) == (503, 1)

    def always_dead() -> None:
        tries.append(1)
        raise _dead(invalidated=True)

    tries.clear()
    with pytest.raises(Refused):
        refusing(always_dead, again=True)
    assert len(tries) == 2


@pytest.mark.parametrize("error", [FleetGone("x: is not there any more"), ConfigError("x: has report schema 0002")])
def test_other_versions_and_missing_files_are_told(error: Exception) -> None:
    """An upgrade under way is an outage with a reason."""

    def fails() -> None:
        raise error

    with pytest.raises(Refused) as refused:
        refusing(fails, again=True)
    assert refused.value.problem.status == 503
    assert str(error) in refused.value.problem.detail


def test_refusals_pass_as_they_are() -> None:
    """What was refused for other reasons is not the database's fault."""

    def fails() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        refusing(fails, again=True)


def test_server_has_no_file_to_look_at() -> None:
    """A database server is asked, not looked for."""
    engine = sa.create_engine("sqlite://")
    source = FleetSource(engine, engine, None)
    assert source.reader is engine
    assert source.writer is engine


def test_pool_without_a_free_connection_is_a_database_away() -> None:
    """All connections wait for a database that is blocked: 503, no bug of the server."""

    def work() -> None:
        raise sa.exc.TimeoutError("QueuePool limit of size 5 overflow 10 reached")

    with pytest.raises(Refused) as refused:
        refusing(work, again=True)
    assert (refused.value.problem.status, refused.value.problem.reason) == (503, "database-away")


def test_version_changes_with_every_commit_and_with_nothing_else(tmp_path: Path) -> None:
    """Whoever commits, this process or another; looking and asking again change nothing."""
    with pages(tmp_path, [Spec(vm_id="only")]) as house:
        first = house.fleet.version()
        house.browser.get("/vms")
        seen = [first, house.fleet.version()]
        with house.fleet.writer.begin() as connection:
            connection.execute(sa.update(vms).values(owner="ann"))
        seen.append(house.fleet.version())
        with sa.create_engine(f"sqlite:///{tmp_path / 'fleet.db'}").begin() as connection:
            connection.execute(sa.update(vms).values(owner="bob"))
        seen += [house.fleet.version(), house.fleet.version()]
        assert seen[0] == seen[1]
        assert len({*seen[1:4]}) == 3
        assert seen[3] == seen[4]
        assert first is not None


def test_version_of_a_file_that_was_replaced_is_another_one(tmp_path: Path) -> None:
    """However its own counter stands."""
    with pages(tmp_path, [Spec(vm_id="only")]) as house:
        first = house.fleet.version()
        (tmp_path / "copy.db").write_bytes((tmp_path / "fleet.db").read_bytes())
        (tmp_path / "copy.db").replace(tmp_path / "fleet.db")
        assert house.fleet.version() != first


def test_server_has_no_version() -> None:
    """It does not tell who committed; so nothing may be remembered by it."""
    engine = sa.create_engine("postgresql+psycopg://nobody@localhost:1/none")
    assert FleetSource(engine, engine, None).version() is None


def test_a_list_is_remembered_for_seconds_while_nobody_writes(tmp_path: Path) -> None:
    """The same question alone: another one, a write by anybody, and time that goes by all give a new answer."""
    with pages(tmp_path, [Spec(vm_id="only", owner="ann")]) as house:

        def made_s(query: str = "") -> float:
            made: float = json.loads(house.browser.get(f"/v1/report?verdict=all{query}").text)["generated_at_s"]
            return made - NOW_S

        first = made_s()
        house.now_s += 9.0
        kept, other = made_s(), made_s("&sort=cpu")
        house.now_s += 1.0
        assert (first, kept, other, made_s()) == (0.0, 0.0, 9.0, 10.0)
        house.now_s += 1.0
        with house.fleet.writer.begin() as connection:
            connection.execute(sa.update(vms).values(owner="bob"))
        assert made_s() == 11.0
        assert made_s("&top=101") == 11.0
        house.now_s += 1.0
        assert made_s("&top=101") == 12.0  # a long one is not kept
        assert "bob" in house.browser.get("/v1/report?verdict=all").text
