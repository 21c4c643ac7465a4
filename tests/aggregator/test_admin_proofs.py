"""The admin door and who asks it with a proof: what that gives, and what every answer to it proves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from aggregator.admin import make_admin_site
from aggregator.admin_client import AdminClient, AdminUnavailable
from aggregator.admin_routes import ROUTES, AdminSources
from aggregator.catalogue import Catalogue, Labels
from aggregator.enrolment import Enrolment
from aggregator.fleet_db import migrate, open_fleet
from aggregator.node_proof import Proof, Question, Said, answer_fits, make_proof, proof_key
from aggregator.part_file import StorePart
from aggregator.problems import Problem, Refused
from aggregator.proof_check import ProofCheck
from tests.aggregator.admin_door import token_file
from tests.aggregator.admin_fakes import NOW_S, TOKEN, Answer, House, Me

KEY = proof_key(TOKEN)
ME = Me()
NODE, URL = ME.name, str(ME.admin_url)
TAG = "0" * 32
PART = f"/v1/vms/a/part?node={NODE}"
# Large enough that the reactor's thread does not hash it.
BODY = bytes(1 << 20)


class Parts:
    """A giver with one store."""

    def __init__(self) -> None:
        self.dropped: list[str] = []

    async def read(self, vm_id: str, node: str) -> StorePart:
        if vm_id != "a":
            raise Refused(Problem(404, "no-part", f"{node} has no store of {vm_id}"))
        return StorePart(BODY, TAG)

    async def drop(self, vm_id: str, _node: str, _mark: str) -> None:
        self.dropped.append(vm_id)


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def house(tmp_path: Path, parts: Parts) -> Iterator[House]:
    engine = open_fleet(None, tmp_path)
    migrate(engine)
    catalogue = Catalogue(engine)
    token = catalogue.mint_join_token(now_s=NOW_S, ttl_s=60.0, uses=1, labels=Labels())
    catalogue.enroll(Enrolment(join_token=token, vm="a"), now_s=NOW_S)
    yield House(tmp_path, catalogue, parts=parts)
    engine.dispose()


_count = iter(range(1, 1 << 40))


def proof_of(question: Question, *, at_s: float = NOW_S, key: bytes = KEY) -> Proof:
    return make_proof(key, question, now_s=at_s, nonce=f"{next(_count):032x}")


def shown(proof: Proof, whom: str = f"{NODE} {URL}") -> tuple[str, str]:
    return f"Authorization: Fallow-Proof {proof.text}", f"Fallow-Node: {whom}"


def ask(house: House, method: str, target: str, *headers: str, body: bytes = b"", if_match: str = "") -> Answer:
    """Asks with a proof; its answer must prove itself."""
    proof = proof_of(Question(NODE, URL, method, target, if_match, body))
    sent = [f"If-Match: {if_match}"] if if_match else []
    answer = house.ask(method, target, *shown(proof), *sent, *headers, body=body)
    assert is_proved(answer, proof)
    return answer


def is_proved(answer: Answer, proof: Proof) -> bool:
    said = Said(answer.status, answer.headers.get("etag", ""), hashlib.sha256(answer.body).digest())
    return answer_fits(KEY, proof, said, answer.headers.get("fallow-proof", ""))


def test_a_node_reads_what_nodes_need(house: House) -> None:
    """A part, a chart, the newest minutes and the counters; each answer proves itself, refusals and absences too."""
    part = ask(house, "GET", PART)
    assert (part.status, part.headers["etag"], part.body) == (200, f'"{TAG}"', BODY)
    assert ask(house, "GET", "/v1/vms/a/series?points=10").status == 200
    assert ask(house, "GET", "/v1/live?since=1").json["vms"]
    assert ask(house, "GET", "/metrics").status == 200
    gone = ask(house, "GET", f"/v1/vms/b/part?node={NODE}")
    assert (gone.status, gone.json["type"]) == (404, "urn:fallow:problem:no-part")
    assert ask(house, "GET", "/nowhere").status == 404
    assert ask(house, "POST", "/metrics").status == 405


def test_a_node_deletes_what_its_proof_names(house: House, parts: Parts) -> None:
    """The mark of the part is in the proof: another If-Match than the proof's deletes nothing."""
    assert ask(house, "DELETE", PART, if_match=f'"{TAG}"').status == 204
    assert parts.dropped == ["a"]
    proof = proof_of(Question(NODE, URL, "DELETE", PART, f'"{"1" * 32}"'))
    assert house.ask("DELETE", PART, *shown(proof), f'If-Match: "{TAG}"').status == 401
    assert ask(house, "DELETE", PART).status == 428
    assert parts.dropped == ["a"]


def test_a_proof_gives_no_more_than_nodes_need(house: House, parts: Parts) -> None:
    """The other routes are for the token alone: a proof forgets, flushes, drains and lists nothing."""
    needed = {"metrics", "series", "part", "drop_part", "live"}
    assert {route.name for route in ROUTES if route.for_nodes} == needed
    for route in ROUTES:
        if route.name not in needed and not route.is_open:
            answer = ask(house, route.method, route.path.replace("{vm}", "a"))
            assert (answer.status, answer.json["type"]) == (403, "urn:fallow:problem:not-by-proof"), route
    assert (house.forgotten, house.fetched, parts.dropped) == ([], [], [])


@pytest.mark.parametrize(
    ("asked", "whom", "status"),
    [
        ({"method": "DELETE"}, None, 401),
        ({"target": "/v1/live?since=1"}, None, 401),
        ({"target": "/metrics?"}, None, 401),
        ({"body": b"x"}, None, 401),
        ({"if_match": f'"{TAG}"'}, None, 401),
        ({"node": "agg-2"}, None, 401),
        ({"node": "agg-2"}, f"agg-2 {URL}", 421),
        # Sent to somebody else, who passes it on.
        ({"url": "https://evil.example:443"}, f"{NODE} https://evil.example:443", 421),
        ({"url": "https://evil.example:443"}, None, 401),
    ],
)
def test_a_proof_of_something_else_is_refused(
    house: House, asked: dict[str, Any], whom: str | None, status: int
) -> None:
    """Nothing is answered by it, and the refusal proves nothing: whoever asks so is told by anybody."""
    proof = proof_of(Question(NODE, URL, "GET", "/metrics")._replace(**asked))
    answer = house.ask("GET", "/metrics", *shown(proof, whom or f"{NODE} {URL}"))
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert "fallow-proof" not in answer.headers


@given(data=st.binary(max_size=60))
def test_any_bytes_for_a_proof_are_refused(data: bytes) -> None:
    """401 or 421, and no error of the door's own."""
    text = "".join(chr(byte) for byte in data if byte >= 0x20 and byte != 0x7F)
    house = House(Path("/nowhere"), catalogue=None)  # type: ignore[arg-type]
    answer = house.ask("GET", "/metrics", f"Authorization: Fallow-Proof {text}", f"Fallow-Node: {NODE} {URL}")
    assert answer.status == 401


def test_a_proof_is_good_once_and_in_time(house: House) -> None:
    """Both refusals are said by the node itself; the one of clocks says how far they are apart."""
    question = Question(NODE, URL, "GET", "/metrics")
    proof = proof_of(question)
    assert house.ask("GET", "/metrics", *shown(proof)).status == 200
    again = house.ask("GET", "/metrics", *shown(proof))
    assert (again.status, again.json["type"], is_proved(again, proof)) == (401, "urn:fallow:problem:used-proof", True)
    old = proof_of(question, at_s=NOW_S - 75)
    late = house.ask("GET", "/metrics", *shown(old))
    assert (late.status, is_proved(late, old)) == (401, True)
    assert "differ by 75 s" in late.json["detail"]


def test_the_token_goes_on_to_open_everything(house: House) -> None:
    """People and other programs send it as ever; they are shown no proof."""
    answer = house.ask("GET", "/v1/vms")
    assert answer.status == 200
    assert "fallow-proof" not in answer.headers


# Both ends, over a socket.


class Site:
    """A door that listens, and clients of it."""

    def __init__(self, folder: Path) -> None:
        self.me = Me()
        self.now_s = float(NOW_S)
        self.token_file = token_file(folder)
        self.loop: Any = reactor
        self.made = 0

    def listen(self, sources: AdminSources, *, knows_proofs: bool = True) -> Any:
        check = ProofCheck(TOKEN, me=self.me, clock=lambda: NOW_S) if knows_proofs else None
        site = make_admin_site(sources, token=TOKEN, reactor=self.loop, proofs=check)
        build = site.buildProtocol

        def counted(addr: Any) -> Any:
            self.made += 1
            return build(addr)

        site.buildProtocol = counted  # type: ignore[method-assign]
        port = self.loop.listenTCP(0, site, interface="127.0.0.1")
        self.me.admin_url = f"http://127.0.0.1:{port.getHost().port}"
        return port

    def client(self, node: str | None = NODE, *, kept: int = 0) -> AdminClient:
        url = str(self.me.admin_url)
        return AdminClient(url, self.token_file, node=node, kept=kept, unix_clock=lambda: self.now_s, timeout_s=120.0)


def why(client: AdminClient, target: str = PART) -> str:
    with pytest.raises(AdminUnavailable) as caught:
        client.get(target)
    assert TOKEN not in caught.value.reason
    return caught.value.reason


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_client_and_door_understand_each_other(house: House, parts: Parts, tmp_path: Path) -> None:
    """A part is read and deleted; who is no such node, has another token or another clock is told so."""
    made = Site(tmp_path)
    port = made.listen(house.sources)
    try:
        found = await deferToThread(made.client().get, PART)
        assert (found.status, found.etag, found.body) == (200, TAG, BODY)
        deleted = await deferToThread(made.client().delete, PART, etag=found.etag)
        assert (deleted.status, parts.dropped) == (204, ["a"])
        assert (await deferToThread(made.client().get, f"/v1/vms/b/part?node={NODE}")).problem[0] == "no-part"
        assert "is not node agg-2" in await deferToThread(why, made.client("agg-2"))
        made.now_s += 100
        assert "refused the proof: the clocks of node agg-1 and of the machine that asks it differ by 100 s" in (
            await deferToThread(why, made.client())
        )
        made.now_s -= 100
        token_file(tmp_path, "another-token-of-it")
        reason = await deferToThread(why, made.client())
        assert f"refused the proof made with {made.token_file}, which all nodes share" in reason
    finally:
        await port.stopListening()


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_an_older_version_is_waited_for(house: House, tmp_path: Path) -> None:
    """A node that knows no proofs refuses them, and is not shown the token instead."""
    made = Site(tmp_path)
    port = made.listen(house.sources, knows_proofs=False)
    try:
        assert "does not know proofs: an older version?" in await deferToThread(why, made.client())
        assert (await deferToThread(made.client(None).get, PART)).status == 200
    finally:
        await port.stopListening()


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_a_connection_is_kept_for_the_next_question(house: House, tmp_path: Path) -> None:
    """As many as are asked at once, not one each; one that the door closed meanwhile is made anew, unnoticed."""
    made = Site(tmp_path)
    port = made.listen(house.sources)
    client = made.client(kept=2)
    try:
        for _ in range(5):
            assert (await deferToThread(client.get, PART)).status == 200
        assert made.made == 1
        for reader in made.loop.getReaders():
            if getattr(reader, "server", None) is port:
                reader.abortConnection()
        assert (await deferToThread(client.get, PART)).status == 200
        assert made.made == 2
    finally:
        client.close()
        await port.stopListening()
