"""Aggregators of two versions on one PostgreSQL while a fleet is upgraded: the real programs, node by node."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from aggregator.fleet import vm_summary
from aggregator.fleet_db import FLEET, SCHEMA_REVISION, open_fleet_read_only, reading
from aggregator.schema_steps import Steps, read_floor
from bench.demo import open_doors
from bench.programs import Program
from tests.e2e.house import SCRIPTS, Aggregator, House, Load
from tests.postgres import postgres_database

pytestmark = pytest.mark.real

# The whole program, but for the schema that it was written for.
_START = """\
#!{python}
import sys
from pathlib import Path

from aggregator import fleet_db

for name, value in (("scripts", Path({scripts!r})), ("head", {head!r})):
    object.__setattr__(fleet_db.FLEET, name, value)
fleet_db.SCHEMA_REVISION = {head!r}

if __name__ == "__main__":
    from aggregator.__main__ import main

    sys.exit(main())
"""
_STEP = """\
import sqlalchemy as sa
from alembic import op

revision = {head!r}
down_revision = {before!r}
floor = {floor!r}


def upgrade():
    op.add_column("vm_summary", sa.Column("of_{head}", sa.Text(), server_default="new"))
"""


def after(revision: str, steps: int = 1) -> str:
    return f"{int(revision) + steps:04}"


@dataclass
class Fleet:
    """Nodes that share a database and a key, each of a version of its own."""

    house: House
    url: str
    datas: list[Path] = field(default_factory=list)

    def data(self) -> Path:
        """The data directory of one more node."""
        made = self.house.folder / f"node-{len(self.datas)}"
        made.mkdir()
        for name in ("token.key", "admin.token"):
            if self.datas:
                shutil.copy2(self.datas[0] / name, made / name)
        self.datas.append(made)
        return made

    def start(self, version: str, data: Path) -> Aggregator:
        program = self._start(version, data)
        node = Aggregator(self.house, program, data, open_doors(self.house.programs, program, data))
        self.house.until(lambda: node.readiness().status == 200, "readiness", running=[program])
        return node

    def refused(self, version: str, data: Path) -> tuple[int, str]:
        """How a start ends, and what it says."""
        program = self._start(version, data)
        before = program.log.stat().st_size
        code = self.house.programs.finish(program, within_s=60.0, accepted=range(256))
        return code, program.log.read_text()[before:]

    def _start(self, version: str, data: Path) -> Program:
        for name in ("agents.address", "admin.address"):
            (data / name).unlink(missing_ok=True)
        doors = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--flush-interval", "1h")
        return self.house.programs.start([version, "run", "--data", str(data), *doors, "--fleet-url", self.url])

    def minutes(self, node: Aggregator, load: Load, *minutes: int) -> None:
        """Has a node take and store samples of a VM, and waits for the VM's summary."""
        assert node.push(load, minutes).acknowledged
        node.flush()
        wanted = load.ts(minutes[-1])
        self.house.until(lambda: self.newest_s(load) == wanted, f"the summary of {load.vm}", running=[node.program])

    def newest_s(self, load: Load) -> int | None:
        with self.engine() as engine, reading(engine) as connection:
            found: int | None = connection.scalar(sa.select(vm_summary.c.newest_s).where(vm_summary.c.vm_id == load.vm))
            return found

    def stamps(self) -> tuple[str | None, str | None]:
        """Schema and floor as the database notes them."""
        with self.engine() as engine, reading(engine) as connection:
            revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
            return revision, read_floor(connection, FLEET.part)

    def engine(self) -> Engine:
        return Engine(sa.create_engine(self.url))


class Engine:
    """An engine for one question."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def __enter__(self) -> sa.Engine:
        return self._engine

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()


@pytest.fixture
def fleet(house: House, pytestconfig: pytest.Config) -> Iterator[Fleet]:
    with postgres_database(pytestconfig) as url:
        yield Fleet(house, url)
        # Before their database goes.
        house.close()


def version(folder: Path, *floors: str) -> str:
    """The program of a later version of `fallow-aggregator`, whose schema has a step for each of `floors`."""
    name = after(SCHEMA_REVISION, len(floors))
    scripts = folder / f"steps-{name}"
    shutil.copytree(FLEET.scripts, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    before = SCHEMA_REVISION
    for floor in floors:
        head = after(before)
        (scripts / "versions" / f"{head}_more.py").write_text(_STEP.format(head=head, before=before, floor=floor))
        before = head
    start = folder / f"fallow-aggregator-{name}"
    start.touch(mode=0o700)
    start.write_text(_START.format(python=sys.executable, scripts=str(scripts), head=name))
    return str(start)


THIS = str(SCRIPTS / "fallow-aggregator")


def test_a_fleet_is_upgraded_node_by_node(fleet: Fleet, tmp_path: Path) -> None:
    """A node that starts with the next schema migrates under one of before, which goes on writing, starts again on the
    newer tables, writes and is read; the report of before reads them too."""
    now, newer = SCHEMA_REVISION, version(tmp_path, SCHEMA_REVISION)
    old = fleet.start(THIS, fleet.data())
    first, second = fleet.house.loads(2)
    for load in (first, second):
        fleet.house._tokens[old.data, load.vm] = _enrol(fleet, old, load)
    fleet.minutes(old, first, 1)
    new = fleet.start(newer, fleet.data())
    assert fleet.stamps() == (after(now), now)
    fleet.house._tokens[new.data, second.vm] = fleet.house._tokens[old.data, second.vm]
    fleet.minutes(old, first, 2)
    fleet.minutes(new, second, 2)
    assert old.stop() == 0
    old = fleet.start(THIS, old.data)
    fleet.minutes(old, first, 3)
    assert fleet.stamps() == (after(now), now)
    report = fleet.house.run("fallow-report", "--fleet", fleet.url, "--json", "--silent-after", "30d")
    assert (report.returncode, report.stderr) == (0, "")
    assert json.loads(report.stdout)["totals"]["vms"] == 2
    reader = open_fleet_read_only(fleet.url, tmp_path)
    with reading(reader) as connection:
        assert set(connection.scalars(sa.text("SELECT of_" + after(now) + " FROM vm_summary"))) == {"new"}
    reader.dispose()
    assert [node.stop() for node in (old, new)] == [0, 0]


def test_a_step_that_older_nodes_cannot_live_with_waits_for_them(fleet: Fleet, tmp_path: Path) -> None:
    """While one of them runs, the newer program refuses to start, changes nothing, and names it; the running one goes
    on. Once it is stopped the tables change, and it refuses to come back: exit 2, and what to do."""
    now = SCHEMA_REVISION
    breaking = version(tmp_path, after(now))
    old = fleet.start(THIS, fleet.data())
    (load,) = fleet.house.loads(1)
    fleet.house._tokens[old.data, load.vm] = _enrol(fleet, old, load)
    fleet.minutes(old, load, 1)
    data = fleet.data()
    code, said = fleet.refused(breaking, data)
    assert code == 2
    assert f"({now}); only those for schema {after(now)} or newer can go on: stop them first" in said
    assert fleet.stamps() == (now, Steps(FLEET.scripts, FLEET.head).floor)
    fleet.minutes(old, load, 2)
    assert old.stop() == 0
    new = fleet.start(breaking, data)
    assert fleet.stamps() == (after(now), after(now))
    code, said = fleet.refused(THIS, old.data)
    assert code == 2
    assert f"has schema {after(now)}, newer than the {now} of this program: install the newer one" in said
    report = fleet.house.run("fallow-report", "--fleet", fleet.url, "--json")
    assert report.returncode == 2
    assert "newer than the" in report.stderr
    assert new.stop() == 0


def _enrol(fleet: Fleet, node: Aggregator, load: Load) -> str:
    """The VM's token, which every node takes."""
    done = fleet.house.run("fallow-aggregator", "token", "mint", "--data", str(node.data), "--fleet-url", fleet.url)
    assert done.returncode == 0, done.stderr
    body = json.dumps({"join_token": done.stdout.strip(), "vm": load.vm}).encode()
    answer = node.request("POST", "/v1/enroll", body, {"Content-Type": "application/json"})
    assert answer.status == 201, answer
    return str(json.loads(answer.body)["token"])
