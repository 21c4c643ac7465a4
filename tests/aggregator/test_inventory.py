"""What hypervisors say exists is kept by source, read from CSV with every mistake named, and shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import ConfigError
from aggregator.fleet_db import migrate, open_fleet, reading
from aggregator.inventory import Inventory, InventoryVm, has_any, parse_inventory_csv, seen
from tests.aggregator.shell_fakes import Shell


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    found = open_fleet(None, tmp_path)
    migrate(found)
    yield found
    found.dispose()


def test_a_source_replaces_what_it_said(engine: sa.Engine) -> None:
    """Only its own rows go; those of others stay."""
    inventory = Inventory(engine)
    assert (
        inventory.put("kvm", [InventoryVm(vm="a", macs=("5254000000AB",), pool="web"), InventoryVm(vm="b")], 1.0) == 2
    )
    assert inventory.put("rack", [InventoryVm(vm="a", macs=("52:54:00:00:00:02",), pool="db", host="h1")], 2.0) == 1
    assert inventory.put("kvm", [InventoryVm(vm="a", macs=("52:54:00:00:00:ab",))], 3.0) == 1
    assert [(row.vm, row.source, row.seen_s) for row in inventory.rows()] == [("a", "kvm", 3.0), ("a", "rack", 2.0)]
    with reading(engine) as connection:
        found = seen(connection, "a")
        assert found is not None
        assert found.macs == {"52:54:00:00:00:ab", "52:54:00:00:00:02"}
        assert found.pools == {"db"}
        assert seen(connection, "b") is None
    inventory.put("kvm", [], 4.0)
    inventory.put("rack", [], 4.0)
    with reading(engine) as connection:
        assert not has_any(connection)


def test_a_vm_that_moves_may_stand_twice(engine: sa.Engine) -> None:
    """A hypervisor that shows a VM on two hosts has it once, with the MACs of both."""
    both = [InventoryVm(vm="a", macs=("52:54:00:00:00:01",), host="h1"), InventoryVm(vm="a", macs=("525400000002",))]
    assert Inventory(engine).put("kvm", both, 1.0) == 1
    (row,) = Inventory(engine).rows()
    assert (row.macs, row.host) == (("52:54:00:00:00:01", "52:54:00:00:00:02"), "h1")


def test_what_is_no_vm_or_no_source_is_refused_whole(engine: sa.Engine) -> None:
    """An id that no agent can have, or a source without a name: ValueError, and what was known stays."""
    inventory = Inventory(engine)
    inventory.put("kvm", [InventoryVm(vm="a")], 1.0)
    with pytest.raises(ValueError, match="is not a VM id"):
        inventory.put("kvm", [InventoryVm(vm="b"), InventoryVm(vm="../x")], 2.0)
    for source in ("", "x" * 65, "a\n"):
        with pytest.raises(ValueError, match="not the name of a source"):
            inventory.put(source, [], 2.0)
    assert [row.vm for row in inventory.rows()] == ["a"]


def test_a_large_inventory_is_taken(engine: sa.Engine) -> None:
    """More rows than one statement takes."""
    assert Inventory(engine).put("kvm", [InventoryVm(vm=f"vm-{number}") for number in range(2_500)], 1.0) == 2_500
    assert len(Inventory(engine).rows()) == 2_500


def test_a_csv_is_read() -> None:
    """Columns in any order; all but vm may be absent or empty."""
    text = 'vm,pool,macs,host\na,web,52-54-00-00-00-01;52:54:00:00:00:02,h1\nb,,"",\n'
    assert parse_inventory_csv(text, source="x.csv") == [
        InventoryVm(vm="a", macs=("52:54:00:00:00:01", "52:54:00:00:00:02"), pool="web", host="h1"),
        InventoryVm(vm="b"),
    ]
    assert parse_inventory_csv("vm\na\n", source="x.csv") == [InventoryVm(vm="a")]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("vm,color\n", "line 1: 'color' is not a column (columns: vm, macs, pool, host)"),
        ("macs\n", "line 1: vm: this column is required"),
        ("vm\nA\n", "line 2: vm: 'A' is not a VM id"),
        ("vm,macs\na,nonsense\n", "line 2: macs: 'nonsense' is not a MAC address"),
        ("vm,macs\na,00:00:00:00:00:00\n", "line 2: macs:"),
        ("vm,pool\na,\x1b[31m\n", "line 2: pool:"),
        ("vm\na\na\n", "line 3: vm: 'a' is on line 2 already"),
        ("vm,pool\na\n", "line 2: has 1 cells, the header 2"),
    ],
)
def test_mistakes_in_a_csv_are_named(text: str, named: str) -> None:
    """File, line and column."""
    with pytest.raises(ConfigError) as caught:
        parse_inventory_csv(text, source="x.csv")
    assert f"x.csv: {named}" in str(caught.value)


@given(st.text(alphabet='vma,;:0"\n\r\x00é-', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No CSV raises anything but ConfigError."""
    try:
        parse_inventory_csv(f"vm,macs\n{text}", source="x.csv")
    except ConfigError:
        return


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def test_inventory_import_and_list(shell: Shell, tmp_path: Path) -> None:
    """What a file says replaces what its source said, and is listed."""
    file = tmp_path / "vms.csv"
    file.write_text("vm,macs,pool\na,525400000001,web\nb,,\n", encoding="utf-8")
    assert shell.run("inventory", "import", str(file)) == (0, "csv: 2 VMs\n", "")
    assert shell.run("inventory", "import", str(file), "--source", "rack-7") == (0, "rack-7: 2 VMs\n", "")
    file.write_text("vm\na\n", encoding="utf-8")
    assert shell.run("inventory", "import", str(file)) == (0, "csv: 1 VM\n", "")
    code, out, _ = shell.run("inventory", "list", "--json")
    assert code == 0
    assert [(row["vm"], row["source"]) for row in json.loads(out)] == [("a", "csv"), ("a", "rack-7"), ("b", "rack-7")]
    assert "52:54:00:00:00:01" in shell.run("inventory", "list")[1]


def test_a_file_without_a_vm_is_not_taken_by_mistake(shell: Shell, tmp_path: Path) -> None:
    """It would end the check of enrolments: exit 2, what was known stays, and the option to mean it is named."""
    file = tmp_path / "vms.csv"
    file.write_text("vm\na\n", encoding="utf-8")
    shell.run("inventory", "import", str(file))
    file.write_text("vm\n", encoding="utf-8")
    code, out, err = shell.run("inventory", "import", str(file))
    assert (code, out, "vms.csv" in err, "--empty" in err) == (2, "", True, True)
    assert json.loads(shell.run("inventory", "list", "--json")[1]) != []
    assert shell.run("inventory", "import", str(file), "--empty") == (0, "csv: 0 VMs\n", "")
    assert json.loads(shell.run("inventory", "list", "--json")[1]) == []


@pytest.mark.parametrize("words", [("--source", ""), ("--source", "x" * 65)])
def test_a_source_without_a_name_is_exit_2(shell: Shell, tmp_path: Path, words: tuple[str, ...]) -> None:
    """The option is named, and nothing is made."""
    file = tmp_path / "vms.csv"
    file.write_text("vm\na\n", encoding="utf-8")
    code, out, err = shell.run("inventory", "import", str(file), *words)
    assert (code, out, "--source" in err) == (2, "", True)
    assert [path.name for path in tmp_path.iterdir()] == ["vms.csv"]


@pytest.mark.parametrize(("body", "named"), [(b"vm\nA\n", "line 2: vm"), (b"vm\n\xff\n", "utf-8"), (None, "No such")])
def test_a_file_that_cannot_be_taken_is_exit_2(shell: Shell, tmp_path: Path, body: bytes | None, named: str) -> None:
    """Its name and its mistake; what was known stays."""
    file = tmp_path / "vms.csv"
    file.write_text("vm\nkept\n", encoding="utf-8")
    shell.run("inventory", "import", str(file))
    file.unlink()
    if body is not None:
        file.write_bytes(body)
    code, out, err = shell.run("inventory", "import", str(file))
    assert (code, out, "vms.csv" in err, named in err) == (2, "", True, True)
    assert "kept" in shell.run("inventory", "list")[1]
