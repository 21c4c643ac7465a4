"""Enrolment leaves a token that only this VM can read, or says why there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.enroll import (
    Credential,
    CredentialFile,
    EnrolmentError,
    Joiner,
    enrol,
    gather_evidence,
    load_credential,
    rotate,
    save_credential,
)
from agent.identity import Identity
from agent.push import Reply, UnreachableError
from agent.settings import ConfigError

IDENTITY = Identity("vm-1", "smbios")
EVIDENCE = gather_evidence(ips=["10.0.0.7"], macs=["52:54:00:00:00:01"], boot="boot-1")
GOOD = Reply(201, b'{"vm": "vm-1", "token": "k1.0.abc", "interval_s": 30}')


class Aggregator:
    def __init__(self, *replies: Reply | Exception) -> None:
        self.replies = list(replies)
        self.requests: list[tuple[str, dict[str, object], Mapping[str, str]]] = []

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        self.requests.append((path, json.loads(body), headers))
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def test_the_request_carries_the_evidence() -> None:
    """Join token, id, host name, addresses, machine and boot, as the wire says."""
    aggregator = Aggregator(GOOD)
    credential = enrol(aggregator.post, join_token="join", identity=IDENTITY, evidence=EVIDENCE)
    ((path, request, _),) = aggregator.requests
    assert path == "/v1/enroll"
    assert set(request) == {"join_token", "vm", "hostname", "ips", "macs", "machine", "boot"}
    assert (request["join_token"], request["vm"], request["boot"]) == ("join", "vm-1", "boot-1")
    assert credential == Credential("vm-1", "smbios", "k1.0.abc", 30)


def test_rotation_uses_the_present_token() -> None:
    """The new token replaces the old one; the VM stays the same."""
    aggregator = Aggregator(Reply(200, b'{"vm": "vm-1", "token": "k1.1.def"}'))
    credential = rotate(aggregator.post, Credential("vm-1", "smbios", "k1.0.abc", 30))
    ((path, _, headers),) = aggregator.requests
    assert (path, headers["Authorization"]) == ("/v1/token", "Bearer k1.0.abc")
    assert credential == Credential("vm-1", "smbios", "k1.1.def", 30)


@pytest.mark.parametrize(
    ("reply", "retryable"),
    [
        (Reply(401, b'{"detail": "the join token has expired"}'), False),
        (Reply(403, b""), False),
        (Reply(422, b""), False),
        (Reply(404, b""), False),
        (Reply(429, b""), True),
        (Reply(503, b""), True),
        (Reply(201, b"not JSON"), False),
        (Reply(201, b"[]"), False),
        (Reply(201, b'{"vm": "vm-2", "token": "t", "interval_s": 60}'), False),
        (Reply(201, b'{"vm": "vm-1", "interval_s": 60}'), False),
        (Reply(201, b'{"vm": "vm-1", "token": "a\\r\\nX: y", "interval_s": 60}'), False),
        (Reply(201, b'{"vm": "vm-1", "token": "t", "interval_s": 7}'), False),
        (Reply(201, b'{"vm": "vm-1", "token": "t", "interval_s": true}'), False),
    ],
)
def test_what_is_no_token_is_an_error(reply: Reply, retryable: bool) -> None:
    """A refusal, another VM's answer, or a token that could break a header; only a busy server is asked again."""
    with pytest.raises(EnrolmentError) as caught:
        enrol(Aggregator(reply).post, join_token="join", identity=IDENTITY, evidence=EVIDENCE)
    assert caught.value.retryable is retryable
    assert "join" not in str(caught.value) or "expired" in str(caught.value)


@given(body=st.binary(max_size=80))
def test_no_answer_raises_anything_else(body: bytes) -> None:
    """Whatever a stranger answers, it is an enrolment error."""
    with pytest.raises(EnrolmentError):
        enrol(Aggregator(Reply(201, body)).post, join_token="join", identity=IDENTITY, evidence=EVIDENCE)


CREDENTIAL = Credential("vm-1", "smbios", "k1.0.abc", 60)


def test_the_credential_survives_and_stays_private(tmp_path: Path) -> None:
    """0600, and out of every repr."""
    path = tmp_path / "token.json"
    assert load_credential(path) is None
    save_credential(path, CREDENTIAL)
    assert load_credential(path) == CREDENTIAL
    assert path.stat().st_mode & 0o777 == 0o600
    assert "abc" not in repr(CREDENTIAL)


def test_a_credential_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A readable token file is a leaked token."""
    path = tmp_path / "token.json"
    save_credential(path, CREDENTIAL)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="readable by others"):
        load_credential(path)


@pytest.mark.parametrize("text", ["{}", "k1.0.abc", '{"vm": "../x", "source": "s", "token": "t", "interval_s": 60}'])
def test_a_damaged_credential_is_named(tmp_path: Path, text: str) -> None:
    """The message names the file and what to do; the token is not in it."""
    path = tmp_path / "token.json"
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"token\.json: is damaged") as caught:
        load_credential(path)
    assert "abc" not in str(caught.value)


def test_a_new_credential_is_noticed_without_restart(tmp_path: Path) -> None:
    """Enrolling or rotating while the agent runs takes effect; another VM's credential is none."""
    path = tmp_path / "token.json"
    file = CredentialFile(path, vm="vm-1")
    assert (file.refresh(), file.token()) == (False, None)
    save_credential(path, CREDENTIAL)
    assert (file.refresh(), file.refresh(), file.token()) == (True, False, "k1.0.abc")
    save_credential(path, Credential("vm-2", "smbios", "k1.0.xyz", 60))
    assert (file.refresh(), file.token()) == (True, None)
    path.unlink()
    assert (file.refresh(), file.token()) == (True, None)


def joiner(aggregator: Aggregator, saved: list[Credential], join_token: str | ConfigError = "join") -> Joiner:
    def read() -> str:
        if isinstance(join_token, ConfigError):
            raise join_token
        return join_token

    return Joiner(
        post=aggregator.post,
        join_token=read,
        identity=IDENTITY,
        evidence=EVIDENCE,
        save=saved.append,
        chance=lambda: 1.0,
    )


def test_a_running_agent_enrols_as_soon_as_it_can() -> None:
    """No connection and a busy server are asked again with growing waits; then the credential is kept."""
    saved: list[Credential] = []
    one = joiner(Aggregator(UnreachableError("refused"), Reply(503, b""), GOOD), saved)
    steps = [(one.step(), one.trouble) for _ in range(3)]
    assert steps == [(1.0, "not enrolled: refused"), (2.0, "not enrolled: answer 503"), (None, None)]
    assert [credential.token for credential in saved] == ["k1.0.abc"]


@pytest.mark.parametrize("reply", [Reply(401, b""), Reply(403, b"")])
def test_a_refused_join_token_is_not_hammered(reply: Reply) -> None:
    """Only a person can help: the next try is minutes away."""
    saved: list[Credential] = []
    delay_s = joiner(Aggregator(reply), saved).step()
    assert delay_s is not None
    assert delay_s >= 300
    assert saved == []


def test_a_join_token_that_cannot_be_read_is_trouble() -> None:
    """The file may come later: it is read again at the next try."""
    one = joiner(Aggregator(), [], ConfigError("join.token: absent"))
    assert one.step() == 900.0
    assert one.trouble == "not enrolled: join.token: absent"
