"""What owners' links lead to: the page that keeps a VM and the page that has it back. Blocking.

A GET shows what would happen and does nothing: mail programs follow links on their own. Only the form does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import tzinfo

import sqlalchemy as sa
from jinja2 import Environment

from aggregator.catalogue import Catalogue
from aggregator.problems import Problem, Refused
from orchestrate.owners.links import Link, LinkKey, LinkRefused, Purpose
from orchestrate.owners.notify import LinkSettings
from orchestrate.owners.views import (
    TEMPLATES,
    Frame,
    KeepView,
    ProblemView,
    ResumeView,
    View,
    VmCard,
    standing_words,
    wake_document,
    wake_words,
)
from orchestrate.owners.wakes import UNDER_WAY, Wakes
from orchestrate.records import Entry, Records, Rung
from reports.events import Event, EventKind, record_event
from reports.exemption_table import Exemptions
from reports.exemptions import Exemption, ExemptionKind, ExemptionRefused, checked_text, parse_until
from reports.web.answers import Answer, json_answer, see_other
from reports.web.times import date_words, time_words, zone_words
from reports.words import printable

MAX_KEEP_S = 366 * 86_400.0
REFRESH_S = 2
_DAY_S = 86_400.0
# What is not suspended yet comes off the ladder at once; of what sleeps, the ladder still knows that we put it there.
_AWAKE_RUNGS = frozenset({Rung.REPORT, Rung.MARK, Rung.NOTIFY})
_FIELDS = {"reason": "Please say why, in a few words.", "owner": "Please say who you are."}
_TITLES = {403: "Not one of our links", 404: "Nothing here", 410: "This link has expired", 503: "Please try again"}


class OwnerPages:
    """Answers to what was found in the address.

    Args:
        engine: of `reports.schema.open_report_db`: exemptions, events and what VMs are called.
        environment: of `orchestrate.owners.files.owner_environment`.
        zone: in which days are read and times are written.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        key: LinkKey,
        links: LinkSettings,
        records: Records,
        engine: sa.Engine,
        wakes: Wakes,
        environment: Environment,
        zone: tzinfo,
        clock: Callable[[], float],
    ) -> None:
        self._key = key
        self._links = links
        self._records = records
        self._engine = engine
        self._exemptions = Exemptions(engine)
        self._catalogue = Catalogue(engine)
        self._wakes = wakes
        self._environment = environment
        self._zone = zone
        self._clock = clock

    def keep(self, token: str) -> Answer:
        """What keeping it would mean. Raises: Refused: as `_read`."""
        link = self._read(token, Purpose.KEEP)
        until_s = self._clock() + self._links.keep_for_s
        return self._keep_page(link, values={"until": date_words(until_s, self._zone), "reason": "", "owner": ""})

    def keep_it(self, token: str, form: Mapping[str, str]) -> Answer:
        """Keeps it, or shows what is wrong with the form. Raises: Refused: as `_read`."""
        link, now_s = self._read(token, Purpose.KEEP), self._clock()
        until_s, problems = self._until_s(form.get("until", ""), now_s), {}
        if until_s is None:
            last = date_words(now_s + MAX_KEEP_S - _DAY_S, self._zone)
            problems["until"] = f"Please give a day from today to {last}."
        told: dict[str, str] = {}
        for name, words in _FIELDS.items():
            try:
                told[name] = checked_text(name, form.get(name, ""))
            except ExemptionRefused:
                problems[name] = words
        if until_s is None or problems:
            values = {name: form.get(name, "") for name in ("until", *_FIELDS)}
            return self._keep_page(link, values=values, problems=problems, status=422)
        self._keep(link, reason=told["reason"], owner=told["owner"], until_s=until_s, now_s=now_s)
        return see_other(token)

    def resume(self, token: str) -> Answer:
        """What bringing it back would mean, or how far that has come. Raises: Refused: as `_read`."""
        link, now_s = self._read(token, Purpose.RESUME), self._clock()
        wake, entry = self._wakes.find(link.ref), self._records.find_entry(link.ref)
        is_under_way = wake is not None and wake.state in UNDER_WAY
        if wake is not None and not is_under_way and entry is not None and entry.since_s > wake.asked_s:
            # What it was brought back from has happened again.
            wake = None
        frame = self._frame("Have your VM back", "../", refresh_s=REFRESH_S if is_under_way else None)
        # Where it stood is no news while that changes.
        card = self._card(link, entry)
        card = replace(card, standing="") if is_under_way else card
        return self._page(ResumeView(frame=frame, vm=card, wake=wake, line=wake_words(wake, now_s)))

    def resume_it(self, token: str) -> Answer:
        """Has it brought back. Raises: Refused: as `_read`."""
        link, now_s = self._read(token, Purpose.RESUME), self._clock()
        self._records.note("resume asked", {"vm": str(link.ref)}, who="the owner's link", now_s=now_s)
        self._wakes.ask(link.ref, link.vm_id, now_s=now_s)
        return see_other(token)

    def state(self, token: str) -> Answer:
        """How far bringing it back has come, for scripts. Raises: Refused: as `_read`."""
        link = self._read(token, Purpose.RESUME)
        return json_answer(wake_document(self._wakes.find(link.ref), self._clock()))

    def problem(self, problem: Problem, root: str) -> Answer:
        """Any other answer, in plain words. Args: root: the way from the address to where the pages begin."""
        title = _TITLES.get(problem.status, "This did not work")
        return self._page(ProblemView(frame=self._frame(title, root), detail=problem.detail), status=problem.status)

    def _read(self, token: str, purpose: Purpose) -> Link:
        """Raises: Refused: 403 not one of ours, 410 expired."""
        try:
            return self._key.read(token, purpose=purpose, now_s=self._clock())
        except LinkRefused as error:
            status, reason = (410, "expired") if error.expired else (403, "link")
            raise Refused(Problem(status, reason, str(error))) from error

    def _until_s(self, text: str, now_s: float) -> float | None:
        if not text.strip():
            return now_s + self._links.keep_for_s
        try:
            until_s = parse_until(text.strip(), now_s=now_s, zone=self._zone)
        except (ValueError, OverflowError):
            return None
        return until_s if now_s < until_s <= now_s + MAX_KEEP_S else None

    def _keep(self, link: Link, *, reason: str, owner: str, until_s: float, now_s: float) -> None:
        """The exemption first: from then on nothing more is taken, whatever becomes of the rest."""
        self._exemptions.add(
            ExemptionKind.VM,
            link.vm_id,
            reason=reason,
            owner=owner,
            until_s=until_s,
            now_s=now_s,
            allow_unknown=True,
        )
        words = f"{owner} keeps it until {time_words(until_s, self._zone)}: {reason}"
        entry = self._records.find_entry(link.ref)
        self._records.note("kept by link", {"vm": str(link.ref), "words": words}, who=owner, now_s=now_s)
        if entry is None:
            return
        if entry.rung in _AWAKE_RUNGS:
            self._records.drop_entry(link.ref, by=owner, now_s=now_s, words=words)
        with self._engine.begin() as connection:
            event = Event(at_s=now_s, vm_id=link.vm_id, kind=EventKind.OBJECTED, by=owner, reason=reason)
            record_event(connection, event)

    def _keep_page(
        self, link: Link, *, values: Mapping[str, str], problems: Mapping[str, str] | None = None, status: int = 200
    ) -> Answer:
        now_s = self._clock()
        view = KeepView(
            frame=self._frame("Keep your VM", "../"),
            vm=self._card(link, self._records.find_entry(link.ref)),
            kept=self._kept(link.vm_id, now_s),
            first_day=date_words(now_s, self._zone),
            # The day before, as a day ends later than it is now.
            last_day=date_words(now_s + MAX_KEEP_S - _DAY_S, self._zone),
            values=values,
            problems=problems or {},
        )
        return self._page(view, status=status)

    def _kept(self, vm_id: str, now_s: float) -> Exemption | None:
        of_vm = (ExemptionKind.VM, vm_id)
        return next((one for one in self._exemptions.in_force(now_s) if (one.kind, one.subject) == of_vm), None)

    def _card(self, link: Link, entry: Entry | None) -> VmCard:
        known = self._catalogue.vm(link.vm_id)
        name = (known and (known.name or known.hostname)) or link.ref.uuid
        return VmCard(name=printable(name), ref=link.ref, standing=standing_words(entry, self._zone))

    def _frame(self, title: str, root: str, *, refresh_s: int | None = None) -> Frame:
        now_s = self._clock()
        return Frame(title=title, root=root, now_s=now_s, zone_words=zone_words(self._zone, now_s), refresh_s=refresh_s)

    def _page(self, view: View, *, status: int = 200) -> Answer:
        text = self._environment.get_template(TEMPLATES[type(view)]).render(view=view)
        return Answer(status=status, body=text.encode())
