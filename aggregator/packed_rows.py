"""Raw rows of an hour as one run of bytes, column by column. Pure numpy: many hours cost little more than one.

Layout, little-endian:

- a byte: 1, or 2 where all that follows is deflated (zlib without its header);
- the number of rows (u16);
- a bit for each column: whether it varies. Then a byte for each one that does: how many bits a code has, with 128 added
  where codes count from the smallest cell and not from the cell before (zigzag);
- four bits for each column: how many bytes its first cell has, or its smallest; then these bytes. ABSENT is 0, 0 is 1;
- the codes: of each column that varies all lowest bits, then all second bits and so on, without a gap.

Of `ts` it is the gap between the row before, or the start of the hour, and the start of its interval that is kept: most
often none. Cells may be any whole number of 64 bits: what a damaged store holds is packed as it is, and still shows.

This is part of the format of a store. Other columns in SAMPLE_COLUMNS need another first byte.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from aggregator.histogram import Ints
from aggregator.rollup import ABSENT, hours_of
from aggregator.rows import SAMPLE_COLUMNS

HOUR_S = 3600

_U64 = npt.NDArray[np.uint64]
_PLAIN, _DEFLATED = 1, 2
_COLUMNS = len(SAMPLE_COLUMNS)
_TS, _INTERVAL = 0, 1
_FROM_SMALLEST = 128
_FLAG_BYTES = -(-_COLUMNS // 8)
_COUNTS_BYTES = -(-_COLUMNS // 2)
_MOST_BITS = 64
_OCTETS = 8
_MOST_BYTES = 11_000_000  # of the most rows with the widest codes
_OCTET = np.arange(_OCTETS)
_BIT_OF_OCTET = np.array([1 << bit for bit in range(8)], np.uint8)
_ONE = np.uint64(1)
_NO_ROWS: Ints = np.zeros((0, _COLUMNS), np.int64)
_NO_COUNTS: Ints = np.zeros(0, np.int64)
_HOURS_AT_A_TIME = 16  # of minutes: more of them cost more each, in memory that is fetched anew
# Deflating takes longer than all the rest. Codes are nearly random where they are many; zeros tell that they are not.
_ZEROS = 8


def pack(table: Ints, first: Ints) -> list[bytes]:
    """The bytes of each hour.

    Args:
        table: (n, len(SAMPLE_COLUMNS)), ABSENT where not measured; the rows of an hour lie together, by rising ts.
        first: number of each hour's first row, rising from 0.
    """
    ends = np.append(first[1:], len(table))
    packed: list[bytes] = []
    for start in range(0, len(first), _HOURS_AT_A_TIME):
        part = slice(start, start + _HOURS_AT_A_TIME)
        begin = int(first[start])
        packed += _pack(table[begin : int(ends[part][-1])], first[part] - begin)
    return packed


def starts_of_hours(table: Ints) -> Ints:
    """Number of the first row of each hour of one VM's rows by rising ts."""
    hours = hours_of(table)
    return np.flatnonzero(np.concatenate((np.ones(min(1, len(hours)), bool), hours[1:] != hours[:-1])))


def unpack(packed: Sequence[tuple[int, bytes]]) -> tuple[Ints, Ints]:
    """Rows of hours, of one VM or of many.

    Args: packed: number of an hour and its bytes.

    Returns: (n, len(SAMPLE_COLUMNS)), hour after hour, each by rising ts; how many rows each has.

    Raises: ValueError: an hour's bytes are not those of rows of it.
    """
    tables, counts = [_NO_ROWS], [_NO_COUNTS]
    for start in range(0, len(packed), _HOURS_AT_A_TIME):
        table, count = _unpack(packed[start : start + _HOURS_AT_A_TIME])
        tables.append(table)
        counts.append(count)
    if len(tables) == 2:
        return tables[1], counts[1]
    return np.concatenate(tables), np.concatenate(counts)


def _pack(table: Ints, first: Ints) -> Iterator[bytes]:
    counts = np.diff(np.append(first, len(table)))
    owner = np.repeat(np.arange(len(first)), counts)
    cells = table.copy()
    before = np.empty(len(table), np.int64)
    before[1:] = table[:-1, _TS]
    before[first] = hours_of(table[first]) * HOUR_S
    cells[:, _TS] -= before + cells[:, _INTERVAL]
    smallest = np.minimum.reduceat(cells, first)
    above = (cells - smallest[owner]).view(np.uint64)
    steps = np.empty_like(cells)
    steps[1:] = cells[1:] - cells[:-1]
    steps[first] = 0
    zigzag = ((steps << 1) ^ (steps >> 63)).view(np.uint64)
    most_above, most_zigzag = np.maximum.reduceat(above, first), np.maximum.reduceat(zigzag, first)
    from_smallest = most_above <= most_zigzag
    widths = _widths(np.where(from_smallest, most_above, most_zigzag))
    heads = _heads(counts, widths, from_smallest, np.where(from_smallest, smallest, cells[first]))
    codes = np.where(from_smallest[owner], above, zigzag)
    # Bytes that are zero in all rows are left out before bits are told apart: most are.
    column, octet, kept = _layout(widths)
    octets = np.ascontiguousarray(codes.view(np.uint8)[:, column * 8 + octet].T)
    planes = (octets[:, None, :] & _BIT_OF_OCTET[None, :, None]).reshape(-1, len(codes))
    for head, here, begin, count in zip(heads, kept, first.tolist(), counts.tolist(), strict=True):
        body = head + np.packbits(planes[np.flatnonzero(here), begin : begin + count], bitorder="little").tobytes()
        if body.count(0) * _ZEROS > len(body):
            deflated = _deflated(body)
            if len(deflated) < len(body):
                yield b"\x02" + deflated
                continue
        yield b"\x01" + body


def _heads(counts: Ints, widths: Ints, from_smallest: npt.NDArray[np.bool_], bases: Ints) -> list[bytes]:
    """What stands before the codes, the first byte left out."""
    varies = widths > 0
    flags = np.packbits(varies, axis=1, bitorder="little")
    kinds = (widths + _FROM_SMALLEST * from_smallest).astype(np.uint8)
    shifted = (bases - ABSENT).view(np.uint64)
    lengths = (_widths(shifted) + 7) // 8
    pairs = np.zeros((len(counts), _COUNTS_BYTES * 2), np.uint8)
    pairs[:, :_COLUMNS] = lengths
    nibbles = pairs[:, ::2] | (pairs[:, 1::2] << 4)
    octets = shifted.view(np.uint8).reshape(len(counts), _COLUMNS, _OCTETS)
    kept = lengths[:, :, None] > _OCTET
    return [
        count.to_bytes(2, "little")
        + flags[index].tobytes()
        + kinds[index][varies[index]].tobytes()
        + nibbles[index].tobytes()
        + octets[index][kept[index]].tobytes()
        for index, count in enumerate(counts.tolist())
    ]


def _widths(numbers: _U64) -> Ints:
    """Bits that each number needs; one too many for some that a double cannot hold."""
    return np.minimum(np.frexp(numbers.astype(np.float64))[1], _MOST_BITS).astype(np.int64)


def _deflated(body: bytes) -> bytes:
    maker = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return maker.compress(body) + maker.flush()


def _unpack(packed: Sequence[tuple[int, bytes]]) -> tuple[Ints, Ints]:
    heads = [_Head(_body(body)) for _, body in packed]
    counts = np.array([head.count for head in heads], np.int64)
    ends = counts.cumsum()
    first = ends - counts
    codes = _codes(heads, first.tolist(), int(ends[-1]))
    owner = np.repeat(np.arange(len(heads)), counts)
    bases = np.array([head.bases for head in heads], np.uint64).view(np.int64) + ABSENT
    from_smallest = np.array([head.from_smallest for head in heads])[owner]
    steps = (codes >> _ONE).view(np.int64) ^ -(codes & _ONE).view(np.int64)
    steps[from_smallest] = 0
    # Sums go on from hour to hour, so that what there was before an hour is taken off; its first row has no step.
    sums = steps.cumsum(axis=0)
    table = np.where(from_smallest, codes.view(np.int64), sums - sums[first][owner]) + bases[owner]
    starts = np.array([hour for hour, _ in packed], np.int64) * HOUR_S
    spans = table[:, _TS] + table[:, _INTERVAL]
    until = spans.cumsum()
    ts = table[:, _TS] = until + (starts - until[first] + spans[first])[owner]
    hour_starts = starts[owner]
    is_rising = np.concatenate(([True], ts[1:] > ts[:-1]))
    is_rising[first] = True
    if not (is_rising & (ts > hour_starts) & (ts <= hour_starts + HOUR_S)).all():
        raise ValueError("its rows are of another hour, or not by rising time")
    return table, counts


def _codes(heads: Sequence[_Head], first: Sequence[int], count: int) -> _U64:
    """The codes of all rows: (count, columns); 0 where a column does not vary."""
    widths = np.array([head.widths for head in heads])
    column, octet, kept = _layout(widths)
    planes = np.zeros((len(column) * 8, count), np.uint8)
    for head, here, begin in zip(heads, kept, first, strict=True):
        bits = np.unpackbits(
            np.frombuffer(head.body, np.uint8, offset=head.codes_at), count=head.bits, bitorder="little"
        )
        planes[np.flatnonzero(here), begin : begin + head.count] = bits.reshape(-1, head.count)
    octets = np.zeros((_COLUMNS * 8, count), np.uint8)
    octets[column * 8 + octet] = np.einsum("kbn,b->kn", planes.reshape(-1, 8, count), _BIT_OF_OCTET)
    return np.ascontiguousarray(octets.T).view(np.uint64)


def _layout(widths: Ints) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """Column and octet of each byte that some hour needs; which of their bits each hour has: (hours, 8 x bytes)."""
    column, octet = np.nonzero(((widths.max(axis=0) + 7) // 8)[:, None] > _OCTET)
    bit = (octet[:, None] * 8 + _OCTET).reshape(-1)
    return column, octet, bit < widths[:, np.repeat(column, 8)]


def _body(packed: bytes) -> bytes:
    """What follows the first byte, inflated. Raises ValueError."""
    if not isinstance(packed, bytes) or len(packed) < 2:
        raise ValueError("its rows are cut off")
    if packed[0] == _PLAIN:
        return packed[1:]
    if packed[0] != _DEFLATED:
        raise ValueError(f"its rows are packed in a way that is not known: {packed[0]}")
    maker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = maker.decompress(packed[1:], _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"its rows cannot be inflated: {error}") from error
    if not maker.eof or maker.unused_data:
        raise ValueError("its rows are cut off, or something follows them")
    return body


class _Head:
    """What stands before the codes, and where those lie."""

    __slots__ = ("bases", "bits", "body", "codes_at", "count", "from_smallest", "widths")

    def __init__(self, body: bytes) -> None:
        """Raises ValueError: there is more or less of it than there must be."""
        flags = int.from_bytes(body[2 : 2 + _FLAG_BYTES], "little")
        at = 2 + _FLAG_BYTES + flags.bit_count()
        kinds = iter(body[2 + _FLAG_BYTES : at])
        nibbles = body[at : at + _COUNTS_BYTES]
        at += _COUNTS_BYTES
        if flags >> _COLUMNS or len(body) < at:
            raise ValueError("its rows are cut off")
        columns = [next(kinds) if flags >> column & 1 else 0 for column in range(_COLUMNS)]
        lengths = [nibble for pair in nibbles for nibble in (pair & 15, pair >> 4)][:_COLUMNS]
        self.body = body
        self.count = int.from_bytes(body[:2], "little")
        self.widths = [kind & ~_FROM_SMALLEST for kind in columns]
        self.from_smallest = [kind >= _FROM_SMALLEST for kind in columns]
        self.bits = self.count * sum(self.widths)
        self.bases = []
        for length in lengths:
            self.bases.append(int.from_bytes(body[at : at + length], "little"))
            at += length
        self.codes_at = at
        is_wide = max(self.widths) > _MOST_BITS or max(lengths) > _OCTETS
        if not self.count or is_wide or len(body) != at + (self.bits + 7) // 8:
            raise ValueError("its rows are cut off, or something follows them")
