"""Hours of raw rows and their bytes."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.histogram import Ints
from aggregator.packed_rows import pack, starts_of_hours, unpack
from aggregator.rollup import ABSENT, hours_of
from aggregator.rows import SAMPLE_COLUMNS
from tests.aggregator.store_fakes import HOUR_S, START_S, table_of

COLUMNS = len(SAMPLE_COLUMNS)
HOUR = START_S // HOUR_S
LEAST, MOST = -(1 << 63), (1 << 63) - 1


def packed(table: Ints) -> list[tuple[int, bytes]]:
    """One VM's rows by rising ts as hours."""
    first = starts_of_hours(table)
    return list(zip(hours_of(table[first]).tolist(), pack(table, first), strict=True))


def minutes_with(count: int, **columns: int | list[int]) -> Ints:
    """Minutes from START_S on, each column one value for all rows or one each."""
    rows = []
    for number in range(count):
        figures = {name: value[number] if isinstance(value, list) else value for name, value in columns.items()}
        rows.append({"ts": START_S + 60 * (number + 1), "interval_s": 60, **figures})
    return table_of(rows)


@st.composite
def tables(draw: st.DrawFn) -> Ints:
    """Rows of a few hours: columns that rest, move, jump and are absent, and now and then anything at all."""
    steps = sorted(draw(st.sets(st.integers(1, 4 * 3600), min_size=1, max_size=40)))
    whole = st.one_of(st.integers(ABSENT, 5), st.integers(ABSENT, 1 << 40), st.integers(LEAST, MOST))
    columns = []
    for _ in range(COLUMNS - 1):
        kind = draw(st.integers(0, 2))
        if kind == 0:
            columns.append([draw(whole)] * len(steps))
        else:
            cells = whole if kind == 1 else st.integers(1_000, 1_010)
            columns.append(draw(st.lists(cells, min_size=len(steps), max_size=len(steps))))
    ts = [START_S + step for step in steps]
    return np.array([ts, *columns], np.int64).T.copy()


@given(tables())
def test_rows_survive_their_bytes(table: Ints) -> None:
    """Whatever the cells hold, down to any 64 bits, they come back as they were, hour by hour and all at once."""
    hours = packed(table)
    found, counts = unpack(hours)
    assert found.tolist() == table.tolist()
    assert counts.tolist() == np.unique(hours_of(table), return_counts=True)[1].tolist()
    assert np.concatenate([unpack([hour])[0] for hour in hours]).tolist() == table.tolist()


@given(st.lists(tables(), min_size=1, max_size=4))
def test_hours_of_many_vms_are_packed_as_each_alone(vms: list[Ints]) -> None:
    """What lies beside an hour changes none of its bytes."""
    firsts = [starts_of_hours(table) for table in vms]
    begins = np.cumsum([0, *(len(table) for table in vms[:-1])])
    together = pack(np.concatenate(vms), np.concatenate([f + b for f, b in zip(firsts, begins, strict=True)]))
    assert together == [body for table in vms for _, body in packed(table)]


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x01", b"\x02", b"\x01\x05\x00"]))
def test_bytes_that_are_no_rows_are_refused(body: bytes, head: bytes) -> None:
    """Damage is a ValueError, which the worker knows, or rows of that hour by rising time."""
    try:
        table, _ = unpack([(HOUR, head + body)])
    except ValueError:
        return
    assert set(hours_of(table).tolist()) == {HOUR}
    assert (np.diff(table[:, 0]) > 0).all()


@given(tables(), st.data())
def test_damaged_bytes_never_break_the_reader(table: Ints, data: st.DataObject) -> None:
    """A bit that flips, an end that is lost: a ValueError, or other rows, or the same."""
    hour, body = packed(table)[0]
    damaged = bytearray(body)
    at = data.draw(st.integers(0, 8 * len(body) - 1))
    damaged[at // 8] ^= 1 << at % 8
    for spoilt in (bytes(damaged), body[: at // 8]):
        try:
            unpack([(hour, spoilt)])
        except ValueError:
            continue


@pytest.mark.parametrize("shift", [-1, 1])
def test_times_count_from_the_start_of_the_hour(shift: int) -> None:
    """Rows under the key of another hour are rows of that one, which its sum of hashes tells; none leaves its hour."""
    ((_, body),) = packed(minutes_with(60, cpu_busy=5))
    table, _ = unpack([(HOUR + shift, body)])
    assert hours_of(table).tolist() == [HOUR + shift] * 60
    late = b"\x01" + zlib.decompress(body[1:], -zlib.MAX_WBITS).replace(bytes([1, 61]), bytes([1, 62]))
    with pytest.raises(ValueError, match="another hour"):
        unpack([(HOUR, late)])


def test_nothing_is_no_hour() -> None:
    """No rows make no bytes, and no bytes no rows."""
    table, counts = unpack([])
    assert (table.shape, counts.tolist()) == ((0, COLUMNS), [])
    assert pack(table, starts_of_hours(table)) == []


def test_the_bytes_are_those_of_the_format() -> None:
    """The layout as the docstring tells it: stores of today must be read tomorrow."""
    columns: dict[str, int | list[int]] = dict.fromkeys(SAMPLE_COLUMNS[2:], ABSENT)
    columns |= {"cpu_busy": [3, 1, 2], "mem_total": 0x0201, "mem_used": [1000, 1001, 1003], "users": 0}
    ((hour, body),) = packed(minutes_with(3, **columns))
    assert hour == HOUR
    varies = 1 << SAMPLE_COLUMNS.index("cpu_busy") | 1 << SAMPLE_COLUMNS.index("mem_used")
    lengths = dict.fromkeys(SAMPLE_COLUMNS, 0) | {"ts": 1, "interval_s": 1, "cpu_busy": 1, "mem_total": 2}
    lengths |= {"mem_used": 2, "users": 1}
    nibbles = [lengths[name] for name in SAMPLE_COLUMNS]
    plain = (3).to_bytes(2, "little") + varies.to_bytes(3, "little")
    # cpu_busy: 2 bits from the smallest, 1. mem_used: 2 bits from the smallest too.
    plain += bytes([128 + 2, 128 + 2])
    plain += bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    plain += bytes([1, 61, 2]) + (0x0201 + 1).to_bytes(2, "little") + (1001).to_bytes(2, "little") + bytes([1])
    # Low bits 0 0 1, high bits 1 0 0 (2, 0, 1); low bits 0 1 1, high bits 0 0 1 (0, 1, 3).
    bits = [0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1]
    plain += sum(bit << at for at, bit in enumerate(bits)).to_bytes(2, "little")
    assert body[0] in (1, 2)
    assert (body[1:] if body[0] == 1 else zlib.decompress(body[1:], -zlib.MAX_WBITS)) == plain
    assert unpack([(HOUR, b"\x01" + plain)])[0].tolist() == unpack([(HOUR, body)])[0].tolist()


def test_what_rests_takes_no_room() -> None:
    """An hour of minutes in which nothing moves is as small as a single one; noise costs its bits and little more."""
    still = minutes_with(60, cpu_busy=50, mem_total=1 << 24, mem_used=1 << 23, users=0)
    ((_, body),) = packed(still)
    assert len(body) < 64
    draw = random.Random(7)
    noisy = minutes_with(60, cpu_busy=[draw.getrandbits(10) for _ in range(60)])
    ((_, body),) = packed(noisy)
    assert len(body) < 60 * 10 // 8 + 64


def test_a_column_that_climbs_is_kept_by_its_steps() -> None:
    """A figure that grows without end costs what it grows by, not what it has come to."""
    climbing = minutes_with(60, disk_used=[(1 << 40) + 3 * step for step in range(60)])
    ((_, body),) = packed(climbing)
    assert len(body) < 96


def test_every_second_of_an_hour_may_have_a_row() -> None:
    """The most rows that an hour can have, the first and the last second included."""
    rows = [{"ts": START_S + second, "interval_s": 1, "cpu_busy": second % 7} for second in range(1, HOUR_S + 1)]
    table = table_of(rows)
    ((hour, body),) = packed(table)
    assert hour == HOUR
    assert unpack([(hour, body)])[0].tolist() == table.tolist()
