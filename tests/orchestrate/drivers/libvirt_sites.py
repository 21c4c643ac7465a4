"""libvirt for the tests: sites of its test driver, and the way past the driver that both kinds of site share."""

from __future__ import annotations

import time
import uuid as uuids
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from xml.sax.saxutils import escape

from orchestrate.driver import Driver, Order
from orchestrate.drivers.libvirt_links import load_libvirt
from orchestrate.drivers.registry import DriverConfig, open_driver
from orchestrate.inventory import VmState

TEST_URI = "test:///default"


def driver_of(hosts: Sequence[object], *, name: str = "lab", **settings: Any) -> Driver:
    """As a configuration would open it."""
    return open_driver(
        DriverConfig(name=name, kind="libvirt", settings={"hosts": list(hosts), **settings}, source="test"),
        clock=time.time,
    )


def domain_xml(
    uuid: str,
    name: str,
    *,
    kind: str = "test",
    metadata: str = "",
    devices: str = "",
    memory: str = "<memory unit='MiB'>128</memory>",
    vcpu: str = "<vcpu>2</vcpu>",
) -> str:
    """A small domain; what is not given is as good as empty."""
    return (
        f"<domain type='{kind}'><name>{escape(name)}</name><uuid>{uuid}</uuid>"
        f"<metadata>{metadata}</metadata>{memory}{vcpu}"
        f"<os><type>hvm</type></os><devices>{devices}</devices></domain>"
    )


def metadata_xml(owner: str | None, mail: str | None, tags: Sequence[str]) -> str:
    """Our namespace's part of a domain's metadata."""
    labels = [("owner", owner), ("mail", mail), *(("tag", tag) for tag in tags)]
    inner = "".join(f"<f:{name}>{escape(text)}</f:{name}>" for name, text in labels if text is not None)
    return f"<f:vm xmlns:f='urn:fallow:vm'>{inner}</f:vm>"


def state_past_the_driver(domain: Any) -> VmState:
    """As libvirt says, without any code of ours between."""
    number = domain.state()[0]
    if number == 5:
        return VmState.SUSPENDED if domain.hasManagedSaveImage() else VmState.OFF
    return {1: VmState.RUNNING, 3: VmState.PAUSED}[number]


def bring_into(domain: Any, state: VmState) -> None:
    """Any of running, paused, suspended, off, from any of them."""
    if domain.isActive():
        domain.destroy()
    if domain.hasManagedSaveImage():
        domain.managedSaveRemove()
    if state is not VmState.OFF:
        domain.create()
    if state is VmState.SUSPENDED:
        domain.managedSave()
    if state is VmState.PAUSED:
        domain.suspend()


class LibvirtTestSite:
    """A `contract.Site` on libvirt's test driver. All connections of one process to it see the same VMs."""

    timeout_s = 30.0
    glance_s = 0.05
    states = frozenset({VmState.RUNNING, VmState.SUSPENDED, VmState.PAUSED, VmState.OFF})

    def __init__(self) -> None:
        self._library = load_libvirt()
        self._connection = self._library.open(TEST_URI)
        self._made: list[str] = []
        self._drivers: list[Driver] = []
        self.driver = self.reopen()

    def make_vm(
        self,
        state: VmState,
        *,
        name: str | None = None,
        owner: str | None = None,
        mail: str | None = None,
        tags: tuple[str, ...] = (),
    ) -> str:
        uuid = str(uuids.uuid4())
        metadata = metadata_xml(owner, mail, tags) if (owner, mail, tags) != (None, None, ()) else ""
        domain = self._connection.defineXML(domain_xml(uuid, name or f"vm-{uuid}", metadata=metadata))
        self._made.append(uuid)
        bring_into(domain, state)
        return uuid

    def set_state(self, uuid: str, state: VmState) -> None:
        bring_into(self.domain(uuid), state)

    def state_of(self, uuid: str) -> VmState:
        return state_past_the_driver(self.domain(uuid))

    def remove_vm(self, uuid: str) -> None:
        domain = self.domain(uuid)
        bring_into(domain, VmState.OFF)
        domain.undefine()

    def marker(self, uuid: str) -> str | None:
        return None

    def slow_order(self, uuid: str) -> Order | None:
        return None

    def let_pass(self, span_s: float) -> None:
        time.sleep(span_s)

    def cut(self, host_id: str) -> bool:
        return False

    def mend(self, host_id: str) -> None:
        raise AssertionError("nothing was cut")

    def reopen(self) -> Driver:
        self._drivers.append(driver_of([TEST_URI]))
        return self._drivers[-1]

    def domain(self, uuid: str) -> Any:
        """libvirt's own."""
        return self._connection.lookupByUUIDString(uuid)

    def close(self) -> None:
        """Leaves the test driver as it was."""
        for driver in self._drivers:
            driver.close()
        for uuid in self._made:
            with suppress(self._library.libvirtError):
                self.remove_vm(uuid)
        self._connection.close()


class FakeLibvirtError(Exception):
    """Like libvirtError."""

    def __init__(self, words: str, *, code: int = 1, domain: int = 10) -> None:
        super().__init__(words)
        self._code, self._domain = code, domain

    def get_error_code(self) -> int:
        return self._code

    def get_error_domain(self) -> int:
        return self._domain

    def get_error_message(self) -> str:
        return str(self)


class FakeLibrary:
    """The module libvirt as far as `Link` needs it. Args: connections: by URI, handed out again and again."""

    libvirtError = FakeLibvirtError

    def __init__(self, connections: Mapping[str, Any]) -> None:
        self.connections = dict(connections)
        self.opened: list[str] = []

    def open(self, uri: str) -> Any:
        self.opened.append(uri)
        connection = self.connections[uri]
        if isinstance(connection, Exception):
            raise connection
        return connection
