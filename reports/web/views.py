"""What each page shows: one frozen value a page, and nothing that a template would have to work out. Pure.

A template gets the value as `view`. Times are Unix seconds, sizes bytes, shares ratios of 0..1; None is not known and
every filter of `reports.web.templates` shows it as a dash. Addresses are ready to stand in `href`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reports.web.views_fleet import Column, FleetView, OwnerLine, Pages, VerdictLine, VmsView, WaitView
from reports.web.views_people import AccountView, LinkView, LoginView, PeopleView, PersonLine, TokenLine
from reports.web.views_policy import Clause, CompareLine, CompareView, DisputedLine, PoliciesView, PolicyCard
from reports.web.views_run import (
    AgentGroup,
    AgentLine,
    DeliveriesView,
    DeliveryLine,
    ExemptionsView,
    HealthView,
    HostLine,
    HostsView,
    HostView,
    LiveLine,
    LiveNode,
    NodeLine,
    NodesView,
)
from reports.web.views_shared import Bar, Choice, Distribution, ExemptionLine, Form, Frame, Judged, Notice
from reports.web.views_vm import EventLine, HeatCell, HeatMap, HeatRow, PolicyLine, SeriesLine, VmLinks, VmView

__all__ = [
    "TEMPLATES",
    "AccountView",
    "AgentGroup",
    "AgentLine",
    "Bar",
    "Choice",
    "Clause",
    "Column",
    "CompareLine",
    "CompareView",
    "DeliveriesView",
    "DeliveryLine",
    "DisputedLine",
    "Distribution",
    "ErrorView",
    "EventLine",
    "ExemptionLine",
    "ExemptionsView",
    "FleetView",
    "Form",
    "Frame",
    "HealthView",
    "HeatCell",
    "HeatMap",
    "HeatRow",
    "HostLine",
    "HostView",
    "HostsView",
    "Judged",
    "LinkView",
    "LiveLine",
    "LiveNode",
    "LoginView",
    "NodeLine",
    "NodesView",
    "Notice",
    "OwnerLine",
    "Pages",
    "PeopleView",
    "PersonLine",
    "PoliciesView",
    "PolicyCard",
    "PolicyLine",
    "SeriesLine",
    "TokenLine",
    "VerdictLine",
    "View",
    "VmLinks",
    "VmView",
    "VmsView",
    "WaitView",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorView:
    """Whatever went wrong (template `error.html.j2`): `detail` says what, and what to do."""

    frame: Frame
    status: int
    phrase: str
    detail: str


View = (
    FleetView
    | VmsView
    | WaitView
    | VmView
    | HostsView
    | HostView
    | HealthView
    | NodesView
    | ExemptionsView
    | DeliveriesView
    | PoliciesView
    | CompareView
    | LoginView
    | LinkView
    | AccountView
    | PeopleView
    | ErrorView
)

TEMPLATES: Mapping[type[View], str] = {
    FleetView: "fleet.html.j2",
    VmsView: "vms.html.j2",
    WaitView: "wait.html.j2",
    VmView: "vm.html.j2",
    HostsView: "hosts.html.j2",
    HostView: "host.html.j2",
    HealthView: "health.html.j2",
    NodesView: "nodes.html.j2",
    ExemptionsView: "exemptions.html.j2",
    DeliveriesView: "deliveries.html.j2",
    PoliciesView: "policies.html.j2",
    CompareView: "compare.html.j2",
    LoginView: "login.html.j2",
    LinkView: "link.html.j2",
    AccountView: "account.html.j2",
    PeopleView: "people.html.j2",
    ErrorView: "error.html.j2",
}
