"""When the aggregator's clock and a VM's are far apart, samples that only the clocks make old or early must wait."""

from __future__ import annotations

import pytest

from agent.wire import encode_batch, encode_sample
from tests.aggregator.door_fakes import NOW_S, TS, VM, Bench, request, sample

DAY_S = 86_400
YEAR_S = 365 * DAY_S


def push(*, sent_off_s: int, ts: int) -> bytes:
    """A push of one sample by a clock that is so far ahead of the aggregator's."""
    texts = [encode_sample(sample(ts))]
    body = encode_batch(vm=VM, boot="b", seq=1, sent_s=NOW_S + sent_off_s, interval_s=60, samples=texts)
    return request(body)


@pytest.mark.parametrize("off_s", [-YEAR_S, -30 * DAY_S, 2 * DAY_S, YEAR_S])
def test_row_22_samples_are_put_off_while_clocks_are_far_apart(off_s: int) -> None:
    """Young by the VM's clock and not by ours: 503 with Retry-After, nothing is journalled, and it is counted."""
    bench = Bench()
    answer = bench.ask(push(sent_off_s=off_s, ts=TS + off_s))
    assert (answer.status, answer.reason) == (503, "clock")
    assert int(answer.headers["retry-after"]) >= 1
    assert bench.journal.payloads == []
    assert bench.counters.rejected_by_reason == {"clock": 1}


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
