"""Placement: stages in order, promises and use both checked, every other host's reason, never a guess."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.settings import ConfigError
from orchestrate.hotspots import place_cli
from orchestrate.hotspots.hosts import HostSettings, Site
from orchestrate.hotspots.placement import (
    BestFit,
    FirstFit,
    Placement,
    Request,
    RoundRobin,
    Stage,
    Staged,
    WeightedRandom,
    place,
    rule_named,
)
from orchestrate.memory import MemoryRecords
from orchestrate.records import Hold
from tests.orchestrate.hotspots.hot_fleets import GIB, NOW_S, Guest, hosts, site

SMALL = Request(vcpus=2, mem_bytes=4 * GIB)


def words_of(found: Placement, host: str) -> str:
    return next(each.words for each in found.passed if each.host_id == host)


def test_first_where_nothing_is_promised_twice() -> None:
    """The host with most memory that is not promised, though another one is busier promised and quieter in use."""
    guests = [
        Guest(number=1, host="hv1", cpu=0.01, vcpus=16, mem_gib=16),
        Guest(number=2, host="hv2", cpu=0.3, vcpus=8, mem_gib=32),
        Guest(number=3, host="hv3", cpu=0.3, vcpus=8, mem_gib=24),
    ]
    found = place([site(guests)], SMALL, Staged())
    assert (found.host_id, found.stage, found.overcommit_cpu_ratio) == ("hv3", Stage.PROMISED, 10 / 16)
    assert "would do" in words_of(found, "hv1")


def test_then_by_what_all_vms_use() -> None:
    """Where all vCPUs are promised, the p95 of the VMs decides, and the answer says that it overcommits."""
    guests = [Guest(number=each, host=f"hv{each}", cpu=0.1 * each, vcpus=16, mem_gib=8) for each in (1, 2, 3)]
    found = place([site(guests)], SMALL, Staged())
    assert (found.host_id, found.stage) == ("hv1", Stage.VMS)
    assert "112.5% of its cores are promised then" in found.words


def test_then_by_what_the_host_uses() -> None:
    """VMs that peak in turn leave room on their host, though their own peaks together do not."""
    one = [0.9 if step % 2 else 0.1 for step in range(10)]
    other = [0.1 if step % 2 else 0.9 for step in range(10)]
    guests = [
        Guest(number=1, host="hv1", cpu=one, vcpus=10, mem_gib=8),
        Guest(number=2, host="hv1", cpu=other, vcpus=10, mem_gib=8),
    ]
    (only,) = (site(guests, hosts("hv1")),)
    found = place([only], SMALL, Staged(), use_ratio=0.9)
    assert (found.host_id, found.stage) == ("hv1", Stage.HOST)


def test_last_it_says_that_it_does_not_fit() -> None:
    """No host, and each one's reason: never the least full as a guess."""
    guests = [
        Guest(number=1, host="hv1", cpu=0.74, vcpus=16, mem_gib=8),
        Guest(number=2, host="hv2", cpu=0.01, vcpus=4, mem_gib=62),
        Guest(number=3, host="hv3", cpu=0.01, vcpus=63, mem_gib=8),
    ]
    machines = (*hosts("hv1", "hv2", "hv3"), *hosts("hv4", accepts=False))
    for rule in (Staged(), BestFit(), FirstFit(), RoundRobin(), WeightedRandom(1)):
        found = place([site(guests, machines)], SMALL, rule)
        assert (found.host_id, found.words) == (None, "it fits none of 4 hosts")
        assert words_of(found, "hv1").startswith("cpu would be 86.5% full, more than 75%")
        assert words_of(found, "hv2") == "2.0 GiB of 64.0 GiB memory not promised yet, 4.0 GiB asked"
        assert words_of(found, "hv3") == "1 of 64 vCPUs not promised yet, 2 asked"
        assert words_of(found, "hv4") == "takes no VMs now"
    assert place([], SMALL, Staged()).words == "there is no host"


def test_simple_rules() -> None:
    """The fullest, the first, the next, and one by lot that the same seed repeats."""
    guests = [Guest(number=each, host=f"hv{each}", cpu=0.1 * each, vcpus=8, mem_gib=8) for each in (1, 2, 3)]
    made = [site(guests)]
    assert place(made, SMALL, BestFit()).host_id == "hv3"
    assert place(made, SMALL, FirstFit()).host_id == "hv1"
    assert place(made, SMALL, RoundRobin()).host_id == "hv1"
    assert place(made, SMALL, RoundRobin(("lab", "hv1"))).host_id == "hv2"
    assert place(made, SMALL, RoundRobin(("lab", "hv3"))).host_id == "hv1"
    lots = [place(made, SMALL, WeightedRandom(seed)).host_id for seed in range(40)]
    assert set(lots) == {"hv1", "hv2", "hv3"}
    assert lots == [place(made, SMALL, WeightedRandom(seed)).host_id for seed in range(40)]


@settings(deadline=None)
@given(
    st.sampled_from(place_cli.RULES),
    st.lists(
        st.tuples(
            st.sampled_from(["hv1", "hv2", "hv3"]),
            st.one_of(st.none(), st.floats(0, 1)),
            st.integers(1, 16),
            st.integers(1, 40),
        ),
        max_size=9,
    ),
    st.integers(1, 20),
    st.integers(1, 64),
)
def test_no_rule_ever_overfills(
    name: str, rows: list[tuple[str, float | None, int, int]], vcpus: int, gib: int
) -> None:
    """Promises and use stay within limits with the new VM; where a host would do, one is found; each is told of."""
    guests = [
        Guest(number=number, host=host, cpu=cpu, vcpus=each, mem_gib=mem)
        for number, (host, cpu, each, mem) in enumerate(rows, 1)
    ]
    made = site(guests)
    request = Request(vcpus=vcpus, mem_bytes=gib * GIB)
    found = place([made], request, rule_named(name, seed=1, after=None))
    assert len(found.passed) + (found.host_id is not None) == 3
    if found.host_id is None:
        assert not any("would do" in each.words for each in found.passed)
        return
    row = ["hv1", "hv2", "hv3"].index(found.host_id)
    assert (made.promised[row] + (vcpus, gib * GIB) <= made.promisable[row]).all()
    load = made.need_ratio[row] * made.capacity[row]
    assert load[0] + min(vcpus, 16) <= 0.75 * 16 + 1e-9
    assert load[1] + gib * GIB <= 0.75 * 64 * GIB + 1e-3


class Shell:
    """`place` over sites and records at hand."""

    def __init__(self, guests: Sequence[Guest] = (), settings: HostSettings | None = None) -> None:
        self.guests, self.records, self.looks = guests, MemoryRecords(), 0
        self.meddle: list[Hold] = []

    def look(self, holds: Sequence[Hold]) -> Sequence[Site]:
        self.looks += 1
        made = [site(self.guests, holds=holds)]
        for hold in self.meddle:
            self.records.put_hold(hold, by="ben")
        return made

    def __call__(self, *argv: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        place_cli.add_options(parser)
        out = io.StringIO()
        code = place_cli.run(
            parser.parse_args(argv),
            look=self.look,
            records=self.records,
            by="ann",
            out=out,
            clock=lambda: NOW_S,
            new_id=lambda: "abcd1234",
        )
        return code, out.getvalue()


def test_command_prints_host_and_reasons() -> None:
    """The host, what the choice rests on, and each other host with its reason; nothing is kept."""
    shell = Shell([Guest(number=1, host="hv1", cpu=0.74, vcpus=16)])
    code, text = shell("--vcpus", "2", "--memory", "4GiB", "--disk", "20GiB")
    assert code == 0
    assert text.splitlines()[0] == "2 vCPUs, 4.0 GiB: hv2 of lab"
    assert "not checked" in text
    assert "  hv1 of lab: cpu would be 86.5% full, more than 75%" in text.splitlines()
    assert shell.records.holds(NOW_S) == []


def test_command_holds_the_room() -> None:
    """With --hold the room is promised, and the next one is placed beside it."""
    shell = Shell()
    code, text = shell("--vcpus", "2", "--memory", "40GiB", "--hold", "15min", "--name", "build-7", "--json")
    document = json.loads(text)
    assert (code, document["host_id"], document["hold"]["hold_id"]) == (0, "hv1", "abcd1234")
    assert document["hold"]["what"] == "build-7"
    (hold,) = shell.records.holds(NOW_S)
    assert (hold.expires_s - NOW_S, hold.mem_bytes) == (900, 40 * GIB)
    assert json.loads(shell("--vcpus", "2", "--memory", "40GiB", "--json")[1])["host_id"] == "hv2"


def test_command_when_others_are_quicker() -> None:
    """Room that is taken between look and promise is not promised again: it gives up after some tries."""
    shell = Shell()
    shell.meddle = [
        Hold(
            hold_id=f"x{each}",
            driver="lab",
            host_id=f"hv{each}",
            vcpus=1,
            mem_bytes=60 * GIB,
            what="",
            made_s=NOW_S,
            expires_s=NOW_S + 600,
        )
        for each in (1, 2, 3)
    ]
    code, text = shell("--vcpus", "2", "--memory", "8GiB", "--hold", "15min")
    assert code == 1
    assert "does not fit" in text
    assert [hold.hold_id for hold in shell.records.holds(NOW_S)] == ["x1", "x2", "x3"]


def test_command_that_does_not_fit() -> None:
    """Exit 1, and every host's reason."""
    code, text = Shell()("--vcpus", "2", "--memory", "65GiB")
    assert code == 1
    assert text.startswith("2 vCPUs, 65.0 GiB: does not fit")
    assert text.count("of 64.0 GiB memory not promised yet") == 3


@pytest.mark.parametrize(
    "argv",
    [
        ["--memory", "4GiB"],
        ["--vcpus", "0", "--memory", "4GiB"],
        ["--vcpus", "many", "--memory", "4GiB"],
        ["--vcpus", "2", "--memory", "4 parsecs"],
        ["--vcpus", "2", "--memory", "4GiB", "--hold", "0s"],
        ["--vcpus", "2", "--memory", "4GiB", "--policy", "guess"],
    ],
)
def test_wrong_options(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors are exit 2 and name the option."""
    with pytest.raises(SystemExit) as ended:
        Shell()(*argv)
    assert ended.value.code == 2
    assert "--" in capsys.readouterr().err


def test_a_name_needs_a_hold() -> None:
    """It would name nothing."""
    with pytest.raises(ConfigError, match="--name goes with --hold"):
        Shell()("--vcpus", "2", "--memory", "4GiB", "--name", "x")


def test_every_rule_that_is_offered_is_there() -> None:
    """The command offers what placement has."""
    found: list[Any] = [rule_named(name, seed=1, after=None) for name in place_cli.RULES]
    assert len({type(each) for each in found}) == 5
