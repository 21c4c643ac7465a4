"""A view for every page, with values of every kind: what the tests of templates render."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from reports.exemptions import Exemption, ExemptionKind
from reports.judgement import Judgement, Savings
from reports.people.accounts import Account
from reports.people.api_tokens import ApiToken
from reports.people.identity import Identity, Via
from reports.people.roles import Role, Scope
from reports.policies import POLICIES
from reports.report import Report, Sort
from reports.verdicts import Cause, Verdict
from reports.web.account_pages import token_line
from reports.web.charts import distribution, heat_map
from reports.web.views import (
    AccountView,
    AgentGroup,
    AgentLine,
    Choice,
    Clause,
    Column,
    CompareLine,
    CompareView,
    DeliveriesView,
    DeliveryLine,
    DisputedLine,
    ErrorView,
    EventLine,
    ExemptionLine,
    ExemptionsView,
    FleetView,
    Form,
    Frame,
    HealthView,
    HostLine,
    HostsView,
    HostView,
    Judged,
    LinkView,
    LiveLine,
    LiveNode,
    LoginView,
    NodeLine,
    NodesView,
    Notice,
    OwnerLine,
    Pages,
    PeopleView,
    PersonLine,
    PoliciesView,
    PolicyCard,
    PolicyLine,
    SeriesLine,
    VerdictLine,
    View,
    VmLinks,
    VmsView,
    VmView,
    WaitView,
)
from tests.reports import samples

ZONE_WORDS = "Europe/Berlin (CET, UTC+01:00)"
EVIL = "<script>alert(1)</script>"
SAVINGS = Savings(vcpus=12.0, mem_bytes=48 * 2.0**30, disk_bytes=0.0, kwh_per_month=20.0, money_per_month=310.5)


def frame(title: str, section: str, *notices: Notice, role: Role = Role.ADMIN) -> Frame:
    """Round any page."""
    return Frame(
        title=title,
        section=section,
        now_s=float(samples.NOW_S),
        zone_words=ZONE_WORDS,
        csrf="token",
        notices=notices,
        who=Identity(account=EVIL, role=role, via=Via.SESSION, csrf_secret="token"),
    )


def outside(title: str) -> Frame:
    """Round a page for whoever comes."""
    return replace(frame(title, ""), who=None, is_outside=True)


def account(**changes: Any) -> Account:
    """Somebody."""
    values: dict[str, Any] = {
        "name": EVIL,
        "role": Role.OPERATOR,
        "has_password": True,
        "subject": None,
        "created_s": samples.NOW_S - 1e6,
        "created_by": EVIL,
        "disabled_s": None,
    }
    return Account(**{**values, **changes})


def account_view(**changes: Any) -> AccountView:
    """An operator's own page, with a token of each state."""
    token = ApiToken(
        id="0a1b2c3d",
        account=EVIL,
        label=EVIL,
        scope=Scope.READ,
        created_s=samples.NOW_S - 1e6,
        created_by=EVIL,
        until_s=samples.NOW_S + 1e6,
        used_s=None,
        revoked_s=None,
    )
    values: dict[str, Any] = {
        "frame": frame("Your account", "account"),
        "account": account(),
        "sessions": 2,
        "password": Form(action="/account/password", problems={"old": EVIL}),
        "tokens": (
            token_line(token, samples.NOW_S),
            token_line(replace(token, id="1", until_s=0.0), samples.NOW_S),
            token_line(replace(token, id="2", revoked_s=1.0, used_s=1.0), samples.NOW_S),
        ),
        "add_token": Form(action="/account/tokens", problems={"": EVIL}),
        "scopes": (Choice(value="read", words="read"),),
        "lives": (Choice(value="90", words="90 days", chosen=True),),
        "min_chars": 12,
    }
    return AccountView(**{**values, **changes})


def people_view(**changes: Any) -> PeopleView:
    """Accounts of each kind."""
    kinds = (
        account(),
        account(name="b", disabled_s=1.0),
        account(name="c", subject="issuer c", has_password=False),
        account(name="d", has_password=False),
    )
    roles = tuple(Choice(value=role.value, words=role.value, chosen=role is Role.OPERATOR) for role in Role)
    values: dict[str, Any] = {
        "frame": frame("People", "people"),
        "rows": tuple(
            PersonLine(
                account=one,
                roles=roles,
                action=f"/people/{number}",
                was="operator enabled",
                is_self=number == 0,
                takes_links=one.subject is None and one.disabled_s is None,
            )
            for number, one in enumerate(kinds)
        ),
        "add": Form(action="/people", values={"name": EVIL}, problems={"name": EVIL}),
        "roles": roles,
    }
    return PeopleView(**{**values, **changes})


def judged(**changes: Any) -> Judged:
    """By a stored run, an hour ago."""
    values: dict[str, Any] = {
        "policy": "fallow-balanced",
        "policy_summary": "noise, or below 3 % CPU",
        "window_days": 14,
        "judged_s": samples.NOW_S - 3600.0,
        "stored": True,
    }
    return Judged(**{**values, **changes})


def fleet_view(report: Report, **changes: Any) -> FleetView:
    """The fleet's page of a report."""
    totals = report.totals
    values: dict[str, Any] = {
        "frame": frame("The fleet", "fleet", Notice(kind="warning", text="Old.", href="/health", link="Why?")),
        "judged": judged(stale=True),
        "totals": totals,
        "freed": totals.freed_together,
        "currency": report.question.settings.prices.currency,
        "verdicts": tuple(
            VerdictLine(
                verdict=verdict,
                vms=totals.of(verdict),
                share_ratio=totals.of(verdict) / totals.vms if totals.vms else 0.0,
                freed=totals.freed.get(verdict),
                causes=tuple(
                    (cause, count) for cause, count in totals.by_cause.items() if count and cause.verdict is verdict
                ),
                href=f"/vms?verdict={verdict.name.lower()}",
            )
            for verdict in Verdict
        ),
        "top": tuple(listed for listed in report.listed if listed.rank is not None),
        "distributions": (
            distribution("Mean CPU", "ratio", [2.0, 3.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0], amounts="VMs", unknown=1),
        ),
        "owners": tuple(
            OwnerLine(
                owner=owner,
                vms=2,
                vcpus=8.0,
                mem_bytes=2.0**35,
                money_per_month=44.0,
                length_ratio=ratio,
                href="/vms?owner=x",
            )
            for owner, ratio in ((EVIL, 1.0), (None, 0.25))
        ),
        "changes": samples.CHANGES,
        "reports": (("HTML", "/report.html"), ("CSV", "/report.csv")),
    }
    return FleetView(**{**values, **changes})


def vms_view(report: Report, **changes: Any) -> VmsView:
    """The list of a report."""
    values: dict[str, Any] = {
        "frame": frame("VMs", "vms"),
        "judged": judged(stored=False),
        "totals": report.totals,
        "currency": report.question.settings.prices.currency,
        "search": '"><b>',
        "verdicts": (
            Choice(value="reclaimable", words="can give back"),
            Choice(value="all", words="every VM", chosen=True),
        ),
        "owner_choices": (Choice(value="", words="anybody", chosen=True), Choice(value=EVIL, words=EVIL)),
        "policies": (Choice(value="fallow-balanced", words="fallow-balanced", chosen=True),),
        "windows": (Choice(value="14d", words="14 days", chosen=True),),
        "sorts": tuple(Choice(value=sort.value, words=sort.value) for sort in Sort),
        "orders": (Choice(value="usual", words="usual", chosen=True), Choice(value="reverse", words="the other way")),
        "columns": {
            sort.value: Column(
                sort=sort,
                words=sort.value,
                direction="descending" if sort is Sort.SCORE else None,
                href=f"/vms?sort={sort.value}",
            )
            for sort in Sort
        },
        "rows": report.listed,
        "pages": Pages(
            number=1,
            count=2,
            first=1,
            last=len(report.listed),
            matching=99,
            previous=None,
            next="/vms?page=2",
            start=None,
            end="/vms?page=2",
        ),
        "downloads": (("CSV", "/report.csv"),),
        "reset": "/vms",
        "is_filtered": True,
    }
    return VmsView(**{**values, **changes})


def exemption(kind: ExemptionKind = ExemptionKind.VM, **changes: Any) -> Exemption:
    """In force for a month."""
    values: dict[str, Any] = {
        "id": "a1b2c3d4",
        "kind": kind,
        "subject": "vm-02",
        "reason": EVIL,
        "owner": "ann",
        "created_s": samples.NOW_S - 86_400.0,
        "until_s": samples.NOW_S + 30 * 86_400.0,
    }
    return Exemption(**{**values, **changes})


def exemption_line(one: Exemption, state: str = "in force") -> ExemptionLine:
    """With its forms while it is in force."""
    is_open = state == "in force"
    return ExemptionLine(
        exemption=one,
        state=state,
        left_s=30 * 86_400.0 if is_open else None,
        vm_href="/vms/vm-02" if one.kind is ExemptionKind.VM else None,
        end_action=f"/exemptions/{one.id}/end" if is_open else None,
        renew_action=f"/exemptions/{one.id}/renew" if state != "ended" else None,
    )


def vm_view(judgement: Judgement, **changes: Any) -> VmView:
    """One VM's page."""
    vm = judgement.vm
    cpu_ratio = np.linspace(0.0, 0.9, 168)
    cpu_ratio[5] = np.nan
    values: dict[str, Any] = {
        "frame": frame(vm.name or vm.vm_id, "vms"),
        "name": vm.name or vm.vm_id,
        "home": EVIL,
        "judged": judged(),
        "judgement": judgement,
        "currency": "EUR",
        "by_policy": tuple(
            PolicyLine(
                policy=name,
                summary=policy.summary,
                judgement=judgement,
                is_chosen=name == "fallow-balanced",
                href=f"/vms/{vm.vm_id}?policy={name}",
            )
            for name, policy in POLICIES.items()
        ),
        "heat": heat_map(
            np.full(168, 2 * 3600.0), cpu_ratio, judgement.timetable, samples.BERLIN, float(samples.NOW_S)
        ),
        "distributions": (distribution("CPU", "ratio", [300.0, 30.0, 4.0, 0, 0, 0, 0, 0, 0], amounts="hours"),),
        "exemption": None,
        "keep": Form(action=f"/vms/{vm.vm_id}/keep"),
        "events": (EventLine(at_s=samples.NOW_S - 60.0, kind="kept", by=EVIL, reason=None),),
        "links": VmLinks(
            series=f"/v1/vms/{vm.vm_id}/series",
            profile=f"/v1/vms/{vm.vm_id}/profile",
            histogram=f"/v1/vms/{vm.vm_id}/histogram",
            json=f"/v1/vms/{vm.vm_id}",
            host="/hosts/h1",
        ),
        "charts": (
            SeriesLine(key="cpu", title="CPU", unit="ratio", series=(("cpu_busy_ratio", "busy"),)),
            SeriesLine(
                key="net",
                title="Network",
                unit="bytes_per_s",
                series=(("net_rx_bytes_per_s", "received"), ("net_tx_bytes_per_s", "sent")),
            ),
        ),
        "from_s": samples.NOW_S - 14 * 86_400.0,
        "to_s": float(samples.NOW_S),
    }
    return VmView(**{**values, **changes})


HOST = HostLine(host=EVIL, vms=3, vcpus=24.0, mem_bytes=2.0**36, reclaimable=1, freed=SAVINGS, href="/hosts/x")


def host_view(report: Report, **changes: Any) -> HostView:
    """A host with the VMs of a report."""
    values: dict[str, Any] = {
        "frame": frame(f"Host {EVIL}", "hosts"),
        "judged": judged(),
        "currency": "EUR",
        "line": HOST,
        "rows": report.listed,
        "chart_href": "/v1/hosts/x/series",
        "charted": 2,
        "from_s": samples.NOW_S - 7 * 86_400.0,
        "to_s": float(samples.NOW_S),
    }
    return HostView(**{**values, **changes})


def hosts_view(**changes: Any) -> HostsView:
    """Two hosts."""
    values: dict[str, Any] = {
        "frame": frame("Hosts", "hosts"),
        "judged": judged(),
        "currency": "EUR",
        "hosts": (HOST, HOST),
        "without_host": 4,
        "source": "A VM names its host by a tag host:NAME.",
    }
    return HostsView(**{**values, **changes})


_LIVE = (
    LiveLine(words="samples stored", value=12_345.0, unit="count"),
    LiveLine(words="buffer", value=3.2e6, unit="bytes"),
    LiveLine(words="last flush", value=samples.NOW_S - 9.0, unit="time"),
    LiveLine(words="a flush took", value=1.5, unit="s", is_trouble=True),
    LiveLine(words="journal", value=None, unit="ratio"),
    LiveLine(words="state", value="ready", unit="text"),
)
NODE_AWAY = LiveNode(title=f"Node {EVIL}", lines=(), problem="nothing listens on 127.0.0.1:8900")


def health_view(**changes: Any) -> HealthView:
    """Every group with one VM, and an aggregator that answers."""
    shows = ("newest_s", "age_s", "interval_s", "skew_s", "conflicts", "flags")
    line = AgentLine(
        vm_id="vm-1",
        name=EVIL,
        owner=None,
        href="/vms/vm-1",
        newest_s=samples.NOW_S - 7200.0,
        age_s=7200.0,
        interval_s=60.0,
        skew_s=-140.0,
        conflicts=3,
        flags=("clock_skew",),
    )
    keys = ("late", "silent", "never", "no_agent", "powered_off", "skewed", "conflicts", "flagged", "split")
    values: dict[str, Any] = {
        "frame": frame("Health", "health"),
        "vms": 10,
        "reporting": 9,
        "flushed_s": samples.NOW_S - 12.0,
        "groups": tuple(
            AgentGroup(
                key=key,
                title=f"Title {key}",
                words="What to do.",
                vms=60,
                worst=(line,),
                shows=shows,
                is_trouble=key != "powered_off",
            )
            for key in keys
        ),
        "nodes": (LiveNode(title="The aggregator", lines=_LIVE),),
        "nodes_href": "/nodes",
    }
    return HealthView(**{**values, **changes})


def nodes_view(**changes: Any) -> NodesView:
    """One of each state."""
    line: dict[str, Any] = {
        "name": "node-a",
        "state": "up",
        "is_trouble": False,
        "words": (),
        "seen_s": samples.NOW_S - 4.0,
        "version": "1.0",
        "address": "https://node-a.example:8900",
        "home_vms": 123_456,
        "heard_vms": 123_400,
        "owed": 0,
        "free_bytes": 2**40,
        "parts": 0,
        "problems": (),
    }
    away = {"state": "away", "is_trouble": True, "words": (f"it is away since {EVIL}",), "parts": 12}
    unknown = {"state": "unknown", "is_trouble": True, "address": None, "seen_s": None, "version": None, "owed": None}
    rows = (
        line,
        {**line, **away, "name": EVIL, "problems": ("12 parts could not be taken in: it does not answer",)},
        {**line, "name": "node-c", "state": "draining"},
        {**line, **unknown, "name": "node-d", "heard_vms": None, "free_bytes": None},
    )
    values: dict[str, Any] = {"frame": frame("Nodes", "health"), "rows": tuple(NodeLine(**each) for each in rows)}
    return NodesView(**{**values, **changes})


def exemptions_view(**changes: Any) -> ExemptionsView:
    """Of every kind and state, and a form that was refused."""
    values: dict[str, Any] = {
        "frame": frame("Exemptions", "exemptions"),
        "rows": (
            exemption_line(exemption()),
            exemption_line(exemption(ExemptionKind.TAG, subject="team:web", id="b1")),
            exemption_line(exemption(ExemptionKind.NAME, subject="build-*", id="c1"), "expired"),
            exemption_line(exemption(id="d1", ended_s=samples.NOW_S - 1.0, ended_by=EVIL), "ended"),
        ),
        "shows_all": True,
        "all_href": "/exemptions",
        "add": Form(
            action="/exemptions",
            values={"subject": EVIL, "until": "2026-12-31"},
            problems={"subject": f"{EVIL}: no such VM", "": "nothing was changed"},
        ),
        "kinds": (Choice(value="vm", words="one VM", chosen=True), Choice(value="tag", words="a tag")),
    }
    return ExemptionsView(**{**values, **changes})


def deliveries_view(**changes: Any) -> DeliveriesView:
    """One in each state."""
    line: dict[str, Any] = {
        "name": "weekly",
        "kind": "mail",
        "target": "ops@example.org",
        "due_s": samples.NOW_S - 600.0,
        "attempt": 1,
        "next_attempt_s": None,
        "finished_s": samples.NOW_S - 500.0,
        "problem": None,
        "subject": "fallow: 4 of 8 VMs",
    }
    pending = {"state": "pending", "finished_s": None, "next_attempt_s": samples.NOW_S + 60.0, "problem": "refused"}
    values: dict[str, Any] = {
        "frame": frame("Deliveries", "deliveries"),
        "rows": (
            DeliveryLine(**{**line, **pending}),
            DeliveryLine(**line, state="sent"),
            DeliveryLine(**{**line, "problem": EVIL, "subject": None}, state="failed"),
        ),
        "configured": 1,
    }
    return DeliveriesView(**{**values, **changes})


def policies_view() -> PoliciesView:
    """One built in and one of the admin's own."""
    rule = Clause(kind="rule", words="mean CPU at most 10%", figure="cpu_busy.mean", optional=True)
    either = Clause(kind="any", parts=(rule, rule))
    cards = tuple(
        PolicyCard(
            name=name,
            summary="hardly any CPU",
            source="our own",
            min_age_days=age,
            idle_when=Clause(kind="all", parts=(rule, either)),
            is_own=age > 0,
            is_default=age == 0,
            href=f"/vms?policy={name}",
        )
        for name, age in (("fallow-balanced", 0.0), ("night-owls", 14.0))
    )
    return PoliciesView(frame=frame("Policies", "policies"), policies=cards)


def compare_view(**changes: Any) -> CompareView:
    """Two policies and a VM on which they differ."""
    lines = tuple(
        CompareLine(
            policy=name,
            summary="hardly any CPU",
            is_default=name == "classic",
            idle=3,
            insufficient=1,
            excluded=1,
            freed_idle=SAVINGS,
            freed=SAVINGS,
            freed_length_ratio=ratio,
            missing_days=() if name == "classic" else (3, 7),
            href=f"/vms?policy={name}",
        )
        for name, ratio in (("classic", 1.0), ("p95", 0.5))
    )
    disputed = DisputedLine(
        vm_id="vm-9", name=EVIL, owner=None, href="/vms/vm-9", idle_by=1, verdicts=(Verdict.IDLE, Verdict.ACTIVE)
    )
    values: dict[str, Any] = {
        "frame": frame("Compare", "compare"),
        "window_days": 14,
        "vms": 8,
        "compared_s": samples.NOW_S - 60.0,
        "currency": "EUR",
        "lines": lines,
        "agreement": ((3, 2), (2, 3)),
        "disputed_vms": 70,
        "disputed": (disputed,),
    }
    return CompareView(**{**values, **changes})


def every_view() -> Iterator[tuple[str, View]]:
    """Every page in every state that its template tells apart, with a name for each."""
    report = samples.report()
    empty = samples.report(())
    unpriced = samples.report(asked=samples.question(settings=samples.UNPRICED))
    yield "fleet", fleet_view(report)
    yield "fleet unpriced", fleet_view(unpriced, changes=None, owners=())
    yield "fleet in use", fleet_view(report, top=())
    yield "fleet of none", fleet_view(empty)
    yield "vms", vms_view(report)
    yield "vms unpriced", vms_view(unpriced, is_filtered=False)
    yield "vms without match", vms_view(report, rows=())
    yield "vms without match or filter", vms_view(report, rows=(), is_filtered=False)
    yield "vms of none", vms_view(empty, rows=())
    refused = Form(action="/x", values={"until": EVIL}, problems={"until": f"{EVIL} is not a date", "": "refused"})
    for listed in report.listed:
        one = listed.judgement
        kept = exemption_line(exemption()) if one.cause is Cause.TAGGED else None
        yield f"vm {one.vm.vm_id}", vm_view(one, exemption=kept, currency=None)
    yield "vm refused", vm_view(report.listed[0].judgement, keep=refused, events=(), distributions=())
    by_tag = exemption_line(exemption(ExemptionKind.TAG, subject=EVIL))
    yield "vm kept by tag", vm_view(report.listed[0].judgement, exemption=by_tag)
    nothing = heat_map(np.zeros(168), np.full(168, np.nan), None, samples.BERLIN, float(samples.NOW_S))
    yield "vm unseen", vm_view(report.listed[-2].judgement, heat=nothing)
    yield "hosts", hosts_view()
    yield "no hosts", hosts_view(hosts=())
    yield "host", host_view(report)
    yield "health", health_view()
    yield "health away", health_view(nodes=(NODE_AWAY, NODE_AWAY), groups=())
    yield "nodes", nodes_view()
    yield "no nodes", nodes_view(rows=())
    yield "health of none", health_view(vms=0, reporting=0, flushed_s=None, groups=())
    yield "exemptions", exemptions_view()
    yield "no exemptions", exemptions_view(rows=(), shows_all=False, add=Form(action="/exemptions"))
    yield "deliveries", deliveries_view()
    yield "no deliveries yet", deliveries_view(rows=())
    yield "no deliveries", deliveries_view(rows=(), configured=0)
    yield "policies", policies_view()
    yield "compare", compare_view()
    yield "compare agreed", compare_view(disputed=(), disputed_vms=0, currency=None)
    yield "compare of none", compare_view(vms=0, lines=(), agreement=(), disputed=(), disputed_vms=0)
    yield (
        "wait",
        WaitView(frame=frame("Judging", "vms"), text="Being judged.", href="/vms?a=b&c=d", retry_after_s=5, back="/"),
    )
    yield "exemptions for viewers", exemptions_view(frame=frame("Exemptions", "exemptions", role=Role.VIEWER))
    reader = frame("One", "vms", role=Role.VIEWER)
    yield "vm for viewers", vm_view(report.listed[0].judgement, frame=reader)
    yield "vm kept for viewers", vm_view(report.listed[0].judgement, exemption=by_tag, frame=reader)
    yield (
        "login",
        LoginView(
            frame=outside("Log in"),
            form=Form(action="/login", values={"account": EVIL, "next": "/"}),
            provider_href="/login/provider?next=%2F",
            has_accounts=True,
        ),
    )
    plain = Form(action="/login", values={"next": "/"})
    yield "first login", LoginView(frame=outside("Log in"), form=plain, provider_href=None, has_accounts=False)
    link = Form(action="/first/x", problems={"": EVIL, "again": EVIL})
    yield "first", LinkView(frame=outside("The first admin"), form=link, account=None, min_chars=12)
    yield "password", LinkView(frame=outside("A new password"), form=link, account=EVIL, min_chars=12)
    yield "account", account_view(shown="fallow_x")
    yield "account elsewhere", account_view(password=None, tokens=(), account=account(subject="issuer x"))
    yield "people", people_view(link="http://127.0.0.1/password/x", link_account=EVIL)
    yield "error outside", ErrorView(frame=outside("No"), status=404, phrase="Not Found", detail=EVIL)
    yield "error", ErrorView(frame=frame("Not found", ""), status=404, phrase="Not Found", detail=f"{EVIL}: no such VM")
