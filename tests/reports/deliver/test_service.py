"""The service: every delivery is looked after on its own, and a stop is a stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from reports.deliver.runner import Runner
from reports.deliver.runs import Deliveries, State
from reports.deliver.service import DueTimes, serve
from reports.deliver.targets import Plan
from tests.reports.deliver.servers import Receiver, receiver, silent_server
from tests.reports.deliver.values import Clock, Sender, document, plan, table

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Fake(Runner):
    """Notes which plans it is called for. `holds`: plans whose call lasts until `go`."""

    holds: tuple[str, ...] = ()
    calls: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    overlaps: int = 0
    go: threading.Event = field(default_factory=threading.Event)
    stopped: bool = False

    def tend(self, plan: Plan) -> None:
        self.overlaps += plan.name in self.running
        self.running.append(plan.name)
        self.calls.append(plan.name)
        if plan.name in self.holds:
            self.go.wait()
        self.running.remove(plan.name)

    def stop(self) -> None:
        self.stopped = True


@contextmanager
def serving(
    plans: Sequence[Plan], runner: Runner, *, look_every_s: float = 3600.0, stop_within_s: float = 30.0
) -> Iterator[list[bool]]:
    """The service in a thread; what it returned is in the list after the end."""
    stop, returned = threading.Event(), list[bool]()

    def run() -> None:
        returned.append(serve(plans, runner, UTC, stop=stop, look_every_s=look_every_s, stop_within_s=stop_within_s))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield returned
    finally:
        stop.set()
        thread.join()


def eventually(runner: Fake, *names: str) -> None:
    """Waits until the runner was called for these, in any order."""
    while not all(runner.calls.count(name) >= names.count(name) for name in names):
        time.sleep(0.005)


def test_each_delivery_is_looked_after_at_the_start() -> None:
    """What was due while nobody ran does not wait for the next cron time."""
    runner = Fake()
    with serving([plan("a"), plan("b")], runner) as returned:
        eventually(runner, "a", "b")
    assert returned == [True]
    assert runner.stopped
    assert sorted(runner.calls) == ["a", "b"]


def test_each_delivery_is_looked_after_again_and_again() -> None:
    """Retries and clocks that were set need no cron time."""
    runner = Fake()
    with serving([plan("a", "0 0 29 2 *")], runner, look_every_s=0.01):
        eventually(runner, "a", "a", "a")
    assert runner.overlaps == 0


def test_a_delivery_that_hangs_holds_up_no_other() -> None:
    """It is not begun again meanwhile; the others go on."""
    runner = Fake(holds=("slow",))
    with serving([plan("slow"), plan("quick")], runner, look_every_s=0.01) as returned:
        eventually(runner, "slow", "quick", "quick", "quick")
        assert runner.calls.count("slow") == 1
        runner.go.set()
        eventually(runner, "slow", "slow")
    assert runner.overlaps == 0
    assert returned == [True]


def test_a_stop_waits_for_a_try_but_not_for_ever() -> None:
    """One that does not end in time is cut off, and said to be."""
    runner = Fake(holds=("slow",))
    with serving([plan("slow")], runner, stop_within_s=0.05) as returned:
        eventually(runner, "slow")
    assert returned == [False]
    runner.go.set()


def test_a_job_that_raises_does_not_end_the_service() -> None:
    """Whatever happens in one call, there is a next one."""

    class Raising(Fake):
        def tend(self, plan: Plan) -> None:
            self.calls.append(plan.name)
            raise SystemExit(1)

    runner = Raising()
    with serving([plan("a")], runner, look_every_s=0.01):
        eventually(runner, "a", "a", "a")


def test_jobs_wake_at_the_times_of_the_cron_line() -> None:
    """Also across a clock change, where APScheduler's own cron would lose the first of April."""
    berlin = ZoneInfo("Europe/Berlin")
    times = DueTimes(plan(cron="0 0 1 * *"), berlin)
    first = times.get_next_fire_time(None, datetime(2026, 2, 15, tzinfo=UTC))
    assert first is not None
    second = times.get_next_fire_time(first, datetime(2026, 2, 15, tzinfo=UTC))
    assert second is not None
    third = times.get_next_fire_time(second, second + timedelta(seconds=1))
    assert [time and time.astimezone(berlin).isoformat() for time in (first, second, third)] == [
        "2026-03-01T00:00:00+01:00",
        "2026-04-01T00:00:00+02:00",
        "2026-05-01T00:00:00+02:00",
    ]


SERVICE = """
    import sys, time
    from datetime import UTC
    from pathlib import Path
    from aggregator.fleet_db import open_fleet
    from reports.deliver.cli import run
    from reports.deliver.service import serve
    from tests.reports.deliver.values import document, plan, webhook_target
    import argparse

    folder, port = Path(sys.argv[1]), sys.argv[2]
    # Every minute: one has always just been due.
    plans = [plan("hook", "* * * * *", webhook_target(folder, f"http://127.0.0.1:{port}/"))]
    options = argparse.Namespace(config="report.toml", list=False, json=False, once=None)
    sys.exit(run(options, plans, zone=UTC, open_engine=lambda: open_fleet(None, folder), make_document=document,
                 serve=serve, clock=time.time))
"""


@contextmanager
def service(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """The service in a process of its own, with something due."""
    script = folder / "serve.py"
    script.write_text(textwrap.dedent(SERVICE))
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(port)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def known(folder: Path) -> None:
    """So that the delivery is not new, and what is just due goes out."""
    with table(folder) as engine:
        deliveries = Deliveries(engine)
        run = deliveries.begin("hook", "webhook", "x", 0.0, "long ago", now_s=time.time())
        assert run is not None
        deliveries.record_success(run, subject="x", now_s=time.time())


def until_begun(folder: Path, state: State, process: subprocess.Popen[str]) -> None:
    """Waits until the newest run has this state; a service that ends meanwhile fails the test."""
    with table(folder) as engine:
        while True:
            (run,) = Deliveries(engine).recent(1)
            if run.report_key != "long ago" and run.state is state:
                return
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.02)


@pytest.mark.real
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_service(tmp_path: Path, number: signal.Signals) -> None:
    """It says what it does, delivers, and ends with 0."""
    known(tmp_path)
    taker = Receiver([204])
    with receiver(taker) as port, service(tmp_path, port) as process:
        until_begun(tmp_path, State.SENT, process)
        process.send_signal(number)
        _, words = process.communicate()
    assert process.returncode == 0
    first, *rest = words.splitlines()
    assert first.startswith("fallow-report: 1 delivery, the next is hook, ")
    assert rest
    assert all(line.startswith("fallow-report: hook: sent to http://127.0.0.1:") for line in rest)


@pytest.mark.real
def test_a_hanging_receiver_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """A try that would last half a minute is cut off: the process ends, and the run is there for the next start."""
    known(tmp_path)
    with silent_server() as port, service(tmp_path, port) as process:
        until_begun(tmp_path, State.PENDING, process)
        process.send_signal(signal.SIGTERM)
        _, words = process.communicate()
    assert process.returncode == 0
    assert "a delivery was cut off" in words
    # The receiver's time-out has not ended it.
    assert "no answer" not in words
    with table(tmp_path) as engine:
        assert Deliveries(engine).recent(1)[0].state is State.PENDING


@pytest.mark.real
def test_a_killed_service_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL in the middle of a try: the run is pending, and the next service sends it."""
    known(tmp_path)
    with silent_server() as port, service(tmp_path, port) as process:
        until_begun(tmp_path, State.PENDING, process)
        process.kill()
        process.wait()
    with table(tmp_path) as engine:
        deliveries, sender, clock = Deliveries(engine), Sender(), Clock()
        (cut,) = deliveries.recent(1)
        assert cut.next_attempt_s is not None
        clock.now_s = cut.next_attempt_s
        # Its cron time is far away: what goes out is the run that was cut off.
        later = plan("hook", "0 0 29 2 *")
        Runner(deliveries, make_document=document, send=sender, zone=UTC, clock=clock, log=lambda _: None).tend(later)
        assert [delivery_id for _, _, delivery_id, _ in sender.sent] == [cut.delivery_id]
        assert deliveries.recent(1)[0].state is State.SENT
