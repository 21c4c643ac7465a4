"""Each scenario once, with few injections; `python -m tests.faults --all` does the same many times over."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from bench.kill_compare import Findings
from tests.faults.journal_trace import Synced, read_journal_trace
from tests.faults.registry import SCENARIOS
from tests.faults.scenario import Scenario, surroundings
from tests.faults.strace import Injection, Trace
from tests.faults.tally import FaultError, Tally, tally_of, total

_SEED = 1


@pytest.mark.real
@pytest.mark.parametrize("scenario", [pytest.param(scenario, id=scenario.id) for scenario in SCENARIOS])
def test_fault(scenario: Scenario) -> None:
    """What was acknowledged is stored, once and unchanged, whatever this scenario does to the real programs."""
    if missing := scenario.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    with surroundings(scenario, seed=_SEED, injections=scenario.quick, say=print) as here:
        tally = scenario.run(here)
    assert tally.injections >= 1
    assert (tally.lost, tally.doubled) == (0, 0), tally


def test_the_names_of_scenarios_differ_and_tell_their_rows() -> None:
    """A scenario can be found by its row, and no two have one name."""
    assert len({scenario.id for scenario in SCENARIOS}) == len(SCENARIOS)
    assert all(f"_{row:02d}_" in scenario.id for scenario in SCENARIOS for row in scenario.rows)
    assert all(0 < scenario.quick <= scenario.whole for scenario in SCENARIOS)


def test_a_loss_or_a_double_is_not_ok() -> None:
    """A tally with anything lost or doubled fails, and a sum of tallies shows it."""
    good = Tally(injections=1, acknowledged=2, stored=2, lost=0, doubled=0)
    bad = replace(good, lost=1)
    assert good.ok
    assert not bad.ok
    assert not replace(good, doubled=1).ok
    assert total([good, bad]) == Tally(injections=2, acknowledged=4, stored=4, lost=1, doubled=0)


@pytest.mark.parametrize(
    "findings",
    [Findings(never_sent=1), Findings(rollup_mismatches=["an hour"]), Findings(summary_mismatches=["a window"])],
)
def test_what_nobody_sent_and_wrong_rollups_are_failures(findings: Findings) -> None:
    """Stores that hold more than was sent, or whose sums are wrong, never become a tally."""
    with pytest.raises(FaultError):
        tally_of(findings, injections=1)


_TRACE = """\
7 write(10</d/journal/00000001.seg>, "fallowJ", 16) = 16
7 fdatasync(10</d/journal/00000001.seg>) = 0
7 write(10</d/journal/00000001.seg>, "abc", 100 <unfinished ...>
8 write(2</d/log>, "x", 1)                = 1
7 <... write resumed>)                    = 100
7 fdatasync(10</d/journal/00000001.seg>) = 0
7 write(10</d/journal/00000001.seg>, "abc", 50) = 50
7 ftruncate(10</d/journal/00000001.seg>, 116) = 0
7 write(10</d/journal/00000001.seg>, "abc", 60) = 60
7 fdatasync(10</d/journal/00000001.seg>) = -1 EIO (Input/output error) (INJECTED)
9 +++ killed by SIGKILL +++
"""


def test_a_trace_tells_what_of_a_segment_is_durable(tmp_path: Path) -> None:
    """Bytes count as durable up to the last sync that succeeded; calls told in two pieces are put together."""
    path = tmp_path / "trace"
    path.write_text(_TRACE)
    trace = Trace(path)
    seen = read_journal_trace(trace, Path("/d/journal"))
    assert seen == {
        Path("/d/journal/00000001.seg"): Synced(
            written_bytes=176, durable_bytes=116, failed=1, synced_after_failure=False
        )
    }
    assert (trace.killed, trace.injected, trace.reach(("write",))) == (1, 1, 4)
    path.write_text(_TRACE + "7 fdatasync(10</d/journal/00000001.seg>) = 0\n")
    (file,) = read_journal_trace(Trace(path), Path("/d/journal")).values()
    assert file.synced_after_failure


def test_an_injection_is_told_to_strace_in_its_words() -> None:
    """Only the named calls are hurt; those that are watched are told as well."""
    injection = Injection(calls=("fdatasync",), fault="error=EIO", when="3", paths=(Path("/a"),), watched=("write",))
    argv = injection.under(Path("/t"))
    assert argv[argv.index("-P") + 1] == "/a"
    assert "trace=fdatasync,write" in argv
    assert "inject=fdatasync:error=EIO:when=3" in argv
    assert "--seccomp-bpf" in argv
    # strace loses the signals that it injects when the kernel filters for it.
    assert "--seccomp-bpf" not in replace(injection, fault="signal=SIGKILL").under(Path("/t"))


def test_surroundings_draw_the_same_for_a_seed_and_leave_nothing(tmp_path: Path) -> None:
    """Two runs of one scenario with one seed see the same numbers, and their folder is gone afterwards."""
    scenario = SCENARIOS[0]
    drawn = []
    for _ in range(2):
        with surroundings(scenario, seed=5, injections=1, say=print) as here:
            drawn.append(here.draw.random())
            assert list(here.home.iterdir()) == []
        assert not here.home.exists()
    assert drawn[0] == drawn[1]
    assert random.Random(f"{scenario.name}/5").random() == drawn[0]
