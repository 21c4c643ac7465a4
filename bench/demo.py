"""The demo's driver: an aggregator, a real agent, a fleet; then the report, held against what the fleet did.

After that the controller suspends the best of what is idle, on simulated hosts, and brings it back. `run_demo.sh` runs
it. What is started and what must come out is decided in `bench.demo_plan` and `bench.demo_control_plan`.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from agent.identity import find_identities
from bench.demo_control import Shown, begin_control, give_back, start_live_fleet, start_watch
from bench.demo_plan import (
    ContractError,
    FleetCounts,
    Options,
    Places,
    SimulatedTruth,
    agent_argv,
    aggregator_argv,
    disagreements,
    fleet_argv,
    join_token_argv,
    parse_options,
    read_first_link,
    read_fleet_counts,
    read_manifest,
    read_pages_address,
    read_verdicts,
    report_argv,
    report_config,
    serve_argv,
    summary,
)
from bench.demo_progress import LogFollower, showing_progress
from bench.programs import INTERRUPTED, START_WITHIN_S, Program, ProgramError, Programs

COMMAND_WITHIN_S = 300.0
FLUSH_WITHIN_S = 1_800.0
FLEET_WITHIN_S = 6 * 3_600.0


def say(line: str) -> None:
    """A line for people; what our programs tell is on stdout."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Doors:
    """Where the aggregator listens, as `host:port`, and the token of its admin door."""

    agents: str
    admin: str
    admin_token: str

    def ask(self, path: str, *, method: str, within_s: float) -> str:
        """The answer of the admin door. Raises: OSError, HTTPException: none, a broken one, or an error."""
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        request = urllib.request.Request(f"http://{self.admin}{path}", headers=headers, method=method)
        # Without this, a proxy of the environment would be asked for our own loopback.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=within_s) as answer:
            return str(answer.read(), "utf-8")


def open_doors(programs: Programs, aggregator: Program, data: Path) -> Doors:
    """Waits until the aggregator has written where it listens."""

    files = ("agents.address", "admin.address", "admin.token")
    return Doors(*(programs.wait_for_line(data / name, running=[aggregator]) for name in files))


def get_join_token(options: Options, places: Places, programs: Programs) -> None:
    """Puts a join token into a file that only its owner may read."""
    places.join_token.touch(mode=0o600)
    command = programs.start(join_token_argv(options, places), stdout=places.join_token)
    programs.finish(command, within_s=START_WITHIN_S)


def run_fleet(options: Options, places: Places, programs: Programs, url: str, running: list[Program]) -> FleetCounts:
    """Sends the history of the whole fleet and waits until all of it is acknowledged."""
    answer = places.home / "fleet.json"
    fleet = programs.start(fleet_argv(options, places, url), stdout=answer)
    log = LogFollower(fleet.log)
    with showing_progress(sys.stderr) as show:

        def follow() -> None:
            for line in log.lines():
                show(line)

        programs.finish(fleet, running=running, within_s=FLEET_WITHIN_S, watch=follow)
    return read_fleet_counts(answer.read_text("utf-8"))


def flush(programs: Programs, doors: Doors, running: list[Program]) -> None:
    """Has everything written to the stores and the summaries, and waits for it."""
    ended: list[Exception | None] = []

    def ask() -> None:
        try:
            # Twice: the first may only have waited for a flush that began before the last samples came.
            for _ in range(2):
                doors.ask("/v1/flush", method="POST", within_s=FLUSH_WITHIN_S)
            ended.append(None)
        except (OSError, HTTPException) as error:
            ended.append(error)

    # On a thread of its own, so that an aggregator that dies and a Ctrl-C are noticed meanwhile.
    threading.Thread(target=ask, daemon=True).start()
    programs.wait_until(lambda: ended or None, running=running, within_s=2 * FLUSH_WITHIN_S, what="the flush")
    if ended[0] is not None:
        raise ProgramError(f"the aggregator did not flush: {ended[0]}")


def report(options: Options, places: Places, programs: Programs) -> dict[str, str]:
    """Prints the report and gives each VM's verdict."""
    programs.finish(programs.start(report_argv(options, places), inherit=True), within_s=COMMAND_WITHIN_S)
    answer = places.home / "report.json"
    command = programs.start(report_argv(options, places, "--json", "--all"), stdout=answer)
    programs.finish(command, within_s=COMMAND_WITHIN_S)
    return read_verdicts(answer.read_text("utf-8"))


def this_machines_id() -> str | None:
    """A name for this machine where the agent would find none; None where it finds one."""
    return None if find_identities(Path("/"), credentials=None) else "demo-this-machine"


def run(options: Options, places: Places, programs: Programs) -> int:
    """The whole demo; its exit status."""
    aggregator = programs.start(aggregator_argv(options, places))
    doors = open_doors(programs, aggregator, places.data)
    url = f"http://{doors.agents}"
    get_join_token(options, places, programs)
    agent = programs.start(agent_argv(places, url, this_machines_id()))
    running = [aggregator, agent]

    begun_s = time.monotonic()
    # Its history ends at the minute in which it starts.
    counts = run_fleet(options, places, programs, url, running)
    truth = () if options.trace else read_manifest(places.manifest.read_text("utf-8"))
    if truth:
        running.append(start_live_fleet(options, places, programs, url, truth, time.monotonic() - begun_s))
    say("writing the stores and the summaries ...")
    flush(programs, doors, running)
    took_s = time.monotonic() - begun_s

    # It looks at the fleet while the report is made.
    telling = begin_control(options, places, programs, running, admin=doors.admin) if truth else None
    verdicts = report(options, places, programs)
    wrong = disagreements(truth, verdicts)
    for line in wrong:
        say(f"WRONG {line}")
    say(summary(counts, took_s))
    if truth and not wrong:
        say(f"the verdicts on all {len(truth)} simulated VMs agree with what they did")
    if telling is not None:
        shown, turn = telling
        wrong += end_control(options, shown, turn, truth)
    if options.keep:
        pages = open_pages(options, places, programs, doors, running)
        say(left_running(places, programs, doors, running, pages))
    return 1 if wrong else 0


def end_control(options: Options, shown: Shown, turn: Program, truth: Sequence[SimulatedTruth]) -> list[str]:
    """Has the controller take what is idle and bring it back; a line for everything that went wrong.

    With --keep its service stays.
    """
    begun_s = time.monotonic()
    wrong = give_back(shown, turn, truth)
    for line in wrong:
        say(f"WRONG {line}")
    if not wrong:
        say(f"exactly what was told and planned was suspended, and it is back ({time.monotonic() - begun_s:.1f} s)")
    if options.keep:
        say(f"the owners' pages are on {start_watch(shown)}")
    return wrong


def open_pages(
    options: Options, places: Places, programs: Programs, doors: Doors, running: list[Program]
) -> tuple[str, str]:
    """Starts the pages, adds their program to `running` and waits until they are there.

    Returns: their address, and the link that makes the first admin.
    """
    places.report_config.write_text(report_config(options, places, doors.admin), encoding="utf-8")
    server = programs.start(serve_argv(places))
    running.append(server)

    def told() -> tuple[str, str] | None:
        log = server.log.read_text("utf-8")
        address, link = read_pages_address(log), read_first_link(log)
        return None if address is None or link is None else (address, link)

    return programs.wait_until(told, running=[server], within_s=START_WITHIN_S, what="the pages")


def left_running(
    places: Places, programs: Programs, doors: Doors, running: list[Program], pages: tuple[str, str]
) -> str:
    """What `--keep` leaves, and what to do with it."""
    pids = " ".join(str(program.process.pid) for program in running)
    return "\n".join(
        [
            "",
            f"pages                  {pages[0]}",
            f"the first log-in       {pages[1]} (once: it makes the first admin)",
            f"agents' door           http://{doors.agents}",
            f"admin door             http://{doors.admin} (bearer token in {places.data / 'admin.token'})",
            *(f"{program.name:<22} pid {program.process.pid}, log {program.log}" for program in running),
            f"data                   {places.data}",
            "",
            "try:",
            f"  {programs.folder / 'fallow-report'} --config {places.report_config} --why",
            f"  {programs.folder / 'fallow-report'} compare --config {places.report_config}",
            f"  {programs.folder / 'fallow-report'} user list --data {places.data}",
            f"  {programs.folder / 'fallow-aggregator'} vms list --data {places.data}",
            f"  {programs.folder / 'fallow-orchestrate'} plan --config {places.home / 'orchestrate.toml'}",
            f'  curl -H "Authorization: Bearer $(cat {places.data / "admin.token"})" http://{doors.admin}/metrics',
            f"stop it with: kill {pids}",
        ]
    )


def make_home(keep: bool, root: Path) -> Path:
    """A new folder: a temporary one, or for --keep the first free `build/demo…` below `root`."""
    if not keep:
        return Path(tempfile.mkdtemp(prefix="fallow-demo-"))
    number = 1
    while True:
        home = root / "build" / (f"demo-{number}" if number > 1 else "demo")
        try:
            home.mkdir(parents=True)
        except FileExistsError:
            # An earlier run may still be alive in there.
            number += 1
        else:
            return home


def main(argv: Sequence[str] | None = None, *, scripts: Path | None = None) -> int:
    """Runs the demo: 0 the report is right, 1 it is not or a program failed, 2 usage, 130 interrupted.

    Args: scripts: where the console scripts are; beside this Python unless told.
    """
    options, only_check = parse_options(argv)
    if only_check:
        return 0
    places = Places(make_home(options.keep, Path(__file__).parent.parent))
    programs = Programs(scripts or Path(sys.executable).parent, places.logs, time)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: programs.interrupt())
    finished = False
    try:
        status = run(options, places, programs)
        finished = True
    except KeyboardInterrupt:
        say("interrupted: stopping everything")
        status = INTERRUPTED
    except (ProgramError, ContractError, OSError) as error:
        say(f"run_demo.sh: {error}")
        status = 1
    finally:
        if not (finished and options.keep):
            programs.stop_all()
        if options.keep:
            say(f"everything is in {places.home}")
        else:
            shutil.rmtree(places.home)
    return status


if __name__ == "__main__":
    sys.exit(main())
