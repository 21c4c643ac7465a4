"""Where a simulated site is kept: in memory, or in a file that several processes use one after the other."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.status import replace_file
from orchestrate.driver import Order, Unreachable, Verb
from orchestrate.drivers.simulated_faults import Fault
from orchestrate.drivers.simulated_park import ParkVm
from orchestrate.drivers.simulated_site import SimulatedSite
from orchestrate.drivers.simulated_values import Guest, Job, JobState
from orchestrate.inventory import Shield, VmState

_FORMAT = 1


class MemoryKeeper:
    """For one process."""

    def __init__(self, site: SimulatedSite) -> None:
        self._site = site
        self._lock = threading.RLock()

    @contextmanager
    def open(self, now_s: float) -> Iterator[SimulatedSite]:
        with self._lock:
            self._site.advance(now_s)
            yield self._site


class FileKeeper:
    """In a file; a lock beside it (`.lock`) is held while it is open.

    Args: make: a site as it is at the beginning, when there is no file yet.
    """

    def __init__(self, path: Path, make: Callable[[], SimulatedSite]) -> None:
        self._path = path
        self._make = make
        self._lock = threading.RLock()

    @contextmanager
    def open(self, now_s: float) -> Iterator[SimulatedSite]:
        """Raises: Unreachable: the file cannot be read or written, as if the hypervisors could not be asked."""
        with self._lock:
            try:
                held = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise Unreachable(f"{self._path}: {error.strerror or error}") from error
            try:
                fcntl.flock(held, fcntl.LOCK_EX)
                site, before = self._load()
                site.advance(now_s)
                try:
                    yield site
                finally:
                    # An order that was refused or got lost has changed the site, too.
                    self._save(site, before)
            finally:
                os.close(held)

    def _load(self) -> tuple[SimulatedSite, str]:
        site = self._make()
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return site, ""
        except (OSError, UnicodeDecodeError) as error:
            raise Unreachable(f"{self._path}: {error}") from error
        try:
            decode_state(text, site)
        except ValueError as error:
            raise Unreachable(f"{self._path}: {error}") from error
        return site, text

    def _save(self, site: SimulatedSite, before: str) -> None:
        text = encode_state(site)
        if text != before:
            try:
                replace_file(self._path, text, mode=0o600, sync=False)
            except OSError as error:
                raise Unreachable(f"{self._path}: {error.strerror or error}") from error


def encode_state(site: SimulatedSite) -> str:
    """JSON of everything that changes: VMs, tasks, hosts that are away, counts."""
    document = {
        "format": _FORMAT,
        "now_s": site.now_s,
        "orders": site.orders,
        "reads": site.reads,
        "down": sorted(site.down),
        "guests": [
            {**asdict(guest), "vm": {**asdict(guest.vm), "shields": sorted(guest.vm.shields)}}
            for guest in site.guests.values()
        ],
        "jobs": [asdict(job) for job in site.jobs.values()],
    }
    return json.dumps(document)


def decode_state(text: str, site: SimulatedSite) -> None:
    """Puts what `encode_state` told into a site. Raises: ValueError: it is none, or does not fit the site's hosts."""
    try:
        document = json.loads(text)
        if document["format"] != _FORMAT:
            raise ValueError("of another version of this program")
        guests = [_guest(each) for each in document["guests"]]
        jobs = [_job(each) for each in document["jobs"]]
        strangers = {guest.host_id for guest in guests} - site.hosts.keys()
        if strangers:
            raise ValueError(f"names hosts that the park does not have: {', '.join(sorted(strangers))}")
        site.restore(guests, jobs)
        site.down = set(document["down"])
        site.orders, site.reads, site.now_s = document["orders"], document["reads"], document["now_s"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the state of a simulated site: {error!r}") from error


def _guest(document: dict[str, Any]) -> Guest:
    vm = document["vm"]
    lists = {key: tuple(vm[key]) for key in ("tags", "macs", "addresses")}
    shields = frozenset(map(Shield, vm["shields"]))
    known = ParkVm(**{**vm, **lists, "shields": shields, "state": VmState(vm["state"])})
    return Guest(**{**document, "vm": known, "state": VmState(document["state"])})


def _job(document: dict[str, Any]) -> Job:
    order, fault = document["order"], document["fault"]
    return Job(
        **{
            **document,
            "order": Order(**{**order, "verb": Verb(order["verb"])}),
            "fault": None if fault is None else Fault(fault),
            "state": JobState(document["state"]),
        }
    )
