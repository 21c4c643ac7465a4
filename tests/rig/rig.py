"""The rig put together: one LAN, two hosts, one aggregator, and the guests that tests ask for."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.programs import tail
from tests.e2e.house import Aggregator, House
from tests.rig.guests import LOAD_PORT, Guest, GuestSpec, domain_xml, plan_guest, write_seed
from tests.rig.hypervisor import Host, Hypervisor
from tests.rig.image import Image, build
from tests.rig.lan import Lan
from tests.rig.shell import RigError, run, wait_for

# Guests know no authority: a network of the test's own stands for the one behind a proxy.
PLAIN = ("--plain-behind-proxy",)

HOST_NAMES = ("hva", "hvb")
SAMPLES_WITHIN_S = 120.0
_CONSOLE_LINES = 15
_DAY_S = 86_400


class Rig:
    """Everything that runs. Made by `open_rig`, which also ends it.

    Attributes:
        house: the programs of this checkout; more of them can be started with it.
        aggregator: listens on the LAN over plain HTTP; flushes when told to.
    """

    def __init__(
        self, folder: Path, *, lan: Lan, hypervisors: Sequence[Hypervisor], image: Image, house: House
    ) -> None:
        self._folder = folder
        self._lan = lan
        self._hypervisors = {hypervisor.host.name: hypervisor for hypervisor in hypervisors}
        self._image = image
        self.house = house
        self.aggregator = house.aggregator(*PLAIN, listen=f"{lan.address}:0")
        self.guests: list[Guest] = []

    @property
    def image(self) -> Image:
        """What guests boot from, for a test with a domain of its own making."""
        return self._image

    @property
    def hosts(self) -> tuple[Host, ...]:
        """Both hosts, in the order of HOST_NAMES."""
        return tuple(hypervisor.host for hypervisor in self._hypervisors.values())

    @property
    def address(self) -> str:
        """Where the tests' own process is on the LAN: a door that listens here is open to the guests."""
        return self._lan.address

    def virsh(self, host: Host, *argv: str, within_s: float = 60.0) -> str:
        """What virsh prints on a host. Raises: RigError."""
        return self._hypervisors[host.name].virsh(*argv, within_s=within_s)

    def define(self, host: Host, spec: GuestSpec, *, aggregator: Aggregator | None = None) -> Guest:
        """A guest that is off, with a disk of its own; its agent pushes to `aggregator`, else to the rig's.

        Raises: RigError: libvirt refuses it; its name is taken.
        """
        if any(guest.name == spec.name for guest in self.guests):
            raise RigError(f"there is a guest {spec.name} already")
        chosen = aggregator or self.aggregator
        guest = plan_guest(spec, self._folder / "guests", address=self._lan.guest_address())
        guest.disk.parent.mkdir(exist_ok=True)
        backing = ("-b", str(self._image.disk), "-F", "raw")
        run("qemu-img", "create", "-q", "-f", "qcow2", *backing, str(guest.disk))
        join_token = self.house.join_token(chosen.data).read_text().strip()
        write_seed(guest, aggregator_url=chosen.url, join_token=join_token)
        xml = guest.disk.with_suffix(".xml")
        xml.write_text(domain_xml(guest, self._image))
        self.guests.append(guest)
        self.virsh(host, "define", str(xml))
        return guest

    def start(self, host: Host, spec: GuestSpec, *, aggregator: Aggregator | None = None) -> Guest:
        """Defines a guest and starts it; its first sample comes some intervals later. Raises: RigError."""
        guest = self.define(host, spec, aggregator=aggregator)
        self.virsh(host, "start", guest.name)
        return guest

    def remove(self, guest: Guest) -> None:
        """Ends a guest wherever it is, and deletes it and its disk. Raises: RigError."""
        for host in self.hosts:
            if guest.uuid in self._uuids(host, "--all"):
                if guest.uuid in self._uuids(host):
                    self.virsh(host, "destroy", guest.uuid)
                # A guest that came by a migration may be unknown once it is off.
                if guest.uuid in self._uuids(host, "--all"):
                    self.virsh(host, "undefine", "--managed-save", guest.uuid)
        for path in (guest.disk, guest.seed, guest.console, guest.disk.with_suffix(".xml")):
            path.unlink(missing_ok=True)
        self.guests.remove(guest)

    def host_of(self, guest: Guest) -> Host | None:
        """Where a guest runs or is paused; None: nowhere. Raises: RigError: on both hosts."""
        found = [host for host in self.hosts if guest.uuid in self._uuids(host)]
        if len(found) > 1:
            raise RigError(f"{guest.name} runs on {' and '.join(host.name for host in found)}")
        return found[0] if found else None

    def state(self, host: Host, guest: Guest) -> str:
        """As virsh words it: `running`, `paused`, `shut off`. Raises: RigError: the host does not have it."""
        return self.virsh(host, "domstate", guest.uuid).strip()

    def migrate(self, guest: Guest, source: Host, target: Host) -> None:
        """Moves a running guest, from host to host. Raises: RigError: it is still at its source."""
        # Both hosts see the same disk, but on a file system of which libvirt does not know that.
        how = ("--live", "--p2p", "--persistent", "--undefinesource", "--unsafe")
        self.virsh(source, "migrate", *how, guest.uuid, target.lan_uri, within_s=180.0)

    def limit_migration(self, host: Host, guest: Guest, *, mib_per_s: int) -> None:
        """Makes its migrations from now on as slow as that; libvirt keeps it with the guest. 5 makes one last 20 s."""
        self.virsh(host, "migrate-setspeed", guest.uuid, str(mib_per_s))

    def cut(self, host: Host) -> None:
        """Pulls the cable of a host and its guests. Its unix socket still answers."""
        self._lan.set_link(host.name, up=False)

    def mend(self, host: Host) -> None:
        """Puts the cable back in."""
        self._lan.set_link(host.name, up=True)

    def load(self, guest: Guest, busy_ratio: float) -> None:
        """Keeps the processor of a guest with `takes_load` so busy from now on, 0 to 1."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(str(busy_ratio).encode(), (guest.address, LOAD_PORT))

    def samples(self, guest: Guest, *, aggregator: Aggregator | None = None) -> list[dict[str, Any]]:
        """What the aggregator has of a guest since yesterday, oldest first; nothing before it enrolled."""
        now_s = int(time.time())
        # A guest's clock may be a little ahead.
        span = f"from={now_s - _DAY_S}&to={now_s + _DAY_S}"
        try:
            answer = (aggregator or self.aggregator).ask(f"/v1/vms/{guest.uuid}/samples?{span}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return []
        samples: list[dict[str, Any]] = json.loads(answer)["samples"]
        return samples

    def record(self, guest: Guest, *, aggregator: Aggregator | None = None) -> Mapping[str, Any]:
        """What the aggregator knows of a guest that has enrolled."""
        record: Mapping[str, Any] = json.loads((aggregator or self.aggregator).ask(f"/v1/vms/{guest.uuid}"))
        return record

    def wait_for_samples(
        self,
        guest: Guest,
        count: int = 1,
        *,
        after_ts: int = 0,
        aggregator: Aggregator | None = None,
        within_s: float = SAMPLES_WITHIN_S,
    ) -> list[dict[str, Any]]:
        """The samples later than `after_ts`, once there are `count`. Raises: RigError: they did not come."""

        def found() -> list[dict[str, Any]] | None:
            later = [sample for sample in self.samples(guest, aggregator=aggregator) if sample["ts"] > after_ts]
            return later if len(later) >= count else None

        what = f"{guest.name}: {count} samples after {after_ts}"
        return wait_for(found, what, within_s=within_s, explain=lambda: tail(guest.console, _CONSOLE_LINES))

    def _uuids(self, host: Host, *options: str) -> set[str]:
        return set(self.virsh(host, "list", "--uuid", *options).split())


@contextmanager
def open_rig() -> Iterator[Rig]:
    """Sets the rig up; at the end, or when that fails, removes all of it. In the main thread, as root.

    Raises: RigError: a part does not work.
    """
    with ExitStack() as stack:
        # Not pytest's own folder: that is kept, and its path is too long for a unix socket.
        folder = Path(tempfile.mkdtemp(prefix="fallow-rig-"))
        stack.callback(shutil.rmtree, folder)
        lan = Lan()
        stack.callback(lan.close)
        hypervisors = [Hypervisor(folder / name, lan, name, index) for index, name in enumerate(HOST_NAMES)]
        for hypervisor in hypervisors:
            stack.callback(hypervisor.stop)
        # While the first asks QEMU what it can do, the image is made.
        first, *others = hypervisors
        first.start()
        image = build(folder / "image")
        first.wait_until_ready()
        for hypervisor in others:
            hypervisor.start(like=first)
        house = House(folder / "house")
        stack.callback(house.close)
        rig = Rig(folder, lan=lan, hypervisors=hypervisors, image=image, house=house)
        for hypervisor in others:
            hypervisor.wait_until_ready()
        yield rig
