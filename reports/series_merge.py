"""One VM's series from several nodes as one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aggregator.series import Curve, Number, Series

_Row = tuple[Number | None, Number | None, Number | None]


def merge_series(first: Series, *others: Series) -> Series:
    """All of them in one: buckets of `first`, and where it has none, of the others in their order.

    On the longest buckets of any: shorter ones are joined, each into the one in which it ends.

    Args: others: of the same VM and span.
    """
    found = [first, *(one for one in others if one.ends_s)]
    if len(found) == 1:
        return first
    if not first.ends_s:
        return merge_series(*found[1:])
    step_s = max(one.step_s for one in found)
    buckets: dict[int, Mapping[str, _Row]] = {}
    for one in found:
        for end_s, rows in _buckets(one, step_s).items():
            buckets.setdefault(end_s, rows)
    ends_s = sorted(buckets)
    names = dict.fromkeys(name for one in found for name in one.series)
    return Series(
        vm=first.vm,
        from_s=first.from_s,
        to_s=first.to_s,
        step_s=step_s,
        ends_s=ends_s,
        series={name: _curve([buckets[end_s].get(name, _NOTHING) for end_s in ends_s]) for name in names},
    )


_NOTHING: _Row = (None, None, None)


def _curve(rows: Sequence[_Row]) -> Curve:
    return Curve(min=[row[0] for row in rows], mean=[row[1] for row in rows], max=[row[2] for row in rows])


def _buckets(series: Series, step_s: int) -> Mapping[int, Mapping[str, _Row]]:
    """By their ends: as they are, or joined where they are shorter than `step_s`."""
    places: dict[int, list[int]] = {}
    for place, end_s in enumerate(series.ends_s):
        places.setdefault(end_s if series.step_s == step_s else -(-end_s // step_s) * step_s, []).append(place)
    return {
        end_s: {name: _joined(curve, together) for name, curve in series.series.items()}
        for end_s, together in places.items()
    }


def _joined(curve: Curve, places: Iterable[int]) -> _Row:
    """Buckets of one length as one. A least value that one of them does not know is not known of all."""
    rows = [(curve.min[place], mean, curve.max[place]) for place in places if (mean := curve.mean[place]) is not None]
    if len(rows) < 2:
        return rows[0] if rows else _NOTHING
    least = [low for low, _, _ in rows if low is not None]
    largest = [high for _, _, high in rows if high is not None]
    mean = float(f"{sum(mean for _, mean, _ in rows) / len(rows):.6g}")
    return (
        min(least) if len(least) == len(rows) else None,
        int(mean) if mean.is_integer() else mean,
        max(largest) if largest else None,
    )
