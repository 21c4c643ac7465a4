"""Programs of two schemas side by side: who may go on with the tables of a newer one, and who must not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agent.settings import ConfigError
from aggregator.fleet import node, vm
from aggregator.fleet_db import (
    FLEET,
    Schema,
    check_revision,
    has_tables,
    migrate,
    migrate_if_new,
    open_fleet,
    open_fleet_read_only,
    reading,
)
from aggregator.schema_steps import Steps, read_floor
from tests.postgres import postgres_database

NOW_S = 1_790_000_000.0
THIS, NEXT, THEN = (f"{int(FLEET.head) + steps:04}" for steps in range(3))


class Versions:
    """Schemas of later versions of the program: each is one more step than the one before."""

    def __init__(self, folder: Path) -> None:
        self._scripts = folder / "later"
        shutil.copytree(FLEET.scripts, self._scripts, ignore=shutil.ignore_patterns("__pycache__"))
        self._newest = FLEET

    def next(self, floor: str | None) -> Schema:
        """One more column; `floor` is what the step says of older programs, None that it says nothing."""
        before = self._newest.head
        head = f"{int(before) + 1:04}"
        (self._scripts / "versions" / f"{head}_more.py").write_text(
            "import sqlalchemy as sa\nfrom alembic import op\n"
            f"revision = {head!r}\ndown_revision = {before!r}\n"
            + ("" if floor is None else f"floor = {floor!r}\n")
            + f"def upgrade():\n    op.add_column('vm', sa.Column('more_{head}', sa.Text()))\n",
            encoding="utf-8",
        )
        self._newest = replace(FLEET, scripts=self._scripts, head=head)
        return self._newest


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def url(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[str | None]:
    if request.param == "sqlite":
        yield None
        return
    with postgres_database(pytestconfig) as made:
        yield made


@pytest.fixture
def engine(url: str | None, tmp_path: Path) -> Iterator[sa.Engine]:
    """A fleet database as this program leaves it, with one VM."""
    made = open_fleet(url, tmp_path)
    migrate(made)
    with made.begin() as connection:
        connection.execute(sa.insert(vm).values(vm_id="a"))
    yield made
    made.dispose()


def note_node(engine: sa.Engine, **values: Any) -> None:
    """A node's row as an aggregator writes it, but for what is given."""
    usual = {"node": "n1", "version": "1.0", "state": "up", "started_s": 1.0, "seen_s": NOW_S, "vms": 0, "owed": 0}
    with engine.begin() as connection:
        connection.execute(sa.insert(node).values({**usual, "revision": FLEET.head, **values}))


def revision(engine: sa.Engine) -> str | None:
    with reading(engine) as connection:
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def test_tables_that_only_grew_are_used_as_they_are(
    engine: sa.Engine, versions: Versions, url: str | None, tmp_path: Path
) -> None:
    """An older program neither refuses nor migrates a newer database whose floor it reaches; it reads and writes."""
    later = versions.next(FLEET.head)
    migrate(engine, later)
    for _ in range(2):
        migrate(engine)
        migrate_if_new(engine)
        check_revision(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(vm).values(vm_id="b"))
    reader = open_fleet_read_only(url, tmp_path)
    with reading(reader) as connection:
        assert has_tables(connection, FLEET)
        assert connection.scalars(sa.select(vm.c.vm_id).order_by(vm.c.vm_id)).all() == ["a", "b"]
    reader.dispose()
    assert revision(engine) == later.head


@pytest.mark.parametrize("floor", [NEXT, None], ids=["raised", "not said"])
def test_tables_that_changed_are_refused(
    engine: sa.Engine, versions: Versions, floor: str | None, url: str | None, tmp_path: Path
) -> None:
    """A step that names a newer floor, or none, keeps older programs out: writer, reader and enrolment of VMs."""
    migrate(engine, versions.next(floor))
    message = f"has schema {NEXT}, newer than the {THIS} of this program: install the newer one"
    for use in (migrate, check_revision, migrate_if_new):
        with pytest.raises(ConfigError, match=message):
            use(engine)
    with pytest.raises(ConfigError, match=message):
        open_fleet_read_only(url, tmp_path)


def test_no_later_step_lets_in_whom_an_earlier_one_kept_out(engine: sa.Engine, versions: Versions) -> None:
    """The floor never sinks: two steps at once, or one after the other, and whatever the last one says."""
    for floor in (NEXT, THIS):
        later = versions.next(floor)
    assert Steps(later.scripts, later.head).floor == NEXT
    migrate(engine, later)
    with reading(engine) as connection:
        assert read_floor(connection, FLEET.part) == NEXT
    with pytest.raises(ConfigError, match=f"has schema {THEN}, newer"):
        migrate(engine)
    migrate(engine, replace(later, head=NEXT))
    assert revision(engine) == THEN


def test_a_database_without_floors_is_refused_as_ever(engine: sa.Engine, versions: Versions) -> None:
    """Where nobody has said who may go on, a newer schema is refused."""
    migrate(engine, versions.next(THIS))
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM schema_floor")
    with pytest.raises(ConfigError, match=f"newer than the {THIS}"):
        check_revision(engine)


def test_nodes_that_could_not_go_on_hold_the_upgrade_up(engine: sa.Engine, versions: Versions) -> None:
    """While a node runs that the steps would leave behind, nothing changes, and the message names it."""
    note_node(engine, node="n1")
    note_node(engine, node="n2", revision=NEXT)
    note_node(engine, node="n3", state="stopped")
    note_node(engine, node="n4", seen_s=NOW_S - 3600.0)
    later = versions.next(NEXT)
    message = rf"nodes that run with tables they cannot use: n1 \({THIS}\); only those for schema {NEXT} or newer"
    with pytest.raises(ConfigError, match=message):
        migrate(engine, later, clock=lambda: NOW_S + 5.0)
    assert revision(engine) == THIS
    with reading(engine) as connection:
        assert read_floor(connection, FLEET.part) == Steps(FLEET.scripts, FLEET.head).floor
    # It went without a word, and is taken for gone after a while.
    migrate(engine, later, clock=lambda: NOW_S + 61.0)
    assert revision(engine) == NEXT


def test_nodes_that_can_go_on_hold_nothing_up(engine: sa.Engine, versions: Versions) -> None:
    """An upgrade that only adds is done beside running nodes of the version before."""
    note_node(engine)
    migrate(engine, versions.next(THIS), clock=lambda: NOW_S)
    assert revision(engine) == NEXT
