"""Calls that may block for ever, made in threads of their own and waited for until a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadline:
    """The end of a span of time that several waits share. Args: timeout_s: from now."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._end_s = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Never less than 0."""
        return max(0.0, self._end_s - time.monotonic())


class Running(Generic[T]):
    """Work that has begun in a thread, whether anybody waits for it or not.

    The thread does not keep the program from ending: one that hangs in a library's call cannot be ended.
    """

    def __init__(self, work: Callable[[], T], *, name: str) -> None:
        self._work: Callable[[], T] | None = work
        self._over = threading.Event()
        self._results: list[T] = []
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def wait(self, timeout_s: float) -> bool:
        """True once it is over, however it ended; False when `timeout_s` passed first."""
        return self._over.wait(max(0.0, timeout_s))

    def result(self) -> T:
        """What it returned; raises what it raised. Only once it is over."""
        assert self.is_over
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        work, self._work = self._work, None
        assert work is not None
        try:
            self._results.append(work())
        except BaseException as error:  # handed to whoever asks for the result
            self._error = error
        finally:
            self._over.set()
