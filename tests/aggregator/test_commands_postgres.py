"""The commands beside an aggregator whose fleet is on PostgreSQL, as an admin types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from aggregator.fleet_place import NOTE_FILE_NAME
from tests.aggregator.test_cli import PATIENCE_S, ROOT, daemon, ended
from tests.postgres import postgres_database

pytestmark = pytest.mark.real


@pytest.fixture
def url(pytestconfig: pytest.Config) -> Iterator[sa.URL]:
    with postgres_database(pytestconfig) as made:
        yield sa.make_url(made)


def text_of(url: sa.URL) -> str:
    return url.render_as_string(hide_password=False)


def without_password(url: sa.URL, **options: str) -> str:
    return text_of(
        sa.URL.create(url.drivername, url.username, None, url.host, url.port, url.database).update_query_dict(options)
    )


def settings(folder: Path, url: str) -> Path:
    file = folder / "aggregator.toml"
    file.write_text(f"data = {json.dumps(str(folder / 'data'))}\n[fleet]\nurl = {json.dumps(url)}\n", encoding="utf-8")
    file.chmod(0o600)
    return file


def ran(*words: str, program: str = "aggregator", **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    done = subprocess.run(
        [sys.executable, "-m", program, *words],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_commands_read_the_settings_of_run(tmp_path: Path, url: sa.URL) -> None:
    """With --config they see the aggregator's own fleet; without it none of them makes or reads another."""
    data, config = tmp_path / "data", ("--config", str(settings(tmp_path, text_of(url))))
    (tmp_path / "vms.csv").write_text("vm,name\nvm-1,web\n", encoding="utf-8")
    with daemon(data, *config, "--node-name", "agg-1"):
        code, token, _ = ran("token", "mint", "--json", *config)
        assert code == 0
        assert ran("vms", "import", str(tmp_path / "vms.csv"), *config) == (0, "added 1, updated 0\n", "")
        code, listed, _ = ran("vms", "list", "--json", *config)
        assert (code, [each["vm"] for each in json.loads(listed)]) == (0, ["vm-1"])
        code, listed, _ = ran("nodes", "--json", *config)
        assert (code, [each["node"] for each in json.loads(listed)]) == (0, ["agg-1"])
        code, out, err = ran("check", *config)
        assert (code, out.startswith("checked 0 stores, 0 with problems"), err) == (0, True, "")
        assert json.loads(token)["id"] in ran("token", "list", *config)[1]
        place = f"elsewhere (postgresql+psycopg://127.0.0.1:{url.port}/{url.database})"
        for program, words in (
            ("aggregator", ("token", "mint")),
            ("aggregator", ("vms", "list")),
            ("aggregator", ("nodes",)),
            ("reports", ()),
            ("reports", ("nodes",)),
            ("orchestrate", ("plans",)),
        ):
            code, out, err = ran(*words, "--data", str(data), program=program)
            assert (code, out, place in err) == (2, "", True), (words, err)
    assert not list(data.glob("fleet.db*"))
    assert str(url.password) not in (data / NOTE_FILE_NAME).read_text(encoding="utf-8")


def test_a_password_may_come_from_a_file_or_the_environment(tmp_path: Path, url: sa.URL) -> None:
    """As with every program of PostgreSQL: PGPASSWORD, PGPASSFILE, or a passfile that the URL names."""
    (tmp_path / "data").mkdir()
    config = ("--config", str(settings(tmp_path, without_password(url))))
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"127.0.0.1:{url.port}:*:{url.username}:{url.password}\n", encoding="utf-8")
    passfile.chmod(0o600)
    assert ran("token", "mint", *config, PGPASSWORD=str(url.password))[0] == 0
    assert ran("token", "list", *config, PGPASSFILE=str(passfile))[0] == 0
    by_url = without_password(url, passfile=str(passfile))
    assert ran("token", "list", "--data", str(tmp_path), "--fleet-url", by_url)[0] == 0


def test_a_database_that_refuses_is_2_and_said_so(tmp_path: Path, url: sa.URL) -> None:
    """A wrong password, no such database or login: settings to be set right, in `run`, the commands and the report."""
    (tmp_path / "data").mkdir()
    for wrong in (url.set(password="s3cret"), url.set(database="absent"), url.set(username="nobody")):
        config = ("--config", str(settings(tmp_path, text_of(wrong))))
        (tmp_path / "report.toml").write_text(f"[report]\nfleet = {json.dumps(text_of(wrong))}\n", encoding="utf-8")
        (tmp_path / "report.toml").chmod(0o600)
        for code, err in (
            ended(tmp_path / "data", *config),
            ran("token", "mint", *config)[::2],
            ran("vms", "list", *config)[::2],
            ran("--config", str(tmp_path / "report.toml"), program="reports")[::2],
        ):
            assert (code, ": the fleet database refuses: " in err) == (2, True), err
            assert str(wrong.password) not in err
    assert not (tmp_path / "data" / NOTE_FILE_NAME).exists()
