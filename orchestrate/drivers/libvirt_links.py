"""Connections to libvirt, one a host, that survive hosts which hang.

No call is trusted to return. Each runs in a thread of its own; when it is late, its connection is left to it and the
next call opens another one. Nobody else may close it: a call that is still inside would find its memory freed.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from agent.settings import ConfigError
from orchestrate.driver import Unreachable
from orchestrate.drivers.libvirt_errors import translated, words_of
from orchestrate.drivers.libvirt_settings import HostSettings
from orchestrate.drivers.libvirt_threads import Deadline, Running

T = TypeVar("T")
# A peer that answers none of so many questions at such intervals is gone: 20 s until a call on it fails.
_KEEPALIVE_S, _KEEPALIVE_COUNT = 5, 3
# So many threads may hang on one host. Each look at it would add another.
_MAX_LATE = 4
_ONE_AT_A_TIME = threading.Lock()


def load_libvirt() -> Any:
    """The module `libvirt`, ready for connections that notice when their peer is gone.

    Its event loop runs in a thread from now on, once a process: it must be there before the first connection is.

    Raises: ConfigError: the package is missing.
    """
    try:
        library = importlib.import_module("libvirt")
    except ImportError as error:
        raise ConfigError(
            f"drivers of the kind libvirt need libvirt-python: pip install 'fallow[libvirt]' ({error})"
        ) from error
    with _ONE_AT_A_TIME:
        _start_events(library)
    return library


@functools.cache
def _start_events(library: Any) -> threading.Thread:
    # Else libvirt prints every error to stderr before it raises it.
    library.registerErrorHandler(_say_nothing, None)
    library.virEventRegisterDefaultImpl()
    thread = threading.Thread(target=_run_events, args=(library,), name="libvirt-events", daemon=True)
    thread.start()
    return thread


def _run_events(library: Any) -> None:
    while True:
        with suppress(library.libvirtError):
            library.virEventRunDefaultImpl()


def _say_nothing(_context: object, _error: object) -> None:
    return


@dataclass(frozen=True, slots=True)
class Visit(Generic[T]):
    """Work under way at a host, and the connection it has."""

    running: Running[T]
    slot: _Slot


class Link:
    """The way to one host. May be used from several threads."""

    def __init__(self, host: HostSettings, library: Any) -> None:
        self.host = host
        self._library = library
        self._slot: _Slot | None = _Slot(host, library)
        self._late: list[Running[Any]] = []

    def begin(self, work: Callable[[Any], T]) -> Visit[T]:
        """Begins `work(connection)`, which may raise libvirtError and DriverError.

        Raises: Unreachable: too many calls hang there already, or the link is closed.
        """
        host_id, slot = self.host.host_id, self._slot
        if slot is None:
            raise Unreachable(f"{host_id}: the driver is closed", host_id=host_id)
        self._late = [running for running in self._late if not running.is_over]
        if len(self._late) >= _MAX_LATE:
            raise Unreachable(f"{host_id}: {len(self._late)} earlier calls still hang there", host_id=host_id)
        return Visit(Running(lambda: slot.run(work), name=f"libvirt-{host_id}"), slot)

    def end(self, visit: Visit[T], deadline: Deadline) -> T:
        """What became of a visit. Raises: Unreachable: it is late; DriverError."""
        if visit.running.wait(deadline.left_s()):
            return visit.running.result()
        self._late.append(visit.running)
        if self._slot is visit.slot:
            self._slot = _Slot(self.host, self._library)
        host_id = self.host.host_id
        raise Unreachable(f"{host_id}: no answer within {deadline.timeout_s:g} s", host_id=host_id)

    def visit(self, work: Callable[[Any], T], timeout_s: float) -> T:
        """`begin` and `end` in one. Raises: DriverError."""
        return self.end(self.begin(work), Deadline(timeout_s))

    def close(self) -> None:
        """Lets go of the connection; visits under way keep it until they are over."""
        self._slot = None


class _Slot:
    """A place for one connection, opened by whoever comes first and again when it broke."""

    def __init__(self, host: HostSettings, library: Any) -> None:
        self._host = host
        self._library = library
        self._opening = threading.Lock()
        self._connection: Any = None

    def run(self, work: Callable[[Any], T]) -> T:
        connection = self._open()
        try:
            return work(connection)
        except self._library.libvirtError as error:
            raise translated(error, host_id=self._host.host_id, is_alive=is_alive(connection, self._library)) from error

    def _open(self) -> Any:
        with self._opening:
            if self._connection is None or not is_alive(self._connection, self._library):
                self._connection = None
                self._connection = self._opened()
            return self._connection

    def _opened(self) -> Any:
        try:
            connection = self._library.open(self._host.uri.text)
        except self._library.libvirtError as error:
            host_id = self._host.host_id
            raise Unreachable(f"{host_id}: {words_of(error)}", host_id=host_id) from error
        with suppress(self._library.libvirtError):
            # A hypervisor within this process has none, and needs none.
            connection.setKeepAlive(_KEEPALIVE_S, _KEEPALIVE_COUNT)
        return connection


def is_alive(connection: Any, library: Any) -> bool:
    """Whether a connection stands, as far as this side knows; asks nobody."""
    try:
        return bool(connection.isAlive())
    except library.libvirtError:
        return False
