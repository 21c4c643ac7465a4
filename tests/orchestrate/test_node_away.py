"""A fleet on several aggregators, one of which is away: what the commands and the watch do, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrate.watch_state import TurnEnd, WatchSettings
from tests.orchestrate.control_house import House, house, idle_vms
from tests.orchestrate.watch_house import watched
from tests.reports.placed import node_row, part_row, place_in

pytestmark = pytest.mark.real
# Nothing listens there.
NOWHERE = "http://127.0.0.1:9"
OFTEN = WatchSettings(every_s=60.0, reclaim_every_s=60.0, retry_s=300.0)


@contextmanager
def several(folder: Path, count: int, away: int) -> Iterator[House]:
    """So many idle VMs, of which the last `away` are at home on a node that does not run; two others do."""
    specs = idle_vms(count)
    with house(folder, specs) as made:
        place_in(
            folder,
            [
                node_row("a", admin_url=made.door.url, seen_s=made.now_s),
                node_row("b", admin_url=NOWHERE, seen_s=made.now_s - 3600),
                # One that was stopped is nobody's problem.
                node_row("c", admin_url=NOWHERE, state="stopped"),
            ],
            homes={spec.vm_id: "a" if place < count - away else "b" for place, spec in enumerate(specs)},
        )
        made.awake = {spec.vm_id for spec in specs[: count - away]}
        made.push()
        yield made


def test_row_40_nothing_is_planned_while_a_node_with_a_third_of_the_fleet_is_away(tmp_path: Path) -> None:
    """Its VMs are silent, and so many at once are an outage: the words name the node. With it back, there is a plan."""
    with several(tmp_path, 9, 3) as made:
        code, said, _ = made.call("plan")
        assert code == 1
        assert "Nothing is planned" in said
        assert "3 of 9 VMs that were reporting are silent now (node b: the aggregator at http://127.0.0.1:9" in said
        document = made.read("plan", code=1)
        assert (document["plan"]["steps"], document["aggregator_problem"].partition(":")[0]) == ([], "node b")
        with watched(made, OFTEN) as seen:
            turn = seen.watch.turn()
        assert (turn.end, turn.runs) == (TurnEnd.DONE, ())
        assert "nothing is reclaimed: 3 of 9 VMs" in str(turn.problem)
        place_in(tmp_path, [node_row("b", admin_url=made.door.url, seen_s=made.now_s)])
        made.awake = {spec.vm_id for spec in made.specs}
        assert made.read("plan")["plan"]["steps"]


def test_a_small_node_that_is_away_keeps_its_own_vms_alone(tmp_path: Path) -> None:
    """Less than a tenth is no outage: the others are planned for, its VM is left out, and the node is named once."""
    with several(tmp_path, 20, 1) as made:
        lost = made.specs[-1].vm_id
        said = made.ok("plan")
        assert said.count("some newest minutes are not known: node b: ") == 1
        document = made.read("plan")
        planned = {str(step) for step in document["plan"]["steps"]}
        assert planned
        assert not any(lost in vm for vm in planned)
        (left,) = [one for one in document["left_out"] if one["vm_id"] == lost]
        assert any("newest minutes are not known" in each["words"] for each in left["refusals"])
        assert "some agents' last minutes are not known: node b: " in made.ok("inventory")
        with watched(made, OFTEN) as seen:
            assert "some agents' last minutes are not known: node b: " in str(seen.watch.turn().problem)


def test_a_vm_whose_history_is_split_is_left_alone(tmp_path: Path) -> None:
    """No action on doubt: it has no verdict while part of its history lies elsewhere."""
    with several(tmp_path, 3, 0) as made:
        split = made.specs[0].vm_id
        place_in(tmp_path, [node_row("b", admin_url=made.door.url)], parts=[part_row(split, "b")])
        document = made.read("plan")
        assert not any(split in str(step) for step in document["plan"]["steps"])
        (told,) = [one for one in made.read("inventory")["vms"] if one["agent"] == split]
        assert told["verdict"] == "insufficient data"
