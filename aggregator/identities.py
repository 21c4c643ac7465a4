"""Whose token counts, in a running aggregator: enrolment, rotation, clones, and what others change meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from agent.wire import DEFAULT_INTERVAL_S
from aggregator.buffer import Buffer
from aggregator.catalogue import Catalogue, UnknownVmError
from aggregator.enrolment import decode_enrolment
from aggregator.key_file import read_keys
from aggregator.problems import Problem, Refused
from aggregator.reread import Reread
from aggregator.revocation_cache import RevocationCache
from aggregator.tokens import IDENTITY_CONFLICT, KEY_FILE_NAME, Revocations, TokenKeys

_RETRY_AFTER_S = 30


class Identities:
    """What a door asks about tokens.

    Args:
        catalogue: of the fleet database; called in threads.
        key_file: of the keys that sign and verify.
        buffer: tells when a VM was last heard of; told of those that have a new identity.
        in_thread: calls what blocks in a thread.
        seconds: a clock that never goes back.
        clock: Unix time in seconds.
        on_new_keys: told when they are read again.
        cache: keeps the revocations for a start without the database.
        last_known: revocations of an earlier run, to begin with: the database is away. None: it is asked.
        is_open: whether the database is of this program's schema: nobody is let in before.
        on_revocations: told of revocations whenever they were read again.
    Attributes:
        keys, revocations: as they were last read.
        waiting: how many requests to enrol wait for an admin.

    Construction reads all three, or the keys alone. Raises: ConfigError: the key file; Refused: the database does not
    answer.
    """

    _log = Logger()

    def __init__(
        self,
        catalogue: Catalogue,
        key_file: Path,
        buffer: Buffer,
        *,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        seconds: Callable[[], float],
        clock: Callable[[], float],
        on_new_keys: Callable[[TokenKeys], object],
        cache: RevocationCache,
        last_known: Revocations | None = None,
        is_open: Callable[[], bool] = lambda: True,
        on_revocations: Callable[[Revocations], object] = lambda _read: None,
    ) -> None:
        self._catalogue = catalogue
        self._is_open = is_open
        self._on_revocations = on_revocations
        self._buffer = buffer
        self._in_thread = in_thread
        self._clock = clock
        self._clones: set[str] = set()

        def read() -> TokenKeys:
            return read_keys(key_file, now_s=clock())

        self.keys = Reread(KEY_FILE_NAME, read(), read, in_thread, seconds=seconds, on_change=on_new_keys)
        self._cache = cache
        trouble = None if last_known is None else "the fleet database has not answered since the start"
        self.revocations = Reread(
            "revocations",
            cache.keep(catalogue.revocations()) if last_known is None else last_known,
            catalogue.revocations,
            in_thread,
            seconds=seconds,
            on_change=self._new_revocations,
            trouble=trouble,
        )
        self.waiting = Reread(
            "requests to enrol",
            catalogue.count_waiting() if last_known is None else 0,
            catalogue.count_waiting,
            in_thread,
            seconds=seconds,
            trouble=trouble,
        )

    def reread(self) -> None:
        """Looks at what other programs may have changed, and tries again what the database did not take."""
        self.keys.refresh()
        self.revocations.refresh()
        self.waiting.refresh()
        for vm_id in sorted(self._clones):
            self._revoke_clones(vm_id)

    def enroll(self, body: bytes, peer: str) -> Deferred[bytes]:
        """Body of an enrolment, address it comes from → body of a 201. Fails with `Refused`."""
        try:
            request = decode_enrolment(body)
            self._check_open()
        except Refused:
            return fail()
        heard = self._buffer.live(0.0, vm=request.vm)
        heard_s = max((float(str(one["last_seen_s"])) for one in heard), default=None)
        now_s = self._clock()

        def enrolled(generation: int) -> bytes:
            self._clones.discard(request.vm)
            self._buffer.enrolled(request.vm)
            self.revocations.refresh()
            return self._token(request.vm, generation)

        return self._in_thread(
            lambda: self._catalogue.enroll(request, now_s=now_s, peer=peer, heard_s=heard_s)
        ).addCallback(enrolled)

    def rotate(self, vm_id: str, generation: int) -> Deferred[bytes]:
        """VM and generation of its token → body of a 200 with the next one. Fails with `Refused`."""
        try:
            self._check_open()
        except Refused:
            return fail()
        now_s = self._clock()

        def rotated(newer: int) -> bytes:
            self.revocations.refresh()
            return self._token(vm_id, newer)

        return self._in_thread(lambda: self._catalogue.rotate(vm_id, generation, now_s=now_s)).addCallback(rotated)

    def conflict(self, vm_id: str) -> None:
        """Two machines push as one: refuses their token for good. Memory alone would forget them at a restart."""
        self._log.warn("two machines push as {vm_id}: both must enrol again", vm_id=vm_id)
        self._clones.add(vm_id)
        self._revoke_clones(vm_id)

    def flag_clones(self) -> None:
        """Has the buffer know of clones that were found before its time; once more when the journal is replayed."""
        self._buffer.clones_found(self.revocations.value.clones)

    def is_outdated(self, token: bytes) -> bool:
        """Whether a token that verified is of a key that is to go."""
        return self.keys.value.is_outdated(token)

    def _new_revocations(self, read: Revocations) -> None:
        self.flag_clones()
        self._on_revocations(read)
        # What counts does not wait for the disk. Of two at once the older may be kept: until the next reading.
        self._in_thread(lambda: self._cache.keep(self.revocations.value))

    def _check_open(self) -> None:
        if not self._is_open():
            detail = "the fleet database has not answered since the start"
            raise Refused(Problem(503, "database-unavailable", detail, _RETRY_AFTER_S))

    def _revoke_clones(self, vm_id: str) -> None:
        now_s = self._clock()

        def revoked(_none: None) -> None:
            self._clones.discard(vm_id)
            self.revocations.refresh()

        def lost(failure: Failure) -> None:
            if isinstance(failure.value, UnknownVmError):
                self._clones.discard(vm_id)
            self._log.warn("the token of {vm_id} cannot be revoked: {error}", vm_id=vm_id, error=failure.value)

        self._in_thread(lambda: self._catalogue.revoke(vm_id, IDENTITY_CONFLICT, now_s=now_s)).addCallbacks(
            revoked, lost
        )

    def _token(self, vm_id: str, generation: int) -> bytes:
        token = self.keys.value.make(vm_id, generation)
        return json.dumps({"vm": vm_id, "token": token, "interval_s": DEFAULT_INTERVAL_S}).encode()
