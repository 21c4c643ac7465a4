"""The smallest size that still holds what a VM used. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from aggregator.histogram import Floats
from reports.facts import Facts
from reports.policy import Bools

GIB = float(2**30)


@dataclass(frozen=True, slots=True, kw_only=True)
class SizingLimits:
    """When a VM is larger than it needs to be.

    Args:
        cpu_p95_ratio: P95 of CPU that the new size may have.
        mem_max_ratio: highest memory use that the new size may have.
        mem_step_bytes: memory is proposed in multiples of this.
        min_saving_ratio: of vCPU or of memory; less is not worth a restart.
    """

    cpu_p95_ratio: float = 0.60
    mem_max_ratio: float = 0.80
    mem_step_bytes: float = GIB
    min_saving_ratio: float = 0.25


class Sizes(NamedTuple):
    """Proposed sizes, (n,) each; NaN and False where the figures are not known or nothing can be given back.

    Attributes:
        oversized: a smaller size holds it, and saves enough.
        vcpus, mem_bytes: the proposed size, never larger than the present one.
        freed_vcpus, freed_mem_bytes: present less proposed.
    """

    oversized: Bools
    vcpus: Floats
    mem_bytes: Floats
    freed_vcpus: Floats
    freed_mem_bytes: Floats


def right_size(facts: Facts, days: int, limits: SizingLimits) -> Sizes:
    """The smallest size (whole vCPU, steps of memory) that holds P95 CPU and peak memory of a window."""
    busy_vcpus = facts.column(days, "cpu_busy_p95_ratio") * facts.cpu_count
    peak_bytes = facts.column(days, "mem_used_max_ratio") * facts.mem_total_bytes
    # A figure exactly at its limit needs no more: the 9th digit is the noise of binary fractions.
    vcpus = np.maximum(np.ceil(np.round(busy_vcpus / limits.cpu_p95_ratio, 9)), 1.0)
    steps = np.ceil(np.round(peak_bytes / limits.mem_max_ratio / limits.mem_step_bytes, 9))
    mem_bytes = np.maximum(steps, 1.0) * limits.mem_step_bytes
    known = ~(np.isnan(vcpus) | np.isnan(mem_bytes))
    vcpus = np.minimum(vcpus, facts.cpu_count)
    mem_bytes = np.minimum(mem_bytes, facts.mem_total_bytes)
    freed_vcpus = facts.cpu_count - vcpus
    freed_mem_bytes = facts.mem_total_bytes - mem_bytes
    worth = (freed_vcpus >= np.maximum(limits.min_saving_ratio * facts.cpu_count, 1.0)) | (
        freed_mem_bytes >= np.maximum(limits.min_saving_ratio * facts.mem_total_bytes, limits.mem_step_bytes)
    )
    return Sizes(known & worth, vcpus, mem_bytes, freed_vcpus, freed_mem_bytes)
