"""The one oracle: whatever fails, is killed or loses its power, what was acknowledged is replayed once and in order."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.journal_format import JournalError
from tests.aggregator.journal_fakes import MemoryFiles, opened, record, recovered

steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.lists(st.binary(max_size=30), min_size=1, max_size=4)),
        st.tuples(st.sampled_from(["rotate", "probe", "power cut", "kill"]), st.none()),
        st.tuples(
            st.just("fault"),
            st.tuples(
                st.sampled_from(["create", "write", "fdatasync", "truncate", "close", "unlink", "fsync_directory"]),
                st.integers(1, 3),
            ),
        ),
        st.tuples(st.just("room"), st.one_of(st.none(), st.integers(0, 100))),
    ),
    max_size=20,
)


def check_replay(got: list[bytes], written: list[tuple[bytes, bool]]) -> None:
    """All acknowledged payloads came back, in order, and between them only ones that were tried, once."""
    rest: Iterator[tuple[bytes, bool]] = iter(written)
    for body in got:
        for candidate, acknowledged in rest:
            if candidate == body:
                break
            assert not acknowledged, "an acknowledged record is missing"
        else:
            raise AssertionError("a record came back that nobody wrote, or twice, or out of order")
    assert not any(acknowledged for _, acknowledged in rest), "an acknowledged record is missing at the end"


@settings(max_examples=300)
@given(steps, st.data())
def test_acknowledged_records_survive_faults_and_power_cuts(
    todo: list[tuple[str, object]], data: st.DataObject
) -> None:
    """Faults 1 to 4, 9, 11: whatever fails or is cut off, all that was acknowledged is replayed, once, in order."""
    files = MemoryFiles()
    segments, _ = opened(files, segment_bytes=120)
    written: list[tuple[bytes, bool]] = []
    for number, (step, detail) in enumerate([*todo, ("power cut", None)]):
        try:
            if step == "commit":
                assert isinstance(detail, list)
                bodies = [b"%d.%d %b" % (number, at, body) for at, body in enumerate(detail)]
                written += [(body, False) for body in bodies]
                segments.commit(b"".join(map(record, bodies)))
                written[-len(bodies) :] = [(body, True) for body in bodies]
            elif step == "rotate":
                segments.rotate()
            elif step == "probe":
                segments.probe()
            elif step == "fault":
                assert isinstance(detail, tuple)
                files.faults[detail[0], files.calls[detail[0]] + detail[1]] = errno.EIO
            elif step == "room":
                held = sum(len(file.written) for file in files.files.values())
                files.capacity_bytes = None if detail is None else held + int(str(detail))
        except JournalError:
            continue
        if step in ("power cut", "kill"):
            assert files.synced_again == []
            if step == "kill":
                files = MemoryFiles(files.contents())
            else:
                files = files.power_cut(lambda n: data.draw(st.integers(0, n)))
            segments, recovery = opened(files, segment_bytes=120)
            check_replay([body for n in recovery.segments for body in segments.replay(n)], written)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=20)), min_size=1, max_size=8), st.data())
def test_any_prefix_of_the_last_segment_recovers_a_prefix(bodies: list[bytes | None], data: st.DataObject) -> None:
    """Copies of the directory with the last segment cut at any byte: the records before the cut, and no others.

    None in `bodies` stands for a rotation.
    """
    files = MemoryFiles()
    segments, _ = opened(files)
    ends = []
    for body in bodies:
        if body is None:
            segments.rotate()
        else:
            segments.commit(record(body))
            ends.append((segments.closed_through, segments.bytes_on_disk, body))
    contents = files.contents()
    last = max(contents)
    before_last = segments.bytes_on_disk - len(contents[last])
    cut = data.draw(st.integers(0, len(contents[last])))
    contents[last] = contents[last][:cut]
    kept = [body for closed, end, body in ends if closed < segments.closed_through or end - before_last <= cut]
    assert recovered(MemoryFiles(contents)) == kept
