"""Every command finds the fleet database by the settings of `run`, and none takes another for it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
import sqlalchemy as sa

from agent.settings import ConfigError
from aggregator.__main__ import build_parser, main
from aggregator.fleet_db import FILE_NAME
from aggregator.fleet_place import NOTE_FILE_NAME, elsewhere, note_place
from tests.aggregator.service_fakes import make_service, running
from tests.aggregator.shell_fakes import Shell

# The commands that read or write the fleet database, with what they cannot do without.
READING = (
    ("vms", "list"),
    ("vms", "show", "a"),
    ("token", "list"),
    ("token", "pending"),
    ("inventory", "list"),
    ("nodes",),
)
WRITING = (
    ("token", "mint"),
    ("join-token",),
    ("token", "revoke-join", "1"),
    ("token", "revoke", "a"),
    ("token", "approve", "a"),
    ("token", "refuse", "a"),
    ("vms", "import", "FILE"),
    ("vms", "forget", "a"),
    ("inventory", "import", "FILE"),
    ("nodes", "forget", "agg-2", "--yes"),
)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """On an empty data directory."""
    (tmp_path / "data").mkdir()
    return Shell(tmp_path / "data", capsys)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    file = tmp_path / "vms.csv"
    file.write_text("vm\na\n", encoding="utf-8")
    return file


def settings(tmp_path: Path, **values: str) -> Path:
    """A file of `run`: a data directory and a fleet database beside it, unless told otherwise."""
    told = {"data": str(tmp_path / "data"), "fleet.url": f"sqlite:///{tmp_path}/elsewhere.db"} | values
    file = tmp_path / "aggregator.toml"
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in told.items()), encoding="utf-8")
    return file


def named(words: tuple[str, ...], csv: Path) -> list[str]:
    return [str(csv) if word == "FILE" else word for word in words]


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Every parser below `parser` that sets a command."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if parser.get_default("command") is not None:
        yield parser
    for action in inner:
        for each in action.choices.values():
            yield from leaves(each)


def test_every_command_takes_a_config() -> None:
    """Also those that need no database: the data directory is in the file too."""
    found = {parser.prog.removeprefix("fallow-aggregator "): parser for parser in leaves(build_parser())}
    assert {"run", "check", "nodes", "nodes forget", "token keys", "rows"} < found.keys()
    for name, parser in found.items():
        assert "--config" in parser._option_string_actions, name
    for words in (*READING, *WRITING):
        name = next(name for name in (" ".join(words[:2]), words[0]) if name in found)
        assert "--fleet-url" in found[name]._option_string_actions, name


def test_a_command_uses_the_database_of_the_file(shell: Shell, tmp_path: Path, csv: Path) -> None:
    """Writers make it there, readers find it there, and the data directory of the file stays without one."""
    told = ("--config", str(settings(tmp_path)))
    assert shell.run("vms", "import", str(csv), *told, data=False)[0] == 0
    code, out, _ = shell.run("token", "mint", "--json", *told, data=False)
    assert code == 0
    code, listed, _ = shell.run("token", "list", *told, data=False)
    assert (code, json.loads(out)["id"] in listed) == (0, True)
    assert '"vm":"a"' in shell.run("vms", "list", "--json", *told, data=False)[1]
    assert shell.run("check", *told, data=False) == (
        0,
        "checked 0 stores, 0 with problems; journal: 0 segments, 0 records, 0 samples, 0 damaged places\n",
        "",
    )
    assert shell.run("stores", *told, data=False)[1].splitlines()[-1].startswith("total: 0 stores, 0 bytes")
    assert list(shell.data_dir.iterdir()) == []


def test_what_the_command_line_says_goes_over_the_file(shell: Shell, tmp_path: Path, csv: Path) -> None:
    """As in `run`: for the database and for the data directory, also before an inner command."""
    told = ("--config", str(settings(tmp_path, data=str(tmp_path / "not-this"))))
    here = f"sqlite:///{tmp_path}/by-hand.db"
    assert shell.run("vms", "import", str(csv), *told, "--fleet-url", here)[0] == 0
    assert (tmp_path / "by-hand.db").exists()
    assert not (tmp_path / "elsewhere.db").exists()
    words = ("nodes", *told, "--fleet-url", here, "forget", "agg-2", "--yes")
    code, _, err = shell.run(*words)
    assert (code, err) == (1, "fallow-aggregator: agg-2: no such node\n")
    code, _, err = shell.run("vms", "list", *told, data=False)
    assert (code, f"{tmp_path}/not-this is not a directory" in err) == (2, True)


def test_mistakes_of_the_file_are_those_of_run(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown keys, wrong values, a file that is absent or not TOML: the same lines and exit code 2."""
    file = settings(tmp_path, colour="red", listen="nowhere")
    for content in (file.read_text(encoding="utf-8"), "a = = 1", None):
        if content is None:
            file.unlink()
        else:
            file.write_text(content, encoding="utf-8")
        code, out, err = shell.run("vms", "list", "--config", str(file), data=False)
        assert (code, out) == (2, "")
        assert main(["run", "--config", str(file)]) == 2
        assert capsys.readouterr().err == err
        assert str(file) in err


@pytest.mark.parametrize("words", [*READING, *WRITING, ("check",), ("stores",)])
def test_a_password_in_an_open_file_is_2(shell: Shell, tmp_path: Path, csv: Path, words: tuple[str, ...]) -> None:
    """As in `run`; the password is not repeated, and a URL by hand makes the file's one unread."""
    file = settings(tmp_path, **{"fleet.url": "postgresql+psycopg://u:s3cret@db/fallow"})
    file.chmod(0o640)
    code, _, err = shell.run(*named(words, csv), "--config", str(file))
    assert (code, "chmod 600" in err, "s3cret" in err) == (2, True, False)


def test_a_url_by_hand_leaves_the_open_password_unread(shell: Shell, tmp_path: Path, csv: Path) -> None:
    """As in `run`."""
    file = settings(tmp_path, **{"fleet.url": "postgresql+psycopg://u:s3cret@db/fallow"})
    file.chmod(0o640)
    here = ("--config", str(file), "--fleet-url", f"sqlite:///{tmp_path}/by-hand.db")
    assert shell.run("vms", "import", str(csv), *here)[0] == 0


@pytest.mark.parametrize("words", [*READING, *WRITING])
@pytest.mark.parametrize("sign", ["node.id", NOTE_FILE_NAME])
def test_no_stray_database_is_made_where_an_aggregator_ran(
    shell: Shell, csv: Path, words: tuple[str, ...], sign: str
) -> None:
    """Its database is elsewhere and nobody said where: exit 2 with what to say, and nothing is written."""
    (shell.data_dir / sign).write_text("postgresql+psycopg://db.example/fallow\n", encoding="utf-8")
    code, out, err = shell.run(*named(words, csv))
    assert (code, out) == (2, "")
    assert f"{shell.data_dir}" in err
    assert "this aggregator's fleet database is elsewhere" in err
    assert "--config" in err
    assert "--fleet-url" in err
    assert [path.name for path in shell.data_dir.iterdir()] == [sign]


@pytest.mark.parametrize("words", [*READING, *WRITING])
def test_no_stray_database_is_read(shell: Shell, csv: Path, words: tuple[str, ...]) -> None:
    """One that an earlier command made beside an aggregator on PostgreSQL: the note says that it is not the fleet's."""
    shell.add("a")
    note_place(shell.data_dir / FILE_NAME, sa.make_url("postgresql+psycopg://fallow@db.example/fallow"))
    before = (shell.data_dir / FILE_NAME).read_bytes()
    code, out, err = shell.run(*named(words, csv))
    assert (code, out) == (2, "")
    assert "is elsewhere (postgresql+psycopg://db.example/fallow)" in err
    assert (shell.data_dir / FILE_NAME).read_bytes() == before
    assert shell.stores() == {"a"}


def test_a_check_without_the_database_says_so(shell: Shell) -> None:
    """It verifies stores and journal, also while the server is away, and holds no stray database against them."""
    note_place(shell.data_dir / FILE_NAME, sa.make_url("postgresql+psycopg://fallow@db.example/fallow"))
    (shell.data_dir / FILE_NAME).write_bytes(b"no database")
    code, out, err = shell.run("check")
    assert (code, out.partition(";")[0]) == (0, "checked 0 stores, 0 with problems")
    assert "elsewhere (postgresql+psycopg://db.example/fallow), so summaries were not compared: name it by" in err


def test_a_backup_says_what_it_lacks_and_keeps_the_note(shell: Shell, tmp_path: Path) -> None:
    """A restored directory knows as well as the old one that its fleet database is elsewhere."""
    note_place(shell.data_dir / FILE_NAME, sa.make_url("postgresql+psycopg://fallow@db.example/fallow"))
    code, _, err = shell.run("backup", str(tmp_path / "copy"))
    assert (code, "elsewhere (postgresql+psycopg://db.example/fallow)" in err) == (0, True)
    shell.data_dir = tmp_path / "restored"
    assert shell.run("restore", str(tmp_path / "copy"))[0] == 0
    assert elsewhere(shell.data_dir) == "postgresql+psycopg://db.example/fallow"


def test_a_join_token_may_be_minted_before_the_first_start(shell: Shell) -> None:
    """Also where the keys of a fleet lie already: the database is made, and the aggregator will use it."""
    (shell.data_dir / "token.key").touch()
    assert shell.run("token", "mint")[0] == 0
    (shell.data_dir / "node.id").write_text("agg-1\n", encoding="utf-8")
    assert shell.run("token", "mint")[0] == 0
    assert len(shell.run("token", "list")[1].splitlines()) == 3


@pytest_twisted.ensureDeferred
async def test_run_takes_no_new_database_for_the_one_elsewhere(tmp_path: Path) -> None:
    """Started by hand without its settings it would begin a fleet of its own; told that it is here, it may."""
    away = f"sqlite:///{tmp_path}/elsewhere.db"
    for url, place in ((away, away), (f"sqlite:///{tmp_path}/data/{FILE_NAME}", None), (None, None), (away, away)):
        async with running(tmp_path / "data", fleet_url=url):
            assert elsewhere(tmp_path / "data") == place
    with pytest.raises(ConfigError, match="fleet database is elsewhere"):
        make_service(tmp_path / "data")
