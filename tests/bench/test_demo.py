"""The demo: what it starts, how it judges the report, and that nothing of it is left."""

from __future__ import annotations

import http.server
import io
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.demo import Doors, flush, get_join_token, left_running, make_home, open_doors
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
    summary,
)
from bench.demo_progress import LogFollower, percent_of, showing_progress
from bench.programs import ProgramError, Programs, tail
from reports.config import ReportConfig

ROOT = Path(__file__).parent.parent.parent
VERDICTS = ("idle", "active", "insufficient data", "excluded")
PROFILES = ("low", "office", "batch", "busy", "spiky", "silent", "new")


def value_of(argv: list[str], option: str) -> str:
    return argv[argv.index(option) + 1]


def truth_of(vm: str, profile: str) -> SimulatedTruth:
    return SimulatedTruth(vm=vm, profile=profile, idle_expected=profile == "low")


# What is started


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--days", "0"], "--days"),
        (["--days", "1.5"], "--days"),
        (["--days", "401"], "--days"),
        (["--vms", "abc"], "--vms"),
        (["--vms", "-3"], "--vms"),
        (["--seed", "x"], "--seed"),
        (["--policy", "p50"], "--policy"),
        (["--trace", "/no/such/trace"], "--trace"),
        (["--trace", "/", "--days", "3"], "--days"),
        (["--unknown"], "--unknown"),
    ],
)
def test_a_wrong_option_ends_with_2_and_is_named(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Usage errors end with 2 and name the option."""
    with pytest.raises(SystemExit) as ended:
        parse_options(argv)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


def test_the_defaults_are_the_demo_of_the_readme() -> None:
    """Without options: 200 VMs, 14 days, seed 1, our own policy, nothing left behind."""
    assert parse_options([]) == (Options(vms=200, days=14, seed=1, policy=None, keep=False, trace=None), False)
    assert value_of(report_argv(Options(), Places(Path("home"))), "--policy") == "fallow"


def test_a_few_days_are_judged_by_the_percentile() -> None:
    """Our own policy looks back a week, and would find every VM too new."""
    assert value_of(report_argv(Options(days=3), Places(Path("home"))), "--policy") == "p95"
    assert value_of(report_argv(Options(days=3, policy="classic"), Places(Path("home"))), "--policy") == "classic"


def test_the_pages_judge_as_the_report_does(tmp_path: Path) -> None:
    """And find the samples behind the admin door."""
    options, places = Options(trace=tmp_path / "trace.csv"), Places(tmp_path / 'a "name"')
    config = tomllib.loads(report_config(options, places, "127.0.0.1:7"))["report"]
    assert config["data"] == str(places.data)
    assert (config["window"], config["policy"], config["silent_after"]) == ("14d", "fallow", "2h")
    assert config["serve"]["aggregator"] == "http://127.0.0.1:7"
    assert ReportConfig.parse({"report": config}, source="here").window_days == 14


def test_the_address_of_the_pages_is_read_from_their_log() -> None:
    """And is not there before they listen."""
    assert read_pages_address("starting\n") is None
    assert read_pages_address("x\nfallow-report: pages on http://127.0.0.1:8/\ny\n") == "http://127.0.0.1:8/"
    said = (
        "fallow-report: there is no account yet: make the first admin, once, within a day: http://127.0.0.1:8/first/x\n"
    )
    assert read_first_link(said) == "http://127.0.0.1:8/first/x"
    assert read_first_link("fallow-report: pages on http://127.0.0.1:8/\n") is None


@pytest.mark.parametrize(
    ("days", "window", "windows", "retention"),
    [
        (1, "1d", "1d,3d,7d,14d,30d", "3d"),
        (5, "5d", "1d,3d,5d,7d,14d,30d", "7d"),
        (14, "14d", "1d,3d,7d,14d,30d", "16d"),
        (60, "14d", "1d,3d,7d,14d,30d", "62d"),
    ],
)
def test_the_window_is_the_history_up_to_14_days(
    days: int, window: str, windows: str, retention: str, tmp_path: Path
) -> None:
    """The report looks at min(14, D) days; the aggregator keeps that window, and raw rows of all D days."""
    options, places = Options(days=days), Places(tmp_path)
    aggregator = aggregator_argv(options, places)
    assert value_of(report_argv(options, places), "--window") == window
    assert value_of(aggregator, "--windows") == windows
    assert value_of(aggregator, "--retention-raw") == retention


def test_secrets_stay_out_of_command_lines(tmp_path: Path) -> None:
    """The join token goes to every program as the name of a file."""
    places = Places(tmp_path)
    for argv in (agent_argv(places, "http://127.0.0.1:1", None), fleet_argv(Options(), places, "http://127.0.0.1:1")):
        assert value_of(argv, "--join-token-file") == str(places.join_token)


def test_the_join_token_serves_the_fleet_and_this_machine(tmp_path: Path) -> None:
    """Two uses for each simulated VM, whose fleet goes on live, and one for the real agent."""
    assert value_of(join_token_argv(Options(vms=20), Places(tmp_path)), "--uses") == "41"


def test_a_trace_takes_the_place_of_the_simulation(tmp_path: Path) -> None:
    """With --trace the fleet is a replay, and the report looks at 14 days of it."""
    trace = tmp_path / "recorded.csv"
    trace.touch()
    options, _ = parse_options(["--trace", str(trace)])
    assert fleet_argv(options, Places(tmp_path), "http://127.0.0.1:1")[:3] == ["fallow-agent", "replay", str(trace)]
    assert options.window_days == 14


def test_this_machine_is_named_only_where_it_has_no_id(tmp_path: Path) -> None:
    """The real agent is told an id only where there is none to find."""
    places = Places(tmp_path)
    assert "--vm-id" not in agent_argv(places, "http://127.0.0.1:1", None)
    assert value_of(agent_argv(places, "http://127.0.0.1:1", "demo-this-machine"), "--vm-id") == "demo-this-machine"


# How the report is judged


@given(st.lists(st.tuples(st.sampled_from(PROFILES), st.sampled_from(VERDICTS))))
def test_exactly_the_idle_vms_may_be_called_idle(fleet: list[tuple[str, str]]) -> None:
    """A line for each VM for which `was idle` and `is called idle` differ, and for no other."""
    truth = [truth_of(f"vm-{number:03d}", profile) for number, (profile, _) in enumerate(fleet)]
    verdicts = {f"vm-{number:03d}": verdict for number, (_, verdict) in enumerate(fleet)}
    wrong = [vm.vm for vm in truth if vm.idle_expected != (verdicts[vm.vm] == "idle")]
    assert [line.partition(":")[0] for line in disagreements(truth, verdicts)] == wrong


@pytest.mark.parametrize(
    ("profile", "verdict", "words"),
    [
        ("low", "active", "did nothing (low), but the report says active"),
        ("low", "insufficient data", "did nothing (low), but the report says insufficient data"),
        ("busy", "idle", "is busy, but the report says idle"),
        ("silent", "idle", "is silent, but the report says idle"),
        ("new", "idle", "is new, but the report says idle"),
    ],
)
def test_a_wrong_verdict_is_told_with_what_the_vm_did(profile: str, verdict: str, words: str) -> None:
    """The line names the VM, what it did and what the report says."""
    assert disagreements([truth_of("a", profile)], {"a": verdict}) == [f"a: {words}"]


def test_a_vm_that_the_report_lost_is_wrong() -> None:
    """A simulated VM must be in the report, whatever it did."""
    assert disagreements([truth_of("a", "busy")], {"b": "idle"}) == ["a: is not in the report"]


def test_this_machine_is_not_judged() -> None:
    """A VM without a known truth, such as the real agent's, may have any verdict."""
    assert disagreements([truth_of("a", "low")], {"a": "idle", "demo-this-machine": "idle"}) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '[{"vm": "a"}]', '{"rows": []}'])
def test_documents_that_are_none_are_refused(text: str) -> None:
    """What is no manifest, no report or no counts is named as such, never judged as empty."""
    for read in (read_manifest, read_verdicts, read_fleet_counts):
        with pytest.raises(ContractError, match="not as expected"):
            read(text)


def test_the_summary_of_a_simulation_tells_how_much_came_how_fast() -> None:
    """Samples, VMs, time and VM-minutes a second; nothing about what did not happen."""
    counts = read_fleet_counts(
        '{"vms": 2, "samples": 3000, "stored": 3000, "duplicate": 0, "rejected": 0, "seconds": 9}'
    )
    assert counts == FleetCounts(vms=2, stored=3000, duplicate=0, rejected=0, trace={})
    assert summary(counts, 10.0) == ("3,000 samples of 2 VMs in 10.0 s, first push to last summary: 300 VM-minutes/s")


def test_the_summary_of_a_trace_tells_how_it_was_cleaned() -> None:
    """Every count of the cleaning is shown, zeros too, and so is what the aggregator did not store."""
    counts = read_fleet_counts(
        '{"vms": 1, "samples": 9, "stored": 7, "duplicate": 1, "rejected": 1, "shift_s": 60, '
        '"trace": {"rows": 10, "no_capacity": 0}}'
    )
    assert summary(counts, 1.0).splitlines()[1:] == [
        "not stored: 1 sent twice, 1 rejected",
        "the trace: rows 10, no capacity 0",
    ]
    assert summary(counts, 1.0).splitlines()[0].endswith(" 7 samples/s")


# What whoever waits sees


def test_a_log_is_followed_in_whole_lines(tmp_path: Path) -> None:
    """Each line is given once and only when it is complete."""
    log = tmp_path / "fleet.log"
    follower = LogFollower(log)
    assert follower.lines() == []
    log.write_bytes(b"one\ntw")
    assert follower.lines() == ["one"]
    with open(log, "ab") as more:
        more.write(b"o\nthree\n")
    assert follower.lines() == ["two", "three"]
    assert follower.lines() == []


@pytest.mark.parametrize(
    ("line", "percent"),
    [("53 %, 1000 samples of 20 VMs, 100 samples/s", 53), ("1000 samples of 20 VMs", None), ("error: 5 %, no", None)],
)
def test_the_share_is_read_from_the_fleets_lines(line: str, percent: int | None) -> None:
    """A bar moves only with lines that name a share."""
    assert percent_of(line) == percent


def test_without_a_terminal_progress_is_plain_lines() -> None:
    """A log of a demo holds the fleet's own lines and no control characters."""
    stream = io.StringIO()
    with showing_progress(stream) as show:
        show("5 %, 10 samples of 2 VMs, 10 samples/s")
    assert stream.getvalue() == "5 %, 10 samples of 2 VMs, 10 samples/s\n"


# Starting and stopping


class FakeClock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, secs: float, /) -> None:
        self.now_s += secs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Console scripts that only a shell is needed for."""
    scripts = {
        "quick": "echo result; echo said >&2; exit ${1:-0}",
        "steady": "echo up >&2; exec sleep 600",
        "stubborn": "trap '' TERM; (trap '' TERM; exec sleep 600) & echo $! >&2; while :; do sleep 1; done",
    }
    place = tmp_path / "bin"
    place.mkdir()
    for name, text in scripts.items():
        path = place / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return place


@pytest.mark.real
def test_results_and_logs_are_kept_apart(folder: Path, tmp_path: Path) -> None:
    """stdout goes to the file that was asked for, stderr to the program's log."""
    programs = Programs(folder, tmp_path / "logs", time)
    program = programs.start(["quick"], stdout=tmp_path / "answer")
    assert programs.finish(program, within_s=60) == 0
    programs.stop_all()
    assert ((tmp_path / "answer").read_text(), program.log.read_text()) == ("result\n", "said\n")


@pytest.mark.real
def test_a_program_that_fails_shows_the_end_of_its_log(folder: Path, tmp_path: Path) -> None:
    """Another status than 0 becomes an error that names the program, the status and its last words."""
    programs = Programs(folder, tmp_path / "logs", time)
    with pytest.raises(ProgramError, match=r"(?s)quick-3 ended with status 3.*said"):
        programs.finish(programs.start(["quick", "3"]), within_s=60)
    programs.stop_all()


@pytest.mark.real
def test_a_program_that_dies_ends_the_wait_for_another(folder: Path, tmp_path: Path) -> None:
    """Whoever waits for one thing notices that a program it needs has ended, though that ended well."""
    programs = Programs(folder, tmp_path / "logs", time)
    needed = programs.start(["quick"])
    with pytest.raises(ProgramError, match="quick ended with status 0"):
        programs.wait_until(lambda: None, running=[needed], within_s=60, what="a sign")
    programs.stop_all()


@pytest.mark.real
def test_a_wait_has_an_end(folder: Path, tmp_path: Path) -> None:
    """What never comes is given up at the deadline, naming what was waited for."""
    clock = FakeClock()
    programs = Programs(folder, tmp_path / "logs", clock)
    with pytest.raises(ProgramError, match="a sign: nothing within 30 s"):
        programs.wait_until(lambda: None, running=[], within_s=30, what="a sign")
    assert clock.now_s == pytest.approx(30)


def test_an_interrupt_reaches_whoever_waits(tmp_path: Path) -> None:
    """After `interrupt` every wait ends with KeyboardInterrupt, one that would succeed too."""
    programs = Programs(tmp_path, tmp_path / "logs", FakeClock())
    programs.interrupt()
    with pytest.raises(KeyboardInterrupt):
        programs.wait_until(lambda: 1, running=[], within_s=1, what="anything")


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A console script that is missing becomes an error, not a traceback."""
    with pytest.raises(ProgramError, match="fallow-nothing cannot be started"):
        Programs(tmp_path, tmp_path / "logs", FakeClock()).start(["fallow-nothing", "run"])


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.real
def test_everything_is_stopped_even_what_ignores_sigterm(folder: Path, tmp_path: Path) -> None:
    """SIGTERM first, SIGKILL for the whole group after the grace: no program and no child of one is left."""
    programs = Programs(folder, tmp_path / "logs", time)
    steady, stubborn = programs.start(["steady"]), programs.start(["stubborn"])

    def said() -> str | None:
        text = stubborn.log.read_text()
        return text if text.endswith("\n") and steady.log.read_text() else None

    child = int(programs.wait_until(said, running=[steady, stubborn], within_s=60, what="both up"))
    assert is_alive(child)
    programs.stop_all(grace_s=0.3)
    assert [steady.process.returncode, stubborn.process.returncode] == [-signal.SIGTERM, -signal.SIGKILL]
    # Its new parent reaps the child when it pleases; it is dead when stop_all returns, or about to be.
    programs.wait_until(lambda: None if is_alive(child) else 1, running=[], within_s=60, what="the end of the child")


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    """The end of a long log is shown under its name; a log that is not there shows nothing."""
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert tail(log, 2) == "\n  the end of x.log:\n  line 98\n  line 99"
    assert tail(tmp_path / "none.log") == ""


# The admin door


class AdminDoor(http.server.BaseHTTPRequestHandler):
    """Answers like the aggregator's admin door, with the statuses of its server in turn."""

    server: AdminServer

    def do_POST(self) -> None:
        self.server.asked.append((self.path, self.headers["Authorization"]))
        self.send_response(self.server.statuses.pop(0))
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        """Says nothing on stderr."""


class AdminServer(http.server.HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), AdminDoor)
        self.statuses: list[int] = []
        self.asked: list[tuple[str, str]] = []


@pytest.fixture
def admin() -> Iterator[AdminServer]:
    with AdminServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.real
def test_the_flush_is_asked_for_until_all_is_written(
    admin: AdminServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two flushes are asked for, with the token and past any proxy: a running one may lack the last samples."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    admin.statuses = [200, 200]
    flush(Programs(tmp_path, tmp_path, time), Doors("", f"127.0.0.1:{admin.server_port}", "secret"), [])
    assert admin.asked == [("/v1/flush", "Bearer secret")] * 2


@pytest.mark.real
def test_a_flush_that_fails_ends_the_demo(admin: AdminServer, tmp_path: Path) -> None:
    """An aggregator that cannot write its stores is an error, not a report on half the samples."""
    admin.statuses = [200, 500]
    with pytest.raises(ProgramError, match=r"did not flush.*500"):
        flush(Programs(tmp_path, tmp_path, time), Doors("", f"127.0.0.1:{admin.server_port}", "secret"), [])


@pytest.mark.real
def test_the_doors_are_open_once_every_file_is_whole(folder: Path, tmp_path: Path) -> None:
    """Addresses count when both are written out and the token is there."""
    written = {"agents.address": "127.0.0.1:4000\n", "admin.address": "127.0.0.1:4001\n", "admin.token": "secret\n"}

    steps = [(name, part) for name, text in written.items() for part in ("", text[:-2], text)]

    class WritingClock(FakeClock):
        """Each pause sees a little more: a file that is empty, one that is cut off, one that is whole."""

        def sleep(self, secs: float, /) -> None:
            super().sleep(secs)
            if steps:
                name, text = steps.pop(0)
                (tmp_path / name).write_text(text)

    programs = Programs(folder, tmp_path / "logs", WritingClock())
    steady = programs.start(["steady"])
    doors = open_doors(programs, steady, tmp_path)
    programs.stop_all()
    assert (doors.agents, doors.admin) == ("127.0.0.1:4000", "127.0.0.1:4001")


# What is left behind


def test_keep_never_takes_an_earlier_runs_folder(tmp_path: Path) -> None:
    """Each --keep run has a folder of its own below build/."""
    assert [make_home(True, tmp_path).name for _ in range(3)] == ["demo", "demo-2", "demo-3"]


@pytest.mark.real
def test_keep_tells_how_to_go_on(folder: Path, tmp_path: Path) -> None:
    """The last words of a --keep run name the doors, the pids and the data."""
    programs = Programs(folder, tmp_path / "logs", time)
    steady = programs.start(["steady"])
    doors = Doors("127.0.0.1:1", "127.0.0.1:2", "secret")
    pages = ("http://127.0.0.1:3/", "http://127.0.0.1:3/first/x")
    text = left_running(Places(tmp_path), programs, doors, [steady], pages)
    programs.stop_all()
    assert f"kill {steady.process.pid}" in text
    assert all(part in text for part in ("http://127.0.0.1:1", "http://127.0.0.1:2", *pages, str(tmp_path / "data")))
    assert "secret" not in text


@pytest.mark.real
def test_a_demo_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """An aggregator that cannot start ends the demo with 1, its last words on stderr, and no folder left."""
    scripts = tmp_path / "bin"
    scripts.mkdir()
    aggregator = scripts / "fallow-aggregator"
    aggregator.write_text("#!/bin/sh\necho 'the disk is full' >&2\nexit 1\n")
    aggregator.chmod(0o755)
    rest = tmp_path / "tmp"
    rest.mkdir()
    program = "import sys, pathlib, bench.demo; sys.exit(bench.demo.main([], scripts=pathlib.Path(sys.argv[1])))"
    ended = subprocess.run(
        [sys.executable, "-c", program, str(scripts)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(rest)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "fallow-aggregator-run ended with status 1" in ended.stderr
    assert "the disk is full" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(rest.iterdir()) == []


@pytest.mark.real
def test_the_join_token_file_is_its_owners_alone(tmp_path: Path) -> None:
    """The token that the aggregator prints lands in a file with mode 0600."""
    scripts = tmp_path / "bin"
    scripts.mkdir()
    aggregator = scripts / "fallow-aggregator"
    aggregator.write_text("#!/bin/sh\necho the-token\n")
    aggregator.chmod(0o755)
    places = Places(tmp_path)
    programs = Programs(scripts, places.logs, time)
    get_join_token(Options(), places, programs)
    programs.stop_all()
    assert places.join_token.read_text() == "the-token\n"
    assert stat.S_IMODE(places.join_token.stat().st_mode) == 0o600
