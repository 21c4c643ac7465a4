"""`fallow-orchestrate serve` as a program of its own, over the small cloud of `control_house`."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.orchestrate.control_house import House
from tests.reports.web.programs import Server, admit, start

_ADDRESS = re.compile(r"pages on (http://\S+/)\n")
_POLL_S = 0.02

__all__ = ["admit", "serving_plans"]


@contextmanager
def serving_plans(cloud: House) -> Iterator[Server]:
    """The program on any free port; it is ended in the end. Nobody is logged in."""
    log = cloud.folder / "serve.log"
    command = [sys.executable, "-m", "orchestrate", "serve", "--config", str(cloud.settings)]
    with log.open("wb") as out, start([*command, "--listen", "127.0.0.1:0"], out) as process:
        while (found := _ADDRESS.search(log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(_POLL_S)
        yield Server(found[1], process, log, "", "")
