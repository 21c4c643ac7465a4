"""One VM with its agent: the real sampler, spool, pusher, joiner and connection, on a disk of its own."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, cast

from agent.counters import CpuTimes
from agent.enroll import Credential, CredentialFile, Evidence, Joiner, save_credential
from agent.identity import MACHINE, Identity
from agent.link import Link
from agent.loops import Agent
from agent.push import Pusher, Quarantine, Reply, Source
from agent.readings import Reading, Tick
from agent.sample import Sample
from agent.sampler import Sampler
from agent.server import Server
from agent.spool import Chunk, Spool
from agent.status import Status
from agent.wire import encode_sample
from tests.whole.hub import Broken, Hub, Process, Signal
from tests.whole.ledger import SERIAL_BYTES, Ledger, Sent
from tests.whole.network import Line, Network

START_S = 1_790_000_000.0
INTERVAL_S = 60
DAY_S = 86_400.0
_GIB = 1 << 30


@dataclass(slots=True, kw_only=True)
class Hardware:
    """What may go wrong in a VM.

    Attributes:
        offset_s: of its wall clock from the true time.
        full: its disk takes nothing. sync_fails: so many of the next syncs fail.
        frozen: it is suspended: nothing of it runs.
    """

    offset_s: float = 0.0
    full: bool = False
    sync_fails: int = 0
    frozen: bool = False
    max_samples: int = 7 * 24 * 60


@dataclass(slots=True, kw_only=True)
class Given:
    """What agents of one VM counted as given up, of all its machines; what was counted twice cannot be told."""

    dropped: int = 0
    damaged: int = 0
    quarantined: int = 0

    @property
    def total(self) -> int:
        return self.dropped + self.damaged + self.quarantined


class _Readings:
    """Counters that make each sample another: its memory figure is its serial."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.serial = 0

    def tick(self) -> Tick:
        """Some CPU was used."""
        now_s = self._machine.hub.now_s
        busy_ratio = 0.02 + 0.05 * (self.serial % 7)
        return Tick(
            cpu=CpuTimes(busy_s=2 * now_s * busy_ratio, steal_s=0.0, iowait_s=0.0, total_s=2 * now_s), own_cpu_s=0.0
        )

    def reading(self) -> Reading:
        """Everything now."""
        self.serial = self._machine.ledger.next_serial()
        now_s = int(self._machine.hub.now_s)
        return Reading(
            tick=self.tick(),
            cpu_count=2,
            load1=0.25,
            mem_total_bytes=8 * _GIB,
            mem_used_bytes=self.serial * SERIAL_BYTES,
            swap_used_bytes=0,
            disk_total_bytes=100 * _GIB,
            disk_used_bytes=10 * _GIB,
            disk_read_bytes={"vda": 100 * now_s},
            disk_write_bytes={"vda": 4096 * now_s},
            net_rx_bytes={"eth0": 50 * now_s},
            net_tx_bytes={"eth0": 70 * now_s},
            users=0 if self.serial % 3 else 1,
            procs=80,
            own_read_bytes=0,
            own_write_bytes=0,
            own_rx_bytes=0,
            own_tx_bytes=0,
        )


class _Sampler(Sampler):
    """Tells the ledger of each sample that was made."""

    machine: Machine

    def tick(self, now_s: float, mono_s: float) -> Sample | None:
        sample = super().tick(now_s, mono_s)
        if sample is not None:
            self.machine.made(sample)
        return sample


class MachineSpool(Spool):
    """On a disk that may be full."""

    hardware: Hardware | None = None
    ledger: Ledger
    peeked: tuple[int, ...] = ()
    was_full = False

    def peek(self, *, max_samples: int, max_bytes: int) -> Chunk | None:
        chunk = super().peek(max_samples=max_samples, max_bytes=max_bytes)
        if chunk is not None:
            self.peeked = tuple(self.ledger.serials[text] for text in chunk.texts)
        return chunk

    def serials(self) -> set[int]:
        """Of all that waits and is not damaged."""
        texts = self.in_memory
        for number, segment in enumerate(self._segments):
            path = self._path(segment.number)
            content = path.read_bytes() if path.exists() else b""
            for line in content[0 if number else self._head_bytes : segment.size_bytes].split(b"\n"):
                texts.append(line[9:].decode(errors="replace"))
        return {self.ledger.serials[text] for text in texts if text in self.ledger.serials}

    def _write(self, text: str) -> None:
        if self.hardware is not None and self.hardware.full:
            self.was_full = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super()._write(text)

    @property
    def in_memory(self) -> list[str]:
        """Samples that a kill takes."""
        return [text for _, text in self._memory]


class _Link(Link):
    """The real connection over the network in memory."""

    def __init__(self, machine: Machine, process: Process) -> None:
        self._machine = machine
        self._process = process
        self._asked: Sent | None = None
        super().__init__(Server(tls=False, host="aggregator", port=8899), trust=None)

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        self._asked = self._machine.sent_in(path, headers)
        return self._machine.planted.reply(super().post(path, body, headers))

    def _new(self) -> HTTPConnection:
        http: Any = super()._new()
        http._create_connection = self._connect
        return cast(HTTPConnection, http)

    def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        line = cast(Line | None, self._connection.sock)
        if line is not None:
            line.sent = self._asked
        return super()._post(path, body, headers)

    def _connect(self, _address: object, timeout_s: float, _source: object = None) -> Line:
        line = self._machine.network.connect(self._machine.vm, self._process, timeout_s)
        line.sent = self._asked
        return line


class _Agent(Agent):
    """Has its counts checked after each thing it did."""

    machine: Machine

    def tick(self) -> None:
        super().tick()
        self.machine.check()

    def push_once(self) -> float:
        delay_s = super().push_once()
        self.machine.check()
        return delay_s

    def rewire(self, signal: Signal) -> None:
        """Waits in a fiber where a thread would."""
        self._wake = cast(Any, signal)

    def _tell(self) -> None:
        """Nobody reads its file, and writing it costs as much as a push: of it only the number of the push counts."""
        self._told, self._told_mono_s = self._changes(), self._mono()
        self.machine.seqs[self.machine.boot] = self._pusher.seq

    def push_for_ever(self) -> None:
        self._push()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedInAgents:
    """Bugs of agents. Args: spool: the kind of it. reply: what the agent takes an answer for."""

    spool: type[MachineSpool] = MachineSpool
    reply: Callable[[Reply], Reply] = lambda reply: reply


class Machine:
    """A VM, or a clone of one.

    Args:
        name: of this machine, for the log; `vm` is what it takes itself for.
        folder: its disk.
        planted: bugs of its agent.
    """

    def __init__(
        self, name: str, vm: str, folder: Path, *, hub: Hub, network: Network, ledger: Ledger, planted: PlantedInAgents
    ) -> None:
        self.name = name
        self.vm = vm
        self.folder = folder
        self.hub = hub
        self.network = network
        self.ledger = ledger
        self.planted = planted
        self.hardware = Hardware()
        self.given = Given()
        self.boot = self._new_boot()
        self.join_token: str | None = None
        self.mac = "52:54:00:" + ":".join(f"{hub.rng.randrange(256):02x}" for _ in range(3))
        self.agent: _Agent | None = None
        self.faults = 0
        self.flipped: set[int] = set()
        self.joined = 0
        self.seqs: dict[str, int] = {}
        self._process: Process | None = None
        self._spool: MachineSpool | None = None
        self._pusher: Pusher | None = None
        self._quarantine: Quarantine | None = None
        self._began_with = self._appended = self._dropped_before = 0

    @property
    def runs(self) -> bool:
        return self._process is not None

    @property
    def spool_path(self) -> Path:
        return self.folder / "spool"

    @property
    def credential_path(self) -> Path:
        return self.folder / "credential"

    def wall_s(self) -> float:
        """Its clock."""
        return START_S + self.hub.now_s + self.hardware.offset_s

    def start(self) -> None:
        """The agent begins, as after a reboot or a kill."""
        assert self._process is None
        process = self._process = Process(self.hub)
        hub, identity = self.hub, Identity(self.vm, MACHINE)
        self.folder.mkdir(parents=True, exist_ok=True)
        link = _Link(self, process)
        credential = CredentialFile(self.credential_path, vm=self.vm)
        credential.refresh()
        spool = self._spool = self.planted.spool(
            self.spool_path, max_samples=self.hardware.max_samples, sync=self._sync
        )
        spool.hardware, spool.ledger = self.hardware, self.ledger
        self._began_with, self._appended, self._dropped_before = spool.depth, 0, spool.dropped_total
        sources = [Source(spool, INTERVAL_S)]
        quarantine = self._quarantine = Quarantine(self.folder / "quarantine", max_files=10_000)
        status = self._status()
        sampler = _Sampler(_Readings(self), interval_s=INTERVAL_S)
        sampler.machine = self
        pusher = self._pusher = Pusher(
            sources=sources,
            post=link.post,
            token=credential.token,
            vm=self.vm,
            boot=self.boot,
            interval_s=INTERVAL_S,
            quarantine=quarantine,
            clock=self.wall_s,
            chance=hub.rng.random,
            seq=status.seq,
            dropped=lambda: spool.dropped_total,
        )
        joiner = Joiner(
            post=link.post,
            join_token=lambda: self.join_token or "",
            identity=identity,
            evidence=Evidence(hostname=self.name, ips=(), macs=(self.mac,), machine={}, boot=self.boot),
            save=self._save,
            chance=hub.rng.random,
        )
        agent = self.agent = _Agent(
            sampler=sampler,
            sources=sources,
            pusher=pusher,
            quarantine=quarantine,
            abort=link.abort,
            joiner=joiner,
            credential=credential,
            status=status,
            status_path=self.folder / "status.json",
            clock=self.wall_s,
            mono=lambda: hub.now_s,
        )
        agent.machine = self
        agent.rewire(Signal(process))
        process.fiber(lambda: self._sample(agent, process))
        process.fiber(agent.push_for_ever)

    def kill(self) -> None:
        """kill -9, wherever it stands; samples that only its memory held are gone."""
        process, spool, pusher = self._process, self._spool, self._pusher
        if process is None or spool is None or pusher is None or self.agent is None or self._quarantine is None:
            return
        self.faults += self.agent.status().faults_total
        self.ledger.gone.update(self.ledger.serials[text] for text in spool.in_memory)
        self.given.dropped += spool.dropped_total - self._dropped_before
        self.given.damaged += spool.damaged_total
        self.given.quarantined += self._quarantine.total
        self._process = None
        process.die()
        spool.close()
        self._spool = self._pusher = self._quarantine = self.agent = None

    def tear(self, cut: int) -> None:
        """A line that was being written when the power went is left half."""
        segments = sorted(self.spool_path.glob("*.seg"))
        if segments and not self.runs:
            with segments[-1].open("ab") as file:
                file.write(b'0badc0de {"ts": 17900000'[:cut])

    def flip(self, at_ratio: float, *, of_line_end: bool) -> None:
        """A bit of the spool is another one, in the middle of a sample or of what divides two."""
        segments = sorted(self.spool_path.glob("*.seg"))
        content = bytearray(segments[0].read_bytes()) if segments else bytearray()
        if not content:
            return
        at = int(at_ratio * len(content))
        if of_line_end:
            # Read after a restart, two samples that run together are one damaged line.
            self.joined += 1
            at = max(content.find(b"\n", at), 0)
        before = self.waiting()
        content[at] ^= 0x10
        with segments[0].open("r+b") as file:
            file.write(content)
        self.flipped |= before - self.waiting()

    def reboot(self) -> None:
        """The agent that comes next is of another boot."""
        self.boot = self._new_boot()

    def copy_to(self, folder: Path) -> None:
        """Its disk as it is now."""
        shutil.rmtree(folder, ignore_errors=True)
        if self.folder.exists():
            shutil.copytree(self.folder, folder)

    def restore(self, folder: Path) -> None:
        """Its disk as it was then; what was made since is on no disk any more."""
        assert not self.runs
        before = self.waiting() | self.flipped
        shutil.rmtree(self.folder)
        shutil.copytree(folder, self.folder)
        self.ledger.gone |= before - self.waiting()

    def waiting(self) -> set[int]:
        """Serials in its spool that are still to be sent."""
        if self._spool is not None:
            return self._spool.serials()
        if not self.spool_path.exists():
            return set()
        spool = MachineSpool(self.spool_path, max_samples=self.hardware.max_samples, sync=lambda _fd: None)
        spool.ledger = self.ledger
        found = spool.serials()
        spool.close()
        return found

    def fill(self, ages_s: Sequence[float]) -> None:
        """Its spool has samples of so long ago, as after an outage."""
        assert not self.runs
        spool = Spool(self.spool_path, max_samples=self.hardware.max_samples, sync=lambda _fd: None)
        for age_s in ages_s:
            ts = int(START_S + self.hub.now_s - age_s) // INTERVAL_S * INTERVAL_S
            serial = self.ledger.next_serial()
            sample = Sample(
                ts=ts, cpu_busy_ratio=0.25, mem_total_bytes=8 * _GIB, mem_used_bytes=serial * SERIAL_BYTES, cpu_count=2
            )
            self.ledger.add_made(self.vm, ts, encode_sample(sample), self.hub.now_s - age_s)
            spool.append(encode_sample(sample))
        self.given.dropped += spool.dropped_total
        spool.close()

    def person_enrols(self) -> None:
        """Somebody removes the credential: the agent enrols anew with its join token."""
        self.credential_path.unlink(missing_ok=True)

    def made(self, sample: Sample) -> None:
        """Its sampler made one."""
        self.ledger.add_made(self.vm, sample.ts, encode_sample(sample), self.hub.now_s)
        self._appended += 1

    def sent_in(self, path: str, headers: Mapping[str, str]) -> Sent | None:
        """What a request carries."""
        if path != "/v1/samples" or self._spool is None:
            return None
        generation = int(headers["Authorization"].split(".")[-2])
        return Sent(vm=self.vm, serials=self._spool.peeked, generation=generation, offset_s=self.hardware.offset_s)

    def check(self) -> None:
        """No sample left the spool uncounted."""
        spool, pusher, quarantine = self._spool, self._pusher, self._quarantine
        if spool is None or pusher is None or quarantine is None:
            return
        settled = pusher.acked_total + pusher.rejected_total + quarantine.total
        given_up = spool.dropped_total - self._dropped_before + spool.damaged_total
        came, went = self._began_with + self._appended, spool.depth + settled + given_up
        # What was sent from memory while the disk took it after all is sent, and counted, once more.
        if went < came or (went > came and not given_up and not spool.was_full):
            raise Broken(f"{self.name}: {came} samples came into the spool, {went} are accounted for")

    def _sample(self, agent: _Agent, process: Process) -> None:
        while True:
            agent.tick()
            now_s = self.wall_s()
            # Only at the minute: what lies between changes one figure of a sample and costs as much as all the rest.
            process.sleep((now_s // INTERVAL_S + 1) * INTERVAL_S - now_s + 0.001)

    def _save(self, fresh: Credential) -> None:
        self.ledger.enrolled(self.vm)
        save_credential(self.credential_path, fresh)

    def _sync(self, _fd: int) -> None:
        if self.hardware.sync_fails:
            self.hardware.sync_fails -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _status(self) -> Status:
        now_s = self.wall_s()
        return Status(
            updated_s=now_s,
            started_s=now_s,
            pid=1,
            vm=self.vm,
            aggregator="aggregator",
            interval_s=INTERVAL_S,
            boot=self.boot,
            seq=self.seqs.get(self.boot, 0),
        )

    def _new_boot(self) -> str:
        return f"{self.hub.rng.getrandbits(64):016x}"
