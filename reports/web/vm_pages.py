"""One VM: its verdict by every policy, its week, its hours, what happened to it, and the form that keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from reports.events import Event, read_events
from reports.exemption_table import read_in_force
from reports.exemptions import Exemption, ExemptionIndex, ExemptionKind
from reports.facts import DAY_S
from reports.fleet import snapshot
from reports.fleet_report import VmReport, read_vm
from reports.judgement import Judgement
from reports.node_rows import read_nodes, read_whereabouts
from reports.nodes import Node, Whereabouts, find_node, gone_words, part_words
from reports.policy import Policy
from reports.ranking import name_of
from reports.web.answers import Answer, Asked, Handler, not_found, see_other
from reports.web.backing import Backing
from reports.web.charts import heat_map, histogram_of, hours_distribution
from reports.web.exemption_pages import FormRefused, account_of, check_vm_id, exemption_line, keep
from reports.web.hosts import host_of
from reports.web.judging_runs import JudgingRuns, Standing
from reports.web.params import Choosing, host_path, href, vm_path
from reports.web.parts import frame, judged_line
from reports.web.policy_pages import choosing_of
from reports.web.renderer import Renderer
from reports.web.views import (
    Distribution,
    EventLine,
    Form,
    HeatMap,
    Notice,
    PolicyLine,
    SeriesLine,
    VmLinks,
    VmView,
)
from reports.words import time_words

_KEEP_FIELDS = ("until", "reason", "owner")
_SHOWN_METRICS = ("cpu_busy", "cpu_max", "mem_used", "disk_io", "net_io")
_CHARTS = (
    SeriesLine(
        key="cpu",
        title="CPU",
        unit="ratio",
        series=(
            ("cpu_busy_ratio", "CPU"),
            ("cpu_max_ratio", "burst CPU"),
            ("cpu_steal_ratio", "steal"),
            ("cpu_iowait_ratio", "waiting for disks"),
        ),
    ),
    SeriesLine(key="memory", title="Memory", unit="ratio", series=(("mem_used_ratio", "memory"),)),
    SeriesLine(key="disk_space", title="Disk space", unit="ratio", series=(("disk_used_ratio", "disk space"),)),
    SeriesLine(
        key="disk",
        title="Disk traffic",
        unit="bytes_per_s",
        series=(("disk_read_bytes_per_s", "read"), ("disk_write_bytes_per_s", "written")),
    ),
    SeriesLine(
        key="network",
        title="Network traffic",
        unit="bytes_per_s",
        series=(("net_rx_bytes_per_s", "received"), ("net_tx_bytes_per_s", "sent")),
    ),
    SeriesLine(key="users", title="Logged-in users", unit="count", series=(("users", "users"),)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmFound:
    """A VM and everything that is said of it beside its verdicts.

    Attributes:
        exemption: what keeps it, if anything.
        history: where its samples are. home: the node that keeps them; None where nobody has said who does.
        is_alone: the fleet has no other node.
    """

    report: VmReport
    exemption: Exemption | None
    events: tuple[Event, ...]
    history: Whereabouts
    home: Node | None
    is_alone: bool


def find_vm(backing: Backing, vm_id: str, policy: Policy, window_days: int, now_s: float) -> VmFound:
    """A VM by every policy, `policy` first. Raises: Refused, 404: there is none of that id."""
    check_vm_id(vm_id)
    others = [each for each in backing.config.policies.values() if each.name != policy.name]
    engine = backing.fleet.reader
    settings = replace(backing.config.settings, window_days=window_days)
    report = read_vm(engine, vm_id, (policy, *others), settings, now_s)
    if report is None:
        raise not_found("unknown-vm", f"{vm_id}: no such VM")
    vm = report.facts.vms[0]
    with snapshot(engine) as connection:
        nodes, history = read_nodes(connection), read_whereabouts(connection, vm_id)
        return VmFound(
            report=report,
            exemption=ExemptionIndex(read_in_force(connection, now_s)).match(vm.vm_id, vm.name, vm.hostname, vm.tags),
            events=read_events(connection, vm_id),
            history=history,
            home=find_node(nodes, history.home) if history.home else None,
            is_alone=len(nodes) < 2,
        )


class VmPages:
    """`/vms/{vm}` and what is posted there."""

    def __init__(self, backing: Backing, renderer: Renderer, runs: JudgingRuns) -> None:
        self._backing = backing
        self._renderer = renderer
        self._runs = runs

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {"vm": self.show, "keep": self.keep}

    def show(self, asked: Asked) -> Answer:
        """The page."""
        return self._renderer.page(self._view(asked))

    def keep(self, asked: Asked) -> Answer:
        """Keeps the VM as the form says; the page again where that cannot be."""
        (vm_id,) = asked.ids
        check_vm_id(vm_id)
        values = {name: asked.form.get(name, "") for name in _KEEP_FIELDS}
        values["owner"] = values["owner"].strip() or account_of(asked)
        try:
            keep(self._backing, {**values, "kind": ExemptionKind.VM.value, "subject": vm_id})
        except FormRefused as refused:
            problems = {name if name in _KEEP_FIELDS else "": text for name, text in refused.problems.items()}
            return self._renderer.page(self._view(asked, values=values, problems=problems), status=422)
        self._runs.judge_again()
        return see_other(vm_path(vm_id))

    def _view(
        self, asked: Asked, *, values: Mapping[str, str] | None = None, problems: Mapping[str, str] | None = None
    ) -> VmView:
        backing = self._backing
        (vm_id,) = asked.ids
        choosing = choosing_of(backing)
        policy, days = choosing.read(asked.query)
        now_s = backing.clock()
        found = find_vm(backing, vm_id, policy, days, now_s)
        judgement = found.report.judgements[policy.name]
        vm = judgement.vm
        name = name_of(vm)
        to_s = judgement.newest_s if judgement.newest_s is not None else now_s
        path = vm_path(vm_id)
        host = host_of(vm.tags)
        return VmView(
            frame=frame(
                asked, name, "vms", zone=backing.config.zone, now_s=now_s, notices=_history_notices(found, now_s)
            ),
            name=name,
            home=None if found.home is None or found.is_alone else found.home.name,
            judged=judged_line(policy, days, Standing(), now_s),
            judgement=judgement,
            currency=backing.config.prices.currency,
            by_policy=_policy_lines(backing, found.report, choosing, policy, days),
            heat=_heat(backing, found.report, judgement, now_s),
            distributions=_distributions(found.report, days),
            exemption=None if found.exemption is None else exemption_line(found.exemption, now_s),
            keep=Form(
                action=f"{path}/keep",
                values=values if values is not None else {"owner": vm.owner or account_of(asked)},
                problems=problems or {},
            ),
            events=tuple(
                EventLine(at_s=event.at_s, kind=event.kind.value, by=event.by, reason=event.reason)
                for event in found.events
            ),
            links=VmLinks(
                series=f"/v1{path}/series",
                profile=f"/v1{path}/profile",
                histogram=f"/v1{path}/histogram",
                json=f"/v1{path}",
                host=None if host is None else host_path(host),
            ),
            charts=_CHARTS,
            from_s=to_s - days * DAY_S,
            to_s=to_s,
        )


def _history_notices(found: VmFound, now_s: float) -> Iterator[Notice]:
    """What is to be known of where the VM's history lies."""
    if found.home is not None and not found.is_alone and (gone := gone_words(found.home, now_s)) is not None:
        text = f"Its history is kept by node {found.home.name}, which {gone}: charts show what else there is."
        yield Notice(kind="warning", text=text, href="/nodes", link="The nodes")
    for part in found.history.parts:
        words = part_words(part, now_s)
        span = f"from {time_words(part.oldest_s)} to {time_words(part.newest_s)}"
        yield Notice(kind="warning", text=f"{words[0].upper()}{words[1:]} ({span}).", href="/nodes", link="The nodes")


def _policy_lines(
    backing: Backing, report: VmReport, choosing: Choosing, chosen: Policy, days: int
) -> tuple[PolicyLine, ...]:
    vm_id = report.facts.vms[0].vm_id
    return tuple(
        PolicyLine(
            policy=name,
            summary=policy.summary,
            judgement=report.judgements[name],
            is_chosen=name == chosen.name,
            href=href(vm_path(vm_id), choosing.parameters(name, days)),
        )
        for name, policy in backing.config.policies.items()
    )


def _heat(backing: Backing, report: VmReport, judgement: Judgement, now_s: float) -> HeatMap:
    seconds, ratio = report.facts.evidence.profile()
    return heat_map(seconds[0], ratio[0], judgement.timetable, backing.config.zone, now_s)


def _distributions(report: VmReport, days: int) -> tuple[Distribution, ...]:
    layout = report.facts.evidence.layouts[0]
    found = (histogram_of(layout, metric, days) for metric in _SHOWN_METRICS)
    return tuple(hours_distribution(each) for each in found if each is not None and len(each.seconds))
