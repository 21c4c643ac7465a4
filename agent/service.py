"""The running agent: two loops put together. One makes a sample a minute, the other pushes what is in the spool."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

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
from agent.identity import CREDENTIAL, Identity, boot_id, find_identities, resolve
from agent.link import Link, Trust
from agent.push import Pusher, Quarantine, Source
from agent.readings import SystemReadings, addresses
from agent.sampler import Sampler
from agent.settings import CREDENTIALS, ConfigError
from agent.spool import Spool
from agent.status import Status, read_status, write_status
from agent.wire import DEFAULT_INTERVAL_S, encode_sample

log = logging.getLogger(__name__)

_STOP_S = 1.5
_FAULT_PAUSE_S = 60.0

Clock = Callable[[], float]


class AlreadyRunningError(Exception):
    """Another agent holds the state folder."""


class Agent:
    """Both loops over parts that are handed in. `run` once, in the main thread.

    Args:
        sources: as the pusher's; the last spool takes the new samples.
        pusher: pushes.
        abort: makes a push under way fail.
        joiner: enrols while there is no token; None: only a person can.
        rotator: exchanges the token before it gets old; None: it stays as it is.
        credential: this VM's token.
        status: who and where this is, and the totals that an earlier run left.
        status_path: where the status goes.
        clock, mono: wall clock and monotonic clock, seconds.
    """

    def __init__(
        self,
        *,
        sampler: Sampler,
        sources: Sequence[Source],
        pusher: Pusher,
        quarantine: Quarantine,
        abort: Callable[[], None],
        joiner: Joiner | None,
        credential: CredentialFile,
        status: Status,
        status_path: Path,
        clock: Clock,
        mono: Clock,
        rotator: Rotator | None = None,
    ) -> None:
        self._sampler = sampler
        self._sources = sources
        self._pusher = pusher
        self._quarantine = quarantine
        self._abort = abort
        self._joiner = joiner
        self._rotator = rotator
        self._credential = credential
        self._status = status
        self._status_path = status_path
        self._spool_trouble: str | None = None
        self._status_trouble: str | None = None
        self._told: tuple[object, ...] = ()
        self._told_mono_s = 0.0
        self._clock = clock
        self._mono = mono
        self._sample_ts = status.sample_ts
        self._faults_total = status.faults_total
        self._stopping = threading.Event()
        self._wake = threading.Event()

    def run(self, wait: Callable[[float], bool]) -> None:
        """Works until `wait` says stop. What is not acknowledged then stays in the spool.

        Args:
            wait: sleeps for so many seconds; True if the program is to end.
        """
        pushing = threading.Thread(target=self._push, name="push", daemon=True)
        pushing.start()
        try:
            self.tick()
            while not wait(max(0.0, self._sampler.next_tick_s(self._clock()) - self._clock())):
                self.tick()
        finally:
            self._stopping.set()
            self._wake.set()
            self._abort()
            pushing.join(_STOP_S)
            self._tell()
            for source in self._sources:
                source.spool.close()

    def tick(self) -> None:
        """Reads, spools a sample if one is due, notices a new token, tells what changed."""
        try:
            sample = self._sampler.tick(self._clock(), self._mono())
            if sample is not None:
                self._sources[-1].spool.append(encode_sample(sample))
                self._sample_ts = sample.ts
            # Each look costs: while pushes succeed, a new token can wait for the next sample.
            if (sample is not None or self._needs_token()) and self._credential.refresh():
                self._wake.set()
        except ConfigError as error:
            log.warning("%s", error)
        except Exception:
            # The loop of a daemon: one figure that cannot be read must not end the watch.
            self._faults_total += 1
            log.exception("no sample")
        trouble = self._sources[-1].spool.trouble
        if trouble is not None and trouble != self._spool_trouble:
            log.warning("spool: %s", trouble)
        self._spool_trouble = trouble
        if self._changes() != self._told or self._mono() - self._told_mono_s > self._status.interval_s:
            self._tell()

    def push_once(self) -> float:
        """Enrols or exchanges the token if need be, else pushes. Returns: seconds to wait before the next call."""
        if self._credential.token() is None and self._joiner is not None:
            delay_s = self._joiner.step()
            if delay_s is not None:
                return delay_s
            self._credential.refresh()
        if self._rotator is not None and not self._pusher.enrolment_needed:
            self._rotator.step()
        return self._pusher.step()

    def status(self) -> Status:
        """What there is to tell now."""
        spools = [source.spool for source in self._sources]
        pusher = self._pusher
        joiner_trouble = self._joiner.trouble if self._joiner is not None else None
        troubles = (joiner_trouble, pusher.trouble, *(spool.trouble for spool in spools))
        return replace(
            self._status,
            updated_s=self._clock(),
            seq=pusher.seq,
            sample_ts=self._sample_ts,
            last_ack_s=pusher.last_ack_s if pusher.last_ack_s is not None else self._status.last_ack_s,
            token_made_s=self._credential.made_s,
            spool_depth=sum(spool.depth for spool in spools),
            spool_bytes=sum(spool.size_bytes for spool in spools),
            samples_acked_total=self._status.samples_acked_total + pusher.acked_total,
            samples_dropped_total=self._status.samples_dropped_total + sum(spool.dropped_total for spool in spools),
            samples_damaged_total=self._status.samples_damaged_total + sum(spool.damaged_total for spool in spools),
            samples_rejected_total=self._status.samples_rejected_total + pusher.rejected_total,
            samples_quarantined_total=self._status.samples_quarantined_total + self._quarantine.total,
            intervals_skipped_total=self._status.intervals_skipped_total + self._sampler.dropped_total,
            faults_total=self._faults_total,
            enrolment_needed=pusher.enrolment_needed or joiner_trouble is not None,
            trouble=next((trouble for trouble in troubles if trouble is not None), None),
        )

    def _push(self) -> None:
        delay_s = self._pusher.until_slot_s() if self._credential.token() is not None else 0.0
        while not self._wait(delay_s):
            try:
                delay_s = self.push_once()
            except Exception:
                # The other loop of the daemon.
                self._faults_total += 1
                delay_s = _FAULT_PAUSE_S
                log.exception("no push")

    def _needs_token(self) -> bool:
        return self._credential.token() is None or self._pusher.enrolment_needed

    def _wait(self, delay_s: float) -> bool:
        if delay_s > 0 and self._wake.wait(delay_s):
            self._wake.clear()
        return self._stopping.is_set()

    def _changes(self) -> tuple[object, ...]:
        # A sample is no change: the push that follows it tells both, and each telling has its price.
        return (
            self._sampler.dropped_total,
            self._faults_total,
            self._pusher.changes,
            self._spool_trouble,
            self._joiner.trouble if self._joiner is not None else None,
        )

    def _tell(self) -> None:
        self._told, self._told_mono_s = self._changes(), self._mono()
        trouble = None
        try:
            write_status(self._status_path, self.status())
        except OSError as error:
            trouble = f"{self._status_path}: {error.strerror or error}"
            if trouble != self._status_trouble:
                log.warning("%s", trouble)
        self._status_trouble = trouble


def lock_state(config: AgentConfig) -> int:
    """Makes the state folder and takes it for this process. Returns: the descriptor that holds the lock.

    Raises: AlreadyRunningError. ConfigError: the folder cannot be made or written.
    """
    try:
        config.state.mkdir(mode=0o750, parents=True, exist_ok=True)
        fd = os.open(config.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"state: {config.state}: {error.strerror or error}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise AlreadyRunningError(f"{config.state}: another fallow-agent runs on it") from error
        raise ConfigError(f"{config.lock_path}: {error.strerror or error}") from error
    return fd


def identify(config: AgentConfig, *, root: Path, credentials: Path | None) -> Identity:
    """Who this VM is, given what it may have enrolled as. Raises ConfigError, IdentityError."""
    enrolled = load_credential(config.credential_path)
    found = find_identities(root, credentials=credentials)
    identity = resolve(found, enrolled=enrolled.identity if enrolled else None, given=config.vm_id)
    if enrolled is not None and enrolled.vm != identity.vm:
        log.warning("enrolled as %s, but this is %s: a clone must enrol for itself", enrolled.vm, identity.vm)
    return identity


def credentials_folder(environ: Mapping[str, str]) -> Path | None:
    """Where systemd put the product UUID; None: it did not."""
    folder = environ.get(CREDENTIALS)
    return Path(folder) if folder and (Path(folder) / CREDENTIAL).exists() else None


def make_link(config: AgentConfig) -> Link:
    """The connection that `config` asks for. Raises ConfigError: files of certificates that are none."""
    trust = Trust(config.ca, cert=config.tls_cert, key=config.tls_key) if config.aggregator.tls else None
    return Link(config.aggregator, trust=trust, timeout_s=config.timeout_s)


def make_agent(
    config: AgentConfig,
    *,
    root: Path,
    credentials: Path | None,
    join_token: Callable[[], str] | None,
    clock: Clock,
    mono: Clock,
    chance: Callable[[], float],
) -> Agent:
    """The agent of this machine; tries once to enrol if it has no token but a join token.

    Args:
        root: `/`.
        credentials: see `credentials_folder`.
        join_token: reads the join token; None: none is configured.

    Raises: ConfigError, IdentityError. OSError: the spool cannot be read.
    """
    identity = identify(config, root=root, credentials=credentials)
    boot = boot_id(root)
    link = make_link(config)
    credential = CredentialFile(config.credential_path, vm=identity.vm)
    credential.refresh()

    def save(fresh: Credential) -> None:
        save_credential(config.credential_path, fresh)

    rotator = Rotator(
        post=link.post,
        file=credential,
        save=save,
        vm=identity.vm,
        every_s=config.rotate_every_s,
        clock=clock,
        mono=mono,
        chance=chance,
    )
    joiner = None
    if join_token is not None:
        ips, macs = addresses()
        joiner = Joiner(
            post=link.post,
            join_token=join_token,
            identity=identity,
            evidence=gather_evidence(ips=ips, macs=macs, boot=boot),
            save=save,
            chance=chance,
        )
        if credential.token() is None:
            # A wrong join token file is a mistake to be told at once, not one to wait for.
            join_token()
            joiner.step()
            credential.refresh()
    enrolled = load_credential(config.credential_path)
    interval_s = config.interval_s or (
        enrolled.interval_s if enrolled is not None and enrolled.vm == identity.vm else DEFAULT_INTERVAL_S
    )
    sources = open_spools(config, vm=identity.vm, interval_s=interval_s)
    quarantine = Quarantine(config.quarantine_path, max_files=config.quarantine_max_files)
    status = _first_status(config, vm=identity.vm, boot=boot, interval_s=interval_s, now_s=clock())
    # The spools remember what they gave up, also when a full disk kept the status from being written.
    told = sum(source.spool.dropped_total for source in sources)
    status = replace(status, samples_dropped_total=max(0, status.samples_dropped_total - told))
    return Agent(
        sampler=Sampler(SystemReadings(own_traffic=link.traffic), interval_s=interval_s),
        sources=sources,
        pusher=Pusher(
            sources=sources,
            post=rotator.watch,
            token=credential.token,
            vm=identity.vm,
            boot=boot,
            interval_s=interval_s,
            quarantine=quarantine,
            clock=clock,
            chance=chance,
            seq=status.seq,
            dropped=lambda: status.samples_dropped_total + sum(source.spool.dropped_total for source in sources),
        ),
        quarantine=quarantine,
        abort=link.abort,
        joiner=joiner,
        rotator=rotator,
        credential=credential,
        status=status,
        status_path=config.status_path,
        clock=clock,
        mono=mono,
    )


def open_spools(config: AgentConfig, *, vm: str, interval_s: int) -> list[Source]:
    """The spool for new samples last; before it, those of other interval lengths that still hold some."""
    folder = config.spool_path(vm)
    folder.mkdir(parents=True, exist_ok=True)
    lengths_s = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    sources = []
    for length_s in [*(length_s for length_s in lengths_s if length_s != interval_s), interval_s]:
        spool = Spool(
            folder / str(length_s),
            max_bytes=config.spool_max_bytes,
            max_samples=max(1, int(config.spool_max_age_s / length_s)),
        )
        if length_s == interval_s or spool.depth:
            sources.append(Source(spool, length_s))
        else:
            spool.close()
    return sources


def _first_status(config: AgentConfig, *, vm: str, boot: str, interval_s: int, now_s: float) -> Status:
    try:
        earlier = read_status(config.status_path)
    except OSError as error:
        log.warning("%s: %s: totals start again", config.status_path, error.strerror or error)
        earlier = None
    fresh = Status(
        updated_s=now_s,
        started_s=now_s,
        pid=os.getpid(),
        vm=vm,
        aggregator=str(config.aggregator),
        interval_s=interval_s,
        boot=boot,
        seq=0,
    )
    if earlier is None or earlier.vm != vm:
        return fresh
    return replace(
        earlier,
        updated_s=now_s,
        started_s=now_s,
        pid=fresh.pid,
        aggregator=fresh.aggregator,
        interval_s=interval_s,
        boot=boot,
        seq=earlier.seq if earlier.boot == boot else 0,
    )
