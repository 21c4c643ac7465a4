"""When the aggregator's clock and a VM's are far apart, samples that only the clocks make old or early must wait."""

from __future__ import annotations

import pytest

from agent.wire import encode_batch, encode_sample
from aggregator.clock_doubt import ClockDoubt
from tests.aggregator.door_fakes import NOW_S, TS, VM, Bench, request, sample

DAY_S = 86_400
YEAR_S = 365 * DAY_S


def push(*, sent_off_s: int, ts: int, vm: str = VM) -> bytes:
    """A push of one sample by a clock that is so far ahead of the aggregator's."""
    texts = [encode_sample(sample(ts))]
    body = encode_batch(vm=vm, boot="b", seq=1, sent_s=NOW_S + sent_off_s, interval_s=60, samples=texts)
    return request(body, fallow_vm=vm, authorization=f"Bearer token-of-{vm}")


OTHER = "vm-other"
FAR_S = [-YEAR_S, -30 * DAY_S, 2 * DAY_S, YEAR_S]


@pytest.mark.parametrize("off_s", FAR_S)
def test_row_22_samples_are_put_off_where_our_clock_may_be_the_wrong_one(off_s: int) -> None:
    """Young by the VM's clock, not by ours, and no more VMs agree with us: 503 with Retry-After, nothing journalled."""
    bench = Bench()
    assert bench.ask(push(sent_off_s=0, ts=TS, vm=OTHER)).status == 204
    journalled = list(bench.journal.payloads)
    answer = bench.ask(push(sent_off_s=off_s, ts=TS + off_s))
    assert (answer.status, answer.reason) == (503, "clock")
    assert int(answer.headers["retry-after"]) >= 1
    assert bench.journal.payloads == journalled
    assert bench.counters.rejected_by_reason == {"clock": 1}


@pytest.mark.parametrize("off_s", FAR_S)
def test_row_22_a_vm_whose_clock_most_others_contradict_is_refused_for_good(off_s: int) -> None:
    """Its samples are of no time that anybody knows."""
    bench = Bench()
    for vm in ("vm-a", "vm-b", "vm-c"):
        assert bench.ask(push(sent_off_s=0, ts=TS, vm=vm)).status == 204
    for vm in (OTHER, VM, VM):
        assert bench.ask(push(sent_off_s=off_s, ts=TS + off_s, vm=vm)).status == (422 if off_s > 0 else 200)
    assert "clock" not in bench.counters.rejected_by_reason


def test_what_vms_said_of_our_clock_counts_for_ten_minutes() -> None:
    """Whether they are now of another mind or silent."""
    heard = [2]
    doubt = ClockDoubt(lambda _from_s, _to_s: heard[0])
    assert [doubt.is_ours("a", 0.0), doubt.is_ours("a", 1.0), doubt.is_ours("b", 2.0)] == [False, False, True]
    assert not doubt.is_ours("c", 700.0)
    heard[0] = 0
    assert doubt.is_ours("d", 715.0)


@pytest.mark.parametrize("off_s", [-7200, 0, 7200])
def test_row_23_samples_of_a_clock_that_is_hours_off_are_stored(off_s: int) -> None:
    """What a clock two hours off says is kept; its skew tells the report."""
    assert Bench().ask(push(sent_off_s=off_s, ts=TS + off_s)).status == 204


def test_too_early_and_too_old_by_both_clocks_are_refused_for_good() -> None:
    """Where the clocks agree, or the VM's own makes the sample old too, waiting would change nothing."""
    assert Bench().ask(push(sent_off_s=0, ts=TS + 2 * DAY_S)).status == 422
    assert Bench().ask(push(sent_off_s=YEAR_S, ts=TS + YEAR_S + 2 * DAY_S)).status == 422
    for off_s in (0, -YEAR_S):
        answer = Bench().ask(push(sent_off_s=off_s, ts=TS + off_s - YEAR_S))
        assert (answer.status, len(answer.document["rejected"])) == (200, 1)
