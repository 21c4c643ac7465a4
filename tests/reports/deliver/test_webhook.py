"""Webhooks: the signature, who may receive, and which answers are final."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.deliver.document import Form
from reports.deliver.targets import DeliveryError
from reports.deliver.webhook import deliver, parse_url, sign, verify
from tests.reports.deliver.servers import Pair, Receiver, dripping_server, make_pair, receiver, silent_server
from tests.reports.deliver.values import DUE_S, SECRET, document, secret_file, webhook_target

NOW_S = DUE_S + 0.5
STAMP = str(int(DUE_S))
ID = "hook/2026-11-21T07:00Z"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("tls"))


def signed(body: bytes, timestamp: str = STAMP, secret: str = SECRET) -> dict[str, str]:
    return {"Fallow-Timestamp": timestamp, "Fallow-Signature": sign(secret, timestamp, body)}


def test_the_signature_is_what_the_document_says() -> None:
    """HMAC-SHA256 over timestamp, full stop and body, in hex: computed by openssl for this case."""
    expected = "v1=49b4b0da25f7556761ff59d7f0465fd3e53792322e9852cab24d39607fbe6b61"
    assert sign("k" * 16, "1700000000", b'{"a": 1}') == expected


def test_a_signed_body_is_genuine_within_the_tolerance() -> None:
    """300 s either way unless told; header names in any case, as servers hand them over."""
    headers = signed(b"body")
    assert verify(SECRET, headers, b"body", DUE_S)
    assert verify(SECRET, headers, b"body", DUE_S + 300)
    assert verify(SECRET, headers, b"body", DUE_S - 300)
    assert not verify(SECRET, headers, b"body", DUE_S + 301)
    assert not verify(SECRET, headers, b"body", DUE_S - 301)
    assert verify(SECRET, headers, b"body", DUE_S + 301, tolerance_s=400)
    assert verify(SECRET, {name.lower(): value for name, value in headers.items()}, b"body", DUE_S)


@given(
    body=st.binary(min_size=1),
    place=st.integers(0, 10_000),
    change=st.integers(1, 255),
    part=st.sampled_from(["body", "timestamp", "signature", "secret"]),
)
def test_any_changed_byte_is_found(body: bytes, place: int, change: int, part: str) -> None:
    """Of body, timestamp, signature or secret: one byte is enough."""

    def changed(data: bytes) -> bytes:
        index = place % len(data)
        return data[:index] + bytes([data[index] ^ change]) + data[index + 1 :]

    headers, secret = signed(body), SECRET
    assert verify(secret, headers, body, DUE_S)
    if part == "body":
        body = changed(body)
    elif part == "secret":
        secret = changed(secret.encode()).decode("latin-1")
    else:
        name = f"Fallow-{part.capitalize()}"
        headers[name] = changed(headers[name].encode()).decode("latin-1")
    assert not verify(secret, headers, body, DUE_S)


@given(
    headers=st.dictionaries(st.sampled_from(["Fallow-Timestamp", "fallow-signature", "Other"]), st.text()),
    body=st.binary(),
)
def test_whatever_a_stranger_sends_is_refused(headers: dict[str, str], body: bytes) -> None:
    """Absent or odd headers are no error, only not genuine."""
    assert not verify(SECRET, headers, body, DUE_S)


@pytest.mark.parametrize("timestamp", ["", "now", "-1", "1e9", "\u0661" * 10, "9" * 5000, "nan", " 1795244400"])
def test_a_timestamp_that_is_no_number_is_refused_although_signed(timestamp: str) -> None:
    """Even from somebody who knows the secret."""
    assert not verify(SECRET, signed(b"x", timestamp), b"x", DUE_S, tolerance_s=1e18)


@pytest.mark.real
@pytest.mark.parametrize("form", list(Form))
def test_a_receiver_gets_a_signed_report(tmp_path: Path, form: Form) -> None:
    """Body, media type, id and signature arrive as they are described; the query is kept."""
    taker = Receiver([204])
    with receiver(taker) as port:
        target = webhook_target(tmp_path, f"http://127.0.0.1:{port}/hooks/fallow?team=a%20b", form)
        deliver(document(), target, delivery_id=ID, now_s=NOW_S)
    (request,) = taker.requests
    assert request.path == "/hooks/fallow?team=a%20b"
    assert request.body == document().body(form)
    assert request.headers["Content-Type"] == form.media_type
    assert request.headers["Fallow-Delivery"] == ID
    assert request.headers["Fallow-Timestamp"] == STAMP
    assert request.headers["Host"] == f"127.0.0.1:{port}"
    assert verify(SECRET, request.headers, request.body, NOW_S)
    assert SECRET not in str(request.headers)


@pytest.mark.real
def test_https_is_verified(tmp_path: Path, pair: Pair) -> None:
    """A receiver that somebody known vouches for gets the report; another gets not a byte of it."""
    taker = Receiver([200])
    with receiver(taker, pair) as port:
        target = webhook_target(tmp_path, f"https://127.0.0.1:{port}/")
        with pytest.raises(DeliveryError, match="certificate verify failed") as raised:
            deliver(document(), target, delivery_id=ID, now_s=NOW_S)
        assert raised.value.retry
        assert taker.requests == []
        deliver(document(), target, delivery_id=ID, now_s=NOW_S, tls=pair.client())
    assert len(taker.requests) == 1


@pytest.mark.real
@pytest.mark.parametrize(
    ("status", "retry"),
    [(400, False), (401, False), (404, False), (410, False), (408, True), (429, True), (500, True), (503, True)],
)
def test_answers_tell_whether_to_try_again(tmp_path: Path, status: int, retry: bool) -> None:
    """4xx is final but for 408 and 429; the problem names host and answer, and nothing of the path."""
    with receiver(Receiver([status])) as port:
        target = webhook_target(tmp_path, f"http://127.0.0.1:{port}/token-in-the-path")
        with pytest.raises(DeliveryError, match=f"answered {status}") as raised:
            deliver(document(), target, delivery_id=ID, now_s=NOW_S)
    assert raised.value.retry is retry
    assert "token" not in str(raised.value)


@pytest.mark.real
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(tmp_path: Path, status: int) -> None:
    """What a receiver says about other places makes nobody go there."""
    other = Receiver([200])
    with receiver(other) as elsewhere:
        taker = Receiver([status], headers={"Location": f"http://127.0.0.1:{elsewhere}/"})
        with (
            receiver(taker) as port,
            pytest.raises(DeliveryError, match="redirects are not followed") as raised,
        ):
            deliver(document(), webhook_target(tmp_path, f"http://127.0.0.1:{port}/"), delivery_id=ID, now_s=NOW_S)
    assert raised.value.retry
    assert other.requests == []


@pytest.mark.real
def test_no_proxy_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment would see the report and the signature."""
    proxy, taker = Receiver([200]), Receiver([200])
    with receiver(proxy) as proxy_port, receiver(taker) as port:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy_port}")
        deliver(document(), webhook_target(tmp_path, f"http://127.0.0.1:{port}/"), delivery_id=ID, now_s=NOW_S)
    assert (len(proxy.requests), len(taker.requests)) == (0, 1)


@pytest.mark.real
def test_a_receiver_that_hangs_or_drips_is_left(tmp_path: Path) -> None:
    """Silent or endlessly slow: the try ends by itself, and another may follow."""
    with silent_server() as port:
        target = webhook_target(tmp_path, f"http://127.0.0.1:{port}/")
        with pytest.raises(DeliveryError, match="no answer in time") as raised:
            deliver(document(), target, delivery_id=ID, now_s=NOW_S, step_timeout_s=0.1)
    assert raised.value.retry
    with dripping_server(b"HTTP/1.1 ") as port:
        target = webhook_target(tmp_path, f"http://127.0.0.1:{port}/")
        with pytest.raises(DeliveryError, match=r"took longer than 0\.3 s") as raised:
            deliver(document(), target, delivery_id=ID, now_s=NOW_S, whole_timeout_s=0.3)
    assert raised.value.retry


@pytest.mark.real
def test_what_is_no_http_is_a_problem_of_the_delivery(tmp_path: Path) -> None:
    """Garbage for an answer is tried again; what it says reaches no terminal as it is."""
    with dripping_server(b"\x1b[2Jnot http\r\n\r\n") as port:
        target = webhook_target(tmp_path, f"http://127.0.0.1:{port}/")
        with pytest.raises(DeliveryError) as raised:
            deliver(document(), target, delivery_id=ID, now_s=NOW_S)
    assert raised.value.retry
    assert str(raised.value).isprintable()


@pytest.mark.real
def test_a_name_does_not_hide_where_http_goes(tmp_path: Path) -> None:
    """The address that answers decides, not the name: `localhost` that leads here is fine."""
    taker = Receiver([200])
    with receiver(taker) as port:
        deliver(document(), webhook_target(tmp_path, f"http://localhost:{port}/"), delivery_id=ID, now_s=NOW_S)
    assert len(taker.requests) == 1


def test_the_secret_is_read_at_each_delivery(tmp_path: Path) -> None:
    """A file that has become too short is named, and a later try may find it mended."""
    target = webhook_target(tmp_path, "http://127.0.0.1:9/")
    secret_file(tmp_path, "short")
    with pytest.raises(DeliveryError, match="secret: is not at least 16 characters") as raised:
        deliver(document(), target, delivery_id=ID, now_s=NOW_S)
    assert raised.value.retry


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/fallow",
        "https://hooks.example.org:8443/x?y=z",
        "https://10.1.2.3/",
        "https://[2a00:1450::5]/",
        "http://127.0.0.1:8080/",
        "http://[::1]/",
        "http://localhost/",
    ],
)
def test_urls_that_may_receive(url: str) -> None:
    """https anywhere, http on this machine."""
    assert parse_url(url) == url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://hooks.example.org/", "only https leaves this machine"),
        ("http://10.1.2.3/", "only https leaves this machine"),
        ("file:///etc/passwd", "'file' is not a scheme"),
        ("ftp://example.org/", "'ftp' is not a scheme"),
        ("hooks.example.org/fallow", "'' is not a scheme"),
        ("https:///path", "a URL with a host"),
        ("https://", "a URL with a host"),
        ("https://example.org:0/", "a URL with a host"),
        ("https://example.org:x/", "cannot be read"),
        ("https://[::1/", "cannot be read"),
        ("https://me:pw-of-mine@example.org/", "holds a user or password"),
        ("https://me@example.org/", "holds a user or password"),
        ("https://@example.org/", "holds a user or password"),
        ("https://example.org/#part", "fragment"),
        ("https://169.254.169.254/latest/meta-data/", "link-local or metadata"),
        ("http://169.254.169.254/", "link-local or metadata"),
        ("https://[fe80::1]/", "link-local or metadata"),
        ("https://[::ffff:169.254.169.254]/", "link-local or metadata"),
        ("https://[fd00:ec2::254]/", "link-local or metadata"),
        ("https://0.0.0.0/", "not the address of a server"),
        ("https://example.org/a b", "printable ASCII"),
        ("https://example.org/\r\nX: y", "printable ASCII"),
        ("https://exämple.org/", "printable ASCII"),
        (7, "printable ASCII"),
    ],
)
def test_urls_that_may_not(url: object, problem: str) -> None:
    """Each with what is wrong, and without what may be a secret."""
    with pytest.raises(ValueError, match=problem) as raised:
        parse_url(url)
    assert "pw-of-mine" not in str(raised.value)
