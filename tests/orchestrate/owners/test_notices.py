"""Notices: what owners are told, by a real mail server and a real receiver, and what becomes of a way that fails."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC
from email.message import EmailMessage
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread

from orchestrate.inventory import VmRef
from orchestrate.owners.files import no_file, owner_environment
from orchestrate.owners.links import LinkKey, Purpose
from orchestrate.owners.notices import Notice, html_of, json_of, text_of
from orchestrate.owners.notify import LinkSettings, Notifier, NotifySettings, NotNotified
from orchestrate.plan import Mark, Step
from orchestrate.sighting import Figure
from reports.deliver.webhook import DELIVERY_HEADER, verify
from tests.orchestrate.worlds import DAY_S, NOW_S, SITE, plan, step, uuid
from tests.reports.deliver.servers import MailServer, Receiver, mail_server, receiver
from tests.reports.deliver.values import SECRET, mail_target, webhook_target

KEY = LinkKey(b"k" * 32)
LINKS = LinkSettings(url="https://fallow.example.org")
FIGURES = (Figure(rule="cpu_busy.p95", value="1%", limit="5%", holds=True),)
STEP = step(Mark.NOTIFY, mail="ann@example.org", grace_s=7 * DAY_S, figures=FIGURES, reason="Idle for 14 days.")
PLAN = plan(STEP)


def notifier(settings: NotifySettings, links: LinkSettings = LINKS) -> Notifier:
    return Notifier(settings, links, KEY, clock=lambda: NOW_S)


def body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    text: str = part.get_content()
    return text


async def told(settings: NotifySettings, one: Step = STEP) -> str:
    """In a thread, so that the servers of the test can answer."""
    words: str = await deferToThread(notifier(settings), one, PLAN)
    return words


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_a_mail_goes_to_the_owner_alone() -> None:
    """Both forms say what will happen, when, why and what to do; nobody else of the settings is written to."""
    server = MailServer()
    with mail_server(server) as port:
        words = await told(NotifySettings(mail=mail_target(port)))
    assert words == "mail to ann@example.org"
    assert server.recipients == ["ann@example.org"]
    (message,) = server.messages
    assert message["Subject"] == "VM dev-1: unused, to be suspended after 2026-11-25 11:06 UTC"
    for kind in ("plain", "html"):
        text = " ".join(body(message, kind).split())
        for part in (
            "dev-1",
            "Idle for 14 days.",
            "2026-11-25",
            "cpu_busy.p95",
            "/keep/",
            "/resume/",
            "Nothing is del",
        ):
            assert part in text
    # Nothing is fetched when it is read.
    html = body(message, "html")
    assert [each for each in ("<img", "<script", "<link", "src=", "<style") if each in html] == []
    assert list(message.iter_attachments()) == []


@pytest.mark.real
def test_a_webhook_is_signed(tmp_path: Path) -> None:
    """The receiver can tell who sends, and that a second try is the same notice."""
    taker = Receiver([204])
    with receiver(taker) as port:
        target = webhook_target(tmp_path, f"http://127.0.0.1:{port}/notices")
        for _ in range(2):
            assert notifier(NotifySettings(webhook=target))(STEP, PLAN) == f"webhook http://127.0.0.1:{port}"
    one, other = taker.requests
    assert verify(SECRET, one.headers, one.body, NOW_S)
    assert one.headers[DELIVERY_HEADER] == other.headers[DELIVERY_HEADER]
    document = json.loads(one.body)
    assert document["event"] == "notice"
    assert document["vm"] == {"id": uuid(), "uuid": uuid(), "driver": SITE, "name": "dev-1"}
    link = KEY.read(document["keep_url"].rpartition("/")[2], purpose=Purpose.KEEP, now_s=NOW_S)
    assert (link.ref, link.vm_id) == (VmRef(SITE, uuid()), uuid())
    # Long enough for an owner who comes back after the suspension.
    assert link.expires_s == NOW_S + 7 * DAY_S + LINKS.life_s


@pytest.mark.real
def test_one_way_that_works_is_enough(tmp_path: Path) -> None:
    """The words tell of the other, without its address's secret."""
    taker = Receiver([204])
    with receiver(taker) as port:
        target = webhook_target(tmp_path, f"http://127.0.0.1:{port}/notices?token=hidden")
        words = notifier(NotifySettings(mail=mail_target(1), webhook=target))(STEP, PLAN)
    assert words.startswith("webhook http://127.0.0.1:")
    assert "failed: mail: 127.0.0.1:1" in words
    assert "hidden" not in words


@pytest.mark.real
def test_a_notice_that_nobody_took_is_none(tmp_path: Path) -> None:
    """Every way is named with what it said."""
    with receiver(Receiver([500])) as port:
        target = webhook_target(tmp_path, f"http://127.0.0.1:{port}/notices")
        with pytest.raises(NotNotified, match=r"mail: .*; webhook: .*answered 500"):
            notifier(NotifySettings(mail=mail_target(1), webhook=target))(STEP, PLAN)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (NotifySettings(), "no way to owners is configured"),
        (NotifySettings(mail=mail_target(1)), "no mail address is known of ann"),
    ],
)
def test_an_owner_who_cannot_be_reached_was_not_told(settings: NotifySettings, words: str) -> None:
    """So that the VM goes no further."""
    with pytest.raises(NotNotified, match=words):
        notifier(settings)(replace(STEP, mail=None), PLAN)


def test_without_an_address_there_are_no_links() -> None:
    """The notice says whom to turn to instead; so it does for a VM whose agent is not known."""
    for links, one in ((LinkSettings(), STEP), (LINKS, replace(STEP, vm_id=None))):
        notice = notifier(NotifySettings(), links).notice(one)
        assert (notice.keep_url, notice.resume_url) == (None, None)
        assert "Tell whoever runs this cloud" in text_of(notice)
        assert "Tell whoever runs this cloud" in html_of(notice, owner_environment(UTC, no_file))


@given(st.text(max_size=50), st.text(max_size=50))
def test_any_name_is_text(name: str, reason: str) -> None:
    """Whatever a VM is called: one line of a subject, no element of a page, and JSON."""
    one = replace(STEP, name=f"{name}<script>", reason=f"{reason}<img src=x>")
    notice = Notice(step=one, at_s=NOW_S, not_before_s=NOW_S, keep_url="https://a.example/keep/x")
    assert notice.subject.isprintable()
    html = html_of(notice, owner_environment(UTC, no_file))
    assert "<script" not in html
    assert "<img" not in html
    assert json.loads(json_of(notice))["vm"]["name"] == one.name
