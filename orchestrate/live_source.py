"""What the aggregator has in memory: each VM's newest minutes, asked of its admin door page by page. Blocking."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

from aggregator.admin_client import AdminAnswer, AdminUnavailable
from orchestrate.sighting import Minute
from reports.words import duration_words

# About 10 MB of JSON: a fleet at once would not fit an answer.
PAGE_VMS = 2_000
# Ages are told by this controller's clock and times by the aggregator's: apart by more, neither can be believed.
MAX_CLOCKS_APART_S = 60.0
_UNKNOWN_PARAMETER = 422


class Door(Protocol):
    """The part of `aggregator.admin_client.AdminClient` that is asked."""

    @property
    def place(self) -> str: ...
    def get(self, target: str) -> AdminAnswer: ...
    def decoded(self, answer: AdminAnswer) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveVm:
    """One VM in the aggregator's memory.

    Args:
        received_s: when its newest push came, the aggregator's clock.
        newest_s: ts of its newest sample; None where only a push without new samples is remembered.
        boot: of its newest push; None where the aggregator does not tell.
        minutes: its newest samples, oldest first, at most ten.
    """

    received_s: float
    newest_s: float | None
    skew_s: float
    flags: tuple[str, ...]
    boot: str | None
    minutes: tuple[Minute, ...]


class Live(Protocol):
    """Who tells the newest minutes: one aggregator, or all nodes of a fleet."""

    def read(self, with_minutes: Container[str] | None = None) -> Iterator[tuple[str, LiveVm]]:
        """Every VM in memory, by id.

        Args: with_minutes: ids of VMs whose minutes are wanted, the others have none; None: all of them.

        Raises:
            PartlyUnavailable: at the end, after all that could be read: some could not be asked.
            AdminUnavailable: none could.
        """
        ...

    def read_one(self, vm_id: str) -> LiveVm | None:
        """One VM as it is now; None: nothing was heard of it lately. Raises: AdminUnavailable: nobody can tell."""
        ...


class PartlyUnavailable(AdminUnavailable):
    """What was read is true, and is not all there is. `reason`: who could not be asked, and why."""


class LiveSource:
    """Reads `/v1/live` of one aggregator.

    Args:
        door: of the aggregator; asked in the caller's thread.
        clock: Unix seconds of this controller.
    """

    def __init__(self, door: Door, *, clock: Callable[[], float]) -> None:
        self._door = door
        self._clock = clock

    def read(self, with_minutes: Container[str] | None = None) -> Iterator[tuple[str, LiveVm]]:
        """Every VM in memory, by id, a page at a time.

        Args: with_minutes: ids of VMs whose minutes are wanted, the others have none; None: all of them.

        Raises: AdminUnavailable: no answer that can be used, or the two clocks are apart.
        """
        after: str | None = ""
        while after is not None:
            page, after = self._page({"after": after, "limit": PAGE_VMS}, with_minutes)
            yield from page

    def read_one(self, vm_id: str) -> LiveVm | None:
        """One VM as it is now; None: the aggregator has heard nothing of it lately. Raises: AdminUnavailable."""
        page, _ = self._page({"vm": vm_id})
        return dict(page).get(vm_id)

    def _page(
        self, query: Mapping[str, str | int], with_minutes: Container[str] | None = None
    ) -> tuple[list[tuple[str, LiveVm]], str | None]:
        answer = self._door.get(f"/v1/live?{urlencode(query)}")
        if answer.status == _UNKNOWN_PARAMETER:
            # An older aggregator knows no pages: it gives everything at once.
            answer = self._door.get("/v1/live")
        if answer.status != 200:
            raise AdminUnavailable(f"{self._door.place} answered {answer.status} to /v1/live")
        document = self._door.decoded(answer)
        try:
            return self._parsed(document, with_minutes)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise AdminUnavailable(f"{self._door.place} told of its VMs in a way that cannot be read") from error

    def _parsed(
        self, document: Any, with_minutes: Container[str] | None
    ) -> tuple[list[tuple[str, LiveVm]], str | None]:
        apart_s = float(document["now_s"]) - self._clock()
        if abs(apart_s) > MAX_CLOCKS_APART_S:
            ahead = "ahead of" if apart_s > 0 else "behind"
            raise AdminUnavailable(
                f"the clock of {self._door.place} is {duration_words(abs(apart_s))} {ahead} that of this controller"
            )
        after = document.get("next")
        if after is not None and not isinstance(after, str):
            raise ValueError("next is no id")
        vms = ((str(each["vm"]), each) for each in document["vms"])
        return [
            (vm_id, _live_vm(each, with_minutes=with_minutes is None or vm_id in with_minutes)) for vm_id, each in vms
        ], after


def _live_vm(each: Mapping[str, Any], *, with_minutes: bool) -> LiveVm:
    samples = each["samples"]
    boot = each.get("boot")
    return LiveVm(
        received_s=float(each["last_seen_s"]),
        newest_s=max((float(sample["ts"]) for sample in samples), default=None),
        skew_s=float(each["skew_s"]),
        flags=tuple(map(str, each["flags"])),
        boot=str(boot) if boot else None,
        minutes=parse_minutes(samples) if with_minutes else (),
    )


def parse_minutes(samples: Sequence[Mapping[str, Any]]) -> tuple[Minute, ...]:
    """Samples in fields of the wire, with `interval_s`, as minutes, oldest first. Raises: KeyError, TypeError."""
    return tuple(sorted(map(_minute, samples), key=lambda minute: minute.ts_s))


def _minute(sample: Mapping[str, Any]) -> Minute:
    read, written = sample.get("disk_read_bytes_per_s"), sample.get("disk_write_bytes_per_s")
    return Minute(
        ts_s=float(sample["ts"]),
        interval_s=float(sample["interval_s"]),
        cpu_busy_ratio=float(sample["cpu_busy_ratio"]),
        mem_used_bytes=float(sample["mem_used_bytes"]),
        users=sample.get("users"),
        net_rx_bytes_per_s=sample.get("net_rx_bytes_per_s"),
        net_tx_bytes_per_s=sample.get("net_tx_bytes_per_s"),
        disk_bytes_per_s=None if read is None or written is None else float(read) + float(written),
        swap_used_bytes=sample.get("swap_used_bytes"),
    )
