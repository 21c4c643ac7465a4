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
    failed: set[str] = set()
    for segment, (everybody, failing) in enumerate(flushes, start=1):
        mine = turns.everybody if everybody else turns.next()
        tried = {vm for vm in _VMS if turns.turn_of(vm) in mine or vm in failed}
        failed = failing & tried
        through.update(dict.fromkeys(tried - failed, segment))
        assert turns.settle(mine, segment, failed) <= min(through.values())


def test_a_turn_is_whole_once_its_last_store_is_written() -> None:
    """Its segment goes when the VMs that failed in it are stored, whosever turn it is then."""
    turns = FlushTurns(2)
    turns.settle(turns.everybody, 1, _VMS[:3])
    assert turns.settle(turns.next(), 2, _VMS[1:2]) == 0
    other = 1 - turns.turn_of(_VMS[1])
    assert turns.settle(range(other, other + 1), 3, ()) >= 1


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
