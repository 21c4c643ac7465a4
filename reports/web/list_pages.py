"""The fleet at a glance, the ranked list, and the same as files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from reports.fleet import snapshot
from reports.fleet_report import read_owners
from reports.html import to_html
from reports.judging import judge_fleet, read_exemptions
from reports.policy import Policy
from reports.render import to_csv, to_json
from reports.report import RECLAIMABLE, Report, Sort, Totals
from reports.verdicts import CAUSES, Verdict
from reports.web.answers import JSON, Answer, Asked, Handler, wrong
from reports.web.backing import Backing
from reports.web.charts import distribution
from reports.web.comparing import ASK_AGAIN_S, Waiting
from reports.web.judging_runs import JudgingRuns, Standing
from reports.web.overview import Overview, OwnerSum, Spread, overview_of, read_overview
from reports.web.params import (
    EVERY,
    LIST_NAMES,
    PAGE_VMS,
    REVERSE,
    USUAL,
    Choosing,
    ListAsked,
    href,
    read_list,
    verdict_key,
)
from reports.web.params import RECLAIMABLE as RECLAIMABLE_KEY
from reports.web.parts import choices, frame, judged_line, judging_notices, wait_page
from reports.web.policy_pages import choosing_of
from reports.web.remembered import Remembered
from reports.web.renderer import Renderer
from reports.web.views import Choice, Column, Distribution, FleetView, OwnerLine, Pages, VerdictLine, VmsView

TOP_ON_FLEET = 10
SHOWN_OWNERS = 200
# A file holds this many VMs at most: it is made in memory. `fallow-report --all --csv` writes any number.
MAX_FILE_VMS = 10_000
_CHANGES_S = 7 * 86_400.0
_OWNERS_FOR_S = 300.0
_SORT_WORDS: Mapping[Sort, str] = {
    Sort.SCORE: "Score",
    Sort.VCPUS: "Frees vCPU",
    Sort.MEMORY: "Memory",
    Sort.DISK: "Disk",
    Sort.MONEY: "Money a month",
    Sort.ENERGY: "Energy a month",
    Sort.CONFIDENCE: "Confidence",
    Sort.CPU: "Mean CPU",
    Sort.NAME: "VM",
    Sort.OWNER: "Owner",
}


class ListPages:
    """`/`, `/vms` and `/report.*`."""

    def __init__(self, backing: Backing, renderer: Renderer, runs: JudgingRuns) -> None:
        self._backing = backing
        self._renderer = renderer
        self._runs = runs
        self._overviews = Remembered[tuple[object, ...], Overview]()
        self._owners = Remembered[int, tuple[str, ...]]()

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {
            "fleet": self.fleet,
            "vms": self.vms,
            "report_html": lambda asked: self._file(asked, "html"),
            "report_csv": lambda asked: self._file(asked, "csv"),
            "report_json": lambda asked: self._file(asked, "json"),
        }

    def fleet(self, asked: Asked) -> Answer:
        """The fleet at a glance."""
        backing = self._backing
        choosing = choosing_of(backing)
        policy, days = choosing.read(asked.query)
        wanted = ListAsked(policy=policy, window_days=days)
        now_s = backing.clock()
        settings = backing.config.settings
        question = wanted.question(settings, now_s, top=TOP_ON_FLEET)
        found = self._runs.report(question, since_s=now_s - _CHANGES_S)
        if isinstance(found, Waiting):
            return self._wait(asked, "Fleet", "fleet", found)
        report, standing = found
        overview = self._overview(policy, days, standing, now_s)
        currency = settings.prices.currency
        view = FleetView(
            frame=frame(
                asked, "Fleet", "fleet", zone=backing.config.zone, now_s=now_s, notices=judging_notices(standing)
            ),
            judged=judged_line(wanted.policy, wanted.window_days, standing, now_s),
            totals=report.totals,
            freed=report.totals.freed_together,
            currency=currency,
            verdicts=_verdict_lines(report.totals, wanted, choosing),
            top=report.listed,
            distributions=(
                _spread("Mean CPU", overview.cpu_mean),
                _spread("CPU in 95% of the time", overview.cpu_p95),
            ),
            owners=_owner_lines(overview.owners, wanted, choosing, is_priced=currency is not None),
            changes=report.changes,
            reports=_files(wanted, choosing),
        )
        return self._renderer.page(view)

    def vms(self, asked: Asked) -> Answer:
        """The ranked list."""
        backing = self._backing
        choosing = choosing_of(backing)
        wanted = read_list(asked.query, choosing)
        now_s = backing.clock()
        found = self._runs.report(wanted.question(backing.config.settings, now_s))
        if isinstance(found, Waiting):
            return self._wait(asked, "VMs", "vms", found)
        report, standing = found
        plain = replace(wanted, page=1)
        view = VmsView(
            frame=frame(asked, "VMs", "vms", zone=backing.config.zone, now_s=now_s, notices=judging_notices(standing)),
            judged=judged_line(wanted.policy, wanted.window_days, standing, now_s),
            totals=report.totals,
            currency=backing.config.prices.currency,
            search=wanted.search,
            verdicts=choices(
                [
                    (RECLAIMABLE_KEY, "can be given back"),
                    *((verdict_key(verdict), verdict.value) for verdict in Verdict),
                    (EVERY, "any"),
                ],
                wanted.verdict,
            ),
            owner_choices=self._owner_choices(wanted.owner),
            policies=choices([(name, name) for name in choosing.policies], wanted.policy.name),
            windows=choices([(f"{days}d", f"{days} days") for days in choosing.windows_days], f"{wanted.window_days}d"),
            sorts=choices([(sort.value, words) for sort, words in _SORT_WORDS.items()], wanted.sort.value),
            orders=choices([(USUAL, "usual"), (REVERSE, "reversed")], REVERSE if wanted.is_reversed else USUAL),
            columns=_columns(plain, choosing),
            rows=report.listed,
            pages=_pages(wanted, report, choosing),
            downloads=_files(plain, choosing),
            reset=href("/vms", choosing.parameters(wanted.policy.name, wanted.window_days)),
            is_filtered=wanted.is_filtered,
        )
        return self._renderer.page(view)

    def _file(self, asked: Asked, form: str) -> Answer:
        backing = self._backing
        wanted = read_list(
            {name: asked.query[name] for name in LIST_NAMES if name in asked.query}, choosing_of(backing)
        )
        now_s = backing.clock()
        # A page to read holds the VMs that are most worth a look, a file for programs all that were asked for.
        if form != "html":
            self._check_length(wanted, now_s, form)
        top = backing.config.top if form == "html" else MAX_FILE_VMS
        found = self._runs.report(wanted.question(backing.config.settings, now_s, top=top))
        if isinstance(found, Waiting):
            return self._wait(asked, "Report", "fleet", found)
        report, _ = found
        write: Mapping[str, tuple[str, Callable[[Report], str]]] = {
            "html": ("text/html; charset=utf-8", lambda made: to_html(made, zone=backing.config.zone)),
            "csv": ("text/csv; charset=utf-8", to_csv),
            "json": (JSON, to_json),
        }
        kind, render = write[form]
        day = datetime.fromtimestamp(now_s, UTC).astimezone(backing.config.zone)
        headers = {"Content-Disposition": f'attachment; filename="fallow-{day:%Y-%m-%d}.{form}"'}
        return Answer(body=render(report).encode(), content_type=kind, headers=headers)

    def _check_length(self, wanted: ListAsked, now_s: float, form: str) -> None:
        found = self._runs.report(wanted.question(self._backing.config.settings, now_s, top=1))
        if not isinstance(found, Waiting) and found[0].matching > MAX_FILE_VMS:
            raise wrong(
                f"the list has {found[0].matching:,} VMs, and a file holds at most {MAX_FILE_VMS:,}: narrow it down, "
                f"or run fallow-report --all --{form}"
            )

    def _wait(self, asked: Asked, title: str, section: str, found: Waiting) -> Answer:
        page_frame = frame(asked, title, section, zone=self._backing.config.zone, now_s=self._backing.clock())
        return wait_page(self._renderer, page_frame, found.text, asked.target, ASK_AGAIN_S, back="/health")

    def _overview(self, policy: Policy, days: int, standing: Standing, now_s: float) -> Overview:
        engine = self._backing.fleet.reader
        stored = standing.stored
        if stored is not None:
            with snapshot(engine) as connection:
                return self._overviews.find(
                    (stored.run.scope, stored.run.settings_sha256, stored.run.judged_s),
                    now_s,
                    math.inf,
                    lambda: read_overview(connection, stored),
                )
        settings = replace(self._backing.config.settings, window_days=days)
        with snapshot(engine) as connection:
            exemptions = read_exemptions(connection, now_s)
            return overview_of(judge_fleet(connection, policy, settings, now_s, exemptions), days)

    def _owner_choices(self, chosen: str | None) -> tuple[Choice, ...]:
        def read() -> tuple[str, ...]:
            with snapshot(self._backing.fleet.reader) as connection:
                return tuple(owner for owner, _ in read_owners(connection, top=SHOWN_OWNERS))

        owners = self._owners.find(0, self._backing.clock(), _OWNERS_FOR_S, read)
        names = sorted({*owners, *((chosen,) if chosen is not None else ())}, key=str.casefold)
        return choices([("", "anybody"), *((name, name) for name in names)], chosen or "")


def _verdict_lines(totals: Totals, wanted: ListAsked, choosing: Choosing) -> tuple[VerdictLine, ...]:
    return tuple(
        VerdictLine(
            verdict=verdict,
            vms=totals.of(verdict),
            share_ratio=totals.of(verdict) / totals.vms if totals.vms else 0.0,
            freed=totals.freed.get(verdict) if verdict in RECLAIMABLE else None,
            causes=tuple(
                (cause, totals.by_cause[cause])
                for cause in CAUSES
                if cause.verdict is verdict and totals.by_cause.get(cause)
            ),
            href=_href(replace(wanted, verdict=verdict_key(verdict)), choosing),
        )
        for verdict in Verdict
    )


def _spread(title: str, spread: Spread) -> Distribution:
    return distribution(title, "ratio", spread.bands, amounts="VMs", unknown=spread.unknown)


def _owner_lines(
    owners: tuple[OwnerSum, ...], wanted: ListAsked, choosing: Choosing, *, is_priced: bool
) -> tuple[OwnerLine, ...]:
    most = max((one.vcpus for one in owners), default=0.0)
    return tuple(
        OwnerLine(
            owner=one.owner,
            vms=one.vms,
            vcpus=one.vcpus,
            mem_bytes=one.mem_bytes,
            money_per_month=one.money_per_month if is_priced else None,
            length_ratio=one.vcpus / most if most else 0.0,
            href=_href(replace(wanted, owner=one.owner), choosing),
        )
        for one in owners
    )


def _columns(wanted: ListAsked, choosing: Choosing) -> dict[str, Column]:
    """Headings that order the list by themselves, and the other way round where they do already."""
    found = {}
    for sort, words in _SORT_WORDS.items():
        is_current = sort is wanted.sort
        direction = ("ascending" if wanted.is_ascending else "descending") if is_current else None
        follows = replace(wanted, sort=sort, is_reversed=is_current and not wanted.is_reversed)
        found[sort.value] = Column(sort=sort, words=words, direction=direction, href=_href(follows, choosing))
    return found


def _pages(wanted: ListAsked, report: Report, choosing: Choosing) -> Pages:
    count = max(-(-report.matching // PAGE_VMS), 1)
    before = (wanted.page - 1) * PAGE_VMS

    def page(number: int) -> str | None:
        is_other = 1 <= number <= count and number != wanted.page
        return _href(replace(wanted, page=number), choosing) if is_other else None

    return Pages(
        number=wanted.page,
        count=count,
        first=before + 1 if report.listed else 0,
        last=before + len(report.listed),
        matching=report.matching,
        # From a page behind the last one the way back is the last one.
        previous=page(min(wanted.page - 1, count)),
        next=page(wanted.page + 1),
        start=page(1),
        end=page(count),
    )


def _files(wanted: ListAsked, choosing: Choosing) -> tuple[tuple[str, str], ...]:
    parameters = wanted.parameters(choosing)
    return tuple((form.upper(), href(f"/report.{form}", parameters)) for form in ("html", "csv", "json"))


def _href(wanted: ListAsked, choosing: Choosing) -> str:
    return href("/vms", wanted.parameters(choosing))
