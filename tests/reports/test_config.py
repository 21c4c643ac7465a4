"""Settings of the report."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import ConfigError
from reports.config import ReportConfig, ServeConfig, choose_policy, load_config
from reports.fallow_policy import STRICTNESS, fallow
from reports.policies import DEFAULT_POLICY, POLICIES
from reports.policy import below
from reports.savings import Prices
from reports.sizing import GIB, SizingLimits
from reports.timetable import TimetableLimits
from reports.verdicts import Limits, Settings

FULL = """
[report]
data = "/srv/fallow"
window = "2w"
policy = "owls"
top = 5
timezone = "Europe/Berlin"
silent_after = "30min"
min_coverage = "80%"
exclude_tags = ["keep", "mine"]

[report.sizing]
cpu_p95 = "50%"
memory_peak = 0.7
memory_step = "512MiB"
min_saving = "10%"

[report.timetable]
rest = "1%"
work = "10%"
min_rest_h = 6
early_h = 0
min_off_h_per_week = 60
min_weeks = 4

[report.prices]
currency = "EUR"
vcpu_hour = 0.02
mem_gib_hour = 0.003
disk_gib_month = 0.05
kwh = 0.3
watts_per_vcpu = 1
watts_per_mem_gib = 0.5
mem_gib_per_vcpu = 8

[report.serve]
listen = "127.0.0.1:0"
aggregator = "https://aggregator.example:8900"
admin_token_file = "/etc/fallow/admin.token"
nodes_ca = "/etc/fallow/ca.pem"
judge_every = "30min"
fresh_for = "90min"

[report.policies.owls]
summary = "hardly any CPU"
figure = "cpu_busy.p97"
below = "3%"
"""


def written(folder: Path, text: str, mode: int = 0o644) -> Path:
    path = folder / "report.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def problems_of(folder: Path, text: str) -> list[str]:
    """Every mistake in a file, without its path."""
    path = written(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, base=ReportConfig())
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_every_setting_is_read(tmp_path: Path) -> None:
    """A file that sets everything is what the report uses."""
    config = load_config(written(tmp_path, FULL), base=ReportConfig())
    owls = config.own_policies["owls"]
    assert owls.idle_when == below("cpu_busy.p97", 0.03)
    assert config == ReportConfig(
        data_dir=Path("/srv/fallow"),
        window_days=14,
        policy=owls,
        top=5,
        zone=ZoneInfo("Europe/Berlin"),
        limits=Limits(silent_after_s=1800.0, min_coverage_ratio=0.8, exclude_tags=("keep", "mine")),
        sizing=SizingLimits(cpu_p95_ratio=0.5, mem_max_ratio=0.7, mem_step_bytes=GIB / 2, min_saving_ratio=0.1),
        timetable=TimetableLimits(
            rest_ratio=0.01, work_ratio=0.1, min_rest_h=6, early_h=0, min_off_h_per_week=60, min_weeks=4
        ),
        prices=Prices(
            currency="EUR",
            vcpu_hour=0.02,
            mem_gib_hour=0.003,
            disk_gib_month=0.05,
            kwh=0.3,
            watts_per_vcpu=1.0,
            watts_per_mem_gib=0.5,
            mem_gib_per_vcpu=8.0,
        ),
        serve=ServeConfig(
            listen=("127.0.0.1", 0),
            aggregator_url="https://aggregator.example:8900",
            admin_token_file=Path("/etc/fallow/admin.token"),
            nodes_ca=Path("/etc/fallow/ca.pem"),
            judge_every_s=1800.0,
            fresh_for_s=5400.0,
        ),
        own_policies={"owls": owls},
    )


def test_verdicts_depend_on_what_the_file_says(tmp_path: Path) -> None:
    """The settings of verdicts hold every limit and price of the file."""
    config = load_config(written(tmp_path, FULL), base=ReportConfig())
    assert config.settings == Settings(
        window_days=14,
        limits=config.limits,
        sizing=config.sizing,
        timetable=config.timetable,
        prices=config.prices,
    )
    assert ReportConfig().settings == Settings()


def test_what_a_file_leaves_out_stays(tmp_path: Path) -> None:
    """An empty file, and one of empty tables, change nothing."""
    base = load_config(written(tmp_path, FULL), base=ReportConfig())
    assert load_config(written(tmp_path, ""), base=base) == base
    empty = "[report.sizing]\n[report.timetable]\n[report.prices]\n[report.serve]\n"
    assert load_config(written(tmp_path, empty), base=base) == base


def test_no_tags_means_that_none_exclude() -> None:
    """An empty list is a decision, not an absence."""
    config = ReportConfig.parse({"report": {"exclude_tags": []}}, source="x")
    assert config.limits.exclude_tags == ()


def test_the_token_lies_in_the_data_directory_unless_told() -> None:
    """The aggregator writes its admin token beside its data."""
    config = ReportConfig.parse({"report": {"data": "/srv/fallow"}}, source="x")
    assert config.admin_token_file == Path("/srv/fallow/admin.token")
    told = ReportConfig.parse({"report": {"serve": {"admin_token_file": "/etc/t"}}}, source="x")
    assert told.admin_token_file == Path("/etc/t")


@pytest.mark.parametrize("strictness", STRICTNESS)
def test_a_strictness_is_short_for_a_policy(strictness: str) -> None:
    """With the policy `fallow`, or with none, it chooses one of ours."""
    for table in ({"strictness": strictness}, {"strictness": strictness, "policy": "fallow"}):
        config = ReportConfig.parse({"report": table}, source="x")
        assert config.policy == fallow(strictness)


def test_a_policy_is_found_by_name_built_in_or_own(tmp_path: Path) -> None:
    """The command line may name whatever the file adds; all are listed, the built-in ones first."""
    config = load_config(written(tmp_path, FULL), base=ReportConfig())
    assert config.find_policy("owls").summary == "hardly any CPU"
    assert config.find_policy("fallow") is POLICIES[DEFAULT_POLICY]
    assert list(config.policies) == [*POLICIES, "owls"]
    with pytest.raises(ValueError, match=r"'best' is not a policy \(.*p95.*owls\)"):
        config.find_policy("best")


def test_policy_and_strictness_together() -> None:
    """Neither keeps what was; a strictness of another policy is refused."""
    default = POLICIES["aws"]
    assert choose_policy(None, None, own={}, default=default) is default
    assert choose_policy("p95", None, own={}, default=default) is POLICIES["p95"]
    assert choose_policy(None, "bold", own={}, default=default) is POLICIES["fallow-bold"]
    for name in ("p95", "fallow-cautious"):
        with pytest.raises(ValueError, match=f"alone, not with '{name}'"):
            choose_policy(name, "bold", own={}, default=default)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('window = "5 parsecs"', "report.window: '5 parsecs' is not a duration"),
        ('window = "36h"', "report.window: '36h' is not a number of whole days"),
        ('window = "51d"', "report.window: '51d' is not a number of whole days, at most 50"),
        ('policy = "best"', "report.policy: 'best' is not a policy (fallow-cautious"),
        ("policy = 3", "report.policy: 3 is not a policy"),
        ("policy = [3]", "report.policy: [3] is not a policy"),
        ('strictness = "brave"', "report.strictness: 'brave' is not a strictness (cautious"),
        (
            'strictness = "bold"\npolicy = "p95"',
            "report.strictness: goes with the policy \"fallow\" alone, not with 'p95'",
        ),
        ("top = 0", "report.top: 0 is not at least 1"),
        ("silent_after = 3600", "report.silent_after: 3600 is not a duration"),
        ('exclude_tags = "keep"', "report.exclude_tags: 'keep' is not a list of tags"),
        ("exclude_tags = [1]", "report.exclude_tags: 1 is not a text"),
        ('min_coverage = "105%"', "report.min_coverage: '105%' is more than the whole"),
        ("min_coverage = 0", "report.min_coverage: 0 is not more than zero"),
        ('timezone = "Mars/Olympus"', "report.timezone: 'Mars/Olympus' is not a time zone"),
        ('timezone = "../etc/passwd"', "report.timezone: '../etc/passwd' is not a time zone"),
        ('timezone = "Europe"', "report.timezone: 'Europe' is not a time zone"),
        ("timezone = 1", "report.timezone: 1 is not a time zone"),
        ('colour = "red"', "report.colour: unknown setting"),
        ('data = "/a"\nfleet = "sqlite:////b"', "report.fleet: not together with report.data"),
        ('[report.sizing]\ncpu_p95 = "0%"', "report.sizing.cpu_p95: '0%' is not more than zero"),
        ('[report.sizing]\nmemory_step = "1 cup"', "report.sizing.memory_step: '1 cup' is not a size"),
        ("[report.sizing]\nmemory = 1", "report.sizing.memory: unknown setting"),
        (
            "[report.timetable]\nmin_rest_h = 169",
            "report.timetable.min_rest_h: 169 is not a whole number from 1 to 168",
        ),
        ("[report.timetable]\nmin_rest_h = 168", "report.timetable.min_rest_h: is more than a week together"),
        ("[report.timetable]\nmin_weeks = 5", "report.timetable.min_weeks: 5 is not a whole number from 1 to 4"),
        ('[report.timetable]\nrest = "6%"', "report.timetable.work: is not above rest"),
        ("[report.prices]\nvcpu_hour = 0.02", "report.prices.currency: is missing beside the prices"),
        ('[report.prices]\ncurrency = ""', "report.prices.currency: '' is not a currency"),
        ("[report.prices]\nwatts_per_vcpu = -1", "report.prices.watts_per_vcpu: -1 is not a number of at least 0"),
        ("[report.prices]\nmem_gib_per_vcpu = 0", "report.prices.mem_gib_per_vcpu: 0 is not more than zero"),
        ('[report.serve]\nlisten = "8901"', "report.serve.listen: '8901' is not HOST:PORT"),
        ('[report.serve]\naggregator = "ftp://x"', "report.serve.aggregator: 'ftp://x' is not http://HOST:PORT"),
        ('[report.serve]\naggregator = "http://far:8900"', "report.serve.aggregator: 'http://far:8900' is on another"),
        ('[report.serve]\njudge_every = "3h"', "report.serve.fresh_for: is shorter than judge_every"),
        ("[report.policies.x]\nsummary = 'x'", "report.policies.x: takes one of figure, all and any"),
        ("deliveries = 3", "report.deliveries: is not a list of tables"),
        ("[[report.deliveries]]\nname = 'x'\ncron = '0 7 * * 1'", "report.deliveries[0].mail: exactly one of"),
    ],
)
def test_a_mistake_is_named_with_its_key(tmp_path: Path, line: str, problem: str) -> None:
    """One mistake is one problem, which says which file, which key, and what is wrong with it."""
    (found,) = problems_of(tmp_path, f"[report]\n{line}\n")
    assert found.startswith(problem)


@pytest.mark.parametrize("text", ["report = 3\n", "[reports]\ntop = 3\n", "top = 3\n"])
def test_a_file_without_the_table_is_no_configuration(tmp_path: Path, text: str) -> None:
    """What stands elsewhere is not silently left unread."""
    (problem,) = problems_of(tmp_path, text)
    assert problem.endswith("unknown setting")


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    """Mistakes of settings, policies and deliveries are reported by one run."""
    text = """
[report]
top = -1
window = "x"
x = 1
[report.policies.owls]
figure = "cpu.p95"
[[report.deliveries]]
name = "x"
"""
    places = {problem.partition(": ")[0] for problem in problems_of(tmp_path, text)}
    assert places >= {
        "report.top",
        "report.window",
        "report.x",
        "report.policies.owls.summary",
        "report.policies.owls.figure",
        "report.deliveries[0].cron",
    }


def test_a_policy_with_a_mistake_is_one_mistake(tmp_path: Path) -> None:
    """A policy that cannot be read is not called unknown as well where it is chosen."""
    text = '[report]\npolicy = "owls"\n[report.policies.owls]\nsummary = "x"\nfigure = "cpu.p95"\nbelow = 1\n'
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith("report.policies.owls.figure: ")


def test_deliveries_are_read_in_their_order(tmp_path: Path) -> None:
    """Each table of the list is a plan."""
    delivery = '[[report.deliveries]]\nname = "{0}"\ncron = "0 7 * * 1"\ndirectory = {{ path = "{1}" }}\n'
    text = "".join(delivery.format(name, tmp_path) for name in ("weekly", "other"))
    config = load_config(written(tmp_path, text), base=ReportConfig())
    assert [plan.name for plan in config.deliveries] == ["weekly", "other"]
    assert load_config(written(tmp_path, ""), base=config).deliveries == config.deliveries


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    *("data", "fleet", "window", "policy", "strictness", "top", "timezone", "silent_after", "min_coverage"),
    *("exclude_tags", "sizing", "timetable", "prices", "serve", "policies", "deliveries", "x"),
]


@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=4))
def test_whatever_a_file_holds_the_answer_is_settings_or_mistakes(table: dict[str, Any]) -> None:
    """No value of any type under any key does anything else than name a mistake or be taken."""
    with suppress(ConfigError):
        assert isinstance(ReportConfig.parse({"report": table}, source="x").settings, Settings)


def test_a_password_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """A URL with a password belongs in a file of its owner alone; without one, or there, it is taken."""
    secret = '[report]\nfleet = "postgresql+psycopg://u:hunter2@db/fallow"\n'
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, secret, 0o644), base=ReportConfig())
    assert "chmod 600" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    config = load_config(written(tmp_path, secret, 0o600), base=ReportConfig())
    assert config.fleet_url == "postgresql+psycopg://u:hunter2@db/fallow"
    assert "hunter2" not in repr(config)
    assert load_config(written(tmp_path, secret.replace(":hunter2", "")), base=ReportConfig()).fleet_url
