"""A guest as libvirt is told about it, and as it is told about itself."""

from __future__ import annotations

import io
import json
import tarfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from tests.rig.image import Image
from tests.rig.lan import HOST_BRIDGE

METADATA_NAMESPACE = "urn:fallow:vm"
LOAD_PORT = 7000


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSpec:
    """What a test asks for.

    Attributes:
        name: of the domain; letters, digits, `-`; also its host name.
        owner, mail, tags: go into the domain's metadata.
        memory_mib: 96 is comfortable for the agent alone.
        interval_s: length of the agent's samples. At 5 s a loaded machine may cost one now and then.
        takes_load: it runs the program that `Rig.load` talks to.
    """

    name: str
    owner: str | None = None
    mail: str | None = None
    tags: tuple[str, ...] = ()
    memory_mib: int = 96
    interval_s: int = 5
    takes_load: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A guest that was defined.

    Attributes:
        uuid: of the domain, of its SMBIOS, and of the VM that its agent enrols.
        mac, address: of its network card, on the LAN.
        disk: its own; what it does not hold comes from the image.
        seed: the archive that it unpacks at boot.
        console: what it printed; each boot adds to it.
    """

    spec: GuestSpec
    uuid: str
    mac: str
    address: str
    disk: Path
    seed: Path
    console: Path

    @property
    def name(self) -> str:
        return self.spec.name

    def boots(self) -> list[str]:
        """Id of each boot so far, as its kernel gave it."""
        return self._said("guest: boot ")

    def uptime_s(self) -> float | None:
        """How long the guest had been up when it last said so, at most 2 s ago while it runs; None: not up yet."""
        said = self._said("guest: uptime ")
        return float(said[-1]) if said else None

    def _said(self, prefix: str) -> list[str]:
        if not self.console.exists():
            return []
        # The last line may still be on its way.
        whole = self.console.read_text(errors="replace").replace("\r", "").rpartition("\n")[0]
        return [line.removeprefix(prefix) for line in whole.splitlines() if line.startswith(prefix)]


def plan_guest(spec: GuestSpec, folder: Path, *, address: str) -> Guest:
    """The guest that a spec becomes. Makes nothing."""
    identity = uuid.uuid4()
    return Guest(
        spec=spec,
        uuid=str(identity),
        # 52:54:00 is QEMU's; the rest of the address tells guests of one LAN apart.
        mac="52:54:00:" + ":".join(f"{int(part):02x}" for part in address.split(".")[1:]),
        address=address,
        disk=folder / f"{spec.name}.qcow2",
        seed=folder / f"{spec.name}.tar",
        console=folder / f"{spec.name}.console",
    )


def write_seed(guest: Guest, *, aggregator_url: str, join_token: str) -> None:
    """Writes the archive that tells a guest its name, its address and its agent's settings."""
    settings = {
        "aggregator": aggregator_url,
        "insecure_plain": True,
        "interval": f"{guest.spec.interval_s}s",
        "join_token_file": "/etc/fallow/join.token",
        "timeout": "5s",
    }
    files = {
        "etc/hostname": f"{guest.name}\n",
        "etc/address": f"{guest.address}/24\n",
        "etc/fallow/agent.toml": "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()),
        "etc/fallow/join.token": f"{join_token}\n",
        **({"etc/load": ""} if guest.spec.takes_load else {}),
    }
    guest.seed.touch(mode=0o600)
    with tarfile.open(guest.seed, "w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size, entry.mtime = 0o600, len(text.encode()), int(time.time())
            archive.addfile(entry, io.BytesIO(text.encode()))


def domain_xml(guest: Guest, image: Image) -> str:
    """The domain for libvirt."""
    spec = guest.spec
    labels = [("owner", spec.owner), ("mail", spec.mail), *(("tag", tag) for tag in spec.tags)]
    metadata = "".join(f"<fallow:{name}>{escape(text)}</fallow:{name}>" for name, text in labels if text is not None)
    return f"""\
<domain type='qemu'>
  <name>{escape(spec.name)}</name>
  <uuid>{guest.uuid}</uuid>
  <metadata><fallow:vm xmlns:fallow='{METADATA_NAMESPACE}'>{metadata}</fallow:vm></metadata>
  <memory unit='MiB'>{spec.memory_mib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{escape(str(image.kernel))}</kernel>
    <initrd>{escape(str(image.initramfs))}</initrd>
    <cmdline>console=ttyS0 quiet</cmdline>
  </os>
  <features><acpi/><tcg><tb-cache unit='MiB'>64</tb-cache></tcg></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file={quoteattr(str(guest.disk))}/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file={quoteattr(str(guest.seed))}/>
      <target dev='vdb' bus='virtio'/>
      <readonly/>
    </disk>
    <interface type='bridge'>
      <mac address='{guest.mac}'/>
      <source bridge='{HOST_BRIDGE}'/>
      <model type='virtio'/>
    </interface>
    <serial type='file'><source path={quoteattr(str(guest.console))} append='on'/></serial>
    <memballoon model='virtio'><stats period='2'/></memballoon>
  </devices>
</domain>
"""
