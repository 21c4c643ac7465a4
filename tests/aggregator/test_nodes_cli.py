"""`fallow-aggregator nodes` and `drain` from a shell."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aggregator import fleet
from aggregator.fleet import vm_part, vm_summary
from aggregator.fleet_db import migrate, open_fleet
from aggregator.key_marks import mark_keys
from aggregator.node_state import NodeState
from aggregator.nodes import Nodes
from aggregator.tokens import TokenKeys
from tests.aggregator.node_fakes import NOW_S, node
from tests.aggregator.shell_fakes import Shell


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def register(shell: Shell, *names: str, **changed: Any) -> None:
    """Nodes that were seen just now, unless something else is said."""
    engine = open_fleet(None, shell.data_dir)
    migrate(engine)
    for name in names:
        Nodes(engine).register(node(name, **{"seen_s": time.time(), **changed}), frozenset())
    engine.dispose()


def test_nodes_are_listed_with_what_ails_them(shell: Shell) -> None:
    """One line each: up, draining, stopped, away, or not ready."""
    register(shell, "agg-1")
    register(shell, "agg-2", state=NodeState.DRAINING)
    register(shell, "agg-3", state=NodeState.STOPPED)
    register(shell, "agg-4", seen_s=5.0)
    register(shell, "agg-5", not_ready="the journal cannot be written", free_bytes=None, admin_url=None)
    code, out, _ = shell.run("nodes")
    assert code == 0
    *listed, last = out.splitlines()[1:]
    rows = {line.split("  ")[0].strip(): line for line in listed}
    states = {name: [state for state in STATES if f"  {state}" in line] for name, line in rows.items()}
    assert states == {
        "agg-1": ["up"],
        "agg-2": ["draining"],
        "agg-3": ["stopped"],
        "agg-4": ["away"],
        "agg-5": ["not ready"],
    }
    assert "5.0 GiB" in rows["agg-1"]
    assert rows["agg-5"].endswith("-")
    assert last == "agg-5: it takes no pushes: the journal cannot be written"


def add_vm(shell: Shell, vm_id: str, home: str, *holders: str) -> None:
    """A VM at home on one node, with parts on others."""
    times = {"oldest_s": 0, "newest_s": 100, "received_s": 0.0, "skew_s": 0.0, "updated_s": 0.0}
    engine = open_fleet(None, shell.data_dir)
    with engine.begin() as connection:
        connection.execute(sa.insert(vm_summary).values(vm_id=vm_id, node=home, interval_s=60, conflicts=0, **times))
        for name in holders:
            part = {"vm_id": vm_id, "node": name, "oldest_s": 0, "newest_s": 50, "noted_s": 0.0}
            connection.execute(sa.insert(vm_part).values(part))
    engine.dispose()


def names(shell: Shell) -> list[str]:
    return [one["node"] for one in json.loads(shell.run("nodes", "--json")[1])]


def test_nodes_are_listed_with_what_they_keep(shell: Shell) -> None:
    """VMs at home and parts, so that one sees when a node that leaves keeps nothing; also of nodes never heard of."""
    register(shell, "agg-1")
    register(shell, "agg-2", state=NodeState.DRAINING, is_leaving=True)
    add_vm(shell, "a", "agg-1", "agg-2")
    add_vm(shell, "b", "agg-1")
    add_vm(shell, "c", "lost")
    found = {one["node"]: one for one in json.loads(shell.run("nodes", "--json")[1])}
    assert {name: (one["shown_as"], one["home_vms"], one["parts"]) for name, one in found.items()} == {
        "agg-1": ("up", 2, 0),
        "agg-2": ("leaving", 0, 1),
        "lost": ("unknown", 1, 0),
    }
    assert set(found["lost"]) == set(found["agg-1"])
    header, first, second, last = (line.split() for line in shell.run("nodes")[1].splitlines())
    assert header[3:5] == ["VMS", "PARTS"]
    assert [first[4:6], second[4:6], last[3:5]] == [["2", "0"], ["0", "1"], ["1", "0"]]


def test_keys_and_clocks_that_are_wrong_are_told_below(shell: Shell) -> None:
    """A line each, with the name of the node; also for programs."""
    one, other = (mark_keys(TokenKeys({"k1": key * 32}), "admin") for key in (b"a", b"b"))
    register(shell, "agg-1", key_marks=one)
    register(shell, "agg-2", key_marks=other, started_s=NOW_S)
    register(shell, "agg-3", key_marks=one, started_s=NOW_S)
    engine = open_fleet(None, shell.data_dir)
    with engine.begin() as connection:
        connection.execute(sa.update(fleet.node).where(fleet.node.c.node == "agg-3").values(ahead_s=-72.0))
    engine.dispose()
    lines = shell.run("nodes")[1].splitlines()[4:]
    assert lines[0].startswith("agg-2: its token keys are not those of agg-1")
    assert lines[1:] == ["agg-3: its clock is 72 s behind that of the fleet database"]
    told = {one["node"]: one["problems"] for one in json.loads(shell.run("nodes", "--json")[1])}
    assert [len(told[name]) for name in ("agg-1", "agg-2", "agg-3")] == [0, 1, 1]


STATES = ("up", "draining", "stopped", "away", "not ready")


def test_nodes_as_json_are_rows_of_the_table(shell: Shell) -> None:
    """Every attribute, and the state as the list shows it."""
    register(shell, "agg-1", seen_s=5.0)
    code, out, _ = shell.run("nodes", "--json")
    (found,) = json.loads(out)
    assert (code, found["node"], found["state"], found["shown_as"]) == (0, "agg-1", "up", "away")
    assert found["free_bytes"] == 5 << 30


def test_no_fleet_is_exit_2(shell: Shell) -> None:
    """There is nothing to list, and nothing is made."""
    code, out, err = shell.run("nodes")
    assert (code, out) == (2, "")
    assert "no fleet database" in err


def test_a_node_is_forgotten_only_when_it_is_meant(shell: Shell) -> None:
    """Without --yes, and while it runs, nothing is deleted."""
    register(shell, "gone", seen_s=5.0)
    register(shell, "agg-1")
    code, _, err = shell.run("nodes", "forget", "gone")
    assert (code, "--yes is needed: gone keeps nothing" in err) == (2, True)
    add_vm(shell, "a", "gone")
    add_vm(shell, "b", "agg-1", "gone")
    add_vm(shell, "c", "agg-1", "gone")
    code, _, err = shell.run("nodes", "forget", "gone")
    assert code == 2
    assert "gone keeps the history of 1 VM, and 2 parts of histories of other nodes' VMs: what no other" in err
    assert names(shell) == ["agg-1", "gone"]
    code, _, err = shell.run("nodes", "forget", "agg-1", "--yes")
    assert (code, "agg-1: still runs" in err) == (1, True)
    code, _, err = shell.run("nodes", "forget", "nobody", "--yes")
    assert (code, "nobody: no such node" in err) == (1, True)
    code, out, _ = shell.run("nodes", "forget", "gone", "--yes")
    assert (code, out) == (0, "forgot gone, which kept the history of 1 VM\n")
    assert names(shell) == ["agg-1"]


def test_a_data_directory_before_the_word_counts(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nodes --data DIR forget NAME` forgets in DIR, not in the default directory."""
    monkeypatch.setenv("FALLOW_DATA", str(tmp_path / "default"))
    register(shell, "gone", seen_s=5.0)
    words = ("nodes", "--data", str(tmp_path), "forget", "gone", "--yes")
    assert shell.run(*words, data=False)[0] == 0
    assert json.loads(shell.run("nodes", "--json")[1]) == []


@pytest.mark.parametrize("name", ["../x", "A", "*"])
def test_what_is_no_name_is_exit_2(shell: Shell, name: str) -> None:
    """Nothing is looked for under it."""
    code, _, err = shell.run("nodes", "forget", name, "--yes")
    assert (code, "is not a name" in err) == (2, True)


def test_draining_where_none_runs_is_exit_69(shell: Shell) -> None:
    """Told in words; a data directory that is none is exit 2."""
    code, _, err = shell.run("drain")
    assert (code, "no aggregator runs on" in err) == (69, True)
    code, _, err = shell.run("drain", "--undo", "--data", str(shell.data_dir / "absent"), data=False)
    assert (code, "is not a directory" in err) == (2, True)
