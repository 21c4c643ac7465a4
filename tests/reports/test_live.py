"""The health page's figures are those of the aggregator's own counters, or a reason why there are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread

from aggregator.admin_client import AdminClient
from aggregator.rows import ROW_BYTES
from aggregator.service import ADMIN_ADDRESS_FILE
from reports.live import AdminLive, Live, NotLive, parse_metrics
from tests.aggregator.admin_door import Door, open_door, token_file
from tests.aggregator.door_fakes import TS
from tests.aggregator.service_fakes import NOW_S, running

COUNTERS = (
    *("pushes", "samples", "duplicates", "conflicts", "samples_too_old", "connections_refused", "errors", "flushes"),
    *("flush_overruns", "flushed_samples", "flushed_conflicts", "store_failures", "stores_lost", "summary_failures"),
    *("journal_failed_commits", "journal_damaged_records"),
)
GAUGES = (
    *("ready", "buffered_samples", "connections", "vms_in_memory", "last_seen_seconds", "last_flush_seconds"),
    *("last_flush_duration_seconds", "journal_healthy", "journal_bytes", "journal_queued_bytes"),
)


def exposition(**changes: float | str | None) -> str:
    """`/metrics` with each figure another number; a change of None leaves a figure out."""
    values: dict[str, object] = {f"{name}_total": 100 + n for n, name in enumerate(COUNTERS)}
    values |= {name: 10 + n for n, name in enumerate(GAUGES)}
    values |= {"ready": 1, "journal_healthy": 1, **changes}
    rejects = 'fallow_rejects_total{reason="stale"} 2.0\nfallow_rejects_total{reason="none"} 0.0\n'
    rejects += 'fallow_rejects_total{reason="body"} 5.0\n'
    lines = [f"fallow_{name} {value}" for name, value in values.items() if value is not None]
    return "# TYPE fallow_pushes_total counter\n" + "\n".join(lines) + "\n" + rejects


def test_each_figure_stands_where_it_belongs() -> None:
    """Every attribute is read from the figure of its meaning."""
    live = parse_metrics(exposition(), now_s=5.0)
    ingest, flushes, journal = live.ingest, live.flushes, live.journal
    assert (live.now_s, live.ready, live.buffered_samples) == (5.0, True, 11)
    assert live.buffered_bytes == 11 * ROW_BYTES
    assert (ingest.pushes, ingest.samples, ingest.duplicates, ingest.conflicts) == (100, 101, 102, 103)
    assert (ingest.too_old, ingest.connections_refused, ingest.errors) == (104, 105, 106)
    assert (ingest.connections, ingest.vms, ingest.last_push_s) == (12, 13, 14.0)
    assert ingest.rejects == (("body", 5), ("stale", 2))
    assert (flushes.count, flushes.overruns, flushes.samples, flushes.conflicts) == (107, 108, 109, 110)
    assert (flushes.store_failures, flushes.stores_lost, flushes.summary_failures) == (111, 112, 113)
    assert (flushes.last_s, flushes.last_duration_s) == (15.0, 16.0)
    assert (journal.healthy, journal.size_bytes, journal.queued_bytes) == (True, 18, 19)
    assert (journal.failed_commits, journal.damaged_records) == (114, 115)


def test_never_is_told_from_long_ago() -> None:
    """An aggregator that has just started has no last push and no last flush; 1970 is not when they were."""
    live = parse_metrics(exposition(last_seen_seconds=0.0, last_flush_seconds=0.0, ready=0.0), now_s=5.0)
    assert (live.ingest.last_push_s, live.flushes.last_s, live.ready) == (None, None, False)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pushes_total": None}, "fallow_pushes_total is missing"),
        ({"journal_healthy": None}, "fallow_journal_healthy is missing"),
        ({"samples_total": 1.5}, "fallow_samples_total: 1.5 is no count"),
        ({"samples_total": -1}, "fallow_samples_total: -1.0 is no count"),
        ({"samples_total": "NaN"}, "fallow_samples_total: nan"),
        ({"last_seen_seconds": "+Inf"}, "fallow_last_seen_seconds: inf"),
    ],
)
def test_figures_that_cannot_be_are_refused(changes: dict[str, float | str | None], named: str) -> None:
    """ValueError names the figure; a missing one is never 0."""
    with pytest.raises(ValueError, match="fallow_") as caught:
        parse_metrics(exposition(**changes), now_s=5.0)
    assert named in str(caught.value)


@given(text=st.one_of(st.text(), st.text(alphabet='{}"\\ \n=,#fallow_ready1.', max_size=80)))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text is anything but a ValueError: none of these holds all figures."""
    with pytest.raises(ValueError):  # noqa: PT011  the words are the parser's or ours
        parse_metrics(text, now_s=5.0)


# Over the wire.


@pytest.fixture
def door() -> Iterator[Door]:
    with open_door() as opened:
        yield opened


@pytest.fixture
def source(door: Door, tmp_path: Path) -> AdminLive:
    return AdminLive(AdminClient(door.url, token_file(tmp_path)))


@pytest.mark.real
def test_two_questions_are_all(source: AdminLive, door: Door) -> None:
    """Its clock, without a single VM of its fleet, and its metrics."""
    door.say(200, {"now_s": 1234.5, "vms": []})
    door.answers.append((200, exposition().encode()))
    live = source.read()
    assert isinstance(live, Live)
    assert live.now_s == 1234.5
    assert [target for target, _ in door.asked] == [f"/v1/live?since={2**32 - 1}", "/metrics"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([(401, b"")], "refused the token"),
        ([(200, b"no json")], "not JSON"),
        ([(200, b"[]")], "does not tell its time"),
        ([(200, b'{"now_s": "x"}')], "does not tell its time"),
        ([(200, b'{"now_s": 1}'), (503, b"")], "answered 503"),
        ([(200, b'{"now_s": 1}'), (404, b"")], "answered 404 to /metrics"),
        ([(200, b'{"now_s": 1}'), (200, b"\xff")], "metrics that cannot be read"),
        ([(200, b'{"now_s": 1}'), (200, b"fallow_ready 1\n")], "is missing"),
    ],
)
def test_no_health_has_a_reason(source: AdminLive, door: Door, answers: list[tuple[int, bytes]], words: str) -> None:
    """Nothing is raised: the page shows why there is nothing to show."""
    door.answers += answers
    found = source.read()
    assert isinstance(found, NotLive)
    assert words in found.reason
    assert found.reason.startswith(f"the aggregator at {door.url} ")


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_a_running_aggregator(tmp_path: Path) -> None:
    """Its own counters, with the reasons of what it refused; when it has stopped, that."""
    async with running(tmp_path) as house:
        url = f"http://{(tmp_path / ADMIN_ADDRESS_FILE).read_text().strip()}"
        source = AdminLive(AdminClient(url, tmp_path / "admin.token"))
        first = await deferToThread(source.read)
        assert isinstance(first, Live)
        assert (first.ready, first.ingest.pushes, first.ingest.last_push_s, first.flushes.last_s) == (
            True,
            0,
            None,
            None,
        )
        await house.push("web-1", TS - 60, TS)
        await house.push("web-1", TS)
        await house.push("web-1", TS, cpu=0.9)
        assert (await house.push("web-1", body=b"{")).status >= 400
        live = await deferToThread(source.read)
        assert isinstance(live, Live)
        ingest = live.ingest
        assert (ingest.pushes, ingest.samples, ingest.duplicates, ingest.conflicts) == (3, 2, 1, 1)
        assert sum(count for _, count in ingest.rejects) == 1
        assert (ingest.vms, ingest.last_push_s, live.buffered_samples) == (1, NOW_S, 2)
        assert live.journal.healthy
        assert live.journal.size_bytes > 0
        await house.flush()
        flushed = await deferToThread(source.read)
        assert isinstance(flushed, Live)
        assert (flushed.flushes.count, flushed.flushes.samples, flushed.flushes.last_s) == (1, 2, NOW_S)
        assert flushed.buffered_samples == 0
    stopped = await deferToThread(source.read)
    assert stopped == NotLive(reason=f"the aggregator at {url} does not run: nothing listens there")
