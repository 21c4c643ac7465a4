"""The VM-minutes that fallow and its peers are given alike, as figures already printed.

Every figure is rounded to the step in which fallow keeps it, so that nobody stores digits that another one drops.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agent.sample import FIELDS, Sample, Unit
from agent.shapes import DEFAULT_PROFILES, INTERVAL_S, Noise, SimulatedVm, make_fleet, parse_profiles

FIELD_NAMES = tuple(field.name for field in FIELDS)
_LIVELY = ("low", "office", "batch", "busy", "spiky")  # profiles that have samples from the first to the last minute

Texts = tuple[str | None, ...]  # in the order of FIELDS; None is not measured


@dataclass(frozen=True, slots=True)
class Minute:
    """One interval of one VM. `texts`: its figures as they are sent, in the order of FIELDS."""

    ts: int
    texts: Texts

    def known(self) -> Iterator[tuple[str, str]]:
        """Names and texts of the figures that were measured."""
        return ((name, text) for name, text in zip(FIELD_NAMES, self.texts, strict=True) if text is not None)

    @property
    def points(self) -> int:
        """How many figures it holds."""
        return len(self.texts) - self.texts.count(None)


def _decimals(digits: int) -> Callable[[float], str]:
    def text(value: float) -> str:
        # Without zeros at the end, as every encoder prints them.
        return f"{value:.{digits}f}".rstrip("0").rstrip(".")

    return text


_TEXT: dict[Unit, Callable[[float], str]] = {
    Unit.RATIO: _decimals(5),
    Unit.BYTES: lambda value: str(int(value) // 1024 * 1024),
    Unit.BYTES_PER_S: lambda value: str(round(value)),
    Unit.COUNT: lambda value: str(round(value)),
    Unit.LOAD: _decimals(2),
    Unit.CPU_S: _decimals(3),
}
_TEXTS = tuple((field.name, _TEXT[field.unit]) for field in FIELDS)


def minute_of(sample: Sample) -> Minute:
    """A sample as it is sent here."""
    values = ((getattr(sample, name), text) for name, text in _TEXTS)
    return Minute(sample.ts, tuple(None if value is None else text(value) for value, text in values))


def lively_fleet(vms: int, *, days: float, end_s: int, seed: int = 1) -> tuple[SimulatedVm, ...]:
    """Simulated VMs of every kind that is there from the first to the last minute."""
    shares = {name: share for name, share in parse_profiles(DEFAULT_PROFILES).items() if name in _LIVELY}
    return make_fleet(shares, vms=vms, days=days, end_s=end_s, seed=seed)


def minutes_of(vm: SimulatedVm, noise: Noise, after_s: int, until_s: int) -> list[Minute]:
    """What a simulated VM did in after_s < ts <= until_s."""
    return [minute_of(Sample(**json.loads(text))) for text in vm.samples(noise, after_s, until_s)]


def kinds(count: int, *, end_s: int) -> list[Texts]:
    """Figures of so many different VM-minutes, for pushes of which only the cost matters."""
    noise = Noise(1)
    fleet = lively_fleet(count, days=1, end_s=end_s)
    return [minutes_of(vm, noise, end_s - INTERVAL_S, end_s)[0].texts for vm in fleet]
