"""One VM's figures over a span, for a chart: from the aggregator that runs, or from the store on this disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agent.wire import is_vm_id
from aggregator.admin_client import AdminUnavailable
from aggregator.series import DEFAULT_POINTS, SERIES, Curve, Number, Series, Span
from aggregator.store_files import StoreError, store_path
from aggregator.store_series import read_series
from reports.node_doors import Door


class SeriesUnavailable(Exception):
    """No series now, though there may be one. `reason`: a sentence in plain words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class UnknownVm(Exception):
    """Nothing is known of a VM with this id."""

    def __init__(self, vm_id: str) -> None:
        self.vm_id = vm_id
        super().__init__(f"{vm_id}: no such VM")


class SeriesSource(Protocol):
    """Where series come from. `name`: for people, such as `the store on this disk`."""

    @property
    def name(self) -> str: ...

    def read(self, vm_id: str, from_s: int, to_s: int, points: int = DEFAULT_POINTS) -> Series:
        """Figures of the samples with from_s < ts <= to_s in at most `points` buckets. Blocks: call it in a thread.

        Raises:
            UnknownVm: this source knows no such VM.
            SeriesUnavailable: it cannot tell.
            ValueError: a span that ends before it starts, or points out of range.
        """
        ...


class SeriesFinder(Protocol):
    """Who looks for a series at several places."""

    def find(self, vm_id: str, from_s: int, to_s: int, points: int = DEFAULT_POINTS) -> Found:
        """As SeriesSource, with who told it and what is missing."""
        ...


class AdminSeries:
    """Asks the running aggregator behind a door, which has the newest minutes too."""

    def __init__(self, door: Door) -> None:
        self._client = door

    @property
    def name(self) -> str:
        return self._client.place

    def read(self, vm_id: str, from_s: int, to_s: int, points: int = DEFAULT_POINTS) -> Series:
        """See SeriesSource."""
        span = Span(from_s=from_s, to_s=to_s, points=points)
        _check_id(vm_id)
        target = f"/v1/vms/{vm_id}/series?from={span.from_s}&to={span.to_s}&points={span.points}"
        try:
            answer = self._client.get(target)
            if answer.status == 200:
                return parse_series(self._client.decoded(answer))
        except AdminUnavailable as error:
            raise SeriesUnavailable(error.reason) from error
        except ValueError as error:
            raise SeriesUnavailable(f"{self.name} answered what is no series: {error}") from error
        reason, detail = answer.problem
        if answer.status == 404 and reason == "unknown-vm":
            raise UnknownVm(vm_id)
        raise SeriesUnavailable(f"{self.name} answered {answer.status}: {detail or 'no reason given'}")


class LocalSeries:
    """Reads the stores of a data directory on this machine; what no flush has stored yet is not there."""

    name = "the store on this disk"

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def read(self, vm_id: str, from_s: int, to_s: int, points: int = DEFAULT_POINTS) -> Series:
        """See SeriesSource."""
        span = Span(from_s=from_s, to_s=to_s, points=points)
        _check_id(vm_id)
        path = store_path(self._data_dir, vm_id)
        try:
            if not path.exists():
                raise UnknownVm(vm_id)
            return read_series(path, vm_id, span)
        except (StoreError, OSError) as error:
            raise SeriesUnavailable(f"the store of {vm_id} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A series and who gave it.

    Attributes:
        source: name of the one that answered.
        passed: why those before it did not, in their order.
        missing: what history there is beside this, and why it is not in it, a sentence each.
    """

    series: Series
    source: str
    passed: tuple[str, ...]
    missing: tuple[str, ...] = ()


class FirstOf:
    """Asks sources in their order until one answers."""

    def __init__(self, sources: Sequence[SeriesSource]) -> None:
        self._sources = tuple(sources)

    @property
    def name(self) -> str:
        return ", else ".join(source.name for source in self._sources)

    def read(self, vm_id: str, from_s: int, to_s: int, points: int = DEFAULT_POINTS) -> Series:
        """See SeriesSource; `find` says who answered."""
        return self.find(vm_id, from_s, to_s, points).series

    def find(self, vm_id: str, from_s: int, to_s: int, points: int = DEFAULT_POINTS) -> Found:
        """The first answer.

        Raises:
            UnknownVm: every source says so.
            SeriesUnavailable: none answered; the reason has all of theirs.
            ValueError: as of SeriesSource.
        """
        passed: list[str] = []
        unknown = 0
        for source in self._sources:
            try:
                series = source.read(vm_id, from_s, to_s, points)
                return Found(series=series, source=source.name, passed=tuple(passed))
            except UnknownVm:
                unknown += 1
                passed.append(f"{source.name} knows no such VM")
            except SeriesUnavailable as error:
                passed.append(error.reason)
        # A source that could not tell may know the VM.
        if unknown and unknown == len(self._sources):
            raise UnknownVm(vm_id)
        raise SeriesUnavailable("; ".join(passed) or "no source of series is set up")


def parse_series(document: object) -> Series:
    """A decoded answer of the admin door. Figures that this program does not know are left out.

    Raises: ValueError: it has another shape, or columns of different lengths.
    """
    if not isinstance(document, dict) or not isinstance(document.get("series"), dict):
        raise ValueError("it is no object with series")
    vm_id = document.get("vm")
    if not isinstance(vm_id, str):
        raise ValueError("vm: is no text")
    ends_s: Any = document.get("ends_s")
    if not isinstance(ends_s, list) or not all(type(end_s) is int for end_s in ends_s):
        raise ValueError("ends_s: is no list of whole numbers")
    return Series(
        vm=vm_id,
        from_s=_whole(document, "from_s"),
        to_s=_whole(document, "to_s"),
        step_s=_whole(document, "step_s"),
        ends_s=ends_s,
        series={name: _curve(name, document["series"].get(name), len(ends_s)) for name in SERIES},
    )


def _curve(name: str, columns: object, length: int) -> Curve:
    if not isinstance(columns, dict):
        raise ValueError(f"series.{name}: is missing")
    least, mean, largest = (_column(f"{name}.{part}", columns.get(part), length) for part in ("min", "mean", "max"))
    return Curve(min=least, mean=mean, max=largest)


def _column(name: str, values: Any, length: int) -> list[Number | None]:
    if not isinstance(values, list) or len(values) != length:
        raise ValueError(f"series.{name}: is no list of {length} values")
    if not all(value is None or type(value) in (int, float) for value in values):
        raise ValueError(f"series.{name}: holds something that is no number")
    return values


def _whole(document: Mapping[str, object], name: str) -> int:
    value = document.get(name)
    if type(value) is not int:
        raise ValueError(f"{name}: is no whole number")
    return value


def _check_id(vm_id: str) -> None:
    # An id that is none may hold anything, a path too: it never reaches a URL or a file name.
    if not is_vm_id(vm_id):
        raise UnknownVm(vm_id)
