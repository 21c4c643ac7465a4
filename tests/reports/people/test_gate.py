"""Who is let in, on SQLite and on PostgreSQL: log-ins, sessions, tokens, links, and what ends them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher

from aggregator.fleet_db import migrate, open_fleet
from aggregator.problems import Refused
from reports.people.accounts import PeopleRefused, UnknownPerson, update_password
from reports.people.administration import MAX_TOKENS
from reports.people.events import KEPT_S, Event, forget_events, write_event
from reports.people.gate import NO_ACCOUNT, REMEMBERED_S, Gate, Outsider, open_gate
from reports.people.identity import Identity, Via
from reports.people.life import Life
from reports.people.links import LINK_LIFE_S
from reports.people.passwords import HASHINGS_AT_ONCE, Hasher
from reports.people.roles import Role, Scope, lesser
from reports.people.sessions import MAX_SESSIONS, SESSION_COOKIE, digest
from reports.people.throttle import ACCOUNT, ADDRESS
from reports.schema import open_report_db
from reports.tables import people_event, people_link, people_session, people_token
from tests.postgres import postgres_database
from tests.reports.people.persons import PASSWORD, actor, bearer, enter, quick_hasher

T0 = 1_800_000_000.0
HERE = "192.0.2.1"
WRONG = "wrong, and long enough"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """A database with the report's tables."""
    if request.param == "sqlite":
        yield from _engine(None, tmp_path)
    else:
        with postgres_database(request.config) as url:
            yield from _engine(url, tmp_path)


def _engine(url: str | None, data_dir: Path) -> Iterator[sa.Engine]:
    fleet = open_fleet(url, data_dir)
    migrate(fleet)
    fleet.dispose()
    made = open_report_db(url, data_dir)
    yield made
    made.dispose()


@pytest.fixture
def gate(engine: sa.Engine) -> Gate:
    """With an admin, ann, and a viewer, bob."""
    made = open_gate(engine, hasher=quick_hasher())
    made.people.add("ann", Role.ADMIN, PASSWORD, actor(T0))
    made.people.add("bob", Role.VIEWER, PASSWORD, actor(T0))
    return made


def cookie(gate: Gate, account: str = "ann", now_s: float = T0, **known: str) -> str:
    """Logs in, and gives the header of the browser."""
    session = gate.log_in(account, PASSWORD, HERE, now_s, old_cookie=known.get("old"))
    return f"other=1; {SESSION_COOKIE}={session.token}"


def whats(gate: Gate) -> list[tuple[str, str]]:
    return [(event.who, event.what) for event in gate.people.events(limit=100)]


def test_session_is_of_its_account(gate: Gate) -> None:
    """Whoever has logged in is known by the cookie, whatever the case of the name; nobody else is."""
    found = gate.identify(cookie(gate, " Ann "), None, T0)
    assert found is not None
    assert (found.account, found.role, found.via) == ("ann", Role.ADMIN, Via.SESSION)
    assert found.csrf_secret
    assert found.csrf_secret not in repr(found)
    for header in (None, "", f"{SESSION_COOKIE}=", f"{SESSION_COOKIE}={'A' * 43}", "x" * 1000):
        assert gate.identify(header, None, T0) is None


def test_database_holds_no_secret(gate: Gate, engine: sa.Engine) -> None:
    """What opens something stands nowhere: sessions, tokens and links are kept as hashes, passwords as argon2."""
    session = gate.log_in("ann", PASSWORD, HERE, T0)
    text = bearer(gate, Role.ADMIN, Scope.READ, T0)
    link = gate.people.make_password_link("bob", actor(T0))
    assert session.token not in repr(session)
    with engine.connect() as connection:
        tables = ("people_account", "people_session", "people_token", "people_link", "people_event")
        kept = repr([list(connection.execute(sa.text(f"SELECT * FROM {table}"))) for table in tables])
        assert connection.scalar(sa.select(people_session.c.token_sha256)) == digest(session.token)
    assert "$argon2id$" in kept
    for secret in (PASSWORD, session.token, text.rpartition("_")[2], link):
        assert secret not in kept


def test_session_ends_idle_or_old(gate: Gate) -> None:
    """Twelve hours without a request, or seven days in all."""
    header, step_s = cookie(gate), 11 * 3600.0
    now_s = T0
    while now_s + step_s - T0 < Life().most_s:
        now_s += step_s
        assert gate.identify(header, None, now_s) is not None
    assert gate.identify(header, None, T0 + Life().most_s + 1) is None
    idle = cookie(gate)
    assert gate.identify(idle, None, T0 + Life().idle_s + 1) is None


def test_each_log_in_has_an_id_of_its_own(gate: Gate) -> None:
    """The id that a browser had before, its own or one that somebody planted, is not the one it gets, and ends."""
    first = cookie(gate)
    second = cookie(gate, old=first)
    assert first != second
    assert gate.identify(first, None, T0) is None
    planted = f"{SESSION_COOKIE}={'B' * 43}"
    assert cookie(gate, old=planted) != planted
    assert gate.identify(planted, None, T0) is None


def test_log_out_ends_the_session(gate: Gate) -> None:
    """At once, here; and that of no other browser."""
    mine, other = cookie(gate), cookie(gate)
    assert gate.identify(mine, None, T0) is not None
    gate.log_out(mine, HERE, T0)
    gate.log_out(mine, HERE, T0)
    gate.log_out(None, HERE, T0)
    assert gate.identify(mine, None, T0) is None
    assert gate.identify(other, None, T0) is not None
    assert whats(gate)[0] == ("ann", "logged out")


@pytest.mark.parametrize("what", ["password", "role", "disabled", "everywhere"])
def test_changes_end_sessions(gate: Gate, what: str) -> None:
    """A new password, another role, an account that is disabled, or the wish to: nobody goes on as before."""
    header, other = cookie(gate, "bob"), cookie(gate)
    people, by = gate.people, actor(T0)
    {
        "password": lambda: people.set_password("bob", WRONG, by),
        "role": lambda: people.set_role("bob", Role.OPERATOR, by),
        "disabled": lambda: people.disable("bob", by),
        "everywhere": lambda: people.end_sessions("bob", by),
    }[what]()
    gate.changed()
    assert gate.identify(header, None, T0) is None
    assert gate.identify(other, None, T0) is not None


def test_what_another_process_takes_away_is_gone_in_seconds(gate: Gate, engine: sa.Engine) -> None:
    """What is remembered is forgotten soon: a session and a token that the command line ends."""
    header = cookie(gate, "bob")
    text = bearer(gate, Role.OPERATOR, Scope.WRITE, T0)
    assert gate.identify(header, None, T0) is not None
    assert gate.identify(None, text, T0) is not None
    elsewhere = open_gate(engine, hasher=quick_hasher())
    elsewhere.people.disable("bob", actor(T0))
    elsewhere.people.disable("operator-ann", actor(T0))
    assert gate.identify(header, None, T0 + REMEMBERED_S) is None
    assert gate.identify(None, text, T0 + REMEMBERED_S) is None


def test_sessions_of_one_account_are_bounded(gate: Gate) -> None:
    """The oldest end, so that no script fills the table."""
    headers = [cookie(gate, now_s=T0 + number) for number in range(MAX_SESSIONS + 5)]
    now_s = T0 + MAX_SESSIONS + 5
    known = [gate.identify(header, None, now_s) is not None for header in headers]
    assert known == [False] * 5 + [True] * MAX_SESSIONS


def test_wrong_passwords_are_refused_and_written_down(gate: Gate) -> None:
    """Wrong, empty, endless, of nobody, with odd characters: one answer for all, which tells nobody apart."""
    gate.people.add("ci", Role.OPERATOR, None, actor(T0))
    said: set[tuple[int, str]] = set()
    for account, password in (
        *(("ann", WRONG), ("ann", ""), ("ann", "x" * 1_000_000), ("ann", PASSWORD + "x" * 2_000), ("nobody", PASSWORD)),
        *(("ci", ""), ("ann\x00", PASSWORD), ("\ud800", "\ud800"), ("<b>", PASSWORD), ("ann' OR 1=1 --", PASSWORD)),
    ):
        with pytest.raises(Refused) as refused:
            gate.log_in(account, password, f"{HERE}{len(said)}", T0)
        said.add((refused.value.problem.status, refused.value.problem.detail))
    assert len(said) == 1
    assert whats(gate)[0][1] == "log-in failed"


def test_unknown_account_costs_the_same(gate: Gate) -> None:
    """A password is hashed for an account that does not exist too."""
    known: list[str | None] = []

    class Counting(Hasher):
        def verify(self, known_hash: str | None, password: str) -> bool:
            known.append(known_hash)
            return super().verify(known_hash, password)

    counting = open_gate(gate._engine, hasher=Counting(quick_hasher()._hasher))
    for account in ("ann", "nobody", "not a name!"):
        with pytest.raises(Refused):
            counting.log_in(account, WRONG, HERE, T0)
    assert [each is None for each in known] == [False, True, True]


def test_login_brute_force_429(gate: Gate) -> None:
    """After some wrong tries an account is locked for a time that doubles, whatever the password; then it opens."""
    refusals: list[int] = []
    now_s = T0
    for _ in range(60):
        with pytest.raises(Refused) as refused:
            gate.log_in("ann", WRONG, f"192.0.2.{len(refusals)}", now_s)
        refusals.append(refused.value.problem.status)
        now_s += 1
    assert refusals[: ACCOUNT.free] == [401] * ACCOUNT.free
    assert refusals.count(401) <= ACCOUNT.free + 6
    with pytest.raises(Refused) as locked:
        gate.log_in("ann", PASSWORD, "192.0.2.200", now_s)
    wait_s = locked.value.problem.retry_after_s
    assert locked.value.problem.status == 429
    assert wait_s is not None
    assert gate.log_in("ann", PASSWORD, "192.0.2.200", now_s + wait_s).account == "ann"
    assert ("ann", "log-in throttled") in whats(gate)
    assert gate.log_in("bob", PASSWORD, "192.0.2.201", T0).account == "bob"


def test_login_brute_force_429_over_many_accounts(gate: Gate) -> None:
    """One address that tries a password on many accounts is locked too; others are not."""
    statuses = []
    for number in range(ADDRESS.free + 20):
        with pytest.raises(Refused) as refused:
            gate.log_in(f"account-{number}", PASSWORD, HERE, T0)
        statuses.append(refused.value.problem.status)
    assert statuses == [401] * ADDRESS.free + [429] * 20
    assert gate.log_in("ann", PASSWORD, "192.0.2.9", T0).account == "ann"


def test_many_tries_at_once_win_nothing(gate: Gate) -> None:
    """Tries in parallel are counted before they are checked, and no more hash at a time than there is room for."""

    def attempt(number: int) -> int:
        try:
            gate.log_in("ann", WRONG, f"192.0.2.{number}", T0)
        except Refused as refused:
            return refused.problem.status
        return 200

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(attempt, range(64)))
    assert statuses.count(401) + statuses.count(503) == ACCOUNT.free
    assert statuses.count(429) == 64 - ACCOUNT.free


def test_hashings_at_once_are_bounded() -> None:
    """The third that comes while two run is told to come back: 503, at once."""
    inside, go_on = threading.Barrier(HASHINGS_AT_ONCE + 1), threading.Event()
    hasher = quick_hasher()

    class Slow:
        def hash(self, _password: str) -> str:
            return "nobody"

        def verify(self, *_: object) -> None:
            inside.wait()
            go_on.wait()

    hasher._hasher = Slow()  # type: ignore[assignment]
    with ThreadPoolExecutor(HASHINGS_AT_ONCE) as pool:
        running = [pool.submit(hasher.verify, "x", "y") for _ in range(HASHINGS_AT_ONCE)]
        inside.wait()
        with pytest.raises(Refused) as refused:
            hasher.verify("x", "y")
        go_on.set()
        assert [one.result() for one in running] == [True] * HASHINGS_AT_ONCE
    assert (refused.value.problem.status, refused.value.problem.retry_after_s) == (503, 1)


def test_token_goes_no_further_than_scope_and_role(gate: Gate) -> None:
    """Whichever is less counts, and that of today: a role that is taken away takes its tokens along."""
    for role in Role:
        for scope in Scope:
            if role.covers(scope.role):
                found = gate.identify(None, bearer(gate, role, scope, T0), T0)
                assert found == Identity(account=f"{role}-ann", role=scope.role, via=Via.API_TOKEN)
            else:
                with pytest.raises(PeopleRefused, match="no further"):
                    bearer(gate, role, scope, T0)
    assert lesser(Role.ADMIN, Role.VIEWER) is lesser(Role.VIEWER, Role.ADMIN) is Role.VIEWER
    text = bearer(gate, Role.OPERATOR, Scope.WRITE, T0)
    gate.people.set_role("operator-ann", Role.VIEWER, actor(T0))
    gate.changed()
    found = gate.identify(None, text, T0)
    assert found is not None
    assert found.role is Role.VIEWER


def test_token_ends(gate: Gate) -> None:
    """By its time, by its revocation, or with its account."""
    text = bearer(gate, Role.OPERATOR, Scope.READ, T0)
    assert gate.identify(None, text, T0 + 3599) is not None
    assert gate.identify(None, text, T0 + 3600 + REMEMBERED_S) is None
    (token,) = gate.people.tokens("operator-ann")
    assert token.used_s == T0 + 3599
    with pytest.raises(UnknownPerson):
        gate.people.revoke_token(token.id, actor(T0), account="ann")
    gate.people.revoke_token(token.id, actor(T0), account="operator-ann")
    gate.changed()
    assert gate.identify(None, text, T0) is None
    with pytest.raises(UnknownPerson):
        gate.people.revoke_token(token.id, actor(T0))


def test_wrong_tokens_open_nothing(gate: Gate) -> None:
    """A wrong secret, the secret of another id, another scheme; and a cookie beside a wrong token does not count."""
    one, other = bearer(gate, Role.ADMIN, Scope.ADMIN, T0), bearer(gate, Role.VIEWER, Scope.READ, T0)
    header = cookie(gate)
    crossed = f"{one[:22]}{other[22:]}"
    for wrong in (
        one[:-1],
        f"{one[:-1]}{'0' if one[-1] != '0' else '1'}",
        crossed,
        one[7:],
        f"Basic {one[7:]}",
        "",
        "Bearer ",
    ):
        assert gate.identify(header, wrong, T0) is None
    assert gate.identify(None, one, T0) is not None


def test_last_admin_stays(gate: Gate) -> None:
    """Neither disabled nor given less; with another one they may go, and the other stays."""
    people, by = gate.people, actor(T0)
    with pytest.raises(PeopleRefused, match="last admin"):
        people.disable("ann", by)
    with pytest.raises(PeopleRefused, match="last admin"):
        people.set_role("ann", Role.APPROVER, by)
    people.set_role("bob", Role.ADMIN, by)
    people.disable("bob", by)
    with pytest.raises(PeopleRefused, match="last admin"):
        people.disable("ann", by)
    people.enable("bob", by)
    people.disable("ann", by)
    with pytest.raises(PeopleRefused, match="last admin"):
        people.set_role("bob", Role.VIEWER, by)


def test_admin_who_cannot_log_in_is_no_other_one(gate: Gate) -> None:
    """One without a password counts once it has one, or comes by a provider; until then it keeps nobody in."""
    people, by = gate.people, actor(T0)
    people.add("cleo", Role.ADMIN, None, by)
    with pytest.raises(PeopleRefused, match="last admin who can log in"):
        people.disable("ann", by)
    with pytest.raises(PeopleRefused, match="last admin who can log in"):
        people.set_role("ann", Role.VIEWER, by)
    people.disable("cleo", by)
    people.enable("cleo", by)
    people.set_password("cleo", PASSWORD, by)
    people.disable("ann", by)
    gate.log_in_outsider(Outsider(subject="s dora", name="dora", role=Role.ADMIN), HERE, T0)
    people.disable("cleo", by)
    with pytest.raises(PeopleRefused, match="last admin"):
        people.disable("dora", by)


def test_last_admin_stays_before_anybody_has_a_password(engine: sa.Engine) -> None:
    """Where none can log in yet, all of them count: one may have its link already."""
    people, by = open_gate(engine, hasher=quick_hasher()).people, actor(T0)
    for name in ("ann", "bob"):
        people.add(name, Role.ADMIN, None, by)
    people.disable("ann", by)
    with pytest.raises(PeopleRefused, match="last admin"):
        people.disable("bob", by)


def test_two_admins_do_not_disable_each_other_at_once(gate: Gate) -> None:
    """Of two changes at one time one is refused: somebody can always get in."""
    people = gate.people
    people.set_role("bob", Role.ADMIN, actor(T0))
    both = threading.Barrier(2)

    def disable(name: str) -> bool:
        both.wait()
        try:
            people.disable(name, actor(T0))
        except PeopleRefused:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(disable, ("ann", "bob")))
    assert sorted(done) == [False, True]


def test_name_is_given_once_to_two_at_once(gate: Gate) -> None:
    """Of two who add one account at the same time one is told that it is there."""
    both = threading.Barrier(2)

    def add(role: Role) -> bool:
        both.wait()
        try:
            gate.people.add("cleo", role, None, actor(T0))
        except PeopleRefused:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(add, (Role.VIEWER, Role.ADMIN))) == [False, True]


def test_first_link_makes_one_admin(engine: sa.Engine) -> None:
    """Once, within a day, and only while there is no account at all; a newer link ends the older one."""
    gate = open_gate(engine, hasher=quick_hasher())
    old = gate.people.make_first_link(actor(T0))
    secret = gate.people.make_first_link(actor(T0))
    assert old is not None
    assert secret is not None

    def use(text: str, now_s: float = T0, password: str = PASSWORD) -> str:
        return gate.people.use_link(text, "Ann", password, now_s=now_s, address=HERE)

    for wrong, now_s in ((old, T0), ("x" * 43, T0), ("", T0), ("\ud800", T0), (secret, T0 + LINK_LIFE_S)):
        with pytest.raises(UnknownPerson):
            use(wrong, now_s)
    with pytest.raises(PeopleRefused, match="characters"):
        use(secret, password="short")
    assert use(secret) == "ann"
    with pytest.raises(UnknownPerson):
        use(secret)
    assert gate.people.make_first_link(actor(T0)) is None
    assert [one.role for one in gate.people.accounts()] == [Role.ADMIN]
    assert gate.log_in("ann", PASSWORD, HERE, T0).role is Role.ADMIN


def test_first_link_is_void_once_there_are_accounts(engine: sa.Engine) -> None:
    """One that was printed and never used is no way in after somebody made an account otherwise."""
    gate = open_gate(engine, hasher=quick_hasher())
    secret = gate.people.make_first_link(actor(T0))
    assert secret is not None
    gate.people.add("bob", Role.VIEWER, PASSWORD, actor(T0))
    with pytest.raises(UnknownPerson, match="accounts by now"):
        gate.people.use_link(secret, "eve", PASSWORD, now_s=T0, address=HERE)
    assert [one.name for one in gate.people.accounts()] == ["bob"]


def test_link_is_used_once_by_two_at_once(gate: Gate, engine: sa.Engine) -> None:
    """Of two who open one link at the same time one sets the password."""
    secret = gate.people.make_password_link("bob", actor(T0))
    both = threading.Barrier(2)

    def use(password: str) -> bool:
        both.wait()
        try:
            gate.people.use_link(secret, "", password, now_s=T0, address=HERE)
        except (PeopleRefused, Refused):
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(use, ("one that is long", "another that is")))
    assert sorted(done) == [False, True]
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(people_link)) == 1


def test_password_link_ends_sessions_and_is_not_for_disabled(gate: Gate) -> None:
    """A reset logs the account out everywhere; who is disabled gets no link, and an old one opens nothing."""
    header = cookie(gate, "bob")
    secret = gate.people.make_password_link("bob", actor(T0))
    gate.people.disable("bob", actor(T0))
    with pytest.raises(UnknownPerson, match="disabled"):
        gate.people.use_link(secret, "", WRONG, now_s=T0, address=HERE)
    with pytest.raises(PeopleRefused, match="disabled"):
        gate.people.make_password_link("bob", actor(T0))
    gate.people.enable("bob", actor(T0))
    gate.people.use_link(secret, "", WRONG, now_s=T0, address=HERE)
    assert gate.identify(header, None, T0) is None
    assert gate.log_in("bob", WRONG, HERE, T0).account == "bob"


def test_own_password_needs_the_old_one(gate: Gate) -> None:
    """A browser left open is not enough; the session that asks goes on, the others end, and tries are throttled."""
    mine, other = cookie(gate), cookie(gate)
    who = gate.identify(mine, None, T0)
    assert who is not None
    for _ in range(ACCOUNT.free):
        with pytest.raises(Refused) as refused:
            gate.change_password(who, WRONG, "new and long enough", cookie_header=mine, by=actor(T0))
        assert refused.value.problem.status == 401
    with pytest.raises(Refused) as locked:
        gate.change_password(who, PASSWORD, "new and long enough", cookie_header=mine, by=actor(T0))
    assert locked.value.problem.status == 429
    gate.change_password(who, PASSWORD, "new and long enough", cookie_header=mine, by=actor(T0 + 900))
    assert gate.identify(mine, None, T0) is not None
    assert gate.identify(other, None, T0) is None


def test_hash_of_older_parameters_is_renewed(gate: Gate, engine: sa.Engine) -> None:
    """At a log-in, when the password is at hand."""
    stronger = open_gate(engine, hasher=Hasher(PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)))
    stronger.log_in("ann", PASSWORD, HERE, T0)
    with engine.connect() as connection:
        kept = connection.scalar(sa.text("SELECT password_hash FROM people_account WHERE name = 'ann'"))
    assert "m=16,t=2" in str(kept)
    assert stronger.log_in("ann", PASSWORD, HERE, T0).account == "ann"


def test_every_change_is_written_down(gate: Gate) -> None:
    """Who did what to whom; a change that was refused did not happen and is not there."""
    people, by = gate.people, actor(T0)
    people.set_role("bob", Role.OPERATOR, by)
    with pytest.raises(PeopleRefused):
        people.add("bob", Role.ADMIN, None, by)
    people.disable("bob", by)
    told = [(event.who, event.what, event.detail) for event in people.events(limit=3)]
    assert told[:2] == [("the test", "disabled", "bob"), ("the test", "role changed", "bob to operator")]
    assert people.events(limit=9, who="bob") == []
    gate.note("\x1b[31mred\x00", "refused", "x" * 1000, HERE, T0)
    (odd,) = people.events(limit=1)
    assert (odd.who, len(odd.detail)) == ("\ufffd[31mred\ufffd", 300)


def test_labels_and_lives_of_tokens_are_checked(gate: Gate, engine: sa.Engine) -> None:
    """A label that can be read, and a time that ends."""
    for label, life_s in (
        ("", 60.0),
        ("x" * 101, 60.0),
        ("a\x00b", 60.0),
        ("x", 0.0),
        ("x", 1e12),
        ("x", float("nan")),
    ):
        with pytest.raises(PeopleRefused):
            gate.people.make_token("ann", label, Scope.READ, life_s, actor(T0))
    with engine.connect() as connection:
        assert connection.scalar(sa.select(people_token.c.id)) is None


def test_account_has_so_many_tokens_in_force(gate: Gate) -> None:
    """One more is refused with the figure; what is revoked or over, or another account's, does not count."""
    people = gate.people

    def make(now_s: float, life_s: float = 3600.0, account: str = "ann") -> str:
        return people.make_token(account, "x", Scope.READ, life_s, actor(now_s))[0].id

    made = [make(T0, 60.0), *(make(T0) for _ in range(MAX_TOKENS - 1))]
    with pytest.raises(PeopleRefused, match=f"ann: has {MAX_TOKENS} API tokens in force"):
        make(T0)
    assert len(people.tokens("ann")) == MAX_TOKENS
    make(T0, account="bob")
    people.revoke_token(made[-1], actor(T0))
    make(T0)
    with pytest.raises(PeopleRefused, match="in force"):
        make(T0 + 59.0)
    make(T0 + 60.0)
    with pytest.raises(PeopleRefused, match="in force"):
        make(T0 + 60.0)


def test_tokens_made_at_once_are_counted(gate: Gate) -> None:
    """Of two that are made at the same time where one has room, one is refused."""
    for _ in range(MAX_TOKENS - 1):
        gate.people.make_token("ann", "x", Scope.READ, 60.0, actor(T0))
    both = threading.Barrier(2)

    def make(label: str) -> bool:
        both.wait()
        try:
            gate.people.make_token("ann", label, Scope.READ, 60.0, actor(T0))
        except PeopleRefused:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(make, ("one", "other"))) == [False, True]


def test_use_is_no_reason_to_fail(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the database takes no writes for a while, people who are logged in go on reading."""
    header = cookie(gate)

    def locked(*_: object) -> None:
        raise sa.exc.OperationalError("UPDATE", {}, Exception("database is locked"))

    monkeypatch.setattr("reports.people.sessions.touch_session", locked)
    assert gate.identify(header, None, T0 + 3600) is not None


def test_entry_of_tests_is_as_that_of_people(gate: Gate) -> None:
    """What the tests of pages log in with is a session like any other."""
    entry = enter(gate, Role.OPERATOR, T0)
    found = gate.identify(entry.cookie, None, T0)
    assert found is not None
    assert (found.role, found.csrf_secret) == (Role.OPERATOR, entry.csrf)


class Meanwhile(Hasher):
    """Does something while it hashes or checks, as another browser may."""

    def __init__(self) -> None:
        super().__init__(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        self.then: Callable[[], object] = lambda: None

    def verify(self, known: str | None, password: str) -> bool:
        found = super().verify(known, password)
        self.then()
        return found


def test_old_password_opens_nothing_while_it_is_changed(gate: Gate, engine: sa.Engine) -> None:
    """A log-in that began with the old password does not end in a session, nor brings the old password back."""
    hasher = Meanwhile()
    other = open_gate(engine, hasher=hasher)
    hasher.then = lambda: gate.people.set_password("bob", WRONG, actor(T0))
    with pytest.raises(Refused) as refused:
        other.log_in("bob", PASSWORD, HERE, T0)
    assert refused.value.problem.status == 401
    assert gate.people.count_sessions("bob", T0) == 0
    hasher.then = lambda: None
    assert other.log_in("bob", WRONG, HERE, T0).account == "bob"


def test_hash_that_is_renewed_brings_no_old_password_back(gate: Gate, engine: sa.Engine) -> None:
    """Somebody who sets a password while an older hash is made anew keeps it."""
    known = "of another password by now"
    with engine.begin() as connection:
        assert not update_password(connection, "bob", "made anew", was=known)
    assert gate.log_in("bob", PASSWORD, HERE, T0).account == "bob"


def test_new_password_ends_links(gate: Gate) -> None:
    """A link that was never used, and lies in some mailbox, is no way in once the password was changed."""
    secret = gate.people.make_password_link("bob", actor(T0))
    gate.people.set_password("bob", WRONG, actor(T0))
    with pytest.raises(UnknownPerson):
        gate.people.use_link(secret, "", PASSWORD, now_s=T0, address=HERE)


def test_busy_hasher_is_no_wrong_password(engine: sa.Engine) -> None:
    """Who is told to come back, as too many passwords are checked, is not throttled for it."""
    hasher = Hasher(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    gate = open_gate(engine, hasher=hasher)
    gate.people.add("ann", Role.ADMIN, PASSWORD, actor(T0))
    for _ in range(HASHINGS_AT_ONCE):
        hasher._room.acquire()
    for _ in range(ADDRESS.free + 1):
        with pytest.raises(Refused) as refused:
            gate.log_in("ann", PASSWORD, HERE, T0)
        assert refused.value.problem.status == 503
    for _ in range(HASHINGS_AT_ONCE):
        hasher._room.release()
    assert gate.log_in("ann", PASSWORD, HERE, T0).account == "ann"


def test_password_typed_as_a_name_is_not_written_down(gate: Gate) -> None:
    """What is no account's name may be a secret in the wrong field."""
    for typed in (PASSWORD, "hunter2-hunter2", "bob"):
        with pytest.raises(Refused):
            gate.log_in(typed, WRONG, HERE, T0)
    assert [who for who, what in whats(gate) if what == "log-in failed"] == ["bob", NO_ACCOUNT, NO_ACCOUNT]


def test_flood_of_names_writes_one_line_a_minute(gate: Gate) -> None:
    """An address that has to wait fills no database with names that it makes up."""
    for number in range(200):
        with pytest.raises(Refused):
            gate.log_in(f"name-{number}", WRONG, HERE, T0)
    found = [what for _, what in whats(gate)]
    assert (found.count("log-in failed"), found.count("log-in throttled")) == (ADDRESS.free, 1)


def test_record_forgets_what_is_old(gate: Gate, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of more than KEPT_S ago go, but never the newest: a clock that is ahead does not empty the record."""
    gate.log_in("ann", PASSWORD, HERE, T0 + 10 * KEPT_S)
    assert len(gate.people.events(limit=100)) == 3
    monkeypatch.setattr("reports.people.events.KEPT_AT_LEAST", 2)
    with engine.begin() as connection:
        for age_s in (KEPT_S + 1, KEPT_S - 1, 0.0):
            write_event(connection, Event(at_s=T0 - age_s, who=str(age_s), what="x", detail="", address=""))
        connection.execute(sa.delete(people_event).where(people_event.c.what != "x"))
        forget_events(connection, T0)
    assert [event.at_s for event in gate.people.events(limit=100)] == [T0, T0 - KEPT_S + 1]


@pytest.mark.parametrize("name", ["a\0b", "\udcff", "a" * 65, ""])
def test_name_that_cannot_be_is_nobody(gate: Gate, name: str) -> None:
    """What a database would refuse is told as plainly as any other name that is not there."""
    with pytest.raises(UnknownPerson):
        gate.people.disable(name, actor(T0))
    assert gate.people.events(limit=10, who=name) == []


def test_same_letters_are_the_same_password(gate: Gate) -> None:
    """However a keyboard composes its letters."""
    gate.people.set_password("bob", "caf\u00e9 au lait, twice", actor(T0))
    assert gate.log_in("bob", "cafe\u0301 au lait, twice", HERE, T0).account == "bob"


def test_reset_wins_over_whoever_knows_the_old_password(gate: Gate, engine: sa.Engine) -> None:
    """An intruder who changes the password while an admin resets it does not get the account."""
    hasher = Meanwhile()
    other = open_gate(engine, hasher=hasher)
    who = other.identify(cookie(gate, "bob"), None, T0)
    assert who is not None
    hasher.then = lambda: gate.people.set_password("bob", WRONG, actor(T0))
    with pytest.raises(PeopleRefused, match="another password"):
        other.change_password(who, PASSWORD, "the intruder's own", cookie_header=None, by=actor(T0))
    assert gate.log_in("bob", WRONG, HERE, T0).account == "bob"
