"""Every page over a real fleet database: of no VM, of one, and of one of each kind."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest

from aggregator.evidence import Evidence
from reports.deliver.runs import Deliveries
from reports.events import Event, EventKind, record_event
from reports.live import NotLive, parse_metrics
from reports.people.roles import Role
from reports.savings import Prices
from reports.verdicts import Verdict
from reports.web.params import PAGE_VMS
from reports.web.routes import ROUTES, Kind
from tests.reports.fleets import NOW_S, VERDICTS_OF_EACH, Spec, one_of_each
from tests.reports.test_live import exposition
from tests.reports.web.house import House, may, pages

EVIL = "<script>alert(1)</script>"
EVIL_SPEC = Spec(
    vm_id="vm-evil", name=EVIL, hostname=f'"{EVIL}', owner=f"'{EVIL}", tags=(f"host:{EVIL}/a b?", f"&{EVIL}")
)
PAGES = [
    route.path
    for route in ROUTES
    if route.kind is Kind.PAGE and route.method == "GET" and "{" not in route.path and may(Role.OPERATOR, route)
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with pages(tmp_path_factory.mktemp("fleet"), [*one_of_each(), EVIL_SPEC]) as made:
        yield made


def text_of(page: str) -> str:
    """What a person reads, spaces evened out."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def listed(page: str) -> list[str]:
    """Ids of the VMs of a list, in its order."""
    return list(dict.fromkeys(re.findall(r'<a href="/vms/([^"/?]+)"', page)))


# Every page.


@pytest.mark.parametrize("count", [0, 1])
def test_small_fleets_have_every_page(tmp_path: Path, count: int) -> None:
    """A fleet of no VM and one of a single VM have all pages, and say what there is."""
    with pages(tmp_path, [Spec(vm_id="only")][:count]) as small:
        for path in PAGES:
            assert small.browser.get(path).status == 200, path
        if count:
            assert listed(small.browser.get("/vms").text) == ["only"]
            assert small.browser.get("/vms/only").status == 200
        else:
            assert "join-token" in small.browser.get("/").text


@pytest.mark.parametrize("path", PAGES)
def test_page_is_whole_and_escaped(house: House, path: str) -> None:
    """Each page of a full fleet is there, and no text of people becomes markup."""
    got = house.browser.get(path)
    assert got.status == 200
    if "html" in got.headers["content-type"]:
        assert EVIL not in got.text
        assert got.text.rstrip().endswith("</html>")


@pytest.mark.parametrize("target", ["/vms?verdict=all", "/vms/vm-evil", f"/hosts/{quote(f'{EVIL}/a b?', safe='')}"])
def test_evil_names_are_shown_as_text(house: House, target: str) -> None:
    """A VM called like a script is called so on its pages, and runs nothing."""
    got = house.browser.get(target)
    assert got.status == 200
    assert EVIL not in got.text
    assert EVIL in text_of(got.text)


def test_text_of_addresses_is_escaped(house: House) -> None:
    """What stands in an address comes back as text alone, on errors too."""
    for target in (
        *(f"/vms?search={quote(EVIL)}", f"/vms?owner={quote(EVIL)}", f"/vms?policy={quote(EVIL)}"),
        *(f"/vms?verdict={quote(EVIL)}", f"/vms/{quote(EVIL)}", f"/hosts/{quote(EVIL, safe='')}", f"/{quote(EVIL)}"),
        *(f"/vms?{quote(EVIL)}=1&{quote(EVIL)}=2", f"/vms?window={quote(EVIL)}", f"/vms/vm-idle?policy={quote(EVIL)}"),
    ):
        got = house.browser.get(target)
        assert got.status in {200, 404, 422}
        assert EVIL not in got.text


@pytest.mark.parametrize(
    "vm_id", ["nobody", "NO", "a%2Fb", "%00", "%FF", "..%2F..%2Fetc", "a" * 200, "%3Cscript%3E", "vm-idle%20", "é"]
)
def test_odd_ids_are_not_found(house: House, vm_id: str) -> None:
    """An id that no VM has, or can have, is a page of 404."""
    target = f"/vms/{quote(vm_id, safe='%')}"
    got = house.browser.get(target)
    assert (got.status, got.headers["content-type"]) == (404, "text/html; charset=utf-8")


# The fleet.


def test_fleet_page_tells_the_totals(house: House) -> None:
    """VMs, verdicts with their causes, and what can be given back."""
    page = house.browser.get("/").text
    text = text_of(page)
    assert "silent" in text
    assert "never reported" in text
    assert 'href="/vms?verdict=insufficient-data"' in page
    assert "Judged by fallow-balanced over 14 days" in text
    assert 'href="/report.csv"' in page


def test_fleet_page_tells_what_changed(tmp_path: Path) -> None:
    """What was reclaimed in the last week is there once anything is recorded."""
    with pages(tmp_path, one_of_each()) as house:
        before = house.browser.get("/").text
        with house.fleet.writer.begin() as connection:
            event = Event(at_s=NOW_S - 3600, vm_id="vm-gone", kind=EventKind.RECLAIMED, by="ann", vcpus=48.0)
            record_event(connection, event)
        after = text_of(house.browser.get("/").text)
        assert "48" in after
        assert "48" not in text_of(before)


def test_money_is_shown_with_prices_alone(tmp_path: Path) -> None:
    """Without prices there is no amount, with them there is one in their currency."""
    prices = Prices(currency="CHF", vcpu_hour=0.02)
    with pages(tmp_path, one_of_each(), change=lambda config: replace(config, prices=prices)) as house:
        for target in ("/", "/vms", "/vms/vm-idle", "/compare", "/hosts"):
            assert "CHF" in house.browser.get(target).text


# The list.


def test_list_is_ranked_and_filtered(house: House) -> None:
    """Search, verdict and owner leave out what they should."""
    ask = house.browser.get
    assert "vm-active" not in listed(ask("/vms").text)
    assert set(listed(ask("/vms?verdict=all").text)) == {*VERDICTS_OF_EACH, "vm-evil"}
    for verdict in Verdict:
        found = listed(ask(f"/vms?verdict={verdict.value.replace(' ', '-')}").text)
        assert set(found) - {"vm-evil"} == {vm_id for vm_id, each in VERDICTS_OF_EACH.items() if each is verdict}
    assert set(listed(ask("/vms?verdict=all&owner=ann").text)) == {"vm-idle", "vm-oversized"}
    assert listed(ask("/vms?verdict=all&search=WEB.EXAMPLE").text) == ["vm-idle"]
    assert listed(ask("/vms?verdict=all&search=production&owner=cleo").text) == ["vm-active"]
    assert listed(ask("/vms?search=%25").text) == []


def test_sorting_is_offered_both_ways(house: House) -> None:
    """A heading sorts by itself first as usual, then the other way round, and says which it is."""
    by_name = house.browser.get("/vms?verdict=all&sort=name").text
    assert re.search(r'aria-sort="ascending"><a href="/vms\?verdict=all&amp;sort=name&amp;order=reverse"', by_name)
    reverse = house.browser.get("/vms?verdict=all&sort=name&order=reverse").text
    assert listed(reverse) == listed(by_name)[::-1]
    assert 'aria-sort="descending"' in reverse


def test_list_goes_on_page_by_page(tmp_path: Path) -> None:
    """Each VM is on one page, in one order; a page behind the last one is empty and leads back."""
    specs = [Spec(vm_id=f"vm-{number:03}") for number in range(2 * PAGE_VMS + 5)]
    with pages(tmp_path, specs) as house:
        seen: list[str] = []
        target: str | None = "/vms?sort=name"
        while target:
            page = house.browser.get(target).text
            seen += listed(page)
            following = re.search(r'<a href="([^"]+)">Next</a>', page)
            target = unescape(following[1]) if following else None
        assert seen == sorted(spec.vm_id for spec in specs)
        beyond = house.browser.get("/vms?page=9")
        assert (beyond.status, listed(beyond.text)) == (200, [])
        assert house.browser.get("/vms?page=0").status == 422


def test_form_keeps_what_was_asked(house: House) -> None:
    """After a search the form shows it, and its links go on with it."""
    assert 'value="a&amp;b"' in house.browser.get("/vms?search=a%26b").text
    page = house.browser.get("/vms?search=vm-&verdict=all&window=7d&policy=classic&sort=cpu").text
    assert 'value="vm-"' in page
    assert '<option value="classic" selected>' in page
    assert '<option value="7d" selected>' in page
    assert 'href="/report.csv?policy=classic&amp;window=7d&amp;search=vm-&amp;verdict=all&amp;sort=cpu"' in page


def test_files_hold_the_list(house: House) -> None:
    """The same question as a file for spreadsheets, for programs and for people."""
    got = house.browser.get("/report.csv?verdict=all&owner=ann")
    assert got.headers["content-disposition"] == 'attachment; filename="fallow-2026-11-16.csv"'
    assert {row["vm"] for row in csv.DictReader(io.StringIO(got.text))} == {"vm-idle", "vm-oversized"}
    document = house.browser.get("/report.json?verdict=all").json
    assert (document["matching"], len(document["vms"])) == (11, 11)
    page = house.browser.get("/report.html?verdict=all")
    assert EVIL not in page.text
    assert EVIL in text_of(page.text)


def test_files_are_whole_or_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is too long for a file is not cut short in silence."""
    monkeypatch.setattr("reports.web.list_pages.MAX_FILE_VMS", 10)
    got = house.browser.get("/report.csv?verdict=all")
    assert got.status == 422
    assert "the list has 11 VMs" in text_of(got.text)
    assert house.browser.get("/report.csv?verdict=idle").status == 200
    assert house.browser.get("/report.html?verdict=all").status == 200


# One VM.


@pytest.mark.parametrize("vm_id", list(VERDICTS_OF_EACH))
def test_vm_of_each_kind_has_a_page(house: House, vm_id: str) -> None:
    """Its verdict by every policy, whatever is known of it."""
    got = house.browser.get(f"/vms/{vm_id}")
    assert got.status == 200
    assert VERDICTS_OF_EACH[vm_id].value in text_of(got.text)
    for name in house.config.policies:
        assert f'"/vms/{vm_id}{"" if name == house.config.policy.name else f"?policy={name}"}"' in got.text


def test_vm_page_has_limits_beside_figures(house: House) -> None:
    """The evidence, the week, the hours and where a script finds its data."""
    page = house.browser.get("/vms/vm-scheduled").text
    text = text_of(page)
    assert "could be off" in text
    assert "Mon 14:00" in text
    assert "/v1/vms/vm-scheduled/series" in page
    assert 'href="/hosts/' not in page
    assert 'href="/hosts/h1"' in house.browser.get("/vms/vm-oversized").text


def test_week_is_shown_in_the_readers_zone(tmp_path: Path) -> None:
    """A VM that works from 9 to 17 UTC works from 10 to 18 in Berlin in November."""
    berlin = ZoneInfo("Europe/Berlin")
    with pages(tmp_path, one_of_each(), change=lambda config: replace(config, zone=berlin)) as house:
        text = text_of(house.browser.get("/vms/vm-scheduled").text)
        assert "Mon 10:00: 40% CPU" in text
        assert "Mon 09:00: 0.3% CPU" in text
        assert "Europe/Berlin (CET, UTC+01:00)" in text


def test_keep_form_keeps(tmp_path: Path) -> None:
    """The form excludes the VM at once, shows why, and what is wrong with what was typed."""
    with pages(tmp_path, one_of_each()) as house:
        ask = house.browser
        token = form_token(ask.get("/vms/vm-idle").text)
        form = {"csrf": token, "until": "2026-12-31", "reason": "quarterly <b>closing</b>", "owner": "ann"}
        wrong = ask.post("/vms/vm-idle/keep", {**form, "until": "soon", "owner": ""})
        assert wrong.status == 422
        assert "is not a date" in text_of(wrong.text)
        assert 'value="quarterly &lt;b&gt;closing&lt;/b&gt;"' in wrong.text
        done = ask.post("/vms/vm-idle/keep", form)
        assert (done.status, done.headers["location"]) == (303, "/vms/vm-idle")
        page = ask.get("/vms/vm-idle").text
        assert "Kept until 2026-12-31" in text_of(page)
        assert "quarterly <b>closing</b>" in text_of(page)
        assert "<b>closing" not in page
        assert "vm-idle" not in listed(ask.get("/vms").text)
        assert ask.post("/vms/nobody/keep", form).status == 404
        assert ask.post("/vms/NO/keep", form).status == 404


def form_token(page: str) -> str:
    """The token in the forms of a page."""
    tokens: set[str] = set(re.findall(r'name="csrf" value="([0-9a-f]+)"', page))
    (token,) = tokens
    return token


def form_version(page: str) -> str:
    """What the forms of the one exemption of a page carry."""
    versions: set[str] = set(re.findall(r'name="version" value="([0-9a-f]+)"', page))
    (version,) = versions
    return version


# Exemptions.


def test_exemptions_are_kept_renewed_and_ended(tmp_path: Path) -> None:
    """From the list: by tag too, a new end, and an end now."""
    with pages(tmp_path, one_of_each()) as house:
        ask = house.browser
        page = ask.get("/exemptions").text
        form = {"csrf": form_token(page), "kind": "tag", "subject": "production", "until": "30d"}
        wrong = ask.post("/exemptions", {**form, "reason": "", "owner": "cleo"})
        assert (wrong.status, "is missing" in wrong.text) == (422, True)
        assert ask.post("/exemptions", {**form, "reason": "db", "owner": "cleo"}).status == 303
        assert ask.post("/exemptions", {**form, "kind": "vm", "reason": "db", "owner": "cleo"}).status == 422
        page = ask.get("/exemptions").text
        (kept,) = re.findall(r'action="/exemptions/([0-9a-f]+)/end"', page)
        assert "db" in text_of(page)
        assert "Kept until" in text_of(ask.get("/vms/vm-active").text)
        token = {"csrf": form_token(page), "version": form_version(page)}
        renewed = ask.post(f"/exemptions/{kept}/renew", {**token, "until": "2026-12-24"})
        assert (renewed.status, renewed.headers["location"]) == (303, "/exemptions")
        page = ask.get("/exemptions").text
        assert "2026-12-24" in page
        token["version"] = form_version(page)
        assert ask.post(f"/exemptions/{kept}/renew", {**token, "until": "2001-01-01"}).status == 422
        assert ask.post(f"/exemptions/{kept}/end", {**token, "by": "bob"}).status == 303
        assert ask.post(f"/exemptions/{kept}/end", token).status == 412
        assert ask.post("/exemptions/00000000/end", token).status == 404
        assert kept not in ask.get("/exemptions").text
        ended = text_of(ask.get("/exemptions?all=1").text)
        assert ("ended by operator-ann" in ended, "bob" in ended) == (True, False)


# Hosts, health, deliveries, policies.


def test_hosts_add_up_their_vms(house: House) -> None:
    """A host has the VMs that name it, and those alone."""
    page = house.browser.get("/hosts").text
    assert 'href="/hosts/h1"' in page
    assert f'href="/hosts/{quote(f"{EVIL}/a b?", safe="")}"' in page
    host = house.browser.get("/hosts/h1").text
    assert listed(host) == ["vm-oversized", "vm-active"]
    assert "/v1/hosts/h1/series" in host
    series = house.browser.get("/v1/hosts/h1/series?from=1000000&to=1003600").json
    assert {one["vm"] for one in series["vms"]} == {"vm-oversized", "vm-active"}
    (oversized,) = [one for one in series["vms"] if one["vm"] == "vm-oversized"]
    assert oversized["cpu_vcpus"] == [1.6, 4.0, None]
    assert house.browser.get("/hosts/h2").status == 404


def test_fleet_without_hosts_says_where_they_come_from(tmp_path: Path) -> None:
    """No tag, no host: the page tells which tag."""
    with pages(tmp_path, [Spec()]) as house:
        assert "host:NAME" in text_of(house.browser.get("/hosts").text)


def test_health_tells_of_both_sides(house: House) -> None:
    """Agents in trouble by name, and why the aggregator does not answer, or what it says."""
    text = text_of(house.browser.get("/health").text)
    assert "no aggregator runs in a test" in text
    assert "vm-silent" in text
    assert "vm-mute" in text
    house.live = parse_metrics(exposition(), now_s=NOW_S)
    try:
        text = text_of(house.browser.get("/health").text)
        assert "requests refused" in text
        assert "does not answer" not in text
        assert house.browser.get("/v1/health").json["aggregator"]["ingest"]["pushes"] > 0
    finally:
        house.live = NotLive(reason="no aggregator runs in a test")


def test_deliveries_show_their_problems(tmp_path: Path) -> None:
    """A delivery that failed says why."""
    with pages(tmp_path, []) as house:
        assert house.browser.get("/deliveries").status == 200
        table = Deliveries(house.fleet.writer)
        run = table.begin("weekly", "mail", "ann@example.org", NOW_S, "2026-11-16T12:00Z", now_s=NOW_S)
        assert run is not None
        table.record_failure(run, f"the server said {EVIL}", retry=False, now_s=NOW_S)
        page = house.browser.get("/deliveries").text
        assert EVIL not in page
        assert f"the server said {EVIL}" in text_of(page)
        assert house.browser.get("/v1/deliveries").json["deliveries"][0]["state"] == "failed"


def test_policies_show_their_rules(house: House) -> None:
    """Each policy, its source and each figure that it looks at."""
    text = text_of(house.browser.get("/policies").text)
    for policy in house.config.policies.values():
        assert policy.name in text
        assert policy.source in text
        for rule in policy.rules():
            assert rule.measure.name in text


def test_damaged_evidence_is_no_broken_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VM whose histograms are gone still has its page."""
    real = Evidence.decode
    monkeypatch.setattr(Evidence, "decode", lambda bodies: real([None for _ in bodies]))
    with pages(tmp_path, [Spec(vm_id="only")]) as house:
        assert house.browser.get("/vms/only").status == 200
        assert house.browser.get("/v1/vms/only/histogram").json["bins"] == []
        assert set(house.browser.get("/v1/vms/only/profile").json["cpu_ratio"]) == {None}
