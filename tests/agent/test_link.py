"""One connection, kept; verified TLS; a dead kept connection costs one more try, nothing else is repeated."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.link import Link, Trust, stays_here, tls_context, wire_bytes
from agent.push import Reply, UnreachableError
from agent.server import Server
from agent.settings import ConfigError
from bench.agent import make_certificate
from tests.aggregator.certificates import Authority

pytestmark = pytest.mark.real

OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class Peer:
    """A server on a free port: each accepted connection goes to the next of `plays`, the last one again and again."""

    def __init__(self, *plays: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> None:
        self._plays = list(plays)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self.connections = 0
        self.server = Server(context is not None, "127.0.0.1", self._listener.getsockname()[1])

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            play = self._plays[min(self.connections, len(self._plays) - 1)]
            self.connections += 1
            try:
                if self._context is not None:
                    sock = self._context.wrap_socket(sock, server_side=True)
                play(sock)
            except OSError:
                continue
            finally:
                sock.close()


def read_request(sock: socket.socket) -> bytes:
    """One request with a Content-Length; empty at the end."""
    content = b""
    while b"\r\n\r\n" not in content:
        more = sock.recv(65536)
        if not more:
            return b""
        content += more
    head, _, body = content.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += sock.recv(65536)
    return head + b"\r\n\r\n" + body


def serve(answer: bytes = OK, *, times: int = 1_000_000) -> Callable[[socket.socket], None]:
    """Answers so many requests of a connection, then closes it."""

    def play(sock: socket.socket) -> None:
        for _ in range(times):
            if not read_request(sock):
                return
            sock.sendall(answer)

    return play


def hang_up(sock: socket.socket) -> None:
    """Reads the request and closes without an answer."""
    read_request(sock)


def server_context(authority: Authority) -> ssl.SSLContext:
    """Of a server with a certificate of this authority."""
    pair = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    return context


@contextmanager
def link(server: Server, ca: Path | None = None, timeout_s: float = 10.0) -> Iterator[Link]:
    one = Link(server, trust=Trust(ca) if server.tls else None, timeout_s=timeout_s)
    try:
        yield one
    finally:
        one.close()


def post(one: Link) -> Reply:
    return one.post("/v1/samples", b"{}", {"Fallow-VM": "vm-1"})


def test_many_posts_share_a_connection() -> None:
    """Keep-alive: three requests, one connection."""
    with Peer(serve()) as peer, link(peer.server) as one:
        assert [post(one).status for _ in range(3)] == [204, 204, 204]
        assert peer.connections == 1


def test_an_answer_arrives_with_body_and_retry_after() -> None:
    """What the pusher decides by is handed over."""
    answer = b'HTTP/1.1 503 x\r\nRetry-After: 7\r\nContent-Length: 15\r\n\r\n{"detail": "x"}'
    with Peer(serve(answer)) as peer, link(peer.server) as one:
        assert post(one) == Reply(503, b'{"detail": "x"}', "7")


def test_a_dead_kept_connection_is_replaced_at_once() -> None:
    """The server closed it between two pushes: the push goes out again on a new one and succeeds."""
    with Peer(serve(times=1), serve()) as peer, link(peer.server) as one:
        assert [post(one).status for _ in range(2)] == [204, 204]
        assert peer.connections == 2


def test_only_one_more_try() -> None:
    """A server that hangs up each time is unreachable, not asked for ever."""
    with Peer(serve(times=1), hang_up) as peer, link(peer.server) as one:
        post(one)
        with pytest.raises(UnreachableError):
            post(one)
        assert peer.connections == 2


def test_a_fresh_connection_is_not_retried() -> None:
    """An enrolment that got no answer may have spent its join token: it is not sent twice."""
    with Peer(hang_up) as peer, link(peer.server) as one:
        with pytest.raises(UnreachableError):
            post(one)
        assert peer.connections == 1


@pytest.mark.parametrize("answer", [b"\x16\x03\x01 nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b""])
def test_what_is_not_http_is_unreachable(answer: bytes) -> None:
    """Nonsense on the port is no answer."""
    with Peer(serve(answer, times=1)) as peer, link(peer.server) as one, pytest.raises(UnreachableError):
        post(one)


def test_connection_close_is_respected() -> None:
    """Near its descriptor limit the aggregator asks to close: the next push opens anew."""
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
    with Peer(serve(answer, times=1)) as peer, link(peer.server) as one:
        assert [post(one), post(one)] == [Reply(200, b"{}"), Reply(200, b"{}")]
        assert peer.connections == 2


def test_an_endless_answer_is_cut() -> None:
    """A stranger that never stops talking costs 64 KiB, not all memory; the connection is given up."""
    answer = b"HTTP/1.1 400 x\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 200_000
    with Peer(serve(answer, times=1), serve()) as peer, link(peer.server) as one:
        assert len(post(one).body) == 65536
        assert post(one).status == 204


def test_nobody_listening_is_unreachable() -> None:
    """Connection refused names the server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with link(Server(False, "127.0.0.1", port)) as one, pytest.raises(UnreachableError, match=f":{port}: Conn"):
        post(one)


def test_silence_is_unreachable() -> None:
    """A server that accepts and says nothing (SIGSTOP) costs one time-out."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(False, "127.0.0.1", listener.getsockname()[1])
        with link(server, timeout_s=0.05) as one, pytest.raises(UnreachableError, match="no answer in time"):
            post(one)


def test_abort_ends_a_push_under_way() -> None:
    """At SIGTERM the thread that waits for an answer comes back, and later pushes fail at once."""
    asked = threading.Event()
    stopped = threading.Event()

    def stall(sock: socket.socket) -> None:
        read_request(sock)
        asked.set()
        stopped.wait(30)

    with Peer(stall) as peer, link(peer.server, timeout_s=60.0) as one:
        failures: list[UnreachableError] = []

        def push() -> None:
            try:
                post(one)
            except UnreachableError as error:
                failures.append(error)

        thread = threading.Thread(target=push)
        thread.start()
        assert asked.wait(30)
        one.abort()
        thread.join(30)
        stopped.set()
        assert len(failures) == 1
        with pytest.raises(UnreachableError, match="stopping"):
            post(one)


def test_tls_with_the_right_authority(tmp_path: Path) -> None:
    """The certificate of --ca is trusted, and at least TLS 1.2 is spoken."""
    ca, context = make_certificate(tmp_path)
    versions: list[str | None] = []

    def play(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        versions.append(sock.version())
        serve()(sock)

    with Peer(play, context=context) as peer, link(peer.server, ca) as one:
        assert [post(one).status, post(one).status] == [204, 204]
        assert peer.connections == 1
    assert versions in (["TLSv1.2"], ["TLSv1.3"])


def test_a_wrong_certificate_is_refused(tmp_path: Path) -> None:
    """Another authority, or none: nothing is sent, and the message says that it is the certificate."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _, context = make_certificate(tmp_path / "a")
    other_ca, _ = make_certificate(tmp_path / "b")
    with Peer(serve(), context=context) as peer:
        for ca in (other_ca, None):
            with link(peer.server, ca) as one, pytest.raises(UnreachableError, match="certificate refused"):
                post(one)


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    """The right authority is not enough: the name must be the one that was asked for."""
    ca, context = make_certificate(tmp_path)
    with Peer(serve(), context=context) as peer:
        server = Server(True, "localhost", peer.server.port)
        with link(server, ca) as one, pytest.raises(UnreachableError, match="certificate refused"):
            post(one)


def test_row_41_another_authority_counts_without_a_restart(tmp_path: Path) -> None:
    """The old one, both, the new one in the CA file: each connection is verified by what stands there when it opens."""
    old, new = Authority(tmp_path / "old", "old"), Authority(tmp_path / "new", "new")
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(old.ca.read_bytes())
    with Peer(serve(times=1), context=server_context(old)) as before, link(before.server, trusted) as one:
        assert post(one).status == 204
        trusted.write_bytes(old.ca.read_bytes() + new.ca.read_bytes())
        assert post(one).status == 204
    with Peer(serve(times=1), context=server_context(new)) as after:
        with link(after.server, old.ca) as one, pytest.raises(UnreachableError, match="certificate refused"):
            post(one)
        with link(after.server, trusted) as one:
            assert post(one).status == 204
            trusted.write_bytes(new.ca.read_bytes())
            assert post(one).status == 204
            trusted.write_bytes(old.ca.read_bytes())
            with pytest.raises(UnreachableError, match="certificate refused"):
                post(one)


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nhalf"])
def test_row_41_a_half_written_ca_file_leaves_what_there_was(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection opens as before and the log says so; the whole file counts from the next connection on."""
    ours, other = Authority(tmp_path / "ours", "ours"), Authority(tmp_path / "other", "other")
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(ours.ca.read_bytes())
    with Peer(serve(times=1), context=server_context(ours)) as peer, link(peer.server, trusted) as one:
        assert post(one).status == 204
        if content is None:
            trusted.unlink()
        else:
            trusted.write_bytes(content)
        assert post(one).status == 204
        assert "stay in use" in caplog.text
        trusted.write_bytes(other.ca.read_bytes())
        with pytest.raises(UnreachableError, match="certificate refused"):
            post(one)


def test_a_server_that_asks_for_a_certificate_is_shown_ours(tmp_path: Path) -> None:
    """With one of its authority: served, also once it was renewed; with none: unreachable."""
    authority = Authority(tmp_path / "ours", "ours")
    context = server_context(authority)
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    mine = authority.issue("agent")
    with Peer(serve(times=1), context=context) as peer:
        one = Link(peer.server, trust=Trust(authority.ca, cert=mine.cert, key=mine.key), timeout_s=10.0)
        assert post(one).status == 204
        authority.issue("renewed", into=mine)
        assert post(one).status == 204
        one.close()
        with link(peer.server, authority.ca) as bare, pytest.raises(UnreachableError, match="TLS"):
            post(bare)


def test_certificates_of_ours_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """Absent, of another key, or readable by others: a ConfigError with the path, before anything is sent."""
    authority = Authority(tmp_path / "ours", "ours")
    mine, other = authority.issue("mine"), authority.issue("other")
    for cert, key, named in (
        (tmp_path / "absent.pem", mine.key, "absent.pem"),
        (mine.cert, tmp_path / "absent.key", "absent.key"),
        (mine.cert, other.key, "other.key"),
    ):
        with pytest.raises(ConfigError, match=named):
            Trust(authority.ca, cert=cert, key=key)
    mine.key.chmod(0o644)
    with pytest.raises(ConfigError, match="readable by others"):
        Trust(authority.ca, cert=mine.cert, key=mine.key)


def test_plain_text_on_a_tls_port_is_unreachable(tmp_path: Path) -> None:
    """https:// to a plain server fails before any token is sent."""
    ca, _ = make_certificate(tmp_path)
    with Peer(serve(b"HTTP/1.1 400 x\r\n\r\n", times=0)) as peer:
        server = Server(True, "127.0.0.1", peer.server.port)
        with link(server, ca) as one, pytest.raises(UnreachableError):
            post(one)


def test_a_ca_file_that_is_none_is_a_configuration_error(tmp_path: Path) -> None:
    """The message names the file."""
    (tmp_path / "ca.pem").write_text("not a certificate")
    for path in (tmp_path / "ca.pem", tmp_path / "absent.pem"):
        with pytest.raises(ConfigError, match=path.name):
            tls_context(path)


def test_loopback_traffic_is_not_the_networks() -> None:
    """What never passes a physical interface must not be taken off one."""
    with Peer(serve()) as peer, link(peer.server) as one:
        post(one)
        assert one.traffic() == (0, 0)


def test_bytes_on_the_wire_are_counted_with_their_headers() -> None:
    """What the kernel counted: at least payload and a header, on both sides the same direction by direction."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        other, _ = listener.accept()
        with other:
            one.sendall(b"x" * 10_000)
            other.sendall(b"y" * 100)
            assert len(one.recv(100, socket.MSG_WAITALL)) == 100
            assert len(other.recv(10_000, socket.MSG_WAITALL)) == 10_000
            received_bytes, sent_bytes = wire_bytes(one)
            assert 100 + 66 <= received_bytes < 2000
            assert 10_000 + 2 * 66 <= sent_bytes < 12_000
            assert stays_here(one)
