"""Which VMs are kept, and the forms that keep them, renew and end it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from urllib.parse import quote

from agent.wire import is_vm_id
from reports.exemption_table import Exemptions
from reports.exemptions import Exemption, ExemptionKind, ExemptionRefused, NotFound, parse_until
from reports.web.account_pages import person
from reports.web.answers import Answer, Asked, Handler, not_found, see_other, stale
from reports.web.backing import Backing
from reports.web.params import vm_path
from reports.web.parts import choices, frame
from reports.web.renderer import Renderer
from reports.web.views import ExemptionLine, ExemptionsView, Form, Notice

FIELDS = ("kind", "subject", "until", "reason", "owner")
_KINDS = (
    (ExemptionKind.VM.value, "a VM, by its id"),
    (ExemptionKind.TAG.value, "every VM with a tag"),
    (ExemptionKind.NAME.value, "every VM whose name fits a pattern"),
)
_MAX_SHOWN = 1000


class FormRefused(Exception):
    """What was typed cannot be. `problems`: by field; under the empty name, those of no single field."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__("; ".join(f"{name}: {problem}" if name else problem for name, problem in problems.items()))


class ExemptionPages:
    """`/exemptions` and what is posted there. `changed` is told after each change: verdicts are old now."""

    def __init__(self, backing: Backing, renderer: Renderer, changed: Callable[[], object]) -> None:
        self._backing = backing
        self._renderer = renderer
        self._changed = changed

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {
            "exemptions": self.show,
            "add_exemption": self.add,
            "end_exemption": self.end,
            "renew_exemption": self.renew,
        }

    def show(self, asked: Asked) -> Answer:
        """The list."""
        return self._renderer.page(self._view(asked))

    def add(self, asked: Asked) -> Answer:
        """Keeps what the form names; the form again where that cannot be."""
        values = {name: asked.form.get(name, "") for name in FIELDS}
        values["owner"] = values["owner"].strip() or account_of(asked)
        try:
            keep(self._backing, values)
        except FormRefused as refused:
            form = Form(action="/exemptions", values=values, problems=refused.problems)
            return self._renderer.page(self._view(asked, form=form), status=422)
        self._changed()
        return see_other("/exemptions")

    def end(self, asked: Asked) -> Answer:
        """Ends one before its time, in the name of whoever asks."""
        backing = self._backing
        by = person(asked).account
        self._check_unchanged(asked)
        return self._change(
            asked, lambda: Exemptions(backing.fleet.writer).end(asked.ids[0], by, now_s=backing.clock())
        )

    def renew(self, asked: Asked) -> Answer:
        """Gives one a new end."""
        backing = self._backing
        now_s = backing.clock()
        self._check_unchanged(asked)

        def renew() -> Exemption:
            until_s = read_until(asked.form.get("until", ""), backing, now_s)
            return Exemptions(backing.fleet.writer).renew(asked.ids[0], until_s, now_s=now_s)

        return self._change(asked, renew)

    def _check_unchanged(self, asked: Asked) -> None:
        """Raises: Refused, 412: what the page showed is no longer so."""
        table = Exemptions(self._backing.fleet.reader)
        known = {one.id: one for one in table.history()}.get(asked.ids[0])
        if known is not None and asked.form.get("version", "") != version_of(known):
            raise stale(f"{known.id}: somebody changed this exemption since the page was made: look again")

    def _change(self, asked: Asked, change: Callable[[], Exemption]) -> Answer:
        try:
            change()
        except NotFound as error:
            return self._refused(asked, str(error), 404)
        except (ExemptionRefused, FormRefused) as error:
            return self._refused(asked, str(error), 422)
        self._changed()
        return see_other("/exemptions")

    def _refused(self, asked: Asked, text: str, status: int) -> Answer:
        notice = Notice(kind="error", text=f"Nothing was changed. {text}")
        return self._renderer.page(self._view(asked, notice=notice), status=status)

    def _view(self, asked: Asked, *, form: Form | None = None, notice: Notice | None = None) -> ExemptionsView:
        backing = self._backing
        now_s = backing.clock()
        shows_all = asked.query.get("all") == "1"
        table = Exemptions(backing.fleet.reader)
        known = table.history() if shows_all else table.in_force(now_s)
        if shows_all:
            in_force = sorted((one for one in known if one.is_in_force(now_s)), key=lambda one: one.until_s)
            known = [*in_force, *(one for one in known if not one.is_in_force(now_s))]
        form = form or Form(action="/exemptions", values={"owner": account_of(asked)})
        return ExemptionsView(
            frame=frame(asked, "Exemptions", "exemptions", zone=backing.config.zone, now_s=now_s, notices=[notice]),
            rows=tuple(exemption_line(one, now_s) for one in known[:_MAX_SHOWN]),
            shows_all=shows_all,
            all_href="/exemptions" if shows_all else "/exemptions?all=1",
            add=form,
            kinds=choices(_KINDS, form.values.get("kind", ExemptionKind.VM.value)),
        )


def exemption_line(one: Exemption, now_s: float) -> ExemptionLine:
    """One exemption for a page."""
    state = exemption_state(one, now_s)
    path = f"/exemptions/{quote(one.id, safe='')}"
    return ExemptionLine(
        exemption=one,
        state=state,
        left_s=one.until_s - now_s if state == "in force" else None,
        vm_href=vm_path(one.subject) if one.kind is ExemptionKind.VM else None,
        end_action=f"{path}/end" if state == "in force" else None,
        renew_action=f"{path}/renew" if state != "ended" else None,
        version=version_of(one),
    )


def version_of(one: Exemption) -> str:
    """Tells one state of an exemption from the others."""
    told = (one.id, one.until_s, one.ended_s, one.reason, one.owner)
    return sha256(repr(told).encode("utf-8", "replace")).hexdigest()[:16]


def account_of(asked: Asked) -> str:
    """Who asks, to be named where nobody else is."""
    return "" if asked.who is None else asked.who.account


def exemption_state(one: Exemption, now_s: float) -> str:
    """`in force`, `expired` or `ended`."""
    if one.ended_s is not None:
        return "ended"
    return "in force" if one.is_in_force(now_s) else "expired"


def keep(backing: Backing, values: Mapping[str, str]) -> tuple[Exemption, bool]:
    """Keeps what a form or a program names, and whether that renewed an exemption in force.

    Args: values: of FIELDS.

    Raises: FormRefused: it cannot be.
    """
    now_s = backing.clock()
    problems = {name: "is missing" for name in FIELDS if not values.get(name, "").strip()}
    kind = values.get("kind", "")
    if kind and kind not in {each.value for each in ExemptionKind}:
        problems["kind"] = f"{kind[:80]!r} is not one of {', '.join(each.value for each in ExemptionKind)}"
    until_s = now_s
    if "until" not in problems:
        try:
            until_s = read_until(values["until"], backing, now_s)
        except FormRefused as refused:
            problems |= refused.problems
    if problems:
        raise FormRefused(problems)
    try:
        kept = Exemptions(backing.fleet.writer).add(
            ExemptionKind(kind),
            values["subject"].strip(),
            reason=values["reason"],
            owner=values["owner"],
            until_s=until_s,
            now_s=now_s,
        )
    except ExemptionRefused as error:
        name, colon, text = str(error).partition(": ")
        field = "subject" if name == kind else name
        raise FormRefused({field: text} if colon and field in FIELDS else {"": str(error)}) from error
    except NotFound as error:
        raise FormRefused({"subject": str(error)}) from error
    return kept.exemption, kept.is_renewal


def read_until(text: str, backing: Backing, now_s: float) -> float:
    """Unix seconds. Raises: FormRefused: no date, time or duration."""
    try:
        return parse_until(text.strip(), now_s=now_s, zone=backing.config.zone)
    except ValueError as error:
        raise FormRefused({"until": str(error)}) from error


def check_vm_id(vm_id: str) -> None:
    """Raises: Refused, 404: no VM has such an id."""
    if not is_vm_id(vm_id):
        raise not_found("unknown-vm", f"{vm_id[:80]!r} is not the id of a VM")
