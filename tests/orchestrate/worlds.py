"""Small worlds for tests: one idle VM that may be taken all the way, and whatever differs from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrate.driver import Capabilities, Verb
from orchestrate.groups import Group, ReclaimSettings
from orchestrate.inventory import Host, Inventory, Vm, VmRef, VmState
from orchestrate.matching import ENOUGH, Evidence
from orchestrate.outside import Outside
from orchestrate.plan import INVERSE, LIFE_S, Expected, Mark, Plan, PlanKind, Step, renumbered
from orchestrate.records import Action, Approval, Entry, Outcome, Rung, Seen
from orchestrate.sighting import Figure, Fleet, Minute, Sighting
from orchestrate.world import World, make_world
from reports.verdicts import Verdict

NOW_S = 1_795_000_000.0
DAY_S = 86_400.0
SITE = "lab"
SETTINGS_SHA256 = "5e" * 32
UUID = "00000000-0000-4000-8000-{:012d}"
CAN = Capabilities(verbs=frozenset(Verb), vm_counters=True, host_counters=True)
ALL_THE_WAY = Group(name="dev", names=("*",), up_to=Rung.STOP, grace_s=7 * DAY_S, stop_grace_s=30 * DAY_S)
SETTINGS = ReclaimSettings(groups=(ALL_THE_WAY,))


def uuid(number: int = 1) -> str:
    return UUID.format(number)


def ref(number: int = 1) -> VmRef:
    return VmRef(SITE, uuid(number))


def minute(ago_s: float = 30.0, *, now_s: float = NOW_S, **changes: Any) -> Minute:
    values: dict[str, Any] = {
        "ts_s": now_s - ago_s,
        "interval_s": 60.0,
        "cpu_busy_ratio": 0.01,
        "mem_used_bytes": 2e8,
        "users": 0,
        "net_rx_bytes_per_s": 300.0,
        "net_tx_bytes_per_s": 200.0,
    }
    return Minute(**{**values, **changes})


def sighting(number: int = 1, *, now_s: float = NOW_S, **changes: Any) -> Sighting:
    values: dict[str, Any] = {
        "vm_id": uuid(number),
        "name": f"dev-{number}",
        "owner": "ann",
        "mail": "ann@example.org",
        "tags": ("env:dev",),
        "macs": (),
        "addresses": (),
        "policy": "fallow-balanced",
        "verdict": Verdict.IDLE,
        "cause": "within the policy's limits",
        "sentence": "Idle for 14 days: CPU below 2%.",
        "score": 4.0,
        "confidence_ratio": 0.9,
        "days": 20.0,
        "coverage_ratio": 0.99,
        "newest_s": now_s - 30.0,
        "skew_s": 0.5,
        "minutes": tuple(minute(30.0 + 60.0 * back, now_s=now_s) for back in reversed(range(5))),
        "boot": "boot-1",
        "figures": (Figure(rule="cpu_busy.p95", value="1%", limit="5%", holds=True),),
        "freed_vcpus": 4.0,
        "freed_mem_bytes": 8e9,
        "money_per_month": 30.0,
    }
    return Sighting(**{**values, **changes})


def vm(number: int = 1, **changes: Any) -> Vm:
    values: dict[str, Any] = {
        "ref": ref(number),
        "name": f"dev-{number}",
        "host_id": "hv1",
        "state": VmState.RUNNING,
        "vcpus": 4,
        "mem_bytes": 8 * 2**30,
    }
    return Vm(**{**values, **changes})


def outside(now_s: float = NOW_S, **changes: Any) -> Outside:
    values: dict[str, Any] = {
        "at_s": now_s - 10.0,
        "span_s": 120.0,
        "cpu_cores": 0.1,
        "net_bytes_per_s": 600.0,
        "disk_bytes_per_s": 0.0,
    }
    return Outside(**{**values, **changes})


def entry(number: int = 1, rung: Rung = Rung.NOTIFY, *, ago_s: float = 8 * DAY_S, **changes: Any) -> Entry:
    """On the rung since `ago_s`, with the grace of ALL_THE_WAY promised."""
    since_s = NOW_S - ago_s
    promised = {Rung.NOTIFY: since_s + 7 * DAY_S, Rung.SUSPEND: since_s + 30 * DAY_S}
    values: dict[str, Any] = {
        "ref": ref(number),
        "vm_id": uuid(number),
        "rung": rung,
        "since_s": since_s,
        "group": "dev",
        "marked_s": since_s,
        "notified_s": None if rung is Rung.MARK else since_s,
        "due_s": promised.get(rung),
        "boot": "boot-1",
        "run_id": "run-0",
    }
    return Entry(**{**values, **changes})


def inventory(vms: Sequence[Vm], *, now_s: float = NOW_S, **changes: Any) -> Inventory:
    hosts = tuple(
        Host(driver=SITE, host_id=host_id, cores=64, mem_bytes=2**38)
        for host_id in sorted({one.host_id for one in vms})
    )
    values: dict[str, Any] = {"driver": SITE, "read_s": now_s, "hosts": hosts, "vms": tuple(vms)}
    return Inventory(**{**values, **changes})


def world(
    sightings: Sequence[Sighting] | None = None,
    vms: Sequence[Vm] | None = None,
    *,
    entries: Sequence[Entry] = (),
    now_s: float = NOW_S,
    outsides: Mapping[VmRef, Outside] | None = None,
    capabilities: Capabilities = CAN,
    allow: frozenset[Evidence] = ENOUGH,
    unreachable: Mapping[str, str] | None = None,
    live: bool = True,
    **changes: Any,
) -> World:
    """One idle VM by default, seen by its agent and its hypervisor alike."""
    sightings = [sighting(now_s=now_s)] if sightings is None else sightings
    vms = [vm()] if vms is None else vms
    fleet = Fleet(read_s=now_s, sightings={one.vm_id: one for one in sightings}, live=live)
    return make_world(
        now_s=now_s,
        fleet=fleet,
        inventories=[inventory(vms, now_s=now_s, unreachable=unreachable or {})],
        capabilities={SITE: capabilities},
        allow=allow,
        outside={one.ref: outside(now_s) for one in vms} if outsides is None else outsides,
        entries={one.ref: one for one in entries},
        **changes,
    )


def many(count: int, **changes: Any) -> tuple[list[Sighting], list[Vm]]:
    """So many idle VMs, each with an owner and on a host of its own."""
    numbers = range(1, count + 1)
    return (
        [sighting(number, owner=f"owner-{number}", **changes) for number in numbers],
        [vm(number, host_id=f"hv{number}") for number in numbers],
    )


def step(verb: Verb | Mark = Verb.SUSPEND, number: int = 1, **changes: Any) -> Step:
    values: dict[str, Any] = {
        "number": 1,
        "verb": verb,
        "ref": ref(number),
        "name": f"dev-{number}",
        "vm_id": uuid(number),
        "owner": "ann",
        "expected": Expected(state=VmState.RUNNING, host_id="hv1", boot="boot-1"),
        "inverse": INVERSE[verb],
        "reason": "Idle.",
        "group": "dev",
    }
    return Step(**{**values, **changes})


def plan(*steps: Step, kind: PlanKind = PlanKind.RECLAIM, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "kind": kind,
        "made_s": NOW_S,
        "expires_s": NOW_S + LIFE_S,
        "made_by": "ann",
        "settings_sha256": SETTINGS_SHA256,
        "steps": renumbered(steps),
    }
    return Plan(**{**values, **changes})


def action(of: Step, outcome: Outcome | None = Outcome.DONE, *, ago_s: float = 60.0, **changes: Any) -> Action:
    values: dict[str, Any] = {
        "action_id": of.number,
        "run_id": "run-1",
        "step": of,
        "begun_s": NOW_S - ago_s,
        "lease_token": 1,
        "outcome": outcome,
        "settled_s": None if outcome is None else NOW_S - ago_s,
    }
    return Action(**{**values, **changes})


def approval(of: Plan, by: str = "ben") -> Approval:
    return Approval(plan_sha256=of.sha256, by=by, at_s=of.made_s)


def seen(verdicts: Mapping[int, Verdict], *, ago_s: float = 3600.0) -> dict[str, Seen]:
    return {uuid(number): Seen(verdict=verdict, seen_s=NOW_S - ago_s) for number, verdict in verdicts.items()}


def with_group(**changes: Any) -> ReclaimSettings:
    """The settings with another group."""
    return replace(SETTINGS, groups=(replace(ALL_THE_WAY, **changes),))
