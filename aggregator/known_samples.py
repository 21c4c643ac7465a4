"""The samples of a VM, wherever they are by now: its store's and those in memory as one. Blocking: for any thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from aggregator.buffer import Buffer
from aggregator.store_files import read_samples, store_path


def samples_of(data_dir: Path, buffer: Buffer) -> Callable[[str, int, int], list[dict[str, object]]]:
    """(vm, from_s, to_s) → its samples of the wire with from_s ≤ ts ≤ to_s, by rising ts. Raises StoreError."""

    def read(vm_id: str, from_s: int, to_s: int) -> list[dict[str, object]]:
        found: dict[int, dict[str, object]] = {}
        # Memory first: what leaves it meanwhile is in the store by then.
        buffered = list(buffer.samples(vm_id))
        for sample in [*read_samples(store_path(data_dir, vm_id), from_s, to_s), *buffered]:
            ts = int(sample["ts"] or 0)
            if from_s <= ts <= to_s:
                found.setdefault(ts, dict(sample))
        return [found[ts] for ts in sorted(found)]

    return read


def with_store(data_dir: Path) -> Callable[[Iterable[str]], list[str]]:
    """VMs → those of them that have a store."""
    return lambda vm_ids: [vm_id for vm_id in vm_ids if store_path(data_dir, vm_id).exists()]
