"""`simulate` as people and programs call it."""

from __future__ import annotations

import argparse
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from agent.settings import ConfigError
from orchestrate.simulation.cli import add_options, run
from orchestrate.simulation.names import DEFAULTS
from tests.aggregator.store_fakes import START_S, fill, minutes


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulate")
    add_options(parser)
    return parser.parse_args(list(argv))


def simulate(
    *argv: str,
    data_dir: Path = Path("absent"),
    err: io.StringIO | None = None,
    width: int | None = None,
    now_s: float = 0,
) -> str:
    out = io.StringIO()
    timer = itertools.count().__next__
    code = run(
        parse(*argv),
        data_dir=data_dir,
        out=out,
        err=err or io.StringIO(),
        width=width,
        clock=lambda: now_s,
        timer=lambda: float(timer()),
    )
    assert code == 0
    return out.getvalue()


def objects(*argv: str, **around: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(simulate(*argv, "--json", **around))
    return found


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """Eight VMs over 20 samples, some of them busy at times."""
    path = tmp_path / "day.csv"
    rows = [",".join([f"vm{vm}", *(str((vm * 13 + tick * 7) % 60) for tick in range(20))]) for vm in range(8)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_one_object_a_policy_and_trace(day: Path) -> None:
    """In the order asked for, with the names that the published tables have, and every figure."""
    found = objects("--trace", str(day), str(day), "--policy", "LR-MMT", "thr-mmt-0.7", "--mode", "reference")
    assert [(one["policy"], one["parameter"], one["trace"]) for one in found] == [
        ("LR-MMT", None, "day.csv"),
        ("THR-MMT", 0.7, "day.csv"),
    ] * 2
    assert set(found[0]) == {
        *("policy", "parameter", "trace", "mode", "drop_idle", "vms", "hosts", "energy_kwh", "migrations"),
        *("slatah_pct", "slatah_tolerant_pct", "slatah_overload_pct", "pdm_pct", "slav", "esv"),
        *("overall_sla_violation_pct", "overall_overload_pct", "shutdowns", "mean_time_to_shutdown_s"),
        *("mean_active_hosts", "hosts_woken", "refused_moves", "departed_vms", "run_s"),
    }
    assert (found[0]["vms"], found[0]["hosts"], found[0]["mode"], found[0]["drop_idle"]) == (8, 800, "reference", False)
    assert found[0]["run_s"] == 1.0
    assert found[0]["slav"] == pytest.approx(found[0]["slatah_pct"] * found[0]["pdm_pct"] / 1e4)
    assert found[0]["esv"] == pytest.approx(found[0]["slav"] * found[0]["energy_kwh"])
    assert {**found[0], "run_s": 0} == {**found[2], "run_s": 0}


def test_the_usual_policies_in_honest_mode(day: Path) -> None:
    """Unless told: ours and what it is compared with, and every policy from one start."""
    found = objects("--trace", str(day))
    assert [one["policy"] for one in found] == list(DEFAULTS)
    assert {one["mode"] for one in found} == {"honest"}
    npa, dvfs = found[0], found[1]
    assert npa["energy_kwh"] == pytest.approx(400 * (117 + 135) * 20 * 300 / 3.6e6)
    assert (npa["mean_active_hosts"], npa["migrations"]) == (800, 0)
    assert 0 < dvfs["energy_kwh"] < npa["energy_kwh"]


def test_npa_is_billed_until_the_last_tick_as_published(day: Path) -> None:
    """All hosts at full power for 300 s a tick and a tenth."""
    (npa,) = objects("--trace", str(day), "--policy", "NPA", "--mode", "reference")
    assert npa["energy_kwh"] == pytest.approx(400 * (117 + 135) * (19 * 300 + 0.1) / 3.6e6)


def test_idle_vms_leave_where_asked(day: Path) -> None:
    """The count is in the object, and a sentence below the table."""
    day.write_text(day.read_text(encoding="utf-8") + "idle" + ",0" * 20 + "\n", encoding="utf-8")
    options = ("--trace", str(day), "--policy", "DVFS", "--mode", "reference", "--drop-idle")
    assert objects(*options)[0]["departed_vms"] == 1
    assert "1 VM dropped because they were idle" in simulate(*options)


def test_the_seed_draws_the_lots(day: Path) -> None:
    """One seed, one result."""
    machines = day.with_name("park.toml")
    machines.write_text(
        '[[hosts]]\nname = "h"\ncount = 6\ncores = 2\ncore_mips = 2600\nram = "8GB"\n'
        f"power_w = {list(range(100, 210, 10))}\n",
        encoding="utf-8",
    )
    options = ("--trace", str(day), "--policy", "THR-RS-0.3", "--mode", "reference", "--machines", str(machines))
    first, again = objects(*options, "--seed", "5"), objects(*options, "--seed", "5")
    assert first == again
    assert first[0]["hosts"] == 6


def test_a_table_for_people(day: Path) -> None:
    """One line a policy below what was asked; in a narrow window fewer columns, and a word on that."""
    text = simulate("--trace", str(day), "--policy", "DVFS", "THR-MMT-0.7")
    assert text.splitlines()[0] == "day.csv: 8 VMs on 800 hosts, honest mode, idle VMs kept"
    assert any(line.startswith("THR-MMT-0.7 ") for line in text.splitlines())
    assert "SLATAH" in text
    narrow = simulate("--trace", str(day), "--policy", "DVFS", width=50)
    assert "SLATAH" not in narrow
    assert "A wider window" in narrow
    assert "unserved" in narrow


def test_progress_is_for_terminals(day: Path) -> None:
    """A file of errors stays empty."""
    quiet, loud = io.StringIO(), Terminal()
    simulate("--trace", str(day), "--policy", "DVFS", err=quiet)
    simulate("--trace", str(day), "--policy", "DVFS", err=loud)
    assert quiet.getvalue() == ""
    assert "day.csv: DVFS: 52 %" in loud.getvalue()
    assert loud.getvalue().endswith("\r\x1b[K")


def test_the_fleet_is_the_trace_unless_told(tmp_path: Path) -> None:
    """Its own last day, with the sizes it has."""
    fill(tmp_path, "web", minutes(START_S + 60, 60, cpu_busy_ratio=0.5, cpu_count=2, mem_total_bytes=1 << 30))
    (one,) = objects("--policy", "DVFS", data_dir=tmp_path, now_s=START_S + 3600.0)
    assert (one["trace"], one["vms"]) == ("fleet", 1)


def test_a_park_that_is_too_small_is_named(day: Path, tmp_path: Path) -> None:
    """Trace, policy, VM, and what would help."""
    machines = tmp_path / "park.toml"
    machines.write_text(
        '[[hosts]]\nname = "h"\ncount = 1\ncores = 2\ncore_mips = 2600\nram = "2GB"\n'
        f"power_w = {list(range(100, 210, 10))}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=r"day\.csv: DVFS: VM 2 .*--machines"):
        simulate("--trace", str(day), "--policy", "DVFS", "--machines", str(machines))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--policy", "THR-XYZ"), "'THR-XYZ' is no policy"),
        (("--policy", "THR-MMT-x"), "'x' is not a number"),
        (("--days", "0"), "0 is not at least 1"),
        (("--seed", "-1"), "'-1' is not a whole number|expected one argument"),
        (("--mode", "kind"), "invalid choice"),
        (("--trace",), "expected at least one argument"),
    ],
)
def test_wrong_options_end_with_2(argv: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """argparse names the option, and what is wrong with it."""
    with pytest.raises(SystemExit) as caught:
        parse(*argv)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert any(word in err for word in words.split("|"))


def test_a_trace_that_is_not_there(tmp_path: Path) -> None:
    """A mistake of the command line, by its name."""
    with pytest.raises(ConfigError, match=r"--trace: .*none\.csv: No such file"):
        simulate("--trace", str(tmp_path / "none.csv"))
