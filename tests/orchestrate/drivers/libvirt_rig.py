"""The contract's site on the rig of real hypervisors: small guests under real QEMU on two libvirt daemons."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid as uuids
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrate.driver import Driver, Order, Verb
from orchestrate.drivers.libvirt_links import load_libvirt
from orchestrate.inventory import VmState
from tests.orchestrate.drivers.libvirt_memory import SavedMemory
from tests.orchestrate.drivers.libvirt_sites import bring_into, driver_of, metadata_xml, state_past_the_driver
from tests.rig.rig import Rig
from tests.rig.shell import run, wait_for

# Boots in a third of the time that the rig's own guests take, and has what an executor meets: memory that tells of
# its boot, a disk, a network card, a power button.
_INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin /sys
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module.ko"; done </modules/order
ip link set eth0 up
grep -q deaf /proc/cmdline || acpid -d -c /etc/acpi >/dev/null 2>&1 &
read -r boot </proc/sys/kernel/random/boot_id
while read -r up rest </proc/uptime; do
    echo "tick $boot $up"
    sleep 0.5
done
"""
_POWER_BUTTON = "#!/bin/busybox sh\npoweroff -f\n"
MEMORY_MIB = 96
DISK_BYTES = 1 << 20
_SLOW_MIB_PER_S = 12
_UP_WITHIN_S = 90.0


class Relay:
    """A unix socket that leads to another, until it is cut: then all that went through it breaks."""

    def __init__(self, path: Path, target: str) -> None:
        self.path = path
        self._target = target
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.mend()

    def mend(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        listener.listen()
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            # Wakes `accept`, which closing alone does not.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            self.path.unlink()
        while self._open:
            with suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            far.connect(self._target)
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class QemuSite:
    """A `contract.Site` on the rig. Args: folder: its own, with a short path."""

    timeout_s = 90.0
    glance_s = 0.5
    states = frozenset({VmState.RUNNING, VmState.SUSPENDED, VmState.PAUSED, VmState.OFF})

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig = rig
        self._folder = folder
        self._initramfs = _initramfs(rig, folder)
        self._library = load_libvirt()
        self._connections = {host.name: self._library.open(host.uri) for host in rig.hosts}
        self.relays = {
            host.name: Relay(folder / f"{host.name}.sock", host.uri.partition("socket=")[2]) for host in rig.hosts
        }
        self._drivers: list[Driver] = []
        self._made: list[str] = []
        self.driver = self.reopen()

    def make_vm(
        self,
        state: VmState,
        *,
        name: str | None = None,
        owner: str | None = None,
        mail: str | None = None,
        tags: tuple[str, ...] = (),
        options: str = "",
    ) -> str:
        """`options`: for its kernel's command line; `deaf`: it does not listen to its power button."""
        uuid = str(uuids.uuid4())
        disk = self._folder / f"{uuid}.raw"
        disk.touch()
        os.truncate(disk, DISK_BYTES)
        xml = self._xml(uuid, name or f"vm-{uuid}", metadata_xml(owner, mail, tags), options)
        domain = self._connections[self.rig.hosts[0].name].defineXML(xml)
        self._made.append(uuid)
        if options:
            domain.create()
            # It has read its options by then.
            self.marker(uuid)
        else:
            self.set_state(uuid, state)
        return uuid

    def set_state(self, uuid: str, state: VmState) -> None:
        """A guest that is to run is one that has booted already: a copy of the first one's memory."""
        domain = self.domain(uuid)
        bring_into(domain, VmState.OFF)
        if state is not VmState.OFF:
            self._booted().start(domain, self._folder / "copy")
        if state is VmState.SUSPENDED:
            domain.managedSave()
        if state is VmState.PAUSED:
            domain.suspend()

    def state_of(self, uuid: str) -> VmState:
        return state_past_the_driver(self.domain(uuid))

    def remove_vm(self, uuid: str) -> None:
        domain = self.domain(uuid)
        bring_into(domain, VmState.OFF)
        domain.undefine()

    def marker(self, uuid: str) -> str | None:
        return self.tick(uuid)[0]

    def tick(self, uuid: str) -> tuple[str, float]:
        """The boot id and the uptime that the guest tells next."""
        console = self.console(uuid)
        seen = console.stat().st_size if console.exists() else 0

        def told() -> list[str] | None:
            # The first of the new lines may be the end of one that was there.
            lines = console.read_bytes()[seen:].decode(errors="replace").split("\n")[1:-1] if console.exists() else []
            ticks = [line.split() for line in lines if line.startswith("tick ")]
            return ticks[-1] if ticks else None

        _, boot, up = wait_for(told, f"a sign of life of {uuid}", within_s=_UP_WITHIN_S)
        return boot, float(up)

    def console(self, uuid: str) -> Path:
        """What the guest prints."""
        return self._folder / f"{uuid}.console"

    def slow_order(self, uuid: str) -> Order | None:
        self.domain(uuid).migrateSetMaxSpeed(_SLOW_MIB_PER_S)
        return Order(verb=Verb.MIGRATE_LIVE, uuid=uuid, target_host_id=self.rig.hosts[1].name)

    def let_pass(self, span_s: float) -> None:
        time.sleep(span_s)

    def cut(self, host_id: str) -> bool:
        self.relays[host_id].cut()
        return True

    def mend(self, host_id: str) -> None:
        self.relays[host_id].mend()

    def reopen(self, **settings: Any) -> Driver:
        hosts = [
            {
                "uri": f"qemu:///system?socket={self.relays[host.name].path}",
                "name": host.name,
                "migrate_uri": host.lan_uri,
            }
            for host in self.rig.hosts
        ]
        # Both hosts see the same files, which libvirt cannot know.
        self._drivers.append(driver_of(hosts, allow_plain=True, migrate_flags=["unsafe"], **settings))
        return self._drivers[-1]

    def shout(self, packets: int) -> None:
        """Sends as many packets of 600 bytes to everybody on the LAN."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for _ in range(packets):
                sender.sendto(bytes(600), (self.rig.address.rpartition(".")[0] + ".255", 9))

    def domain(self, uuid: str) -> Any:
        """libvirt's own, of the host where the VM runs, else of any that knows it."""
        known = list(self._domains(uuid))
        assert known, f"no host knows {uuid}"
        return next((domain for domain in known if domain.isActive()), known[0])

    def close(self) -> None:
        """Ends and removes all guests."""
        for driver in self._drivers:
            driver.close()
        for uuid in self._made:
            for domain in self._domains(uuid):
                with suppress(self._library.libvirtError):
                    bring_into(domain, VmState.OFF)
                with suppress(self._library.libvirtError):
                    domain.undefine()
        for relay in self.relays.values():
            relay.cut()
        for connection in self._connections.values():
            connection.close()

    def _booted(self) -> SavedMemory:
        """The memory of a guest whose power button is listened to."""
        memory = SavedMemory(path=self._folder / "memory")
        if not memory.path.exists():
            uuid = self.make_vm(VmState.OFF)
            domain = self.domain(uuid)
            domain.create()
            self.marker(uuid)
            domain.save(str(memory.path))
            domain.undefine()
        return memory

    def _domains(self, uuid: str) -> Iterator[Any]:
        for connection in self._connections.values():
            with suppress(self._library.libvirtError):
                yield connection.lookupByUUIDString(uuid)

    def _xml(self, uuid: str, name: str, metadata: str, options: str) -> str:
        return f"""\
<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><metadata>{metadata}</metadata>
<memory unit='MiB'>{MEMORY_MIB}</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>{self.rig.image.kernel}</kernel>
<initrd>{self._initramfs}</initrd><cmdline>console=ttyS0 quiet {options}</cmdline></os>
<features><acpi/><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features><devices>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{self._folder / uuid}.raw'/>
<target dev='vda' bus='virtio'/></disk>
<interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>
<serial type='file'><source path='{self.console(uuid)}' append='on'/></serial>
<memballoon model='virtio'><stats period='1'/></memballoon></devices></domain>
"""


def _initramfs(rig: Rig, folder: Path) -> Path:
    """The rig's own with another init: what comes later in an initramfs replaces what came before."""
    tree, target = folder / "tree", folder / "initramfs"
    button = tree / "etc/acpi/PWRF/00000080"
    if not target.exists():
        button.parent.mkdir(parents=True)
        for path, text in ((tree / "init", _INIT), (button, _POWER_BUTTON)):
            path.write_text(text)
            path.chmod(0o755)
        names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
        run("busybox", "cpio", "-o", "-H", "newc", "-F", str(folder / "more"), cwd=tree, stdin=names)
        target.write_bytes(rig.image.initramfs.read_bytes() + (folder / "more").read_bytes())
    return target
