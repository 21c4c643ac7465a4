"""A controller as a process of its own that dies or stands still in the middle of an order.

`python -m tests.orchestrate.controller_process FOLDER WHEN`: applies a plan that suspends two VMs of a hypervisor whose
state is in FOLDER. WHEN: `before` or `after` the first order took effect it is killed; `during` it is stopped until
somebody lets it go on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from orchestrate.database import SqlRecords
from orchestrate.driver import AFTER, Capabilities, NotFound, Order, Verb
from orchestrate.executor import Executor, Result
from orchestrate.inventory import Counters, Inventory, Vm, VmState
from orchestrate.orders import Timeouts
from orchestrate.plan import Plan, PlanKind
from orchestrate.schema import open_orchestrate_db
from tests.orchestrate.fakes import FakeChecks, a_plan, a_step, a_vm, ref

LIFE_S = 4.0
TIMEOUTS = Timeouts(find_s=1.0, begin_s=1.0)
NUMBERS = (1, 2)


class FolderDriver:
    """A hypervisor that outlives its controllers: a VM's state is a file, and so is the list of orders."""

    name = "lab"
    capabilities = Capabilities(verbs=frozenset(Verb))

    def __init__(self, folder: Path, when: str = "") -> None:
        self._folder, self._when = folder, when

    def orders(self) -> list[str]:
        """`VERB UUID PID` of each order that came, in order."""
        path = self._folder / "orders"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def inventory(self, timeout_s: float) -> Inventory:
        return Inventory(driver=self.name, read_s=0.0, hosts=(), vms=())

    def find(self, uuid: str, timeout_s: float) -> Vm:
        found = next((a_vm(number) for number in NUMBERS if ref(number).uuid == uuid), None)
        if found is None:
            raise NotFound(uuid)
        path = self._folder / uuid
        return replace(found, state=VmState(path.read_text(encoding="utf-8"))) if path.exists() else found

    def counters(self, timeout_s: float) -> Counters:
        return Counters(hosts={}, vms={})

    def begin(self, order: Order, timeout_s: float) -> _Task:
        with (self._folder / "orders").open("a", encoding="utf-8") as log:
            log.write(f"{order.verb} {order.uuid} {os.getpid()}\n")
        if self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        (self._folder / order.uuid).write_text(AFTER[order.verb], encoding="utf-8")
        if self._when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return _Task(self._when)

    def close(self) -> None:
        pass


class _Task:
    progress_ratio = None

    def __init__(self, when: str) -> None:
        self._when = when

    def wait(self, timeout_s: float) -> bool:
        """With `during`, whoever started the process finds it stopped."""
        if self._when == "during":
            self._when = ""
            os.kill(os.getpid(), signal.SIGSTOP)
            return False
        return True

    def cancel(self) -> None:
        pass


def the_plan() -> Plan:
    """The same in every process."""
    return a_plan(*(a_step(Verb.SUSPEND, number) for number in NUMBERS), kind=PlanKind.RELIEF)


def apply(folder: Path, when: str, holder: str) -> Result:
    """Takes the lease and applies the plan."""
    engine = open_orchestrate_db(None, folder)
    records = SqlRecords(engine)
    lease = records.acquire(holder, now_s=time.time(), life_s=LIFE_S)
    assert lease is not None
    executor = Executor(
        records,
        {"lab": FolderDriver(folder, when)},
        FakeChecks(),
        notify=lambda _step, _plan: "",
        clock=time.time,
        stopped=lambda: None,
        timeouts=TIMEOUTS,
        lease_life_s=LIFE_S,
    )
    try:
        return executor.apply(the_plan(), lease, by=holder)
    finally:
        engine.dispose()


if __name__ == "__main__":
    print(apply(Path(sys.argv[1]), sys.argv[2], "child").run.words)
