"""The parts of `bench nodes` that judge: what it sends is told apart, and whatever is wrong at the end is found."""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from aggregator.fleet import vm_part, vm_window
from aggregator.store_files import store_path
from aggregator.summaries import SummaryWriter
from aggregator.summary import WINDOWS_DAYS, Taken, WorkerSettings
from aggregator.worker import FlushWorker
from bench import haproxy
from bench.kill_driver import INTERVAL_S
from bench.load_driver import DriveError
from bench.nodes_cluster import Cluster
from bench.nodes_compare import Verdict, judge, one_aggregator, packed
from bench.nodes_driver import NodesDriver, PacedLedger
from bench.programs import Programs
from tests.aggregator.balanced import Stand, stands

START_S = 1_790_000_000 // 3600 * 3600 - 600
DAY_S = 86_400


def ledger_of(salt: int, *, last_minute: int = 500) -> PacedLedger:
    return PacedLedger(f"vm-{salt:04d}", "token", salt=salt, start_s=START_S, last_minute=last_minute)


# What is sent


@given(seed=st.integers(0, 10_000), pushes=st.integers(1, 200))
def test_every_minute_that_a_vm_begins_is_sent_in_the_end(seed: int, pushes: int) -> None:
    """Backlogs, old minutes and repetitions included: once all is acknowledged, no minute up to the last lacks."""
    ledger, draw = ledger_of(1, last_minute=20_000), random.Random(seed)
    for _ in range(pushes):
        ledger.choose(draw)
        assert ledger.pending
        ledger.request(0.0)
        ledger.acknowledge()
    if ledger.choose_late():
        ledger.request(0.0)
        ledger.acknowledge()
    assert not ledger.choose_late()
    sent = list(ledger.acknowledged())
    assert sent == list(range(START_S, START_S + INTERVAL_S * len(sent), INTERVAL_S))


def test_a_push_without_an_answer_stays_as_it_is() -> None:
    """What is under way is what is sent again."""
    ledger, draw = ledger_of(1), random.Random(1)
    ledger.choose(draw)
    pending = list(ledger.pending)
    ledger.choose(draw)
    assert list(ledger.pending) == pending


@pytest.fixture
def server() -> Iterator[Stand]:
    with stands(1) as made:
        yield made[0]


def driver_of(server: Stand, ledgers: list[PacedLedger]) -> NodesDriver:
    return NodesDriver(server.address, ledgers=ledgers, connections=3, draw=random.Random(1))


@pytest.mark.real
def test_what_breaks_off_is_sent_again_until_it_is_acknowledged(server: Stand) -> None:
    """Connections that end without an answer lose nothing: the same push comes again on another."""
    ledgers = [ledger_of(salt) for salt in range(6)]
    with closing(driver_of(server, ledgers)) as driver:
        server.breaks_off = True
        driver.run(0.5, pushes_per_s=50.0)
        assert (driver.sent.acknowledged, driver.sent.broken > 0, driver.under_way > 0) == (0, True, True)
        server.breaks_off = False
        driver.run(0.5, pushes_per_s=50.0)
        driver.settle(30.0)
        assert driver.under_way == 0
        # Some were sent again though they had been answered.
        assert driver.sent.samples >= sum(len(list(ledger.acknowledged())) for ledger in ledgers) > 0
    assert {asked.headers["fallow-vm"] for asked in server.asked} == {ledger.vm for ledger in ledgers}


@pytest.mark.real
def test_few_connections_serve_many_vms(server: Stand) -> None:
    """In turn, and no connection is opened that is not needed."""
    ledgers = [ledger_of(salt) for salt in range(30)]
    with closing(driver_of(server, ledgers)) as driver:
        driver.run(1.0, pushes_per_s=60.0)
        driver.settle(30.0)
    assert server.vms() == {ledger.vm for ledger in ledgers}
    assert len({asked.connection for asked in server.asked}) <= 3


@pytest.mark.real
def test_nobody_listens(server: Stand) -> None:
    """Without a load balancer the driver says where it looked for one."""
    (port,) = haproxy.free_ports(1)
    with pytest.raises(DriveError, match=f"127.0.0.1:{port}"):
        NodesDriver(("127.0.0.1", port), ledgers=[], connections=1, draw=random.Random(1))


# What is found in the end


@dataclass(frozen=True)
class Fleet:
    """Two nodes of which one has stored everything, and a database that says so."""

    cluster: Cluster
    engine: sa.Engine
    ledgers: list[PacedLedger]
    folder: Path

    def judge(self) -> Verdict:
        return judge(
            self.cluster, self.engine, self.ledgers, self.folder / "expected", verify_every=1, say=lambda _line: None
        )

    def store(self, node: str, vm: str) -> Path:
        return store_path(self.cluster.nodes[node].data, vm)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    programs = Programs(Path(sys.executable).parent, tmp_path / "logs", time)
    cluster = Cluster(programs, tmp_path / "nodes", names=("one", "two"), url="unused")
    draw = random.Random(7)
    ledgers = [ledger_of(salt) for salt in range(4)]
    for ledger in ledgers:
        for _ in range(30):
            ledger.choose(draw)
            ledger.request(0.0)
            ledger.acknowledge()
    now_s = float(START_S + DAY_S)
    # One after the other, as pushes come: the computation that all is held against gets them at once.
    engine = one_aggregator(tmp_path / "fleet", [], now_s=now_s, say=lambda _line: None)
    worker = FlushWorker(WorkerSettings(cluster.nodes["one"].data, WINDOWS_DAYS, 400 * DAY_S, 400 * DAY_S))
    for ledger in ledgers:
        rows = list(packed(ledger))
        for part in (rows[:7], rows[7:]):
            taken = Taken(ledger.vm, b"".join(part), 0, now_s, 0.0, identity_conflict=False, wants_figures=True)
            result = worker.flush([taken], now_s=now_s, may_forget=False)
            SummaryWriter(engine, "one").write(result.summaries, now_s=now_s)
    yield Fleet(cluster, engine, ledgers, tmp_path)
    engine.dispose()


def test_a_whole_fleet_has_nothing_wrong(fleet: Fleet) -> None:
    """Each sample once, all figures those of all samples."""
    verdict = fleet.judge()
    assert verdict.problems() == []
    assert verdict.findings.acknowledged == verdict.findings.stored > 100


def test_a_history_on_two_nodes_is_counted_twice(fleet: Fleet) -> None:
    """A store that a second node kept, with the same rows."""
    vm = fleet.ledgers[1].vm
    fleet.store("two", vm).parent.mkdir(parents=True)
    shutil.copyfile(fleet.store("one", vm), fleet.store("two", vm))
    verdict = fleet.judge()
    assert verdict.findings.doubled == len(list(fleet.ledgers[1].acknowledged()))
    assert any("2 aggregators hold a store" in line for line in verdict.problems())


def test_a_sample_that_nobody_stored_is_lost(fleet: Fleet) -> None:
    """It was acknowledged after all stores were written."""
    ledger = fleet.ledgers[2]
    ledger.choose(random.Random(1))
    ledger.request(0.0)
    ledger.acknowledge()
    assert fleet.judge().findings.lost > 0
    fleet.store("one", fleet.ledgers[0].vm).unlink()
    shutil.rmtree(fleet.folder / "expected")
    assert fleet.judge().findings.lost > len(list(fleet.ledgers[0].acknowledged()))


def test_a_figure_that_is_not_that_of_all_samples_differs(fleet: Fleet) -> None:
    """In a column that SQL does not compute too, of one VM in one window."""
    vm = fleet.ledgers[3].vm
    with fleet.engine.begin() as connection:
        this = sa.and_(vm_window.c.vm_id == vm, vm_window.c.window_days == 7)
        connection.execute(sa.update(vm_window).where(this).values(cpu_busy_p95_ratio=0.123))
    verdict = fleet.judge()
    assert (verdict.rows_differ, len(verdict.differing["vm_window"])) == (1, 1)
    assert vm in verdict.problems()[0]


def test_a_part_that_was_never_joined_differs(fleet: Fleet) -> None:
    """A note of a part is left over."""
    with fleet.engine.begin() as connection:
        part = {"vm_id": fleet.ledgers[0].vm, "node": "two", "oldest_s": 1, "newest_s": 2, "noted_s": 3.0}
        connection.execute(sa.insert(vm_part).values(part))
    assert len(fleet.judge().differing["vm_part"]) == 1


# The load balancer


def test_ports_are_not_those_of_outgoing_connections() -> None:
    """A program that comes back finds its port free."""
    ports = haproxy.free_ports(8)
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(ports)) == 8
    assert max(ports) < first


def test_a_configuration_of_another_shape_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that is to be replaced, and is not there: the tests would not test what is shipped."""
    changed = tmp_path / "haproxy.cfg"
    changed.write_text(haproxy.CONFIGURATION.read_text().replace("bind :8899", "bind :443"))
    monkeypatch.setattr(haproxy, "CONFIGURATION", changed)
    here = ("127.0.0.1", 1)
    with pytest.raises(ValueError, match="0 places"):
        haproxy.configuration(haproxy.Place(folder=tmp_path, address=here, figures=here, servers=[here]))
