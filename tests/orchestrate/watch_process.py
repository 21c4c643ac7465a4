"""`fallow-orchestrate watch` as a program of its own, over the small cloud of `control_house`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from orchestrate.inventory import VmRef
from orchestrate.owners.links import KEY_FILE_NAME, Link, LinkKey, Purpose
from orchestrate.watch_state import STATUS_FILE_NAME
from tests.orchestrate.control_house import SETTINGS, House
from tests.reports.web.programs import start

LINKS = """
[orchestrate.links]
url = "https://fallow.example.org"
listen = "{listen}"
[orchestrate.watch]
every = "1s"
"""
DAY_S = 86_400.0
_ADDRESS = re.compile(r"owners' pages on (http://\S+)/\n")
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Program:
    """A watch that runs. `url` has no slash at its end."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    data_dir: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    def link(self, vm_id: str, purpose: Purpose, *, days: float = 1.0) -> str:
        """What a notice of this program would hold for a VM of `lab`."""
        key = LinkKey.load_or_create(self.data_dir / KEY_FILE_NAME)
        link = Link(purpose=purpose, ref=VmRef("lab", vm_id), vm_id=vm_id, expires_s=int(time.time() + days * DAY_S))
        return f"{self.url}/{purpose.value}/{key.make(link)}"

    def status(self) -> dict[str, Any]:
        """As the program notes it, once it has."""
        file = self.data_dir / STATUS_FILE_NAME
        self.until(file.exists)
        told: dict[str, Any] = json.loads(file.read_text())
        return told

    def until(self, holds: Any) -> None:
        """Waits; a program that ends meanwhile fails the test."""
        while not holds():
            assert self.process.poll() is None, self.said
            time.sleep(_POLL_S)


def write_links(made: House, *, listen: str = "127.0.0.1:0", pace: str = "0") -> None:
    """The settings of a cloud whose owners have pages."""
    text = SETTINGS.replace("pace = 0", f"pace = {pace}")
    made.write_settings(text=text, more=LINKS.format(listen=listen))


@contextmanager
def watching(made: House) -> Iterator[Program]:
    """The program; it is ended in the end."""
    log = made.folder / "watch.log"
    command = [sys.executable, "-m", "orchestrate", "watch", "--config", str(made.settings)]
    with log.open("wb") as out, start(command, out) as process:
        while (found := _ADDRESS.search(log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(_POLL_S)
        yield Program(found[1], process, log, made.folder / "control")


def asleep(made: House) -> None:
    """The idle VM is suspended by the house's own commands; from then on the clock is that of the machine."""
    made.suspend()
    made.awake.clear()
    made.now_s = time.time()
    made.push()


def post(url: str, body: bytes = b"") -> int:
    """Sends a form; the status of the page that it leads to."""
    request = Request(url, body, {"Content-Type": "application/x-www-form-urlencoded"}, method="POST")
    with urlopen(request) as answer:
        status: int = answer.status
        return status


def get(url: str) -> Any:
    """A JSON document."""
    with urlopen(url) as answer:
        return json.load(answer)
