"""Long work in processes of its own: in turn, once at a time, and ended with the server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from reports.web.background import Background, State, Task

pytestmark = pytest.mark.real

SAYS = "import sys; print(sys.argv[1])"


def _background(code: str) -> Background:
    return Background(reactor=reactor, clock=lambda: 42.0, program=(sys.executable, "-c", code))


async def _ended(background: Background, key: str) -> Task:
    while (task := background.find(key)) is None or task.is_under_way:
        await deferLater(reactor, 0.01, lambda: None)
    return task


@pytest_twisted.ensureDeferred
async def test_output_is_kept() -> None:
    """What a command prints is there once it has ended."""
    background = _background(SAYS)
    assert background.ask("one", ("hello",)).state is State.WAITING
    task = await _ended(background, "one")
    assert (task.state, task.output, task.finished_s, task.problem) == (State.DONE, b"hello\n", 42.0, None)


@pytest_twisted.ensureDeferred
async def test_tasks_run_in_turn(tmp_path: Path) -> None:
    """One at a time, the first asked first; each asked twice is done once."""
    log = tmp_path / "log"
    code = (
        "import sys, time\n"
        f"say = lambda text: open({str(log)!r}, 'a').write(text + '\\n')\n"
        "say('begin ' + sys.argv[1]); time.sleep(0.1); say('end ' + sys.argv[1])"
    )
    background = _background(code)
    for key in ("a", "b", "a", "c"):
        background.ask(key, (key,))
    for key in ("a", "b", "c"):
        await _ended(background, key)
    assert log.read_text().split() == ["begin", "a", "end", "a", "begin", "b", "end", "b", "begin", "c", "end", "c"]


@pytest_twisted.ensureDeferred
async def test_failure_says_why() -> None:
    """The last line of what it complained about, else how it ended."""
    background = _background("import sys; print('first', file=sys.stderr); sys.exit('fallow-report: no such fleet')")
    background.ask("one", ())
    task = await _ended(background, "one")
    assert (task.state, task.problem) == (State.FAILED, "fallow-report: no such fleet")
    silent = _background("import os; os.kill(os.getpid(), 9)")
    silent.ask("one", ())
    task = await _ended(silent, "one")
    assert (task.state, task.problem) == (State.FAILED, "ended by signal 9")


@pytest_twisted.ensureDeferred
async def test_program_that_is_not_there_fails() -> None:
    """Nothing waits for it for ever, and what was asked next is done."""
    background = Background(reactor=reactor, clock=lambda: 1.0, program=("/nonexistent/program",))
    background.ask("one", ())
    background.ask("two", ())
    assert (await _ended(background, "one")).state is State.FAILED
    assert (await _ended(background, "two")).state is State.FAILED


@pytest_twisted.ensureDeferred
async def test_failed_task_can_be_asked_again() -> None:
    """A failure does not stay for good."""
    background = _background("import sys; sys.exit(int(sys.argv[1]))")
    background.ask("one", ("3",))
    assert (await _ended(background, "one")).problem == "ended with exit code 3"
    background.ask("one", ("0",))
    assert (await _ended(background, "one")).state is State.DONE


@pytest_twisted.ensureDeferred
async def test_stop_ends_what_runs_even_by_force(tmp_path: Path) -> None:
    """A process that ignores SIGTERM is killed; nothing that waits is begun."""
    flag = tmp_path / "began"
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(sys.argv[1], 'w').close()\n"
        "time.sleep(600)"
    )
    background = _background(code)
    background.ask("one", (str(flag),))
    background.ask("two", (str(tmp_path / "other"),))
    while not flag.exists():
        await deferLater(reactor, 0.01, lambda: None)
    await background.stop()
    task: Any = background.find("one")
    assert (task.state, task.problem) == (State.FAILED, "ended by signal 9")
    assert not (tmp_path / "other").exists()


@pytest_twisted.ensureDeferred
async def test_stop_of_the_idle_is_at_once() -> None:
    """Nothing runs, nothing to wait for."""
    await _background(SAYS).stop()


@pytest_twisted.ensureDeferred
async def test_change_during_a_run_has_it_done_once_more(tmp_path: Path) -> None:
    """However often something changed while it ran, it runs once more; what only waits will see the change anyway."""
    log, go = tmp_path / "log", tmp_path / "go"
    code = (
        "import os, sys, time\n"
        f"open({str(log)!r}, 'a').write(sys.argv[1] + '\\n')\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)"
    )
    background = _background(code)
    background.ask("a", ("a",), anew=True)
    background.ask("b", ("b",))
    while not log.exists():
        await deferLater(reactor, 0.01, lambda: None)
    for key in ("a", "a", "b"):
        assert background.ask(key, (key,), anew=True).is_under_way
    go.touch()
    for key in ("b", "a"):
        assert (await _ended(background, key)).state is State.DONE
    assert log.read_text().split() == ["a", "b", "a"]
