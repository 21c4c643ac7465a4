"""Settings of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.settings import ConfigError
from reports.config import ReportConfig, load_config
from reports.policies import P95
from reports.verdicts import Limits

FULL = """
[report]
data = "/srv/fallow"
window = "2w"
policy = "p95"
top = 5
silent_after = "30min"
exclude_tags = ["keep", "mine"]
"""


def written(folder: Path, text: str, mode: int = 0o644) -> Path:
    path = folder / "report.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_every_setting_is_read(tmp_path: Path) -> None:
    """A file that sets everything is what the report uses."""
    assert load_config(written(tmp_path, FULL), base=ReportConfig()) == ReportConfig(
        data_dir=Path("/srv/fallow"),
        window_days=14,
        policy=P95,
        top=5,
        limits=Limits(silent_after_s=1800.0, exclude_tags=("keep", "mine")),
    )


def test_what_a_file_leaves_out_stays(tmp_path: Path) -> None:
    """An empty file changes nothing."""
    base = ReportConfig(data_dir=Path("/elsewhere"), top=3)
    assert load_config(written(tmp_path, ""), base=base) == base


def test_no_tags_means_that_none_exclude() -> None:
    """An empty list is a decision, not an absence."""
    config = ReportConfig.parse({"report": {"exclude_tags": []}}, source="x")
    assert config.limits.exclude_tags == ()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('window = "5 parsecs"', "report.window: '5 parsecs' is not a duration"),
        ('window = "36h"', "report.window: '36h' is not a number of whole days"),
        ('policy = "best"', "report.policy: 'best' is not a policy (classic, p95)"),
        ("top = 0", "report.top: 0 is not at least 1"),
        ("silent_after = 3600", "report.silent_after: 3600 is not a duration"),
        ('exclude_tags = "keep"', "report.exclude_tags: 'keep' is not a list of tags"),
        ("exclude_tags = [1]", "report.exclude_tags: 1 is not a text"),
        ('colour = "red"', "report.colour: unknown setting"),
        ('data = "/a"\nfleet = "sqlite:////b"', "report.fleet: not together with report.data"),
    ],
)
def test_a_mistake_is_named_with_its_key(tmp_path: Path, line: str, problem: str) -> None:
    """The message says which file, which key, and what is wrong with it."""
    path = written(tmp_path, f"[report]\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, base=ReportConfig())
    assert f"{path}: {problem}" in str(caught.value)


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    """Three mistakes are three problems, not three runs."""
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, '[report]\ntop = -1\nwindow = "x"\nx = 1\n'), base=ReportConfig())
    assert len(caught.value.problems) == 3


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
