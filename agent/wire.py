"""The wire (v1): samples to JSON and back. No I/O; docs/wire.md describes every field.

The encoder serves the agent, the simulator and the replay. The decoder here is the plain one that
tests and tools use; the aggregator has a faster one with the same answers (a test holds them together).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from agent.sample import FIELDS, Sample, Unit

VERSION = 1
DEFAULT_INTERVAL_S = 60
MAX_SAMPLES_PER_BATCH = 1_000
MAX_BODY_BYTES = 1 << 20
VM_ID_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"
_VM_ID = re.compile(VM_ID_PATTERN)

# Integers print as they are; ratios, rates and times with no more digits than a store keeps.
_FORMATS = {
    Unit.RATIO: "%.5g",
    Unit.BYTES: "%d",
    Unit.BYTES_PER_S: "%.1f",
    Unit.COUNT: "%d",
    Unit.LOAD: "%.2f",
    Unit.CPU_S: "%.3f",
}
FULL_SAMPLE_FORMAT = '{"ts": %d, ' + ", ".join(f'"{field.name}": {_FORMATS[field.unit]}' for field in FIELDS) + "}"


class WireError(ValueError):
    """A message that is not of this protocol; the text says what is wrong and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one push carries.

    Attributes:
        vm: id of the VM; equals the `Fallow-VM` header.
        boot: id of this boot of the VM.
        seq: number of this push within the boot.
        sent_s: Unix time on the agent's clock when the push was sent.
        interval_s: length of each sample's interval; divides 3600.
        samples: oldest first.
    """

    vm: str
    boot: str
    seq: int
    sent_s: float
    interval_s: int
    samples: tuple[Sample, ...]


def is_vm_id(text: str) -> bool:
    """Whether `text` is, as a whole, an id that may name a VM and its files."""
    return _VM_ID.fullmatch(text) is not None


def encode_sample(sample: Sample) -> str:
    """One sample as a JSON object; figures that were not measured are left out."""
    values = [getattr(sample, field.name) for field in FIELDS]
    if None not in values:
        return FULL_SAMPLE_FORMAT % (sample.ts, *values)
    known = (
        f'"{field.name}": {_FORMATS[field.unit] % value}'
        for field, value in zip(FIELDS, values, strict=True)
        if value is not None
    )
    return f'{{"ts": {sample.ts}, {", ".join(known)}}}'


def encode_batch(*, vm: str, boot: str, seq: int, sent_s: float, interval_s: int, samples: Sequence[str]) -> bytes:
    """The body of a push from samples that `encode_sample` made, oldest first."""
    head = json.dumps(
        {"v": VERSION, "vm": vm, "boot": boot, "seq": seq, "sent_s": round(sent_s, 3), "interval_s": interval_s}
    )
    return f'{head[:-1]}, "samples": [{", ".join(samples)}]}}'.encode()


def decode_batch(body: bytes) -> Batch:
    """A push as values. Raises WireError: not JSON, not this version, or a figure out of range."""
    try:
        message = json.loads(body)
        if not isinstance(message, dict):
            raise WireError("the body is not a JSON object")
        if message.get("v") != VERSION:
            raise WireError(f"v: {message.get('v')!r} is not a supported version (supported: {VERSION})")
        names = {"ts", *(field.name for field in FIELDS)}
        samples = tuple(
            Sample(**{name: value for name, value in item.items() if name in names}) for item in message["samples"]
        )
        batch = Batch(
            vm=message["vm"],
            boot=message["boot"],
            seq=message["seq"],
            sent_s=message["sent_s"],
            interval_s=message.get("interval_s", DEFAULT_INTERVAL_S),
            samples=samples,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(f"not a batch of samples: {error}") from error
    if not is_vm_id(batch.vm):
        raise WireError(f"vm: {batch.vm!r} is not a VM id")
    return batch
