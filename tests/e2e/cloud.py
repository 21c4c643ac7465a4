"""The real controller over the rig: its settings, its commands, the guests' history, and the rest of the fleet.

A guest that has just been made has no past, and a policy judges days. So its day is pushed before it boots, by the
agents' own door; from then on its own agent tells of it. A fleet of three VMs would make of each change an outage:
a crowd of agents without a VM at any hypervisor stands for the rest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from agent.sample import Sample
from agent.wire import encode_batch, encode_sample
from bench.programs import Program, tail
from tests.e2e.house import Aggregator, House
from tests.reports.deliver.servers import Receiver, receiver
from tests.rig.guests import Guest, GuestSpec
from tests.rig.hypervisor import Host
from tests.rig.rig import PLAIN, Rig
from tests.rig.shell import wait_for

DRIVER = "rig"
SECRET = "0123456789abcdef0123456789abcdef"
GRACE_S = 3
# In the rules' own measure: a sample is good for five minutes.
_CROWD_EVERY_S = 120.0
_CROWD = 15
_HISTORY_S = 26 * 3_600
# What the rules take for use, less what samples of a loaded machine differ by.
_CALM_RATIO = 0.08
_MINUTE_S = 60
_MAX_SAMPLES = 1_000
_COMMAND_WITHIN_S = 300.0
_SETTINGS = """
[report]
data = "{data}"
window = "1d"
policy = "a-quiet-day"
[report.policies.a-quiet-day]
summary = "at most 5% CPU on average within a day, and nobody logged in"
all = [{{ figure = "cpu_busy.mean", at_most = "5%" }}, {{ figure = "users.share", at_most = "0%" }}]
[report.serve]
aggregator = "http://{admin}"
"""
_CONTROL = """
[orchestrate]
data = "{control}"
[[orchestrate.drivers]]
name = "rig"
kind = "libvirt"
allow_plain = true
migrate_flags = ["unsafe"]
{hosts}
[orchestrate.reclaim]
min_days = 1
[[orchestrate.reclaim.groups]]
name = "lab"
tags = ["env:lab"]
up_to = "suspend"
grace = "{grace_s}s"
[orchestrate.hotspots]
up_to = "migrate"
# The newest minute alone, as long as there are fewer than ten.
detector = "lr"
[orchestrate.links]
url = "http://localhost:8902"
listen = "127.0.0.1:0"
[orchestrate.notify.webhook]
url = "http://127.0.0.1:{hook}/notices"
secret_file = "{secret}"
[orchestrate.watch]
every = "1h"
"""


@dataclass
class Cloud:
    """Both hosts, a fleet with a door of its own, and the controller's settings."""

    rig: Rig
    aggregator: Aggregator
    folder: Path
    hook: Receiver
    guests: dict[str, Guest] = field(default_factory=dict)
    services: list[Program] = field(default_factory=list)
    _crowd_s: float = float("-inf")

    @property
    def house(self) -> House:
        return self.rig.house

    @property
    def settings(self) -> Path:
        """Of the controller."""
        return self.folder / "orchestrate.toml"

    def start(self, host: Host, *specs: GuestSpec) -> list[Guest]:
        """Defines guests, pushes their past and starts them."""
        made = [self.rig.define(host, spec, aggregator=self.aggregator) for spec in specs]
        for guest in made:
            self.guests[guest.name] = guest
            self._remember(guest)
            self.rig.virsh(host, "start", guest.name)
        return made

    def push(self, vm_id: str, samples: Sequence[Sample]) -> None:
        """Pushes samples of a minute each, oldest first, as an agent would."""
        token = self.house.token(self.aggregator, vm_id)
        headers = {"Authorization": f"Bearer {token}", "Fallow-VM": vm_id, "Content-Type": "application/json"}
        for start in range(0, len(samples), _MAX_SAMPLES):
            body = encode_batch(
                vm=vm_id,
                boot="before",
                seq=samples[start].ts,
                sent_s=time.time(),
                interval_s=_MINUTE_S,
                samples=[encode_sample(sample) for sample in samples[start : start + _MAX_SAMPLES]],
            )
            answer = self.aggregator.request("POST", "/v1/samples", body, headers)
            assert answer.acknowledged, answer

    def wait_for_calm(self, guest: Guest) -> None:
        """Until none of its newest samples tells of its boot, and the fleet database knows so."""

        def is_calm() -> bool:
            newest: list[dict[str, Any]] = self.live(guest)["samples"]
            told = [each["cpu_busy_ratio"] for each in newest if each["interval_s"] == guest.spec.interval_s]
            return len(told) > 1 and max(told) < _CALM_RATIO

        wait_for(is_calm, f"{guest.name} at rest", within_s=180, explain=lambda: str(self.live(guest)))
        self.aggregator.flush()

    def samples(self, guest: Guest) -> list[dict[str, Any]]:
        """What its own agent told, oldest first."""
        known = self.rig.samples(guest, aggregator=self.aggregator)
        return [each for each in known if each["interval_s"] == guest.spec.interval_s]

    def newest_ts(self, guest: Guest) -> int:
        """Of its newest sample, by its own clock."""
        ts: int = self.samples(guest)[-1]["ts"]
        return ts

    def wait_for_samples(self, guest: Guest, count: int = 1, *, after_ts: int = 0) -> None:
        """Until its own agent told so many samples later than that."""

        def have_come() -> bool:
            return len([each for each in self.samples(guest) if each["ts"] > after_ts]) >= count

        wait_for(have_come, f"{guest.name}: {count} samples", within_s=180, explain=lambda: tail(guest.console, 15))

    def live(self, guest: Guest) -> dict[str, Any]:
        """What the aggregator has of a guest in memory."""
        (found,) = json.loads(self.aggregator.ask(f"/v1/live?vm={guest.uuid}"))["vms"]
        told: dict[str, Any] = found
        return told

    def call(self, command: str, *argv: str) -> CompletedProcess[str]:
        """Runs one command of `fallow-orchestrate` to its end."""
        self._push_crowd()
        words = ("fallow-orchestrate", command, "--config", str(self.settings), *argv)
        return self.house.run(*words, within_s=_COMMAND_WITHIN_S)

    def ok(self, command: str, *argv: str) -> str:
        """What a command prints that has to succeed."""
        done = self.call(command, *argv)
        assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stdout, done.stderr)
        return done.stdout

    def read(self, command: str, *argv: str, code: int = 0) -> dict[str, Any]:
        """The JSON that a command prints."""
        done = self.call(command, *argv, "--json")
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def approve(self, planned: dict[str, Any], *steps: tuple[str, str]) -> str:
        """Says yes to a plan of exactly these steps, of verb and VM's name, in any order; its hash."""
        found = sorted((step["verb"], step["name"]) for step in planned["plan"]["steps"])
        assert (found, planned["refusals"]) == (sorted(steps), []), planned
        self.ok("approve", planned["sha256"], "--by", "ann")
        sha256: str = planned["sha256"]
        return sha256

    def verdict(self, guest: Guest) -> dict[str, Any]:
        """What `fallow-report` says of a guest."""
        done = self.house.run("fallow-report", "--config", str(self.folder / "report.toml"), "--all", "--json")
        assert done.returncode == 0, done.stderr
        (found,) = (vm for vm in json.loads(done.stdout)["vms"] if vm["vm"] == guest.uuid)
        told: dict[str, Any] = found
        return told

    def notices(self) -> dict[str, dict[str, Any]]:
        """The newest notice of each guest, by its name."""
        return {notice["vm"]["name"]: notice for notice in (json.loads(each.body) for each in self.hook.requests)}

    def watch(self) -> str:
        """Starts the service, which takes its first turn; the address of the owners' pages."""
        self._push_crowd()
        program = self.house.programs.start(["fallow-orchestrate", "watch", "--config", str(self.settings)])
        self.services.append(program)
        status = self.folder / "control" / "status.json"

        def address() -> str | None:
            return str(json.loads(status.read_text())["site"]) if status.exists() else None

        return self.house.until(address, "the owners' pages", running=[program], within_s=120)

    def write_settings(self, *, hook_port: int) -> None:
        """The report's settings and the controller's."""
        secret = self.folder / "hook.secret"
        secret.touch(mode=0o600)
        secret.write_text(f"{SECRET}\n")
        hosts = "\n".join(
            f'[[orchestrate.drivers.hosts]]\nuri = "{host.uri}"\nname = "{host.name}"\nmigrate_uri = "{host.lan_uri}"'
            for host in self.rig.hosts
        )
        report = _SETTINGS.format(data=self.aggregator.data, admin=self.aggregator.doors.admin)
        control = _CONTROL.format(
            control=self.folder / "control", hosts=hosts, grace_s=GRACE_S, hook=hook_port, secret=secret
        )
        (self.folder / "report.toml").write_text(report)
        self.settings.write_text(report + control)

    def _remember(self, guest: Guest) -> None:
        """A day and two hours of doing nothing, up to now."""
        end_s = int(time.time()) // _MINUTE_S * _MINUTE_S
        self.push(guest.uuid, [_rest(ts, guest) for ts in range(end_s - _HISTORY_S, end_s + 1, _MINUTE_S)])

    def _push_crowd(self) -> None:
        """One sample of each, so that all of the crowd report at any look."""
        if time.monotonic() - self._crowd_s < _CROWD_EVERY_S:
            return
        ts = int(time.time()) // _MINUTE_S * _MINUTE_S
        busy = Sample(ts=ts, cpu_busy_ratio=0.4, mem_total_bytes=2**30, mem_used_bytes=2**29)
        for number in range(_CROWD):
            self.push(f"crowd-{number}", [busy])
        self._crowd_s = time.monotonic()


def _rest(ts: int, guest: Guest) -> Sample:
    return Sample(
        ts=ts,
        cpu_busy_ratio=0.01,
        cpu_count=1,
        mem_total_bytes=guest.spec.memory_mib << 20,
        mem_used_bytes=40 << 20,
        net_rx_bytes_per_s=50.0,
        net_tx_bytes_per_s=50.0,
        disk_read_bytes_per_s=0.0,
        disk_write_bytes_per_s=0.0,
        users=0,
    )


@contextmanager
def open_cloud(rig: Rig, folder: Path) -> Iterator[Cloud]:
    """A cloud without guests; those that are started in it go at its end."""
    with ExitStack() as stack:
        hook = Receiver(answers=[200])
        port = stack.enter_context(receiver(hook))
        # A guest enrols as the VM whose past was pushed a moment ago, and no admin is there to say that it may.
        checks = (*PLAIN, "--enrolment-check", "off")
        aggregator = rig.house.aggregator(*checks, data=folder / "data", listen=f"{rig.address}:0")
        stack.callback(aggregator.stop)
        cloud = Cloud(rig=rig, aggregator=aggregator, folder=folder, hook=hook)
        cloud.write_settings(hook_port=port)
        try:
            yield cloud
        finally:
            for program in cloud.services:
                program.process.terminate()
                program.process.wait(30)
            for guest in cloud.guests.values():
                rig.remove(guest)
