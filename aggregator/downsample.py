"""Samples of a span, as they are or as one mean a step. Pure: what fetches them is handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from agent.sample import FIELDS

# Fetched at once: what lies in memory is a day of one VM, however long the span.
_FETCHED_S = 86_400


def between(
    fetch: Callable[[int, int], Sequence[Mapping[str, object]]], from_s: int, to_s: int
) -> Iterator[Mapping[str, object]]:
    """Samples whose intervals end after `from_s` and not after `to_s`, oldest first, each `ts` once.

    Args: fetch: samples with first ≤ ts ≤ last, in any order.
    """
    for start_s in range(from_s, to_s, _FETCHED_S):
        end_s = min(start_s + _FETCHED_S, to_s)
        by_ts = {_ts(sample): sample for sample in fetch(start_s, end_s)}
        for ts in sorted(by_ts):
            if start_s < ts <= end_s:
                yield by_ts[ts]


def bucket_means(samples: Iterable[Mapping[str, object]], step_s: int) -> Iterator[dict[str, object]]:
    """One mapping per step that holds samples: `ts` (its end, a multiple of `step_s`), `samples` (how many), and each
    field's mean over the samples that have it, None where none has.

    Args: samples: oldest first.  step_s: more than zero.
    """
    end_s, bucket = 0, list[Mapping[str, object]]()
    for sample in samples:
        # `ts` ends the sample's interval, so a sample on the border belongs to the step before it.
        sample_end_s = -(-_ts(sample) // step_s) * step_s
        if bucket and sample_end_s != end_s:
            yield _mean(end_s, bucket)
            bucket = []
        end_s = sample_end_s
        bucket.append(sample)
    if bucket:
        yield _mean(end_s, bucket)


def _ts(sample: Mapping[str, object]) -> int:
    return int(str(sample["ts"]))


def _mean(end_s: int, bucket: Sequence[Mapping[str, object]]) -> dict[str, object]:
    means: dict[str, object] = {"ts": end_s, "samples": len(bucket)}
    for field in FIELDS:
        values = [value for sample in bucket if isinstance(value := sample.get(field.name), int | float)]
        means[field.name] = sum(values) / len(values) if values else None
    return means
