"""What freed capacity is worth: vCPU-equivalents to rank by, energy and money. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from aggregator.histogram import Floats

MONTH_H = 730.0  # 8,760 hours of a year by 12
_GIB = float(2**30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What capacity costs, from an admin's configuration.

    Args:
        currency: as printed behind amounts; None: no prices are known, and no money is shown.
        vcpu_hour, mem_gib_hour, disk_gib_month, kwh: prices of one.
        watts_per_vcpu, watts_per_mem_gib: what a freed one saves. Defaults: the mean of the large clouds at rest,
            0.74 W a vCPU, and 0.392 W a GiB. Source: Cloud Carbon Footprint, "Methodology".
        mem_gib_per_vcpu: GiB of memory that rank as much as one vCPU.
    """

    currency: str | None = None
    vcpu_hour: float = 0.0
    mem_gib_hour: float = 0.0
    disk_gib_month: float = 0.0
    kwh: float = 0.0
    watts_per_vcpu: float = 0.74
    watts_per_mem_gib: float = 0.392
    mem_gib_per_vcpu: float = 4.0


class Freed(NamedTuple):
    """Capacity given back, (n,) each, 0 for none: averages over the week, so that half the hours count half."""

    vcpus: Floats
    mem_bytes: Floats
    disk_bytes: Floats

    def only(self, chosen: np.ndarray) -> Freed:
        """The same with nothing for VMs that are not chosen."""
        return Freed(*(np.where(chosen, part, 0.0) for part in self))


class Worth(NamedTuple):
    """(n,) each. `money_per_month` is 0 throughout without prices."""

    vcpu_equivalents: Floats
    kwh_per_month: Floats
    money_per_month: Floats


def worth(freed: Freed, prices: Prices) -> Worth:
    """What freed capacity is worth in a month. Unknown sizes (NaN) count as nothing."""
    vcpus, mem_gib = np.nan_to_num(freed.vcpus), np.nan_to_num(freed.mem_bytes) / _GIB
    disk_gib = np.nan_to_num(freed.disk_bytes) / _GIB
    kwh = (vcpus * prices.watts_per_vcpu + mem_gib * prices.watts_per_mem_gib) * MONTH_H / 1000
    money = (
        (vcpus * prices.vcpu_hour + mem_gib * prices.mem_gib_hour) * MONTH_H
        + disk_gib * prices.disk_gib_month
        + kwh * prices.kwh
    )
    return Worth(vcpus + mem_gib / prices.mem_gib_per_vcpu, kwh, money)
