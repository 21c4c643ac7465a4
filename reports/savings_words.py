"""What is given back, as people read it: words that every output shares. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from reports.judgement import Judgement, Savings
from reports.report import RECLAIMABLE
from reports.verdicts import Verdict
from reports.words import gib, kwh_words, listed_words, money_words, vcpu_words


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSavings:
    """What one VM would give back; None is not known, or no prices are. Energy and money are of what is known."""

    vcpus: float | None
    mem_bytes: float | None
    disk_bytes: float | None
    kwh_per_month: float | None
    money_per_month: float | None


def known_savings(judgement: Judgement) -> KnownSavings:
    """The VM's savings, in which a size that is not known counts as nothing, with None in the place of such a size."""
    savings = judgement.savings
    reclaimable = judgement.verdict in RECLAIMABLE
    # No VM is of size 0: where the size is not whole, the part that frees nothing is the one that is not known.
    unsized = reclaimable and judgement.size is None
    no_disk = judgement.verdict is Verdict.IDLE and judgement.disk_total_bytes is None
    nothing = unsized and not (savings.vcpus or savings.mem_bytes or savings.disk_bytes)
    return KnownSavings(
        vcpus=None if unsized and not savings.vcpus else savings.vcpus,
        mem_bytes=None if unsized and not savings.mem_bytes else savings.mem_bytes,
        disk_bytes=None if no_disk else savings.disk_bytes,
        kwh_per_month=None if nothing else savings.kwh_per_month,
        money_per_month=None if nothing else savings.money_per_month,
    )


def savings_words(savings: Savings | KnownSavings, currency: str | None) -> str:
    """`12 vCPU, 48.0 GiB of memory and 300.0 GiB of disk (12 kWh and 430.00 EUR a month)`; parts of none are left out.

    Nothing at all is `nothing`.
    """
    parts = [
        f"{vcpu_words(savings.vcpus)} vCPU" if savings.vcpus else "",
        f"{gib(savings.mem_bytes)} of memory" if savings.mem_bytes else "",
        f"{gib(savings.disk_bytes)} of disk" if savings.disk_bytes else "",
    ]
    worth = [
        kwh_words(savings.kwh_per_month) if savings.kwh_per_month else "",
        money_words(savings.money_per_month, currency) if savings.money_per_month else "",
    ]
    words = listed_words([part for part in parts if part]) or "nothing"
    a_month = listed_words([part for part in worth if part])
    return f"{words} ({a_month} a month)" if a_month else words


def unknown_words(savings: KnownSavings) -> str:
    """The parts whose size is not known, as `vCPU and memory`; empty where all are."""
    parts = {"vCPU": savings.vcpus, "memory": savings.mem_bytes, "disk": savings.disk_bytes}
    return listed_words([name for name, value in parts.items() if value is None])
