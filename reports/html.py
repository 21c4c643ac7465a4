"""A report as one HTML file: no network, no script, fit to be printed and to be forwarded to a VM's owner. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from importlib.resources import files

from markupsafe import Markup

from reports.explain import AWAKE_RATIO
from reports.hours_words import DAYS
from reports.judgement import Timetable
from reports.report import Question, Report, Sort
from reports.timetable import WEEK_HOURS
from reports.verdicts import CAUSES, Cause, Verdict
from reports.web.templates import make_environment
from reports.web.times import range_words, shift_of, zone_words

_STYLES = ("theme.css", "report.css")
_ORDERS: Mapping[Sort, str] = {
    Sort.SCORE: "capacity freed × confidence",
    Sort.VCPUS: "vCPUs freed",
    Sort.MEMORY: "memory freed",
    Sort.DISK: "disk freed",
    Sort.MONEY: "money saved",
    Sort.ENERGY: "energy saved",
    Sort.CONFIDENCE: "confidence",
    Sort.CPU: "mean CPU",
    Sort.NAME: "name",
    Sort.OWNER: "owner",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A timetable on the reader's clock.

    Attributes:
        ranges: when the VM could be off, such as `Mon 19:00 – Tue 07:00`.
        rows: (7 days, 24 hours) off or not, Monday first.
        minutes: past the hour at which the cells begin: 0 but in zones of half hours.
    """

    ranges: tuple[str, ...]
    rows: tuple[tuple[bool, ...], ...]
    minutes: int


def to_html(report: Report, *, zone: tzinfo) -> str:
    """The whole report: totals, verdicts, the list, and every listed VM with its evidence.

    Args:
        report: every VM listed gets about 20 kB: `Question.top` bounds the file.
        zone: of the reader; its offset at the time of the report is that of timetables.
    """
    question, totals = report.question, report.totals
    template = make_environment(zone, _no_file).get_template("report.html.j2")
    return template.render(
        report=report,
        question=question,
        totals=totals,
        freed=totals.freed_together,
        currency=question.settings.prices.currency,
        verdicts=tuple(Verdict),
        Verdict=Verdict,
        causes_of={verdict: _causes(totals.by_cause, verdict) for verdict in Verdict},
        order_words=order_words(question),
        plans={
            listed.judgement.vm.vm_id: plan(listed.judgement.timetable, zone, question.now_s)
            for listed in report.listed
            if listed.judgement.timetable is not None
        },
        days=DAYS,
        awake_ratio=AWAKE_RATIO,
        zone_words=zone_words(zone, question.now_s),
        style=_style(),
    )


def plan(timetable: Timetable, zone: tzinfo, at_s: float) -> Plan:
    """The timetable on the reader's clock, as that stands at a time."""
    shift = shift_of(zone, at_s)
    cells = [timetable.off[(hour - shift.hours) % WEEK_HOURS] for hour in range(WEEK_HOURS)]
    return Plan(
        ranges=tuple(range_words(start, until, shift.minutes) for start, until in timetable.ranges(shift.hours)),
        rows=tuple(tuple(cells[day * 24 : day * 24 + 24]) for day in range(len(DAYS))),
        minutes=shift.minutes,
    )


def order_words(question: Question) -> str:
    """By what the list is ordered, such as `memory freed, the other way round`."""
    return _ORDERS[question.sort] + (", the other way round" if question.ascending else "")


def _causes(by_cause: Mapping[Cause, int], verdict: Verdict) -> tuple[tuple[Cause, int], ...]:
    """Causes with VMs, for a verdict that has several causes."""
    causes = [cause for cause in CAUSES if cause.verdict is verdict]
    return tuple((cause, by_cause[cause]) for cause in causes if by_cause[cause]) if len(causes) > 1 else ()


def _style() -> Markup:
    folder = files("reports.web").joinpath("static")
    # Our own files, which hold no `</style>`; escaped, they would not be CSS.
    return Markup("\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in _STYLES))  # noqa: S704


def _no_file(name: str) -> str:
    raise KeyError(f"{name}: the report has no other file")
