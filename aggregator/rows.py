"""The packed row: one sample as 98 bytes, in the journal and in memory. Pure, without numpy.

A million samples as Python objects take about 0.7 GB, packed 0.1 GB. A figure that was not measured is NaN.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from math import isnan

from agent.sample import FIELDS, Unit

NAN = float("nan")

# Bytes need a double to stay exact; everything else fits the 24 bits of a float at the precision a store keeps.
_CODES = "".join("d" if field.unit is Unit.BYTES else "f" for field in FIELDS)
LAYOUT = "<IH" + _CODES
ROW = struct.Struct(LAYOUT)
ROW_BYTES = ROW.size
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
        yield {"ts": ts, "interval_s": interval_s, **_wire_values(values)}


def _wire_values(values: list[float]) -> Mapping[str, float | int | None]:
    named: dict[str, float | int | None] = {}
    for field, value in zip(FIELDS, values, strict=True):
        if isnan(value):
            named[field.name] = None
        elif field.unit in (Unit.BYTES, Unit.COUNT):
            named[field.name] = int(value)
        else:
            # A float carries 7 digits; rounding to the stored precision hides its noise.
            named[field.name] = round(round(value / field.unit.quantum) * field.unit.quantum, 6)
    return named
