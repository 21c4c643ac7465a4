"""What every driver of a hypervisor promises: orders, tasks, deadlines and typed errors.

A driver is one site: hosts among which VMs may move. Calls block, for `timeout_s` at most; what takes longer is a
`Task` to wait for. No driver decides anything: which VM, when and whether at all is the controller's. One suite of
tests holds for all of them (`tests/orchestrate/drivers/contract.py`); docs/drivers.md tells how to write one.

Errors::

    DriverError                 .retryable: the same call may succeed later; .acted: whether anything changed
    ├── Unreachable             retryable, nothing changed
    ├── Busy                    retryable, nothing changed: another task has the VM
    ├── NotFound                nothing changed: there is no such VM or host
    ├── Unsupported             nothing changed: not among the capabilities
    ├── Refused                 nothing changed: the hypervisor said no, and will again
    └── OutcomeUnknown          nobody knows: the state has to be read again, the call is never repeated
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

from orchestrate.inventory import Counters, Inventory, Vm, VmState


class Verb(StrEnum):
    """What can be done to a VM. There is none that destroys a disk, and there never will be."""

    SUSPEND = "suspend"
    RESUME = "resume"
    STOP = "stop"
    START = "start"
    MIGRATE_LIVE = "migrate-live"
    MIGRATE_COLD = "migrate-cold"

    @property
    def is_migration(self) -> bool:
        return self in {Verb.MIGRATE_LIVE, Verb.MIGRATE_COLD}


# What a VM must be for an order, and what it is when the order was carried out; a cold migration leaves it off.
BEFORE: dict[Verb, VmState] = {
    Verb.SUSPEND: VmState.RUNNING,
    Verb.RESUME: VmState.SUSPENDED,
    Verb.STOP: VmState.RUNNING,
    Verb.START: VmState.OFF,
    Verb.MIGRATE_LIVE: VmState.RUNNING,
    Verb.MIGRATE_COLD: VmState.OFF,
}
AFTER: dict[Verb, VmState] = {
    Verb.SUSPEND: VmState.SUSPENDED,
    Verb.RESUME: VmState.RUNNING,
    Verb.STOP: VmState.OFF,
    Verb.START: VmState.RUNNING,
    Verb.MIGRATE_LIVE: VmState.RUNNING,
    Verb.MIGRATE_COLD: VmState.OFF,
}


class DriverError(Exception):
    """A hypervisor did not do what it was asked.

    Args: host_id, uuid: whom it concerns, where that is known.
    """

    retryable: ClassVar[bool] = False
    # None: nobody knows.
    acted: ClassVar[bool | None] = False

    def __init__(self, message: str, *, host_id: str | None = None, uuid: str | None = None) -> None:
        self.host_id = host_id
        self.uuid = uuid
        super().__init__(message)


class Unreachable(DriverError):
    """The hypervisor could not be asked."""

    retryable = True


class Busy(DriverError):
    """Another task has the VM or the host just now."""

    retryable = True


class NotFound(DriverError):
    """There is no such VM or host."""


class Unsupported(DriverError):
    """The driver does not declare this among its capabilities."""


class Refused(DriverError):
    """The hypervisor said no: wrong state, no room, not allowed. Asking again gets the same answer."""


class OutcomeUnknown(DriverError):
    """The order may have been carried out: a deadline passed or the connection broke after it was given."""

    acted = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a driver can do, declared and tested, never guessed.

    Args:
        verbs: the others raise Unsupported.
        vm_counters, host_counters: `counters` has them.
    """

    verbs: frozenset[Verb]
    vm_counters: bool = False
    host_counters: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One thing to do to one VM.

    Args: target_host_id: where a migration leads; None for all else.

    Raises: ValueError: a migration without a target, or a target without a migration.
    """

    verb: Verb
    uuid: str
    target_host_id: str | None = None

    def __post_init__(self) -> None:
        if self.verb.is_migration is (self.target_host_id is None):
            raise ValueError(f"{self.verb} with target {self.target_host_id!r}")


class Task(Protocol):
    """An order under way. It goes on whether anybody waits or not."""

    @property
    def progress_ratio(self) -> float | None:
        """0..1; None where the hypervisor does not tell."""

    def wait(self, timeout_s: float) -> bool:
        """True once it has ended well, False when `timeout_s` passed first; never polls by sleeping blindly.

        Raises: DriverError: it failed; OutcomeUnknown where nobody can say whether it did.
        """

    def cancel(self) -> None:
        """Asks the hypervisor to give it up; `wait` tells what came of that. Nothing where it cannot be."""


class Driver(Protocol):
    """A site of hosts and VMs. All methods raise DriverError, and may be called from any one thread at a time."""

    @property
    def name(self) -> str:
        """As configured: what `VmRef.driver` says."""

    @property
    def capabilities(self) -> Capabilities:
        """Known without asking the hypervisor."""

    def inventory(self, timeout_s: float) -> Inventory:
        """All hosts and VMs now. A host that does not answer is told of, not raised."""

    def find(self, uuid: str, timeout_s: float) -> Vm:
        """One VM as it is now, never out of memory. Raises: NotFound: a VM of that UUID is on no host that answers."""

    def counters(self, timeout_s: float) -> Counters:
        """VMs and hosts seen from outside; those that do not answer are absent. Raises: Unsupported."""

    def begin(self, order: Order, timeout_s: float) -> Task:
        """Gives an order. A VM that is not in the state of BEFORE, or has another task, raises Refused or Busy."""

    def close(self) -> None:
        """Lets go of connections and threads. Tasks under way go on at the hypervisor."""
