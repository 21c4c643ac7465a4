"""Who is let in, which tokens count afterwards, and what is known of a VM."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent.settings import ConfigError
from aggregator.catalogue import Catalogue, ImportResult, UnknownVmError, VmRecord
from aggregator.enrolment import Enrolment
from aggregator.fleet import join_token, vm, vm_evidence, vm_summary, vm_window
from aggregator.fleet_db import migrate, open_fleet, reading
from aggregator.join_tokens import JOIN_TOKEN_KEPT_S, Labels
from aggregator.lives import first_of
from aggregator.problems import Refused
from aggregator.store_files import delete_store

NOW_S = 1_790_000_000.0
DAY_S = 86_400.0
SUMMARY = {"oldest_s": 1, "newest_s": 2, "received_s": 3.5, "skew_s": 0.5, "interval_s": 60, "conflicts": 4}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    found = open_fleet(None, tmp_path)
    migrate(found)
    yield found
    found.dispose()


@pytest.fixture
def catalogue(engine: sa.Engine) -> Catalogue:
    return Catalogue(engine)


def mint(catalogue: Catalogue, *, uses: int = 1, labels: Labels | None = None) -> str:
    return catalogue.mint_join_token(now_s=NOW_S, ttl_s=DAY_S, uses=uses, labels=labels or Labels())


def enroll(catalogue: Catalogue, vm_id: str = "a", *, token: str | None = None, now_s: float = NOW_S) -> int:
    return catalogue.enroll(Enrolment(join_token=token or mint(catalogue), vm=vm_id), now_s=now_s)


def record(catalogue: Catalogue, vm_id: str) -> VmRecord:
    found = catalogue.vm(vm_id)
    assert found is not None
    return found


def refused(catalogue: Catalogue, vm_id: str, newest: int) -> list[str | None]:
    """Why each generation from 1 to `newest` is refused."""
    revocations = catalogue.revocations()
    return [revocations.refuses(vm_id, generation) for generation in range(1, newest + 1)]


def summarise(engine: sa.Engine, vm_id: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(vm_summary).values(vm_id=vm_id, updated_s=9.0, **SUMMARY))


# Join tokens.


def test_a_join_token_is_kept_as_its_hash_alone(engine: sa.Engine, catalogue: Catalogue, tmp_path: Path) -> None:
    """Nobody who reads the database can enrol with what is in it."""
    token = mint(catalogue)
    assert enroll(catalogue, token=token) == 1
    engine.dispose()
    for path in tmp_path.iterdir():
        assert token.encode() not in path.read_bytes()


def test_join_tokens_differ(catalogue: Catalogue) -> None:
    """Each is new, and none begins like an option of a shell."""
    tokens = {mint(catalogue) for _ in range(20)}
    assert len(tokens) == 20
    assert all(token.startswith("join-") and len(token) > 30 for token in tokens)


def test_a_join_token_is_good_for_its_uses(catalogue: Catalogue) -> None:
    """One enrolment more than its uses is 401 and says why."""
    token = mint(catalogue, uses=2)
    assert [enroll(catalogue, vm_id, token=token) for vm_id in ("a", "b")] == [1, 1]
    with pytest.raises(Refused, match="used up") as caught:
        enroll(catalogue, "c", token=token)
    assert (caught.value.problem.status, caught.value.problem.reason) == (401, "join-token-used-up")
    assert catalogue.vm("c") is None


def test_a_join_token_expires(catalogue: Catalogue) -> None:
    """From the end of its life on it is 401, and still known as expired."""
    token = mint(catalogue)
    with pytest.raises(Refused, match="expired") as caught:
        enroll(catalogue, token=token, now_s=NOW_S + DAY_S)
    assert caught.value.problem.status == 401
    assert enroll(catalogue, token=token, now_s=NOW_S + DAY_S - 1) == 1


def test_an_unknown_join_token_is_refused(catalogue: Catalogue) -> None:
    """A guess is 401 and leaves no VM behind."""
    with pytest.raises(Refused, match="not known") as caught:
        enroll(catalogue, token="join-guess")
    assert caught.value.problem.status == 401
    assert catalogue.vms() == []


def test_old_join_tokens_go(engine: sa.Engine, catalogue: Catalogue) -> None:
    """A new token clears away those that expired long ago, and no other."""
    mint(catalogue)
    catalogue.mint_join_token(now_s=NOW_S + DAY_S + JOIN_TOKEN_KEPT_S, ttl_s=1.0, uses=1, labels=Labels())
    with reading(engine) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(join_token)) == 2
    catalogue.mint_join_token(now_s=NOW_S + DAY_S + JOIN_TOKEN_KEPT_S + 1, ttl_s=1.0, uses=1, labels=Labels())
    with reading(engine) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(join_token)) == 2


@pytest.mark.parametrize(("ttl_s", "uses"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_a_join_token_that_is_good_for_nothing_is_not_made(catalogue: Catalogue, ttl_s: float, uses: int) -> None:
    """No life or no use is the caller's mistake."""
    with pytest.raises(ValueError, match="at least one use"):
        catalogue.mint_join_token(now_s=NOW_S, ttl_s=ttl_s, uses=uses, labels=Labels())


def test_uses_hold_when_many_enrol_at_once(catalogue: Catalogue) -> None:
    """Eight threads and three uses: three are let in."""
    token = mint(catalogue, uses=3)
    outcomes: list[int] = []

    def run(number: int) -> None:
        try:
            outcomes.append(enroll(catalogue, f"vm-{number}", token=token))
        except Refused as error:
            outcomes.append(-error.problem.status)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [-401] * 5 + [1] * 3
    assert len(catalogue.vms()) == 3


# Enrolment and generations.


def test_an_enrolment_is_recorded(catalogue: Catalogue) -> None:
    """What the agent said and what the join token labels it with are both there."""
    labels = Labels(name="Shop", owner="web", mail="w@x.org", tags=("b", "a"))
    request = Enrolment(
        join_token=mint(catalogue, labels=labels),
        vm="a",
        hostname="host'; DROP TABLE vm; --",
        ips=("10.0.0.1",),
        macs=("52:54:00:00:00:01",),
        machine={"system": "Linux", "vcpus": 4},
        boot="b7",
    )
    assert catalogue.enroll(request, now_s=NOW_S) == 1
    found = record(catalogue, "a")
    assert (found.name, found.owner, found.mail, found.tags) == ("Shop", "web", "w@x.org", ("b", "a"))
    for evidence in ("hostname", "ips", "macs", "machine", "boot"):
        assert getattr(found, evidence) == getattr(request, evidence)
    assert (found.enrolled_s, found.generation) == (int(NOW_S), 1)


def test_labels_of_a_join_token_leave_what_they_do_not_name(catalogue: Catalogue) -> None:
    """A token with an owner alone keeps the name and tags from a CSV, and replaces the owner."""
    catalogue.import_csv("vm,name,owner,tags\na,Shop,old,x;y\n")
    enroll(catalogue, token=mint(catalogue, labels=Labels(owner="new")))
    found = record(catalogue, "a")
    assert (found.name, found.owner, found.tags) == ("Shop", "new", ("x", "y"))


def test_a_first_enrolment_refuses_nothing(catalogue: Catalogue) -> None:
    """A fleet that enrolled once has no revocations to read every 30 s."""
    assert enroll(catalogue) == 1
    assert len(catalogue.revocations()) == 0


def test_enrolling_again_replaces_the_identity(catalogue: Catalogue) -> None:
    """The new token is of the next generation and every earlier one is refused."""
    assert [enroll(catalogue) for _ in range(3)] == [1, 2, 3]
    assert refused(catalogue, "a", 3) == ["re-enrolled", "re-enrolled", None]


def test_two_generations_live_in_a_rotation(catalogue: Catalogue) -> None:
    """The token that asked stays valid until the next rotation; older ones are refused."""
    enroll(catalogue)
    assert catalogue.rotate("a", 1, now_s=NOW_S) == 2
    assert refused(catalogue, "a", 2) == [None, None]
    assert catalogue.rotate("a", 2, now_s=NOW_S) == 3
    assert refused(catalogue, "a", 3) == ["rotated", None, None]


def test_a_rotation_whose_answer_was_lost_can_be_asked_again(catalogue: Catalogue) -> None:
    """The same old token gets the same new generation, so its holder is never shut out."""
    enroll(catalogue)
    assert [catalogue.rotate("a", 1, now_s=NOW_S) for _ in range(3)] == [2, 2, 2]
    assert refused(catalogue, "a", 2) == [None, None]


def test_a_refused_generation_cannot_rotate(catalogue: Catalogue) -> None:
    """A token that was replaced, revoked or never made gets no new one, however late the door hears of it."""
    assert [enroll(catalogue), enroll(catalogue)] == [1, 2]
    for generation in (0, 1):
        with pytest.raises(Refused) as caught:
            catalogue.rotate("a", generation, now_s=NOW_S)
        assert caught.value.problem.status == 401
    catalogue.revoke("a", "revoked", now_s=NOW_S)
    with pytest.raises(Refused):
        catalogue.rotate("a", 2, now_s=NOW_S)


def test_a_vm_that_is_not_enrolled_cannot_rotate(catalogue: Catalogue) -> None:
    """Unknown, or known from a CSV alone: 401 that says to enrol."""
    catalogue.import_csv("vm\nb\n")
    for vm_id in ("a", "b"):
        with pytest.raises(Refused, match="is not enrolled"):
            catalogue.rotate(vm_id, 1, now_s=NOW_S)


def test_a_restored_database_catches_up_with_its_tokens(catalogue: Catalogue) -> None:
    """A token newer than the database knows still rotates, to one above it."""
    enroll(catalogue)
    assert catalogue.rotate("a", 5, now_s=NOW_S) == 6
    assert refused(catalogue, "a", 6) == ["rotated"] * 4 + [None, None]


def test_a_revoked_vm_must_enrol_again(catalogue: Catalogue) -> None:
    """All its tokens are refused with the reason; the next enrolment gets one that counts."""
    enroll(catalogue)
    catalogue.revoke("a", "identity-conflict", now_s=NOW_S)
    assert refused(catalogue, "a", 1) == ["identity-conflict"]
    assert enroll(catalogue) == 2
    assert refused(catalogue, "a", 2) == ["identity-conflict", None]


def test_revoking_what_nobody_knows_is_told(catalogue: Catalogue) -> None:
    """A mistyped id is not silently accepted."""
    with pytest.raises(UnknownVmError, match="b: no such VM"):
        catalogue.revoke("b", "revoked", now_s=NOW_S)


def test_a_forgotten_vm_leaves_only_its_refusal(engine: sa.Engine, catalogue: Catalogue) -> None:
    """Its rows are gone from every table, its token is refused, others stay, and it may enrol again."""
    for vm_id in ("a", "b"):
        enroll(catalogue, vm_id)
        summarise(engine, vm_id)
        with engine.begin() as connection:
            connection.execute(
                sa.insert(vm_window).values(window_days=1, vm_id=vm_id, start_s=0, end_s=1, covered_s=1, users_s=0)
            )
            connection.execute(sa.insert(vm_evidence).values(vm_id=vm_id, hour_s=0, body=b""))
    catalogue.forget("a", now_s=NOW_S)
    with reading(engine) as connection:
        for table in (vm, vm_summary, vm_window, vm_evidence):
            assert connection.scalars(sa.select(table.c.vm_id)).all() == ["b"]
    assert refused(catalogue, "a", 1) == ["forgotten"]
    assert refused(catalogue, "b", 1) == [None]
    assert enroll(catalogue) == first_of(1)
    assert refused(catalogue, "a", first_of(1))[-2:] == ["forgotten", None]


def test_a_vm_with_a_summary_alone_can_be_forgotten(engine: sa.Engine, catalogue: Catalogue) -> None:
    """Rows that outlived the VM's own row do not stay for ever."""
    summarise(engine, "a")
    catalogue.forget("a", now_s=NOW_S)
    assert catalogue.vms() == []
    assert refused(catalogue, "a", 1) == ["forgotten"]


def test_forgetting_what_nobody_knows_is_told(catalogue: Catalogue) -> None:
    """Nothing held: UnknownVmError, and no refusal is written."""
    with pytest.raises(UnknownVmError):
        catalogue.forget("a", now_s=NOW_S)
    assert len(catalogue.revocations()) == 0


def test_a_store_goes_with_what_sqlite_keeps_beside_it(tmp_path: Path) -> None:
    """No journal is left that a later store of the same name would roll back into itself."""
    for name in ("a.db", "a.db-journal", "a.db-wal", "a.db-shm", "ab.db"):
        (tmp_path / name).touch()
    assert delete_store(tmp_path / "a.db")
    assert [path.name for path in tmp_path.iterdir()] == ["ab.db"]
    assert not delete_store(tmp_path / "a.db")


def test_vms_come_by_id_and_by_page(engine: sa.Engine, catalogue: Catalogue) -> None:
    """Enrolled, imported and merely summarised VMs are all listed once, a page at a time."""
    enroll(catalogue, "c")
    catalogue.import_csv("vm\na\nd\n")
    for vm_id in ("b", "c"):
        summarise(engine, vm_id)
    assert [found.vm for found in catalogue.vms()] == ["a", "b", "c", "d"]
    assert [found.vm for found in catalogue.vms(limit=2)] == ["a", "b"]
    assert [found.vm for found in catalogue.vms(after="b", limit=2)] == ["c", "d"]
    assert catalogue.vms(after="d") == []


def test_a_record_joins_the_summary(engine: sa.Engine, catalogue: Catalogue) -> None:
    """Figures of the summary are there once flushed, None before; a VM without its row still shows."""
    enroll(catalogue)
    assert (record(catalogue, "a").newest_s, record(catalogue, "a").flags) == (None, ())
    for vm_id in ("a", "b"):
        summarise(engine, vm_id)
    for vm_id in ("a", "b"):
        found = record(catalogue, vm_id)
        assert {name: getattr(found, name) for name in SUMMARY} == SUMMARY
    assert (record(catalogue, "b").generation, record(catalogue, "b").enrolled_s) == (0, None)
    assert catalogue.vm("c") is None


def test_a_csv_adds_and_updates(catalogue: Catalogue) -> None:
    """New VMs are added, known ones updated; an absent column stays, an empty cell clears."""
    assert catalogue.import_csv("vm,name,owner,power_state\na,A,x,on\nb,B,y,off\n") == ImportResult(added=2, updated=0)
    assert catalogue.import_csv("vm,owner,tags\nb,,t\nc,z,\n") == ImportResult(added=1, updated=1)
    found = record(catalogue, "b")
    assert (found.name, found.owner, found.tags, found.power_state) == ("B", None, ("t",), "off")
    assert record(catalogue, "a").owner == "x"


def test_a_csv_leaves_enrolment_alone(catalogue: Catalogue) -> None:
    """Labels from a CSV change neither the generation nor the evidence."""
    enroll(catalogue)
    before = record(catalogue, "a")
    catalogue.import_csv("vm,name\na,A\n")
    after = record(catalogue, "a")
    assert (after.generation, after.enrolled_s, after.name) == (before.generation, before.enrolled_s, "A")


def test_a_csv_with_a_mistake_changes_nothing(catalogue: Catalogue) -> None:
    """One bad line, and the good ones are not taken either."""
    with pytest.raises(ConfigError, match=r"fleet\.csv: line 3: vm: 'B' is not a VM id"):
        catalogue.import_csv("vm\na\nB\n", source="fleet.csv")
    assert catalogue.vms() == []


def test_a_csv_may_be_empty_but_for_its_header(catalogue: Catalogue) -> None:
    """No lines: nothing done. Ids alone: VMs made known, twice over without harm."""
    assert catalogue.import_csv("vm,name\n") == ImportResult(added=0, updated=0)
    assert catalogue.import_csv("vm\na\n") == ImportResult(added=1, updated=0)
    assert catalogue.import_csv("vm\na\n") == ImportResult(added=0, updated=1)


# The database away.


def test_a_database_that_does_not_answer_is_503(tmp_path: Path, engine: sa.Engine) -> None:
    """Enrolment, rotation and reading refuse with 503 and a time to come back; the text of the error stays here."""
    catalogue = Catalogue(engine)
    token = mint(catalogue)
    engine.dispose()
    (tmp_path / "fleet.db").rename(tmp_path / "away.db")
    for path in tmp_path.glob("fleet.db-*"):
        path.unlink()
    (tmp_path / "fleet.db").mkdir()
    for call in (
        lambda: enroll(catalogue, token=token),
        lambda: catalogue.rotate("a", 1, now_s=NOW_S),
        catalogue.revocations,
        catalogue.vms,
    ):
        with pytest.raises(Refused) as caught:
            call()
        problem = caught.value.problem
        assert (problem.status, problem.reason) == (503, "database-unavailable")
        assert problem.retry_after_s is not None
        assert str(tmp_path) not in problem.detail


def test_an_enrolment_that_fails_costs_no_use(tmp_path: Path, engine: sa.Engine) -> None:
    """Use count and VM change together or not at all."""
    catalogue = Catalogue(engine)
    token = mint(catalogue)
    with sqlite3.connect(tmp_path / "fleet.db") as connection:
        connection.execute("CREATE TRIGGER stop BEFORE INSERT ON vm BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(sa.exc.IntegrityError):
        enroll(catalogue, token=token)
    with connection:
        connection.execute("DROP TRIGGER stop")
    connection.close()
    assert enroll(catalogue, token=token) == 1
