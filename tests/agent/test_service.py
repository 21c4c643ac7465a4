"""The two loops together: on disk before it is sent, trouble never ends the watch, stopping loses nothing."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import AgentConfig
from agent.enroll import (
    Credential,
    CredentialFile,
    Joiner,
    Rotator,
    gather_evidence,
    load_credential,
    save_credential,
)
from agent.identity import Identity
from agent.loops import Agent
from agent.push import Pusher, Quarantine, Reply, Source, UnreachableError
from agent.sampler import Sampler
from agent.service import AlreadyRunningError, credentials_folder, identify, lock_state, make_agent, open_spools
from agent.settings import ConfigError
from agent.spool import Spool
from agent.status import Status, read_status, write_status
from agent.wire import decode_batch
from tests.agent.machine import Clock, Machine

VM = "vm-1"
UUID = "6f9c2b1e-54d3-4c11-9c58-2f6f0a1b7c3d"


class House:
    """An agent on a machine that is set by hand, with an aggregator that answers what it is told to."""

    def __init__(self, folder: Path, *, enrolled: bool = True, join: bool = False) -> None:
        self.folder = folder
        self.clock = Clock()
        self.machine = Machine()
        self.reply: Reply | Exception = Reply(204, b"")
        self.stored: list[int] = []
        self.requests: list[tuple[str, str]] = []
        self.on_disk_at_push: list[int] = []
        self.aborted = threading.Event()
        self.token_path = folder / "token.json"
        if enrolled:
            self.save(Credential(VM, "given", "t", 60))
        self.credential = CredentialFile(self.token_path, vm=VM)
        self.credential.refresh()
        self.spool = Spool(folder / "spool", sync=lambda fd: None)
        self.rotator = Rotator(
            post=self.post,
            file=self.credential,
            save=self.save,
            vm=VM,
            every_s=30 * 86_400.0,
            clock=self.clock.now,
            mono=self.clock.mono,
            chance=lambda: 1.0,
        )
        sources = [Source(self.spool, 60)]
        quarantine = Quarantine(folder / "quarantine")
        self.pusher = Pusher(
            sources=sources,
            post=self.rotator.watch,
            token=self.credential.token,
            vm=VM,
            boot="boot-1",
            interval_s=60,
            quarantine=quarantine,
            clock=self.clock.now,
            chance=lambda: 1.0,
        )
        joiner = Joiner(
            post=self.post,
            join_token=lambda: "join",
            identity=Identity(VM, "given"),
            evidence=gather_evidence(ips=[], macs=[], boot="boot-1"),
            save=self.save,
            chance=lambda: 1.0,
        )
        status = Status(
            updated_s=0.0,
            started_s=0.0,
            pid=1,
            vm=VM,
            aggregator="http://127.0.0.1:8899",
            interval_s=60,
            boot="boot-1",
            seq=0,
            samples_acked_total=100,
        )
        self.agent = Agent(
            sampler=Sampler(self.machine, interval_s=60),
            sources=sources,
            pusher=self.pusher,
            quarantine=quarantine,
            abort=self.aborted.set,
            joiner=joiner if join else None,
            rotator=self.rotator,
            credential=self.credential,
            status=status,
            status_path=folder / "status.json",
            clock=self.clock.now,
            mono=self.clock.mono,
        )

    def save(self, credential: Credential) -> None:
        """Keeps a token as of now, by the clock of the test."""
        save_credential(self.token_path, credential)
        os.utime(self.token_path, (self.clock.now(), self.clock.now()))

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        if isinstance(self.reply, Exception):
            raise self.reply
        self.requests.append((path, headers.get("Authorization", "")))
        if path == "/v1/token":
            return Reply(200, b'{"vm": "vm-1", "token": "newer"}')
        if path == "/v1/enroll":
            return Reply(201, b'{"vm": "vm-1", "token": "fresh", "interval_s": 60}')
        self.on_disk_at_push.append(sum(path.stat().st_size for path in (self.folder / "spool").glob("*.seg")))
        if self.reply.status == 204:
            body = zlib.decompress(body, 31) if "Content-Encoding" in headers else body
            self.stored += [sample.ts for sample in decode_batch(body).samples]
        return self.reply

    def minutes(self, count: int) -> None:
        """Ticks every 5 s for so long."""
        for _ in range(12 * count):
            self.clock.advance(5.0)
            self.machine.spend(5.0, busy=0.1)
            self.agent.tick()

    def status(self) -> Status:
        status = read_status(self.folder / "status.json")
        assert status is not None
        return status


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.agent.tick()
    return house


def test_a_sample_is_on_disk_before_it_is_sent(house: House) -> None:
    """One minute is one sample: spooled, pushed, acknowledged, told."""
    house.minutes(1)
    assert house.spool.depth == 1
    house.agent.push_once()
    assert house.on_disk_at_push[0] > 0
    assert house.stored == [1_700_000_100]
    house.clock.advance(5.0)
    house.agent.tick()
    status = house.status()
    assert (status.sample_ts, status.spool_depth, status.samples_acked_total) == (1_700_000_100, 0, 101)
    assert (status.seq, status.trouble, status.last_ack_s) == (1, None, 1_700_000_100.0)


def test_an_outage_is_told_and_survived(house: House) -> None:
    """While the aggregator is away samples pile up; the status says why and how many."""
    house.reply = UnreachableError("connection refused")
    for _ in range(10):
        house.minutes(1)
        house.agent.push_once()
    house.agent.tick()
    house.minutes(1)
    assert house.status().trouble == "connection refused"
    assert house.status().spool_depth >= 10
    house.reply = Reply(204, b"")
    house.agent.push_once()
    assert house.spool.depth == 0


def test_a_figure_that_cannot_be_read_does_not_end_the_watch(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """A failing reading is logged and counted; the next whole minute is sampled."""
    house.machine.failure = RuntimeError("a bug")
    house.minutes(1)
    house.machine.failure = None
    house.minutes(2)
    assert house.spool.depth >= 1
    assert house.status().faults_total == 12
    assert any(record.exc_info for record in caplog.records)


def test_a_token_that_comes_later_is_used(tmp_path: Path) -> None:
    """Enrolled by hand while the agent runs: what piled up until then is sent."""
    house = House(tmp_path, enrolled=False)
    house.agent.tick()
    house.minutes(3)
    house.agent.push_once()
    house.minutes(1)
    assert house.status().enrolment_needed
    assert house.spool.depth == 4
    house.save(Credential(VM, "given", "t", 60))
    house.minutes(1)
    house.agent.push_once()
    assert house.spool.depth == 0
    house.minutes(1)
    assert not house.status().enrolment_needed


def test_the_agent_enrols_itself_with_a_join_token(tmp_path: Path) -> None:
    """Not enrolled and the aggregator away: it samples meanwhile, enrols when it can, then pushes."""
    house = House(tmp_path, enrolled=False, join=True)
    house.agent.tick()
    house.reply = UnreachableError("connection refused")
    house.minutes(2)
    assert house.agent.push_once() == 1.0
    house.minutes(1)
    assert house.status().trouble == "not enrolled: connection refused"
    house.reply = Reply(204, b"")
    assert not house.token_path.exists()
    house.agent.push_once()
    assert house.credential.token() == "fresh"
    assert house.spool.depth == 0


def test_an_old_token_is_exchanged_between_two_pushes(house: House) -> None:
    """No push fails meanwhile: the old token carries the last, the new one the next; the status tells its age."""
    house.minutes(1)
    house.agent.push_once()
    house.clock.advance(40 * 86_400.0)
    house.agent.tick()
    house.minutes(3)
    house.agent.push_once()
    assert house.requests == [
        ("/v1/samples", "Bearer t"),
        ("/v1/token", "Bearer t"),
        ("/v1/samples", "Bearer newer"),
    ]
    house.minutes(1)
    assert house.status().token_made_s == pytest.approx(house.clock.now() - 60, abs=61)
    assert house.spool.depth <= 1


def test_the_aggregator_may_ask_for_another_token(house: House) -> None:
    """The samples of the push that was answered so are acknowledged; the next one carries the new token."""
    house.reply = Reply(200, b'{"stored": 1, "token": "rotate"}')
    house.minutes(1)
    house.agent.push_once()
    assert house.spool.depth == 0
    house.reply = Reply(204, b"")
    house.minutes(1)
    house.agent.push_once()
    assert [path for path, _ in house.requests] == ["/v1/samples", "/v1/token", "/v1/samples"]
    assert house.requests[-1][1] == "Bearer newer"


def test_a_token_that_is_refused_is_not_exchanged(house: House) -> None:
    """409 for a clone: it keeps its data and waits to be enrolled, and asks for nothing else."""
    house.reply = Reply(409, b'{"detail": "two machines"}')
    house.minutes(1)
    house.agent.push_once()
    house.clock.advance(40 * 86_400.0)
    house.agent.push_once()
    assert {path for path, _ in house.requests} == {"/v1/samples"}
    assert house.spool.depth >= 1
    house.minutes(1)
    assert house.status().enrolment_needed


def test_stopping_ends_both_loops_and_keeps_what_waits(tmp_path: Path) -> None:
    """SIGTERM: the push under way is aborted, the status written, the samples stay on disk."""
    house = House(tmp_path)
    house.reply = UnreachableError("connection refused")
    ticks = iter(range(36))

    def wait(seconds: float) -> bool:
        assert 0 <= seconds <= 5
        house.clock.advance(5.0)
        house.machine.spend(5.0, busy=0.1)
        return next(ticks, None) is None

    house.agent.run(wait)
    assert house.aborted.is_set()
    assert house.status().spool_depth == 3
    assert Spool(tmp_path / "spool", sync=lambda fd: None).depth == 3
    assert "push" not in {thread.name for thread in threading.enumerate()}


def test_a_status_that_cannot_be_written_is_one_warning(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """A full disk takes the status too: the agent goes on and says so once."""
    (house.folder / "status.json").unlink()
    (house.folder / "status.json").mkdir()
    house.minutes(5)
    assert house.spool.depth == 5
    assert len([record for record in caplog.records if "status.json" in record.getMessage()]) == 1


def test_one_agent_for_a_state_folder(tmp_path: Path) -> None:
    """A second daemon on the same folder is refused while the first lives."""
    config = AgentConfig(state=tmp_path / "state")
    held = lock_state(config)
    with pytest.raises(AlreadyRunningError, match="another fallow-agent"):
        lock_state(config)
    os.close(held)
    os.close(lock_state(config))


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """The message names the setting and the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"state: .*file/state"):
        lock_state(AgentConfig(state=tmp_path / "file" / "state"))


def test_spools_of_other_intervals_come_first_and_empty_ones_not_at_all(tmp_path: Path) -> None:
    """After the interval changed from 30 s to 60 s the old samples are sent as 30 s; another VM's never."""
    config = AgentConfig(state=tmp_path)
    for vm, length_s, filled in ((VM, 30, True), (VM, 300, False), ("vm-2", 60, True)):
        (source,) = (one for one in open_spools(config, vm=vm, interval_s=length_s) if one.interval_s == length_s)
        if filled:
            source.spool.append("{}")
        source.spool.close()
    sources = open_spools(config, vm=VM, interval_s=60)
    assert [(source.interval_s, source.spool.depth) for source in sources] == [(30, 1), (60, 0)]


def root_of(folder: Path) -> Path:
    """A root folder of a VM with a UUID and a boot id."""
    for path, text in (("sys/class/dmi/id/product_uuid", UUID), ("proc/sys/kernel/random/boot_id", UUID)):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(text + "\n")
    return folder


def build(config: AgentConfig, root: Path, join_token: Callable[[], str] | None = None) -> Agent:
    clock = Clock()
    return make_agent(
        config,
        root=root,
        credentials=None,
        join_token=join_token,
        clock=clock.now,
        mono=clock.mono,
        chance=lambda: 1.0,
    )


def test_a_restart_continues_the_totals_and_the_push_numbers(tmp_path: Path) -> None:
    """Within one boot the push number never goes back; after another boot it starts again."""
    config = AgentConfig(state=tmp_path / "state")
    root = root_of(tmp_path / "root")
    lock = lock_state(config)
    first = build(config, root)
    status = first.status()
    assert (status.vm, status.boot, status.seq) == (UUID, UUID, 0)
    write_status(config.status_path, replace(status, seq=41, samples_dropped_total=7))
    second = build(config, root).status()
    assert (second.seq, second.samples_dropped_total) == (41, 7)
    (root / "proc/sys/kernel/random/boot_id").write_text(UUID.replace("6", "7"))
    assert build(config, root).status().seq == 0
    os.close(lock)


def test_a_clone_is_not_its_original(tmp_path: Path) -> None:
    """A disk copied with its token: the copy has another id, no token, and an empty spool of its own."""
    config = AgentConfig(state=tmp_path / "state")
    lock = lock_state(config)
    save_credential(config.credential_path, Credential(UUID.replace("6", "7"), "smbios", "t", 60))
    agent = build(config, root_of(tmp_path / "root"))
    agent.push_once()
    assert agent.status().vm == UUID
    assert identify(config, root=tmp_path / "root", credentials=None) == Identity(UUID, "smbios")
    os.close(lock)


def test_a_wrong_join_token_file_is_told_at_start(tmp_path: Path) -> None:
    """A mistake in the settings ends the start; it is not retried for hours."""

    def absent() -> str:
        raise ConfigError("join.token: absent")

    config = AgentConfig(state=tmp_path / "state")
    lock = lock_state(config)
    with pytest.raises(ConfigError, match=r"join\.token"):
        build(config, root_of(tmp_path / "root"), absent)
    assert load_credential(config.credential_path) is None
    os.close(lock)


def test_the_credential_folder_counts_only_with_the_uuid_in_it(tmp_path: Path) -> None:
    """systemd makes the folder for any credential."""
    assert credentials_folder({"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None
    (tmp_path / "product_uuid").write_text(UUID)
    assert credentials_folder({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == tmp_path
    assert credentials_folder({}) is None
