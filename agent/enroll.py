"""Enrolment: a join token becomes a token of this VM's own, kept in a file that only the agent reads."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agent.identity import Identity
from agent.push import Disposition, Post, Reply, UnreachableError, backoff_s, describe, disposition, hold_s
from agent.settings import ConfigError, read_secret
from agent.status import replace_file
from agent.wire import DEFAULT_INTERVAL_S, is_vm_id

log = logging.getLogger(__name__)

JOIN_TOKEN_VARIABLE = "FALLOW_JOIN_TOKEN"  # noqa: S105 - the name of a variable

_WAITS = ":enrolment-waits"  # the end of the problem's type
# How often a machine asks that an admin must let in: they may just be looking.
_WAIT_S = 300.0
# Tokens of a fleet that enrolled in one hour are not exchanged in one hour.
_ROTATION_SPREAD_RATIO = 0.2
_CLOCK_SLACK_S = 3600.0

# What may stand in a header: no blank, no control character.
_TOKEN = re.compile(r"[!-~]{1,1024}")


class EnrolmentError(Exception):
    """The aggregator gave no token.

    Args:
        text: why, for a person.
        retryable: the same request may succeed later.
        waits: it will, once an admin has approved it.
    """

    def __init__(self, text: str, *, retryable: bool, waits: bool = False) -> None:
        self.retryable = retryable
        self.waits = waits
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Credential:
    """What enrolment left: who this VM is, the token that proves it, and the interval the aggregator wants."""

    vm: str
    source: str
    token: str = field(repr=False)
    interval_s: int = DEFAULT_INTERVAL_S

    @property
    def identity(self) -> Identity:
        return Identity(self.vm, self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a VM tells about itself at enrolment. `machine`: system, kernel, architecture."""

    hostname: str
    ips: Sequence[str]
    macs: Sequence[str]
    machine: Mapping[str, str]
    boot: str


def is_interval_s(value: object) -> bool:
    """Whether `value` is a whole number of seconds that divides an hour."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0 and 3600 % value == 0


def gather_evidence(*, ips: Sequence[str], macs: Sequence[str], boot: str) -> Evidence:
    """This machine's name and kind beside the addresses that were read."""
    system = os.uname()
    machine = {"system": system.sysname, "kernel": system.release, "architecture": system.machine}
    return Evidence(hostname=system.nodename, ips=ips, macs=macs, machine=machine, boot=boot)


def enrol(post: Post, *, join_token: str, identity: Identity, evidence: Evidence) -> Credential:
    """Asks for this VM's first token.

    Raises: EnrolmentError: refused, or an answer that is none. UnreachableError: no answer.
    """
    request = {"join_token": join_token, "vm": identity.vm, **asdict(evidence)}
    headers = {"Content-Type": "application/json", "Fallow-VM": identity.vm}
    answer = _answer(post("/v1/enroll", json.dumps(request).encode(), headers), identity.vm)
    interval_s = answer.get("interval_s", DEFAULT_INTERVAL_S)
    if not isinstance(interval_s, int) or not is_interval_s(interval_s):
        raise EnrolmentError(f"interval_s: {interval_s!r} does not divide an hour", retryable=False)
    return Credential(identity.vm, identity.source, str(answer["token"]), interval_s)


def rotate(post: Post, credential: Credential) -> Credential:
    """Asks for a new token with the present one. Raises as `enrol`."""
    headers = {
        "Authorization": f"Bearer {credential.token}",
        "Content-Type": "application/json",
        "Fallow-VM": credential.vm,
    }
    answer = _answer(post("/v1/token", b"{}", headers), credential.vm)
    return Credential(credential.vm, credential.source, str(answer["token"]), credential.interval_s)


def _answer(reply: Reply, vm: str) -> dict[str, object]:
    meaning = disposition(reply.status)
    if meaning is not Disposition.DONE:
        waits = str((_document(reply) or {}).get("type")).endswith(_WAITS)
        raise EnrolmentError(describe(reply), retryable=meaning is Disposition.RETRY, waits=waits)
    answer = _document(reply)
    if answer is None:
        raise EnrolmentError(f"answer {reply.status} is not a JSON object", retryable=False)
    token = answer.get("token")
    if answer.get("vm") != vm:
        raise EnrolmentError(f"the answer is for another VM than {vm}", retryable=False)
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise EnrolmentError("the answer holds no token", retryable=False)
    return answer


def asks_for_rotation(reply: Reply) -> bool:
    """Whether the answer to a push says that the token is of a key that is to go."""
    return reply.status == 200 and (_document(reply) or {}).get("token") == "rotate"


def _document(reply: Reply) -> dict[str, object] | None:
    try:
        document = json.loads(reply.body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def save_credential(path: Path, credential: Credential) -> None:
    """Replaces the file at once and durably, readable by its owner alone. Raises OSError."""
    replace_file(path, json.dumps(asdict(credential)) + "\n", mode=0o600, sync=True)


def load_credential(path: Path) -> Credential | None:
    """The credential, or None where there is none yet.

    Raises: ConfigError: readable by others, unreadable, or not what `save_credential` wrote.
    """
    if not path.exists():
        return None
    text = read_secret(path)
    try:
        table = json.loads(text)
        credential = Credential(table["vm"], table["source"], table["token"], table["interval_s"])
        good = is_vm_id(credential.vm) and _TOKEN.fullmatch(credential.token) and is_interval_s(credential.interval_s)
    except (ValueError, TypeError, KeyError, RecursionError):
        good = None
    if not good:
        raise ConfigError(f"{path}: is damaged: remove it and run fallow-agent enroll")
    return credential


class CredentialFile:
    """The credential on disk, read again when the file changes: enrolling needs no restart of the agent.

    Args:
        path: the file.
        vm: whose credential counts; one of another VM (a cloned disk) is as good as none.

    Attributes:
        made_s: when the present token was written, Unix seconds; None: there is none.
    """

    def __init__(self, path: Path, *, vm: str) -> None:
        self._path = path
        self._vm = vm
        self._seen: tuple[int, int, int] | None = None
        self._credential: Credential | None = None
        self.made_s: float | None = None

    def refresh(self) -> bool:
        """Looks at the file; True if it changed since the last look. Raises as `load_credential`."""
        seen: tuple[int, int, int] | None = None
        made_s: float | None = None
        with suppress(OSError):
            stat = os.stat(self._path)
            seen, made_s = (stat.st_ino, stat.st_mtime_ns, stat.st_size), stat.st_mtime
        if seen == self._seen:
            return False
        credential = None
        try:
            credential = load_credential(self._path)
        finally:
            # Both loops of the agent look: neither may find it gone, or seen, while the other one reads.
            self._credential = credential
            self.made_s = made_s if self.credential() is not None else None
            self._seen = seen
        return True

    def credential(self) -> Credential | None:
        """This VM's credential as of the last `refresh`; None: not enrolled."""
        credential = self._credential
        return credential if credential is not None and credential.vm == self._vm else None

    def token(self) -> str | None:
        """The token as of the last `refresh`; None: not enrolled."""
        credential = self.credential()
        return credential.token if credential is not None else None


class Joiner:
    """Enrols a running agent, however long that takes.

    Args:
        post: the connection.
        join_token: reads the join token. Raises ConfigError.
        save: keeps the credential. Raises OSError.
        chance: random, 0..1.

    Attributes:
        trouble: why this VM is not enrolled yet; None before the first attempt and after success.
    """

    def __init__(
        self,
        *,
        post: Post,
        join_token: Callable[[], str],
        identity: Identity,
        evidence: Evidence,
        save: Callable[[Credential], None],
        chance: Callable[[], float],
    ) -> None:
        self._post = post
        self._join_token = join_token
        self._identity = identity
        self._evidence = evidence
        self._save = save
        self._chance = chance
        self._failures = 0
        self.trouble: str | None = None

    def step(self) -> float | None:
        """Tries once. Returns: None: enrolled; else seconds to wait before the next try."""
        trouble, retryable, waits = None, True, False
        try:
            join_token = self._join_token()
            self._save(enrol(self._post, join_token=join_token, identity=self._identity, evidence=self._evidence))
        except EnrolmentError as error:
            trouble, retryable, waits = str(error), error.retryable, error.waits
        except (ConfigError, UnreachableError, OSError) as error:
            trouble, retryable = str(error), not isinstance(error, ConfigError)
        if trouble is None:
            self.trouble = None
            log.info("enrolled as %s", self._identity.vm)
            return None
        trouble = f"not enrolled: {trouble}"
        if trouble != self.trouble:
            log.warning("%s", trouble)
        self.trouble = trouble
        self._failures += 1
        if waits:
            return _WAIT_S * (0.5 + self._chance())
        return backoff_s(self._failures, self._chance()) if retryable else hold_s(self._chance())


class Rotator:
    """Exchanges the token for a newer one now and then, and when the aggregator asks for it.

    The old token counts until the exchange after this one. So a push never fails meanwhile, and when the answer is
    lost, asking again gives the same new token.

    Args:
        post: the connection.
        file: this VM's credential.
        save: keeps the new one. Raises OSError.
        every_s: between two exchanges, a tenth more or less: by VM, so that a restart changes nothing.
        clock, mono: Unix seconds; a clock that nobody sets.
        chance: random, 0..1.
    """

    def __init__(
        self,
        *,
        post: Post,
        file: CredentialFile,
        save: Callable[[Credential], None],
        vm: str,
        every_s: float,
        clock: Callable[[], float],
        mono: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self._post = post
        self._file = file
        self._save = save
        share = int.from_bytes(hashlib.sha256(b"rotate " + vm.encode()).digest()[:8]) / 2**64
        self._every_s = every_s * (1 + _ROTATION_SPREAD_RATIO * (share - 0.5))
        self._clock = clock
        self._mono = mono
        self._chance = chance
        self._asked = False
        self._not_before_s = -math.inf

    def watch(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """A `Post` for pushes that notices when an answer asks for an exchange."""
        reply = self._post(path, body, headers)
        self._asked = self._asked or asks_for_rotation(reply)
        return reply

    def step(self) -> bool:
        """Exchanges the token if it is time to. Returns: whether there is a new one. Never raises."""
        credential = self._file.credential()
        if credential is None or not self._is_due() or self._mono() < self._not_before_s:
            return False
        try:
            fresh = rotate(self._post, credential)
            self._file.refresh()
            # Enrolled by hand meanwhile: that token came later, and this one counts no more.
            if self._file.credential() == credential:
                self._save(fresh)
                self._file.refresh()
        except (EnrolmentError, UnreachableError, ConfigError, OSError) as error:
            self._not_before_s = self._mono() + hold_s(self._chance())
            log.warning("the token stays as it is, an exchange failed: %s", error)
            return False
        self._asked = False
        log.info("the token was exchanged for a newer one")
        return True

    def _is_due(self) -> bool:
        made_s = self._file.made_s
        age_s = self._clock() - made_s if made_s is not None else 0.0
        # A token of the future was made before the clock was set back: nobody knows how old it is.
        return self._asked or age_s > self._every_s or age_s < -_CLOCK_SLACK_S
