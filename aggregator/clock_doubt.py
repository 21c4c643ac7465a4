"""Whose clock is wrong, when a VM's and ours are far apart: that of the fewer. Pure.

A push whose samples only our clock makes too old or too early is refused for good where the VM's clock is the wrong
one: its times mean nothing. Where it is ours, that would throw good samples away, and they wait until it is set right.
"""

from __future__ import annotations

from collections.abc import Callable

_WITHIN_S = 600.0
_MOST_VMS = 10_000
_ASK_AGAIN_S = 10.0


class ClockDoubt:
    """Counts the VMs that disagree with us against those that do not.

    Args: heard: how many VMs had a push taken between two of our times, Unix seconds.
    """

    __slots__ = ("_apart", "_asked_s", "_heard", "_with_us")

    def __init__(self, heard: Callable[[float, float], int]) -> None:
        self._heard = heard
        self._apart: dict[str, float] = {}
        self._asked_s: float | None = None
        self._with_us = 0

    def is_ours(self, vm_id: str, now_s: float) -> bool:
        """Notes that this VM's clock is far from ours; whether no more VMs agree with us, of the last ten minutes."""
        self._apart.pop(vm_id, None)
        self._apart[vm_id] = now_s
        for known, at_s in list(self._apart.items()):
            # In the order of noting: after the first that counts all do, but for a clock that was set meanwhile.
            if abs(now_s - at_s) <= _WITHIN_S and len(self._apart) <= _MOST_VMS:
                break
            del self._apart[known]
        if self._asked_s is None or abs(now_s - self._asked_s) >= _ASK_AGAIN_S:
            self._asked_s = now_s
            self._with_us = self._heard(now_s - _WITHIN_S, now_s + _WITHIN_S)
        return len(self._apart) >= self._with_us
