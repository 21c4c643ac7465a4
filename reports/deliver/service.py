"""`fallow-report schedule` as a service: one job a delivery, until it is told to stop."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from typing import Any

from apscheduler.executors.base import BaseExecutor, run_job
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from reports.deliver.cron import next_due_s
from reports.deliver.runner import GRACE_S, Runner
from reports.deliver.targets import Plan

# How late a retry may come. Each look also finds what was due while nobody ran, or while the clock was being set.
LOOK_EVERY_S = 30.0
# systemd and people wait for the end: a try that takes longer is cut off, and made again after the next start.
STOP_WITHIN_S = 3.0


class DaemonThreads(BaseExecutor):  # type: ignore[misc]  # the package has no types
    """Runs each job in a thread that does not keep the program from ending, as those of a pool would."""

    def __init__(self) -> None:
        super().__init__()
        self._threads: dict[threading.Thread, str] = {}

    def is_running(self, job_id: str) -> bool:
        return job_id in self._threads.copy().values()

    def wait(self, timeout_s: float) -> bool:
        """Waits for the jobs that run; whether all of them have ended by then."""
        ends_s = time.monotonic() + timeout_s
        threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, ends_s - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        thread = threading.Thread(target=self._run, args=(job, run_times), name=f"deliver-{job.id}", daemon=True)
        self._threads[thread] = job.id
        thread.start()

    def _run(self, job: Any, run_times: list[datetime]) -> None:
        try:
            events = run_job(job, job._jobstore_alias, run_times, self._logger.name)
        except BaseException:
            self._run_job_error(job.id, *sys.exc_info()[1:])
        else:
            self._run_job_success(job.id, events)
        finally:
            del self._threads[threading.current_thread()]


class DueTimes(BaseTrigger):  # type: ignore[misc]  # the package has no types
    """The times of a plan, right across clock changes too."""

    def __init__(self, plan: Plan, zone: tzinfo) -> None:
        self._plan = plan
        self._zone = zone

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        due_s = next_due_s(self._plan.cron, self._zone, (previous_fire_time or now).timestamp())
        return None if due_s is None else datetime.fromtimestamp(due_s, UTC)


def serve(
    plans: Sequence[Plan],
    runner: Runner,
    zone: tzinfo,
    *,
    stop: threading.Event | None = None,
    look_every_s: float = LOOK_EVERY_S,
    stop_within_s: float = STOP_WITHIN_S,
) -> bool:
    """Runs every plan at its times, and looks after it now and then, until `stop` is set.

    Args:
        stop: set by SIGTERM and SIGINT unless given; then only in the main thread.

    Returns: whether every try had ended; one that was cut off is in the table, to be tried again.
    """
    executor = DaemonThreads()
    scheduler = BackgroundScheduler(executors={"default": executor}, timezone=UTC)
    jobs = [
        scheduler.add_job(
            runner.tend,
            DueTimes(plan, zone),
            args=[plan],
            id=plan.name,
            misfire_grace_time=int(GRACE_S),
            coalesce=True,
            max_instances=1,
        )
        for plan in plans
    ]
    with _signals() if stop is None else _given(stop) as stopped:
        scheduler.start()
        try:
            while True:
                for job in jobs:
                    # It then finds its next time anew: one that was set by a clock that was ahead may be far away.
                    if not executor.is_running(job.id):
                        job.modify(next_run_time=datetime.now(UTC))
                if stopped.wait(look_every_s):
                    break
        finally:
            runner.stop()
            scheduler.shutdown(wait=False)
        return executor.wait(stop_within_s)


@contextmanager
def _signals() -> Iterator[threading.Event]:
    stop = threading.Event()
    former = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def _given(stop: threading.Event) -> Iterator[threading.Event]:
    yield stop
