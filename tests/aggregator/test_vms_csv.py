"""A CSV of labels is taken over exactly, or refused with every mistake."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import ConfigError
from agent.wire import VM_ID_PATTERN
from aggregator.vms_csv import parse_vms_csv

printable = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=20)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_vms_csv(text, source="fleet.csv")
    return caught.value.problems


def test_columns_become_columns_of_the_table() -> None:
    """Every column arrives; an empty cell is None, and tags are a sorted JSON list."""
    text = "vm,name,owner,mail,tags,power_state\na,Shop,web,w@x.org,b;a; b,on\nb,,,,,\n"
    assert parse_vms_csv(text, source="fleet.csv") == [
        {"vm_id": "a", "name": "Shop", "owner": "web", "mail": "w@x.org", "tags": '["a", "b"]', "power_state": "on"},
        {"vm_id": "b", "name": None, "owner": None, "mail": None, "tags": "[]", "power_state": None},
    ]


def test_a_column_that_is_absent_is_left_alone() -> None:
    """Only the header's columns are in a row, in any order; a byte order mark and CRLF are taken."""
    assert parse_vms_csv("\ufeffowner,vm\r\nweb,a\r\n", source="") == [{"owner": "web", "vm_id": "a"}]


def test_every_mistake_is_named_with_line_and_column() -> None:
    """One run shows all there is to mend."""
    text = "vm,mail,power_state,tags\n../x,nobody,maybe,\na,,,\na,,,\nb,,\nc,,,\x1b[31m\n"
    assert problems(text) == [
        "fleet.csv: line 2: vm: '../x' is not a VM id",
        "fleet.csv: line 2: mail: 'nobody' is not a mail address",
        "fleet.csv: line 2: power_state: 'maybe' is neither on nor off",
        "fleet.csv: line 4: vm: 'a' is on line 3 already",
        "fleet.csv: line 5: has 3 cells, the header 4",
        "fleet.csv: line 6: tags: '\\x1b[31m' holds characters that cannot be printed",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: vm: this column is required"),
        ("name\nx\n", "line 1: vm: this column is required"),
        ("vm,color\n", "line 1: 'color' is not a column (columns: vm, name, owner, mail, tags, power_state)"),
        ("vm,vm\n", "line 1: vm: stands twice"),
        ('vm\n"a\n', "unexpected end of data"),
        (f"vm,name\na,{'x' * 257}\n", "name: is longer than 256 characters"),
        (f"vm,tags\na,{';'.join(map(str, range(65)))}\n", "tags: holds more than 64 tags"),
        ("vm,mail\na,a@b@c\n", "is not a mail address"),
        (f"vm,name\na,{'x' * 200_000}\n", "field larger than field limit"),
    ],
)
def test_files_of_another_kind_are_refused(text: str, message: str) -> None:
    """A header or a cell that cannot be ours is a ConfigError that says so."""
    assert any(message in problem for problem in problems(text))


def test_the_list_of_mistakes_ends() -> None:
    """A file of another kind does not fill the terminal."""
    assert len(problems("vm\n" + "NO\n" * 10_000)) == 100


@given(
    st.dictionaries(
        st.from_regex(VM_ID_PATTERN, fullmatch=True), st.tuples(printable, st.sampled_from(["on", "off"])), max_size=5
    )
)
def test_what_a_csv_writer_wrote_is_read_back(vms: dict[str, tuple[str, str]]) -> None:
    """Quotes, commas and semicolons in names survive."""
    file = io.StringIO()
    csv.writer(file).writerows([("vm", "name", "power_state"), *((vm, *labels) for vm, labels in vms.items())])
    rows = parse_vms_csv(file.getvalue(), source="")
    assert {row["vm_id"]: (row["name"], row["power_state"]) for row in rows} == vms


@given(st.text(max_size=200))
def test_garbage_is_only_ever_refused(text: str) -> None:
    """No text raises anything but ConfigError."""
    with pytest.raises(ConfigError):
        parse_vms_csv(text, source="")
