"""`bench million`: its requests are pushes, its count of the journal finds what is lost, its arithmetic."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from agent.wire import decode_batch
from aggregator.decode import decode_push
from aggregator.http import HttpLimits, Request, RequestParser
from aggregator.http_push import whole_push
from aggregator.journal import SEGMENT_BYTES
from aggregator.journal_files import OsFiles
from aggregator.journal_format import record_head
from aggregator.journal_segments import Segments
from aggregator.record import encode_record
from bench.load_driver import DriveError
from bench.million import Live, disk_of_a_million
from bench.million_driver import Fleet, MillionDriver
from bench.million_kept import Kept, read_journal
from bench.sink import vm_names

VMS = vm_names(5)
TS = 1_789_999_980


@pytest.mark.parametrize("samples", [1, 2, 12])
def test_requests_are_pushes(samples: int) -> None:
    """Each is one whole request of the VM with its token, and holds so many minutes up to the one asked for."""
    request = Fleet(VMS, lambda vm: f"k1.1.{vm[:8]}").request(samples)
    for index, vm in enumerate(VMS):
        data = request(index, TS)
        assert whole_push(data, head_bytes=16384, body_bytes=1 << 20) is not None
        (found,) = RequestParser(HttpLimits()).feed(data)
        assert isinstance(found, Request)
        assert (found.fallow_vm.decode(), found.authorization.decode()) == (vm, f"Bearer k1.1.{vm[:8]}")
        batch = decode_batch(found.body)
        assert batch.vm == vm
        assert [one.ts for one in batch.samples] == [TS - 60 * age for age in range(samples - 1, -1, -1)]
        assert decode_push(found.body, content_encoding=None, now_s=TS).unknown_fields == 0


def journal_of(folder: Path, pushes: list[tuple[int, int]]) -> None:
    """A journal with a push of one minute of each (VM, minute)."""
    request = Fleet(VMS, lambda _vm: "t").request(1)
    segments = Segments(folder, segment_bytes=SEGMENT_BYTES, files=OsFiles())
    segments.open()
    for index, minute in pushes:
        body = request(index, TS + 60 * minute).partition(b"\r\n\r\n")[2]
        record = encode_record(decode_push(body, content_encoding=None, now_s=TS), TS)
        segments.commit(record_head(record) + record)
    segments.close()


def test_a_whole_journal_lacks_nothing(tmp_path: Path) -> None:
    """Every VM and minute once: all kept."""
    journal_of(tmp_path, [(index, minute) for minute in range(2) for index in range(5)])
    kept = read_journal(tmp_path, VMS, [TS, TS + 60])
    assert kept == Kept(samples=10, lost=0, doubled=0, strange=0, damaged=0)


def test_what_a_journal_lacks_is_found(tmp_path: Path) -> None:
    """One that is missing, one that is there twice, one of a minute that nobody pushed: each is counted."""
    journal_of(tmp_path, [(0, 0), (1, 0), (2, 0), (2, 0), (3, 0), (3, 7)])
    kept = read_journal(tmp_path, VMS, [TS])
    assert kept == Kept(samples=4, lost=1, doubled=1, strange=1, damaged=0)


def test_costs_are_of_all_minutes() -> None:
    """The figure of the live part is the mean of its minutes; a lost sample misses a bar."""
    live = Live(
        vms=10,
        pushes=30,
        seconds=2.0,
        ack_s=np.full(30, 0.01),
        minutes_cpu_us=[40.0, 20.0, 30.0],
        driver_cpu_us=9.0,
        live_rss_bytes=1,
        full_rss_bytes=2,
        kept=Kept(samples=249, lost=1, doubled=0, strange=0, damaged=0),
    )
    assert live.figures()["live_cpu_us_per_push"] == pytest.approx(30.0)
    assert live.figures()["pushes_per_s"] == pytest.approx(15.0)
    assert [bar.ok for bar in live.bars()] == [True, False, True]


def test_disk_and_inodes_are_of_a_million() -> None:
    """Stores with their journals and the folders that hold them."""
    disk = disk_of_a_million(1_600_000)
    assert disk["disk_bytes_million_14_days"] == 1_600_000_000_000 + 65_792 * 4096
    assert disk["inodes_million"] == 2_065_792


@contextmanager
def door(answer: bytes, *, answers: int) -> Iterator[tuple[str, int]]:
    """Answers so many requests of one connection alike, then closes it."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        sock, _ = listening.accept()
        with sock:
            parser = RequestParser(HttpLimits())
            for _ in range(answers):
                while not parser.feed(sock.recv(65536)):
                    pass
                sock.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        thread.join()
        listening.close()


@pytest.mark.real
@pytest.mark.parametrize("pushes_per_s", [None, 200.0])
def test_every_push_is_timed(pushes_per_s: float | None) -> None:
    """Each VM's push of each minute is sent and answered once; its time runs from when it was due."""
    fleet = Fleet(VMS, lambda _vm: "t")
    with door(b"HTTP/1.1 204 No Content\r\n\r\n", answers=10) as address:
        driver = MillionDriver(address, 1)
        ack_s = driver.push(fleet, [TS, TS + 60], pushes_per_s=pushes_per_s)
        driver.close()
    assert ack_s.shape == (10,)
    assert (ack_s > 0).all()


@pytest.mark.real
def test_a_refusal_ends_the_run() -> None:
    """An answer other than 204 is an error that shows it."""
    with door(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", answers=1) as address:
        driver = MillionDriver(address, 1)
        with pytest.raises(DriveError, match="503"):
            driver.push(Fleet(VMS, lambda _vm: "t"), [TS], pushes_per_s=None)
        driver.close()
