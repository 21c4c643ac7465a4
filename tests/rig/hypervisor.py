"""One host of the rig: a libvirt daemon that believes to be alone on a machine of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.rig.confine import FILES, FOLDERS
from tests.rig.lan import Lan
from tests.rig.shell import ROOT, RigError, run, wait_for

_READY_WITHIN_S = 60.0
_ENDS_WITHIN_S = 15.0
_TAIL_LINES = 20
# Another package than the ones the rig needs would add this user, and the daemon looks it up.
_USER = "libvirt-qemu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a driver is told about a host.

    Attributes:
        name: its host name; also that of its cable in the LAN.
        address: on the LAN.
        uuid: as its daemon says.
        uri: of its unix socket, which works while the cable is cut.
        lan_uri: over the LAN, as the other host reaches it.
    """

    name: str
    address: str
    uuid: str
    uri: str
    lan_uri: str


class Hypervisor:
    """A running daemon. `start` must be called in the main thread.

    Args:
        folder: its own, and short: the path of a unix socket has at most 107 characters.
        index: of the host on the LAN, from 0.
    """

    def __init__(self, folder: Path, lan: Lan, name: str, index: int) -> None:
        address = lan.host_address(index)
        socket = folder / "run" / "libvirt-sock"
        self.host = Host(
            name=name,
            address=address,
            uuid=str(uuid.uuid4()),
            uri=f"qemu:///system?socket={socket}",
            lan_uri=f"qemu+tcp://{address}/system",
        )
        self._folder = folder
        self._output = folder / "output"
        self._write_files()
        self._namespace = lan.add_host(name, address)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that everything of this host descends from; None: not started."""
        return self._process.pid if self._process is not None else None

    def start(self, *, like: Hypervisor | None = None) -> None:
        """Starts the daemon, and does not wait for it.

        Args: like: one that is ready; what it found out about QEMU need not be found out again.
        """
        if like is not None:
            shutil.copytree(like._folder / "cache", self._folder / "cache", dirs_exist_ok=True)
        with open(self._output, "wb") as output:
            # Its parent is this thread as far as its end is concerned: in another one it would end too soon.
            self._process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self._namespace, "unshare", "--uts"),
                    *(sys.executable, "-m", "tests.rig.confine", str(self._folder), self.host.name),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Raises: RigError: the daemon ended, or does not answer."""

        def answers() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RigError(f"libvirtd of {self.host.name} ended{self.log()}")
            if not (self._folder / "run" / "libvirt-sock").exists():
                return False
            # Its first answer comes once it knows what QEMU can do.
            self.virsh("domcapabilities", "--virttype", "qemu", within_s=_READY_WITHIN_S)
            return True

        wait_for(answers, f"libvirtd of {self.host.name}", within_s=_READY_WITHIN_S, explain=self.log)

    def virsh(self, *argv: str, within_s: float = 60.0) -> str:
        """What virsh prints. Raises: RigError."""
        return run("virsh", "--quiet", "--connect", self.host.uri, *argv, within_s=within_s)

    def log(self) -> str:
        """The end of what the daemon said, for an error."""
        said = [self._output, self._folder / "log" / "libvirtd.log"]
        lines = [line for path in said if path.exists() for line in path.read_text(errors="replace").splitlines()]
        return "".join(f"\n  {line}" for line in lines[-_TAIL_LINES:])

    def stop(self) -> None:
        """Ends the daemon and its guests, and waits until none of them is left.

        Raises: RigError: one outlives its parent.
        """
        if self._process is None:
            return
        below = _processes_below(self._process.pid)
        # Where its cable, its guests or its disk are does not matter: what ends it is its parent, by signals.
        self._process.terminate()
        try:
            self._process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # They end by their parent's end, which comes first.
        _, left = psutil.wait_procs(below, timeout=_ENDS_WITHIN_S)
        if left:
            raise RigError(f"processes of {self.host.name} go on: {left}")

    def _write_files(self) -> None:
        for name in (*FOLDERS, "files", "lib/images"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        host = self.host
        (self._folder / "etc/libvirtd.conf").write_text(
            _settings(
                listen_tls=0,
                listen_tcp=1,
                listen_addr=host.address,
                keepalive_interval=2,
                keepalive_count=3,
                auth_tcp="none",
                auth_unix_rw="none",
                host_uuid=host.uuid,
                log_outputs="2:file:/var/log/libvirt/libvirtd.log",
            )
        )
        (self._folder / "etc/qemu.conf").write_text(
            _settings(
                user="root",
                group="root",
                dynamic_ownership=0,
                remember_owner=0,
                security_driver="none",
                stdio_handler="file",
                migration_host=host.address,
                # A migration notices a cut cable after some seconds, not after half a minute; its target does first.
                keepalive_interval=3,
                keepalive_count=3,
            )
            # Their mounts and device nodes would need what a container may lack.
            + "namespaces = []\n"
        )
        extra = {
            "hosts": f"127.0.0.1 localhost\n{host.address} {host.name}\n",
            "resolv.conf": "",
            "passwd": _etc("passwd") + f"{_USER}:x:64055:64055::/nonexistent:/usr/sbin/nologin\n",
            "group": _etc("group") + f"{_USER}:x:64055:\n",
        }
        (self._folder / "files/nothing").touch(mode=0o600)
        # Without the CPU's lines; times of processes are counted from here.
        (self._folder / "files/stat").write_text(f"btime {int(psutil.boot_time())}\n")
        for name in FILES:
            (self._folder / "files" / name).write_text(extra[name])


def _processes_below(pid: int) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def _settings(**values: str | int) -> str:
    quoted = {key: value if isinstance(value, int) else f'"{value}"' for key, value in values.items()}
    return "".join(f"{key} = {value}\n" for key, value in quoted.items())


def _etc(name: str) -> str:
    """The machine's own file without the lines that are about to be added."""
    lines = Path("/etc", name).read_text(errors="replace").splitlines()
    return "".join(f"{line}\n" for line in lines if not line.startswith(f"{_USER}:"))
