"""The controller's settings: what they come to, and every mistake named with its place."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from agent.settings import ConfigError
from aggregator.listen_settings import TlsFiles
from orchestrate.config import OrchestrateConfig, load_config
from orchestrate.groups import Approve, ReclaimSettings
from orchestrate.limits import Limits
from orchestrate.matching import Evidence
from orchestrate.records import Rung
from reports.deliver.targets import Security

WHOLE = """
[report]
data = "/var/lib/fallow"
window = "7d"
exclude_tags = ["keep"]

[orchestrate]
data = "/srv/control"
kill_switch = "/srv/STOP"
match = ["uuid", "mac"]

[[orchestrate.drivers]]
name = "lab"
kind = "simulated"
park = "park.toml"

[orchestrate.reclaim]
fresh = "3min"
min_coverage = "90%"
min_days = 7
outage = "20%"
batch = 5
recent_cpu = 0.2
agree_cpu = "15%"
emulation_cores = 0.1
agree_net_factor = 3
agree_net = "20 kB/s"

[[orchestrate.reclaim.groups]]
name = "dev"
tags = ["env:dev"]
owners = ["ann"]
names = ["dev-*"]
policy = "p95"
up_to = "stop"
grace = "2d"
stop_grace = "9d"
unknown_owner = true
approve = "auto"

[[orchestrate.reclaim.groups]]
name = "rest"
names = ["*"]

[orchestrate.limits]
run = 4
hour = 8
host = 2
owner = 3

[orchestrate.approval]
two_persons_above = 2

[orchestrate.hotspots]
up_to = "migrate"
approve = "auto"

detector = "mean"
planner = "sandpiper"
life = "30min"
cool_down = "2h"
no_return = "12h"
link = "1.25 GB/s"
cpu_overcommit = 2
memory_overcommit = 1.5
use = "80%"
min_gain = "10%"
max_moves = 3

[orchestrate.watch]
every = "30s"
reclaim_every = "2h"

[orchestrate.links]
url = "https://fallow.example.org/"
listen = "127.0.0.1:0"
tls_cert = "/etc/fallow/cert.pem"
tls_key = "/etc/fallow/key.pem"
plain_behind_proxy = true
proxies = ["10.0.0.0/28"]
life = "9d"
keep_for = "5d"

[orchestrate.notify.mail]
host = "mail.example.org"
from = "fallow@example.org"

[orchestrate.notify.webhook]
url = "https://hooks.example.org/fallow"
secret_file = "/etc/fallow/hook.secret"
"""


def parse(text: str) -> OrchestrateConfig:
    return OrchestrateConfig.parse(tomllib.loads(text), source="o.toml")


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value.problems


def test_without_a_file_nothing_is_allowed() -> None:
    """No hypervisors, no groups, no moves, no links and no way to owners."""
    config = OrchestrateConfig()
    assert not config.drivers
    assert not config.reclaim.groups
    assert config.match == {Evidence.UUID}
    assert not config.reclaim.relief.allowed
    assert not config.reclaim.consolidation.allowed
    assert (config.owners.links.url, config.owners.notify.mail, config.owners.notify.webhook) == (None, None, None)
    assert config.kill_switch == Path("/var/lib/fallow-orchestrate/STOP")


def test_every_setting_is_read() -> None:
    """Each key of the file is found in the values, in base units."""
    config = parse(WHOLE)
    reclaim = config.reclaim
    assert (config.data_dir, config.kill_switch) == (Path("/srv/control"), Path("/srv/STOP"))
    assert config.match == {Evidence.UUID, Evidence.MAC}
    assert [(one.name, one.kind, dict(one.settings)) for one in config.drivers] == [
        ("lab", "simulated", {"park": "park.toml"})
    ]
    assert config.report.window_days == 7
    assert (reclaim.fresh_s, reclaim.min_coverage_ratio, reclaim.min_days) == (180.0, 0.9, 7.0)
    assert (reclaim.outage_ratio, reclaim.batch, reclaim.recent_cpu_ratio) == (0.2, 5, 0.2)
    assert (reclaim.agree_cpu_ratio, reclaim.emulation_cores) == (0.15, 0.1)
    assert (reclaim.agree_net_factor, reclaim.agree_net_bytes_per_s) == (3.0, 20_000.0)
    assert reclaim.exclude_tags == ("keep",)
    assert reclaim.limits == Limits(run=4, hour=8, host=2, owner=3)
    assert reclaim.two_persons_above == 2
    assert (reclaim.relief.allowed, reclaim.relief.approve) == (True, Approve.AUTO)
    hotspots = config.hotspots
    assert (hotspots.detector.name, hotspots.planner.name) == ("mean", "sandpiper")
    assert (hotspots.life_s, hotspots.cool_down_s, hotspots.no_return_s) == (1800.0, 7200.0, 43_200.0)
    assert (hotspots.hosts.link_bytes_per_s, hotspots.hosts.cpu_overcommit_ratio) == (1.25e9, 2.0)
    assert hotspots.hosts.mem_overcommit_ratio == 1.5
    assert (hotspots.planning.use_ratio, hotspots.planning.min_gain_ratio, hotspots.planning.max_moves) == (0.8, 0.1, 3)
    assert (config.owners.watch.every_s, config.owners.watch.reclaim_every_s) == (30.0, 7200.0)
    dev, rest = reclaim.groups
    assert (dev.tags, dev.owners, dev.names, dev.policy) == (("env:dev",), ("ann",), ("dev-*",), "p95")
    assert (dev.up_to, dev.grace_s, dev.stop_grace_s) == (Rung.STOP, 2 * 86_400.0, 9 * 86_400.0)
    assert (dev.unknown_owner, dev.approve) == (True, Approve.AUTO)
    assert (rest.up_to, rest.approve, rest.unknown_owner) == (Rung.REPORT, Approve.PERSON, False)
    assert [policy.name for policy in config.policies] == ["fallow-balanced", "p95"]
    links, notify = config.owners.links, config.owners.notify
    assert (links.url, links.listen) == ("https://fallow.example.org", ("127.0.0.1", 0))
    assert (links.life_s, links.keep_for_s) == (9 * 86_400.0, 5 * 86_400.0)
    door = config.owners.door
    assert door.tls == TlsFiles(cert=Path("/etc/fallow/cert.pem"), key=Path("/etc/fallow/key.pem"))
    assert (door.plain_behind_proxy, door.trusted.includes("10.0.0.9")) == (True, True)
    assert notify.mail is not None
    assert (notify.mail.host, notify.mail.sender, notify.mail.security) == (
        "mail.example.org",
        "fallow@example.org",
        Security.STARTTLS,
    )
    assert notify.webhook is not None
    assert notify.webhook.url == "https://hooks.example.org/fallow"


def test_what_a_file_leaves_out_has_its_default() -> None:
    """An empty table is the default, and a file of the report alone is a file of the controller."""
    assert parse("[orchestrate]\n").reclaim == ReclaimSettings()
    assert parse("[report]\ntop = 3\n").report.top == 3


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[orchestrat]\n", "orchestrat: unknown"),
        ("orchestrate = 3\n", "orchestrate: is not a table"),
        ("[report]\ntopp = 3\n", "report.topp: unknown"),
        ("[orchestrate]\nwhat = 1\n", "orchestrate.what: unknown"),
        ("[orchestrate.approval]\ntwo_persons_above = -1\n", "orchestrate.approval.two_persons_above: -1 is neither"),
        ("[orchestrate.approval]\ntwo_persons_above = true\n", "two_persons_above: True is neither"),
        ('[orchestrate]\nmatch = ["address"]\n', "orchestrate.match: 'address' is not enough"),
        ("[orchestrate]\nmatch = []\n", "orchestrate.match"),
        ('[[orchestrate.drivers]]\nkind = "libvirt"\n', "name: is missing"),
        ("[orchestrate]\ndrivers = 3\n", "drivers: is not a list"),
        ('[orchestrate.reclaim]\nfresh = "0s"\n', "orchestrate.reclaim.fresh"),
        ('[orchestrate.reclaim]\noutage = "110%"\n', "orchestrate.reclaim.outage"),
        ("[orchestrate.reclaim]\nbatch = 0\n", "orchestrate.reclaim.batch"),
        ("[orchestrate.reclaim]\nmin_days = 0\n", "orchestrate.reclaim.min_days"),
        ("[orchestrate.reclaim]\ngroups = 3\n", "orchestrate.reclaim.groups: is not a list"),
        ('[[orchestrate.reclaim.groups]]\nnames = ["*"]\n', "groups[0]: name: is missing"),
        ('[[orchestrate.reclaim.groups]]\nname = "a"\n', "says of no VM"),
        ('[[orchestrate.reclaim.groups]]\nname = "a"\nnames = ["*"]\nup_to = "delete"\n', "groups[0]: up_to: 'delete'"),
        ('[[orchestrate.reclaim.groups]]\nname = "a"\nnames = ["*"]\napprove = "me"\n', "groups[0]: approve: 'me'"),
        ('[[orchestrate.reclaim.groups]]\nname = "a"\nnames = ["*"]\npolicy = "x"\n', "groups[0]: policy: 'x'"),
        ('[[orchestrate.reclaim.groups]]\nname = "a"\nnames = "*"\n', "groups[0]: names"),
        ('[[orchestrate.reclaim.groups]]\nname = "a"\nnames = ["*"]\ngrace = "5 parsecs"\n', "groups[0]: grace"),
        ('[[orchestrate.reclaim.groups]]\nname = "a"\nnames = ["*"]\ncolour = 1\n', "groups[0]: colour: unknown"),
        ("[orchestrate.limits]\nrun = 5\nhour = 2\n", "orchestrate.limits.hour: is less than run"),
        ("[orchestrate.limits]\nrun = -1\n", "orchestrate.limits.run"),
        ('[orchestrate.hotspots]\nup_to = "stop"\n', "orchestrate.hotspots.up_to: 'stop'"),
        ('[orchestrate.hotspots]\ndetector = "eyes"\n', "orchestrate.hotspots.detector: 'eyes'"),
        ('[orchestrate.hotspots]\nlink = "0 B/s"\n', "orchestrate.hotspots.link"),
        ('[orchestrate.watch]\nevery = "-5s"\n', "orchestrate.watch.every"),
        ('[orchestrate.links]\nurl = "http://fallow.example.org"\n', "orchestrate.links.url"),
        ('[orchestrate.links]\nurl = "fallow"\n', "orchestrate.links.url"),
        ('[orchestrate.links]\ntls_cert = "c.pem"\n', "orchestrate.links.tls_cert: tls_cert and tls_key"),
        ("[orchestrate.links]\nproxies = [1]\n", "orchestrate.links.proxies: 1 is not a network"),
        ("[orchestrate]\nnotify = 3\n", "orchestrate.notify: is not a table"),
        ('[orchestrate.notify.pigeon]\nname = "x"\n', "orchestrate.notify.pigeon: unknown"),
        ('[orchestrate.notify.mail]\nhost = "m"\n', "orchestrate.notify.mail.from: is missing"),
        ('[orchestrate.notify.mail]\nfrom = "a@b.org"\n', "orchestrate.notify.mail.host: is missing"),
        ('[orchestrate.notify.mail]\nhost = "m"\nfrom = "a@b.org"\nto = ["c@b.org"]\n', "orchestrate.notify.mail.to"),
        ('[orchestrate.notify.webhook]\nurl = "ftp://x/"\nsecret_file = "s"\n', "orchestrate.notify.webhook.url"),
    ],
)
def test_each_mistake_is_named_with_its_place(text: str, place: str) -> None:
    """One line a mistake, with the file and the key."""
    (problem,) = problems(text)
    assert problem.startswith("o.toml: ")
    assert place in problem


def test_all_mistakes_are_told_at_once() -> None:
    """Of the report, the groups, the drivers and the rest together."""
    found = problems(
        "[report]\ntop = 0\n[orchestrate]\nwhat = 1\n[orchestrate.limits]\nrun = 0\n"
        '[[orchestrate.reclaim.groups]]\nname = "a"\n[[orchestrate.drivers]]\nname = "b"\n'
    )
    assert len(found) == 5


def test_two_groups_of_one_name_are_refused() -> None:
    """Which of them a VM went by could not be told."""
    group = '[[orchestrate.reclaim.groups]]\nname = "a"\nnames = ["*"]\n'
    assert any("another group" in problem for problem in problems(group * 2))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('up_to = "stop"', 'up_to = "suspend"'),
        ("run = 4", "run = 5"),
        ("two_persons_above = 2", 'two_persons_above = "never"'),
        ('match = ["uuid", "mac"]', 'match = ["uuid"]'),
        ('policy = "p95"', 'policy = "classic"'),
        ('window = "7d"', 'window = "14d"'),
        ('name = "lab"', 'name = "lab2"'),
        ('exclude_tags = ["keep"]', 'exclude_tags = ["kept"]'),
        ('fresh = "3min"', 'fresh = "4min"'),
    ],
)
def test_whatever_decides_changes_the_hash_of_the_settings(old: str, new: str) -> None:
    """A plan made under other rules must be refused."""
    assert old in WHOLE
    assert parse(WHOLE).settings_sha256 != parse(WHOLE.replace(old, new)).settings_sha256


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('data = "/srv/control"', 'data = "/srv/other"'),
        ('life = "9d"', 'life = "8d"'),
        ('park = "park.toml"', 'park = "other.toml"'),
    ],
)
def test_what_decides_nothing_leaves_the_hash(old: str, new: str) -> None:
    """Plans stay good when only a path or a link's life changed."""
    assert old in WHOLE
    assert parse(WHOLE).settings_sha256 == parse(WHOLE.replace(old, new)).settings_sha256


def test_a_password_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """As fallow-report refuses it."""
    path = tmp_path / "o.toml"
    path.write_text('[report]\nfleet = "postgresql+psycopg://a:secret@h/f"\n', encoding="utf-8")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        load_config(path, base=OrchestrateConfig())
    assert "secret" not in str(caught.value)
    path.chmod(0o600)
    assert load_config(path, base=OrchestrateConfig()).report.fleet_url is not None
