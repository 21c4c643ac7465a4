"""The report asks the aggregator: with its token, within bounds, and with a plain reason where there is no answer."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.admin_client import (
    ADMIN_PORT,
    MAX_ANSWER_BYTES,
    AdminAnswer,
    AdminClient,
    AdminUnavailable,
    parse_admin_url,
)
from aggregator.node_proof import hash_body
from tests.aggregator.admin_door import TOKEN, Door, open_door, token_file
from tests.aggregator.certificates import Authority


@pytest.fixture
def door() -> Iterator[Door]:
    with open_door() as opened:
        yield opened


@pytest.fixture
def client(door: Door, tmp_path: Path) -> AdminClient:
    return AdminClient(door.url, token_file(tmp_path))


def reason_of(client: AdminClient) -> str:
    """Why there is no JSON of 200 from it."""
    with pytest.raises(AdminUnavailable) as caught:
        client.get_json("/x")
    assert TOKEN not in caught.value.reason
    return caught.value.reason


@pytest.mark.real
def test_it_shows_its_token(client: AdminClient, door: Door) -> None:
    """Each question carries the text of the file as it is then."""
    door.say(200, {"a": 1})
    assert client.get_json("/v1/x?y=1") == {"a": 1}
    assert door.asked == [("/v1/x?y=1", f"Bearer {TOKEN}")]


@pytest.mark.real
def test_a_new_token_is_read(client: AdminClient, door: Door, tmp_path: Path) -> None:
    """An aggregator that began anew has another token: the next question has it."""
    door.say(200, 0)
    client.get("/")
    token_file(tmp_path, "another-token-of-it")
    client.get("/")
    assert [token for _, token in door.asked] == [f"Bearer {TOKEN}", "Bearer another-token-of-it"]


@pytest.mark.real
def test_proxies_of_the_environment_are_not_asked(
    client: AdminClient, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token goes to the admin door and nowhere else."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    door.say(200, 1)
    assert client.get_json("/") == 1


@pytest.mark.real
@pytest.mark.parametrize(
    ("status", "document", "words"),
    [
        (401, {"detail": "no"}, "refused the token of"),
        (503, {"detail": "the fleet database does not answer"}, "answered 503: the fleet database does not answer"),
        (500, [1], "answered 500"),
        (404, {"detail": "a: no such VM"}, "answered 404: a: no such VM"),
        (302, None, "answered 302: no reason given"),
    ],
)
def test_an_answer_that_is_none(client: AdminClient, door: Door, status: int, document: object, words: str) -> None:
    """Who answered, with what status, and what it said of it."""
    door.say(status, document)
    reason = reason_of(client)
    assert reason.startswith(f"the aggregator at {door.url} ")
    assert words in reason


@pytest.mark.real
@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[NaN]", b"[" * 100_000])
def test_what_is_not_json(client: AdminClient, door: Door, body: bytes) -> None:
    """Said so, whatever it is."""
    door.answers.append((200, body))
    assert "something that is not JSON" in reason_of(client)


@pytest.mark.real
def test_an_answer_that_breaks_off(client: AdminClient, door: Door) -> None:
    """A body shorter than announced is no answer."""
    door.answers.append((200, b"[1]"))
    door.length = 100
    assert "did not answer as HTTP does" in reason_of(client)


@pytest.mark.real
def test_an_answer_without_end(client: AdminClient, door: Door) -> None:
    """More than the bound is not read into memory."""
    door.answers.append((200, b" " * (MAX_ANSWER_BYTES + 1)))
    assert "more than 32 MiB" in reason_of(client)


@pytest.mark.real
def test_an_aggregator_that_hangs(door: Door, tmp_path: Path) -> None:
    """It is given up after the time-out."""
    door.held.clear()
    door.say(200, 1)
    assert "did not answer within 0.05 s" in reason_of(AdminClient(door.url, token_file(tmp_path), timeout_s=0.05))


@pytest.mark.real
def test_an_answer_that_takes_too_long_as_a_whole(door: Door, tmp_path: Path) -> None:
    """Each wait is short, the sum is not: the whole answer has one deadline."""
    door.say(200, ["x" * 200_000])
    times = iter(range(0, 1_000, 4))
    slow = AdminClient(door.url, token_file(tmp_path), timeout_s=10.0, clock=lambda: float(next(times)))
    assert "did not answer within 10 s" in reason_of(slow)


@pytest.mark.real
@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n["])
def test_an_answer_that_comes_byte_by_byte(tmp_path: Path, head: bytes) -> None:
    """The deadline ends a head or a body that never does, though each wait is short."""
    gone = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = AdminClient(
            f"http://127.0.0.1:{server.getsockname()[1]}", token_file(tmp_path), timeout_s=0.3, clock=lambda: 0.0
        )

        def answer() -> None:
            peer, _ = server.accept()
            with peer, suppress(OSError):
                peer.recv(1000)
                peer.sendall(head)
                # Far longer than the deadline, so that a client without one fails here and does not hang.
                for _ in range(100):
                    peer.sendall(b"x")
                    if gone.wait(0.05):
                        return

        thread = threading.Thread(target=answer)
        thread.start()
        reason = reason_of(client)
        gone.set()
        thread.join()
    assert "did not answer within 0.3 s" in reason


@pytest.mark.real
def test_an_aggregator_that_does_not_run(tmp_path: Path) -> None:
    """A port where nothing listens is told from one that does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    reason = reason_of(AdminClient(f"http://127.0.0.1:{port}", token_file(tmp_path)))
    assert reason == f"the aggregator at http://127.0.0.1:{port} does not run: nothing listens there"


@pytest.mark.real
def test_somebody_who_speaks_no_http(tmp_path: Path) -> None:
    """An answer that is no HTTP is said to be none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = AdminClient(f"http://127.0.0.1:{server.getsockname()[1]}", token_file(tmp_path), timeout_s=10.0)

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"220 mail.example.org ready\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert "did not answer as HTTP does" in reason_of(client)
        thread.join()


@pytest.mark.parametrize(("text", "words"), [("", "is empty"), ("\u00fc" * 20, "no token"), ("a b\nc", "no token")])
def test_a_token_that_is_none(tmp_path: Path, text: str, words: str) -> None:
    """Nothing is asked with it; the reason names the file."""
    reason = reason_of(AdminClient("http://127.0.0.1:9", token_file(tmp_path, text)))
    assert words in reason
    assert str(tmp_path / "admin.token") in reason


def test_a_token_that_is_absent_or_public(tmp_path: Path) -> None:
    """Both are reasons, not exceptions of their own kind."""
    client = AdminClient("http://127.0.0.1:9", tmp_path / "admin.token")
    assert "cannot be read" in reason_of(client)
    token_file(tmp_path).chmod(0o644)
    assert "readable by others" in reason_of(client)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://127.0.0.1:8901", "http://127.0.0.1:8901"),
        ("http://localhost", f"http://localhost:{ADMIN_PORT}"),
        ("https://[::1]/", f"https://[::1]:{ADMIN_PORT}"),
    ],
)
def test_where_the_door_is(text: str, shown: str) -> None:
    """Scheme, host and port; the port of the admin door by default."""
    assert str(parse_admin_url(text)) == shown


@pytest.mark.parametrize("text", ["", "127.0.0.1:8900", "ftp://x", "http://x/path", "http://u:p@x", "http://x:y", 5])
def test_where_no_door_is(text: object) -> None:
    """Anything else is a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011  some are refused by the standard library, in its words
        parse_admin_url(text)


@given(
    body=st.one_of(
        st.binary(max_size=60),
        st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda value: json.dumps(value).encode()),
    )
)
def test_a_problem_is_read_out_of_anything(body: bytes) -> None:
    """Two texts, whatever the body is."""
    assert all(isinstance(part, str) for part in AdminAnswer(status=500, body=body).problem)


# Between nodes.


@pytest.mark.real
def test_it_deletes_what_it_has_seen(client: AdminClient, door: Door) -> None:
    """The tag of an answer goes back with the deletion, in the quotes that it came in."""
    door.etag = '"0123abcd"'
    door.say(200, "store")
    seen = client.get("/v1/vms/a/part")
    assert seen.etag == "0123abcd"
    client.delete("/v1/vms/a/part", etag=seen.etag)
    assert door.deleted == [("/v1/vms/a/part", '"0123abcd"')]
    assert door.asked[-1] == ("/v1/vms/a/part", f"Bearer {TOKEN}")


@pytest.mark.real
def test_a_larger_answer_may_be_asked_for(door: Door, tmp_path: Path) -> None:
    """The bound of an answer is that of its client, and the reason names it."""
    door.answers = [(200, bytes(3 << 20))]
    asked = AdminClient(door.url, token_file(tmp_path), max_bytes=3 << 20).get("/")
    assert len(asked.body) == 3 << 20
    with pytest.raises(AdminUnavailable, match="more than 2 MiB"):
        AdminClient(door.url, token_file(tmp_path), max_bytes=2 << 20).get("/")


@pytest.mark.real
def test_authorities_of_its_own(tmp_path: Path) -> None:
    """A door whose certificate the file vouches for is asked; by the system's authorities it is not."""
    authority = Authority(tmp_path, "fleet")
    pair = authority.issue("door")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    with open_door(context) as door:
        door.say(200, 1)
        assert AdminClient(door.url, token_file(tmp_path), ca=authority.ca).get_json("/") == 1
        proving = AdminClient(door.url, token_file(tmp_path), ca=authority.ca, node="agg-1", kept=1)
        assert proving.get_json("/") == 1
        assert door.whom == [f"agg-1 {door.url}"]
        assert "cannot be reached" in reason_of(AdminClient(door.url, token_file(tmp_path)))
        assert "not a file of PEM certificates" in reason_of(
            AdminClient(door.url, token_file(tmp_path), ca=tmp_path / "absent.pem")
        )


# With proofs, at addresses that the fleet database gave.


@pytest.mark.real
def test_each_question_to_a_node_has_a_proof_of_its_own(door: Door, tmp_path: Path) -> None:
    """For that node at that address, with what is to be matched; no two are alike, and none has the token in it."""
    client = AdminClient(door.url, token_file(tmp_path), node="agg-1", unix_clock=lambda: 1_790_000_000.9)
    door.etag = '"0123abcd"'
    door.say(200, 1)
    assert client.get_json("/v1/x?y=1") == 1
    assert client.delete("/v1/x", etag="0123abcd").status == 200
    proofs = [shown for _, shown in door.asked]
    assert all(shown.startswith("Fallow-Proof v1.1790000000.") and TOKEN not in shown for shown in proofs)
    assert len(set(proofs)) == 2
    assert door.whom == [f"agg-1 {door.url}"] * 2
    assert door.deleted == [("/v1/x", '"0123abcd"')]


@pytest.mark.real
@pytest.mark.parametrize(
    ("status", "document", "words"),
    [
        (200, {"a": 1}, "answered 200 without proof that it is node agg-1"),
        (
            404,
            {"type": "urn:fallow:problem:no-part", "detail": "gone"},
            "404 without proof that it is node agg-1: gone",
        ),
        (302, None, "answered 302 without proof"),
        (503, {"detail": "too many connections"}, "answered 503 without proof that it is node agg-1: too many"),
        (401, {"type": "urn:fallow:problem:no-token"}, "does not know proofs: an older version?"),
        (401, {"type": "urn:fallow:problem:wrong-proof", "detail": "no"}, "which all nodes share: no"),
        (421, {"type": "urn:fallow:problem:other-node"}, "is not node agg-1"),
        (500, {"detail": "x" * 5000}, "x" * 300),
    ],
)
def test_an_answer_without_proof_is_none(door: Door, tmp_path: Path, status: int, document: object, words: str) -> None:
    """Whoever sits at the address says what it likes: nothing of it counts, and little of it is repeated."""
    door.proves = False
    door.say(status, document)
    reason = reason_of(AdminClient(door.url, token_file(tmp_path), node="agg-1"))
    assert words in reason
    assert len(reason) < 500


@pytest.mark.real
@pytest.mark.parametrize("change", [{"status": 404}, {"etag": '"1"'}, {"body_hash": hash_body(b"[2]")}])
def test_an_answer_that_was_changed_is_none(door: Door, tmp_path: Path, change: dict[str, object]) -> None:
    """The proof of an answer is of its status, tag and body: that of another answer does not do."""
    client = AdminClient(door.url, token_file(tmp_path), node="agg-1")
    door.etag = '"0"'
    door.answers = [(200, b"[1]")]
    assert client.get_json("/x") == [1]
    door.proved_instead = change
    assert "answered 200 without proof that it is node agg-1" in reason_of(client)


@pytest.mark.real
def test_what_a_node_proves_is_told_as_ever(door: Door, tmp_path: Path) -> None:
    """Its problems are its own; a 401 of it is that of a clock, say."""
    client = AdminClient(door.url, token_file(tmp_path), node="agg-1")
    door.answers = [(404, b'{"detail": "a: no such VM"}'), (401, b'{"detail": "clocks"}'), (503, b'{"detail": "ill"}')]
    assert "answered 404: a: no such VM" in reason_of(client)
    assert "refused the proof: clocks" in reason_of(client)
    assert reason_of(client).endswith("answered 503: ill")


@pytest.mark.real
def test_a_door_that_closes_each_connection_is_asked_anew(door: Door, tmp_path: Path) -> None:
    """To want connections kept costs nothing where they are not."""
    client = AdminClient(door.url, token_file(tmp_path), node="agg-1", kept=1)
    door.say(200, 1)
    for _ in range(3):
        assert client.get_json("/x") == 1
    assert len(door.asked) == len({shown for _, shown in door.asked}) == 3
    client.close()
