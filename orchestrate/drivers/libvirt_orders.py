"""Orders to libvirt: what each verb calls, and what became of a call that failed. Blocking.

Nothing here destroys: a guest that does not go down by itself stays up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from orchestrate.driver import AFTER, BEFORE, DriverError, Order, OutcomeUnknown, Refused, Verb
from orchestrate.drivers.libvirt_errors import translated, words_of
from orchestrate.drivers.libvirt_links import is_alive
from orchestrate.drivers.libvirt_look import Found, Look
from orchestrate.drivers.libvirt_settings import HostSettings, LibvirtSettings
from orchestrate.drivers.libvirt_threads import Deadline
from orchestrate.inventory import Vm

# An event may be lost; so often the state is read anyway.
_LOOK_AGAIN_S = 5.0
_FLAGS = {
    "auto-converge": "VIR_MIGRATE_AUTO_CONVERGE",
    "compressed": "VIR_MIGRATE_COMPRESSED",
    "tls": "VIR_MIGRATE_TLS",
    "tunnelled": "VIR_MIGRATE_TUNNELLED",
    "unsafe": "VIR_MIGRATE_UNSAFE",
}
# What each host says of a VM: it is there, it is not, or the host cannot be asked.
LookEverywhere = Callable[[str], Mapping[str, Found | DriverError | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """An order to a VM that is where and what it has to be.

    Args: vm: as it was found. target: of a migration.
    """

    order: Order
    vm: Vm
    target: HostSettings | None
    look: Look
    look_everywhere: LookEverywhere
    settings: LibvirtSettings

    def run(self, connection: Any) -> None:
        """Carries it out. Raises: DriverError: OutcomeUnknown wherever the hosts do not agree on what happened."""
        library = self.look.library
        domain = self.look.domain(connection, self.order.uuid)
        try:
            self._act(connection, domain)
        except library.libvirtError as error:
            if not self._is_done_despite(error, is_alive=is_alive(connection, library)):
                raise self._error(error) from error

    def _act(self, connection: Any, domain: Any) -> None:
        verb = self.order.verb
        if verb is Verb.SUSPEND:
            domain.managedSave(0)
        elif verb in {Verb.RESUME, Verb.START}:
            # One call for both: libvirt goes on from the saved memory where there is some.
            domain.create()
        elif verb is Verb.STOP:
            self._stop(connection, domain)
        else:
            self._migrate(domain)

    def _stop(self, connection: Any, domain: Any) -> None:
        library, over = self.look.library, threading.Event()

        def happened(*_: object) -> None:
            over.set()

        handle = connection.domainEventRegisterAny(domain, library.VIR_DOMAIN_EVENT_ID_LIFECYCLE, happened, None)
        try:
            domain.shutdown()
            deadline = Deadline(self.settings.stop_within_s)
            while domain.isActive():
                if not deadline.left_s():
                    raise Refused(
                        f"{self.vm.host_id}: {self.vm.name} was asked to go down and still runs after"
                        f" {deadline.timeout_s:g} s",
                        host_id=self.vm.host_id,
                        uuid=self.order.uuid,
                    )
                over.wait(min(deadline.left_s(), _LOOK_AGAIN_S))
                over.clear()
        finally:
            with suppress(library.libvirtError):
                connection.domainEventDeregisterAny(handle)

    def _migrate(self, domain: Any) -> None:
        library = self.look.library
        assert self.target is not None
        assert self.target.migrate_uri is not None
        # The definition goes along: else the VM would be gone from both hosts once it is stopped.
        flags = library.VIR_MIGRATE_PEER2PEER | library.VIR_MIGRATE_PERSIST_DEST | library.VIR_MIGRATE_UNDEFINE_SOURCE
        if self.order.verb is Verb.MIGRATE_COLD:
            flags |= library.VIR_MIGRATE_OFFLINE
        else:
            flags |= library.VIR_MIGRATE_LIVE | library.VIR_MIGRATE_ABORT_ON_ERROR
            for name in self.settings.migrate_flags:
                flags |= getattr(library, _FLAGS[name])
        limit = self.settings.migrate_mib_per_s
        parameters = {} if limit is None else {library.VIR_MIGRATE_PARAM_BANDWIDTH: limit}
        domain.migrateToURI3(self.target.migrate_uri.text, parameters, flags)

    def _is_done_despite(self, error: Any, *, is_alive: bool) -> bool:
        """Whether a call that failed did its work all the same. False is certain: the VM is as it was before.

        Raises: OutcomeUnknown: the hosts do not tell.
        """
        seen = self.look_everywhere(self.order.uuid)
        source = self.vm.host_id
        here = seen.get(source)
        there = here if self.target is None else seen.get(self.target.host_id)
        arrived = isinstance(there, Found) and there.vm.state is AFTER[self.order.verb]
        if arrived and (self.target is None or here is None):
            return True
        stayed = isinstance(here, Found) and here.vm.state is BEFORE[self.order.verb]
        # Without a connection the call may still be on its way.
        if not is_alive or not stayed or (self.target is not None and _may_be_there(there)):
            raise self._unknown(error)
        return False

    def _error(self, error: Any) -> DriverError:
        """Of an order that has ended and changed nothing, which both its hosts say."""
        found = translated(error, host_id=self.vm.host_id, uuid=self.order.uuid)
        # What broke or was busy is between the hosts: "cannot be asked" would leave open whether the order goes on.
        return Refused(str(found), host_id=found.host_id, uuid=found.uuid) if found.retryable else found

    def _unknown(self, error: Any) -> OutcomeUnknown:
        host_id = self.vm.host_id
        return OutcomeUnknown(
            f"{host_id}: {self.order.verb} of {self.vm.name} may have been done or not: {words_of(error)}",
            host_id=host_id,
            uuid=self.order.uuid,
        )


def _may_be_there(seen: Found | DriverError | None) -> bool:
    """A migration may have come to its end at a host, as far as that tells.

    What was prepared for a VM that then did not come is neither kept nor ever runs: libvirt takes it away.
    """
    return isinstance(seen, DriverError) or (seen is not None and (seen.executes or seen.is_kept))
