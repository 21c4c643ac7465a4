"""One seed, one history: a small fleet, its aggregator, everything that can go wrong with them, and the oracle."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.whole.database import Database, make_template
from tests.whole.events import Events
from tests.whole.hub import Broken, Hub
from tests.whole.planted import Planted
from tests.whole.story import Stage, Story
from tests.whole.workers import make_worker

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What all histories of one process stand on.

    Args: folder: each history has its own below it.
    """

    folder: Path
    stage: Stage


@contextmanager
def open_ground() -> Iterator[Ground]:
    """In memory where the machine has a place for that: nothing here has to outlive the process."""
    shm = Path("/dev/shm")
    with TemporaryDirectory(dir=shm if shm.is_dir() else None) as name:
        folder = Path(name)
        for part in ("template", "fleet"):
            (folder / part).mkdir()
        database = Database(folder / "fleet", make_template(folder / "template"))
        try:
            yield Ground(folder=folder, stage=Stage(database=database, worker=make_worker(folder)))
        finally:
            database.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How one ended.

    Args:
        broken: what the oracle saw; None: nothing.
        steps: calls of the loop. digest: of all that happened. told: the last lines of the log.
    """

    seed: int
    broken: str | None
    steps: int
    digest: str
    told: tuple[str, ...]
    counts: Counter[str] = field(default_factory=Counter)


def run_history(seed: int, ground: Ground, *, planted: Planted | None = None, say: Say | None = None) -> History:
    """Lives through the history of a seed; leaves nothing behind."""
    folder = ground.folder / str(seed)
    folder.mkdir()
    hub = Hub(seed, say)
    story = Story(hub, folder, ground.stage, planted or Planted())
    Events(story)
    broken = None
    try:
        story.live()
        story.mend()
        story.check()
    except Broken as found:
        broken = str(found)
        hub.tell(f"BROKEN: {broken}")
    finally:
        story.close()
        shutil.rmtree(folder)
    return History(
        seed=seed,
        broken=broken,
        steps=hub.step,
        digest=hub.digest,
        told=tuple(hub.told),
        counts=story.counts(),
    )
