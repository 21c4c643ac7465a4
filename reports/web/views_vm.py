"""What the page of one VM shows. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from reports.judgement import Judgement
from reports.web.views_shared import Distribution, ExemptionLine, Form, Frame, Judged


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatCell:
    """One hour of the week.

    Attributes:
        words: for a title and for screen readers, such as `Mon 14:00: 3.1% CPU`.
        ratio: mean CPU of four weeks, None where no sample was seen.
        level: 0 (at rest) to 6 (busiest), for its colour; None where no sample was seen.
        off: the proposed timetable has the VM off then.
    """

    hour: int
    words: str
    ratio: float | None
    level: int | None
    off: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatRow:
    """A day of the week, `Mon` first, 24 cells."""

    day: str
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """The hour-of-week profile in the reader's zone, as it is now.

    Attributes:
        heads: 24 texts, such as `00` or, in a zone of half hours, `00:30`.
        covered_weeks: how often each hour was seen at least; fewer than 4 are provisional.
        is_empty: no hour was seen.
        off_ranges: when the proposed timetable has it off, in words, such as `Mon 19:00 – Tue 07:00`.
    """

    heads: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    covered_weeks: int
    is_empty: bool
    off_ranges: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLine:
    """One policy's verdict on one VM. `is_chosen`: the one that the page judges by; `href` shows the VM by it."""

    policy: str
    summary: str
    judgement: Judgement
    is_chosen: bool
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLine:
    """Something that was done to a VM: `kind` is `reclaimed`, `kept`, `objected` or `returned`."""

    at_s: float
    kind: str
    by: str
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VmLinks:
    """Where the page's script finds its data; all answer JSON. `host` is a page, None without a host."""

    series: str
    profile: str
    histogram: str
    json: str
    host: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesLine:
    """A chart of the page: series of one unit that are drawn together, by their names in the API.

    Attributes:
        unit: `ratio`, `bytes_per_s` or `count`.
        series: name in the API and words, such as `("net_rx_bytes_per_s", "received")`.
    """

    key: str
    title: str
    unit: str
    series: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VmView:
    """`/vms/{id}` (template `vm.html.j2`).

    Attributes:
        judgement: by the policy asked for, with every figure beside its limit.
        by_policy: every policy, the chosen one too.
        distributions: of hours by CPU, memory and traffic, over the window; those whose figure is known.
        exemption: what keeps the VM: its own, or one by tag or name; None: nothing.
        keep: form with the fields `until`, `reason`, `owner`.
        events: newest first.
        charts: drawn by script from `links.series`; `from_s`, `to_s` is the span to begin with.
        name: what people call it: its name, host name or id.
        home: the node that keeps its history; None where there is one node, or nobody has said.
    """

    frame: Frame
    name: str
    home: str | None
    judged: Judged
    judgement: Judgement
    currency: str | None
    by_policy: tuple[PolicyLine, ...]
    heat: HeatMap
    distributions: tuple[Distribution, ...]
    exemption: ExemptionLine | None
    keep: Form
    events: tuple[EventLine, ...]
    links: VmLinks
    charts: tuple[SeriesLine, ...]
    from_s: float
    to_s: float
