"""`python -m bench simulate`: its bars on made figures, and one whole run on a small day."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.simulate import _honest_bars, _our_bars, deviation
from bench.simulate_tables import BANDS, published
from orchestrate.simulation.names import NAMES


def figures(policy: str, energy: float, violation: float, esv: float = 0.0) -> dict[str, object]:
    return {
        "trace": "day",
        "policy": policy,
        "energy_kwh": energy,
        "overall_sla_violation_pct": violation,
        "esv": esv,
    }


def test_the_tables_are_whole() -> None:
    """Both days, dropped and kept, each row once and of a policy that there is."""
    rows = published()
    assert len({(row.day, row.drop_idle, row.policy) for row in rows}) == len(rows) == 35
    assert {row.policy for row in rows} <= set(NAMES)
    assert {row.day for row in rows} == {"20110303", "20110409"}


def test_deviation_is_a_share_of_the_published_figure() -> None:
    """Twice the energy is off by 1; a run without migrations is held to its energy."""
    row = next(row for row in published() if row.policy == "THR-MMT")
    own: dict[str, object] = {name: float(row.figures[name]) for name in BANDS}
    assert deviation(row, own) == pytest.approx(dict.fromkeys(BANDS, 0.0))
    assert deviation(row, {**own, "energy_kwh": 2 * 192.623})["energy_kwh"] == pytest.approx(1.0)
    still = next(row for row in published() if row.policy == "DVFS")
    assert list(deviation(still, {"energy_kwh": 802.754})) == ["energy_kwh"]


def test_our_bars() -> None:
    """Energy against LR-MMT, ESV against the best that migrates, unserved demand against THR-MMT."""
    found = [figures("DVFS", 900, 0), figures("LR-MMT", 200, 0.2, 0.01), figures("THR-MMT", 250, 0.07, 0.008)]
    bars = _our_bars([*found, figures("fallow", 190, 0.03, 0.00007)])
    assert [bar.ok for bar in bars] == [True, True, True]
    assert [bar.ok for bar in _our_bars([*found, figures("fallow", 191, 0.036, 0.00009)])] == [False] * 3


def test_honest_bars() -> None:
    """Neither dominated on energy by one that violates less, nor on violation by one that uses less."""
    found = [figures("DVFS", 900, 0), figures("LR-MMT", 200, 0.2), figures("THR-MMT", 180, 0.3)]
    assert [bar.ok for bar in _honest_bars([*found, figures("fallow", 190, 0.1)])] == [True, True]
    assert not all(bar.ok for bar in _honest_bars([*found, figures("fallow", 950, 0.1)]))
    assert not all(bar.ok for bar in _honest_bars([*found, figures("fallow", 210, 0.25)]))


def test_a_small_day(tmp_path: Path) -> None:
    """All parts run, and the figures of each are there."""
    path = tmp_path / "day.csv"
    path.write_text("\n".join(f"vm{vm},{','.join(['10', '40'] * 6)}" for vm in range(6)) + "\n", encoding="utf-8")
    out = io.StringIO()
    argv = ["simulate", "--trace", str(path), "--policies", "DVFS", "THR-MMT", "LR-MMT", "--json"]
    assert main(argv, out=out, err=io.StringIO()) == 0
    found = json.loads(out.getvalue())
    assert [row["policy"] for row in found["reference"]] == ["DVFS", "THR-MMT", "LR-MMT", "fallow"]
    assert len(found["honest"]) == 4
    assert found["tables"] == []


def test_an_unknown_policy_is_a_mistake(tmp_path: Path) -> None:
    """Before anything is run."""
    path = tmp_path / "day.csv"
    path.write_text("vm,1,2\n", encoding="utf-8")
    err = io.StringIO()
    assert main(["simulate", "--trace", str(path), "--policies", "best"], out=io.StringIO(), err=err) == 2
    assert "'best' is no policy" in err.getvalue()
