"""Every answer has its consequence, nothing is lost, and nobody pushes in step with the others."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.push import (
    Disposition,
    Pusher,
    Quarantine,
    Reply,
    Source,
    UnreachableError,
    backoff_s,
    describe,
    disposition,
    hold_s,
    next_slot_s,
    push_offset_s,
    rejected_count,
    retry_after_s,
)
from agent.sample import Sample
from agent.spool import Spool
from agent.wire import Batch, decode_batch, encode_sample
from tests.agent.machine import Clock

VM = "6f9c2b1e-0000-4000-8000-000000000001"


def encoded(number: int) -> str:
    return encode_sample(
        Sample(ts=1_700_000_040 + 60 * number, cpu_busy_ratio=0.5, mem_total_bytes=1024, mem_used_bytes=512)
    )


class Aggregator:
    """Answers as `judge` says and remembers what it took."""

    def __init__(self, judge: Callable[[Batch], Reply] = lambda batch: Reply(204, b"")) -> None:
        self.judge = judge
        self.batches: list[Batch] = []
        self.headers: list[Mapping[str, str]] = []
        self.stored: list[int] = []
        self.down: str | None = None

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        if self.down is not None:
            raise UnreachableError(self.down)
        assert path == "/v1/samples"
        batch = decode_batch(zlib.decompress(body, 31) if headers.get("Content-Encoding") == "gzip" else body)
        assert headers["Fallow-VM"] == batch.vm
        self.batches.append(batch)
        self.headers.append(headers)
        reply = self.judge(batch)
        if reply.status < 300:
            self.stored += [sample.ts for sample in batch.samples]
        return reply


class House:
    """A pusher with a spool, an aggregator and a clock."""

    def __init__(self, folder: Path, *, chance: float = 1.0) -> None:
        self.clock = Clock()
        self.spool = Spool(folder / "spool", sync=lambda fd: None)
        self.aggregator = Aggregator()
        self.quarantine = Quarantine(folder / "quarantine", max_files=3)
        self.token: str | None = "secret"
        self.dropped_total = 0
        self.pusher = Pusher(
            sources=[Source(self.spool, 60)],
            post=self.aggregator.post,
            token=lambda: self.token,
            vm=VM,
            boot="boot-1",
            interval_s=60,
            quarantine=self.quarantine,
            clock=self.clock.now,
            chance=lambda: chance,
            dropped=lambda: self.dropped_total,
        )

    def spool_samples(self, count: int) -> None:
        for number in range(count):
            self.spool.append(encoded(number))

    def drain(self, steps: int = 5000) -> None:
        for _ in range(steps):
            if self.spool.depth:
                self.pusher.step()
        assert self.spool.depth == 0, "the queue is blocked"


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_sample_goes_out_as_the_wire_says(house: House) -> None:
    """One sample is one plain request with this VM's token and names; the ack empties the spool."""
    house.spool_samples(1)
    delay_s = house.pusher.step()
    (batch,) = house.aggregator.batches
    (headers,) = house.aggregator.headers
    assert (batch.vm, batch.boot, batch.seq, batch.interval_s) == (VM, "boot-1", 1, 60)
    assert batch.sent_s == house.clock.now()
    assert dict(headers) == {
        "Authorization": "Bearer secret",
        "Fallow-VM": VM,
        "Content-Type": "application/json",
    }
    assert house.spool.depth == 0
    assert house.pusher.last_ack_s == house.clock.now()
    assert 0 < delay_s <= 60


def test_a_backlog_goes_out_in_gzipped_batches_oldest_first(house: House) -> None:
    """1,200 samples of an outage leave at once, at most 500 a request, in order, each once."""
    house.spool_samples(1200)
    delays = []
    while house.spool.depth:
        delays.append(house.pusher.step())
    assert house.aggregator.stored == [1_700_000_040 + 60 * number for number in range(1200)]
    assert max(len(batch.samples) for batch in house.aggregator.batches) <= 500
    assert len(house.aggregator.batches) <= 5
    assert {headers["Content-Encoding"] for headers in house.aggregator.headers} == {"gzip"}
    assert [batch.seq for batch in house.aggregator.batches] == list(range(1, len(delays) + 1))
    assert set(delays[:-1]) == {0.0}


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("poison", [0, 1, 250, 498, 499])
def test_only_the_poison_sample_is_quarantined(tmp_path: Path, status: int, poison: int) -> None:
    """Wherever in a batch it is, the refused sample goes to quarantine and all others are stored, in few requests."""
    house = House(tmp_path)
    bad_ts = 1_700_000_040 + 60 * poison
    house.aggregator.judge = lambda batch: Reply(status if bad_ts in {s.ts for s in batch.samples} else 204, b"")
    house.spool_samples(500)
    house.drain(60)
    assert house.aggregator.stored == [ts for n in range(500) if (ts := 1_700_000_040 + 60 * n) != bad_ts]
    (file,) = (tmp_path / "quarantine").iterdir()
    kept = json.loads(file.read_text())
    assert (kept["status"], [json.loads(text)["ts"] for text in kept["samples"]]) == (status, [bad_ts])
    assert house.quarantine.total == 1


def test_a_queue_of_poison_alone_does_not_block(house: House, tmp_path: Path) -> None:
    """Everything is refused: everything is counted, the quarantine stays bounded, the next good sample arrives."""
    house.aggregator.judge = lambda batch: Reply(422, b"")
    house.spool_samples(20)
    house.drain()
    assert house.quarantine.total == 20
    assert len(list((tmp_path / "quarantine").iterdir())) == 3
    house.aggregator.judge = lambda batch: Reply(204, b"")
    house.spool.append(encoded(99))
    house.drain(1)
    assert house.pusher.trouble is None


def test_a_quarantine_that_cannot_be_written_does_not_block(tmp_path: Path) -> None:
    """A full disk costs the copy of the refused sample, not the queue."""
    house = House(tmp_path)
    (tmp_path / "quarantine").write_text("a file where the folder should be")
    house.aggregator.judge = lambda batch: Reply(400, b"")
    house.spool_samples(1)
    house.drain(1)
    assert house.quarantine.total == 1


@pytest.mark.parametrize("status", [401, 403, 409])
def test_an_unauthorized_vm_keeps_its_samples_and_waits_long(house: House, status: int) -> None:
    """A revoked token or an identity conflict: nothing is lost, the status says that enrolment is needed."""
    house.aggregator.judge = lambda batch: Reply(status, b'{"detail": "identity-conflict"}')
    house.spool_samples(3)
    assert house.pusher.step() >= 300
    assert house.pusher.enrolment_needed
    assert house.pusher.trouble is not None
    assert "enroll" in house.pusher.trouble
    assert "identity-conflict" in house.pusher.trouble
    assert house.spool.depth == 3
    house.aggregator.judge = lambda batch: Reply(204, b"")
    house.drain(1)
    assert not house.pusher.enrolment_needed
    assert house.pusher.trouble is None


def test_without_a_token_nothing_is_sent(house: House) -> None:
    """Before enrolment the samples wait, and the status says why."""
    house.token = None
    house.spool_samples(2)
    assert house.pusher.step() >= 300
    assert house.pusher.enrolment_needed
    assert (house.spool.depth, house.aggregator.batches) == (2, [])


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_aggregator_is_asked_again_ever_later(house: House, status: int) -> None:
    """Each failure doubles the bound of the wait, up to 5 minutes; success starts over."""
    house.aggregator.judge = lambda batch: Reply(status, b"")
    house.spool_samples(1)
    assert [house.pusher.step() for _ in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert house.spool.depth == 1
    house.aggregator.judge = lambda batch: Reply(204, b"")
    house.pusher.step()
    house.aggregator.judge = lambda batch: Reply(status, b"")
    house.spool_samples(1)
    assert house.pusher.step() == 1


def test_retry_after_is_honoured(house: House) -> None:
    """503 with Retry-After: 120 is left alone for at least so long, and not by all VMs for the same time."""
    house.aggregator.judge = lambda batch: Reply(503, b"", "120")
    house.spool_samples(1)
    assert house.pusher.step() == 121


def test_an_outage_loses_nothing(house: House) -> None:
    """No connection for an hour: samples wait, the same push number is used again, and all arrive in order."""
    house.aggregator.down = "connection refused"
    for number in range(60):
        house.spool.append(encoded(number))
        assert house.pusher.step() > 0
    assert house.pusher.trouble == "connection refused"
    house.aggregator.down = None
    house.drain(1)
    assert house.aggregator.stored == [1_700_000_040 + 60 * number for number in range(60)]
    assert house.pusher.seq == 1
    assert house.pusher.trouble is None


@pytest.mark.parametrize("status", [301, 404, 405, 415, 431])
def test_a_stranger_who_answers_gets_nothing_twice_soon(house: House, status: int) -> None:
    """A wrong address answers 404: the samples are kept and it is left alone for minutes."""
    house.aggregator.judge = lambda batch: Reply(status, b"<html>")
    house.spool_samples(1)
    assert house.pusher.step() >= 300
    assert (house.spool.depth, house.pusher.enrolment_needed) == (1, False)


def test_samples_rejected_one_by_one_are_counted_and_gone(house: House) -> None:
    """200 with a list of rejected samples settles the batch: they would be rejected again."""
    body = b'{"stored": 1, "duplicate": 0, "rejected": [{"ts": 60, "reason": "too_old"}]}'
    house.aggregator.judge = lambda batch: Reply(200, body)
    house.spool_samples(2)
    house.drain(1)
    assert (house.pusher.acked_total, house.pusher.rejected_total) == (1, 1)
    assert house.pusher.trouble is not None


def test_drops_are_told_with_the_next_push(house: House) -> None:
    """An agent that had to give samples up says how many."""
    house.dropped_total = 17
    house.spool_samples(1)
    house.pusher.step()
    assert house.aggregator.headers[0]["Fallow-Dropped"] == "17"


def test_expected_trouble_is_logged_once(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """An outage of an hour is one warning, and its end one line."""
    caplog.set_level("INFO")
    house.aggregator.down = "connection refused"
    house.spool_samples(1)
    for _ in range(60):
        house.pusher.step()
    house.aggregator.down = None
    house.pusher.step()
    assert [record.getMessage() for record in caplog.records] == ["connection refused", "pushes succeed again"]


def test_the_spool_of_an_earlier_interval_goes_first_with_its_own_length(tmp_path: Path) -> None:
    """After a change of the interval the old samples are still sent as what they are."""
    house = House(tmp_path)
    earlier = Spool(tmp_path / "earlier", sync=lambda fd: None)
    earlier.append(encoded(0))
    house.spool.append(encoded(1))
    pusher = Pusher(
        sources=[Source(earlier, 30), Source(house.spool, 60)],
        post=house.aggregator.post,
        token=lambda: "secret",
        vm=VM,
        boot="boot-1",
        interval_s=60,
        quarantine=house.quarantine,
        clock=house.clock.now,
        chance=lambda: 1.0,
    )
    assert pusher.step() == 0.0
    pusher.step()
    assert [batch.interval_s for batch in house.aggregator.batches] == [30, 60]


def test_nothing_to_send_waits_for_the_next_slot(house: House) -> None:
    """An empty spool is no reason to talk."""
    delay_s = house.pusher.step()
    at_s = house.clock.now() + delay_s
    assert at_s % 60 == pytest.approx(push_offset_s(VM, 60))
    assert house.aggregator.batches == []


@given(vm=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True), interval_s=st.sampled_from([1, 10, 60, 3600]))
def test_a_vms_slot_is_stable_and_inside_the_interval(vm: str, interval_s: int) -> None:
    """The same VM always pushes at the same place, never right at the boundary."""
    offset_s = push_offset_s(vm, interval_s)
    assert offset_s == push_offset_s(vm, interval_s)
    assert 0 < offset_s < interval_s


def test_slots_of_a_fleet_are_spread_evenly() -> None:
    """10,000 VMs: no second of the minute gets more than twice its share."""
    counts = [0] * 60
    for number in range(10_000):
        counts[int(push_offset_s(f"vm-{number}", 60))] += 1
    assert max(counts) < 2 * 10_000 / 60


@given(now_s=st.floats(0, 4e9), offset_s=st.floats(0, 59.9))
def test_the_next_slot_is_ahead(now_s: float, offset_s: float) -> None:
    """The wait is more than zero and at most one interval."""
    assert 0 < next_slot_s(now_s, interval_s=60, offset_s=offset_s) <= 60


@given(attempt=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_back_off_is_full_jitter_below_its_cap(attempt: int, chance: float) -> None:
    """Any part of min(5 min, 2^n s), however long it has been failing."""
    assert 0 <= backoff_s(attempt, chance) <= min(300.0, 2.0 ** min(attempt - 1, 30))
    assert backoff_s(attempt, 0.0) == 0.0


def test_a_hold_is_five_to_fifteen_minutes() -> None:
    """What a person must mend is asked for seldom, and not by all VMs together."""
    assert (hold_s(0.0), hold_s(1.0)) == (300.0, 900.0)


NOW_S = 1_700_000_000.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0.0),
        ("", 0.0),
        ("30", 30.0),
        (" 30 ", 30.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("99999", 3600.0),
        ("9" * 5000, 3600.0),
        (format_datetime(datetime.fromtimestamp(NOW_S + 90, UTC), usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(NOW_S - 90, UTC), usegmt=True), 0.0),
    ],
    ids=str,
)
def test_retry_after_is_read_as_seconds_or_date(header: str | None, seconds: float) -> None:
    """Both forms of the header, bounded; nonsense is as if it were not there."""
    assert retry_after_s(header, now_s=NOW_S) == seconds


@given(header=st.text(max_size=60))
def test_no_retry_after_header_raises(header: str) -> None:
    """Whatever a server writes there is a wait of 0 s to an hour."""
    assert 0 <= retry_after_s(header, now_s=NOW_S) <= 3600


@given(status=st.integers(100, 999), body=st.binary(max_size=200))
def test_every_answer_has_a_meaning(status: int, body: bytes) -> None:
    """No status and no body raises, and what is said about them is one printable line."""
    reply = Reply(status, body)
    assert isinstance(disposition(status), Disposition)
    assert rejected_count(reply) >= 0
    assert describe(reply).isprintable()


def test_the_detail_of_a_problem_is_shown() -> None:
    """An RFC 9457 answer tells its detail, bounded."""
    assert describe(Reply(422, b'{"detail": "ts: in\\nthe future"}')) == "answer 422: ts: in the future"
    assert len(describe(Reply(400, json.dumps({"detail": "x" * 10_000}).encode()))) < 400
