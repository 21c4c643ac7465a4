"""Sums over what a store holds: any one change shows, order does not matter, and what is added can be added up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rows import SAMPLE_COLUMNS
from aggregator.store_checks import (
    DamagedError,
    added,
    crc_of_body,
    crc_of_cells,
    crc_of_hour,
    hash_rows,
    packed,
    row_sums,
    sum_of_crcs,
    sums_by_hour,
)
from tests.aggregator.store_fakes import HOUR_S, START_S

WIDTH = len(SAMPLE_COLUMNS)
HASHES = [6955611659402347328, 6411646778472272833, 8760105362471204954]
NUMBERS_CRC, BODY_CRC, CELLS_CRC = -1576671616, 955562215, 1438108871
cells = st.integers(-1, 2**62)
tables = st.lists(st.lists(cells, min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=5)


def test_the_hash_of_a_row_never_changes() -> None:
    """Stores on disk hold these figures: a new way to hash would need a new schema."""
    rows = np.array([range(WIDTH), [START_S, 60, *range(WIDTH - 2)], [-1] * WIDTH], np.int64)
    assert hash_rows(rows).tolist() == HASHES
    assert crc_of_hour(packed("hour", [[START_S, -1, 2**62]]), "gaps") == NUMBERS_CRC
    assert crc_of_body(START_S, b"body") == BODY_CRC
    assert crc_of_cells((1, None, "vm")) == CELLS_CRC


@given(tables, st.data())
def test_one_changed_cell_always_shows(table: list[list[int]], data: st.DataObject) -> None:
    """Whatever a cell of one row becomes, the sum of its hour is another."""
    rows = np.array(table, np.int64)
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(0, WIDTH - 1))
    changed = rows.copy()
    changed[row, column] = data.draw(cells.filter(lambda value: value != rows[row, column]))
    assert int(hash_rows(rows).sum()) != int(hash_rows(changed).sum())


@given(tables)
def test_the_order_of_rows_does_not_matter(table: list[list[int]]) -> None:
    """Rows in any order have one sum, and the sums of two parts add up to that of the whole."""
    rows = np.array(table, np.int64)
    order = np.random.default_rng(len(table)).permutation(len(rows))
    whole = int(hash_rows(rows).sum())
    assert int(hash_rows(rows[order]).sum()) == whole
    middle = len(rows) // 2
    assert added(int(hash_rows(rows[:middle]).sum()), int(hash_rows(rows[middle:]).sum())) == whole


def test_sums_are_of_each_owner_and_hour() -> None:
    """Rows of two VMs over two hours: four sums, each that of its own rows."""
    one = np.zeros((4, WIDTH), np.int64)
    one[:, 0] = [START_S + 60, START_S + HOUR_S, START_S + HOUR_S + 60, START_S + HOUR_S + 120]
    other = one.copy()
    other[:, 3] = 7
    owner = np.repeat([0, 1], 4)
    found = {(index, hour): total for index, hour, total in sums_by_hour(owner, np.concatenate((one, other)))}
    first = START_S // HOUR_S
    assert found == {(0, hour): total for hour, total in row_sums(one).items()} | {
        (1, hour): total for hour, total in row_sums(other).items()
    }
    assert sorted(row_sums(one)) == [first, first + 1]
    assert len(set(found.values())) == 4
    assert list(sums_by_hour(np.zeros(0, np.int64), one[:0])) == []


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1))
def test_a_row_that_vanishes_always_shows(crcs: list[int]) -> None:
    """However many rows are lost, whatever their CRCs: the sum of the others is another."""
    assert sum_of_crcs(crcs) > sum_of_crcs(crcs[1:])
    assert sum_of_crcs(crcs) - sum_of_crcs(crcs[:1]) == sum_of_crcs(crcs[1:])


@pytest.mark.parametrize("numbers", [[1.5], [2**63], ["7"], [None]])
def test_what_is_no_whole_number_is_damage(numbers: list[int]) -> None:
    """A cell of another kind is said to be damage, and breaks nothing."""
    with pytest.raises(DamagedError, match="no whole number"):
        packed("hour", [numbers])


def test_a_key_is_part_of_what_is_verified() -> None:
    """The same bytes under another hour are not what was written."""
    assert crc_of_body(START_S, b"body") != crc_of_body(START_S + HOUR_S, b"body")
    assert crc_of_cells((1, None)) != crc_of_cells((1, 0))
