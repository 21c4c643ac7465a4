"""Faults at system calls: `strace` kills, fails or delays the Nth of a kind. Its output says what happened."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.programs import Program, Programs

WRITES = ("write", "writev")
PAGE_WRITES = ("pwrite64",)  # those of SQLite
SYNCS = ("fdatasync",)
FILE_SYNCS = ("fsync",)
NAMES = ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat")
KILL = "signal=SIGKILL"
_ATTACH_WITHIN_S = 10.0

_CALL = re.compile(r"(\d+) +(\w+)\((.*)")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_SEMAPHORE = re.compile(r'"(/dev/shm/sem\.[\w-]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """What strace is to do.

    Attributes:
        calls: names of system calls; their counts are kept apart.
        fault: in strace's words, such as "signal=SIGKILL" or "error=EIO"; "" only looks.
        when: in strace's words, counted in each thread: "3" is the third alone, "3+" each from the third on.
        paths: only calls that concern these files, by name or by descriptor; empty: all.
        watched: further calls that are only told in the trace.
    """

    calls: tuple[str, ...]
    fault: str = ""
    when: str = "1"
    paths: tuple[Path, ...] = ()
    watched: tuple[str, ...] = ()

    def argv(self, trace: Path) -> list[str]:
        """The command line, to which a program or `-p PID` is added."""
        calls = ",".join(self.calls)
        argv = ["strace", "-f", "-y", "-o", str(trace), "-e", f"trace={','.join((*self.calls, *self.watched))}"]
        for path in self.paths:
            argv += ["-P", str(path)]
        if self.fault:
            argv += ["-e", f"inject={calls}:{self.fault}:when={self.when}"]
        return argv

    def under(self, trace: Path) -> list[str]:
        """What a command line is put behind."""
        # With a filter in the kernel the other calls are as fast as ever; but strace then loses the signals it injects.
        return [*self.argv(trace), *(() if self.fault.startswith("signal=") else ("--seccomp-bpf",))]

    def attach(self, programs: Programs, trace: Path, *pids: int) -> Program:
        """Hurts processes that run, with all their threads and what they start from now on. Raises: ProgramError."""
        command = shutil.which("strace") or "strace"
        strace = programs.start([command, *self.argv(trace)[1:], *(f"--attach={pid}" for pid in pids)])
        programs.wait_until(
            lambda: all(_tracer_of(task) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()) or None,
            running=[strace],
            within_s=_ATTACH_WITHIN_S,
            what="strace",
        )
        return strace


def _tracer_of(task: Path) -> int:
    try:
        status = (task / "status").read_text()
    except OSError:
        return 1  # that thread is over
    return int(status.partition("TracerPid:")[2].split()[0])


def detach(strace: Program) -> None:
    """Ends an attached strace; the process goes on unhurt."""
    strace.process.terminate()
    strace.process.wait(_ATTACH_WITHIN_S)


@dataclass(frozen=True, slots=True)
class Call:
    """One system call as strace told it.

    Attributes:
        text: arguments and result, and "(INJECTED)" where that is not the kernel's.
    """

    thread: int
    name: str
    text: str


class Trace:
    """The output of strace so far."""

    def __init__(self, path: Path) -> None:
        self._text = path.read_text(errors="replace") if path.exists() else ""

    @property
    def killed(self) -> int:
        """Threads that a SIGKILL ended."""
        return self._text.count("+++ killed by SIGKILL +++")

    @property
    def injected(self) -> int:
        """Calls that were failed or delayed."""
        return self._text.count("(INJECTED)") + self._text.count("(DELAYED)")

    def calls(self) -> Iterator[Call]:
        """In order of their beginning; one that was told in two pieces comes whole, at its end."""
        begun: dict[int, str] = {}
        for line in self._text.splitlines():
            if found := _RESUMED.match(line):
                thread = int(found[1])
                yield Call(thread, found[2], begun.pop(thread, "") + found[3])
            elif found := _CALL.match(line):
                if found[3].endswith("<unfinished ...>"):
                    begun[int(found[1])] = found[3].removesuffix("<unfinished ...>")
                else:
                    yield Call(int(found[1]), found[2], found[3])

    def reach(self, calls: Sequence[str]) -> int:
        """How often the thread that did it most made one of these calls: the largest N that can strike."""
        counts = Counter((call.thread, call.name) for call in self.calls() if call.name in calls)
        return max(counts.values(), default=0)

    def clear_semaphores(self) -> None:
        """Deletes the semaphores whose maker was killed between their making and their unlinking."""
        for name in set(_SEMAPHORE.findall(self._text)):
            Path(name).unlink(missing_ok=True)
