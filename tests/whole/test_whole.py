"""A whole fleet under virtual time: nothing is lost, doubled or forgotten, and the oracle that says so can see it.

`python -m tests.whole --seeds 1000 --jobs 2` is the whole of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.whole.__main__ import main
from tests.whole.history import Ground, open_ground, run_history
from tests.whole.planted import PLANTED

SEEDS = 30
# A planted bug shows within so many seeds, or the oracle is blind to it.
PATIENCE = 200
# What the oracle says of each planted bug, whichever it comes upon first.
NOWHERE = "nowhere durable"
NOT_STORED = "is not stored"
LACKS = "lacks"
SIGNS = {
    "acknowledges before the disk has it": (NOWHERE,),
    "syncs nothing": (NOWHERE,),
    "syncs again what failed to": (NOWHERE,),
    "drops a segment before the stores have it": (NOWHERE,),
    "replays nothing": (NOWHERE, NOT_STORED),
    "leaves the oldest segment out": (NOWHERE, NOT_STORED),
    "takes every store for written": (NOWHERE, NOT_STORED),
    "counts an hour twice": ("is not what was written", "windows:"),
    "keeps the last of two": ("took the place of", "forgot"),
    "counts no conflicts": ("samples that differ",),
    "deletes by a wrong clock": ("forgot",),
    "hears of no revocation": ("after it was revoked",),
    "skips a drop counter": ("are accounted for", LACKS),
    "skips a sample after a restart": (LACKS,),
    "takes a 503 for done": (LACKS,),
    "takes old figures for fresh": ("is suspended, and its newest", "that is no outage"),
    "ignores flags": ("two machines push", "s off"),
}
# Where to begin, so that it need not be waited for: two machines are told apart in few histories.
FIRST = {"ignores flags": 85}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """Shared: what takes long to make is the same for all histories."""
    with open_ground() as made:
        yield made


def test_nothing_is_lost_doubled_or_uncounted(ground: Ground) -> None:
    """In none of many histories, in which everything that can go wrong does."""
    counts: Counter[str] = Counter()
    for seed in range(1, 1 + SEEDS):
        history = run_history(seed, ground)
        assert history.broken is None, f"seed {seed}: {history.broken}\n" + "\n".join(history.told)
        counts += history.counts
    wanted = ("power cuts", "killed", "stopped", "agent cloned", "agent restored", "database away", "revoked", "lossy")
    for what in (*wanted, "worker dies", "store refused", "disk fails", "disk full", "clock", "doubled", "lost"):
        assert counts[what] > 0, what
    assert counts["acknowledged"] > 100 * SEEDS
    assert counts["given up"] < counts["made"]


@pytest.mark.real
@pytest.mark.timeout(1800)
def test_a_thousand_seeds_break_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """As the command runs them, in two processes; everywhere but in `.ci/run` a few of them."""
    seeds = 1_000 if os.environ.get("FALLOW_CI") == "1" else 20
    assert main(["--seeds", str(seeds), "--first", "101", "--jobs", "2"]) == 0, capfd.readouterr().out
    assert f"{seeds} seeds, 0 broken" in capfd.readouterr().out


@pytest.mark.real
def test_a_seed_is_one_history_in_every_process() -> None:
    """Two processes with other hash orders live through the same steps, and another seed is another history."""
    told = []
    for seed, order in (("33", "1"), ("33", "2"), ("34", "1")):
        done = subprocess.run(
            [sys.executable, "-m", "tests.whole", "--seed", seed, "-v"],
            env={**os.environ, "PYTHONHASHSEED": order},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        told.append(done.stdout)
    assert told[0] == told[1] != told[2]
    assert len(told[0].splitlines()) > 20


@pytest.mark.parametrize("name", PLANTED)
def test_the_oracle_sees_a_planted_bug(ground: Ground, name: str) -> None:
    """A part that does wrong is found before long, and the oracle says what is wrong."""
    first = FIRST.get(name, 1)
    for seed in range(first, first + PATIENCE):
        broken = run_history(seed, ground, planted=PLANTED[name]).broken
        if broken is not None:
            assert any(sign in broken for sign in SIGNS[name]), f"seed {seed}: {broken}"
            return
    pytest.fail(f"{PATIENCE} histories, and nobody noticed")


def test_a_broken_history_is_told_to_its_end(ground: Ground) -> None:
    """What a person needs to look into it: the step, the last lines, what was broken; and it breaks the same again."""
    planted = PLANTED["drops a segment before the stores have it"]
    first, again = (run_history(1, ground, planted=planted) for _ in range(2))
    assert first == again
    assert first.broken is not None
    assert first.broken in first.told[-1]
    assert 1 < len(first.told) <= 30


def test_the_command_tells_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, and how often each thing came to pass."""
    assert main(["--seeds", "2", "--first", "7"]) == 0
    told = capsys.readouterr().out
    assert "2 seeds, 0 broken" in told
    assert "acknowledged" in told
