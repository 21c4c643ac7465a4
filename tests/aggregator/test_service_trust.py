"""Tokens in a running aggregator: revoked within a minute, keys changed under way, clones found, secrets kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as the_reactor
from twisted.internet.task import Clock as TwistedClock
from twisted.internet.task import deferLater
from twisted.logger import eventAsText, globalLogPublisher

from aggregator.catalogue import Catalogue
from aggregator.config import AggregatorConfig
from aggregator.fleet_db import open_fleet
from aggregator.inventory import Inventory, InventoryVm
from aggregator.key_file import SIGNS_AFTER_S, add_key, drop_key
from aggregator.service import AggregatorService
from aggregator.tokens import KEY_FILE_NAME
from aggregator.waits import State
from tests.aggregator.door_fakes import TS
from tests.aggregator.service_fakes import ANY_PORT, NOW_S, Clock, FakeScheduler, House, running
from tests.aggregator.test_service import reached

pytestmark = pytest.mark.real

VM = "web-1"
MAC = "52:54:00:00:00:01"
reactor: Any = the_reactor


def with_catalogue(house: House, work: Callable[[Catalogue], Any]) -> Any:
    """What another process does to the fleet database."""
    engine = open_fleet(None, house.data)
    try:
        return work(Catalogue(engine))
    finally:
        engine.dispose()


async def ask(house: House, vm: str, *macs: str, join_token: str | None = None) -> tuple[int, dict[str, Any]]:
    """Asks to enrol; status and body."""
    body = json.dumps({"join_token": join_token or house.join_token, "vm": vm, "macs": macs, "hostname": "h"}).encode()
    answer = await house.agents("POST", "/v1/enroll", body, content_type="application/json")
    return answer.status, json.loads(answer.body)


async def rotate(house: House, vm: str) -> dict[str, Any]:
    """Exchanges the token that the house holds; the answer."""
    answer = await house.agents("POST", "/v1/token", authorization=f"Bearer {house.tokens[vm]}", fallow_vm=vm)
    assert answer.status == 200, answer
    document: dict[str, Any] = json.loads(answer.body)
    return document


def is_told(house: House, named: str) -> bool:
    """The key file's trouble is this one."""
    return named in str(house.service._identities.keys.trouble)


class Hasty:
    """The reactor, but for its time, which a test moves."""

    def __init__(self) -> None:
        self.clock = TwistedClock()

    def seconds(self) -> float:
        return self.clock.seconds()

    def callLater(self, delay: float, call: Any, *args: object, **more: object) -> Any:
        return self.clock.callLater(delay, call, *args, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


@pytest_twisted.ensureDeferred
async def test_revocation_is_effective_within_60_s(tmp_path: Path) -> None:
    """Revoked 401: what another process wrote is refused at the latest a minute of the clock later."""
    hasty = Hasty()
    config = AggregatorConfig(data_dir=tmp_path, listen=ANY_PORT, admin=ANY_PORT, flush_workers=1)
    clock = Clock()
    scheduler = FakeScheduler()
    service = AggregatorService(config, reactor=hasty, scheduler=scheduler, clock=clock, descriptors=1_000)
    house = House(tmp_path, service, scheduler, clock)
    started = service.start()
    pumping = True

    def pump() -> None:
        # Short waits, as that of a group commit, go on; nothing that waits for seconds does.
        hasty.clock.advance(0.001)
        if pumping:
            reactor.callLater(0.001, pump)

    pump()
    try:
        await started
        assert (await house.push(VM, TS)).status == 204
        with_catalogue(house, lambda catalogue: catalogue.revoke(VM, "revoked", now_s=NOW_S))
        moved_s, begun_s = 0.0, hasty.seconds()
        while (await house.push(VM, TS + 60)).status in (200, 204):
            assert hasty.seconds() - begun_s <= 60.0
            hasty.clock.advance(5.0)
            moved_s += 5.0
            await deferLater(reactor, 0.05, lambda: None)
        assert moved_s >= 5.0
        answer = await house.push(VM, TS + 120)
        assert (answer.status, answer.reason) == (401, "revoked")
    finally:
        pumping = False
        await service.stop()


@pytest_twisted.ensureDeferred
async def test_a_lost_database_lets_no_revoked_token_back_in(tmp_path: Path) -> None:
    """What cannot be read again stays as it was, and an alarm says so."""
    async with running(tmp_path) as house:
        await house.push(VM, TS)
        with_catalogue(house, lambda catalogue: catalogue.revoke(VM, "revoked", now_s=NOW_S))
        house.service._identities.reread()
        await reached(lambda: house.service._identities.revocations.value.refuses(VM, 1) is not None)

        def lost() -> Any:
            raise OSError("away")

        house.service._identities.revocations._read = lost
        house.service._identities.reread()
        await reached(lambda: house.service._identities.revocations.trouble is not None)
        assert (await house.push(VM, TS)).status == 401
        assert (await house.metrics())["fallow_revocations_unreadable"] == 1.0


@pytest_twisted.ensureDeferred
async def test_a_change_of_key_needs_no_restart_and_no_enrolment(tmp_path: Path) -> None:
    """Old tokens count and are told to rotate once the new key signs; when the old key goes, so do its tokens."""
    path = tmp_path / KEY_FILE_NAME
    async with running(tmp_path) as house:

        async def reread(kids: tuple[str, ...], signs: str) -> None:
            house.service._identities.reread()
            await reached(
                lambda: (
                    (house.service._identities.keys.value.kids, house.service._identities.keys.value.signs_with)
                    == (kids, signs)
                )
            )

        assert (await house.push(VM, TS)).status == 204
        old = house.tokens[VM]
        add_key(path)
        os.utime(path, (NOW_S, NOW_S))
        await reread(("k2", "k1"), "k1")
        assert (await house.push(VM, TS + 60)).status == 204
        house.clock.now_s += SIGNS_AFTER_S
        await reread(("k2", "k1"), "k2")
        told = await house.push(VM, TS + 120)
        assert (told.status, json.loads(told.body)["token"]) == (200, "rotate")
        house.tokens[VM] = (await rotate(house, VM))["token"]
        assert house.tokens[VM].startswith("k2.")
        assert (await house.push(VM, TS + 180)).status == 204
        # Its answer might have been lost: the old token counts too, and gives the same new one.
        house.tokens[VM], new = old, house.tokens[VM]
        assert (await house.push(VM, TS + 240)).status == 200
        assert (await rotate(house, VM))["token"] == new
        drop_key(path, "k1")
        await reread(("k2",), "k2")
        assert (await house.push(VM, TS + 300)).status == 401
        house.tokens[VM] = new
        assert (await house.push(VM, TS + 300)).status == 204
        metrics = await house.metrics()
        assert (metrics["fallow_outdated_tokens_total"], metrics["fallow_rotations_total"]) == (2.0, 2.0)


@pytest_twisted.ensureDeferred
async def test_a_broken_key_file_leaves_the_last_keys(tmp_path: Path) -> None:
    """Unreadable, open to others or gone: tokens count on, one warning and a metric tell; mended, they are quiet."""
    path = tmp_path / KEY_FILE_NAME
    said: list[str] = []

    def note(event: Any) -> None:
        said.append(eventAsText(event))

    observer: Any = note
    globalLogPublisher.addObserver(observer)
    try:
        async with running(tmp_path) as house:
            assert (await house.push(VM, TS)).status == 204
            good = path.read_text()
            for broken, named in (("k1:zz\n", "line 1"), ("", "is empty"), (None, "No such file")):
                path.unlink()
                if broken is not None:
                    path.touch(mode=0o600)
                    path.write_text(broken)
                for _ in range(2):
                    house.service._identities.reread()
                    await reached(partial(is_told, house, named))
                assert (await house.push(VM, TS + 60)).status in (200, 204)
                assert (await house.metrics())["fallow_token_keys_unreadable"] == 1.0
            path.touch(mode=0o600)
            path.write_text(good)
            house.service._identities.reread()
            await reached(lambda: house.service._identities.keys.trouble is None)
            assert (await house.metrics())["fallow_token_keys_unreadable"] == 0.0
    finally:
        globalLogPublisher.removeObserver(observer)
    warnings = [text for text in said if "cannot be read" in text and KEY_FILE_NAME in text]
    assert len(warnings) == 3
    assert good.partition(":")[2].strip() not in "".join(said)


@pytest_twisted.ensureDeferred
async def test_a_mismatch_waits_for_an_admin_and_gets_in_once_approved(tmp_path: Path) -> None:
    """The whole way: 403 at the door, counted and shown, approved by another process, 201."""
    async with running(tmp_path) as house:
        engine = open_fleet(None, tmp_path)
        Inventory(engine).put("kvm", [InventoryVm(vm=VM, macs=(MAC,), pool="web")], NOW_S)
        engine.dispose()
        status, body = await ask(house, VM, "52:54:00:00:00:99")
        assert (status, body["type"].rpartition(":")[2]) == (403, "enrolment-waits")
        house.service._identities.reread()
        await reached(lambda: house.service._identities.waiting.value == 1)
        metrics = await house.metrics()
        assert (metrics["fallow_enrolments_waiting"], metrics["fallow_rejects_total{enrolment-waits}"]) == (1.0, 1.0)
        (wait,) = with_catalogue(house, lambda catalogue: catalogue.waits())
        assert wait.evidence["peer"] == "127.0.0.1"
        with_catalogue(house, lambda one: one.decide(VM, State.APPROVED, by="eve", now_s=NOW_S))
        assert (await ask(house, VM, "52:54:00:00:00:99"))[0] == 201


@pytest_twisted.ensureDeferred
async def test_an_id_in_use_is_not_taken_over(tmp_path: Path) -> None:
    """A VM that has just pushed, in memory alone: another enrolment waits, and it pushes on."""
    async with running(tmp_path) as house:
        assert (await ask(house, VM, MAC))[0] == 201
        await house.enroll("db-1")
        house.tokens[VM] = (await ask(house, VM, MAC))[1]["token"]
        assert (await house.push(VM, TS)).status == 204
        status, body = await ask(house, VM, MAC)
        assert (status, body["type"].rpartition(":")[2]) == (403, "enrolment-waits")
        assert (await house.push(VM, TS + 60)).status == 204
        assert (await ask(house, VM, "52:54:00:00:00:02", join_token=house.bound_token(VM)))[0] == 201
        assert (await house.push(VM, TS + 120)).reason == "re-enrolled"


@pytest_twisted.ensureDeferred
async def test_row_29_clones_are_found_told_apart_and_work_again(tmp_path: Path) -> None:
    """Boots A, B, A interleave: 409 `identity-conflict` for both, also after a restart; with ids of their own they
    push again, and the one that keeps the old id needs an admin's word."""
    async with running(tmp_path) as house:
        for number, boot in enumerate("AB"):
            assert (await house.push(VM, TS - 300 + 60 * number, boot=boot)).status == 204
        assert (await house.push(VM, TS - 180, boot="A")).reason == "identity-conflict"
        await reached(lambda: house.service._identities.revocations.value.refuses(VM, 1) is not None)
        assert [(await house.push(VM, TS, boot=boot)).status for boot in "AB"] == [409, 409]
        tokens = dict(house.tokens)
    async with running(tmp_path) as house:
        house.tokens = dict(tokens)
        assert [(await house.push(VM, TS, boot=boot)).status for boot in "AB"] == [409, 409]
        assert (await ask(house, VM))[0] == 403
        status, body = await ask(house, VM, join_token=house.bound_token(VM))
        assert status == 201
        house.tokens = {VM: body["token"]}
        for number in range(2):
            assert (await house.push(VM, TS + 60 * number, boot="A")).status == 204
            assert (await house.push("web-2", TS + 60 * number, boot="B")).status == 204
        house.tokens = dict(tokens)
        assert (await house.push(VM, TS + 60, boot="B")).status == 409


@pytest_twisted.ensureDeferred
async def test_row_29_clones_are_found_again_after_a_restart(tmp_path: Path) -> None:
    """A restart forgets whose turn it was, not for long: three pushes later both are found out."""
    async with running(tmp_path) as house:
        for number, boot in enumerate("AB"):
            assert (await house.push(VM, TS - 300 + 60 * number, boot=boot)).status == 204
        await house.flush()
        tokens = dict(house.tokens)
    async with running(tmp_path) as house:
        house.tokens = tokens
        answers = [(await house.push(VM, TS + 60 * number, boot=boot)).status for number, boot in enumerate("ABAB")]
        assert answers[2:] == [409, 409]


@pytest_twisted.ensureDeferred
async def test_no_secret_is_ever_logged(tmp_path: Path) -> None:
    """A canary in every place where a secret goes: none of it in the log, whatever went wrong with it."""
    said: list[str] = []

    def note(event: Any) -> None:
        said.append(eventAsText(event, includeTraceback=True) + repr(event))

    observer: Any = note
    globalLogPublisher.addObserver(observer)
    try:
        async with running(tmp_path) as house:
            await house.push(VM, TS)
            secrets = [house.join_token, house.tokens[VM], (tmp_path / KEY_FILE_NAME).read_text().strip()[3:]]
            secrets += ["join-canary-1", "k1.1.canary-2", "canary-3"]
            await ask(house, VM, join_token="join-canary-1")
            await rotate(house, VM)
            house.tokens[VM] = "k1.1.canary-2"
            assert (await house.push(VM, TS)).status == 401

            def breaks(*_: object, **__: object) -> Any:
                raise RuntimeError("a bug")

            house.service._catalogue.enroll = breaks  # type: ignore[method-assign]
            body = json.dumps({"join_token": house.join_token, "vm": "b", "hostname": "x"}).encode()
            answer = await house.agents("POST", "/v1/enroll", body, content_type="application/json")
            assert answer.status == 500
            (tmp_path / KEY_FILE_NAME).write_text("k1:canary-3\n")
            house.service._identities.reread()
            await reached(lambda: house.service._identities.keys.trouble is not None)
            said.append(repr(house.service._identities.keys.value) + str(house.service._identities.keys.trouble))
    finally:
        globalLogPublisher.removeObserver(observer)
    text = "".join(said)
    assert "a bug" in text
    assert [secret for secret in secrets if secret in text] == []
