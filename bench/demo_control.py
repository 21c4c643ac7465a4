"""The second half of the demo: the controller suspends the VMs that give back most, and gives them back again."""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.demo_control_plan import (
    GRACE_S,
    ControlPlaces,
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
from bench.demo_plan import ContractError, Options, Places, SimulatedTruth
from bench.programs import START_WITHIN_S, Program, Programs

_COMMAND_WITHIN_S = 300.0


def start_live_fleet(
    options: Options, places: Places, programs: Programs, url: str, truth: Sequence[SimulatedTruth], behind_s: float
) -> Program:
    """From now on the VMs report every minute: nothing is done to a VM that was not heard of just now."""
    fleet = programs.start(live_argv(options, places, url, truth, behind_s))
    return replace(fleet, name="simulated fleet")


@dataclass
class Shown:
    """Runs commands of the controller, and shows people what they would type and see."""

    places: ControlPlaces
    programs: Programs
    running: list[Program]
    commands: int = field(default=0, init=False)

    def show(self, text: str) -> None:
        """On stdout, with all that our programs tell."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def run(self, *words: str) -> str:
        """A command and its answer, shown."""
        self.show(f"\n$ fallow-orchestrate {' '.join(words)}\n")
        text = self.ask(*words)
        self.show(text)
        return text

    def ask(self, *words: str) -> str:
        """The answer of a command. Raises: ProgramError: it did not end with 0."""
        return self.answer(self.start(*words))

    def start(self, *words: str) -> Program:
        """Begins a command."""
        self.commands += 1
        return self.programs.start(control_argv(self.places, *words), stdout=self._file(self.commands))

    def answer(self, command: Program) -> str:
        """What the command last begun prints, once it has ended. Raises: ProgramError: it did not end with 0."""
        self.programs.finish(command, running=self.running, within_s=_COMMAND_WITHIN_S)
        return self._file(self.commands).read_text(encoding="utf-8")

    def _file(self, number: int) -> Path:
        return self.places.home / f"orchestrate-{number}.out"


def begin_control(
    options: Options, places: Places, programs: Programs, running: list[Program], *, admin: str
) -> tuple[Shown, Program]:
    """Lays the fleet on hosts, and starts the owners' inbox and a turn of the service, which marks and tells.

    Args: running: the inbox is added.
    """
    control = ControlPlaces(places.home)
    control.secret.touch(mode=0o600)
    control.secret.write_text(secrets.token_urlsafe(32) + "\n", encoding="utf-8")
    control.park.write_text(park_text(options), encoding="utf-8")
    inbox = programs.start(inbox_argv(control, safe_path=sys.flags.safe_path))
    running.append(replace(inbox, name="owners' inbox"))
    address = programs.wait_for_line(control.inbox_address, running=[inbox])
    # Only what is left running has pages: the port is free now, and its watch takes it in a moment.
    port = _free_port() if options.keep else None
    text = control_config(options, places, control, admin=admin, inbox=address, site_port=port)
    control.config.write_text(text, encoding="utf-8")
    shown = Shown(control, programs, running)
    # Nothing is taken before its owner was told, and has had time to object.
    return shown, shown.start("watch", "--once")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def give_back(shown: Shown, turn: Program, truth: Sequence[SimulatedTruth]) -> list[str]:
    """Suspends what owners were told of and brings it back; a line for everything that is not as it should be.

    Args: turn: of the service, under way.

    Raises: ProgramError: a command failed; ContractError: it told something else than its contract says.
    """
    said = shown.answer(turn)
    site = read_site(shown.ask("inventory", "--json"))
    shown.show(
        f"\nGiving back, with fallow-orchestrate: {site.hosts} simulated hosts run {site.vms} VMs, and in "
        f"{site.matched} of them an agent is known.\n\n$ fallow-orchestrate watch --once\n{said}"
    )
    told = read_notices(_read(shown.places))
    if not told:
        # As it may be in the minutes of their nightly updates.
        shown.show("No owner was told of anything, and so nothing is taken.\n")
        return []
    shown.show(f"Owners of {', '.join(told)} were told. The grace is {GRACE_S} s here; by default it is a week.\n")
    plan = read_plan(shown.run("plan", *(word for vm in told for word in ("--vm", vm))))
    if plan is None:
        raise ContractError("there is no plan to suspend what owners were told of")
    sha256, steps = plan
    wrong = wrong_choice(told, truth) + wrong_plan(steps, told)
    shown.run("approve", sha256)
    run = read_run(shown.run("apply", sha256))
    if run is None:
        raise ContractError("apply told of no run")
    wrong += wrong_states(read_site(shown.ask("inventory", "--json")), {step.vm for step in steps}, when="after apply")
    shown.run("status")
    shown.run("undo", run)
    return wrong + wrong_states(read_site(shown.ask("inventory", "--json")), (), when="after undo")


def _read(places: ControlPlaces) -> str:
    try:
        return places.inbox.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def start_watch(shown: Shown) -> str:
    """Starts the service, adds it to what runs and waits for the owners' pages; their address."""
    watch = shown.programs.start(control_argv(shown.places, "watch"))
    shown.running.append(watch)

    def address() -> str | None:
        log = watch.log.read_text(encoding="utf-8")
        return next((line.split(" on ", 1)[1] for line in log.splitlines() if "owners' pages on " in line), None)

    return shown.programs.wait_until(address, running=[watch], within_s=START_WITHIN_S, what="the owners' pages")
