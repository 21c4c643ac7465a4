"""A scenario: which rows of the list of faults it stands for, what it needs, how often it strikes, and how it runs."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.kill_lives import Impatient
from bench.programs import Programs
from tests.faults.tally import Tally

SCRIPTS = Path(sys.executable).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a scenario is given.

    Attributes:
        home: an empty directory of its own, deleted afterwards.
        draw: seeded for this scenario alone, so that it does the same whatever ran before.
        injections: how many faults to inject, at most.
        programs: starts our programs; all of them are stopped afterwards, also when the scenario fails.
        later: closed once all programs are stopped: for what they may not outlive, such as a mounted disk.
        say: shows a line of text.
        advance: to be called once for each injection, for the progress bar.
    """

    home: Path
    draw: random.Random
    injections: int
    programs: Programs
    later: ExitStack
    say: Callable[[str], None]
    advance: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One way to hurt the system.

    Attributes:
        rows: numbers in the list of faults.
        name: one or a few words, joined by hyphens.
        needs: of "root", "mount" (file systems can be mounted), "loop" (disk images too) and names of programs such as
            "strace" or "nft".
        run: does it. Raises: FaultError, or whatever else: the scenario failed.
        quick, whole: injections in each mode.
    """

    rows: tuple[int, ...]
    name: str
    needs: tuple[str, ...]
    run: Callable[[Surroundings], Tally]
    quick: int
    whole: int

    @property
    def id(self) -> str:
        """Such as `row_02_kill-at-a-write`, the rows first."""
        return "_".join(["row", *(f"{row:02d}" for row in self.rows), self.name])

    def missing(self) -> list[str]:
        """What this machine lacks of `needs`."""
        return [need for need in self.needs if not _has(need)]


def _has(need: str) -> bool:
    if need == "root":
        return os.geteuid() == 0
    if need == "mount":
        # In a mount namespace of its own; a container may forbid it even to root.
        return os.geteuid() == 0 and _runs(("unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp"))
    if need == "loop":
        return _has("mount") and Path("/dev/loop-control").exists() and shutil.which("mkfs.ext4") is not None
    if need == "strace":
        # Installed is not enough: a container may forbid ptrace.
        return shutil.which("strace") is not None and _runs(("strace", "-o", os.devnull, "true"))
    return shutil.which(need) is not None


def _runs(argv: Sequence[str]) -> bool:
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@contextmanager
def surroundings(
    scenario: Scenario,
    *,
    seed: int,
    injections: int,
    say: Callable[[str], None],
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Surroundings]:
    """A place for one run of a scenario; whatever was started in it is stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="fallow-faults-") as name, ExitStack() as later:
        home = Path(name) / "home"
        home.mkdir()
        later.enter_context(_temporary_files_in(Path(name)))
        programs = Programs(SCRIPTS, Path(name) / "logs", Impatient())
        try:
            yield Surroundings(
                home=home,
                draw=random.Random(f"{scenario.name}/{seed}"),
                injections=injections,
                programs=programs,
                later=later,
                say=say,
                advance=advance,
            )
        finally:
            programs.stop_all()


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Has programs that are started leave theirs there: one that is killed cannot clear up."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
