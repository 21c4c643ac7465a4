"""Who takes reports in these tests: mail servers, receivers of webhooks, and some that misbehave; all on loopback."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from socket import create_server
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, succeed
from twisted.mail.imap4 import PLAINCredentials
from twisted.mail.smtp import ESMTP, IMessage, IMessageDelivery, SMTPFactory, SMTPServerError, User
from zope.interface import implementer  # type: ignore[import-untyped]

from aggregator.tls import server_context

USER, PASSWORD = "fallow", "pass-word of 1 mailbox"


@dataclass(frozen=True)
class Pair:
    """A certificate for 127.0.0.1 and localhost that is its own authority, with its key, in one file."""

    pem: Path

    def client(self) -> ssl.SSLContext:
        """Trusts this certificate alone."""
        return ssl.create_default_context(cafile=str(self.pem))

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem)
        return context


def make_pair(folder: Path, address: str = "127.0.0.1") -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fallow tests")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{address}.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    path.chmod(0o600)
    return Pair(path)


@implementer(IMessage)
class _Message:
    def __init__(self, server: MailServer) -> None:
        self._server = server
        self._lines: list[bytes] = []

    def lineReceived(self, line: bytes) -> None:
        self._lines.append(line)

    def eomReceived(self) -> Deferred[None]:
        # Twisted hands over one for each recipient.
        if self._server.is_first:
            self._server.is_first = False
            self._server.raw.append(b"\r\n".join(self._lines) + b"\r\n")
        return succeed(None)

    def connectionLost(self) -> None:
        self._lines.clear()


@implementer(IMessageDelivery, IRealm)
class MailServer:
    """Keeps what it is sent. `refuse`: recipient → code it is refused with."""

    def __init__(self, *, refuse: dict[str, int] | None = None) -> None:
        self.raw: list[bytes] = []
        self.recipients: list[str] = []
        self.senders: list[str] = []
        self.is_first = False
        self._refuse = refuse or {}

    @property
    def messages(self) -> list[EmailMessage]:
        return [message_from_bytes(raw, policy=default) for raw in self.raw]

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> bytes:
        return b"Received: by the tests"

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        self.senders.append(str(origin))
        self.is_first = True
        return origin

    def validateTo(self, user: User) -> Any:
        code = self._refuse.get(str(user.dest))
        if code is not None:
            refused: Any = SMTPServerError
            raise refused(code, "not this one")
        self.recipients.append(str(user.dest))
        return lambda: _Message(self)

    def requestAvatar(self, avatar_id: Any, mind: Any, *interfaces: Any) -> Any:
        return IMessageDelivery, self, lambda: None


@contextmanager
def mail_server(
    server: MailServer, *, pair: Pair | None = None, tls: bool = False, login: bool = False
) -> Iterator[int]:
    """Serves on the reactor, which has to run meanwhile; the port. With a pair: STARTTLS, or TLS at once."""
    reactor: Any = the_reactor
    options = None if pair is None else server_context(pair.pem, pair.pem)
    esmtp: Any = ESMTP

    def build(_address: Any) -> Any:
        protocol = esmtp({b"PLAIN": PLAINCredentials} if login else {}, None if tls else options)
        protocol.factory = factory
        if login:
            checker: Any = InMemoryUsernamePasswordDatabaseDontUse(**{USER: PASSWORD.encode()})
            realm: Any = server
            protocol.portal = Portal(realm, [checker])
        else:
            protocol.delivery = server
        return protocol

    make_factory: Any = SMTPFactory
    factory = make_factory()
    factory.buildProtocol = build
    if tls:
        port = reactor.listenSSL(0, factory, options, interface="127.0.0.1")
    else:
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    try:
        yield port.getHost().port
    finally:
        port.stopListening()


@dataclass(frozen=True)
class Request:
    """What a receiver was sent."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Answers each request with the next of `answers`, and with the last for ever."""

    answers: Sequence[int]
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def answer(self, request: Request) -> int:
        self.requests.append(request)
        return self.answers[min(len(self.requests), len(self.answers)) - 1]


@contextmanager
def receiver(taker: Receiver, pair: Pair | None = None) -> Iterator[int]:
    """Serves in a thread; the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = taker.answer(Request(self.path, dict(self.headers), body))
            self.send_response(status)
            for name, value in taker.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if pair is not None:
        server.socket = pair.server().wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # handshakes that fail are what is tested
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def silent_server() -> Iterator[int]:
    """Takes connections and never says a word; the port."""
    with create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@contextmanager
def dripping_server(first: bytes) -> Iterator[int]:
    """Says `first` and then one byte at a time, for ever, so that no single read is ever late; the port."""
    ended = threading.Event()

    def drip() -> None:
        connection, _ = listening.accept()
        with connection:
            try:
                connection.sendall(first)
                while not ended.wait(0.02):
                    connection.sendall(b"x")
            except OSError:
                return

    with create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            ended.set()
            thread.join()
