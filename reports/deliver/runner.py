"""One delivery from beginning to end: what a scheduled job does, and what `--once` does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import tzinfo

import sqlalchemy as sa

from reports.deliver import directory, mail, webhook
from reports.deliver.cron import latest_due_s
from reports.deliver.document import Document, MakeDocument
from reports.deliver.runs import Deliveries, Run, State, key_at_once, report_key
from reports.deliver.targets import DeliveryError, DirectoryTarget, MailTarget, Plan, Target, WebhookTarget
from reports.words import iso_time, printable

# A report that was due while nobody could deliver it still goes out when somebody can this much later.
GRACE_S = 3600.0
_MAX_PROBLEM_CHARS = 500

# Document, where it goes, the delivery's id, Unix seconds. Raises DeliveryError.
Send = Callable[[Document, Target, str, float], None]


def send(document: Document, target: Target, delivery_id: str, now_s: float) -> None:
    """Sends the report the way its target asks for. Raises: DeliveryError."""
    match target:
        case MailTarget():
            mail.deliver(document, target)
        case WebhookTarget():
            webhook.deliver(document, target, delivery_id=delivery_id, now_s=now_s)
        case DirectoryTarget():
            directory.deliver(document, target)


class Runner:
    """Makes reports and delivers them; every step is in the table before the next is taken.

    A retry makes the report anew: whoever gets it late gets what holds then.

    Args:
        zone: in which cron lines are read.
        clock: Unix seconds.
        log: takes one line a try.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        *,
        make_document: MakeDocument,
        send: Send,
        zone: tzinfo,
        clock: Callable[[], float],
        log: Callable[[str], None],
    ) -> None:
        self._deliveries = deliveries
        self._make_document = make_document
        self._send = send
        self._zone = zone
        self._clock = clock
        self._log = log
        self._began_s = clock()
        # Several are due at the same minute, and a report of a large fleet fills both memory and a core.
        self._making = threading.Lock()
        self._complaints: dict[str, str] = {}
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Begins no further try."""
        self._stopping.set()

    def tend(self, plan: Plan) -> None:
        """Delivers what is due of this plan, and tries again what failed. The body of a job: it never raises."""
        try:
            run = self._begin_due(plan)
            if run is not None:
                self._try(plan, run)
            for waiting in self._deliveries.due(plan.name, now_s=self._clock()):
                if self._stopping.is_set():
                    return
                claimed = self._deliveries.claim(waiting, now_s=self._clock())
                if claimed is not None:
                    self._try(plan, claimed)
            self._complaints.pop(plan.name, None)
        except Exception as error:  # the next call finds in the table what this one could not do
            complaint = f"{plan.name}: {_words(error)}"
            # It comes again every half minute, until the database does.
            if self._complaints.get(plan.name) != complaint:
                self._complaints[plan.name] = complaint
                self._log(complaint)

    def once(self, plan: Plan) -> Run:
        """Delivers now, tries once, and returns what became of it.

        Raises: sqlalchemy.exc.SQLAlchemyError: the database is away.
        """
        now_s = self._clock()
        target = plan.target
        run = self._deliveries.begin(
            plan.name, target.kind, target.words, now_s, key_at_once(now_s), now_s=now_s, retries=False
        )
        assert run is not None, "a key with microseconds exists already"
        return self._try(plan, run)

    def _begin_due(self, plan: Plan) -> Run | None:
        now_s = self._clock()
        due_s = latest_due_s(plan.cron, self._zone, after_s=now_s - GRACE_S, until_s=now_s)
        if due_s is None or self._stopping.is_set():
            return None
        key = report_key(due_s)
        # Most calls find what another has done: they leave the write lock alone.
        if self._deliveries.exists(plan.name, key):
            return None
        if due_s < self._began_s and not self._deliveries.was_scheduled(plan.name):
            return None  # it is new in the settings: its first time is still to come
        return self._deliveries.begin(plan.name, plan.target.kind, plan.target.words, due_s, key, now_s=now_s)

    def _try(self, plan: Plan, run: Run) -> Run:
        try:
            with self._making:
                document = self._make_document(self._clock(), self._deliveries.last_sent_due_s(plan.name))
        except Exception as error:
            return self._failed(run, f"the report cannot be made: {_words(error)}", retry=True)
        except BaseException:
            self._failed(run, "interrupted", retry=True)
            raise
        try:
            self._send(document, plan.target, run.delivery_id, self._clock())
        except DeliveryError as error:
            return self._failed(run, error.problem, retry=error.retry)
        except Exception as error:
            return self._failed(run, f"{type(error).__name__}: {_words(error)}", retry=True)
        except BaseException:
            self._failed(run, "interrupted", retry=True)
            raise
        sent = self._deliveries.record_success(run, subject=document.headline, now_s=self._clock())
        self._log(f"{run.name}: sent to {run.target} (due {iso_time(run.due_s)}, try {run.attempt})")
        return sent

    def _failed(self, run: Run, problem: str, *, retry: bool) -> Run:
        problem = printable(problem)[:_MAX_PROBLEM_CHARS]
        failed = self._deliveries.record_failure(run, problem, retry=retry, now_s=self._clock())
        if failed.state is State.PENDING and failed.next_attempt_s is not None:
            then = f"next try {iso_time(failed.next_attempt_s)}"
        else:
            then = "given up"
        due = iso_time(run.due_s)
        self._log(f"{run.name}: not sent to {run.target} (due {due}, try {run.attempt}): {problem}; {then}")
        return failed


def _words(error: Exception) -> str:
    """The first line of what is wrong; of a database's error what the driver says, without the statement."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) and error.orig is not None else error
    return printable(next(iter(str(cause).splitlines()), type(cause).__name__))
