"""VMs that their owners want back: who asked, what became of it, and how long the guest took to be heard of again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from aggregator.admin_client import AdminUnavailable
from orchestrate.inventory import VmRef
from orchestrate.live_source import LiveVm

# An agent tells of itself every minute; a guest that starts anew takes some more.
HEARD_WITHIN_S = 900.0
# So precisely is the time told.
_LOOK_EVERY_S = 1.0
_MAX_REMEMBERED = 1_000


class WakeState(StrEnum):
    """How far it has come."""

    WAITING = "waiting"
    WAKING = "waking"
    # Its hypervisor shows it running; its agent has not been heard of since.
    AWAKE = "awake"
    HEARD = "heard"
    # It was waited for in vain.
    SILENT = "silent"
    # It ran all the time.
    RUNNING = "running"
    FAILED = "failed"


UNDER_WAY = frozenset({WakeState.WAITING, WakeState.WAKING, WakeState.AWAKE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """One wish.

    Args:
        vm_id: of its agent.
        asked_s: when the owner asked.
        words: for the owner, where it failed or has to wait; nothing of how the cloud is run.
        awake_s: when its hypervisor showed it running.
        heard_after_s: seconds from the call to the guest's next sample.
    """

    ref: VmRef
    vm_id: str
    asked_s: float
    state: WakeState = WakeState.WAITING
    words: str = ""
    awake_s: float | None = None
    heard_after_s: float | None = None


class Wakes:
    """All of them, the newest of each VM. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[VmRef, Wake] = {}
        self._asked = threading.Event()

    def ask(self, ref: VmRef, vm_id: str, *, now_s: float) -> Wake:
        """A new wish, or the one that is under way already."""
        with self._lock:
            known = self._known.get(ref)
            if known is not None and known.state in UNDER_WAY:
                return known
            wake = Wake(ref=ref, vm_id=vm_id, asked_s=now_s)
            self._put(wake)
        self.end_wait()
        return wake

    def find(self, ref: VmRef) -> Wake | None:
        """The newest of a VM; None: nobody asked, or long ago."""
        with self._lock:
            return self._known.get(ref)

    def take(self) -> Wake | None:
        """The oldest that waits, which is being seen to from now on."""
        with self._lock:
            waiting = min(
                (wake for wake in self._known.values() if wake.state is WakeState.WAITING),
                key=lambda wake: (wake.asked_s, wake.ref),
                default=None,
            )
            if waiting is None:
                return None
            taken = replace(waiting, state=WakeState.WAKING, words="")
            self._put(taken)
            return taken

    def put(self, wake: Wake) -> None:
        """What became of one."""
        with self._lock:
            self._put(wake)

    def postpone(self, words: str) -> None:
        """Those that wait wait on, and are told why."""
        with self._lock:
            for ref, wake in self._known.items():
                if wake.state is WakeState.WAITING:
                    self._known[ref] = replace(wake, words=words)

    def has_waiting(self) -> bool:
        """Whether any waits to be seen to."""
        with self._lock:
            return any(wake.state is WakeState.WAITING for wake in self._known.values())

    def wait(self, timeout_s: float) -> None:
        """Until somebody asks, or so long."""
        self._asked.wait(timeout_s)
        self._asked.clear()

    def end_wait(self) -> None:
        """Ends a `wait` at once."""
        self._asked.set()

    def _put(self, wake: Wake) -> None:
        # The newest change stands last.
        self._known.pop(wake.ref, None)
        self._known[wake.ref] = wake
        over = len(self._known) - _MAX_REMEMBERED
        if over > 0:
            ended = [ref for ref, each in self._known.items() if each.state not in UNDER_WAY]
            for ref in ended[:over]:
                del self._known[ref]


def newest_of(read: Callable[[], LiveVm | None]) -> LiveVm | None:
    """What the aggregator knows of a VM; None too where it does not answer."""
    try:
        return read()
    except AdminUnavailable:
        return None


def time_to_sample(
    read: Callable[[], LiveVm | None],
    before: LiveVm | None,
    *,
    asked_s: float,
    clock: Callable[[], float],
    pause: Callable[[float], object],
    within_s: float = HEARD_WITHIN_S,
    is_over: Callable[[], bool] = lambda: False,
) -> float | None:
    """Waits for the guest's next sample; seconds from the call to it, None: it did not come in time.

    The guest's own clock stands still while it is suspended: its times are compared with each other alone.

    Args:
        read: the VM as the aggregator knows it, `LiveSource.read_one`.
        before: the same, read just before the order; None where that was not known.
        asked_s: when the call came, by `clock`. is_over: whether nobody wants to know any more.
    """
    until_s = clock() + within_s
    while not is_over():
        now = newest_of(read)
        if now is not None and _is_news(now, before, asked_s):
            return max(clock() - asked_s, 0.0)
        if not clock() < until_s:
            return None
        pause(_LOOK_EVERY_S)
    return None


def _is_news(now: LiveVm, before: LiveVm | None, asked_s: float) -> bool:
    if now.newest_s is None:
        return False
    if before is None:
        return now.received_s > asked_s
    return now.received_s > before.received_s and (before.newest_s is None or now.newest_s > before.newest_s)
