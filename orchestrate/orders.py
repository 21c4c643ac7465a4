"""One order to a hypervisor, from giving it to knowing what came of it.

An order is given once. After it was given, the VM's live state alone says what became of it: what the task or an
error says only tells whether something may still be under way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from orchestrate.driver import Driver, DriverError, NotFound, Order, Task, Verb
from orchestrate.inventory import Vm
from orchestrate.outcomes import judge
from orchestrate.plan import Step
from orchestrate.records import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long the controller waits for hypervisors, in seconds.

    Args:
        find_s, begin_s: for one call.
        order_s: from giving an order to its end; then it is asked to be given up, and waited for `cancel_s` more.
        attempts: orders that a step may cost in all, where each before was refused for a reason that passes.
        reads: tries to read the state after an order.
    """

    find_s: float = 10.0
    begin_s: float = 20.0
    order_s: Mapping[Verb, float] = field(
        default_factory=lambda: {
            Verb.SUSPEND: 900.0,
            Verb.RESUME: 600.0,
            Verb.STOP: 300.0,
            Verb.START: 300.0,
            Verb.MIGRATE_LIVE: 3600.0,
            Verb.MIGRATE_COLD: 7200.0,
        }
    )
    cancel_s: float = 30.0
    attempts: int = 2
    reads: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What became of an order. `again`: nothing happened, and the same may succeed now."""

    outcome: Outcome
    words: str
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How waiting ended. `ended`: nothing can still be under way. `problem`: None: the task ended well."""

    ended: bool
    problem: str | None


def carry_out(
    driver: Driver,
    step: Step,
    verb: Verb,
    *,
    timeouts: Timeouts,
    slice_s: float,
    keep: Callable[[], object],
    stopped: Callable[[], str | None],
) -> Carried:
    """Gives the order, once, and follows it to its end.

    Args:
        slice_s: how long to wait at a time.
        keep: renews the lease; called before every further call.
        stopped: what the kill switch says. An order that was given is still followed, but no longer cancelled.

    Raises: whatever `keep` raises; then the order was given, and nothing more was asked of the driver.
    """
    order = Order(verb=verb, uuid=step.ref.uuid, target_host_id=step.target_host_id)
    try:
        task = driver.begin(order, timeouts.begin_s)
    except DriverError as error:
        if error.acted is False:
            return Carried(outcome=Outcome.FAILED, words=error_words(error), again=error.retryable)
        end = _End(ended=False, problem=error_words(error))
    except Exception as error:  # a driver's bug says nothing of what the hypervisor did
        end = _End(ended=False, problem=error_words(error))
    else:
        end = _follow(task, timeouts.order_s[verb], timeouts.cancel_s, slice_s=slice_s, keep=keep, stopped=stopped)
    return _look(driver, step, end, timeouts, keep)


def error_words(error: Exception) -> str:
    """What an error says, with its kind where it is not one of drivers."""
    text = str(error) or type(error).__name__
    return text if isinstance(error, DriverError) else f"{type(error).__name__}: {text}"


def _follow(
    task: Task,
    order_s: float,
    cancel_s: float,
    *,
    slice_s: float,
    keep: Callable[[], object],
    stopped: Callable[[], str | None],
) -> _End:
    end = _wait(task, order_s, slice_s, keep)
    if end is not None:
        return end
    late = f"was not done within {order_s:g} s"
    if stopped() is not None:
        return _End(ended=False, problem=late)
    keep()
    with suppress(Exception):  # what cannot be given up goes on; waiting for it tells
        task.cancel()
    end = _wait(task, cancel_s, slice_s, keep) or _End(ended=False, problem=None)
    return _End(ended=end.ended, problem=late if end.problem is None else f"{late}; {end.problem}")


def _wait(task: Task, timeout_s: float, slice_s: float, keep: Callable[[], object]) -> _End | None:
    """None: it did not end in time. Slices are counted and no clock is read, so that none can make the wait endless."""
    left_s = timeout_s
    while left_s > 0:
        keep()
        try:
            if task.wait(min(left_s, slice_s)):
                return _End(ended=True, problem=None)
        except DriverError as error:
            # Where waiting itself failed, as with a connection that broke, the task may go on.
            return _End(ended=error.acted is False and not error.retryable, problem=error_words(error))
        except Exception as error:
            return _End(ended=False, problem=error_words(error))
        left_s -= slice_s
    return None


def _look(driver: Driver, step: Step, end: _End, timeouts: Timeouts, keep: Callable[[], object]) -> Carried:
    keep()
    live = _read(driver, step, timeouts, keep)
    if isinstance(live, str):
        outcome, found = Outcome.UNKNOWN, live
    else:
        outcome, found = judge(step, live, ended=end.ended)
    return Carried(outcome=outcome, words=found if end.problem is None else f"{end.problem}; found {found}")


def _read(driver: Driver, step: Step, timeouts: Timeouts, keep: Callable[[], object]) -> Vm | str:
    """The VM now, or why it could not be read."""
    problem = ""
    for number in range(timeouts.reads):
        if number:
            keep()
        try:
            return driver.find(step.ref.uuid, timeouts.find_s)
        except NotFound:
            return "gone: its hypervisor does not show it"
        except DriverError as error:
            problem = f"nothing: it could not be read: {error_words(error)}"
            if not error.retryable:
                break
        except Exception as error:
            return f"nothing: it could not be read: {error_words(error)}"
    return problem
