"""`fallow-report compare` and `fallow-report policies`."""

from __future__ import annotations

import argparse
import csv
import io
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent.settings import ConfigError
from reports.compare_cli import add_compare_options, add_policies_options, run_compare, run_policies
from reports.config import ReportConfig
from reports.own_policies import read_policies
from reports.policies import DEFAULT_POLICY, POLICIES
from tests.reports.fleets import NOW_S, SPIKY, Spec, one_of_each, stored, write_fleet

OWN = ReportConfig.parse(
    tomllib.loads(
        '[report]\npolicy = "owls"\ntop = 1\n'
        '[report.policies.owls]\nsummary = "no CPU"\nfigure = "cpu_busy.max"\nbelow = "5%"\n'
    ),
    source="report.toml",
)
FLEET = [*one_of_each(), Spec(vm_id="vm-spiky", load=SPIKY)]


def parsed(add_options: Callable[[argparse.ArgumentParser], None], *argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser)
    return parser.parse_args(argv)


def compared(*argv: str, config: ReportConfig = OWN, now_s: float = NOW_S) -> str:
    out = io.StringIO()
    options = parsed(add_compare_options, *argv)
    code = run_compare(options, config, out=out, clock=lambda: now_s, open_to_read=lambda _url, _path: stored(FLEET))
    assert code == 0
    return out.getvalue()


def policies(*argv: str, config: ReportConfig = OWN) -> str:
    out = io.StringIO()
    assert run_policies(parsed(add_policies_options, *argv), config, out=out) == 0
    return out.getvalue()


def test_every_policy_judges_unless_told() -> None:
    """The built-in ones and the configuration's own come, and so many disputed VMs as the configuration lists."""
    found = json.loads(compared("--json"))
    assert [policy["name"] for policy in found["policies"]] == [*POLICIES, "owls"]
    assert found["generated_at_s"] == NOW_S
    assert len(found["disputed"]) == 1


def test_policies_are_chosen_by_name_each_once() -> None:
    """`--policy` may repeat, keeps its order, knows `fallow` and the configuration's own."""
    asked = [word for name in ("owls", "p95", "fallow", DEFAULT_POLICY, "p95") for word in ("--policy", name)]
    rows = csv.DictReader(io.StringIO(compared("--csv", *asked)))
    assert [row["policy"] for row in rows] == ["owls", "p95", DEFAULT_POLICY]


def test_text_is_what_people_get() -> None:
    """Without a form it is the text, with as many disputed VMs as `--top` says."""
    text = compared("--policy", "p95", "--policy", "classic", "--top", "2")
    assert text.startswith("fallow, 2026-11-16 12:06 UTC: 11 VMs, window 14 d, judged by 2 policies\n")
    assert "\x1b" not in text
    assert compared("--policy", "p95", "--window", "7d").startswith("fallow, 2026-11-16 12:06 UTC: 11 VMs, window 7 d")


def test_options_go_over_the_configuration() -> None:
    """`--window` and `--silent-after` change what every policy sees."""
    usual = json.loads(compared("--json", "--policy", "p95"))
    patient = json.loads(compared("--json", "--policy", "p95", "--silent-after", "3h", "--window", "7d"))
    assert (usual["window_days"], patient["window_days"]) == (14, 7)
    assert usual["policies"][0]["causes"]["silent"] == 1
    assert "silent" not in patient["policies"][0]["causes"]


def test_every_unknown_policy_is_named() -> None:
    """A mistake names what exists, before any database is opened."""

    def never(_url: str | None, _path: Path) -> sa.Engine:
        raise AssertionError

    options = parsed(add_compare_options, "--policy", "best", "--policy", "p95", "--policy", "worst")
    with pytest.raises(ConfigError) as caught:
        run_compare(options, OWN, out=io.StringIO(), open_to_read=never)
    assert [problem.partition(" is not")[0] for problem in caught.value.problems] == [
        "--policy: 'best'",
        "--policy: 'worst'",
    ]
    assert "owls" in str(caught.value)


def test_a_window_that_is_not_kept_is_a_mistake() -> None:
    """Asked for a window without figures, the command says which there are."""
    with pytest.raises(ConfigError, match="no window of 5d"):
        compared("--window", "5d")


@pytest.mark.parametrize("argv", [["--top", "0"], ["--window", "36h"], ["--silent-after", "60"]])
def test_a_wrong_value_of_an_option_is_refused(argv: list[str]) -> None:
    """The parser of settings has the last word, and says why."""
    with pytest.raises(argparse.ArgumentError, match=r"is not"):
        parsed(add_compare_options, *argv)


def test_the_database_is_closed_whatever_happens(tmp_path: Path) -> None:
    """The engine is disposed of after an error too."""
    write_fleet(tmp_path, FLEET)
    disposed: list[Path] = []

    def opened(_url: str | None, path: Path) -> sa.Engine:
        engine = sa.create_engine(f"sqlite:///{tmp_path / 'absent.db'}")
        sa.event.listen(engine, "engine_disposed", lambda _engine: disposed.append(path))
        return engine

    with pytest.raises(sa.exc.OperationalError):
        run_compare(parsed(add_compare_options), OWN, out=io.StringIO(), open_to_read=opened)
    assert disposed == [OWN.data_dir]


def test_a_data_directory_is_read_as_it_lies(tmp_path: Path) -> None:
    """Unless told otherwise the command opens the fleet database of the data directory, for reading."""
    write_fleet(tmp_path, FLEET)
    before = (tmp_path / "fleet.db").read_bytes()
    out = io.StringIO()
    config = ReportConfig(data_dir=tmp_path)
    assert run_compare(parsed(add_compare_options, "--json"), config, out=out, clock=lambda: NOW_S) == 0
    assert json.loads(out.getvalue())["vms"] == len(FLEET)
    assert (tmp_path / "fleet.db").read_bytes() == before


def test_policies_are_listed_with_their_sources() -> None:
    """Every policy with its summary and source; a star marks the one that judges unasked."""
    text = policies()
    for policy in (*POLICIES.values(), *OWN.own_policies.values()):
        assert f" {policy.name} " in text
        assert policy.summary in text
        assert policy.source in text
    starred = [line for line in text.splitlines() if line.startswith("* ")]
    assert [line.split()[1] for line in starred[:-1]] == ["owls"]


def test_one_policy_is_shown_with_its_limits() -> None:
    """The rules stand in an outline, with their limits and the names that a configuration uses."""
    assert policies("bmc") == (
        "bmc: CPU below 5%, disk below 100 KB/s, network below 200 KB/s for 95% of 7 days\n"
        f"  source: {POLICIES['bmc'].source}\n"
        "  a VM must be 7 days old\n"
        "  idle when\n"
        "    - all of\n"
        "      - CPU in 95% of the last 7 days below 5% (cpu_busy.p95/7d)\n"
        "      - disk traffic in 95% of the last 7 days below 100 kB/s (disk_io.p95/7d)\n"
        "      - network traffic in 95% of the last 7 days below 200 kB/s (net_io.p95/7d)\n"
    )
    text = policies("fallow")
    assert text.startswith(f"{DEFAULT_POLICY}: ")
    assert "- any of\n" in text
    assert ", where it is measured (" in text


def test_policies_are_written_as_a_configuration_has_them() -> None:
    """`--toml` of one, own or all is read back as the same; a built-in one says that it needs another name."""
    text = policies("--toml")
    assert read_policies(tomllib.loads(text)["report"]["policies"], source="x", taken=()) == (dict(OWN.policies), [])
    assert text.count("give it a name of your own") == len(POLICIES)
    assert policies("owls", "--toml").startswith("[report.policies.owls]\n")


def test_policies_are_told_to_programs() -> None:
    """JSON has every rule with its limit in the measure's unit, nested as the policy is."""
    found = json.loads(policies("--json"))
    assert found["default"] == "owls"
    assert [policy["name"] for policy in found["policies"]] == [*POLICIES, "owls"]
    by_name = {policy["name"]: policy for policy in found["policies"]}
    assert by_name["owls"] == {
        "name": "owls",
        "summary": "no CPU",
        "source": "written for this cloud in report.toml",
        "own": True,
        "min_age_days": 0.0,
        "idle_when": {
            "figure": "cpu_busy.max",
            "words": "highest CPU",
            "comparison": "<",
            "limit": 0.05,
            "unit": "ratio",
            "days": None,
            "optional": False,
        },
    }
    assert [rule["days"] for rule in by_name["azure"]["idle_when"]["all"]] == [7, 3, 7]
    assert by_name["fallow-bold"]["idle_when"]["all"][0]["any"]


def test_an_unknown_policy_cannot_be_shown() -> None:
    """The mistake names those that exist."""
    with pytest.raises(ConfigError, match=r"'best' is not a policy \(.*p95"):
        policies("best")
