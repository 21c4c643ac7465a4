"""What deploy/ ships for the controller works: the example's settings exist and show the defaults."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields, replace
from pathlib import Path

from orchestrate.config import OrchestrateConfig
from orchestrate.groups import Group, ReclaimSettings
from orchestrate.records import Rung

EXAMPLE = (Path(__file__).parents[2] / "deploy" / "orchestrate.toml").read_text(encoding="utf-8")


def uncommented() -> OrchestrateConfig:
    """The example once the comment signs before its settings are gone."""
    text = re.sub(r"^# (\[+[\w.]+\]+|\w+ = .*)$", r"\1", EXAMPLE, flags=re.MULTILINE)
    return OrchestrateConfig.parse(tomllib.loads(text), source="orchestrate.toml")


def test_the_example_as_it_is_changes_nothing() -> None:
    """Whoever copies it has the defaults."""
    assert OrchestrateConfig.parse(tomllib.loads(EXAMPLE), source="orchestrate.toml") == OrchestrateConfig()


def test_every_commented_setting_shows_its_default() -> None:
    """Without the comment signs it parses and, but for what it calls examples, changes nothing."""
    config, usual = uncommented(), OrchestrateConfig()
    assert config.kill_switch == usual.kill_switch
    assert config.reclaim.batch == 10
    assert replace(config.reclaim, groups=(), batch=None) == usual.reclaim
    assert config.hotspots == usual.hotspots
    assert replace(config.owners.links, url=None) == usual.owners.links
    assert config.owners.watch == usual.owners.watch
    assert config.owners.notify.mail is not None
    assert config.owners.notify.webhook is not None
    assert [driver.kind for driver in config.drivers] == ["libvirt"]
    (group,) = config.reclaim.groups
    plain = Group(name="dev", tags=("env:dev",), owners=("ann", "bob"), names=("dev-*",), policy="fallow-balanced")
    assert group == replace(plain, up_to=Rung.SUSPEND)


def test_the_example_names_every_setting_of_the_ladder() -> None:
    """One more field of a group or of the limits has to be told here too."""
    told = set(re.findall(r"^# (\w+) = ", EXAMPLE, re.MULTILINE))
    names = {each.name.removesuffix("_s") for each in fields(Group)}
    assert names <= told
    of_report = {"groups", "max_skew", "exclude_tags", "pin_tags", "limits", "relief", "consolidation"}
    plain = {re.sub(r"_(s|ratio|bytes_per_s)$", "", each.name) for each in fields(ReclaimSettings)} - of_report
    assert plain <= told, plain - told
