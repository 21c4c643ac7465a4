"""What agents had to give up is told with each push, and shown by the aggregator."""

from __future__ import annotations

import pytest

from tests.aggregator.door_fakes import OTHER_VM, Bench, push_body, request


def test_row_34_what_agents_gave_up_is_counted_once() -> None:
    """Each agent tells its total; only what grew since its last push is added."""
    bench = Bench()
    line = bench.connect()
    for told in ("3", "3", "5", "4"):
        line.send(request(fallow_dropped=told))
    token = f"Bearer token-of-{OTHER_VM}"
    line.send(request(push_body(vm=OTHER_VM), authorization=token, fallow_vm=OTHER_VM, fallow_dropped="10"))
    assert {answer.status for answer in line.answers()} == {204}
    assert bench.counters.agents_dropped == 15


@pytest.mark.parametrize("told", ["-1", "many", "1e9", "9" * 5_000, ""])
def test_nonsense_in_the_header_is_ignored(told: str) -> None:
    """The push is stored all the same."""
    bench = Bench()
    assert bench.ask(request(fallow_dropped=told)).status == 204
    assert bench.counters.agents_dropped == 0
