"""The watch as a program: it begins, notes what it does, and ends between two steps or leaves a trace of the one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrate.control import open_control
from orchestrate.inventory import VmState
from orchestrate.owners.links import Purpose
from orchestrate.watch_state import TurnEnd
from tests.orchestrate.control_house import IDLE, House, house
from tests.orchestrate.watch_process import asleep, get, post, watching, write_links

pytestmark = pytest.mark.real


@pytest.fixture
def made(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path) as built:
        write_links(built)
        yield built


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(made: House, number: signal.Signals) -> None:
    """It says where its pages are, notes its turns, and ends with 0 and without the lease."""
    with watching(made) as program:
        told = program.status()
        assert told["pid"] == program.process.pid
        assert told["site"] == f"{program.url}/"
        assert told["turn"]["end"] == TurnEnd.DONE
        program.process.send_signal(number)
        assert program.process.wait() == 0
        assert "Traceback" not in program.said
    with open_control(made.config(), clock=lambda: made.now_s, pause=made.pause) as control:
        assert control.records.acquire("next", now_s=time.time(), life_s=1.0) is not None


def test_status_shows_its_note(made: House) -> None:
    """The command that people look with tells what the service did last."""
    with watching(made) as program:
        program.status()
    made.now_s = os.path.getmtime(made.settings)
    assert made.read("status")["service"]["turn"]["end"] == TurnEnd.DONE


def test_an_owner_has_a_vm_back(made: House) -> None:
    """By the link of the notice, over real HTTP: it runs, and its next sample is told of."""
    asleep(made)
    with watching(made) as program:
        link = program.link(IDLE, Purpose.RESUME)
        assert post(link) == 200
        program.until(lambda: get(f"{link}/state")["state"] == "awake")
        assert made.state(IDLE) is VmState.RUNNING
        # It is heard of again.
        made.now_s += 30
        made.awake.add(IDLE)
        made.push()
        program.until(lambda: get(f"{link}/state")["ended"])
        told = get(f"{link}/state")
        assert told["state"] == "heard"
        assert told["heard_after_s"] > 0
        assert "sample" in told["line"]
        # The secret stands in no log.
        assert link.rpartition("/")[2] not in program.said


def test_an_end_in_the_middle_of_a_step_is_found_out_later(made: House) -> None:
    """The program does not wait for a hypervisor; the next leader clears up what it left."""
    asleep(made)
    write_links(made, pace="10000")
    with watching(made) as program:
        link = program.link(IDLE, Purpose.RESUME)
        post(link)
        program.until(lambda: made.state(IDLE) is VmState.CHANGING)
        program.process.terminate()
        assert program.process.wait() == 0
        assert "a step was under way" in program.said
    with open_control(made.config(), clock=lambda: made.now_s, pause=made.pause) as control:
        (left,) = control.records.unsettled()
        assert left.step.ref.uuid == IDLE


def test_a_port_that_is_taken_is_told(made: House) -> None:
    """In one line, with exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        write_links(made, listen=f"127.0.0.1:{taken.getsockname()[1]}")
        done = subprocess.run(
            [sys.executable, "-m", "orchestrate", "watch", "--config", str(made.settings)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "Couldn't listen on 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_turn_says_what_it_did(made: House) -> None:
    """For a look by hand: its end, and a plan that waits for somebody's yes."""
    text = made.ok("watch", "--once")
    assert text.startswith("turn: done\n")
    assert "waits for somebody's yes" in text


def test_without_hypervisors_there_is_nothing_to_watch(made: House) -> None:
    """A mistake in the settings, said before anything begins."""
    made.settings.write_text(f'[report]\ndata = "{made.folder}"\n')
    code, _, err = made.call("watch")
    assert code == 2
    assert "no hypervisors" in err
