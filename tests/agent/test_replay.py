"""Pushing recorded VMs: where in time they end up, in which order they go, and what is told of them."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import replay
from agent.load import Identity
from agent.replay import manifest, send_all, send_paced, shift_to, survey
from agent.traces import Dirt, Recording, read_csv, read_trace
from tests.agent.fake_aggregator import FakeAggregator, Pauses, in_thread

DATA = Path(__file__).resolve().parents[1] / "data"
BEGIN_S = 1_700_000_400


class Recorder:
    """Remembers enrolments, and pushes as (time on the fake clock, VM, interval, texts)."""

    def __init__(self, pauses: Pauses) -> None:
        self._pauses = pauses
        self.identities: list[Identity] = []
        self.pushes: list[tuple[float, str, int, list[str]]] = []

    async def enrol(self, identity: Identity) -> None:
        self.identities.append(identity)

    async def push(self, vm: str, samples: Sequence[str], interval_s: int) -> None:
        assert vm in {identity.vm for identity in self.identities}
        self.pushes.append((self._pauses.now_s, vm, interval_s, list(samples)))

    def texts(self) -> dict[str, list[str]]:
        sent: dict[str, list[str]] = {}
        for _, vm, _, texts in self.pushes:
            sent.setdefault(vm, []).extend(texts)
        return sent


def recordings(*, minutes: int = 30) -> list[Recording]:
    """Two VMs that overlap by half: `a` from the begin, `b` from its middle, and 30 s apart from the grid."""
    lines = ["vm,ts,interval_s,cpu_busy_ratio,mem_total_bytes,mem_used_bytes"]
    for vm, first in (("a", 0), ("b", minutes // 2)):
        lines += [f"{vm},{BEGIN_S + (first + n) * 60 + 10},60,0.{n:03d},1024,512" for n in range(minutes)]
    return list(read_csv(lines, where="x.csv"))


def ts_of(text: str) -> int:
    ts: int = json.loads(text)["ts"]
    return ts


@given(st.floats(0, 4e9), st.integers(0, 4_000_000_000))
def test_shift_is_whole_hours_and_ends_within_the_hour_before(end_s: float, newest_s: int) -> None:
    """One constant of whole hours; the newest sample lands in the hour up to the end, in past or future alike."""
    shift_s = shift_to(end_s, newest_s)
    assert shift_s % 3_600 == 0
    assert end_s - 3_600 < newest_s + shift_s <= end_s


def test_survey_adds_up_and_leaves_out_empty_vms() -> None:
    """First reading: spans and counts of each VM with samples, the dirt of all."""
    dirt = Dirt()
    entries = survey(read_trace(DATA / "bitbrains"), dirt)
    assert [(entry.vm, entry.first_s, entry.last_s, entry.samples) for entry in entries] == [
        ("bb-7", 1375308300, 1375308600, 2),
        ("bb-82", 1375308300, 1375309500, 5),
    ]
    assert (dirt.rows, dirt.kept) == (12, 7)
    assert manifest(entries, 3_600)[1] == {
        "vm": "bb-82",
        "profile": "trace",
        "idle_expected": None,
        "started_s": 1375308000 + 3_600,
        "ended_s": 1375309500 + 3_600,
        "source": "82.csv",
        "interval_s": 300,
        "samples": 5,
        "shift_s": 3_600,
    }


def test_without_a_clock_all_goes_at_once_in_batches() -> None:
    """VM after VM, every sample once and in order, shifted, with the interval of the trace."""
    recorder = Recorder(Pauses())
    asyncio.run(send_all(read_trace(DATA / "bitbrains"), recorder, shift_s=7_200, batch=3))
    assert [identity.vm for identity in recorder.identities] == ["bb-7", "bb-82"]
    assert [(vm, interval_s, len(texts)) for _, vm, interval_s, texts in recorder.pushes] == [
        ("bb-7", 300, 2),
        ("bb-82", 300, 3),
        ("bb-82", 300, 2),
    ]
    expected = {item.vm: list(item.texts(7_200)) for item in read_trace(DATA / "bitbrains") if item.rows}
    assert recorder.texts() == expected


@given(factor=st.sampled_from([1.0, 30.0, 600.0, 1e6]), batch=st.sampled_from([1, 4, 480]))
def test_with_a_clock_every_sample_waits_for_its_time(factor: float, batch: int) -> None:
    """No sample goes before its time on the fast clock nor long after, and the samples are those without a clock."""
    pauses = Pauses()
    recorder = Recorder(pauses)
    asyncio.run(
        send_paced(
            recordings(),
            recorder,
            io.BytesIO(),
            shift_s=3_600,
            factor=factor,
            batch=batch,
            clock=pauses.clock,
            sleep=pauses.sleep,
        )
    )
    assert recorder.texts() == {item.vm: list(item.texts(3_600)) for item in recordings()}
    first_s = recordings()[0].rows[0][0] + 3_600
    for now_s, _, _, texts in recorder.pushes:
        clock_s = first_s + (now_s - 1_000.0) * factor
        assert ts_of(texts[-1]) <= clock_s + 1e-3
        assert clock_s - ts_of(texts[0]) <= max(60.0, 60.0 * factor) * 1.01 or factor > 1e5
        assert len(texts) <= batch
    assert all(slept_s >= 1.0 for slept_s in pauses.slept_s)


# The command itself, with real sockets.


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    replay.add_options(parser)
    return parser.parse_args(arguments)


@pytest.fixture(autouse=True)
def _join_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALLOW_JOIN_TOKEN", "join")


@pytest.mark.real
def test_command_replays_a_folder_up_to_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command: all usable rows arrive within the hour before now; JSON and manifest tell the shift."""
    file = tmp_path / "manifest.json"
    with in_thread(FakeAggregator()) as fake:
        arguments = ["--aggregator", fake.url, "--manifest", str(file), "--json"]
        before_s = time.time()
        assert replay.run(parse(str(DATA / "bitbrains"), *arguments)) == 0
        after_s = time.time()
    printed = json.loads(capsys.readouterr().out)
    assert (printed["vms"], printed["samples"], printed["stored"]) == (2, 7, 7)
    assert (printed["trace"]["rows"], printed["trace"]["malformed"]) == (12, 3)
    batches = [request.batch() for request in fake.pushes]
    assert {batch.vm: batch.interval_s for batch in batches} == {"bb-7": 300, "bb-82": 300}
    newest_s = max(sample.ts for batch in batches for sample in batch.samples)
    assert before_s - 3_600 < newest_s <= after_s
    assert newest_s - printed["shift_s"] == 1375309500
    assert {entry["shift_s"] for entry in json.loads(file.read_text())} == {printed["shift_s"]}
    enrolled = [json.loads(request.body) for request in fake.enrolments]
    assert enrolled[1]["machine"] == {"system": "trace", "source": "82.csv"}


@pytest.mark.real
@pytest.mark.parametrize(
    ("end", "newest_s"),
    [("keep", 1700000700), ("2026-11-21T08:00:00Z", (1_795_248_000 - 1700000700) // 3600 * 3600 + 1700000700)],
)
def test_command_puts_the_end_where_it_is_told(end: str, newest_s: int) -> None:
    """`keep` changes no time; a given time takes the place of now."""
    with in_thread(FakeAggregator()) as fake:
        assert replay.run(parse(str(DATA / "fleet.csv"), "--aggregator", fake.url, "--end", end)) == 0
    assert max(sample.ts for request in fake.pushes for sample in request.batch().samples) == newest_s


@pytest.mark.real
def test_command_takes_the_first_vms_with_a_prefix_and_a_clock() -> None:
    """`--vms`, `--prefix` and `--clock-factor` together; the end is that of the chosen VMs."""
    with in_thread(FakeAggregator()) as fake:
        arguments = ["--vms", "1", "--prefix", "old.", "--clock-factor", "1e6", "--end", "keep"]
        assert replay.run(parse(str(DATA / "bitbrains"), "--aggregator", fake.url, *arguments)) == 0
    (vm,) = {request.batch().vm for request in fake.pushes}
    assert vm == "old.7"
    assert [sample.ts for request in fake.pushes for sample in request.batch().samples] == [1375308300, 1375308600]


@pytest.mark.real
def test_nothing_is_sent_of_a_trace_with_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first reading finds the mistake in the last line before anything is pushed; exit 1 with its place."""
    path = tmp_path / "fleet.csv"
    path.write_text((DATA / "fleet.csv").read_text() + "db,1700000520,60,1.5,1,1,,\n")
    with in_thread(FakeAggregator()) as fake:
        assert replay.run(parse(str(path), "--aggregator", fake.url)) == 1
    assert fake.requests == []
    assert "fleet.csv: line 6: cpu_busy_ratio: 1.5" in capsys.readouterr().err


def test_trace_without_samples_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trace of which nothing is left is named; it must not look like a replay that went well."""
    assert replay.run(parse(str(DATA / "bitbrains" / "446.csv"), "--aggregator", "http://127.0.0.1:1")) == 1
    assert "446.csv: no usable samples" in capsys.readouterr().err


def test_absent_path_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path that does not exist is exit 2 and names itself."""
    assert replay.run(parse(str(tmp_path / "absent.csv"), "--aggregator", "http://127.0.0.1:1")) == 2
    assert "absent.csv does not exist" in capsys.readouterr().err


def test_wrong_end_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The option is named."""
    with pytest.raises(SystemExit) as ended:
        parse("x.csv", "--aggregator", "http://127.0.0.1:1", "--end", "soon")
    assert ended.value.code == 2
    assert "--end" in capsys.readouterr().err
