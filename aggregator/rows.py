"""The packed row: one sample as 98 bytes, in the journal and in memory. Pure, without numpy.

A million samples as Python objects take about 0.7 GB, packed 0.1 GB. A figure that was not measured is NaN.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from math import isnan

from agent.sample import FIELDS, Unit

NAN = float("nan")

# Bytes need a double to stay exact; everything else fits the 24 bits of a float at the precision a store keeps.
_CODES = "".join("d" if field.unit is Unit.BYTES else "f" for field in FIELDS)
LAYOUT = "<IH" + _CODES
ROW = struct.Struct(LAYOUT)
ROW_BYTES = ROW.size
_QUANTA = tuple(field.unit.quantum for field in FIELDS)
_SCALES = tuple((field.name, field.unit.quantum, field.unit in (Unit.BYTES, Unit.COUNT)) for field in FIELDS)
SAMPLE_COLUMNS: tuple[str, ...] = ("ts", "interval_s", *(field.column for field in FIELDS))
_TS = struct.Struct("<I")

# The same layout for numpy: (name, format) pairs.
DTYPE_FIELDS: list[tuple[str, str]] = [
    ("ts", "<u4"),
    ("interval_s", "<u2"),
    *((field.column, "<f8" if field.unit is Unit.BYTES else "<f4") for field in FIELDS),
]


def row_ts(rows: bytes | bytearray | memoryview, index: int) -> int:
    """`ts` of row `index`."""
    ts: int = _TS.unpack_from(rows, index * ROW_BYTES)[0]
    return ts


def unpack_rows(rows: bytes | bytearray | memoryview) -> Iterator[dict[str, float | int | None]]:
    """Rows as the fields of the wire, `interval_s` added; None for what was not measured."""
    for ts, interval_s, *values in ROW.iter_unpack(rows):
        steps = [
            None if isnan(value) else round(value / quantum) for value, quantum in zip(values, _QUANTA, strict=True)
        ]
        yield {"ts": ts, "interval_s": interval_s, **_in_units(steps)}


def dequantise(row: Sequence[int | None]) -> dict[str, float | int | None]:
    """A stored row (in SAMPLE_COLUMNS order) as the fields of the wire and `interval_s`."""
    return {"ts": row[0], "interval_s": row[1], **_in_units(row[2:])}


def _in_units(steps: Sequence[int | None]) -> dict[str, float | int | None]:
    # A quantum such as 1e-5 is not exact in binary.
    return {
        name: None if step is None else int(step * quantum) if is_whole else round(step * quantum, 6)
        for (name, quantum, is_whole), step in zip(_SCALES, steps, strict=True)
    }
