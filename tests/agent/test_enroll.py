"""Enrolment leaves a token that only this VM can read, or says why there is none."""

from __future__ import annotations

import json
import os
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
    Rotator,
    asks_for_rotation,
    enrol,
    gather_evidence,
    load_credential,
    rotate,
    save_credential,
)
from agent.identity import Identity
from agent.push import Reply, UnreachableError
from agent.settings import ConfigError
from tests.agent.machine import Clock

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


def test_the_old_token_counts_while_a_new_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the two loops that look, one never finds the VM without a token while the other reads the file."""
    path = tmp_path / "credential.json"
    save_credential(path, CREDENTIAL)
    file = CredentialFile(path, vm="vm-1")
    file.refresh()
    meanwhile: list[tuple[str | None, float | None, bool]] = []

    def slowly(place: Path) -> Credential | None:
        monkeypatch.undo()
        before = (file.token(), file.made_s)
        meanwhile.append((*before, file.refresh()))
        return load_credential(place)

    made_s = file.made_s
    save_credential(path, Credential("vm-1", "smbios", "k1.1.new", 60))
    monkeypatch.setattr("agent.enroll.load_credential", slowly)
    assert (file.refresh(), file.token()) == (True, "k1.1.new")
    # The other loop reads it for itself: it does not take for read what is not read yet.
    assert meanwhile == [("k1.0.abc", made_s, True)]


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


WAITS = Reply(403, b'{"type": "urn:fallow:problem:enrolment-waits", "status": 403, "detail": "an admin must approve"}')
DAY_S = 86_400.0


def test_a_machine_that_waits_for_an_admin_asks_every_few_minutes() -> None:
    """403 `enrolment-waits`: said once, asked again after 5 minutes more or less, let in once approved."""
    saved: list[Credential] = []
    one = joiner(Aggregator(WAITS, WAITS, GOOD), saved)
    delay_s = one.step()
    assert delay_s is not None
    assert 150 <= delay_s <= 450
    assert one.trouble == "not enrolled: answer 403: an admin must approve"
    assert [one.step() is None, one.step()] == [False, None]
    assert one.trouble is None
    assert len(saved) == 1


@pytest.mark.parametrize("reason", ["enrolment-refused", "join-token-bound"])
def test_other_refusals_are_left_alone_for_longer(reason: str) -> None:
    """A refused machine, or a join token for others: only a person can change that."""
    saved: list[Credential] = []
    reply = Reply(403, json.dumps({"type": f"urn:fallow:problem:{reason}", "detail": "no"}).encode())
    delay_s = joiner(Aggregator(reply), saved).step()
    assert delay_s is not None
    assert delay_s >= 300


@pytest.mark.parametrize(
    ("reply", "asks"),
    [
        (Reply(200, b'{"stored": 1, "token": "rotate"}'), True),
        (Reply(200, b'{"stored": 1}'), False),
        (Reply(200, b'{"token": ["rotate"]}'), False),
        (Reply(200, b"rotate"), False),
        (Reply(204, b'{"token": "rotate"}'), False),
        (Reply(401, b'{"token": "rotate"}'), False),
    ],
)
def test_only_an_acknowledged_push_asks_for_a_rotation(reply: Reply, asks: bool) -> None:
    """A 200 whose object says so; no other answer sends a fleet for new tokens."""
    assert asks_for_rotation(reply) is asks


class Rotation:
    """A rotator over a credential file, whose age and answers a test sets."""

    def __init__(self, folder: Path, *replies: Reply | Exception, vm: str = "vm-1") -> None:
        self.clock = Clock()
        self.aggregator = Aggregator(*replies)
        self.path = folder / "token.json"
        save_credential(self.path, Credential(vm, "smbios", "k1.1.old", 30))
        self.file = CredentialFile(self.path, vm=vm)
        self.age(0.0)
        self.rotator = Rotator(
            post=self.aggregator.post,
            file=self.file,
            save=self.save,
            vm=vm,
            every_s=30 * DAY_S,
            clock=self.clock.now,
            mono=self.clock.mono,
            chance=lambda: 0.5,
        )

    def save(self, fresh: Credential) -> None:
        save_credential(self.path, fresh)
        self.age(0.0)

    def age(self, seconds: float) -> None:
        """The token was written so long ago."""
        made_s = self.clock.now() - seconds
        os.utime(self.path, (made_s, made_s))
        self.file.refresh()


NEW = Reply(200, b'{"vm": "vm-1", "token": "k1.2.new"}')


def test_a_token_is_exchanged_when_it_is_old(tmp_path: Path) -> None:
    """Not after 26 days, surely after 34: once, and the new one is what the next push carries."""
    one = Rotation(tmp_path, NEW)
    assert not one.rotator.step()
    one.age(26 * DAY_S)
    assert not one.rotator.step()
    one.age(34 * DAY_S)
    assert [one.rotator.step(), one.rotator.step()] == [True, False]
    assert one.file.token() == "k1.2.new"
    assert load_credential(one.path) == Credential("vm-1", "smbios", "k1.2.new", 30)
    ((path, _, headers),) = one.aggregator.requests
    assert (path, headers["Authorization"]) == ("/v1/token", "Bearer k1.1.old")


def test_a_fleet_does_not_exchange_all_its_tokens_at_once(tmp_path: Path) -> None:
    """Enrolled in one hour, they are due over days; each VM always at the same age."""
    due = []
    for number in range(40):
        vm = f"vm-{number}"
        one = Rotation(tmp_path, *[Reply(200, json.dumps({"vm": vm, "token": "t"}).encode())] * 2, vm=vm)
        for hours in range(26 * 24, 34 * 24, 12):
            one.age(hours * 3600.0)
            if one.rotator.step():
                due.append(hours)
                break
    assert len(due) == 40
    assert len(set(due)) > 8
    assert min(due) >= 27 * 24
    assert max(due) <= 33 * 24 + 12


def test_an_exchange_does_not_undo_an_enrolment(tmp_path: Path) -> None:
    """A person enrolled the VM while the answer was on its way: what came with the answer counts no more."""
    one = Rotation(tmp_path, NEW)
    one.age(34 * DAY_S)
    by_hand = Credential("vm-1", "smbios", "k1.3.hand", 30)
    answer = one.aggregator.post

    def slowly(path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        one.save(by_hand)
        return answer(path, body, headers)

    one.rotator._post = slowly
    one.rotator.step()
    assert load_credential(one.path) == by_hand
    assert one.file.token() == "k1.3.hand"


def test_a_token_is_exchanged_when_the_aggregator_asks(tmp_path: Path) -> None:
    """An answer to a push that says so is passed on as it is, and the exchange comes before the next push."""
    told = Reply(200, b'{"stored": 1, "token": "rotate"}')
    one = Rotation(tmp_path, told, NEW)
    assert one.rotator.watch("/v1/samples", b"{}", {}) == told
    assert [one.rotator.step(), one.rotator.step()] == [True, False]
    assert one.file.token() == "k1.2.new"


@pytest.mark.parametrize("failure", [UnreachableError("lost"), Reply(503, b""), Reply(401, b""), Reply(200, b"{}")])
def test_an_exchange_that_fails_leaves_the_token_and_is_tried_later(tmp_path: Path, failure: Reply | Exception) -> None:
    """A lost answer or a refusal: the old token stays in use, nobody is hammered, and asking again mends it."""
    one = Rotation(tmp_path, failure, NEW)
    one.age(40 * DAY_S)
    assert [one.rotator.step(), one.rotator.step()] == [False, False]
    assert (one.file.token(), len(one.aggregator.requests)) == ("k1.1.old", 1)
    one.clock.advance(1_000.0)
    assert one.rotator.step()
    assert [headers["Authorization"] for _, _, headers in one.aggregator.requests] == ["Bearer k1.1.old"] * 2


def test_a_new_token_that_cannot_be_kept_is_asked_for_again(tmp_path: Path) -> None:
    """A full disk: the old token counts on, as it does for the aggregator."""
    one = Rotation(tmp_path, NEW, NEW)
    one.age(40 * DAY_S)
    keep = one.save

    def full(fresh: Credential) -> None:
        raise OSError(28, "No space left on device")

    one.rotator._save = full
    assert not one.rotator.step()
    assert one.file.token() == "k1.1.old"
    one.rotator._save = keep
    one.clock.advance(1_000.0)
    assert one.rotator.step()


def test_a_clock_that_was_set_back_exchanges_once(tmp_path: Path) -> None:
    """A token of the future is of unknown age: exchanged, and then it is of today."""
    one = Rotation(tmp_path, NEW)
    one.age(-365 * DAY_S)
    assert [one.rotator.step(), one.rotator.step()] == [True, False]
    one.age(-60.0)
    assert not one.rotator.step()


def test_nobody_rotates_without_a_token_of_its_own(tmp_path: Path) -> None:
    """Not enrolled, or another VM's credential on a cloned disk: nothing is sent."""
    one = Rotation(tmp_path)
    save_credential(one.path, Credential("vm-2", "smbios", "k1.1.other", 30))
    one.age(40 * DAY_S)
    assert (one.file.made_s, one.rotator.step()) == (None, False)
    one.path.unlink()
    one.file.refresh()
    assert (one.file.made_s, one.rotator.step()) == (None, False)
