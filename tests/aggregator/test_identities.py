"""Identities of a running aggregator: what the database did not take is tried again, and nothing else is revoked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred

from aggregator.buffer import Buffer
from aggregator.catalogue import Catalogue
from aggregator.fleet_db import migrate, open_fleet
from aggregator.identities import Identities
from aggregator.join_tokens import Labels
from aggregator.problems import Problem, Refused
from aggregator.revocation_cache import CACHE_FILE_NAME, RevocationCache
from aggregator.tokens import KEY_FILE_NAME, Revocations, TokenKeys
from tests.aggregator.flush_fakes import push as packed_push

NOW_S = 1_790_000_000.0
TS = 1_789_999_980
VM = "web-1"


class Flaky(Catalogue):
    """A catalogue whose database is away when a test says so."""

    is_away = False

    def revoke(self, vm_id: str, reason: str, *, now_s: float) -> None:
        if self.is_away:
            raise Refused(Problem(503, "database-unavailable", "away"))
        super().revoke(vm_id, reason, now_s=now_s)


class House:
    """Identities over a real database, whose threads answer at once."""

    def __init__(self, folder: Path, last_known: Revocations | None = None) -> None:
        self.is_open = True
        self.engine = open_fleet(None, folder)
        migrate(self.engine)
        TokenKeys.load_or_create(folder / KEY_FILE_NAME)
        self.catalogue = Flaky(self.engine)
        self.buffer = Buffer(max_rows=1_000)
        self.identities = Identities(
            self.catalogue,
            folder / KEY_FILE_NAME,
            self.buffer,
            in_thread=self.at_once,
            seconds=lambda: 0.0,
            clock=lambda: NOW_S,
            on_new_keys=lambda _keys: None,
            cache=RevocationCache(folder / CACHE_FILE_NAME),
            last_known=last_known,
            is_open=lambda: self.is_open,
        )
        self.join_token = self.catalogue.mint_join_token(now_s=NOW_S, ttl_s=60.0, uses=9, labels=Labels())

    @staticmethod
    def at_once(work: Callable[[], Any]) -> Deferred[Any]:
        return maybeDeferred(work)

    def enroll(self, vm_id: str = VM) -> int | str:
        """The generation, or the name of the problem."""
        got: list[Any] = []
        body = json.dumps({"join_token": self.join_token, "vm": vm_id, "hostname": "h", "boot": "b"}).encode()
        self.identities.enroll(body, "").addBoth(got.append)
        if isinstance(got[0], bytes):
            return int(json.loads(got[0])["token"].split(".")[1])
        problem: Problem = got[0].value.problem
        return problem.reason

    def refuses(self, generation: int) -> str | None:
        return self.identities.revocations.value.refuses(VM, generation)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.engine.dispose()


def test_row_29_clones_are_refused_once_the_database_is_back(house: House) -> None:
    """It was away when they were found: that is not forgotten, or other aggregators and a restart would let them in."""
    assert house.enroll() == 1
    house.catalogue.is_away = True
    house.identities.conflict(VM)
    house.identities.reread()
    assert house.refuses(1) is None
    house.catalogue.is_away = False
    house.identities.reread()
    assert (house.refuses(1), house.refuses(2)) == ("identity-conflict", None)


def test_row_29_one_that_enrolled_anew_meanwhile_is_not_refused(house: House) -> None:
    """What was owed was owed to the tokens of before."""
    assert house.enroll() == 1
    house.catalogue.is_away = True
    house.identities.conflict(VM)
    assert house.enroll() == 2
    house.catalogue.is_away = False
    house.identities.reread()
    assert (house.refuses(1), house.refuses(2)) == ("re-enrolled", None)


def test_clones_of_a_vm_that_was_forgotten_are_not_asked_for_again(house: House) -> None:
    """There is no token left that could be refused."""
    house.identities.conflict("nobody")
    before = len(house.identities.revocations.value)
    house.identities.reread()
    assert len(house.identities.revocations.value) == before == 0


def test_an_id_that_memory_has_just_heard_of_is_not_taken_over(house: House) -> None:
    """The database does not know of the last minutes; the buffer does."""
    assert house.enroll() == 1
    house.buffer.add(packed_push(VM, TS), NOW_S)
    assert house.enroll() == "enrolment-waits"


def test_a_rotation_is_of_the_keys_of_now(house: House) -> None:
    """Both the answer's token and the one it was asked with fit the VM."""
    house.enroll()
    got: list[bytes] = []
    house.identities.rotate(VM, 1).addCallback(got.append)
    token = json.loads(got[0])["token"]
    assert house.identities.keys.value.verify(VM, token.encode()) == 2
    assert (house.refuses(1), house.refuses(2)) == (None, None)


def test_clones_stay_flagged_over_a_restart(tmp_path: Path) -> None:
    """Memory forgets that two machines pushed as one, and the database does not; enrolling again ends it."""
    first = House(tmp_path)
    first.enroll()
    first.identities.conflict(VM)
    second = House(tmp_path)
    second.buffer.add(packed_push(VM, TS, sent_s=NOW_S), NOW_S)
    assert flags(second) == []
    second.identities.flag_clones()
    assert flags(second) == ["identity_conflict"]
    second.buffer.take()
    taken = second.buffer.taken(VM)
    assert taken is not None
    assert taken.identity_conflict
    # Through another aggregator.
    assert first.enroll() == 2
    second.identities.reread()
    assert flags(second) == []


def test_starts_with_what_an_earlier_run_knew(tmp_path: Path) -> None:
    """Told to begin with the last known, it asks the database for nothing, and says so until it has been read."""
    first = House(tmp_path)
    first.enroll()
    first.catalogue.revoke(VM, "revoked", now_s=NOW_S)
    first.identities.reread()
    kept = RevocationCache(tmp_path / CACHE_FILE_NAME).read()
    assert kept == first.identities.revocations.value
    second = House(tmp_path, last_known=kept)
    assert second.refuses(1) == "revoked"
    assert second.identities.revocations.trouble is not None
    second.identities.reread()
    assert second.identities.revocations.trouble is None


def test_nobody_is_let_in_before_the_database_was_there(house: House) -> None:
    """503 and come again: tables of an older schema must not be asked."""
    house.is_open = False
    assert house.enroll() == "database-unavailable"
    got: list[Any] = []
    house.identities.rotate(VM, 1).addErrback(got.append)
    assert (got[0].value.problem.status, got[0].value.problem.reason) == (503, "database-unavailable")
    house.is_open = True
    assert house.enroll() == 1


def flags(house: House) -> object:
    (live,) = house.buffer.live(0.0, vm=VM)
    return live["flags"]
