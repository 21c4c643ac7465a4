"""The agent of this machine, put together: who it is, its state folder, its spools, and the parts of its two loops."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Mapping
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
from agent.loops import Agent, Clock
from agent.push import Pusher, Quarantine, Source
from agent.readings import SystemReadings, addresses
from agent.sampler import Sampler
from agent.settings import CREDENTIALS, ConfigError
from agent.spool import Spool
from agent.status import Status, read_status
from agent.wire import DEFAULT_INTERVAL_S

log = logging.getLogger(__name__)


class AlreadyRunningError(Exception):
    """Another agent holds the state folder."""


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
