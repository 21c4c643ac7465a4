"""The owners' door and its pages: a look changes nothing, a form does, and whoever has no link gets nowhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.logger import globalLogPublisher

from aggregator.admin_site import MAX_BODY_BYTES
from orchestrate.control import Control, open_control
from orchestrate.inventory import VmRef
from orchestrate.owners.files import load_owner_files, owner_environment
from orchestrate.owners.links import Link, LinkKey, Purpose
from orchestrate.owners.notify import LinkSettings
from orchestrate.owners.pages import OwnerPages
from orchestrate.owners.site import MAX_WAITING, make_site
from orchestrate.owners.views import standing_words
from orchestrate.owners.wakes import Wake, Wakes, WakeState
from orchestrate.records import Entry, Rung
from reports.events import EventKind, read_events
from reports.exemption_table import Exemptions
from tests.aggregator.admin_fakes import InlineReactor
from tests.orchestrate.control_house import IDLE, House, house
from tests.reports.web.wire import Browser, Got, new_transport, parse

REF = VmRef("lab", IDLE)
KEY = LinkKey(b"k" * 32)
ZONE = ZoneInfo("Europe/Berlin")
DAY_S = 86_400.0
FORM = {"until": "2026-12-24", "reason": "the audit", "owner": "Ann"}


class Held(InlineReactor):
    """Threads that never get to anything."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Callable[..., object]] = []

    def callInThreadWithCallback(self, on_result: Callable[..., object], work: Callable[[], object]) -> None:
        """Nothing yet."""
        self.waiting.append(on_result)


@dataclass
class Site:
    """The door over the small cloud."""

    house: House
    control: Control
    wakes: Wakes
    pages: OwnerPages
    browser: Browser

    def link(self, purpose: Purpose, *, days: float = 30.0, key: LinkKey = KEY) -> str:
        link = Link(purpose=purpose, ref=REF, vm_id=IDLE, expires_s=int(self.house.now_s + days * DAY_S))
        return f"/{purpose.value}/{key.make(link)}"

    def put(self, rung: Rung, *, due_s: float | None = None) -> Entry:
        """The VM stands on this rung."""
        at_s = self.house.now_s
        entry = Entry(ref=REF, vm_id=IDLE, rung=rung, since_s=at_s, group="all", marked_s=at_s, due_s=due_s)
        self.control.records.put_entry(entry, by="test", now_s=at_s)
        return entry

    @property
    def events(self) -> list[EventKind]:
        with self.control.report_engine.connect() as connection:
            return [event.kind for event in read_events(connection, IDLE)]

    @property
    def audit(self) -> list[str]:
        return [entry.what for entry in self.control.records.audit()]

    def kept(self) -> list[tuple[str, str, str]]:
        found = Exemptions(self.control.report_engine).in_force(self.house.now_s)
        return [(one.subject, one.owner, one.reason) for one in found]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Everything but sockets: the door's own are those of the aggregator's admin door."""
    with house(tmp_path) as made, open_control(made.config(), clock=lambda: made.now_s, pause=made.pause) as control:
        reactor, wakes, static = InlineReactor(), Wakes(), load_owner_files()
        pages = OwnerPages(
            key=KEY,
            links=LinkSettings(url="https://fallow.example.org"),
            records=control.records,
            engine=control.report_engine,
            wakes=wakes,
            environment=owner_environment(ZONE, lambda name: static.address(name).lstrip("/")),
            zone=ZONE,
            clock=lambda: made.now_s,
        )
        browser = Browser(make_site(pages, static, reactor=reactor, threads=reactor), reactor)
        yield Site(house=made, control=control, wakes=wakes, pages=pages, browser=browser)


def send(site: Site, path: str, fields: dict[str, str] | None = None) -> Got:
    return site.browser.post(path, FORM if fields is None else fields)


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_look_changes_nothing(site: Site, purpose: Purpose, method: str) -> None:
    """Mail programs follow links on their own: exemptions, ladder, wakes and the log stay as they are."""
    entry = site.put(Rung.NOTIFY, due_s=site.house.now_s + DAY_S)
    before = site.audit
    got = site.browser.ask(method, site.link(purpose))
    assert got.status == 200
    assert (got.body == b"") is (method == "HEAD")
    assert site.control.records.find_entry(REF) == entry
    assert (site.kept(), site.events, site.audit) == ([], [], before)
    assert site.wakes.find(REF) is None


def test_the_page_says_what_it_is_about(site: Site) -> None:
    """The VM by name, what is planned and when, in the reader's zone; the form is filled in as far as can be."""
    site.put(Rung.NOTIFY, due_s=site.house.now_s + DAY_S)
    text = site.browser.get(site.link(Purpose.KEEP)).text
    assert "build-7" in text
    assert "not before 2026-11-17 13:06 CET" in text
    assert 'value="2026-12-16"' in text


def test_the_form_keeps_the_vm(site: Site) -> None:
    """An exemption till the end of that day, off the ladder, an objection in the report, a line in the log."""
    site.put(Rung.NOTIFY)
    path = site.link(Purpose.KEEP)
    got = send(site, path)
    assert got.status == 303
    # Whatever path a proxy serves the pages under.
    assert got.headers["location"] == path.rpartition("/")[2]
    assert site.kept() == [(IDLE, "Ann", "the audit")]
    assert site.control.records.find_entry(REF) is None
    assert set(site.events) == {EventKind.OBJECTED, EventKind.KEPT}
    assert "kept by link" in site.audit
    shown = site.browser.get(path).text
    assert "It is kept" in shown
    assert "2026-12-24 23:59 CET" in shown


def test_a_second_form_changes_the_first(site: Site) -> None:
    """The link may be used again: one exemption, with the newest words; a double click does no harm."""
    path = site.link(Purpose.KEEP)
    send(site, path)
    send(site, path)
    send(site, path, {**FORM, "reason": "another audit"})
    assert site.kept() == [(IDLE, "Ann", "another audit")]
    # Nothing was planned, so that nobody objected to anything.
    assert EventKind.OBJECTED not in site.events


def test_what_sleeps_stays_known_to_the_ladder(site: Site) -> None:
    """Keeping does not make the controller forget that it put the VM to sleep: the exemption alone stops the rest."""
    entry = site.put(Rung.SUSPEND)
    send(site, site.link(Purpose.KEEP))
    assert site.control.records.find_entry(REF) == entry
    assert site.kept()
    assert EventKind.OBJECTED in site.events


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reason": " "}, "say why"),
        ({"owner": ""}, "say who you are"),
        ({"owner": "a\x00b"}, "say who you are"),
        ({"until": "never"}, "give a day"),
        ({"until": "2026-11-01"}, "give a day"),
        ({"until": "2029-01-01"}, "give a day"),
        ({"until": "9999-12-31"}, "give a day"),
    ],
)
def test_a_form_with_a_mistake_is_shown_again(site: Site, change: dict[str, str], words: str) -> None:
    """Beside its field and with what was typed; nothing is kept."""
    got = send(site, site.link(Purpose.KEEP), {**FORM, **change})
    assert got.status == 422
    assert words in got.text
    assert 'aria-invalid="true"' in got.text
    assert site.kept() == []


def test_no_day_means_the_usual_time(site: Site) -> None:
    """As the settings have it."""
    assert send(site, site.link(Purpose.KEEP), {**FORM, "until": ""}).status == 303
    (one,) = Exemptions(site.control.report_engine).in_force(site.house.now_s)
    assert one.until_s == site.house.now_s + LinkSettings().keep_for_s


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(["until", "reason", "owner", "x"]), st.text(max_size=300)))
def test_any_form_gets_an_answer(site: Site, fields: dict[str, str]) -> None:
    """Taken or shown again; never an error of the server, never a way out of the page."""
    fields = {name: text.encode("utf-8", "replace").decode() for name, text in fields.items()}
    got = send(site, site.link(Purpose.KEEP), {**fields, "y": "<script>alert(1)</script>"})
    assert got.status in {303, 422}
    assert b"<script>alert" not in got.body
    shown = site.browser.get(site.link(Purpose.KEEP))
    assert shown.status == 200


def test_names_are_escaped(site: Site) -> None:
    """What an owner typed is text, whatever it looks like."""
    evil = "<script>alert(1)</script>"
    send(site, site.link(Purpose.KEEP), {**FORM, "owner": evil, "reason": f'"{evil}'})
    text = site.browser.get(site.link(Purpose.KEEP)).text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_the_other_form_asks_for_the_vm(site: Site) -> None:
    """Once, however often it is sent; the page then tells how far it is, without a script too."""
    site.put(Rung.SUSPEND)
    path = site.link(Purpose.RESUME)
    assert "has been suspended since" in site.browser.get(path).text
    assert send(site, path, {}).status == 303
    wake = site.wakes.find(REF)
    assert wake is not None
    assert (wake.vm_id, wake.asked_s, wake.state) == (IDLE, site.house.now_s, WakeState.WAITING)
    site.house.now_s += 5
    send(site, path, {})
    assert site.wakes.find(REF) == wake
    text = site.browser.get(path).text
    assert "You asked 5 s ago" in text
    assert '<noscript><meta http-equiv="refresh"' in text
    assert "<button" not in text
    told = site.browser.get(f"{path}/state").json
    assert told == {
        "state": "waiting",
        "line": "You asked 5 s ago. It is about to be seen to.",
        "ended": False,
        "heard_after_s": None,
    }


@pytest.mark.parametrize(
    ("state", "words", "button"),
    [
        (WakeState.WAKING, "being brought back", False),
        (WakeState.AWAKE, "sign of life is awaited", False),
        (WakeState.HEARD, "It is back: 64 s from your call to its next sample", True),
        (WakeState.SILENT, "nothing has been heard", True),
        (WakeState.RUNNING, "It runs already", True),
        (WakeState.FAILED, "Please try again", True),
    ],
)
def test_every_state_has_its_words(site: Site, state: WakeState, words: str, button: bool) -> None:
    """And a button where there is something to ask for."""
    asked = Wake(ref=REF, vm_id=IDLE, asked_s=site.house.now_s, words="Please try again.", heard_after_s=64.0)
    site.wakes.put(replace(asked, state=state))
    path = site.link(Purpose.RESUME)
    text = site.browser.get(path).text
    assert words in text
    assert ("<button" in text) is button
    assert ("http-equiv" in text) is not button
    assert site.browser.get(f"{path}/state").json["ended"] is button


def test_a_vm_that_sleeps_again_is_asked_for_anew(site: Site) -> None:
    """The page does not go on telling of the last time."""
    site.wakes.put(Wake(ref=REF, vm_id=IDLE, asked_s=site.house.now_s - 1, state=WakeState.HEARD, heard_after_s=64.0))
    path = site.link(Purpose.RESUME)
    assert "Is it asleep again?" in site.browser.get(path).text
    site.put(Rung.SUSPEND)
    text = site.browser.get(path).text
    assert "Do you need it now?" in text
    assert "64 s" not in text


def test_a_state_of_nothing(site: Site) -> None:
    """Nobody has asked: there is nothing to wait for."""
    told = site.browser.get(f"{site.link(Purpose.RESUME)}/state").json
    assert told == {"state": None, "line": "", "ended": True, "heard_after_s": None}


def test_who_has_no_link_gets_nowhere(site: Site) -> None:
    """Forged, for something else, expired, unknown: told apart by status and in plain words, by GET and by POST."""
    keep, resume = site.link(Purpose.KEEP), site.link(Purpose.RESUME)
    wrong = {
        site.link(Purpose.KEEP, key=LinkKey(b"o" * 32)): 403,
        keep[:-1]: 403,
        f"/keep/{resume.rpartition('/')[2]}": 403,
        f"/resume/{keep.rpartition('/')[2]}": 403,
        f"{keep.replace('/keep/', '/resume/')}/state": 403,
        site.link(Purpose.KEEP, days=-1): 410,
        site.link(Purpose.RESUME, days=-1): 410,
        "/": 404,
        "/keep/": 404,
        "/keep/a/b/c": 404,
        "/static/nothing.css": 404,
        f"/keep/{'a' * 2000}": 404,
    }
    for path, status in wrong.items():
        got = site.browser.get(path)
        assert (got.status, path) == (status, path)
        assert re.search(r"<h1>[^<]+</h1>", got.text)
        if "state" not in path and "static" not in path:
            assert send(site, path).status == status
    assert (site.kept(), site.wakes.find(REF)) == ([], None)


def test_only_forms_are_taken(site: Site) -> None:
    """By POST, of the type that forms have, of a size that forms have."""
    path = site.link(Purpose.KEEP)
    assert site.browser.ask("PUT", path).status == 405
    assert site.browser.ask("POST", f"{site.link(Purpose.RESUME)}/state").status == 405
    assert site.browser.ask("POST", path, "Content-Type: application/json", body=b"{}").status == 415
    kind = "Content-Type: application/x-www-form-urlencoded"
    assert site.browser.ask("POST", path, kind, body=b"a" * (MAX_BODY_BYTES + 1)).status == 413
    assert site.browser.ask("POST", path, kind, body=b"&".join([b"a=1"] * 50)).status == 422
    assert site.kept() == []


def test_a_database_that_fails_is_told_in_plain_words(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what went wrong, and the secret stands in no log."""

    def fail(_ref: VmRef) -> None:
        raise RuntimeError("password of the database")

    monkeypatch.setattr(site.control.records, "find_entry", fail)
    path = site.link(Purpose.KEEP)
    said: list[str] = []

    def observer(event: object) -> None:
        said.append(str(event))

    log: Any = globalLogPublisher
    log.addObserver(observer)
    try:
        got = site.browser.get(path)
    finally:
        log.removeObserver(observer)
    assert got.status == 500
    assert "Please try again" in got.text
    assert "password" not in got.text
    assert said
    assert path not in "".join(said)


def test_too_many_at_once_are_turned_away(site: Site) -> None:
    """At once and in plain words, while every thread waits."""
    reactor = Held()
    door: Any = make_site(site.pages, load_owner_files(), reactor=reactor, threads=reactor)

    def ask() -> bytes:
        protocol, transport = door.buildProtocol(None), new_transport()
        protocol.makeConnection(transport)
        protocol.dataReceived(f"GET {site.link(Purpose.KEEP)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        answer: bytes = transport.value()
        return answer

    assert {ask() for _ in range(MAX_WAITING)} == {b""}
    got = parse(ask())
    assert (got.status, got.headers["retry-after"]) == (503, "2")
    assert "Please try again" in got.text


@pytest.mark.parametrize("path", ["keep", "/nothing"])
def test_no_answer_lets_others_in(site: Site, path: str) -> None:
    """No frames, no scripts but our own, nothing kept, and the address is told to nobody."""
    got = site.browser.get(site.link(Purpose.KEEP) if path == "keep" else path)
    assert got.headers["referrer-policy"] == "no-referrer"
    assert got.headers["cache-control"] == "no-store"
    assert got.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in got.headers["content-security-policy"]
    assert "default-src 'none'" in got.headers["content-security-policy"]
    assert "unsafe" not in got.headers["content-security-policy"]
    assert "set-cookie" not in got.headers


def test_the_files_of_a_page_are_found_from_it(site: Site) -> None:
    """By addresses that hold wherever a proxy puts the pages."""
    site.wakes.ask(REF, IDLE, now_s=site.house.now_s)
    text = site.browser.get(site.link(Purpose.RESUME)).text
    found = re.findall(r'(?:href|src)="(\.\./static/[^"]+)"', text)
    assert len(found) == 4
    for address in found:
        got = site.browser.get(address.removeprefix(".."))
        assert got.status == 200
        assert "immutable" in got.headers["cache-control"]
    assert site.browser.get("/a/b/c").text.count("../../static/") == 3


@pytest.mark.parametrize("rung", [None, *Rung])
def test_every_rung_has_its_words(rung: Rung | None) -> None:
    """Each another sentence, and none of them empty."""
    entry = None if rung is None else Entry(ref=REF, vm_id=IDLE, rung=rung, since_s=0.0, group="all", due_s=DAY_S)
    assert standing_words(entry, ZONE).endswith(".")
