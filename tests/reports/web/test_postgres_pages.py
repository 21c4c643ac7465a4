"""The pages over PostgreSQL: the same answers, and a server that restarts under them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.postgres import postgres_database
from tests.reports.fleets import NOW_S, one_of_each
from tests.reports.placed import AWAY_S, node_row, part_row, place
from tests.reports.web.house import pages
from tests.reports.web.test_large_fleets import judge_now
from tests.reports.web.test_pages import EVIL_SPEC, PAGES

pytestmark = pytest.mark.real
TARGETS = (
    *("/v1/report?verdict=all&top=1000&sort=score", "/v1/report?search=WEB.", "/v1/report?verdict=all&owner=ann"),
    *("/v1/hosts", "/v1/hosts/h1", "/v1/vms/vm-idle", "/v1/vms/vm-evil/histogram", "/v1/health", "/v1/compare"),
)


@pytest.fixture
def url(pytestconfig: pytest.Config) -> Iterator[str]:
    with postgres_database(pytestconfig) as made:
        yield made


def test_answers_are_those_of_sqlite(tmp_path: Path, url: str) -> None:
    """Every page is there, and the API says the same, judged for the page and from stored verdicts."""
    specs = [*one_of_each(), EVIL_SPEC]
    with pages(tmp_path, specs) as lite, pages(tmp_path, specs, url=url) as served:
        for path in PAGES:
            assert served.browser.get(path).status == 200, path
        expected = {target: lite.browser.get(target).json for target in TARGETS}
        assert {target: served.browser.get(target).json for target in TARGETS} == expected
        with pages(tmp_path, None, url=url, on_the_spot_vms=3) as large:
            judge_now(large)
            for target in TARGETS[:5]:
                assert large.browser.get(target).json == expected[target]
            for path in ("/", "/vms", "/hosts"):
                assert large.browser.get(path).status == 200


def test_several_nodes_are_told_alike(tmp_path: Path, url: str) -> None:
    """Nodes, what each holds, and VMs that lie on two of them."""
    specs = one_of_each()
    with pages(tmp_path, specs) as lite, pages(tmp_path, specs, url=url) as served:
        for house in (lite, served):
            place(
                house.fleet.writer,
                [node_row("a"), node_row("b", seen_s=NOW_S - AWAY_S)],
                homes={"vm-idle": "a", "vm-active": "b", "vm-silent": "lost"},
                parts=[part_row("vm-idle", "b", problem="no room"), part_row("vm-active", "a")],
            )
        targets = ("/v1/nodes", "/v1/vms/vm-idle", "/v1/health", "/v1/report?verdict=all&sort=score")
        expected = {target: lite.browser.get(target).json for target in targets}
        assert {target: served.browser.get(target).json for target in targets} == expected
        assert [one["name"] for one in expected["/v1/nodes"]["nodes"]] == ["a", "b", "lost"]
        assert expected["/v1/vms/vm-idle"]["history"]["parts"][0]["node"] == "b"
        for path in ("/nodes", "/health", "/vms/vm-idle"):
            assert served.browser.get(path).status == 200, path


def test_restart_of_the_server_is_not_noticed(tmp_path: Path, url: str) -> None:
    """Connections that died while nobody asked cost no reader an error page."""
    with pages(tmp_path, one_of_each(), url=url) as house:
        assert house.browser.get("/vms").status == 200
        other = sa.create_engine(url)
        with other.connect() as connection:
            connection.execute(
                sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            )
        other.dispose()
        assert house.browser.get("/vms").status == 200


def test_server_that_is_gone_gives_503(tmp_path: Path, url: str) -> None:
    """A database that refuses connections is told on a page, and its password is not."""
    with pages(tmp_path, one_of_each(), url=url) as house:
        name = sa.make_url(url).database
        owner = sa.create_engine(sa.make_url(url).set(database="postgres"), isolation_level="AUTOCOMMIT")
        with owner.connect() as connection:
            connection.execute(sa.text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'))
            stop = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
            connection.execute(stop, {"name": name})
            got = house.browser.get("/vms")
            connection.execute(sa.text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'))
        owner.dispose()
        assert got.status == 503
        assert str(sa.make_url(url).password) not in got.text
        assert house.browser.get("/vms").status == 200
