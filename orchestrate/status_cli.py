"""`fallow-orchestrate status | inventory`: what the controller is at, and which VM runs which agent."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.settings import parse_count
from orchestrate.config import OrchestrateConfig
from orchestrate.inventory import Inventory, Vm
from orchestrate.surroundings import Surroundings
from orchestrate.watch_state import STATUS_FILE_NAME
from orchestrate.words import action_line, entry_line, known, run_line
from reports.program import DONE, UNREACHABLE
from reports.report_cli import option
from reports.words import count_words, gib, printable, time_words

if TYPE_CHECKING:
    from orchestrate.control import Control
    from orchestrate.sites import Look
    from orchestrate.world import World

# More than any table is wide.
_UNBOUNDED_COLUMNS = 10_000
# A turn that applies a plan takes its time.
_LATE_S = 600.0
_STATUS_EXAMPLES = """\
examples:
  fallow-orchestrate status                                who leads, what waits, the last runs, the ladder
  fallow-orchestrate status --runs 20 --json
"""
_INVENTORY_EXAMPLES = """\
examples:
  fallow-orchestrate inventory                             every VM of every hypervisor, and its agent
  fallow-orchestrate inventory --json
"""


def add_status_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `status` takes."""
    parser.epilog = _STATUS_EXAMPLES
    parser.add_argument("--runs", metavar="N", type=option(parse_count), default=5, help="the last N runs (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_inventory_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `inventory` takes."""
    parser.epilog = _INVENTORY_EXAMPLES
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run_status(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Prints what the controller is at. Returns: 0; 69: a hypervisor does not answer."""
    from orchestrate.control import open_control  # noqa: PLC0415

    with open_control(config, clock=around.clock, pause=around.pause) as control:
        look = control.sites.look()
        text = _status_json(control, look, options.runs) if options.json else _status_text(control, look, options.runs)
    around.out.write(text)
    return UNREACHABLE if look.problems or any(one.unreachable for one in look.inventories) else DONE


def _status_json(control: Control, look: Look, runs: int) -> str:
    from orchestrate.documents import (  # noqa: PLC0415
        action_document,
        entry_document,
        lease_document,
        run_document,
        to_text,
    )

    now_s, records = control.clock(), control.records
    names = _names(look)
    return to_text(
        {
            "now_s": now_s,
            "kill_switch": control.sources.stopped(),
            "leader": lease_document(records.leader(), now_s),
            "drivers": [
                {"name": name, **_health(name, look)} for name in (each.name for each in control.config.drivers)
            ],
            "runs": [run_document(run) for run in records.runs(limit=runs)],
            "unsettled": [action_document(action) for action in records.unsettled()],
            "ladder": [
                entry_document(entry, names.get(str(ref), str(ref))) for ref, entry in sorted(records.entries().items())
            ],
            "service": _service(control),
        }
    )


def _status_text(control: Control, look: Look, runs: int) -> str:
    now_s, records = control.clock(), control.records
    stop, leader = control.sources.stopped(), records.leader()
    lines = [f"STOPPED, nothing is done: {printable(stop)}"] if stop is not None else []
    if leader is None or not now_s < leader.expires_s:
        lines.append("nobody leads")
    else:
        lines.append(f"{printable(leader.holder)} leads until {time_words(leader.expires_s)}")
    for driver in control.config.drivers:
        lines.append(f"{printable(driver.name)}: {_health_words(driver.name, look)}")
    unsettled = records.unsettled()
    if unsettled:
        lines += ["", f"{count_words(len(unsettled), 'action')} to clear up (resolve NUMBER done|failed):"]
        lines += [f"  action {action.action_id}: {action_line(action).strip()}" for action in unsettled]
    entries, names = records.entries(), _names(look)
    lines += ["", f"{count_words(len(entries), 'VM')} on the ladder" if entries else "No VM is on the ladder."]
    lines += [
        f"  {entry_line(entry, names.get(str(ref), str(ref)), now_s=now_s)}" for ref, entry in sorted(entries.items())
    ]
    found = records.runs(limit=runs)
    lines += ["", *([run_line(run, records.actions(run.run_id)) for run in found] or ["There has been no run yet."])]
    lines += ["", *_service_lines(_service(control), now_s)]
    return "\n".join(lines) + "\n"


def _service(control: Control) -> Mapping[str, object] | None:
    """What the service noted at its last turn; None: it has not run, or its note cannot be read."""
    try:
        found: object = json.loads((control.config.data_dir / STATUS_FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _service_lines(service: Mapping[str, object] | None, now_s: float) -> Iterator[str]:
    turn = None if service is None else service.get("turn")
    if service is None or not isinstance(turn, dict):
        yield "The service has not run."
        return
    yield f"service {known(service.get('holder'))}: last turn {known(service.get('at'))}: {known(turn.get('end'))}"
    next_s = service.get("next_s")
    if isinstance(next_s, int | float) and now_s > next_s + _LATE_S:
        yield f"  late: its next turn was due {time_words(next_s)}"
    yield from (f"  {known(words)}" for words in turn.get("words") or ())
    if turn.get("problem"):
        yield f"  problem: {known(turn['problem'])}"


def _health(name: str, look: Look) -> dict[str, object]:
    inventory = _inventory_of(name, look)
    if inventory is None:
        return {"answers": False, "problem": look.problems.get(name)}
    hosts, vms = len(inventory.hosts), len(inventory.vms)
    return {"answers": True, "hosts": hosts, "vms": vms, "unreachable": dict(inventory.unreachable)}


def _health_words(name: str, look: Look) -> str:
    inventory = _inventory_of(name, look)
    if inventory is None:
        return f"does not answer: {known(look.problems.get(name))}"
    down = "".join(f"; {known(host)} does not answer: {known(why)}" for host, why in inventory.unreachable.items())
    return f"{count_words(len(inventory.hosts), 'host')}, {count_words(len(inventory.vms), 'VM')}{down}"


def _inventory_of(name: str, look: Look) -> Inventory | None:
    return next((one for one in look.inventories if one.driver == name), None)


def _names(look: Look) -> Mapping[str, str]:
    return {str(vm.ref): vm.name for inventory in look.inventories for vm in inventory.vms}


def run_inventory(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Prints hosts and VMs with their agents. Returns: 0; 69: a hypervisor does not answer."""
    from orchestrate.control import open_control  # noqa: PLC0415

    with open_control(config, clock=around.clock, pause=around.pause) as control:
        world = control.sources.world(outside=False)
    around.out.write(_inventory_json(world) if options.json else _inventory_text(world, around))
    return UNREACHABLE if world.unread or any(one.unreachable for one in world.inventories) else DONE


def _inventory_json(world: World) -> str:
    from orchestrate.documents import to_text  # noqa: PLC0415

    return to_text(
        {
            "read_s": world.now_s,
            "aggregator_answers": world.fleet.live,
            "aggregator_problem": world.fleet.problem,
            "unread": dict(world.unread),
            "hosts": [
                {
                    "driver": host.driver,
                    "host": host.host_id,
                    "cores": host.cores,
                    "mem_bytes": host.mem_bytes,
                    "accepts": host.accepts,
                }
                for inventory in world.inventories
                for host in inventory.hosts
            ],
            "unreachable": {one.driver: dict(one.unreachable) for one in world.inventories if one.unreachable},
            "vms": [_vm_document(world, vm) for vm in _vms(world.inventories)],
            "agents_without_vm": sorted(world.fleet.sightings.keys() - world.matches.by_vm_id.keys()),
        }
    )


def _vm_document(world: World, vm: Vm) -> dict[str, object]:
    scene = world.scene(vm.ref)
    match = scene.match
    return {
        "vm": str(vm.ref),
        "name": vm.name,
        "host": vm.host_id,
        "state": vm.state.value,
        "vcpus": vm.vcpus,
        "mem_bytes": vm.mem_bytes,
        "owner": scene.owner,
        "tags": sorted(scene.tags),
        "shields": sorted(shield.value for shield in vm.shields),
        "agent": None if match is None else match.vm_id,
        "matched_by": None if match is None else match.by.value,
        "agrees": [] if match is None else [each.value for each in match.agrees],
        "doubt": scene.doubt,
        "verdict": None if scene.sighting is None else scene.sighting.verdict.value,
    }


def _vms(inventories: Iterable[Inventory]) -> Sequence[Vm]:
    return sorted((vm for inventory in inventories for vm in inventory.vms), key=lambda vm: (vm.name, vm.ref))


def _inventory_text(world: World, around: Surroundings) -> str:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from reports.terminal import open_console  # noqa: PLC0415

    buffer, console = open_console(width=around.width, colour=around.colour)
    for inventory in world.inventories:
        for host in inventory.hosts:
            accepts = "" if host.accepts else ", takes no VMs"
            console.print(f"{inventory.driver} {host.host_id}: {host.cores} cores, {gib(host.mem_bytes)}{accepts}")
        for host_id, why in inventory.unreachable.items():
            console.print(printable(f"{inventory.driver} {host_id}: does not answer: {why}"))
    for name, why in world.unread.items():
        console.print(printable(f"{name}: does not answer: {why}"))
    if world.fleet.problem is not None:
        whose = "some agents'" if world.fleet.live else "agents'"
        console.print(printable(f"{whose} last minutes are not known: {world.fleet.problem}"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for header in ("VM", "host", "state", "size", "owner", "agent", "matched by", "verdict"):
        table.add_column(header, overflow="fold")
    vms = [_told(world, vm) for vm in _vms(world.inventories)]
    for each in vms:
        cells = (f"{each.name}\n{each.ref}", *each.cells)
        table.add_row(*(Text(cell) for cell in cells))
    wanted = console.measure(table, options=console.options.update(max_width=_UNBOUNDED_COLUMNS)).maximum
    if wanted <= console.width:
        console.print(table)
    else:
        for each in vms:
            console.print(Text(each.sentence))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """A VM as it is printed. Args: cells: host, state, size, owner, agent, what tells that, verdict."""

    name: str
    ref: str
    cells: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Where a table has no room."""
        host, state, size, owner, agent, by, verdict = self.cells
        return f"{self.name} ({self.ref}) on {host}: {state}, {size}, owner {owner}; agent {agent} ({by}): {verdict}"


def _told(world: World, vm: Vm) -> _Told:
    scene = world.scene(vm.ref)
    match = scene.match
    return _Told(
        name=printable(vm.name),
        ref=printable(str(vm.ref)),
        cells=(
            known(vm.host_id),
            known(vm.state),
            f"{vm.vcpus} vCPU, {gib(vm.mem_bytes)}",
            known(scene.owner),
            known(match and match.vm_id),
            known(scene.doubt or (match and " and ".join(match.agrees))),
            known(scene.sighting and scene.sighting.verdict.value),
        ),
    )
