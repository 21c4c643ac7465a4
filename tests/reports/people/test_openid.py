"""Logging in by an OpenID provider, over real HTTP: the right way in, and every wrong one refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from joserfc.jwk import RSAKey

from aggregator.problems import Refused
from reports.people.openid import ASKED_AT_ONCE, FLOW_LIFE_S, MAX_ANSWER_BYTES, OpenId
from reports.people.roles import Role
from reports.people.settings import OpenIdConfig
from reports.web.security import Surface
from tests.reports.fleets import one_of_each
from tests.reports.people.persons import actor
from tests.reports.people.provider import CLIENT_ID, CLIENT_SECRET, Provider, provider, signed_by_secret, unsigned
from tests.reports.web.house import House, pages
from tests.reports.web.wire import Browser, Got

pytestmark = pytest.mark.real
HERE = "https://fallow.example.org/login/return"


@pytest.fixture
def there() -> Iterator[Provider]:
    with provider() as made:
        yield made


@pytest.fixture
def config(there: Provider, tmp_path: Path) -> OpenIdConfig:
    secret = tmp_path / "client.secret"
    secret.touch(mode=0o600)
    secret.write_text(CLIENT_SECRET)
    return OpenIdConfig(
        issuer=there.issuer,
        client_id=CLIENT_ID,
        client_secret_file=secret,
        roles={"staff": Role.VIEWER, "cloud.admins": Role.ADMIN},
    )


class Clock:
    """The time of day, and what a test adds."""

    def __init__(self) -> None:
        self.more_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.more_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def openid(config: OpenIdConfig, clock: Clock) -> OpenId:
    return OpenId(config, clock=clock)


def come_back(openid: OpenId, there: Provider, **changes: str) -> dict[str, str]:
    """The parameters with which the provider sends somebody back."""
    back = there.authorize(openid.begin(HERE, "my browser", "/vms"))
    assert back.startswith(f"{HERE}?")
    return {**dict(parse_qsl(urlsplit(back).query)), **changes}


def test_somebody_logs_in(openid: OpenId, there: Provider) -> None:
    """Name, subject and the highest role of the groups come from the provider; the way goes on where it began."""
    there.claims["groups"] = ["staff", "cloud.admins", "others"]
    arrived = openid.finish(come_back(openid, there), "my browser")
    assert arrived.next_path == "/vms"
    assert (arrived.outsider.name, arrived.outsider.role) == ("cleo", Role.ADMIN)
    assert arrived.outsider.subject == f"{there.issuer} subject-1"


def test_answer_counts_once(openid: OpenId, there: Provider) -> None:
    """The same answer a second time is nobody's log-in."""
    answer = come_back(openid, there)
    openid.finish(answer, "my browser")
    _refused(openid, answer)


@pytest.mark.parametrize(
    ("changes", "browser"),
    [
        *(({"state": "x"}, "my browser"), ({"state": ""}, "my browser"), ({}, "another"), ({}, None)),
        *(({"code": "x"}, "my browser"), ({"iss": "https://evil.example"}, "my browser")),
    ],
)
def test_answer_of_another_flow_is_refused(
    openid: OpenId, there: Provider, changes: dict[str, str], browser: str | None
) -> None:
    """A wrong state, the state of another browser, a code nobody gave, another provider's answer."""
    _refused(openid, come_back(openid, there, **changes), browser)


def test_refusal_of_the_provider_is_told_plainly(openid: OpenId, there: Provider) -> None:
    """What the provider says of an error comes from outside and is not repeated."""
    answer = come_back(openid, there)
    del answer["code"]
    with pytest.raises(Refused, match="did not let you in"):
        openid.finish({**answer, "error": "access_denied", "error_description": "<b>evil</b>"}, "my browser")


def test_log_in_takes_at_most_ten_minutes(openid: OpenId, there: Provider, clock: Clock) -> None:
    """One that was begun long ago is begun again."""
    answer = come_back(openid, there)
    clock.more_s = FLOW_LIFE_S + 1
    _refused(openid, answer)


@pytest.mark.parametrize(
    "change",
    [
        lambda claims: {**claims, "nonce": "x"},
        lambda claims: {name: value for name, value in claims.items() if name != "nonce"},
        lambda claims: {**claims, "iss": "https://evil.example"},
        lambda claims: {**claims, "aud": "another"},
        lambda claims: {**claims, "aud": ["another", "third"]},
        lambda claims: {**claims, "azp": "another"},
        lambda claims: {**claims, "exp": claims["exp"] - 3600},
        lambda claims: {**claims, "iat": claims["iat"] + 3600},
        lambda claims: {**claims, "nbf": claims["iat"] + 3600},
        lambda claims: {name: value for name, value in claims.items() if name != "exp"},
        lambda claims: {name: value for name, value in claims.items() if name != "sub"},
        lambda claims: {**claims, "exp": "soon"},
    ],
    ids=[
        "nonce",
        "no nonce",
        "issuer",
        "audience",
        "audiences",
        "azp",
        "expired",
        "early",
        "nbf",
        "no exp",
        "no sub",
        "exp",
    ],
)
def test_wrong_claims_are_refused(
    openid: OpenId, there: Provider, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """A token for another log-in, of another issuer, for another client, or of another time lets nobody in."""
    there.change = change
    _refused(openid, come_back(openid, there))


@pytest.mark.parametrize("way", ["none", "shared secret", "another key", "cut", "no token"])
def test_wrong_signatures_are_refused(openid: OpenId, there: Provider, way: str) -> None:
    """`alg: none`, the public key as a secret, somebody else's key under the same id, or no token at all."""
    other = RSAKey.generate_key(2048, {"kid": "one"})
    own = there.key
    openid.finish(come_back(openid, there), "my browser")  # its keys are known now
    ways: dict[str, Callable[[dict[str, Any]], str]] = {
        "none": unsigned,
        "shared secret": signed_by_secret(there),
        "another key": lambda claims: Provider(key=other).signed(claims),
        "cut": lambda claims: there.signed(claims)[:-9],
        "no token": lambda _: "",
    }
    there.sign = ways[way]
    _refused(openid, come_back(openid, there))
    assert there.key is own


def test_new_keys_of_the_provider_are_fetched(openid: OpenId, there: Provider) -> None:
    """After a change of keys the next log-in works, without a restart."""
    openid.finish(come_back(openid, there), "my browser")
    there.key = RSAKey.generate_key(2048, {"kid": "two"})
    assert openid.finish(come_back(openid, there), "my browser").outsider.name == "cleo"


@pytest.mark.parametrize(
    "claims",
    [
        *(
            {"groups": []},
            {"groups": ["others"]},
            {"groups": None},
            {"groups": [["staff"]]},
            {"preferred_username": None},
        ),
        *({"preferred_username": "no name!"}, {"preferred_username": 5}),
    ],
)
def test_person_without_a_role_or_name_stays_out(openid: OpenId, there: Provider, claims: dict[str, Any]) -> None:
    """Whom the settings give no role is known to the provider, and is still nobody here: 403."""
    there.claims |= claims
    with pytest.raises(Refused) as refused:
        openid.finish(come_back(openid, there), "my browser")
    assert refused.value.problem.status == 403


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://192.0.2.1/token"},
        {"jwks_uri": "file:///etc/passwd"},
    ],
)
def test_provider_that_says_what_cannot_be_is_refused(
    openid: OpenId, there: Provider, metadata: dict[str, Any]
) -> None:
    """Another issuer's word, plain text to another machine, a file: 502, and nobody is sent there."""
    there.metadata = metadata
    with pytest.raises(Refused) as refused:
        openid.begin(HERE, "my browser", "/")
    assert refused.value.problem.status == 502


def test_provider_that_is_away_is_told(config: OpenIdConfig, there: Provider, clock: Clock) -> None:
    """Nothing answers: 502, and the way by password is named."""
    with provider() as gone:
        issuer = gone.issuer
    away = OpenId(OpenIdConfig(issuer=issuer, client_id="x"), clock=clock)
    with pytest.raises(Refused, match="log in by password") as refused:
        away.begin(HERE, "my browser", "/")
    assert refused.value.problem.status == 502
    openid = OpenId(config, clock=clock)
    answer = come_back(openid, there)
    there.token_status = 500
    with pytest.raises(Refused):
        openid.finish(answer, "my browser")


def test_slow_provider_holds_few_threads(openid: OpenId, there: Provider) -> None:
    """Those that make pages for everybody else are not spent on waiting for it."""
    for _ in range(ASKED_AT_ONCE):
        openid._room.acquire()
    with pytest.raises(Refused) as refused:
        openid.begin(HERE, "my browser", "/")
    assert refused.value.problem.status == 503
    for _ in range(ASKED_AT_ONCE):
        openid._room.release()
    assert openid.finish(come_back(openid, there), "my browser").outsider.name == "cleo"


def test_answers_of_the_provider_are_bounded(openid: OpenId, there: Provider) -> None:
    """One that never ends fills no memory."""
    there.metadata = {"more": "x" * MAX_ANSWER_BYTES}
    with pytest.raises(Refused) as refused:
        openid.begin(HERE, "my browser", "/")
    assert refused.value.problem.status == 502


def _refused(openid: OpenId, answer: dict[str, str], browser: str | None = "my browser") -> None:
    with pytest.raises(Refused) as refused:
        openid.finish(answer, browser)
    assert refused.value.problem.status == 401


# Through the pages.


@pytest.fixture
def house(openid: OpenId, clock: Clock, tmp_path: Path) -> Iterator[House]:
    with pages(tmp_path, one_of_each(), role=None, provider=openid, surface=Surface()) as made:
        made.now_s = clock()
        yield made


def walk(browser: Browser, there: Provider) -> Got:
    """A browser goes to the provider, and comes back."""
    assert "/login/provider?next=%2Fhosts" in browser.get("/login?next=/hosts").text
    sent = browser.get("/login/provider?next=%2Fhosts")
    assert sent.status == 303
    back = there.authorize(sent.headers["location"])
    return browser.get(back.removeprefix(f"http://{browser.host}"))


def test_account_is_made_and_follows_its_groups(house: House, there: Provider) -> None:
    """The first log-in makes the account, later ones bring its role up, and end what it could do before."""
    got = walk(house.browser, there)
    assert (got.status, got.headers["location"]) == (303, "/hosts")
    assert house.browser.get("/hosts").status == 200
    assert house.browser.get("/people").status == 403
    other = house.new_browser()
    there.claims["groups"] = ["cloud.admins"]
    walk(other, there)
    assert other.get("/people").status == 200
    assert house.browser.get("/hosts").status == 303
    (account,) = house.gate.people.accounts()
    assert (account.name, account.role, account.has_password) == ("cleo", Role.ADMIN, False)


def test_outsider_takes_no_account_of_others(house: House, there: Provider) -> None:
    """A local account of the same name stays its owner's, a disabled one stays out; both are written down."""
    people = house.gate.people
    people.add("cleo", Role.ADMIN, None, actor(house.now_s))
    got = walk(house.browser, there)
    assert (got.status, "another account" in got.text) == (403, True)
    there.claims["preferred_username"] = "dora"
    walk(house.browser, there)
    people.disable("dora", actor(house.now_s))
    house.gate.changed()
    assert house.browser.get("/hosts").status == 303
    assert walk(house.new_browser(), there).status == 403
    assert [event.who for event in people.events(limit=9) if event.what == "log-in failed"] == ["dora", "cleo"]


def test_log_in_begun_elsewhere_is_refused(house: House, there: Provider) -> None:
    """An attacker's own answer, put into somebody else's browser, logs nobody in."""
    attacker, victim = house.new_browser(), house.new_browser()
    attacker.get("/login")
    back = there.authorize(attacker.get("/login/provider").headers["location"])
    victim.get("/login")
    got = victim.get(back.removeprefix(f"http://{victim.host}"))
    assert got.status == 401
    assert victim.get("/hosts").status == 303
