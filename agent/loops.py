"""The running agent: two loops put together. One makes a sample a minute, the other pushes what is in the spool."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from agent.enroll import CredentialFile, Joiner, Rotator
from agent.push import Pusher, Quarantine, Source
from agent.sampler import Sampler
from agent.settings import ConfigError
from agent.status import Status, write_status
from agent.wire import encode_sample

log = logging.getLogger(__name__)

_STOP_S = 1.5
_FAULT_PAUSE_S = 60.0

Clock = Callable[[], float]


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
