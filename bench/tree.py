"""What a process and all its descendants use, from /proc."""

from __future__ import annotations

import os
from pathlib import Path

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def processes(root_pid: int, proc: Path = Path("/proc")) -> list[int]:
    """The process and its descendants that live; empty once it is gone."""
    children: dict[int, list[int]] = {}
    for folder in proc.iterdir():
        if folder.name.isdigit() and (fields := _stat(folder)) is not None:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [root_pid] if _stat(proc / str(root_pid)) is not None else []
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_s(root_pid: int, proc: Path = Path("/proc")) -> float:
    """User and system seconds of the tree so far; of children that ended and were waited for, too."""
    total = 0
    for pid in processes(root_pid, proc):
        fields = _stat(proc / str(pid))
        if fields is not None:
            total += sum(int(field) for field in fields[11:15])
    return total * _TICK_S


def own_cpu_s(pid: int, proc: Path = Path("/proc")) -> float:
    """User and system seconds of one process alone."""
    fields = _stat(proc / str(pid))
    return sum(int(field) for field in fields[11:13]) * _TICK_S if fields is not None else 0.0


def peak_rss_bytes(root_pid: int, proc: Path = Path("/proc")) -> int:
    """Sum of the largest resident sizes that each process of the tree has had."""
    total = 0
    for pid in processes(root_pid, proc):
        try:
            text = (proc / str(pid) / "status").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM:"))
    return total


def _stat(folder: Path) -> list[str] | None:
    """Fields of `stat` from the state on (field 3 of proc(5) is index 0); None if the process is gone."""
    try:
        text = (folder / "stat").read_text()
    except OSError:
        return None
    # The name may hold blanks and brackets: count from its last bracket.
    return text.rpartition(")")[2].split()
