"""A value that is read again now and then, in a thread: while it cannot be read, the last one stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

T = TypeVar("T")

# A reading that takes longer hangs on a connection whose other end is gone: another one need not wait for it.
PATIENCE_S = 60.0


class Reread(Generic[T]):
    """The newest value that could be read.

    Args:
        what: names it in the log.
        value: to begin with.
        read: blocks; called in a thread.
        in_thread: calls it there.
        seconds: a clock that never goes back.
        on_change: told of each value that is read.
        trouble: why the value to begin with could not be read.
    Attributes:
        trouble: why the last reading failed; None: it did not.
    """

    _log = Logger()

    def __init__(
        self,
        what: str,
        value: T,
        read: Callable[[], T],
        in_thread: Callable[[Callable[[], T]], Deferred[T]],
        *,
        seconds: Callable[[], float],
        on_change: Callable[[T], object] = lambda _value: None,
        trouble: str | None = None,
    ) -> None:
        self.value = value
        self.trouble = trouble
        self._what = what
        self._read = read
        self._in_thread = in_thread
        self._seconds = seconds
        self._on_change = on_change
        self._begun = self._answered = 0
        self._begun_s = 0.0
        self._is_reading = self._is_asked = False

    def refresh(self) -> None:
        """Reads it again, and returns at once. What is asked for while a reading is under way is one more after it."""
        # One at a time: a whole fleet that enrols at once would fill the threads with readings of the same table.
        self._is_asked = True
        if self._is_reading:
            waited_s = self._seconds() - self._begun_s
            if waited_s < PATIENCE_S:
                return
            self._note_trouble(f"no answer in {waited_s:.0f} s")
        self._begin()

    def _begin(self) -> None:
        self._begun += 1
        mine = self._begun
        self._begun_s = self._seconds()
        self._is_reading, self._is_asked = True, False

        def loaded(value: T) -> None:
            if self._is_news(mine):
                if self.trouble is not None:
                    self._log.info("{what}: can be read again", what=self._what)
                self.trouble, self.value = None, value
                self._on_change(value)

        def lost(failure: Failure) -> None:
            if self._is_news(mine):
                self._note_trouble(str(failure.value))

        def ended(outcome: object) -> None:
            if isinstance(outcome, Failure):
                self._log.failure("{what}: what was read could not be taken", outcome, what=self._what)
            if mine == self._begun:
                self._is_reading = False
                if self._is_asked:
                    self._begin()

        self._in_thread(self._read).addCallbacks(loaded, lost).addBoth(ended)

    def _is_news(self, number: int) -> bool:
        # Of two, one of which hung, the older must not win.
        if number <= self._answered:
            return False
        self._answered = number
        return True

    def _note_trouble(self, trouble: str) -> None:
        if trouble != self.trouble:
            self._log.warn("{what}: cannot be read, the last ones stay: {error}", what=self._what, error=trouble)
        self.trouble = trouble
