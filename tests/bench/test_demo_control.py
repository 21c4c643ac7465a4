"""The demo's second half: what the controller is given, and how what it says and does is judged."""

from __future__ import annotations

import http.client
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.shapes import DEFAULT_PROFILES, make_fleet, manifest, parse_profiles
from agent.simulate import parse_days
from bench.demo_control_plan import (
    ControlPlaces,
    PlannedStep,
    Site,
    control_argv,
    control_config,
    inbox_argv,
    live_argv,
    park_text,
    read_notices,
    read_plan,
    read_run,
    read_site,
    wrong_choice,
    wrong_plan,
    wrong_states,
)
from bench.demo_inbox import make_handler
from bench.demo_plan import ContractError, Options, Places, SimulatedTruth, read_manifest
from orchestrate.config import OrchestrateConfig, load_config
from orchestrate.drivers.simulated_park import read_park
from orchestrate.groups import Approve
from orchestrate.records import Rung
from reports.deliver.webhook import SIGNATURE_HEADER, TIMESTAMP_HEADER, sign

SECRET = "a secret of some length"
PLAN = """\
plan 2cea86e373ae: reclaim, 2 steps, by root, 2026-11-21 15:22 UTC, good for 24 h

  1. suspend: sim-low-0001 (lab/sim-low-0001), owner ann
     now running on host-01
     Idle: CPU 1.7% or less.
  2. suspend: sim-low-0004 (lab/sim-low-0004), owner dora
     undone by: resume

Next: fallow-orchestrate approve 2cea86e373ae
"""


def truth_of(options: Options) -> tuple[SimulatedTruth, ...]:
    fleet = make_fleet(
        parse_profiles(DEFAULT_PROFILES), vms=options.vms, days=options.days, end_s=1_700_006_400, seed=options.seed
    )
    return read_manifest(json.dumps(manifest(fleet, 1_700_006_400)))


def site(*suspended: str) -> Site:
    return Site(hosts=2, vms=12, matched=12, suspended=frozenset(suspended))


# What is started


@pytest.mark.parametrize("vms", [1, 12, 37, 200])
def test_the_live_fleet_is_the_one_with_a_past_without_the_silent(vms: int, tmp_path: Path) -> None:
    """The same ids, and no sample of a VM that fell silent; what passed since the history is sent, too."""
    options = Options(vms=vms, seed=7)
    truth = truth_of(options)
    argv = live_argv(options, Places(tmp_path), "http://127.0.0.1:1", truth, behind_s=95.0)
    given = dict(zip(argv[2::2], argv[3::2], strict=True))
    days = parse_days(given["--days"])
    fleet = make_fleet(
        parse_profiles(given["--profiles"]), vms=int(given["--vms"]), days=days, end_s=1_700_006_400, seed=7
    )
    assert {vm.vm for vm in fleet} == {vm.vm for vm in truth if vm.profile != "silent"}
    assert days * 86_400 >= 95.0
    assert (given["--seed"], given["--clock-factor"]) == ("7", "1")


@pytest.mark.parametrize("site_port", [None, 8902])
def test_the_settings_are_those_of_the_report_and_allow_a_suspension(site_port: int | None, tmp_path: Path) -> None:
    """The controller reads them; it takes few VMs, after a short grace, and no link leads nowhere."""
    options, places, control = Options(days=3), Places(tmp_path), ControlPlaces(tmp_path)
    control.park.write_text(park_text(options), encoding="utf-8")
    text = control_config(options, places, control, admin="127.0.0.1:7", inbox="127.0.0.1:8", site_port=site_port)
    control.config.write_text(text, encoding="utf-8")
    config = load_config(control.config, base=OrchestrateConfig())
    (group,) = config.reclaim.groups
    assert (group.up_to, group.approve, group.grace_s) == (Rung.SUSPEND, Approve.AUTO, 1.0)
    assert config.reclaim.batch is not None
    assert config.reclaim.batch < min(config.reclaim.limits.host, config.reclaim.limits.owner)
    assert (config.report.policy.name, config.report.window_days, config.reclaim.min_days) == ("p95", 3, 2.5)
    assert config.report.serve.aggregator_url == "http://127.0.0.1:7"
    assert config.owners.links.url == (None if site_port is None else "http://127.0.0.1:8902")
    assert (config.data_dir, config.drivers[0].kind) == (control.data, "simulated")
    assert len(read_park(control.park).vms) == options.vms


def test_every_command_is_given_the_settings(tmp_path: Path) -> None:
    """And the inbox keeps its imports as the demo does."""
    control = ControlPlaces(tmp_path)
    assert control_argv(control, "plan", "--json")[-2:] == ["--config", str(control.config)]
    assert inbox_argv(control, safe_path=True)[:3] == ["python", "-P", "-m"]
    assert inbox_argv(control, safe_path=False)[:2] == ["python", "-m"]


# How it is judged


def test_hash_steps_and_run_are_read_from_what_people_see() -> None:
    """As a person would, to type the next command."""
    steps = (PlannedStep(verb="suspend", vm="sim-low-0001"), PlannedStep(verb="suspend", vm="sim-low-0004"))
    assert read_plan(PLAN) == ("2cea86e373ae", steps)
    assert read_plan("Nothing is due.\n") is None
    assert read_run("  1. suspend web (lab/u): done\nrun 45f040d5: 3 done\n") == "45f040d5"
    assert read_run("Refused whole, nothing was done:\n") is None


def test_what_is_suspended_is_read_from_the_inventory() -> None:
    """By name; a document that is none is a broken contract."""
    vms = [{"name": "a", "state": "suspended", "agent": "a"}, {"name": "b", "state": "running", "agent": None}]
    found = read_site(json.dumps({"hosts": [{}, {}], "vms": vms}))
    assert found == Site(hosts=2, vms=2, matched=1, suspended=frozenset({"a"}))
    for text in ("", "[]", "{}", json.dumps({"hosts": [], "vms": [{}]})):
        with pytest.raises(ContractError, match="inventory"):
            read_site(text)


def test_notices_are_read_from_the_inbox() -> None:
    """A line each, none at all where nobody was told."""
    assert read_notices('{"vm": {"id": "a"}}\n{"vm": {"id": "b"}}\n') == ["a", "b"]
    assert read_notices("") == []
    with pytest.raises(ContractError, match="notice"):
        read_notices('{"vm": 1}\n')


def test_whatever_differs_from_the_simulation_and_the_plan_is_told() -> None:
    """A busy VM's owner told, another plan than what was told, another state than planned."""
    truth = (
        SimulatedTruth(vm="low", profile="low", idle_expected=True),
        SimulatedTruth(vm="busy", profile="busy", idle_expected=False),
    )
    assert wrong_choice(["low"], truth) == []
    assert "busy" in wrong_choice(["low", "busy"], truth)[0]
    steps = [PlannedStep(verb="suspend", vm="low")]
    assert wrong_plan(steps, ["low"]) == []
    assert wrong_plan(steps, ["low", "other"])
    assert wrong_plan([PlannedStep(verb="stop", vm="low")], ["low"])
    assert wrong_states(site("low"), {"low"}, when="now") == []
    assert "after undo" in wrong_states(site("low"), (), when="after undo")[0]
    assert wrong_states(site(), {"low"}, when="now")


# The owners


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Its port, and where it keeps notices."""
    to = tmp_path / "notices"
    with http.server.HTTPServer(("127.0.0.1", 0), make_handler(SECRET, to)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port, to
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.real
def test_the_inbox_keeps_what_is_signed_and_nothing_else(inbox: tuple[int, Path]) -> None:
    """204 and a line for a signed notice, 401 and nothing for another."""
    port, to = inbox
    body = json.dumps({"vm": {"id": "a"}}, indent=1).encode()
    for secret, status in ((SECRET, 204), ("another secret here", 401)):
        timestamp = str(int(time.time()))
        headers = {TIMESTAMP_HEADER: timestamp, SIGNATURE_HEADER: sign(secret, timestamp, body)}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/", body, headers)
        assert connection.getresponse().status == status
        connection.close()
    assert read_notices(to.read_text(encoding="utf-8")) == ["a"]
