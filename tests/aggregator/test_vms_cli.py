"""What an admin types does what it says, and mistakes are named with the exit code for them."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import sqlalchemy as sa
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThread

from aggregator.admin import load_or_create_admin_token, make_admin_site
from aggregator.admin_routes import AdminSources
from aggregator.catalogue import Catalogue
from aggregator.fleet import vm_summary
from aggregator.fleet_db import open_fleet
from aggregator.node_state import NodeState
from aggregator.nodes import Nodes
from aggregator.store_files import store_path
from aggregator.store_life import drop_life
from tests.aggregator.node_fakes import node
from tests.aggregator.shell_fakes import Shell

NOW_S = 1_790_000_000.0


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


# Where


@pytest.mark.parametrize(
    "words",
    [("join-token",), ("vms", "list"), ("vms", "show", "a"), ("vms", "import", "x.csv"), ("vms", "forget", "a")],
)
def test_a_data_directory_that_is_absent_is_exit_2(shell: Shell, words: tuple[str, ...]) -> None:
    """It is named, and never made: a typing mistake must not start an empty fleet."""
    shell.data_dir /= "nowhere"
    code, out, err = shell.run(*words)
    assert (code, out) == (2, "")
    assert f"--data: {shell.data_dir} is not a directory" in err
    assert not shell.data_dir.exists()


def test_the_data_directory_comes_from_the_environment(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """FALLOW_DATA is used where --data is not given."""
    shell.add("a")
    monkeypatch.setenv("FALLOW_DATA", str(shell.data_dir))
    assert shell.run("vms", "show", "a", data=False)[0] == 0


def test_the_fleet_database_may_lie_elsewhere(shell: Shell, tmp_path: Path) -> None:
    """--fleet-url, as in `run`: writing makes it, reading finds it, and the data directory stays empty."""
    shell.data_dir = tmp_path / "data"
    shell.data_dir.mkdir()
    elsewhere = ("--fleet-url", f"sqlite:///{tmp_path}/elsewhere.db")
    (tmp_path / "fleet.csv").write_text("vm\na\n")
    assert shell.run("vms", "import", str(tmp_path / "fleet.csv"), *elsewhere)[0] == 0
    assert shell.run("vms", "show", "a", *elsewhere)[0] == 0
    assert list(shell.data_dir.iterdir()) == []
    code, _, err = shell.run("vms", "list", "--fleet-url", "mysql://u:secret@h/x")
    assert (code, "'mysql' is not supported" in err, "secret" in err) == (2, True, False)


@pytest.mark.parametrize("words", [("vms", "list"), ("vms", "show", "a")])
def test_looking_makes_no_database(shell: Shell, words: tuple[str, ...]) -> None:
    """Reading where no aggregator ran is exit 2 and leaves the folder empty."""
    code, _, err = shell.run(*words)
    assert (code, "there is no fleet database" in err) == (2, True)
    assert list(shell.data_dir.iterdir()) == []


@pytest.mark.parametrize(("revision", "named"), [("9999", "newer"), ("0000", "run once")])
def test_a_database_of_another_version_is_left_alone(shell: Shell, revision: str, named: str) -> None:
    """Neither reading nor writing commands touch it, older or newer: exit 2."""
    shell.add("a")
    with sqlite3.connect(shell.data_dir / "fleet.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.execute("UPDATE schema_floor SET revision = ?", (revision,))
    connection.close()
    for words in (("vms", "list"), ("join-token",), ("vms", "forget", "a")):
        code, _, err = shell.run(*words)
        assert (code, named in err) == (2, True)
    assert shell.stores() == {"a"}


# vms list, show, import


def test_list_shows_every_vm(shell: Shell) -> None:
    """One line a VM below a header, by id; the time of the newest sample in UTC."""
    shell.add("b", "a")
    engine = open_fleet(None, shell.data_dir)
    with engine.begin() as connection:
        figures = {"oldest_s": 0, "newest_s": 1_700_000_040, "received_s": 0.0, "skew_s": 0.0, "interval_s": 60}
        connection.execute(
            sa.insert(vm_summary).values(vm_id="a", conflicts=0, flags='["clock_skew"]', updated_s=0.0, **figures)
        )
    engine.dispose()
    code, out, _ = shell.run("vms", "list")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["VM", "NAME", "OWNER", "NEWEST", "SAMPLE", "FLAGS"],
        ["a", "-", "-", "2023-11-14", "22:14:00Z", "clock_skew"],
        ["b", "-", "-", "-", "-"],
    ]


@pytest.mark.parametrize("count", [0, 1, 2_500])
def test_list_as_json_is_one_list(shell: Shell, count: int) -> None:
    """Any number of VMs, over several pages too, is one JSON list."""
    vm_ids = [f"vm-{number:05d}" for number in range(count)]
    shell.with_catalogue(lambda catalogue: catalogue.import_csv("\n".join(["vm", *vm_ids]) + "\n"))
    code, out, _ = shell.run("vms", "list", "--json")
    assert (code, [found["vm"] for found in json.loads(out)]) == (0, vm_ids)


def test_show_prints_one_vm(shell: Shell) -> None:
    """All that is known, as lines or as JSON; an unknown VM is exit 1."""
    shell.with_catalogue(lambda catalogue: catalogue.import_csv("vm,name,tags\na,Shop,x;y\n"))
    code, out, _ = shell.run("vms", "show", "a")
    assert (code, "name: Shop" in out.splitlines(), "tags: x, y" in out.splitlines()) == (0, True, True)
    assert json.loads(shell.run("vms", "show", "a", "--json")[1])["tags"] == ["x", "y"]
    assert shell.run("vms", "show", "b") == (1, "", "fallow-aggregator: b: no such VM\n")
    assert shell.run("vms", "show", "../x")[0] == 2


def test_import_takes_labels_over(shell: Shell, tmp_path: Path) -> None:
    """What was done is on stdout; it works before the first start of an aggregator too."""
    file = tmp_path / "fleet.csv"
    file.write_text("vm,owner\na,web\nb,db\n", encoding="utf-8")
    assert shell.run("vms", "import", str(file)) == (0, "added 2, updated 0\n", "")
    assert shell.run("vms", "import", str(file)) == (0, "added 0, updated 2\n", "")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"vm,color\n", "line 1: 'color'"),
        (b"vm\nA\n", "line 2: vm: 'A'"),
        (b"vm,name\na,\xff\n", "utf-8"),
        (None, "No such"),
    ],
)
def test_import_names_every_mistake(shell: Shell, tmp_path: Path, body: bytes | None, named: str) -> None:
    """A file that cannot be taken over is exit 2 with its name, and nothing is imported."""
    file = tmp_path / "fleet.csv"
    if body is not None:
        file.write_bytes(body)
    code, out, err = shell.run("vms", "import", str(file))
    assert (code, out) == (2, "")
    assert "fleet.csv" in err
    assert named in err
    assert shell.with_catalogue(lambda catalogue: catalogue.vms()) == []


# vms forget


def test_forget_without_an_aggregator(shell: Shell) -> None:
    """Rows and store go; those of other VMs stay."""
    shell.add("a", "b", "c")
    assert shell.run("vms", "forget", "a", "b", "a") == (0, "forgot a\nforgot b\n", "")
    assert (shell.record("a"), shell.stores()) == (None, {"c"})


def test_forgetting_what_nobody_knows_is_exit_1(shell: Shell) -> None:
    """The others are forgotten all the same, and the unknown one is named."""
    shell.add("a")
    assert shell.run("vms", "forget", "nobody", "a") == (1, "forgot a\n", "fallow-aggregator: nobody: no such VM\n")


def test_aggregators_of_before_hold_a_forgetting_up(shell: Shell) -> None:
    """Exit 1 with their names, what can be done, and nothing deleted."""
    shell.add("a")
    shell.with_engine(lambda engine: Nodes(engine).register(node("agg-old", revision="0003"), None))
    code, out, err = shell.run("vms", "forget", "a")
    assert (code, out) == (1, "")
    assert "agg-old (0003)" in err
    assert "nodes forget" in err
    assert (shell.record("a") is not None, shell.stores()) == (True, {"a"})


def test_a_store_that_cannot_be_deleted_is_exit_1(shell: Shell) -> None:
    """The VM is forgotten all the same, and a person learns what is left."""
    shell.add("a", "b")
    path = store_path(shell.data_dir, "a")
    path.unlink()
    path.mkdir()
    code, out, err = shell.run("vms", "forget", "a", "b")
    assert (code, out) == (1, "forgot b\n")
    assert "a: forgotten, but the aggregator must delete its store" in err
    assert shell.record("a") is None


@pytest.mark.parametrize("words", [("*",), ("a", "--all"), ("*", "a", "--all"), ("*", "*", "--all"), ("A",), ("../x",)])
def test_forgetting_in_doubt_is_exit_2(shell: Shell, words: tuple[str, ...]) -> None:
    """`*` without --all, --all with ids, an id that is none: nothing is deleted."""
    shell.add("a", "b")
    code, out, err = shell.run("vms", "forget", *words)
    assert (code, out) == (2, "")
    assert "vms forget" in err
    assert shell.stores() == {"a", "b"}


def test_forget_every_vm(shell: Shell) -> None:
    """`'*' --all` is all of them."""
    shell.add("a", "b")
    assert shell.run("vms", "forget", "*", "--all")[0] == 0
    assert shell.stores() == set()


@pytest.mark.real
def test_an_address_that_outlived_its_aggregator_is_passed_over(shell: Shell) -> None:
    """After kill -9 the file is still there: a refused connection means that nobody is at work."""
    shell.add("a")
    load_or_create_admin_token(shell.data_dir / "admin.token")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    (shell.data_dir / "admin.address").write_text(f"127.0.0.1:{port}\n")
    assert shell.run("vms", "forget", "a")[:2] == (0, "forgot a\n")


@pytest.mark.real
def test_an_aggregator_that_hangs_up_is_exit_69(shell: Shell) -> None:
    """It may be at work on the VM, so nothing is deleted behind its back."""
    shell.add("a")
    load_or_create_admin_token(shell.data_dir / "admin.token")
    with socket.create_server(("127.0.0.1", 0)) as server:
        (shell.data_dir / "admin.address").write_text(f"127.0.0.1:{server.getsockname()[1]}\n")

        def hang_up() -> None:
            server.accept()[0].close()

        peer = threading.Thread(target=hang_up)
        peer.start()
        code, out, err = shell.run("vms", "forget", "a")
        peer.join()
    assert (code, out) == (69, "")
    assert "did not answer" in err
    assert shell.stores() == {"a"}


@pytest.mark.parametrize(("address", "named"), [("nonsense", "admin.address"), ("127.0.0.1:1", "admin.token")])
def test_files_of_the_door_that_cannot_be_read_are_exit_2(shell: Shell, address: str, named: str) -> None:
    """A broken address, or no token beside it, is named."""
    shell.add("a")
    (shell.data_dir / "admin.address").write_text(address)
    code, _, err = shell.run("vms", "forget", "a")
    assert (code, named in err) == (2, True)


@pytest.mark.real
@pytest_twisted.inlineCallbacks
def test_forget_asks_the_running_aggregator(shell: Shell) -> Generator[Any, Any, None]:
    """The door forgets, what it holds in memory too; its refusal of the token is exit 1, an unknown VM as well."""
    shell.add("a", "b", "c")
    engine = open_fleet(None, shell.data_dir)
    forgotten: list[str] = []
    stays: list[str] = []

    def forget(vm_id: str, life: int) -> Deferred[bool]:
        forgotten.append(vm_id)
        if vm_id in stays:
            return succeed(False)
        assert not drop_life(store_path(shell.data_dir, vm_id), life).problem
        return succeed(True)

    sources = AdminSources(
        catalogue=Catalogue(engine),
        live=lambda _since, *, vm=None, after="", limit=None: [],
        samples=lambda _vm, _from, _to: [],
        buffered=lambda _vm: [],
        flush=lambda _all_figures: succeed({}),
        metrics=lambda: b"",
        clock=lambda: NOW_S,
        store_path=lambda vm_id: store_path(shell.data_dir, vm_id),
        forgotten=forget,
    )
    loop: Any = reactor
    token_file = shell.data_dir / "admin.token"
    site = make_admin_site(sources, token=load_or_create_admin_token(token_file), reactor=loop)
    port = loop.listenTCP(0, site, interface="127.0.0.1")
    try:
        (shell.data_dir / "admin.address").write_text(f"127.0.0.1:{port.getHost().port}\n")
        outcome = yield deferToThread(shell.run, "vms", "forget", "a", "nobody")
        assert outcome == (1, "forgot a\n", "fallow-aggregator: nobody: no such VM\n")
        assert (forgotten, shell.stores()) == (["a"], {"b", "c"})
        stays.append("c")
        code, out, err = yield deferToThread(shell.run, "vms", "forget", "c")
        assert (code, out, "c: forgotten, but its store here" in err) == (1, "", True)
        Nodes(engine).register(node("agg-old", revision="0003", state=NodeState.STOPPED), None)
        code, out, err = yield deferToThread(shell.run, "vms", "forget", "b")
        assert (code, out, "answered 409" in err, "agg-old (0003)" in err) == (1, "", True, True)
        Nodes(engine).forget("agg-old", NOW_S)
        token_file.write_text("another token, which the door does not know\n")
        code, out, err = yield deferToThread(shell.run, "vms", "forget", "b")
        assert (code, out, "answered 401" in err) == (1, "", True)
        assert shell.stores() == {"b", "c"}
    finally:
        yield port.stopListening()
        engine.dispose()


# Help


@pytest.mark.parametrize("words", [("vms", "list"), ("vms", "show"), ("vms", "import"), ("vms", "forget")])
def test_help_has_an_example(shell: Shell, words: tuple[str, ...]) -> None:
    """Every command explains itself with a line that can be typed."""
    code, out, _ = shell.run(*words, "--help", data=False)
    assert code == 0
    assert f"example:\n  fallow-aggregator {' '.join(words)}" in out


def test_trouble_with_the_settings_is_told_line_by_line(shell: Shell, tmp_path: Path) -> None:
    """Several mistakes in one file are several lines on stderr."""
    file = tmp_path / "fleet.csv"
    file.write_text("vm\nA\nB\n", encoding="utf-8")
    lines = shell.run("vms", "import", str(file))[2].splitlines()
    assert len(lines) == 2
    assert all(line.startswith("fallow-aggregator: ") for line in lines)
