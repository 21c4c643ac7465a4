"""Starts a libvirt daemon as a host of its own and stays its parent: `python -m tests.rig.confine FOLDER NAME`.

Runs in the host's network namespace and in a UTS and mount namespace of its own. What the daemon starts (QEMU leaves
its parent) becomes a child of this program, which ends all of it when it is told to end, or when its own parent ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]

# Folder of the host → where the daemon looks for it.
FOLDERS = {
    "etc": Path("/etc/libvirt"),
    "lib": Path("/var/lib/libvirt"),
    "run": Path("/run/libvirt"),
    "log": Path("/var/log/libvirt"),
    "cache": Path("/var/cache/libvirt"),
}
# Replaced for the daemon: no name is asked of a server, and the user that it insists on is there.
FILES = ("hosts", "resolv.conf", "passwd", "group")
# Guests run under emulation: asking for KVM or for another QEMU costs seconds and says what would not work.
HIDDEN = (Path("/dev/kvm"), Path("/usr/bin/qemu-system-i386"))
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_ENDS = {signal.SIGTERM, signal.SIGINT}
_GRACE_S = 3.0


def main(folder: Path, name: str) -> int:
    """Runs until the daemon ends or a signal comes. Returns: the exit status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDS, signal.SIGCHLD})
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:
        # It ended before the signal was ordered.
        return 1
    socket.sethostname(name)
    # Its lock and pid file are there, and must not be the machine's or the other host's.
    subprocess.run(["mount", "-t", "tmpfs", "run", "/run"], check=True)
    for inside, place in FOLDERS.items():
        place.mkdir(parents=True, exist_ok=True)
        _bind(folder / inside, place)
    for file in FILES:
        if Path("/etc", file).exists():
            _bind(folder / "files" / file, Path("/etc", file))
    for path in HIDDEN:
        if path.exists():
            _bind(folder / "files" / "nothing", path)
            # Root may do anything with a file that it can see, but not write to one that is mounted read-only.
            subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
    # Both hosts would tell the whole machine's CPU for their own, and each would look as busy as the other.
    _bind(folder / "files" / "stat", Path("/proc/stat"))
    daemon = os.posix_spawnp("libvirtd", ["libvirtd", "--listen"], os.environ, setsigmask=[])
    while True:
        came = signal.sigwait({*_ENDS, signal.SIGCHLD})
        if came in _ENDS or daemon in _reap():
            break
    _end(psutil.Process().children(recursive=True))
    return 0 if came in _ENDS else 1


def _end(processes: list[psutil.Process]) -> None:
    """Ends what this program started, and nothing else."""
    for process in processes:
        process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=_GRACE_S)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=_GRACE_S)


def _reap() -> list[int]:
    """Pids of all children that have ended."""
    ended: list[int] = []
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append(pid)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _bind(source: Path, target: Path) -> None:
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
