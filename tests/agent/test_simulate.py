"""When a simulated fleet sends: all together, in order, at the speed asked for, repeatably."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import simulate
from agent.load import Identity
from agent.shapes import DEFAULT_PROFILES, Noise, SimulatedVm, make_fleet, parse_profiles
from agent.simulate import identity, send_history, send_live, spread_s
from agent.wire import is_vm_id
from tests.agent.fake_aggregator import FakeAggregator, Pauses, Request, answer, in_thread

END_S = 1_795_248_420


class Recorder:
    """Takes what is pushed: (time on the fake clock, VM, times of the samples)."""

    def __init__(self, pauses: Pauses) -> None:
        self._pauses = pauses
        self.pushes: list[tuple[float, str, list[int]]] = []
        self.texts: dict[str, list[str]] = {}

    async def enrol(self, identity: Identity) -> None:
        raise AssertionError("the fleet is enrolled before it sends")

    async def push(self, vm: str, samples: Sequence[str], interval_s: int) -> None:
        assert interval_s == 60
        self.pushes.append((self._pauses.now_s, vm, [json.loads(text)["ts"] for text in samples]))
        self.texts.setdefault(vm, []).extend(samples)


def fleet_of(mix: str, vms: int, days: float) -> tuple[SimulatedVm, ...]:
    return make_fleet(parse_profiles(mix), vms=vms, days=days, end_s=END_S, seed=1)


def history(fleet: tuple[SimulatedVm, ...], *, factor: float | None, batch: int = 480) -> tuple[Recorder, Pauses]:
    pauses = Pauses()
    recorder = Recorder(pauses)
    span_s = (min(vm.started_s for vm in fleet), END_S)
    sending = send_history(
        fleet, Noise(1), recorder, span_s=span_s, factor=factor, batch=batch, clock=pauses.clock, sleep=pauses.sleep
    )
    asyncio.run(sending)
    return recorder, pauses


def test_history_is_whole_and_in_order() -> None:
    """Each VM sends every minute of its life once, oldest first, in batches no larger than asked for."""
    fleet = fleet_of(DEFAULT_PROFILES, 20, 0.5)
    recorder, pauses = history(fleet, factor=None, batch=100)
    assert pauses.slept_s == []
    assert max(len(times) for _, _, times in recorder.pushes) == 100
    for vm in fleet:
        times = [ts for _, name, batch in recorder.pushes if name == vm.vm for ts in batch]
        assert times == list(range(vm.started_s + 60, (vm.stops_s or END_S) + 60, 60))


def test_all_vms_advance_together() -> None:
    """No VM is ever more than a batch ahead of another that still reports."""
    recorder, _ = history(fleet_of("low,busy", 6, 0.5), factor=None, batch=60)
    newest: dict[str, int] = {}
    for _, vm, times in recorder.pushes:
        newest[vm] = times[-1]
        if len(newest) == 6:
            assert max(newest.values()) - min(newest.values()) <= 60 * 60


@given(factor=st.sampled_from([60.0, 90.0, 600.0, 7_200.0, 100_000.0]), batch=st.sampled_from([1, 7, 480]))
def test_clock_runs_as_fast_as_asked(factor: float, batch: int) -> None:
    """No sample is sent before its time on the fast clock, nor much later, and the same samples as without a clock."""
    fleet = fleet_of("low,busy", 2, 0.1)
    recorder, pauses = history(fleet, factor=factor, batch=batch)
    start_s = fleet[0].started_s
    for now_s, _, times in recorder.pushes:
        clock_s = start_s + (now_s - 1_000.0) * factor
        assert times[-1] <= clock_s
        if batch == 480:
            assert clock_s - times[0] <= max(60.0, factor) + 60
    assert recorder.texts == history(fleet, factor=None)[0].texts
    assert all(slept_s >= 1.0 for slept_s in pauses.slept_s)


def test_slow_clock_sleeps_until_the_next_minute_is_due() -> None:
    """At twice the wall's speed a minute passes every 30 seconds, and nothing polls in between."""
    fleet = fleet_of("busy", 1, 5 / 1440)
    _, pauses = history(fleet, factor=2.0)
    assert pauses.slept_s == [30.0] * 5


def live(fleet: tuple[SimulatedVm, ...], minutes: float, *, stalled_s: float = 0.0) -> Recorder:
    """Runs a live fleet for some minutes of a fake clock; the first push stalls it for `stalled_s`."""

    class Over(Exception):
        pass

    def check(seconds: float) -> None:
        if pauses.now_s > END_S + minutes * 60:
            raise Over

    class Stalling(Recorder):
        async def push(self, vm: str, samples: Sequence[str], interval_s: int) -> None:
            await super().push(vm, samples, interval_s)
            if len(self.pushes) == 1:
                pauses.now_s += stalled_s

    pauses = Pauses(check)
    pauses.now_s = float(END_S)
    recorder = Stalling(pauses)
    sending = send_live(fleet, Noise(1), recorder, from_s=END_S, batch=10, now=pauses.clock, sleep=pauses.sleep)
    with pytest.raises(Over):
        asyncio.run(sending)
    return recorder


def test_live_fleet_sends_each_minute_spread_over_it() -> None:
    """Each VM sends one sample a minute, after the minute ended and at the same second of each."""
    fleet = fleet_of("low", 30, 0)
    recorder = live(fleet, 5)
    for vm in fleet:
        mine = [(now_s, times) for now_s, name, times in recorder.pushes if name == vm.vm]
        assert len(mine) >= 3
        for number, (now_s, times) in enumerate(mine, start=1):
            assert times == [END_S + number * 60]
            assert now_s - times[0] == pytest.approx(spread_s(vm.vm))
    assert len({now_s for now_s, _, _ in recorder.pushes}) > 60


def test_live_fleet_catches_up_in_batches() -> None:
    """After half an hour in which the aggregator took nothing, every minute still arrives, in order."""
    fleet = fleet_of("low", 4, 0)
    recorder = live(fleet, 45, stalled_s=1_800)
    for vm in fleet:
        batches = [times for _, name, times in recorder.pushes if name == vm.vm]
        times = [ts for batch in batches for ts in batch]
        assert times == list(range(END_S + 60, times[-1] + 60, 60))
        assert times[-1] >= END_S + 43 * 60
        assert max(len(batch) for batch in batches) == 10


def test_live_silent_vm_stays_silent() -> None:
    """A VM that stopped reporting in the history does not come back; a fleet of such VMs is done."""
    fleet = fleet_of("silent,low", 2, 1)
    assert {name for _, name, _ in live(fleet, 3).pushes} == {"sim-low-0001"}


def test_identities_are_stable_and_private() -> None:
    """Ids fit the wire; addresses follow from them, private and locally administered, and differ between VMs."""
    fleet = fleet_of(DEFAULT_PROFILES, 200, 1)
    identities = [identity(vm) for vm in fleet]
    assert identities == [identity(vm) for vm in fleet]
    assert all(is_vm_id(item.vm) and item.hostname == item.vm for item in identities)
    assert all(item.ips[0].startswith("10.") and item.macs[0].startswith("02:") for item in identities)
    assert len({item.macs for item in identities}) == 200


@given(st.text(min_size=1))
def test_spread_is_within_the_minute(vm: str) -> None:
    """Every id has one second of the minute, always the same."""
    assert 0 <= spread_s(vm) < 60
    assert spread_s(vm) == spread_s(vm)


# The command itself, with real sockets.


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    simulate.add_options(parser)
    return parser.parse_args(arguments)


@pytest.fixture(autouse=True)
def _join_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALLOW_JOIN_TOKEN", "join")


def texts(requests: list[Request]) -> dict[str, list[object]]:
    sent: dict[str, list[object]] = {}
    for request in requests:
        sent.setdefault(request.headers["fallow-vm"], []).extend(json.loads(request.body)["samples"])
    return sent


@pytest.mark.real
def test_command_sends_the_fleet_and_prints_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command: all VMs enrol, all samples of the manifest's spans arrive, stdout is one JSON object."""
    manifest = tmp_path / "manifest.json"
    arguments = [
        "--vms",
        "20",
        "--days",
        "0.25",
        "--end",
        "2026-11-21T08:07:31Z",
        "--manifest",
        str(manifest),
        "--json",
    ]
    with in_thread(FakeAggregator(script=[answer(503, {}, "Retry-After: 0")])) as fake:
        assert simulate.run(parse("--aggregator", fake.url, *arguments)) == 0
    printed = json.loads(capsys.readouterr().out)
    truth = json.loads(manifest.read_text())
    samples = sum((entry["ended_s"] - entry["started_s"]) // 60 for entry in truth)
    assert printed.keys() == {"vms", "samples", "stored", "duplicate", "rejected", "seconds"}
    assert (printed["vms"], printed["samples"], printed["stored"]) == (20, samples, samples)
    sent = texts(fake.pushes[1:])
    assert {entry["vm"] for entry in truth} == sent.keys()
    for entry in truth:
        times = [sample["ts"] for sample in sent[entry["vm"]]]  # type: ignore[index]
        assert times == list(range(entry["started_s"] + 60, entry["ended_s"] + 60, 60))
    assert max(entry["ended_s"] for entry in truth) == END_S


@pytest.mark.real
def test_command_repeats_itself() -> None:
    """Two runs with the same seed and end send the same samples; another seed sends others."""
    runs = []
    for seed in ("5", "5", "6"):
        with in_thread(FakeAggregator()) as fake:
            options = parse(
                "--aggregator",
                fake.url,
                "--vms",
                "4",
                "--profiles",
                "low,spiky",
                "--days",
                "0.05",
                "--seed",
                seed,
                "--end",
                "2026-11-21T08:00:00Z",
            )
            assert simulate.run(options) == 0
        runs.append(texts(fake.pushes))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@contextmanager
def terminated_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Sends this process a SIGTERM as soon as the condition holds, unless the block is over by then."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            if condition():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@pytest.mark.real
def test_live_command_ends_well_on_sigterm(capsys: pytest.CaptureFixture[str]) -> None:
    """A live fleet runs until SIGTERM, which is its way to succeed; its history is there by then."""
    with in_thread(FakeAggregator()) as fake, terminated_when(lambda: len(texts(list(fake.pushes))) == 3):
        options = parse(
            "--aggregator",
            fake.url,
            "--vms",
            "3",
            "--profiles",
            "low",
            "--days",
            "0.01",
            "--clock-factor",
            "1",
            "--json",
        )
        assert simulate.run(options) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["vms"] == 3
    assert counts["stored"] >= 3 * 14


@pytest.mark.real
def test_interrupted_command_fails() -> None:
    """A history cut short by SIGTERM is not a success, and the command does not linger."""
    with in_thread(FakeAggregator()) as fake, terminated_when(lambda: bool(fake.pushes)):
        options = parse("--aggregator", fake.url, "--vms", "2", "--days", "1", "--clock-factor", "60")
        assert simulate.run(options) == 1


@pytest.mark.real
def test_nobody_there_is_exit_69(capsys: pytest.CaptureFixture[str]) -> None:
    """The address is in the message and there is no traceback."""
    with in_thread(FakeAggregator()) as fake:
        pass
    assert simulate.run(parse("--aggregator", fake.url, "--vms", "2", "--days", "0.01")) == 69
    assert fake.url in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--vms", "0"], "--vms"),
        (["--profiles", "idle=1"], "--profiles"),
        (["--days", "36500"], "--days"),
        (["--days", "-1"], "--days"),
        (["--seed", "x"], "--seed"),
        (["--clock-factor", "-3"], "--clock-factor"),
        (["--end", "yesterday"], "--end"),
        (["--batch", "5000"], "--batch"),
        (["--patience", "5 parsecs"], "--patience"),
    ],
)
def test_wrong_values_are_usage_errors(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """argparse ends with 2 and names the option."""
    with pytest.raises(SystemExit) as ended:
        parse("--aggregator", "http://127.0.0.1:1", *arguments)
    assert ended.value.code == 2
    assert f"argument {named}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--aggregator", "nowhere"], "--aggregator"),
        (["--aggregator", "http://127.0.0.1:1", "--ca", "ca.pem"], "--ca"),
        (["--aggregator", "http://127.0.0.1:1", "--join-token-file", "absent"], "--join-token-file"),
        (["--aggregator", "http://127.0.0.1:1", "--manifest", "absent/manifest.json"], "--manifest"),
        (["--aggregator", "http://127.0.0.1:1", "--clock-factor", "1", "--end", "2026-11-21"], "--end"),
    ],
)
def test_useless_settings_are_exit_2(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What only shows once options are put together names its option too."""
    assert simulate.run(parse(*arguments, "--vms", "1", "--days", "0.01")) == 2
    assert capsys.readouterr().err.startswith(f"fallow-agent: {named}: ")
