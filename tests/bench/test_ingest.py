"""`bench ingest` and `bench sink`: what is driven, what is counted, and that it counts what it says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agent.wire import decode_batch
from aggregator.http import HttpLimits, Request, RequestParser
from bench.ingest import Round, cost_figures
from bench.load_driver import SHAPES, Drive, DriveError, Driver, requests_of
from bench.sink import minute_days_ago, positive, serve_sink, vm_names
from bench.tree import cpu_s, peak_rss_bytes, processes

VM = vm_names(1)[0]


def test_requests_are_pushes_of_one_full_minute() -> None:
    """Each request parses, has all 18 figures, and the `ts` that is put into it."""
    bodies = set()
    for before, after in requests_of(VM, "a.1.mac", salt=3):
        (request,) = RequestParser(HttpLimits()).feed(b"%b%d%b" % (before, 1_789_999_980, after))
        assert isinstance(request, Request)
        assert request.fallow_vm.decode() == VM
        batch = decode_batch(request.body)
        (sample,) = batch.samples
        assert (batch.vm, sample.ts) == (VM, 1_789_999_980)
        assert len(json.loads(request.body)["samples"][0]) == 19
        bodies.add(request.body)
    assert len(bodies) == SHAPES


def test_quantiles_of_acks() -> None:
    """The share asked for was not slower."""
    drive = Drive()
    drive.ack_s.extend(0.001 * index for index in range(100))
    assert drive.quantile_s(0.5) == pytest.approx(0.050)
    assert drive.quantile_s(0.99) == pytest.approx(0.099)
    assert drive.quantile_s(1.0) == pytest.approx(0.099)


def test_costs_are_of_all_rounds_together() -> None:
    """A long round weighs more than a short one; the ratio is aggregator / sink."""
    figures = cost_figures([Round(100, 1.0, 1.0), Round(300, 1.0, 1.0)], [Round(100, 1.0, 2.0), Round(100, 3.0, 2.0)])
    assert figures == {
        "pushes": 200,
        "pushes_per_s": 50.0,
        "pushes_per_cpu_s": 50.0,
        "sink_pushes_per_cpu_s": 200.0,
        "ratio": 0.25,
    }


def write_process(proc: Path, pid: int, parent: int, ticks: tuple[int, int, int, int], peak_kib: int = 100) -> None:
    folder = proc / str(pid)
    folder.mkdir()
    times = " ".join(map(str, ticks))
    (folder / "stat").write_text(f"{pid} (a (b) c) S {parent} 1 1 0 -1 4194304 1 2 3 4 {times} 20 0 1 0 5\n")
    (folder / "status").write_text(f"Name:\tx\nVmHWM:\t  {peak_kib} kB\nVmRSS:\t  5 kB\n")


def test_a_tree_counts_every_descendant(tmp_path: Path) -> None:
    """CPU of children and grandchildren, those already waited for too; strangers are left out."""
    write_process(tmp_path, 10, 1, (100, 50, 7, 3))
    write_process(tmp_path, 11, 10, (10, 0, 0, 0))
    write_process(tmp_path, 12, 11, (0, 30, 0, 0))
    write_process(tmp_path, 13, 1, (1000, 1000, 0, 0))
    (tmp_path / "self").mkdir()
    assert sorted(processes(10, tmp_path)) == [10, 11, 12]
    assert cpu_s(10, tmp_path) == pytest.approx(2.0)
    assert peak_rss_bytes(10, tmp_path) == 300 * 1024
    assert processes(99, tmp_path) == []


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x"])
def test_lengths_are_positive(text: str) -> None:
    """A run of no time, or for ever, is a usage error."""
    with pytest.raises(ValueError, match=r"more than zero|could not convert"):
        positive(text)


@pytest.mark.real
def test_the_sink_is_driven_for_real() -> None:
    """Both ways of driving get an answer to every push, from a process that can be watched."""
    with serve_sink() as (process, address):
        driver = Driver(address, vms=vm_names(5), token=lambda _: "none", start_ts=minute_days_ago(1))
        try:
            saturated = driver.saturate(0.2)
            paced = driver.pace(0.2, 100.0)
        finally:
            driver.close()
        assert saturated.acked == len(saturated.ack_s) >= 5
        assert paced.acked == 20
        assert saturated.others == paced.others == {}
        assert process.pid in processes(process.pid)
        assert peak_rss_bytes(process.pid) > 1 << 20


@pytest.mark.real
def test_a_refused_push_is_no_measurement() -> None:
    """The driver stops at the first answer that says no, and shows it."""
    with serve_sink() as (_, address):
        late_ts = int(time.time()) // 60 * 60 + 10 * 86400
        driver = Driver(address, vms=vm_names(1), token=lambda _: "none", start_ts=late_ts)
        try:
            with pytest.raises(DriveError, match="24 h ahead"):
                driver.saturate(0.2)
        finally:
            driver.close()


def test_nobody_there_is_said() -> None:
    """An address where nobody listens is named."""
    with pytest.raises(DriveError, match=r"127\.0\.0\.1:1"):
        Driver(("127.0.0.1", 1), vms=[VM], token=lambda _: "none", start_ts=0)
