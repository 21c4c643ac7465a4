"""Turns: a segment of the journal goes when every VM's turn has come after it, and not before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aggregator.flush_turns import FlushTurns
from aggregator.pool import partition_of

_VMS = [f"vm-{number}" for number in range(200)]
_FLUSHES = st.lists(st.tuples(st.booleans(), st.sets(st.sampled_from(_VMS), max_size=3)), max_size=12)


@given(st.integers(1, 5), _FLUSHES)
def test_what_is_let_go_is_stored(count: int, flushes: list[tuple[bool, set[str]]]) -> None:
    """Whatever flushes are whole, and whatever fails: all rows up to the segment told are in the stores."""
    turns = FlushTurns(count)
    through = dict.fromkeys(_VMS, 0)  # segment up to which a VM's rows are stored
    for segment, (everybody, failing) in enumerate(flushes, start=1):
        mine = turns.everybody if everybody else turns.next()
        failed = {vm for vm in failing if turns.turn_of(vm) in mine}
        for vm in _VMS:
            if turns.turn_of(vm) in mine and vm not in failed:
                through[vm] = segment
        assert turns.settle(mine, segment, failed) <= min(through.values())


@given(st.integers(1, 5))
def test_every_turn_comes(count: int) -> None:
    """As many scheduled flushes as there are turns have everybody, each once; then nothing is held up."""
    turns = FlushTurns(count)
    seen = [turns.next() for _ in range(count)]
    assert sorted(turn for mine in seen for turn in mine) == list(turns.everybody)
    assert [turns.settle(mine, 7, ()) for mine in seen][-1] == 7


def test_turns_spread_over_workers() -> None:
    """Each turn has VMs of every worker, in about equal shares."""
    turns = FlushTurns(4)
    shares = [[0, 0] for _ in turns.everybody]
    for number in range(4_000):
        vm = f"vm-{number}"
        shares[turns.turn_of(vm)][partition_of(vm, 2)] += 1
    assert all(400 < share < 600 for both in shares for share in both)
