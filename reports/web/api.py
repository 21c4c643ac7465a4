"""The JSON API behind the pages. `reports/openapi.json` describes every route."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files

import sqlalchemy as sa

from aggregator.fleet import vm as vms
from aggregator.fleet_db import reading
from aggregator.problems import Problem, Refused
from aggregator.series import DEFAULT_POINTS, MAX_POINTS, MIN_POINTS, SERIES, Series, step_of
from aggregator.series import Span as SeriesSpan
from reports.exemption_table import Exemptions
from reports.exemptions import Exemption, ExemptionRefused, NotFound
from reports.facts import DAY_S
from reports.live import Live, NodeLive
from reports.node_words import history_object, nodes_object
from reports.policy_words import policy_object
from reports.render import judgement_object, savings_object, timetable_object, to_json
from reports.series import SeriesUnavailable, UnknownVm
from reports.web.account_pages import person
from reports.web.answers import JSON, Answer, Asked, Handler, json_answer, not_found, wrong
from reports.web.backing import Backing
from reports.web.charts import HISTOGRAM_METRICS, histogram_of
from reports.web.comparing import ASK_AGAIN_S, Comparing, Waiting
from reports.web.delivery_pages import recent_runs
from reports.web.exemption_pages import FIELDS, FormRefused, check_vm_id, exemption_state, keep
from reports.web.health_pages import find_health
from reports.web.host_pages import find_host, find_host_series, find_hosts
from reports.web.hosts import Hosts, HostSum
from reports.web.judging_runs import JudgingRuns
from reports.web.node_pages import find_nodes
from reports.web.params import LIST_NAMES, PAGE_VMS, check_names, read_list, read_whole
from reports.web.policy_pages import choosing_of
from reports.web.remembered import Remembered
from reports.web.times import shift_of
from reports.web.vm_pages import find_vm

MAX_TOP = 1_000
MAX_OFFSET = 10_000_000
MAX_SPAN_S = 400 * DAY_S
MAX_HOST_POINTS = 500
_MAX_TIME_S = 2**32 - 1  # a packed row's `ts`
_DEFAULT_SPAN_S = 14 * DAY_S
_BY_NAMES = ("policy", "window")
SEVERAL = "the fleet has several aggregators: each is in nodes"


class Api:
    """The routes below `/v1`, and `/openapi.json`."""

    def __init__(self, backing: Backing, runs: JudgingRuns, comparing: Comparing) -> None:
        self._backing = backing
        self._runs = runs
        self._comparing = comparing
        self._hosts = Remembered[tuple[object, ...], Hosts]()
        self._openapi = files("reports").joinpath("openapi.json").read_bytes()

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {
            "api_openapi": lambda _asked: Answer(body=self._openapi, content_type=JSON),
            "api_report": self.report,
            "api_vm": self.vm,
            "api_series": self.series,
            "api_profile": self.profile,
            "api_histogram": self.histogram,
            "api_hosts": self.hosts,
            "api_host": self.host,
            "api_host_series": self.host_series,
            "api_health": self.health,
            "api_nodes": self.nodes,
            "api_policies": self.policies,
            "api_compare": self.compare,
            "api_exemptions": self.exemptions,
            "api_add_exemption": self.add_exemption,
            "api_end_exemption": self.end_exemption,
            "api_deliveries": self.deliveries,
        }

    def report(self, asked: Asked) -> Answer:
        """The list with its totals."""
        check_names(asked.query, *LIST_NAMES, "top", "offset")
        wanted = read_list(asked.query, choosing_of(self._backing))
        top = read_whole(asked.query, "top", PAGE_VMS, 1, MAX_TOP)
        offset = read_whole(asked.query, "offset", 0, 0, MAX_OFFSET)
        question = wanted.question(self._backing.config.settings, self._backing.clock(), top=top, offset=offset)
        found = self._runs.report(question)
        if isinstance(found, Waiting):
            return _waiting(found)
        return Answer(body=to_json(found[0]).encode(), content_type=JSON)

    def vm(self, asked: Asked) -> Answer:
        """One VM by every policy."""
        check_names(asked.query, *_BY_NAMES)
        policy, days = choosing_of(self._backing).read(asked.query)
        now_s = self._backing.clock()
        found = find_vm(self._backing, asked.ids[0], policy, days, now_s)
        return json_answer(
            {
                "generated_at_s": now_s,
                "policy": policy.name,
                "window_days": days,
                "judgements": {name: judgement_object(one) for name, one in found.report.judgements.items()},
                "exemption": None if found.exemption is None else _exemption(found.exemption, now_s),
                "events": [{**asdict(event), "kind": event.kind.value} for event in found.events],
                "history": history_object(found.history, now_s),
            }
        )

    def series(self, asked: Asked) -> Answer:
        """One VM's figures over a span, for a chart."""
        check_names(asked.query, "from", "to", "points")
        from_s, to_s = self._span(asked)
        points = read_whole(asked.query, "points", DEFAULT_POINTS, MIN_POINTS, MAX_POINTS)
        (vm_id,) = asked.ids
        self._check_known(vm_id)
        try:
            answer = self._backing.series.find(vm_id, from_s, to_s, points)
            found, missing = answer.series, answer.missing
        except UnknownVm:
            # The catalogue knows it, and no sample of it is anywhere.
            span = SeriesSpan(from_s=from_s, to_s=to_s, points=points)
            found = Series(vm=vm_id, from_s=from_s, to_s=to_s, step_s=step_of(span, 60), ends_s=[], series={})
            missing = ()
        except SeriesUnavailable as error:
            problem = Problem(503, "series-unavailable", error.reason, retry_after_s=ASK_AGAIN_S)
            raise Refused(problem) from error
        curves = {name: found.series.get(name) for name in SERIES}
        return json_answer(
            {
                "vm": found.vm,
                "from_s": found.from_s,
                "to_s": found.to_s,
                "step_s": found.step_s,
                "ends_s": found.ends_s,
                "series": {
                    name: {"min": curve.min, "mean": curve.mean, "max": curve.max}
                    if curve is not None
                    else {"min": [], "mean": [], "max": []}
                    for name, curve in curves.items()
                },
                "missing": list(missing),
            }
        )

    def profile(self, asked: Asked) -> Answer:
        """One VM's mean CPU in each hour of the week."""
        check_names(asked.query, *_BY_NAMES)
        backing = self._backing
        policy, days = choosing_of(backing).read(asked.query)
        now_s = backing.clock()
        found = find_vm(backing, asked.ids[0], policy, days, now_s)
        seconds, ratio = found.report.facts.evidence.profile()
        shift = shift_of(backing.config.zone, now_s)
        return json_answer(
            {
                "vm": asked.ids[0],
                "zone": str(backing.config.zone),
                "utc_offset_s": shift.hours * 3600 + shift.minutes * 60,
                "seconds": seconds[0].tolist(),
                "cpu_ratio": [None if value != value else value for value in ratio[0].tolist()],  # noqa: PLR0124  NaN
                "timetable": timetable_object(found.report.judgements[policy.name].timetable),
            }
        )

    def histogram(self, asked: Asked) -> Answer:
        """How long a figure of one VM lay where."""
        check_names(asked.query, "metric", *_BY_NAMES)
        metric = asked.query.get("metric", HISTOGRAM_METRICS[0])
        if metric not in HISTOGRAM_METRICS:
            raise wrong(f"metric: {metric[:80]!r} is not one of {', '.join(HISTOGRAM_METRICS)}")
        policy, days = choosing_of(self._backing).read(asked.query)
        found = find_vm(self._backing, asked.ids[0], policy, days, self._backing.clock())
        made = histogram_of(found.report.facts.evidence.layouts[0], metric, days)
        bins = () if made is None else zip(made.lows.tolist(), made.highs.tolist(), made.seconds.tolist(), strict=True)
        return json_answer(
            {
                "vm": asked.ids[0],
                "metric": metric,
                "window_days": days,
                "unit": "ratio" if made is None else made.unit,
                "bins": [{"from": low, "below": high, "seconds": seconds} for low, high, seconds in bins],
            }
        )

    def hosts(self, asked: Asked) -> Answer:
        """Every host with what its VMs add up to."""
        check_names(asked.query, *_BY_NAMES)
        policy, days = choosing_of(self._backing).read(asked.query)
        found = find_hosts(self._backing, self._runs, self._hosts, policy, days)
        if isinstance(found, Waiting):
            return _waiting(found)
        hosts, _ = found
        return json_answer(
            {"hosts": [self._host(total) for total in hosts.hosts], "vms_without_host": hosts.without_host}
        )

    def host(self, asked: Asked) -> Answer:
        """One host and its VMs."""
        check_names(asked.query, *_BY_NAMES)
        policy, days = choosing_of(self._backing).read(asked.query)
        found = find_host(self._backing, asked.ids[0], policy, days, self._backing.clock())
        return json_answer(
            {**self._host(found.total), "judgements": [judgement_object(one) for one in found.judgements]}
        )

    def host_series(self, asked: Asked) -> Answer:
        """What the VMs of a host use over a span."""
        check_names(asked.query, "from", "to", "points")
        from_s, to_s = self._span(asked)
        points = read_whole(asked.query, "points", 300, MIN_POINTS, MAX_HOST_POINTS)
        return json_answer(find_host_series(self._backing, asked.ids[0], from_s, to_s, points))

    def health(self, asked: Asked) -> Answer:
        """Whether figures come in."""
        check_names(asked.query)
        health, told = find_health(self._backing)
        only = _health_of(told[0]) if len(told) == 1 else {"aggregator": None, "aggregator_problem": SEVERAL}
        return json_answer(
            {
                "generated_at_s": self._backing.clock(),
                **asdict(health),
                **only,
                "nodes": [{"node": None if one.node is None else one.node.name, **_health_of(one)} for one in told],
            }
        )

    def nodes(self, asked: Asked) -> Answer:
        """Every aggregator of the fleet."""
        check_names(asked.query)
        found = find_nodes(self._backing)
        return json_answer(nodes_object(found, self._backing.clock()))

    def policies(self, asked: Asked) -> Answer:
        """Every policy with its rules."""
        check_names(asked.query)
        config = self._backing.config
        found = [policy_object(one, own=name in config.own_policies) for name, one in config.policies.items()]
        return json_answer({"default": config.policy.name, "policies": found})

    def compare(self, asked: Asked) -> Answer:
        """The fleet by every policy side by side."""
        check_names(asked.query, "window")
        _, days = choosing_of(self._backing).read(asked.query)
        found = self._comparing.find(days)
        return _waiting(found) if isinstance(found, Waiting) else json_answer(found)

    def exemptions(self, asked: Asked) -> Answer:
        """Exemptions in force, or all there were."""
        check_names(asked.query, "all")
        shows_all = asked.query.get("all", "0")
        if shows_all not in {"0", "1"}:
            raise wrong(f"all: {shows_all[:80]!r} is neither 0 nor 1")
        now_s = self._backing.clock()
        table = Exemptions(self._backing.fleet.reader)
        found = table.history() if shows_all == "1" else table.in_force(now_s)
        return json_answer({"generated_at_s": now_s, "exemptions": [_exemption(one, now_s) for one in found]})

    def add_exemption(self, asked: Asked) -> Answer:
        """Keeps what the document names; renews what its subject has already."""
        check_names(asked.query)
        values = _texts(asked.document)
        try:
            kept, is_renewal = keep(self._backing, values)
        except FormRefused as refused:
            raise wrong(str(refused)) from refused
        self._runs.judge_again()
        return json_answer(_exemption(kept, self._backing.clock()), status=200 if is_renewal else 201)

    def end_exemption(self, asked: Asked) -> Answer:
        """Ends an exemption before its time, in the name of whoever asks."""
        check_names(asked.query)
        now_s = self._backing.clock()
        try:
            Exemptions(self._backing.fleet.writer).end(asked.ids[0], person(asked).account, now_s=now_s)
        except NotFound as error:
            raise not_found("unknown-exemption", str(error)) from error
        except ExemptionRefused as error:
            raise wrong(str(error)) from error
        self._runs.judge_again()
        return Answer(status=204)

    def deliveries(self, asked: Asked) -> Answer:
        """What became of the newest deliveries."""
        check_names(asked.query)
        found = [{**asdict(run), "state": run.state.value} for run in recent_runs(self._backing)]
        return json_answer({"configured": len(self._backing.config.deliveries), "deliveries": found})

    def _host(self, total: HostSum) -> dict[str, object]:
        priced = self._backing.config.prices.currency is not None
        return {
            "host": total.host,
            "vms": total.vms,
            "vcpus": total.vcpus,
            "mem_bytes": total.mem_bytes,
            "reclaimable": total.reclaimable,
            "freed": savings_object(total.savings(priced=priced)),
        }

    def _span(self, asked: Asked) -> tuple[int, int]:
        to_s = read_whole(asked.query, "to", int(self._backing.clock()), 0, _MAX_TIME_S)
        from_s = read_whole(asked.query, "from", max(to_s - _DEFAULT_SPAN_S, 0), 0, _MAX_TIME_S)
        if from_s >= to_s:
            raise wrong(f"from: {from_s} is not before to, {to_s}")
        if to_s - from_s > MAX_SPAN_S:
            raise wrong(f"from: the span to {to_s} is over {MAX_SPAN_S // DAY_S} days")
        return from_s, to_s

    def _check_known(self, vm_id: str) -> None:
        check_vm_id(vm_id)
        with reading(self._backing.fleet.reader) as connection:
            if connection.scalar(sa.select(vms.c.vm_id).where(vms.c.vm_id == vm_id)) is None:
                raise not_found("unknown-vm", f"{vm_id}: no such VM")


def _waiting(found: Waiting) -> Answer:
    value = {"state": "in progress", "detail": found.text, "retry_after_s": ASK_AGAIN_S}
    return json_answer(value, status=202, headers={"Retry-After": str(ASK_AGAIN_S)})


def _health_of(told: NodeLive) -> dict[str, object]:
    health = told.health
    return {
        "aggregator": asdict(health) if isinstance(health, Live) else None,
        "aggregator_problem": None if isinstance(health, Live) else health.reason,
    }


def _exemption(one: Exemption, now_s: float) -> dict[str, object]:
    return {**asdict(one), "kind": one.kind.value, "state": exemption_state(one, now_s)}


def _texts(document: object) -> dict[str, str]:
    if not isinstance(document, dict):
        raise wrong("the body is not a JSON object")
    for name, value in document.items():
        if name not in FIELDS:
            raise wrong(f"{name[:80]!r} is not one of {', '.join(FIELDS)}")
        if not isinstance(value, str):
            raise wrong(f"{name}: is not a text")
    return document
