"""The last answers to questions that many pages ask."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """Keeps a few answers, each as long as it is good for. Any thread may use it; two at once may both make one.

    Args: most: the one asked for longest ago makes room.
    """

    def __init__(self, most: int = 1) -> None:
        self._most = most
        self._lock = Lock()
        self._known: dict[K, tuple[float, V]] = {}

    def find(self, key: K, now_s: float, for_s: float, make: Callable[[], V]) -> V:
        """The answer to `key`, made anew when it is not there or `for_s` old."""
        with self._lock:
            known = self._known.pop(key, None)
            # A clock that was set back is no reason to keep an answer for longer.
            if known is not None and abs(now_s - known[0]) < for_s:
                self._known[key] = known
                return known[1]
        value = make()
        with self._lock:
            self._known[key] = (now_s, value)
            while len(self._known) > self._most:
                del self._known[next(iter(self._known))]
        return value
