"""One delivery from beginning to end: what a job does when it is called at some time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from agent.settings import ConfigError
from reports.deliver.document import Document, Form, MakeDocument
from reports.deliver.runner import Runner, send
from reports.deliver.runs import LEASE_S, RETRY_AFTER_S, Deliveries, State
from reports.deliver.targets import DeliveryError, DirectoryTarget
from tests.reports.deliver.servers import Receiver, receiver
from tests.reports.deliver.values import (
    DUE_S,
    Clock,
    Sender,
    document,
    mail_target,
    plan,
    refusal,
    table,
    webhook_target,
)

DAY_S = 86_400.0


@dataclass
class Bench:
    """A runner with a clock, a sender and a table of the test."""

    engine: sa.Engine
    clock: Clock = field(default_factory=Clock)
    sender: Sender = field(default_factory=Sender)
    log: list[str] = field(default_factory=list)

    @property
    def deliveries(self) -> Deliveries:
        return Deliveries(self.engine)

    def runner(
        self,
        *,
        zone: tzinfo = UTC,
        make_document: MakeDocument = document,
        began_s: float = DUE_S - 30,
    ) -> Runner:
        """As if started at `began_s`."""
        now_s, self.clock.now_s = self.clock.now_s, began_s
        runner = Runner(
            self.deliveries,
            make_document=make_document,
            send=self.sender,
            zone=zone,
            clock=self.clock,
            log=self.log.append,
        )
        self.clock.now_s = now_s
        return runner

    def states(self) -> list[tuple[str, State]]:
        return [(run.report_key, run.state) for run in self.deliveries.recent(9)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with table(tmp_path) as engine:
        yield Bench(engine)


def test_what_is_due_is_made_and_sent(bench: Bench) -> None:
    """The report of now, with the delivery's id; the table and one line tell so."""
    bench.clock.now_s = DUE_S + 0.2
    bench.runner().tend(plan())
    assert bench.sender.sent == [(document(DUE_S + 0.2), plan().target, "daily/2026-11-21T07:00Z", DUE_S + 0.2)]
    (run,) = bench.deliveries.recent(9)
    assert (run.state, run.subject, run.due_s, run.kind) == (State.SENT, document().headline, DUE_S, "directory")
    assert bench.log == ["daily: sent to /nowhere (due 2026-11-21T07:00:00Z, try 1)"]


def test_a_report_tells_what_changed_since_the_last_that_was_sent(bench: Bench) -> None:
    """From when that was due; neither one that failed nor one of another name counts, and the first tells nothing."""
    asked: list[tuple[float, float | None]] = []

    def make(now_s: float, since_s: float | None) -> Document:
        asked.append((now_s, since_s))
        return document(now_s)

    runner = bench.runner(make_document=make)
    for days, name, problem in (
        (0, "daily", None),
        (1, "daily", refusal(retry=False)),
        (1, "other", None),
        (2, "daily", None),
    ):
        bench.clock.now_s = DUE_S + days * DAY_S + 7
        bench.sender.failures = [] if problem is None else [problem]
        runner.tend(plan(name))
    assert asked == [
        (DUE_S + 7, None),
        (DUE_S + DAY_S + 7, DUE_S),
        (DUE_S + DAY_S + 7, None),
        (DUE_S + 2 * DAY_S + 7, DUE_S),
    ]


def test_nothing_is_sent_before_its_time_or_twice(bench: Bench) -> None:
    """However often the job is called, before, at and after the time."""
    runner = bench.runner()
    for seconds in (-60, -0.001, 0, 0.001, 30, 60, 3599, 3600, 3601, 7200):
        bench.clock.now_s = DUE_S + seconds
        runner.tend(plan())
        assert bench.sender.calls == (seconds >= 0)


def test_a_clock_that_is_set_back_sends_nothing_again(bench: Bench) -> None:
    """The minute has had its report, whoever passes it once more."""
    runner = bench.runner()
    runner.tend(plan())
    for seconds in (-600, 0, 5):
        bench.clock.now_s = DUE_S + seconds
        runner.tend(plan())
    assert bench.sender.calls == 1


def test_a_restart_sends_nothing_again(bench: Bench) -> None:
    """A second runner, a second later, finds the run in the table."""
    bench.runner().tend(plan())
    bench.clock.now_s = DUE_S + 1
    bench.runner(began_s=DUE_S + 1).tend(plan())
    assert bench.sender.calls == 1


@pytest.mark.parametrize(("late_s", "calls"), [(1800, 1), (3599, 1), (3601, 0)])
def test_what_was_due_while_nobody_ran_still_goes_out_within_the_hour(bench: Bench, late_s: float, calls: int) -> None:
    """After a restart that took a while; not after one that took longer."""
    bench.deliveries.begin("daily", "directory", "x", DUE_S - DAY_S, "yesterday", now_s=DUE_S - DAY_S)
    bench.deliveries.record_success(bench.deliveries.recent(1)[0], subject="x", now_s=DUE_S - DAY_S)
    bench.clock.now_s = DUE_S + late_s
    bench.runner(began_s=DUE_S + late_s).tend(plan())
    assert bench.sender.calls == calls


def test_a_new_delivery_waits_for_its_first_time(bench: Bench) -> None:
    """Who configures a report for 7:00 at 7:30 does not get one at 7:30; also after trying it out."""
    bench.clock.now_s = DUE_S + 1800
    runner = bench.runner(began_s=DUE_S + 1800)
    runner.tend(plan())
    assert bench.sender.calls == 0
    runner.once(plan())
    runner.tend(plan())
    assert bench.sender.calls == 1
    bench.clock.now_s = DUE_S + DAY_S
    runner.tend(plan())
    assert bench.sender.calls == 2


def test_the_minute_is_that_of_the_zone(bench: Bench) -> None:
    """Seven in Berlin is six in UTC in November."""
    runner = bench.runner(zone=ZoneInfo("Europe/Berlin"), began_s=DUE_S - 2 * 3600)
    bench.clock.now_s = DUE_S - 3600
    runner.tend(plan())
    assert bench.states() == [("2026-11-21T06:00Z", State.SENT)]


def test_an_hour_that_passes_twice_brings_one_report(bench: Bench) -> None:
    """A job that is called all through the change of clocks delivers 02:30 once."""
    berlin = ZoneInfo("Europe/Berlin")
    start_s = datetime(2026, 10, 25, 1, 0, tzinfo=berlin).timestamp()
    runner = bench.runner(zone=berlin, began_s=start_s)
    for minute in range(0, 5 * 60, 10):
        bench.clock.now_s = start_s + minute * 60
        runner.tend(plan(cron="30 2 * * *"))
    assert bench.states() == [("2026-10-25T00:30Z", State.SENT)]


def test_a_failure_is_retried_until_it_works(bench: Bench) -> None:
    """At its times, with a report of those times, under the same id."""
    bench.sender.failures = [refusal(), refusal()]
    runner = bench.runner()
    for seconds in (0, 30, 59, 61, 90, 360, 362, 400):
        bench.clock.now_s = DUE_S + seconds
        runner.tend(plan())
    assert bench.sender.calls == 3
    ((made, _, delivery_id, _),) = bench.sender.sent
    assert made.generated_s == DUE_S + 362
    assert delivery_id == "daily/2026-11-21T07:00Z"
    assert bench.states() == [("2026-11-21T07:00Z", State.SENT)]
    assert bench.log == [
        "daily: not sent to /nowhere (due 2026-11-21T07:00:00Z, try 1): the other side is out; "
        "next try 2026-11-21T07:01:00Z",
        "daily: not sent to /nowhere (due 2026-11-21T07:00:00Z, try 2): the other side is out; "
        "next try 2026-11-21T07:06:01Z",
        "daily: sent to /nowhere (due 2026-11-21T07:00:00Z, try 3)",
    ]


def test_a_final_failure_is_not_retried(bench: Bench) -> None:
    """Given up at once, and told."""
    bench.sender.failures = [refusal(retry=False)]
    runner = bench.runner()
    for seconds in (0, 61, 1000):
        bench.clock.now_s = DUE_S + seconds
        runner.tend(plan())
    assert bench.sender.calls == 1
    assert bench.log[0].endswith("the other side is out; given up")
    assert bench.states() == [("2026-11-21T07:00Z", State.FAILED)]


def test_after_the_last_try_it_has_failed(bench: Bench) -> None:
    """A receiver that never works: six tries, then no more."""
    bench.sender.failures = [refusal() for _ in range(99)]
    runner = bench.runner()
    for minute in range(0, 8 * 60, 1):
        bench.clock.now_s = DUE_S + minute * 60
        runner.tend(plan())
    assert bench.sender.calls == len(RETRY_AFTER_S) + 1
    assert bench.states() == [("2026-11-21T07:00Z", State.FAILED)]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConfigError("fleet.db: has schema 0002"), "the report cannot be made: fleet.db: has schema 0002"),
        (
            sa.exc.OperationalError("SELECT secret_column", {}, Exception("no route to host")),
            "the report cannot be made: no route to host",
        ),
        (ValueError("what\nelse"), "the report cannot be made: what"),
        (KeyError(), "the report cannot be made: KeyError"),
    ],
)
def test_a_report_that_cannot_be_made_is_tried_again(bench: Bench, error: Exception, words: str) -> None:
    """The problem says which half failed, without the statement that was asked."""

    def fail(_now_s: float, _since_s: float | None) -> Document:
        raise error

    bench.runner(make_document=fail).tend(plan())
    (run,) = bench.deliveries.recent(9)
    assert (run.state, run.problem, bench.sender.calls) == (State.PENDING, words, 0)


def test_a_mistake_of_ours_is_a_failed_try_too(bench: Bench) -> None:
    """What no code foresaw is shown and tried again; the job lives on."""
    bench.sender.failures = [ZeroDivisionError("division by zero")]
    bench.runner().tend(plan())
    (run,) = bench.deliveries.recent(9)
    assert (run.state, run.problem) == (State.PENDING, "ZeroDivisionError: division by zero")


def test_what_others_say_reaches_no_terminal_as_it_is(bench: Bench) -> None:
    """Problems are one printable line, and not a long one."""
    bench.sender.failures = [DeliveryError("\x1b[2J" + "x" * 1000 + "\n", retry=True)]
    bench.runner().tend(plan())
    (run,) = bench.deliveries.recent(9)
    assert run.problem is not None
    assert run.problem.isprintable()
    assert len(run.problem) <= 500
    assert all(line.isprintable() for line in bench.log)


class Killed(BaseException):
    """Ends a try as SIGKILL does: nothing after it runs."""


def test_a_run_that_was_killed_midway_goes_out_after_the_restart(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is pending, nobody works on it, and its lease ends."""
    bench.sender.failures = [Killed()]
    with monkeypatch.context() as patch:
        patch.setattr(Deliveries, "record_failure", lambda *_, **__: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            bench.runner().tend(plan())
    assert bench.states() == [("2026-11-21T07:00Z", State.PENDING)]
    runner = bench.runner(began_s=DUE_S + 5)
    for seconds, calls in ((5, 1), (LEASE_S - 1, 1), (LEASE_S, 2), (LEASE_S + 30, 2)):
        bench.clock.now_s = DUE_S + seconds
        runner.tend(plan())
        assert bench.sender.calls == calls
    assert bench.states() == [("2026-11-21T07:00Z", State.SENT)]


def test_a_database_that_is_away_is_told_once_and_outlived(tmp_path: Path) -> None:
    """The job does not raise, does not fill the log, and delivers when the table is back."""
    with table(tmp_path) as engine:
        bench = Bench(engine)
        runner = bench.runner()
        with engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE delivery RENAME TO away"))
        for seconds in (0, 30, 60):
            bench.clock.now_s = DUE_S + seconds
            runner.tend(plan())
        assert bench.log == ["daily: no such table: delivery"]
        with engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE away RENAME TO delivery"))
        runner.tend(plan())
    assert bench.sender.calls == 1


def test_once_stopped_nothing_begins(bench: Bench) -> None:
    """Neither what is due nor a retry."""
    runner = bench.runner()
    runner.stop()
    runner.tend(plan())
    assert bench.states() == []


def test_reports_are_made_one_at_a_time(bench: Bench) -> None:
    """Many deliveries of one minute do not hold many reports in memory while they are made."""
    at_work, most = 0, 0
    waits = threading.Event()

    def make(now_s: float, _since_s: float | None) -> Document:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        waits.wait(0.02)
        at_work -= 1
        return document(now_s)

    runner = bench.runner(make_document=make)
    threads = [threading.Thread(target=runner.tend, args=(plan(f"daily-{number}"),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, bench.sender.calls) == (1, 4)


def test_once_tells_what_became_of_it(bench: Bench) -> None:
    """Sent or failed, at once and for good, and again as often as asked."""
    runner = bench.runner()
    assert runner.once(plan()).state is State.SENT
    bench.sender.failures = [refusal()]
    bench.clock.now_s += 0.5
    failed = runner.once(plan())
    assert (failed.state, failed.problem) == (State.FAILED, "the other side is out")
    assert bench.sender.calls == 2


def test_an_interrupted_one_is_recorded(bench: Bench) -> None:
    """Control-C while it is sent, or while the report is made: failed, and nobody tries it again."""
    bench.sender.failures = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        bench.runner().once(plan())

    def interrupt(_now_s: float, _since_s: float | None) -> Document:
        raise KeyboardInterrupt

    bench.clock.now_s += 0.5
    with pytest.raises(KeyboardInterrupt):
        bench.runner(make_document=interrupt).once(plan())
    assert [(run.state, run.problem) for run in bench.deliveries.recent(9)] == [(State.FAILED, "interrupted")] * 2


@pytest.mark.real
def test_a_receiver_that_fails_twice_and_then_works(bench: Bench, tmp_path: Path) -> None:
    """Over real HTTP: three posts of one id, the table says sent at the third."""
    taker = Receiver([503, 500, 204])
    with receiver(taker) as port:
        hook = plan(target=webhook_target(tmp_path, f"http://127.0.0.1:{port}/x"))
        bench.sender = send  # type: ignore[assignment]
        runner = bench.runner()
        for seconds in (0, 60, 360, 1000, 5000):
            bench.clock.now_s = DUE_S + seconds
            runner.tend(hook)
    assert [request.headers["Fallow-Delivery"] for request in taker.requests] == ["daily/2026-11-21T07:00Z"] * 3
    assert [request.headers["Fallow-Timestamp"] for request in taker.requests] == [
        str(int(DUE_S + seconds)) for seconds in (0, 60, 360)
    ]
    (run,) = bench.deliveries.recent(9)
    assert (run.state, run.attempt, run.problem) == (State.SENT, 3, None)


@pytest.mark.real
def test_each_kind_of_target_is_sent_its_way(tmp_path: Path) -> None:
    """A directory gets files, a webhook a post, a mail server a connection."""
    folder = tmp_path / "reports"
    folder.mkdir()
    send(document(), DirectoryTarget(path=folder, forms=(Form.CSV,), keep=3), "a/b", DUE_S)
    assert [path.name for path in folder.iterdir()] == ["fallow-2026-11-21T070000Z.csv"]
    taker = Receiver([204])
    with receiver(taker) as port:
        send(document(), webhook_target(tmp_path, f"http://127.0.0.1:{port}/"), "a/b", DUE_S)
    assert len(taker.requests) == 1
    with pytest.raises(DeliveryError, match=f"127.0.0.1:{port}"):
        send(document(), mail_target(port), "a/b", DUE_S)
