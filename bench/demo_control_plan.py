"""How the demo has the controller give VMs back, and what must come out. Pure.

The fleet of the demo is laid on simulated hosts; everything else is what a person would have: a settings file and
commands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.shapes import DAY_S, DEFAULT_PROFILES, INTERVAL_S, make_fleet, parse_profiles
from bench.demo_plan import ContractError, Options, Places, SimulatedTruth, report_config
from orchestrate.drivers.simulated_park import encode_park, park_for

OWNERS = ("ann", "bob", "cem", "dora")
# Fewer than the controller may by default take on one host in an hour, wherever they are.
TAKEN_VMS = 2
GRACE_S = 1
# A suspend takes as long as the memory takes to a disk: on these hypervisors a little of it.
PACE = 0.005
# What the fleet was late by, and the minutes in which the demo works on, are no part of its days.
_MISSING_DAYS = 0.5


@dataclass(frozen=True, slots=True)
class ControlPlaces:
    """Where the controller and the owners of the demo keep their things, all below `home`."""

    home: Path

    @property
    def config(self) -> Path:
        return self.home / "orchestrate.toml"

    @property
    def data(self) -> Path:
        return self.home / "orchestrate"

    @property
    def park(self) -> Path:
        return self.home / "park.toml"

    @property
    def state(self) -> Path:
        """How the simulated hypervisors are now."""
        return self.home / "hypervisors.json"

    @property
    def secret(self) -> Path:
        """Signs the notices."""
        return self.home / "notices.secret"

    @property
    def inbox_address(self) -> Path:
        return self.home / "inbox.address"

    @property
    def inbox(self) -> Path:
        """What the owners were told, a JSON object a line."""
        return self.home / "notices.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """A step of a plan. Args: vm: its name, which is its agent's id too."""

    verb: str
    vm: str


def live_argv(
    options: Options, places: Places, url: str, truth: Sequence[SimulatedTruth], behind_s: float
) -> list[str]:
    """The same fleet from now on, a sample a minute; what it missed since its history ended comes first.

    VMs that fell silent stay silent.

    Args: behind_s: how long ago the history ended, at most.
    """
    counts: dict[str, int] = {}
    for vm in truth:
        if vm.profile != "silent":
            counts[vm.profile] = counts.get(vm.profile, 0) + 1
    days = (behind_s // INTERVAL_S + 2) * INTERVAL_S / DAY_S
    return [
        *("fallow-agent", "simulate", "--aggregator", url, "--join-token-file", str(places.join_token)),
        *("--profiles", ",".join(f"{name}={count}" for name, count in counts.items())),
        *("--vms", str(sum(counts.values())), "--seed", str(options.seed)),
        *("--days", f"{days:.6f}", "--clock-factor", "1"),
    ]


def inbox_argv(places: ControlPlaces, *, safe_path: bool) -> list[str]:
    """Stands for the owners: takes their notices. Args: safe_path: as this Python keeps its imports."""
    python = ["python", *(["-P"] if safe_path else []), "-m", "bench.demo_inbox"]
    return [*python, "--secret", str(places.secret), "--address", str(places.inbox_address), "--to", str(places.inbox)]


def control_argv(places: ControlPlaces, *words: str) -> list[str]:
    """A command of the controller."""
    return ["fallow-orchestrate", *words, "--config", str(places.config)]


def park_text(options: Options) -> str:
    """Hosts for the whole fleet, and its VMs on them."""
    fleet = make_fleet(parse_profiles(DEFAULT_PROFILES), vms=options.vms, days=options.days, end_s=0, seed=options.seed)
    return encode_park(park_for(fleet, owners=OWNERS))


def control_config(
    options: Options, places: Places, control: ControlPlaces, *, admin: str, inbox: str, site_port: int | None
) -> str:
    """Settings of the controller: how VMs are judged is that of the report.

    Args: inbox: host and port where owners get their notices. site_port: of the owners' pages; None: there are none.
    """
    lines = [
        report_config(options, places, admin).rstrip(),
        "",
        "[orchestrate]",
        f"data = {_text(control.data)}",
        "",
        "[[orchestrate.drivers]]",
        'name = "lab"',
        'kind = "simulated"',
        f"park = {_text(control.park)}",
        f"state = {_text(control.state)}",
        f"pace = {PACE}  # of the time that a real one takes",
        "",
        "[orchestrate.reclaim]",
        f"min_days = {options.window_days - _MISSING_DAYS:g}",
        f"batch = {TAKEN_VMS}",
        "",
        "[[orchestrate.reclaim.groups]]",
        'name = "fleet"',
        'names = ["sim-*"]',
        'up_to = "suspend"',
        f'grace = "{GRACE_S}s"  # so that you need not wait for a week',
        'approve = "auto"  # the service may go on alone, every hour',
        "",
        "[orchestrate.notify.webhook]",
        f'url = "http://{inbox}/"',
        f"secret_file = {_text(control.secret)}",
    ]
    if site_port is not None:
        address = f"127.0.0.1:{site_port}"
        lines += ["", "[orchestrate.links]", f'url = "http://{address}"', f'listen = "{address}"']
    return "\n".join(lines) + "\n"


def _text(path: Path) -> str:
    return json.dumps(str(path))


def read_plan(text: str) -> tuple[str, tuple[PlannedStep, ...]] | None:
    """The hash and the steps that `plan` tells people; None: there is no plan."""
    found = re.search(r"^plan ([0-9a-f]{6,}):", text, re.MULTILINE)
    steps = re.findall(r"^ *[0-9]+[.] ([a-z-]+): (\S+) [(]", text, re.MULTILINE)
    return (found[1], tuple(PlannedStep(verb=verb, vm=vm) for verb, vm in steps)) if found else None


def read_run(text: str) -> str | None:
    """The run that `apply` tells people; None: there was none."""
    found = re.search(r"^run (\S+):", text, re.MULTILINE)
    return found[1] if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What `inventory --json` tells. Args: matched: VMs whose agent is known."""

    hosts: int
    vms: int
    matched: int
    suspended: frozenset[str]


def read_site(text: str) -> Site:
    """Raises: ContractError: it is no `inventory --json`."""
    document = _object(text, "the inventory")
    try:
        vms = document["vms"]
        return Site(
            hosts=len(document["hosts"]),
            vms=len(vms),
            matched=sum(vm["agent"] is not None for vm in vms),
            suspended=frozenset(str(vm["name"]) for vm in vms if vm["state"] == "suspended"),
        )
    except (KeyError, TypeError) as error:
        raise ContractError(f"the inventory is not as expected: {error!r}") from error


def read_notices(text: str) -> list[str]:
    """The VMs whose owners were told, out of the inbox. Raises: ContractError."""
    try:
        return [str(_object(line, "a notice")["vm"]["id"]) for line in text.splitlines()]
    except (KeyError, TypeError) as error:
        raise ContractError(f"a notice is not as expected: {error!r}") from error


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ContractError(f"{what} is not as expected: {error!r}") from error
    if not isinstance(document, dict):
        raise ContractError(f"{what} is not as expected: no object")
    return document


def wrong_choice(told: Collection[str], truth: Sequence[SimulatedTruth]) -> list[str]:
    """A line for each VM whose owner must not have been told."""
    idle = {vm.vm for vm in truth if vm.idle_expected}
    return [f"{vm}: its owner was told that it is idle, and it is not" for vm in sorted(set(told) - idle)]


def wrong_plan(steps: Sequence[PlannedStep], told: Collection[str]) -> list[str]:
    """A line where the plan is another than to suspend those whose owners were told, and no others."""
    found = sorted((step.verb, step.vm) for step in steps)
    return [] if found == [("suspend", vm) for vm in sorted(told)] else [f"planned is {found}, told of {sorted(told)}"]


def wrong_states(site: Site, expected: Collection[str], *, when: str) -> list[str]:
    """A line where other VMs are suspended than should be."""
    if site.suspended == frozenset(expected):
        return []
    return [f"{when}: {sorted(expected)} should be suspended, and {sorted(site.suspended)} are"]
