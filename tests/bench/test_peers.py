"""`bench peers`: all are given the same figures, each in its own words, and the bars stand on the right ratios."""

from __future__ import annotations

import argparse
import gzip
import json
import pickle
import socket
import struct
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.sample import FIELDS, Sample
from agent.settings import ConfigError
from agent.wire import decode_batch
from bench import peers
from bench.load_driver import Drive, DriveError
from bench.outcome import Outcome
from bench.peers import Found, add_options, compacting, outcome, run
from bench.peers_carbon import Carbon, CarbonHome
from bench.peers_driver import Pusher
from bench.peers_fallow import Fallow
from bench.peers_figures import FIELD_NAMES, Minute, kinds, minute_of
from bench.peers_influx import InfluxDb, line_of
from bench.peers_rounds import Cost, Lane
from bench.peers_victoria import VictoriaMetrics
from bench.programs import ProgramError

_TS = 1_700_000_040
_SAMPLE = Sample(
    ts=_TS,
    cpu_busy_ratio=0.123456789,
    cpu_max_ratio=0.5,
    cpu_count=4,
    load1=1.239,
    mem_total_bytes=8_589_934_592,
    mem_used_bytes=1_073_741_825,
    disk_read_bytes_per_s=1234.6,
)


def a_minute() -> Minute:
    return minute_of(_SAMPLE)


def body_of(request: bytes) -> bytes:
    head, _, body = request.partition(b"\r\n\r\n")
    (length,) = (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    assert int(length.partition(b":")[2]) == len(body)
    return body


def unpickled(request: bytes) -> list[tuple[str, tuple[int, float]]]:
    points: list[tuple[str, tuple[int, float]]] = []
    while request:
        (length,) = struct.unpack_from("!L", request)
        points += pickle.loads(request[4 : 4 + length])
        request = request[4 + length :]
    return points


def test_figures_are_rounded_to_the_steps_that_fallow_keeps() -> None:
    """Nobody stores digits that another one drops; what was not measured stays away."""
    assert dict(a_minute().known()) == {
        "cpu_busy_ratio": "0.12346",
        "cpu_max_ratio": "0.5",
        "cpu_count": "4",
        "load1": "1.24",
        "mem_total_bytes": "8589934592",
        "mem_used_bytes": "1073741824",
        "disk_read_bytes_per_s": "1235",
    }


@pytest.mark.parametrize("value", [0.0, 1.0, 100.0])
def test_zeros_before_the_point_stay(value: float) -> None:
    """A load of 100 is not printed as 1."""
    minute = minute_of(Sample(ts=_TS, cpu_busy_ratio=min(value, 1.0), mem_total_bytes=1, mem_used_bytes=1, load1=value))
    assert float(dict(minute.known())["load1"]) == value


def test_every_kind_of_minute_has_every_figure() -> None:
    """18 data points a push are compared, not fewer."""
    for texts in kinds(8, end_s=_TS - _TS % 3600):
        assert None not in texts
        assert len(texts) == len(FIELDS)


def test_fallow_decodes_what_it_is_sent(tmp_path: Path) -> None:
    """One minute as it is, many packed, both as the wire wants them."""
    system = Fallow(tmp_path / "fallow")
    single = decode_batch(body_of(system.minute("vm-1", a_minute().texts, _TS)))
    packed = decode_batch(gzip.decompress(body_of(system.batch("vm-1", [a_minute()], 60))))
    assert single.samples == packed.samples
    assert single.samples[0].mem_used_bytes == 1_073_741_824
    assert single.samples[0].users is None


def test_peers_are_sent_the_same_figures(tmp_path: Path) -> None:
    """Each in its own words."""
    minute = a_minute()
    sent = {name: float(text) for name, text in minute.known()}
    carbon = Carbon(tmp_path / "carbon", CarbonHome(tmp_path / "none"))
    assert dict(unpickled(carbon.minute("vm-1", minute.texts, _TS))) == {
        f"vm.vm-1.{name}": (_TS, value) for name, value in sent.items()
    }
    victoria = VictoriaMetrics(tmp_path / "victoria")
    series = [json.loads(line) for line in body_of(victoria.batch("vm-1", [minute, minute], 60)).splitlines()]
    assert {one["metric"]["__name__"]: one["values"] for one in series} == {
        f"vm_{name}": [value, value] for name, value in sent.items()
    }
    assert {tuple(one["timestamps"]) for one in series} == {(_TS * 1000, _TS * 1000)}
    tag, fields, ts = line_of("vm-1", minute).decode().split()
    assert (tag, int(ts)) == ("vm,id=vm-1", _TS)
    assert {part.partition("=")[0]: float(part.partition("=")[2].rstrip("i")) for part in fields.split(",")} == sent


def test_a_large_batch_for_carbon_is_cut_into_messages_that_it_takes(tmp_path: Path) -> None:
    """A message of more than 1 MiB would be refused."""
    carbon = Carbon(tmp_path / "carbon", CarbonHome(tmp_path / "none"))
    minutes = [Minute(_TS + 60 * number, a_minute().texts) for number in range(500)]
    request = carbon.batch("vm-1", minutes, 60)
    assert struct.unpack_from("!L", request)[0] < 1 << 20
    assert len(unpickled(request)) == sum(minute.points for minute in minutes)


def test_only_influx_is_told_to_compact_at_once(tmp_path: Path) -> None:
    """The others do not put it off for hours, or are asked to."""
    made = compacting({"fallow": Fallow, "influx": InfluxDb})
    assert made["fallow"] is Fallow
    assert isinstance(made["influx"](tmp_path / "influx"), InfluxDb)


def a_cost(minutes_per_cpu_s: float) -> Cost:
    return Cost(pushes=1000, minutes=1000, seconds=1.0, cpu_s=1000 / minutes_per_cpu_s, each=[minutes_per_cpu_s])


def limits_met(found: Outcome) -> dict[str, bool]:
    return {bar.name: bar.ok for bar in found.bars}


def test_the_bars_are_ratios_of_one_run() -> None:
    """At least so many times the peer's, where both were measured."""
    found = Found(
        paced={"fallow": a_cost(1500), "VictoriaMetrics": a_cost(1000), "InfluxDB": a_cost(800)},
        saturated={"fallow": a_cost(700), "VictoriaMetrics": a_cost(1500)},
        lost={"fallow": 0, "VictoriaMetrics": 5000},
        disk={"fallow": 3.0, "VictoriaMetrics": 1.0},
        answers=[{"system": "fallow", "seconds": 0.02}, {"system": "carbon", "seconds": 0.01}],
    )
    assert limits_met(outcome(found)) == {
        "paced, VM-minutes per CPU-second: fallow / VictoriaMetrics": True,
        "paced, VM-minutes per CPU-second: fallow / InfluxDB": False,
        "as fast as it goes, VM-minutes per CPU-second: fallow / VictoriaMetrics": False,
        "acknowledged VM-minutes lost at kill -9": True,
        "disk, bytes a data point: fallow / VictoriaMetrics": True,
        "lowest 20, seconds: fallow / carbon": False,
    }


def test_a_lost_minute_misses_the_bar() -> None:
    """Not one may be lost."""
    assert limits_met(outcome(Found(lost={"fallow": 1}))) == {"acknowledged VM-minutes lost at kill -9": False}


def test_the_table_has_a_row_a_system() -> None:
    """What was not measured is None, and 0 is a figure."""
    figures = outcome(Found(paced={"fallow": a_cost(1500), "carbon": a_cost(500)}, lost={"fallow": 0})).figures
    rows = figures["table"]
    assert isinstance(rows, list)
    assert [row["system"] for row in rows] == ["fallow", "carbon"]
    assert rows[0]["lost_vm_minutes"] == 0
    assert rows[1]["lost_vm_minutes"] is None
    assert rows[0]["paced_vm_minutes_per_cpu_s"] == 1500


class Slow(VictoriaMetrics):
    """Has one minute more each time somebody looks."""

    looks = 0

    def stored(self, vms: Sequence[str], after_s: int) -> int:
        assert (list(vms), after_s) == (["vm-1"], _TS)
        self.looks += 1
        return self.looks


def test_what_is_written_late_is_waited_for(tmp_path: Path) -> None:
    """All that was pushed, and not more: else the figures are of other work."""
    system = Slow(tmp_path / "slow")
    lane = Lane(system, ["vm-1"], [], _TS, minute=3)
    lane.check(looks=5, pause_s=0.0)
    assert system.looks == 3
    with pytest.raises(ProgramError, match="3 minutes pushed, 8 stored"):
        lane.check(looks=5, pause_s=0.0)


def options_of(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(argv)


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """With its name."""
    with pytest.raises(SystemExit):
        options_of("--parts", "paced,dsik")
    assert "dsik" in capsys.readouterr().err


@pytest.mark.parametrize("minutes", ["20", "90", "3000"])
def test_minutes_that_are_no_whole_hours_or_reach_too_far_are_refused(minutes: str) -> None:
    """Before anything is started."""
    with pytest.raises(ConfigError, match="--minutes"):
        run(options_of("--minutes", minutes), say=lambda _line: None)


def test_what_is_not_installed_is_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are compared all the same."""
    monkeypatch.setattr("bench.peers_victoria.PROGRAM", tmp_path / "absent")
    said: list[str] = []
    found = peers.makers(options_of("--peers", "victoria"), said.append)
    assert list(found) == ["fallow"]
    assert "not installed" in said[0]


class Answering:
    """A server that answers each request on each connection with what `answers` gives next."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = answers
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        self.received = b""
        self.accepted = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Answering:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        while self._answers:
            connection, _ = self._listening.accept()
            self.accepted += 1
            with connection:
                while self._answers and (received := connection.recv(65536)):
                    self.received += received
                    answer = self._answers.pop(0)
                    connection.sendall(answer)
                    if b"close" in answer:
                        break


_GOOD = b"HTTP/1.1 204 No Content\r\n\r\n"
_LAST = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


@pytest.mark.real
def test_a_connection_that_the_server_ends_is_opened_again() -> None:
    """All requests are answered, none twice."""
    with Answering([_GOOD, _LAST, _GOOD]) as server:
        pusher = Pusher(server.address, connections=1, answer=b"HTTP/1.1 204")
        drive = Drive()
        pusher.push([b"1", b"2", b"3"], drive)
        pusher.close()
    assert (server.received, server.accepted, drive.acked, len(drive.ack_s)) == (b"123", 2, 3, 3)


@pytest.mark.real
def test_a_refusal_ends_the_run_and_shows_the_answer() -> None:
    """Nothing is counted as acknowledged that was not."""
    with Answering([_GOOD, b"HTTP/1.1 503 no\r\n\r\n"]) as server:
        pusher = Pusher(server.address, connections=1, answer=b"HTTP/1.1 204")
        drive = Drive()
        with pytest.raises(DriveError, match="503 no"):
            pusher.push([b"1", b"2", b"3"], drive)
        pusher.close()
    assert drive.acked == 1


def test_times_are_quantiles_of_all_rounds() -> None:
    """A round with slow answers is not left out."""
    cost = Cost(pushes=2, minutes=2, seconds=1.0, cpu_s=1.0, drive=Drive(ack_s=array("d", [0.001] * 98 + [0.5] * 2)))
    assert cost.figures()["ack_p99_s"] == 0.5
    assert cost.cpu_s_per_million_points == pytest.approx(1e6 / 2 / len(FIELD_NAMES))


class Keeping(VictoriaMetrics):
    """Keeps minutes in memory, more and more; whatever it is asked is written down."""

    def __init__(self, folder: Path, address: tuple[str, int], waiting: list[int]) -> None:
        super().__init__(folder)
        self._door = address
        self._waiting = waiting
        self.stores = 0

    @property
    def address(self) -> tuple[str, int]:
        return self._door

    def store(self) -> int:
        self.stores += 1
        return 0

    def waiting(self) -> int:
        return self._waiting.pop(0)

    def rest(self) -> None:
        pass

    def cpu_s(self) -> float:
        return float(self.stores)

    def peak_rss_bytes(self) -> int:
        return 1


@pytest.mark.real
@pytest.mark.parametrize(("waiting", "is_steady"), [([100, 109], True), ([100, 91], True), ([100, 111], False)])
def test_measured_hours_end_with_as_much_in_memory_as_they_began_with(
    tmp_path: Path, waiting: list[int], is_steady: bool
) -> None:
    """Else what they cost would be put off, or paid for other minutes; the hour before them may fill memory."""
    with Answering([_GOOD] * 120) as server:
        system = Keeping(tmp_path / "keeping", server.address, waiting)
        lane = Lane(system, ["vm-1"], [a_minute().texts], _TS)
        lane.warm_up(60, 1)
        assert (system.stores, lane.minute, len(waiting)) == (4, 60, 2)
        cost = Cost()
        if is_steady:
            lane.push(cost, 60, 1, None)
        else:
            with pytest.raises(ProgramError, match="100 samples were in memory when the measuring began, 111"):
                lane.push(cost, 60, 1, None)
    assert (system.stores, lane.minute, cost.minutes) == (8, 120, 60)
