"""Mails: what they hold, who is trusted with them, and what becomes of a server's refusals."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from email.message import EmailMessage
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread

from reports.deliver.dial import refuse_remote
from reports.deliver.document import Document, Form
from reports.deliver.mail import compose, deliver
from reports.deliver.targets import DeliveryError, MailTarget, Security
from tests.reports.deliver.servers import (
    PASSWORD,
    USER,
    MailServer,
    Pair,
    dripping_server,
    mail_server,
    make_pair,
    silent_server,
)
from tests.reports.deliver.values import document, mail_target, secret_file


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("tls"))


async def sent(target: MailTarget, tls: ssl.SSLContext | None = None, made: Document | None = None) -> None:
    """`deliver` in a thread, so that the server of the test can answer."""
    await deferToThread(partial(deliver, made or document(), target, tls=tls))


def body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    text: str = part.get_content()
    return text.replace("\r\n", "\n")


def files(message: EmailMessage) -> dict[str | None, bytes]:
    return {part.get_filename(): part.get_payload(decode=True) for part in message.iter_attachments()}  # type: ignore[misc]


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_a_mail_arrives_whole() -> None:
    """Headers, both forms of the text and every file asked for are those of the report."""
    server = MailServer()
    with mail_server(server) as port:
        await sent(mail_target(port, attach=tuple(Form)))
    (message,) = server.messages
    assert server.senders == ["fallow@example.org"]
    assert server.recipients == ["ops@example.org", "boss@example.org"]
    assert message["From"] == "fallow@example.org"
    assert message["To"] == "ops@example.org, boss@example.org"
    assert message["Subject"] == "fallow: 3 VMs lie fallow"
    assert message["Date"] == "Sat, 21 Nov 2026 07:00:00 -0000"
    assert message["Message-ID"].endswith("@example.org>")
    assert message["Auto-Submitted"] == "auto-generated"
    assert body(message, "plain") == document().text
    assert body(message, "html") == document().html
    assert files(message) == {document().file_name(form): document().body(form) for form in Form}


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_starttls_and_login(pair: Pair, tmp_path: Path) -> None:
    """The password of the file goes to the verified server, and the mail after it."""
    server = MailServer()
    with mail_server(server, pair=pair, login=True) as port:
        target = mail_target(port, security=Security.STARTTLS, user=USER, password_file=secret_file(tmp_path, PASSWORD))
        await sent(target, pair.client())
    assert len(server.messages) == 1


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_tls_from_the_first_byte(pair: Pair) -> None:
    """`tls` speaks to a server that knows no plain word."""
    server = MailServer()
    with mail_server(server, pair=pair, tls=True) as port:
        await sent(mail_target(port, security=Security.TLS), pair.client())
    assert len(server.messages) == 1


@pytest.mark.real
@pytest.mark.parametrize("security", [Security.STARTTLS, Security.TLS])
@pytest_twisted.ensureDeferred
async def test_a_server_that_cannot_be_verified_gets_nothing(pair: Pair, security: Security) -> None:
    """Nobody known vouches for its certificate: no mail, and a later try, since certificates are renewed."""
    server = MailServer()
    with (
        mail_server(server, pair=pair, tls=security is Security.TLS) as port,
        pytest.raises(DeliveryError, match="certificate verify failed") as raised,
    ):
        await sent(mail_target(port, security=security))
    assert raised.value.retry
    assert (server.senders, server.raw) == ([], [])


@pytest.mark.real
@pytest.mark.parametrize("security", [Security.STARTTLS, Security.TLS])
@pytest_twisted.ensureDeferred
async def test_a_certificate_of_another_host_is_refused(tmp_path: Path, security: Security) -> None:
    """Trusted, but not for the host that was asked for."""
    other, server = make_pair(tmp_path, "127.0.0.2"), MailServer()
    with (
        mail_server(server, pair=other, tls=security is Security.TLS) as port,
        pytest.raises(DeliveryError, match="certificate verify failed"),
    ):
        await sent(mail_target(port, security=security), other.client())
    assert server.senders == []


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_a_server_without_starttls_gets_nothing() -> None:
    """Somebody between may have hidden it: no mail goes in the open, whatever the server offers."""
    server = MailServer()
    with mail_server(server) as port, pytest.raises(DeliveryError, match="STARTTLS") as raised:
        await sent(mail_target(port, security=Security.STARTTLS))
    assert not raised.value.retry
    assert server.senders == []


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_a_wrong_password_is_final(pair: Pair, tmp_path: Path) -> None:
    """The server says so for good; neither the message nor the error holds the password."""
    server = MailServer()
    wrong = secret_file(tmp_path, "not the password")
    with (
        mail_server(server, pair=pair, login=True) as port,
        pytest.raises(DeliveryError, match="535") as raised,
    ):
        await sent(mail_target(port, security=Security.STARTTLS, user=USER, password_file=wrong), pair.client())
    assert not raised.value.retry
    assert "not the password" not in str(raised.value)
    assert server.raw == []


@pytest.mark.real
@pytest.mark.parametrize(("code", "retry"), [(450, True), (550, False)])
@pytest_twisted.ensureDeferred
async def test_refusals_are_final_when_the_server_says_so(code: int, retry: bool) -> None:
    """450 asks for a later try, 550 does not; nothing was sent."""
    server = MailServer(refuse={"ops@example.org": code, "boss@example.org": code})
    with mail_server(server) as port, pytest.raises(DeliveryError, match=f"ops@example.org .{code}") as raised:
        await sent(mail_target(port))
    assert raised.value.retry is retry
    assert server.raw == []


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_one_refused_recipient_does_not_double_the_mail_of_the_others() -> None:
    """Who did not get it is named, and nobody gets it again."""
    server = MailServer(refuse={"boss@example.org": 450})
    with mail_server(server) as port, pytest.raises(DeliveryError, match=r"not to boss@example\.org .450") as raised:
        await sent(mail_target(port))
    assert not raised.value.retry
    assert len(server.messages) == 1


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_what_a_vm_is_called_cannot_add_headers_or_end_the_mail() -> None:
    """Line ends in the subject are no line ends in the mail, and a lone dot does not end its text."""
    server = MailServer()
    made = document(
        subject="idle: vm\r\nBcc: thief@example.org\r\n\r\n<h1>hello</h1>",
        text="vm-1\r\n.\r\nMAIL FROM:<thief@example.org>\r\n",
    )
    with mail_server(server) as port:
        await sent(mail_target(port), made=made)
    (message,) = server.messages
    assert message["Bcc"] is None
    assert "\n" not in message["Subject"]
    assert "MAIL FROM" in body(message, "plain")
    assert server.senders == ["fallow@example.org"]
    assert "thief@example.org" not in server.recipients


@given(subject=st.text(), text=st.text(), recipient=st.sampled_from(["a@example.org", "ops.team+x@example.org"]))
def test_no_text_adds_a_header(subject: str, text: str, recipient: str) -> None:
    """Whatever the report holds, the mail has the headers it has, and each goes over the wire as one."""
    target = mail_target(recipients=(recipient,))
    names = set(compose(document(), target).keys())
    message = compose(document(subject=subject, text=text), target)
    assert set(message.keys()) == names
    head = message.as_bytes().partition(b"\r\n\r\n")[0]
    starts = {line.split(b":")[0].decode() for line in head.split(b"\r\n") if not line.startswith((b" ", b"\t"))}
    assert starts == names


@pytest.mark.real
@pytest.mark.parametrize("security", list(Security))
def test_a_server_that_hangs_is_left(pair: Pair, security: Security) -> None:
    """Nothing is heard: the try ends by itself, and another may follow."""
    with silent_server() as port, pytest.raises(DeliveryError, match=r"no answer in time|timed out") as raised:
        deliver(document(), mail_target(port, security=security), tls=pair.client(), step_timeout_s=0.1)
    assert raised.value.retry


@pytest.mark.real
@pytest.mark.parametrize("first", [b"220-", b"220 here\r\n250-"])
def test_a_server_that_drips_is_left(first: bytes) -> None:
    """Each byte comes in time and the whole never does."""
    with dripping_server(first) as port, pytest.raises(DeliveryError, match=r"took longer than 0\.3 s") as raised:
        deliver(document(), mail_target(port), whole_timeout_s=0.3)
    assert raised.value.retry


@pytest.mark.real
def test_nobody_there() -> None:
    """A refused connection is tried again."""
    with silent_server() as port:
        pass
    with pytest.raises(DeliveryError, match=f"127.0.0.1:{port}: .*refused") as raised:
        deliver(document(), mail_target(port))
    assert raised.value.retry


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.unlink(), lambda path: path.chmod(0o644), lambda path: path.write_text("pässword")],
)
def test_a_password_file_that_went_bad_is_named(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    """It is read at each delivery; the path is in the problem, the password is not."""
    path = secret_file(tmp_path, PASSWORD)
    spoil(path)
    with pytest.raises(DeliveryError, match=str(path)) as raised:
        deliver(document(), mail_target(user=USER, password_file=path))
    assert raised.value.retry
    assert "word" not in str(raised.value).replace("password", "")


@pytest.mark.real
def test_plain_mail_never_leaves_this_machine() -> None:
    """The name `localhost` proves nothing: the address that answered is looked at."""
    with pytest.raises(ValueError, match="not a loopback address"):
        refuse_remote(ip_address("10.1.2.3"))
    refuse_remote(ip_address("127.0.0.1"))
    refuse_remote(ip_address("::1"))
