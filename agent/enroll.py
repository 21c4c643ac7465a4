"""Enrolment: a join token becomes a token of this VM's own, kept in a file that only the agent reads."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agent.identity import Identity
from agent.push import Disposition, Post, Reply, UnreachableError, backoff_s, describe, disposition, hold_s
from agent.settings import ConfigError, read_secret
from agent.status import replace_file
from agent.wire import DEFAULT_INTERVAL_S, is_vm_id

log = logging.getLogger(__name__)

JOIN_TOKEN_VARIABLE = "FALLOW_JOIN_TOKEN"  # noqa: S105 - the name of a variable

# What may stand in a header: no blank, no control character.
_TOKEN = re.compile(r"[!-~]{1,1024}")


class EnrolmentError(Exception):
    """The aggregator gave no token.

    Args:
        text: why, for a person.
        retryable: the same request may succeed later.
    """

    def __init__(self, text: str, *, retryable: bool) -> None:
        self.retryable = retryable
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
        raise EnrolmentError(describe(reply), retryable=meaning is Disposition.RETRY)
    try:
        answer = json.loads(reply.body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise EnrolmentError(f"answer {reply.status} is not a JSON object", retryable=False)
    token = answer.get("token")
    if answer.get("vm") != vm:
        raise EnrolmentError(f"the answer is for another VM than {vm}", retryable=False)
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise EnrolmentError("the answer holds no token", retryable=False)
    return answer


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
    """

    def __init__(self, path: Path, *, vm: str) -> None:
        self._path = path
        self._vm = vm
        self._seen: tuple[int, int, int] | None = None
        self._credential: Credential | None = None

    def refresh(self) -> bool:
        """Looks at the file; True if it changed since the last look. Raises as `load_credential`."""
        try:
            stat = os.stat(self._path)
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError:
            seen = None
        if seen == self._seen:
            return False
        self._seen, self._credential = seen, None
        self._credential = load_credential(self._path)
        return True

    def token(self) -> str | None:
        """The token as of the last `refresh`; None: not enrolled."""
        credential = self._credential
        return credential.token if credential is not None and credential.vm == self._vm else None


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
        trouble, retryable = None, True
        try:
            join_token = self._join_token()
            self._save(enrol(self._post, join_token=join_token, identity=self._identity, evidence=self._evidence))
        except EnrolmentError as error:
            trouble, retryable = str(error), error.retryable
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
        return backoff_s(self._failures, self._chance()) if retryable else hold_s(self._chance())
