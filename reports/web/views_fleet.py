"""What the pages of the whole fleet show: at a glance, as a list, and while it is judged. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reports.judgement import Savings
from reports.report import Changes, Listed, Sort, Totals
from reports.verdicts import Cause, Verdict
from reports.web.views_shared import Choice, Distribution, Frame, Judged


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictLine:
    """The VMs of one verdict. `freed` is None for a verdict that gives nothing back; `causes` are those with VMs."""

    verdict: Verdict
    vms: int
    share_ratio: float
    freed: Savings | None
    causes: tuple[tuple[Cause, int], ...]
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerLine:
    """What one owner's VMs would free. `owner` None: VMs without one. `length_ratio` is 1 for the largest."""

    owner: str | None
    vms: int
    vcpus: float
    mem_bytes: float
    money_per_month: float | None
    length_ratio: float
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """`/` (template `fleet.html.j2`).

    Attributes:
        totals: of the whole fleet; `totals.vms` is 0 in a new one.
        freed: by all reclaimable VMs together.
        currency: None: there are no prices, and no money is shown.
        verdicts: every verdict in the order of `Verdict`.
        top: the most worthwhile VMs, at most 10.
        distributions: of mean CPU and P95 CPU over the VMs.
        owners: at most 10, the most freed first.
        changes: since the last week; None where nothing is recorded.
        reports: links to the same report as files: name and address.
    """

    frame: Frame
    judged: Judged
    totals: Totals
    freed: Savings
    currency: str | None
    verdicts: tuple[VerdictLine, ...]
    top: tuple[Listed, ...]
    distributions: tuple[Distribution, ...]
    owners: tuple[OwnerLine, ...]
    changes: Changes | None
    reports: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A heading of the list. `direction` is `ascending`, `descending` or None: the list is not ordered by it."""

    sort: Sort
    words: str
    direction: str | None
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """Which part of a list is shown.

    Attributes:
        number, count: from 1; an empty list has one page.
        first, last: places of the VMs shown, from 1; 0 and 0 in an empty list.
        matching: VMs of the whole list.
        previous, next, start, end: addresses, None where there is no such page.
    """

    number: int
    count: int
    first: int
    last: int
    matching: int
    previous: str | None
    next: str | None
    start: str | None
    end: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VmsView:
    """`/vms` (template `vms.html.j2`): the ranked list with its form, which is a GET to `/vms`.

    Form fields: `search` (text), `verdict`, `owner`, `policy`, `window`, `sort`, `order` (selects).

    Attributes:
        search: as typed.
        owner_choices: at most 200 owners, those with the most VMs, and the one asked for.
        is_filtered: a search or a filter leaves VMs out.
        columns: by Sort, to find the heading of a column: `view.columns["money"]`.
        rows: at most 50.
        downloads: the same list as files: name and address.
        reset: address of the list without any filter.
    """

    frame: Frame
    judged: Judged
    totals: Totals
    currency: str | None
    search: str
    verdicts: tuple[Choice, ...]
    owner_choices: tuple[Choice, ...]
    policies: tuple[Choice, ...]
    windows: tuple[Choice, ...]
    sorts: tuple[Choice, ...]
    orders: tuple[Choice, ...]
    columns: Mapping[str, Column]
    rows: tuple[Listed, ...]
    pages: Pages
    downloads: tuple[tuple[str, str], ...]
    reset: str
    is_filtered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitView:
    """A question whose answer is being made (template `wait.html.j2`, status 202): the page asks again by itself.

    Attributes:
        text: what is being made, and why it takes a while.
        href: where to ask again; `back` is a page that is ready now.
    """

    frame: Frame
    text: str
    href: str
    retry_after_s: int
    back: str
