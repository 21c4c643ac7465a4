"""What the demo starts and what its report must say. Pure.

Standard library only: --help and mistakes in options come before anything is installed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agent.settings import parse_count
from aggregator.summary import WINDOWS_DAYS

T = TypeVar("T")

LONGEST_REPORT_DAYS = 14
# Our own policy looks back so far, whatever window is asked for.
POLICY_DAYS = 7
MAX_DAYS = 400  # what `fallow-agent simulate` makes at most
FLUSH_INTERVAL = "10s"
# Recorded VMs may span a year; raw rows younger than this are kept, older samples refused.
TRACE_RETENTION_DAYS = 400
# How many recorded VMs may enrol: a trace says how many it holds only once it is read.
TRACE_JOIN_USES = 10_000

DESCRIPTION = """\
Starts an aggregator, a real agent for this machine and a simulated fleet whose clock runs fast and
ends at now; prints the ranked reclamation report. Then the controller suspends the best of what is
idle, on simulated hypervisors, and brings it back; and everything is stopped. Exit 1 when the report
disagrees with what the simulated VMs did, or other VMs were suspended than planned.
"""

EXAMPLES = """\
examples:
  ./run_demo.sh
  ./run_demo.sh --vms 20 --days 3 --seed 7
  ./run_demo.sh --keep                        leave it running and print the addresses
  ./run_demo.sh --trace recorded.csv          no simulated VMs: replay recorded ones
"""


class ContractError(ValueError):
    """A program printed something else than its contract says; the text tells what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run the demo; `trace` takes the place of the simulated VMs."""

    vms: int = 200
    days: int = 14
    seed: int = 1
    policy: str | None = None
    keep: bool = False
    trace: Path | None = None

    @property
    def window_days(self) -> int:
        """What the report looks at: all of a short history, the last 14 days of a long one."""
        return LONGEST_REPORT_DAYS if self.trace else min(LONGEST_REPORT_DAYS, self.days)

    @property
    def judged_by(self) -> str:
        """The policy asked for; else our own where there is the week that it looks back, for less the percentile."""
        return self.policy or ("fallow" if self.window_days >= POLICY_DAYS else "p95")


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run keeps its things, all below `home`."""

    home: Path

    @property
    def data(self) -> Path:
        """The aggregator's data directory."""
        return self.home / "data"

    @property
    def report_config(self) -> Path:
        """Settings of the pages."""
        return self.home / "report.toml"

    @property
    def agent(self) -> Path:
        return self.home / "agent"

    @property
    def join_token(self) -> Path:
        return self.home / "join.token"

    @property
    def manifest(self) -> Path:
        return self.home / "manifest.json"

    @property
    def logs(self) -> Path:
        return self.home / "logs"


@dataclass(frozen=True, slots=True)
class SimulatedTruth:
    """What one simulated VM did.

    Attributes:
        idle_expected: it must be called idle; every other one must not be.
    """

    vm: str
    profile: str
    idle_expected: bool


@dataclass(frozen=True, slots=True)
class FleetCounts:
    """What became of a fleet's samples; `trace` counts the rows of a recorded one and how they were cleaned."""

    vms: int
    stored: int
    duplicate: int
    rejected: int
    trace: Mapping[str, int]


def parse_options(argv: Sequence[str] | None) -> tuple[Options, bool]:
    """Options of the command line, and whether they were only to be checked; exits with 2 naming a wrong one."""
    parser = argparse.ArgumentParser(
        prog="run_demo.sh",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vms", type=_typed(parse_count), metavar="N", help="simulated VMs (default 200)")
    parser.add_argument(
        "--days",
        type=_typed(_parse_days),
        metavar="D",
        help="days of history (default 14); the report looks at the last min(14, D)",
    )
    parser.add_argument("--seed", type=int, metavar="S", help="another seed is another fleet (default 1)")
    parser.add_argument(
        "--policy",
        choices=("fallow", "p95", "classic"),
        help="rule the report judges by (default fallow, and p95 for less than a week)",
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave everything running in build/ and print the addresses"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="PATH", help="recorded VMs: a Bitbrains-layout archive or folder, or a CSV"
    )
    parser.add_argument("--check-options", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    if chosen.trace is not None:
        for name in ("vms", "days", "seed"):
            if getattr(chosen, name) is not None:
                parser.error(f"argument --{name}: means nothing with --trace")
        if not chosen.trace.exists():
            parser.error(f"argument --trace: {chosen.trace} is not there")
        chosen.trace = chosen.trace.absolute()
    given = {name: value for name, value in vars(chosen).items() if value is not None and name != "check_options"}
    return Options(**given), chosen.check_options


def _parse_days(text: object) -> int:
    days = parse_count(text)
    if days > MAX_DAYS:
        raise ValueError(f"{days} is more than {MAX_DAYS}")
    return days


def _typed(parse: Callable[[object], T]) -> Callable[[str], T]:
    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def aggregator_argv(options: Options, places: Places) -> list[str]:
    """The aggregator on free ports of loopback; it tells which in `agents.address` and `admin.address`."""
    retention_days = TRACE_RETENTION_DAYS if options.trace else options.days + 2
    windows = sorted({*WINDOWS_DAYS, options.window_days})
    return [
        *("fallow-aggregator", "run", "--data", str(places.data)),
        *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
        *("--flush-interval", FLUSH_INTERVAL, "--retention-raw", f"{retention_days}d"),
        *("--windows", ",".join(f"{days}d" for days in windows)),
        # The fleet enrols again when it goes on live, and a VM that has just pushed would wait for an admin.
        *("--enrolment-check", "off"),
    ]


def join_token_argv(options: Options, places: Places) -> list[str]:
    """A join token for the fleet, which enrols once more when it goes on live, and for the agent of this machine."""
    uses = TRACE_JOIN_USES if options.trace else 2 * options.vms
    return ["fallow-aggregator", "join-token", "--data", str(places.data), "--uses", str(uses + 1), "--ttl", "1h"]


def agent_argv(places: Places, url: str, vm_id: str | None) -> list[str]:
    """The real agent of this machine, under `vm_id` where the machine has no id of its own."""
    named = [] if vm_id is None else ["--vm-id", vm_id]
    return [
        "fallow-agent",
        "run",
        "--aggregator",
        url,
        "--state",
        str(places.agent),
        "--join-token-file",
        str(places.join_token),
        *named,
    ]


def fleet_argv(options: Options, places: Places, url: str) -> list[str]:
    """The simulated fleet, or the recorded one."""
    shared = ["--aggregator", url, "--join-token-file", str(places.join_token), "--json"]
    if options.trace:
        return ["fallow-agent", "replay", str(options.trace), *shared]
    return [
        *("fallow-agent", "simulate", *shared, "--manifest", str(places.manifest)),
        *("--vms", str(options.vms), "--days", str(options.days), "--seed", str(options.seed), "--clock-factor", "max"),
    ]


def report_argv(options: Options, places: Places, *more: str) -> list[str]:
    """The report over the window of this run."""
    return [
        "fallow-report",
        "--data",
        str(places.data),
        "--window",
        f"{options.window_days}d",
        "--policy",
        options.judged_by,
        # A replay keeps the hour grid: its newest sample lies up to an hour back.
        *(["--silent-after", "2h"] if options.trace is not None else []),
        *more,
    ]


def serve_argv(places: Places) -> list[str]:
    """The pages on a free port of loopback; where they are stands in the log."""
    return ["fallow-report", "serve", "--config", str(places.report_config), "--listen", "127.0.0.1:0"]


def report_config(options: Options, places: Places, admin: str) -> str:
    """Settings by which the pages judge as the printed report does, and find the samples."""
    lines = [
        "[report]",
        f"data = {json.dumps(str(places.data))}",
        f'window = "{options.window_days}d"',
        f'policy = "{options.judged_by}"',
        *(['silent_after = "2h"'] if options.trace is not None else []),
        "[report.serve]",
        f'aggregator = "http://{admin}"',
    ]
    return "\n".join(lines) + "\n"


def read_pages_address(log: str) -> str | None:
    """Where the pages are, out of what `fallow-report serve` has logged so far; None: it does not listen yet."""
    found = re.search(r"pages on (http://\S+)", log)
    return found[1] if found else None


def read_first_link(log: str) -> str | None:
    """The one-time link that makes the first admin, out of the same log; None: it is not there yet."""
    found = re.search(r"first admin, .*(http://\S+/first/\S+)", log)
    return found[1] if found else None


def read_manifest(text: str) -> tuple[SimulatedTruth, ...]:
    """The truth about each simulated VM. Raises ContractError: not a manifest of `fallow-agent simulate`."""
    return tuple(
        SimulatedTruth(
            vm=entry["vm"],
            profile=entry["profile"],
            idle_expected=entry["idle_expected"],
        )
        for entry in _entries(text, "the manifest", "vms", ("vm", "profile", "idle_expected"))
    )


def read_verdicts(text: str) -> dict[str, str]:
    """Verdict by VM of a `fallow-report --json --all`. Raises ContractError: it is none."""
    return {entry["vm"]: entry["verdict"] for entry in _entries(text, "the report", "vms", ("vm", "verdict"))}


def _entries(text: str, what: str, key: str, names: tuple[str, ...]) -> list[Mapping[str, Any]]:
    try:
        document = json.loads(text)
        entries = document[key] if isinstance(document, dict) else document
        return [{name: entry[name] for name in names} for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(f"{what} is not as expected: {error!r}") from error


def read_fleet_counts(text: str) -> FleetCounts:
    """What `simulate` or `replay` printed with --json. Raises ContractError: it is none."""
    try:
        counts = json.loads(text)
        return FleetCounts(
            **{name: int(counts[name]) for name in ("vms", "stored", "duplicate", "rejected")},
            trace={name: int(value) for name, value in counts.get("trace", {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractError(f"the fleet's counts are not as expected: {error!r}") from error


def summary(counts: FleetCounts, took_s: float) -> str:
    """The last lines of a run: how much came how fast, what did not, and how a trace was cleaned."""
    # A recorded sample may cover another interval than the minute of a simulated one.
    unit = "samples" if counts.trace else "VM-minutes"
    rate = f"{counts.stored / took_s:,.0f} {unit}/s"
    lines = [
        f"{counts.stored:,} samples of {counts.vms:,} VMs in {took_s:.1f} s, first push to last summary: {rate}",
    ]
    if counts.duplicate or counts.rejected:
        lines.append(f"not stored: {counts.duplicate:,} sent twice, {counts.rejected:,} rejected")
    if counts.trace:
        cleaned = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in counts.trace.items())
        lines.append(f"the trace: {cleaned}")
    return "\n".join(lines)


def disagreements(truth: Sequence[SimulatedTruth], verdicts: Mapping[str, str]) -> list[str]:
    """A line for each VM whose verdict is wrong; VMs that were not simulated are not judged."""
    found = []
    for simulated in sorted(truth, key=lambda simulated: simulated.vm):
        verdict = verdicts.get(simulated.vm)
        if verdict is None:
            found.append(f"{simulated.vm}: is not in the report")
        elif simulated.idle_expected and verdict != "idle":
            found.append(f"{simulated.vm}: did nothing ({simulated.profile}), but the report says {verdict}")
        elif not simulated.idle_expected and verdict == "idle":
            found.append(f"{simulated.vm}: is {simulated.profile}, but the report says idle")
    return found
