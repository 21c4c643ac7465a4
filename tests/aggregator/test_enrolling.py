"""Who is let in as the database knows it: bindings, the inventory, requests that wait, uses that are never wasted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from aggregator.admission import Bound, Check, Kind
from aggregator.catalogue import Catalogue
from aggregator.enrolment import Enrolment
from aggregator.fleet import vm_summary
from aggregator.fleet_db import migrate, open_fleet
from aggregator.inventory import Inventory, InventoryVm
from aggregator.join_tokens import Labels
from aggregator.problems import Refused
from aggregator.waits import APPROVAL_LASTS_S, MAX_REQUESTS, STALE_S, WAIT_KEPT_S, State
from tests.postgres import postgres_database

NOW_S = 1_790_000_000.0
DAY_S = 86_400.0
MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"


class House:
    """A catalogue with one join token of many uses, and the inventory beside it."""

    def __init__(self, engine: sa.Engine, check: Check = Check.AUTO) -> None:
        self.engine = engine
        self.catalogue = Catalogue(engine, check=check)
        self.inventory = Inventory(engine)
        self.now_s = NOW_S

    def mint(self, uses: int = 5, bound: Bound | None = None, tags: tuple[str, ...] = ()) -> str:
        return self.catalogue.mint(
            now_s=NOW_S, ttl_s=100 * DAY_S, uses=uses, labels=Labels(tags=tags), bound=bound
        ).token

    def enroll(
        self,
        token: str,
        vm_id: str = "a",
        *macs: str,
        peer: str | None = "10.1.2.3",
        heard_s: float | None = None,
        boot: str = "boot-1",
    ) -> int | str:
        """The generation, or the name of the problem."""
        request = Enrolment(join_token=token, vm=vm_id, macs=macs or (MAC,), hostname=f"host-{vm_id}", boot=boot)
        try:
            return self.catalogue.enroll(request, now_s=self.now_s, peer=peer, heard_s=heard_s)
        except Refused as error:
            return error.problem.reason

    def left(self) -> list[int]:
        """Uses left of every token, the oldest first."""
        return [token.uses_left for token in reversed(self.catalogue.join_tokens())]

    def states(self) -> list[str]:
        return [wait.state for wait in self.catalogue.waits()]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    engine = open_fleet(None, tmp_path)
    migrate(engine)
    yield House(engine)
    engine.dispose()


# Bindings


@pytest.mark.parametrize(
    ("bound", "good", "bad"),
    [
        (Bound(Kind.VM, "a"), ("a", "10.1.2.3"), ("b", "10.1.2.3")),
        (Bound(Kind.NETWORK, "10.1.0.0/16"), ("a", "10.1.2.3"), ("a", "10.2.2.3")),
        (Bound(Kind.POOL, "web"), ("a", "10.1.2.3"), ("b", "10.1.2.3")),
    ],
)
def test_a_wrong_binding_is_403_and_costs_nothing(
    house: House, bound: Bound, good: tuple[str, str], bad: tuple[str, str]
) -> None:
    """The kind is named and the value is not; no use is spent and no VM is left behind."""
    house.inventory.put("kvm", [InventoryVm(vm="a", pool="web"), InventoryVm(vm="b", pool="db")], NOW_S)
    token = house.mint(uses=1, bound=bound)
    request = Enrolment(join_token=token, vm=bad[0], macs=(MAC,))
    with pytest.raises(Refused) as caught:
        house.catalogue.enroll(request, now_s=NOW_S, peer=bad[1])
    problem = caught.value.problem
    assert (problem.status, problem.reason) == (403, "join-token-bound")
    assert bound.kind in problem.detail
    assert bound.value not in problem.detail.replace(bound.kind, "").replace("a ", "").split()
    assert (house.left(), house.catalogue.vms(), house.states()) == ([1], [], [])
    assert house.enroll(token, good[0], peer=good[1]) == 1
    assert house.left() == [0]


def test_a_pool_is_that_of_the_inventory_or_a_tag(house: House) -> None:
    """A VM that no inventory knows is in the pools that its tags name."""
    token = house.mint(bound=Bound(Kind.POOL, "web"))
    assert house.enroll(token, "a") == "join-token-bound"
    house.catalogue.import_csv("vm,tags\na,web;x\n")
    assert house.enroll(token, "a") == 1


def test_a_guess_learns_nothing_of_bindings(house: House) -> None:
    """Whoever holds no good join token is 401, whatever waits or is bound."""
    house.mint(bound=Bound(Kind.VM, "a"))
    assert house.enroll("join-guess") == "join-token-unknown"
    assert house.states() == []


def test_no_join_token_has_a_repr(house: House) -> None:
    """Neither what is minted nor what is known of it shows the secret in a log."""
    minted = house.catalogue.mint(now_s=NOW_S, ttl_s=60.0, uses=1, labels=Labels())
    assert minted.token.startswith("join-")
    assert minted.token not in repr(minted)
    assert minted.token not in repr(house.catalogue.join_tokens())


# The inventory


def test_what_the_inventory_does_not_know_waits_for_an_admin(house: House) -> None:
    """403 `enrolment-waits`, no use spent, no VM made, the request kept; approved once, it gets in once."""
    house.inventory.put("kvm", [InventoryVm(vm="b")], NOW_S)
    token = house.mint()
    assert [house.enroll(token), house.enroll(token)] == ["enrolment-waits"] * 2
    assert (house.left(), house.catalogue.vms(), house.states()) == ([5], [], ["waiting"])
    assert house.catalogue.count_waiting() == 1
    (wait,) = house.catalogue.waits()
    assert (wait.evidence["hostname"], wait.evidence["macs"], wait.evidence["peer"]) == ("host-a", [MAC], "10.1.2.3")
    assert "inventory" in wait.why
    house.catalogue.decide("a", State.APPROVED, by="eve", now_s=NOW_S)
    assert house.enroll(token) == 1
    assert (house.left(), house.states()) == ([4], [])
    assert house.enroll(token) == "enrolment-waits"


def test_what_the_inventory_comes_to_know_gets_in_by_itself(house: House) -> None:
    """A VM that was made a minute ago is in the next look: nobody need approve it."""
    house.inventory.put("kvm", [InventoryVm(vm="b")], NOW_S)
    token = house.mint()
    assert house.enroll(token) == "enrolment-waits"
    house.inventory.put("kvm", [InventoryVm(vm="a", macs=(MAC,))], NOW_S)
    assert house.enroll(token) == 1
    assert house.states() == []


def test_other_macs_than_the_inventorys_wait(house: House) -> None:
    """The UUID alone is not enough where the MACs are known."""
    house.inventory.put("kvm", [InventoryVm(vm="a", macs=(MAC,))], NOW_S)
    token = house.mint()
    assert house.enroll(token, "a", OTHER_MAC) == "enrolment-waits"
    assert house.enroll(token, "a", OTHER_MAC, MAC) == 1


@pytest.mark.parametrize(("check", "outcome"), [(Check.INVENTORY, "enrolment-waits"), (Check.OFF, 1), (Check.AUTO, 1)])
def test_the_setting_says_what_an_empty_inventory_means(house: House, check: Check, outcome: object) -> None:
    """`auto` asks nothing of it, `inventory` lets nobody in unseen."""
    other = House(house.engine, check)
    assert other.enroll(other.mint()) == outcome


# Taking an id over


def test_an_id_in_use_is_not_taken_over(house: House) -> None:
    """A VM that pushed within the hour keeps its token: by memory, and by the summary of another aggregator."""
    token = house.mint()
    assert house.enroll(token) == 1
    assert house.enroll(token, heard_s=NOW_S - 60) == "enrolment-waits"
    with house.engine.begin() as connection:
        figures = {"oldest_s": 1, "newest_s": 2, "skew_s": 0.5, "interval_s": 60, "conflicts": 0, "updated_s": 9.0}
        connection.execute(sa.insert(vm_summary).values(vm_id="a", received_s=NOW_S - 1_800, **figures))
    assert house.enroll(token) == "enrolment-waits"
    assert house.catalogue.revocations().refuses("a", 1) is None
    house.now_s = NOW_S + 7_200
    assert house.enroll(token) == 2


def test_a_rebuilt_vm_gets_in_at_once_with_a_token_of_its_own(house: House) -> None:
    """Other MACs, a push a minute ago: a join token that is bound to exactly this VM is the admin's word."""
    assert house.enroll(house.mint()) == 1
    bound = house.mint(bound=Bound(Kind.VM, "a"))
    assert house.enroll(house.mint(), "a", OTHER_MAC) == "enrolment-waits"
    assert house.enroll(bound, "a", OTHER_MAC, heard_s=NOW_S - 60) == 2


def test_an_agent_whose_answer_was_lost_enrols_again(house: House) -> None:
    """It has not pushed yet and has the same MACs: it costs a use and nobody's time."""
    token = house.mint()
    assert [house.enroll(token), house.enroll(token)] == [1, 2]
    assert house.left() == [3]


# Requests


def test_an_approval_is_for_the_machine_that_was_shown(house: House) -> None:
    """Another one with the same id waits for a word of its own, and does not use up that of the first."""
    house.inventory.put("kvm", [InventoryVm(vm="b")], NOW_S)
    token = house.mint()
    house.enroll(token)
    house.catalogue.decide("a", State.APPROVED, by="eve", now_s=NOW_S)
    assert house.enroll(token, "a", OTHER_MAC) == "enrolment-waits"
    assert house.enroll(token) == 1


def test_an_approval_is_not_used_up_by_one_who_knows_name_and_macs(house: House) -> None:
    """A neighbour sees both on the network, but not the id of the boot: it neither gets in nor takes the word back."""
    house.inventory.put("kvm", [InventoryVm(vm="b")], NOW_S)
    token = house.mint()
    house.enroll(token)
    house.catalogue.decide("a", State.APPROVED, by="eve", now_s=NOW_S)
    assert house.enroll(token, boot="guessed") == "enrolment-waits"
    assert sorted(house.states()) == ["approved", "waiting"]
    assert house.enroll(token) == 1


def test_a_refused_machine_stays_refused_when_it_starts_again(house: House) -> None:
    """Another boot of it is no new request."""
    house.inventory.put("kvm", [InventoryVm(vm="b")], NOW_S)
    token = house.mint()
    house.enroll(token)
    house.catalogue.decide("a", State.REFUSED, by="eve", now_s=NOW_S)
    assert house.enroll(token, boot="boot-2") == "enrolment-refused"
    assert house.states() == ["refused"]
    assert house.enroll(token, "a", OTHER_MAC) == "enrolment-waits"


@pytest.mark.parametrize("refused", [False, True])
def test_requests_that_nobody_repeats_make_room(house: House, refused: bool) -> None:
    """Eight asked for an id and went away, refused or not: its VM may ask all the same. What was approved stays."""
    house.inventory.put("kvm", [InventoryVm(vm="b")], NOW_S)
    token = house.mint()
    for number in range(MAX_REQUESTS):
        house.enroll(token, "a", f"52:54:00:00:01:{number:02x}")
    first, *others = [wait.request for wait in house.catalogue.waits()]
    house.catalogue.decide("a", State.APPROVED, by="eve", now_s=NOW_S, request=first)
    for request in others if refused else []:
        house.catalogue.decide("a", State.REFUSED, by="eve", now_s=NOW_S, request=request)
    house.now_s += STALE_S
    assert house.enroll(token) == "too-many-wait"
    house.now_s += 1
    assert house.enroll(token) == "enrolment-waits"
    assert sorted(house.states()) == ["approved", "waiting"]


def test_what_is_forgotten_of_a_vm_are_its_requests_too(house: House) -> None:
    """Names and addresses of machines that asked for the id go with it."""
    house.inventory.put("kvm", [InventoryVm(vm="b")], NOW_S)
    token = house.mint()
    assert house.enroll(token, "b") == 1
    house.enroll(token, "b", OTHER_MAC, heard_s=NOW_S)
    assert house.states() == ["waiting"]
    house.catalogue.forget("b", now_s=NOW_S)
    assert house.states() == []


def test_a_wrong_join_token_waits_for_no_writer(house: House) -> None:
    """A stranger who asks again and again never takes the lock that summaries and enrolments need."""
    with house.engine.begin():  # holds the lock: whoever wants it too is 503 in the end
        assert house.enroll("join-guessed") == "join-token-unknown"


def test_an_approval_does_not_last_for_ever(house: House) -> None:
    """A machine that comes after a week is looked at again."""
    house.inventory.put("kvm", [InventoryVm(vm="b")], NOW_S)
    token = house.mint()
    house.enroll(token)
    house.catalogue.decide("a", State.APPROVED, by="eve", now_s=NOW_S)
    house.now_s += APPROVAL_LASTS_S
    assert house.enroll(token) == "enrolment-waits"
    assert house.states() == ["waiting"]


def test_requests_are_bounded(house: House) -> None:
    """One who holds a join token cannot fill the database: so many for an id, then 503; old ones make room."""
    house.inventory.put("kvm", [InventoryVm(vm="b")], NOW_S)
    token = house.mint()
    for number in range(MAX_REQUESTS):
        assert house.enroll(token, "a", f"52:54:00:00:01:{number:02x}") == "enrolment-waits"
    with pytest.raises(Refused) as caught:
        house.catalogue.enroll(Enrolment(join_token=token, vm="a"), now_s=NOW_S)
    assert (caught.value.problem.status, caught.value.problem.reason) == (503, "too-many-wait")
    assert len(house.states()) == MAX_REQUESTS
    house.now_s += WAIT_KEPT_S + 1
    assert house.enroll(token, "a") == "enrolment-waits"
    assert len(house.states()) == 1


# At once


def at_once(works: Sequence[Callable[[], object]]) -> list[object]:
    """What each of the works gave, all begun together."""
    outcomes: list[object] = []
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        barrier.wait()
        outcomes.append(work())

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def enrolments_at_once(house: House) -> None:
    """Asserts what must hold of many enrolments at one moment."""
    token = house.mint(uses=3)
    outcomes = at_once([partial(house.enroll, token, f"vm-{number}") for number in range(8)])
    assert sorted(map(str, outcomes)) == ["1"] * 3 + ["join-token-used-up"] * 5
    assert (house.left(), len(house.catalogue.vms())) == ([0], 3)
    # Eight tokens, one new id, eight machines: one has it, the others wait.
    machines = [partial(house.enroll, house.mint(uses=1), "new", f"52:54:00:00:02:{n:02x}") for n in range(8)]
    assert sorted(map(str, at_once(machines))) == ["1"] + ["enrolment-waits"] * 7
    assert sorted(house.left()) == [0, 0] + [1] * 7
    assert house.catalogue.vm("new") is not None


def test_uses_and_ids_hold_when_many_enrol_at_once(house: House) -> None:
    """Concurrent enrolments never overspend, and two machines never get one new id."""
    enrolments_at_once(house)


@contextmanager
def postgres_house(config: pytest.Config, data_dir: Path) -> Iterator[House]:
    with postgres_database(config) as url:
        engine = open_fleet(url, data_dir)
        try:
            migrate(engine)
            yield House(engine)
        finally:
            engine.dispose()


@pytest.mark.real
def test_uses_and_ids_hold_on_postgresql(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """The same where many connections write at one moment."""
    with postgres_house(pytestconfig, tmp_path) as house:
        enrolments_at_once(house)


@pytest.mark.real
def test_waiting_and_binding_work_on_postgresql(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """Requests, decisions, the inventory and revocations, as on SQLite."""
    with postgres_house(pytestconfig, tmp_path) as house:
        house.inventory.put("kvm", [InventoryVm(vm="b", macs=(MAC,), pool="web")], NOW_S)
        token = house.mint(bound=Bound(Kind.NETWORK, "10.0.0.0/8"))
        assert house.enroll(token, peer="192.0.2.1") == "join-token-bound"
        assert [house.enroll(token), house.enroll(token)] == ["enrolment-waits"] * 2
        house.catalogue.decide("a", State.APPROVED, by="eve", now_s=NOW_S)
        assert [house.enroll(token), house.enroll(token, "b")] == [1, 1]
        assert (house.left(), house.states()) == ([3], [])
        assert house.catalogue.revoke_join_token(house.catalogue.join_tokens()[0].id, now_s=NOW_S)
        assert house.enroll(token, "b") == "join-token-revoked"


@pytest.mark.real
def test_join_tokens_of_an_older_postgresql_stay_usable(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """A database of the first schema is brought up with its rows."""
    from dataclasses import replace
    from hashlib import sha256

    from aggregator.fleet_db import FLEET

    with postgres_database(pytestconfig) as url:
        engine = open_fleet(url, tmp_path)
        migrate(engine, replace(FLEET, head="0001"))
        digest = sha256(b"join-old").hexdigest()
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO join_token (secret_sha256, created_s, expires_s, uses_left)"
                f" VALUES ('{digest}', 1, 1e10, 2)"
            )
        migrate(engine)
        house = House(engine)
        assert house.enroll("join-old") == 1
        assert [(token.id, token.uses, token.uses_left) for token in house.catalogue.join_tokens()] == [
            (digest[:8], 2, 1)
        ]
        engine.dispose()
