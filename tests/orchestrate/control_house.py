"""A small cloud for the commands of the controller: a real fleet database, simulated hypervisors in a file, an admin
door and a receiver of notices over real sockets, and a clock that tests turn.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrate.__main__ import main
from orchestrate.config import OrchestrateConfig, load_config
from orchestrate.driver import Driver
from orchestrate.drivers.registry import open_driver
from orchestrate.inventory import VmState
from tests.aggregator.admin_door import Door, open_door, token_file
from tests.reports.deliver.servers import Receiver, receiver
from tests.reports.fleets import BUSY, NOW_S, Load, Spec, write_fleet

IDLE, BUSY_ID, LONE = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "abc")
GRACE_S = 60.0
SETTINGS = """
[report]
data = "{data}"
[report.serve]
aggregator = "{aggregator}"
[orchestrate]
data = "{data}/control"
[[orchestrate.drivers]]
name = "lab"
kind = "simulated"
park = "{data}/park.toml"
state = "{data}/state.json"
pace = 0
[[orchestrate.reclaim.groups]]
name = "all"
names = ["*"]
up_to = "{up_to}"
grace = "60s"
stop_grace = "120s"
[orchestrate.notify.webhook]
url = "http://127.0.0.1:{hook}/notices"
secret_file = "{data}/hook.secret"
{more}
"""


@dataclass
class House:
    """One cloud. `now_s` is everybody's clock; agents in `awake` push a minute before each command."""

    folder: Path
    door: Door
    hook: Receiver
    hook_port: int
    specs: list[Spec]
    now_s: float = NOW_S
    awake: set[str] = field(default_factory=set)
    minute: dict[str, object] = field(default_factory=dict)
    minutes: int = 2

    @property
    def settings(self) -> Path:
        return self.folder / "orchestrate.toml"

    def write_settings(self, *, up_to: str = "suspend", more: str = "", text: str = SETTINGS) -> None:
        """The file that every command is called with."""
        values = {"data": self.folder, "aggregator": self.door.url, "hook": self.hook_port}
        self.settings.write_text(text.format(up_to=up_to, more=more, **values), encoding="utf-8")

    def config(self) -> OrchestrateConfig:
        return load_config(self.settings, base=OrchestrateConfig())

    def driver(self) -> Driver:
        """Another way to the same hypervisors."""
        return open_driver(self.config().drivers[0], clock=lambda: self.now_s)

    def state(self, uuid: str) -> VmState:
        return self.driver().find(uuid, 5.0).state

    def pause(self, seconds: float) -> None:
        self.now_s += seconds
        self.push()

    def push(self) -> None:
        """What the aggregator has in memory now."""
        ts = int(self.now_s) // 60 * 60
        vms = [
            {
                "vm": vm_id,
                "last_seen_s": self.now_s - 1,
                "skew_s": 0.1,
                "flags": [],
                "boot": "boot-1",
                "samples": [_sample(ts - 60 * ago, self.minute) for ago in range(self.minutes)],
            }
            for vm_id in sorted(self.awake)
        ]
        self.door.answers[:] = [(200, json.dumps({"now_s": self.now_s, "vms": vms, "next": None}).encode())]

    def call(self, *argv: str | Path, columns: int | None = None, **others: Any) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of one command. Args: columns: of the terminal; None: it is none."""
        self.push()
        out, err = io.StringIO(), io.StringIO()
        words = [str(argv[0]), "--config", str(self.settings), *map(str, argv[1:])]
        environ = {} if columns is None else {"COLUMNS": str(columns)}
        code = main(words, clock=lambda: self.now_s, pause=self.pause, environ=environ, out=out, err=err, **others)
        self.now_s += 1.0
        return code, out.getvalue(), err.getvalue()

    def read(self, *argv: str | Path, code: int = 0) -> dict[str, Any]:
        """The JSON that a command prints."""
        found, out, err = self.call(*argv, "--json")
        assert (found, err) == (code, ""), (found, out, err)
        document: dict[str, Any] = json.loads(out)
        return document

    def ok(self, *argv: str | Path) -> str:
        """What a command prints that has to succeed."""
        code, out, err = self.call(*argv)
        assert (code, err) == (0, ""), (code, out, err)
        return out

    def run(self, *argv: str | Path) -> dict[str, Any]:
        """Plans, approves and applies; what `apply --json` says."""
        planned = self.read("plan", *argv)
        assert planned["plan"]["steps"], planned
        self.ok("approve", planned["sha256"], "--by", "ann")
        return self.read("apply", planned["sha256"], "--by", "ann")

    def suspend(self) -> str:
        """Takes the idle VM down to its suspension; the run."""
        self.run()
        self.now_s += GRACE_S
        return str(self.run()["run_id"])


def _sample(ts: int, others: Mapping[str, object]) -> dict[str, object]:
    told: dict[str, object] = {
        "ts": ts,
        "interval_s": 60,
        "cpu_busy_ratio": 0.003,
        "mem_used_bytes": 1 << 30,
        "users": 0,
        "net_rx_bytes_per_s": 10.0,
        "net_tx_bytes_per_s": 5.0,
    }
    return {**told, **others}


def park(specs: list[Spec]) -> str:
    """A simulated site with these VMs, and one that has no agent."""
    lines = ['[[hosts]]\nid = "h1"\ncores = 32\nmem = "256GiB"', '[[hosts]]\nid = "h2"\ncores = 32\nmem = "256GiB"']
    for spec in specs:
        ratio = 0.55 if spec.load == BUSY else 0.003
        lines.append(
            f'[[vms]]\nuuid = "{spec.vm_id}"\nname = "{spec.name}"\nhost = "h1"\nvcpus = {spec.vcpus}\n'
            f'mem = "8GiB"\nowner = "{spec.owner}"\ncpu_ratio = {ratio}'
        )
    lines.append(f'[[vms]]\nuuid = "{LONE}"\nname = "lone"\nhost = "h2"\nvcpus = 1\nmem = "1GiB"')
    return "\n".join(lines) + "\n"


def usual() -> list[Spec]:
    """One idle VM and one that works."""
    return [
        Spec(vm_id=IDLE, name="build-7", owner="ann", mail="ann@example.org", vcpus=4),
        Spec(vm_id=BUSY_ID, name="db-1", owner="bob", load=BUSY, vcpus=2),
    ]


def idle_vms(count: int, *, owner: str = "ann", load: Load | None = None) -> list[Spec]:
    """So many idle VMs of one owner on one host."""
    return [
        Spec(vm_id=f"{number:08}-0000-4000-8000-000000000000", name=f"idle-{number}", owner=owner, vcpus=2)
        for number in range(count)
    ]


@contextmanager
def house(folder: Path, specs: list[Spec] | None = None, *, up_to: str = "suspend", more: str = "") -> Iterator[House]:
    """A cloud of these VMs, all of them pushing."""
    specs = usual() if specs is None else specs
    write_fleet(folder, specs)
    token_file(folder)
    (folder / "park.toml").write_text(park(specs), encoding="utf-8")
    secret = folder / "hook.secret"
    secret.touch(mode=0o600)
    secret.write_text("0123456789abcdef0123456789abcdef\n", encoding="utf-8")
    hook = Receiver(answers=[200])
    with open_door() as door, receiver(hook) as port:
        made = House(folder=folder, door=door, hook=hook, hook_port=port, specs=specs)
        made.awake = {spec.vm_id for spec in specs}
        made.write_settings(up_to=up_to, more=more)
        made.push()
        yield made
