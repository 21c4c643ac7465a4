"""`fallow-aggregator nodes` and `drain` from a shell."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from aggregator.fleet_db import migrate, open_fleet
from aggregator.nodes import Nodes, NodeState
from tests.aggregator.node_fakes import node
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
    rows = {line.split("  ")[0].strip(): line for line in out.splitlines()[1:]}
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
    assert (code, "--yes is needed" in err) == (2, True)
    code, _, err = shell.run("nodes", "forget", "agg-1", "--yes")
    assert (code, "agg-1: still runs" in err) == (1, True)
    code, _, err = shell.run("nodes", "forget", "nobody", "--yes")
    assert (code, "nobody: no such node" in err) == (1, True)
    code, out, _ = shell.run("nodes", "forget", "gone", "--yes")
    assert (code, out) == (0, "forgot gone, which kept the history of 0 VMs\n")
    assert [one["node"] for one in json.loads(shell.run("nodes", "--json")[1])] == ["agg-1"]


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
