"""`python -m bench verdicts`: the definitions on traces made by hand, and the bars on the recorded one."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.traces import Recording
from bench.__main__ import main
from reports.policies import POLICIES
from tests.reports.recordings import DAY_S, GIB, START_S, recording, write_bitbrains
from tests.traces import trace

DAY = 288  # samples of five minutes
OTHERS = [name for name in POLICIES if not name.startswith("fallow-")]


def bench(*argv: str) -> dict[str, Any]:
    """One run's JSON."""
    out, err = io.StringIO(), io.StringIO()
    assert main(["verdicts", *argv, "--json"], out=out, err=err) == 0, err.getvalue()
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def policy(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    (row,) = [row for row in found["policies"] if row["policy"] == name]
    return dict(row)


def vm(name: str, days: Sequence[float], **changes: Any) -> Recording:
    """A VM with one CPU ratio a day."""
    cpu = np.repeat(np.asarray(days, float), DAY)
    quiet = {"disk_read": 0.0, "disk_write": 0.0, "net_rx": 0.0, "net_tx": 0.0, "mem_used": 0.2 * GIB}
    return recording(name, cpu, **{"interval_s": 300, **quiet, **changes})


@pytest.fixture
def two_vms(tmp_path: Path) -> Path:
    """Asleep for two days; then the one works a little for a day and grows, the other goes on sleeping."""
    grown = np.repeat([2, 2, 8], DAY)
    return write_bitbrains(
        tmp_path / "trace", [vm("1", [0.01, 0.01, 0.25], cpu_count=grown), vm("2", [0.01, 0.01, 0.01], cpu_count=4)]
    )


def test_freed_regret_and_woken_by_hand(two_vms: Path) -> None:
    """Size at the end of the judged part x covered hours; CPU-hours at the size of that time; three busy samples."""
    found = bench("--trace", str(two_vms), "--judge-days", "2")
    row = policy(found, "p95")
    assert (found["vms"], row["judged"], row["idle"]) == (2, 2, 2)
    freed_h = (2 + 4) * 24
    used_h = 0.25 * 8 * 24 + 0.01 * 4 * 24
    assert row["freed_vcpu_h"] == pytest.approx(freed_h)
    assert row["freed_gib_h"] == pytest.approx((4 + 4) * 24)
    assert row["regret_ratio"] == pytest.approx(used_h / freed_h)
    assert row["woken_ratio"] == 0.5


def test_only_the_first_days_are_judged(tmp_path: Path) -> None:
    """What a VM does later changes no verdict and no size; what it did before is skipped on demand."""
    folder = write_bitbrains(tmp_path / "trace", [vm("1", [0.9, 0.01, 0.01, 0.9])])
    assert policy(bench("--trace", str(folder), "--judge-days", "2"), "p95")["idle"] == 0
    skipped = bench("--trace", str(folder), "--judge-days", "2", "--skip-days", "1")
    assert policy(skipped, "p95")["idle"] == 1
    assert policy(skipped, "p95")["freed_vcpu_h"] == pytest.approx(2 * 24)


def test_each_vm_has_its_own_first_days(tmp_path: Path) -> None:
    """A VM that began later is judged by its own first days; one that has no later part is left out and counted."""
    late = vm("2", [0.01, 0.01, 0.5], start_s=START_S + 10 * DAY_S)
    folder = write_bitbrains(tmp_path / "trace", [vm("1", [0.01] * 13), late, vm("3", [0.01, 0.01])])
    found = bench("--trace", str(folder), "--judge-days", "2")
    assert (found["vms"], found["left_out_vms"]) == (2, 1)
    assert policy(found, "p95")["idle"] == 2
    assert policy(found, "p95")["freed_vcpu_h"] == pytest.approx(2 * 24 * (11 + 1))


def test_with_later_the_last_days_are_judged_and_all_of_later_counts(tmp_path: Path) -> None:
    """Only VMs in both count; the judged part is the end of the first trace, the later part all of the second."""
    folder = write_bitbrains(
        tmp_path / "before", [vm("1", [0.9, 0.01, 0.01]), vm("2", [0.01, 0.9, 0.9]), vm("3", [0.01] * 3)]
    )
    begins = START_S + 3 * DAY_S
    later = write_bitbrains(
        tmp_path / "after",
        [vm("1", [0.3] * 2, start_s=begins), vm("2", [0.01] * 2, start_s=begins), vm("4", [0.9], start_s=begins)],
    )
    found = bench("--trace", str(folder), "--later", str(later), "--judge-days", "2")
    row = policy(found, "p95")
    assert (found["vms"], found["left_out_vms"], row["idle"]) == (2, 1, 1)
    assert row["freed_vcpu_h"] == pytest.approx(2 * 48)
    assert row["regret_ratio"] == pytest.approx(0.3)
    assert row["woken_ratio"] == 1.0


def test_what_the_trace_lacks_is_said(two_vms: Path) -> None:
    """Classic goes without disk space; nobody is left out for want of figures."""
    found = bench("--trace", str(two_vms), "--judge-days", "2")
    assert policy(found, "classic")["without"] == ["disk space"]
    assert policy(found, "p95")["without"] == []
    assert [row["policy"] for row in found["policies"]] == list(POLICIES)
    assert found["not_asked"] == []


def mixed(seed: int) -> list[Recording]:
    """VMs of all kinds, some of whom wake up."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(12):
        level = 10.0 ** draw.uniform(-3.5, -0.5)
        days = level * np.where(np.arange(4) < 2, 1.0, 10.0 ** draw.normal(0, 0.3))
        size = int(draw.choice([1, 2, 8]))
        found.append(vm(str(number), days.clip(0, 1).tolist(), cpu_count=size, net_rx=10.0 ** draw.uniform(0, 5)))
    return found


def test_nothing_depends_on_names_or_order(tmp_path: Path) -> None:
    """The same VMs under other names, in another order, give the same figures of every policy."""
    vms = mixed(3)
    names = [str(100 + number) for number in range(len(vms))]
    random.Random(5).shuffle(names)
    renamed = [replace(one, vm=name) for one, name in zip(vms, names, strict=True)]
    found = [
        bench("--trace", str(write_bitbrains(tmp_path / folder, each)), "--judge-days", "2")
        for folder, each in (("a", vms), ("b", renamed))
    ]
    for ours, theirs in zip(found[0]["policies"], found[1]["policies"], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert theirs[name] == (pytest.approx(value) if isinstance(value, float) else value), name


def test_bars_say_who_of_ours_frees_most_within_the_regret(tmp_path: Path) -> None:
    """A bar a policy of others: the most that one of ours frees at no more regret, against what the other frees."""
    found = bench("--trace", str(write_bitbrains(tmp_path / "trace", mixed(4))), "--judge-days", "2")
    bars = {bar["name"].partition(":")[0]: bar for bar in found["bars"]}
    assert list(bars) == OTHERS
    for name, bar in bars.items():
        row = policy(found, name)
        assert bar["limit"] == row["freed_vcpu_h"]
        assert bar["ok"] is bool(row["beaten_by"])


def test_halves_are_repeatable(tmp_path: Path) -> None:
    """The same seed draws the same halves, and no bar holds in more of them than there are."""
    folder = str(write_bitbrains(tmp_path / "trace", mixed(5)))
    found = [bench("--trace", folder, "--judge-days", "2", "--halves", "20", "--seed", "7") for _ in range(2)]
    held = [{name: found[at][f"held_in_halves_{name}"] for name in OTHERS} for at in range(2)]
    assert held[0] == held[1]
    assert all(0 <= count <= 20 for count in held[0].values())


@pytest.mark.parametrize("argv", [["--trace", "/absent"], ["--trace", "/absent", "--later", "/absent"]])
def test_a_trace_that_is_not_there_is_a_usage_error(argv: list[str]) -> None:
    """The message names the path."""
    err = io.StringIO()
    assert main(["verdicts", *argv], out=io.StringIO(), err=err) == 2
    assert "/absent" in err.getvalue()


def test_days_are_not_skipped_where_the_last_ones_are_judged(two_vms: Path) -> None:
    """The two options contradict each other, and the message says why."""
    err = io.StringIO()
    argv = ["verdicts", "--trace", str(two_vms), "--later", str(two_vms), "--skip-days", "1"]
    assert main(argv, out=io.StringIO(), err=err) == 2
    assert "--skip-days" in err.getvalue()


@pytest.mark.parametrize("option", ["--skip-days", "--halves"])
def test_numbers_are_whole_and_not_negative(option: str) -> None:
    """Anything else is a mistake of usage."""
    with pytest.raises(SystemExit) as ended:
        main(["verdicts", "--trace", "x", option, "-1"], out=io.StringIO(), err=io.StringIO())
    assert ended.value.code == 2


def test_a_trace_too_short_to_judge_is_a_usage_error(tmp_path: Path) -> None:
    """A trace in which nothing follows the judged part has nothing to say."""
    err = io.StringIO()
    folder = str(write_bitbrains(tmp_path / "trace", [vm("1", [0.1])]))
    assert main(["verdicts", "--trace", folder], out=io.StringIO(), err=err) == 2
    assert "no VM has 14 days to judge by and a time afterwards" in err.getvalue()


def test_people_get_a_table(two_vms: Path) -> None:
    """Without `--json` each policy has a line, and each bar its verdict."""
    out = io.StringIO()
    assert main(["verdicts", "--trace", str(two_vms), "--judge-days", "2"], out=out, err=io.StringIO()) == 0
    lines = out.getvalue().splitlines()
    for name in POLICIES:
        assert any(line.split()[:1] == [name] for line in lines)
    assert sum(line.endswith((": ok", ": MISSED")) for line in lines) == len(OTHERS)


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return bench("--trace", str(trace("bitbrains/rnd-2013-08-dev150.tar.xz")), "--halves", "100")


def test_on_recorded_vms_one_of_ours_beats_each_of_the_others(recorded: Mapping[str, Any]) -> None:
    """The promise: at least as much freed at no more regret, for each other policy."""
    assert recorded["vms"] == 150
    assert [bar["name"] for bar in recorded["bars"] if not bar["ok"]] == []


def test_on_recorded_vms_nobody_beats_the_clairvoyant(recorded: Mapping[str, Any]) -> None:
    """The bound that is printed beside them is one."""
    for row in recorded["policies"]:
        assert row["clairvoyant_freed_vcpu_h"] >= row["freed_vcpu_h"]
        assert row["clairvoyant_regret_ratio"] <= row["regret_ratio"]


def test_on_recorded_vms_a_bolder_stop_frees_and_regrets_more(recorded: Mapping[str, Any]) -> None:
    """Along the dial both figures rise, so that an admin knows what a turn does."""
    ours = [row for row in recorded["policies"] if row["policy"].startswith("fallow-")]
    for figure in ("freed_vcpu_h", "regret_ratio"):
        values = [row[figure] for row in ours]
        assert values == sorted(values)


def test_the_bars_are_no_accident_of_some_vms(recorded: Mapping[str, Any]) -> None:
    """They hold in nearly every random half of the VMs too."""
    assert {
        name: recorded[f"held_in_halves_{name}"] for name in OTHERS if recorded[f"held_in_halves_{name}"] < 90
    } == {}
