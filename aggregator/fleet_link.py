"""How a running aggregator stands to the fleet database: comes up to it, tells it every few seconds that it is there.

Nothing waits for it. While it does not answer pushes are taken and stored, summaries are owed, nobody can enrol, and
revocations are those that were last known. One question at a time is under way, in a thread that no exit waits for:
a database that hangs holds up that one question.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from aggregator.fleet_errors import one_line
from aggregator.nodes import BEAT_S, NodeNameTakenError, Nodes, Told
from aggregator.own_node import OwnNode

RETRY_S = 3.0
PATIENCE_S = 5.0
FAREWELL_S = 1.0  # of the five seconds that SIGTERM gives

T = TypeVar("T")


def in_daemon_thread(reactor: Any, work: Callable[[], T]) -> Deferred[T]:
    """Calls `work` in a thread of its own, which does not keep the program from ending."""
    done: Deferred[T] = Deferred()

    def run() -> None:
        outcome: T | Failure
        try:
            outcome = work()
        except Exception:
            outcome = Failure()  # type: ignore[no-untyped-call]
        reactor.callFromThread(done.callback, outcome)

    threading.Thread(target=run, name="fleet-link", daemon=True).start()
    return done


class _Step(Enum):
    OPEN = "open"
    REGISTER = "register"
    BEAT = "beat"


class FleetLink:
    """The way of one aggregator to the fleet database.

    Args:
        nodes: of that database.
        me: what is told.
        starts: as `Nodes.check_name` takes them.
        prepare: brings the database to this program's schema, as far as that is needed; returns the ids of all VMs
            that ever had a summary. Blocks.
        on_open: told of these ids when that succeeded after the start.
        on_told: given what was learned whenever this aggregator has told of itself.
        in_thread: calls what blocks in a thread.
        reactor: tells when.
    Attributes:
        is_open: the database has been brought to this program's schema.
        trouble: why it could not be told at the last try; None: it was.
        is_named_twice: another aggregator runs under the name of this one.
    """

    _log = Logger()

    def __init__(
        self,
        nodes: Nodes,
        me: OwnNode,
        *,
        starts: frozenset[float] | None,
        prepare: Callable[[], Sequence[str]],
        on_open: Callable[[Sequence[str]], object],
        on_told: Callable[[Told], object] = lambda _told: None,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        reactor: Any,
    ) -> None:
        self.is_open = False
        self.trouble: str | None = None
        self.is_named_twice = False
        self._nodes = nodes
        self._me = me
        self._starts = starts
        self._prepare = prepare
        self._on_open = on_open
        self._on_told = on_told
        self._in_thread = in_thread
        self._reactor = reactor
        self._is_registered = False
        self._is_asking = False
        self._is_stopping = False
        self._is_news = False
        self._timer: Any = None
        self._impatience: Any = None
        self._asked: list[Deferred[None]] = []

    def open(self, now_s: float) -> Sequence[str]:
        """Before the start: the ids that `prepare` returns. Blocks.

        Raises:
            ConfigError: as `prepare`.
            NodeNameTakenError: another aggregator runs under this name.
            one of AWAY: the database does not answer; it is tried again from the start on.
        """
        vm_ids = self._prepare()
        self._nodes.check_name(self._me.name, self._starts, now_s)
        self.is_open = True
        return vm_ids

    def start(self) -> None:
        """Goes on until `stop`."""
        self._turn()

    def tell(self) -> None:
        """What this aggregator says has changed: tells it now, not in a few seconds."""
        if self._is_asking:
            self._is_news = True
        elif self._timer is not None:
            self._turn()

    def stop(self) -> Deferred[None]:
        """Says goodbye; fires when that is done, or could not be done within FAREWELL_S."""
        gone: Deferred[None] = Deferred()
        self._is_stopping = True
        self._cancel_timers()
        if not (self._is_asking or self._is_registered):
            gone.callback(None)
            return gone

        def end() -> None:
            if not gone.called:
                if late.active():
                    late.cancel()
                gone.callback(None)

        def say(_before: object) -> None:
            if not self._is_registered:
                end()
                return
            node = self._me.describe(stopped=True)
            self._in_thread(lambda: self._nodes.beat(self._me.with_disk(node))).addBoth(lambda _outcome: end())

        late = self._reactor.callLater(FAREWELL_S, end)
        if self._is_asking:
            # What it says would come after the goodbye.
            before: Deferred[None] = Deferred()
            self._asked.append(before)
            before.addCallback(say)
        else:
            say(None)
        return gone

    def _turn(self) -> None:
        self._cancel_timers()
        self._is_asking, self._is_news = True, False
        step = _Step.OPEN if not self.is_open else _Step.REGISTER if not self._is_registered else _Step.BEAT
        node = self._me.describe()

        def ask() -> Any:
            if step is _Step.OPEN:
                return self._prepare()
            told = self._me.with_disk(node)
            return self._nodes.register(told, self._starts) if step is _Step.REGISTER else self._nodes.beat(told)

        self._impatience = self._reactor.callLater(PATIENCE_S, self._note_trouble, f"no answer in {PATIENCE_S:g} s")

        def ended(outcome: object) -> None:
            self._cancel_timers()
            self._is_asking = False
            asked, self._asked = self._asked, []
            for waiting in asked:
                waiting.callback(None)
            if not self._is_stopping:
                self._timer = self._reactor.callLater(self._wait_s(step, outcome), self._turn)

        self._in_thread(ask).addCallbacks(lambda result: self._succeeded(step, result), self._failed).addErrback(
            lambda failure: self._log.failure("what the fleet database answered could not be taken", failure)
        ).addBoth(ended)

    def _wait_s(self, step: _Step, outcome: object) -> float:
        if outcome is not True:
            return RETRY_S
        return 0.0 if step is _Step.OPEN or self._is_news else BEAT_S

    def _succeeded(self, step: _Step, result: Any) -> bool:
        if self.trouble is not None:
            self._log.info("the fleet database answers again")
        if self.is_named_twice:
            self._log.info("no other aggregator runs as {name} any more", name=self._me.name)
        self.trouble, self.is_named_twice = None, False
        if step is _Step.OPEN:
            self.is_open = True
            if not self._is_stopping:
                self._on_open(result)
            return True
        self._is_registered = True
        if result.claimed:
            self._log.info("{n} VMs had no aggregator: this one has their history", n=result.claimed)
        if not self._is_stopping:
            self._on_told(result)
        return True

    def _failed(self, failure: Failure) -> bool:
        error = failure.value
        if isinstance(error, NodeNameTakenError):
            if not self.is_named_twice:
                self._log.error("{error}", error=error)
            self.trouble, self.is_named_twice = None, True
        else:
            self._note_trouble(one_line(error))
        return False

    def _note_trouble(self, trouble: str) -> None:
        if trouble != self.trouble:
            self._log.warn(
                "the fleet database cannot be used: {error}; pushes are taken, summaries wait, nobody can enrol",
                error=trouble,
            )
        self.trouble = trouble

    def _cancel_timers(self) -> None:
        for timer in (self._timer, self._impatience):
            if timer is not None and timer.active():
                timer.cancel()
        self._timer = self._impatience = None
