"""What the controller's pages show, and what keeps other sites and hostile names away from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from orchestrate import tables
from orchestrate.pages.log_lines import check_newest, lines_before, newest_number
from orchestrate.pages.routes import ROUTES
from orchestrate.records import Records
from reports.people.roles import Role, Scope
from reports.web.routes import PEOPLE_ROUTES, Kind
from tests.orchestrate.pages.house import HOST, Pages, plan_pages

EVIL = "<script>alert(1)</script>"
ACTIONS = [
    (route.path.replace("{hash}", "0" * 64), route.kind)
    for route in ROUTES
    if route.method == "POST" and route not in PEOPLE_ROUTES
]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Pages]:
    with plan_pages(tmp_path) as pages:
        yield pages


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """A cloud in which a VM was suspended. Its tests change nothing that another one looks at."""
    with plan_pages(tmp_path_factory.mktemp("lived")) as pages:
        sha256 = pages.suspending()
        for name in ("bob", "eve"):
            pages.approve(pages.browser(Role.APPROVER, name), sha256, reason="nobody uses it")
        pages.cloud.ok("apply", sha256)
        yield pages


def test_nobody_is_sent_to_the_log_in(lived: Pages) -> None:
    """A person logs in first and comes back; a program is told how to."""
    nobody = lived.browser(None)
    for page in ("/", "/plans/abcdef", "/runs", "/runs/x", "/audit", "/stop"):
        got = nobody.get(page)
        assert (got.status, got.headers["location"].startswith("/login?next=")) == (303, True), page
    assert nobody.get("/v1/plans").status == 401
    assert nobody.get("/login").status == 200


def test_people_log_in_here_with_their_accounts(lived: Pages) -> None:
    """The same accounts and sessions as on the report's pages, whose forms are here too, in this navigation."""
    lived.gate.people.add("kim", Role.VIEWER, "it rains in May", lived._actor())
    browser = lived.browser(None)
    _, _, after = browser.get("/login?next=/runs").text.partition('name="csrf" value="')
    fields = {"csrf": after.partition('"')[0], "account": "kim", "password": "it rains in May", "next": "/runs"}
    got = browser.post("/login", fields)
    assert (got.status, got.headers["location"]) == (303, "/runs")
    page = browser.get("/account").text
    assert "Kill switch" in page
    assert "Deliveries" not in page


def test_a_plan_is_shown_whole(lived: Pages) -> None:
    """Evidence beside limits, what undoes each step, what it takes of the limits, who approved, what came of it."""
    browser = lived.browser(Role.VIEWER)
    (sha256,) = [one["sha256"] for one in browser.get("/v1/plans").json["plans"] if one["taken"]]
    page = browser.get(f"/plans/{sha256}").text
    for words in (
        *("suspend", "build-7", "ann", "highest CPU in 14 d", "resume", "1 of 10 a run", "4 vCPU"),
        *("applied by run", "Approved by bob and eve", "two people", sha256, "1 done"),
    ):
        assert words in page, words


def test_lists_show_what_came_of_plans(lived: Pages) -> None:
    """The newest plan first, its approvals counted, its run a step away, and how to bring back what it took."""
    browser = lived.browser(Role.VIEWER)
    plans = browser.get("/").text
    assert plans.index("2 of 2") < plans.index("1 of 1")
    assert "None waits for approval." in plans
    (run_id, _) = [one["run_id"] for one in browser.get("/v1/runs").json["runs"]]
    assert run_id in browser.get("/runs").text
    page = browser.get(f"/runs/{run_id}").text
    assert f"fallow-orchestrate undo {run_id}" in page
    assert "build-7" in page
    assert browser.get("/?limit=1").text.count("<tbody") == 1
    assert "Older plans" in browser.get("/?limit=1").text
    assert "Older runs" in browser.get("/runs?limit=1").text


def test_nothing_yet_is_told(made: Pages) -> None:
    """Every list of a controller that has done nothing says so."""
    browser = made.browser(Role.VIEWER)
    assert "There has been no plan yet" in browser.get("/").text
    assert "Nothing has been done yet" in browser.get("/runs").text
    assert "There is no line yet" in browser.get("/audit").text
    assert "There is no line yet" in browser.get("/audit?check=1").text


def test_what_is_not_there_is_404(lived: Pages) -> None:
    """Plans and runs of other names, whole or not."""
    browser = lived.browser(Role.VIEWER)
    for path in ("/plans/abc", "/plans/zzzzzz", f"/plans/{'0' * 64}", "/runs/nothing", "/plans"):
        assert browser.get(path).status == 404, path
        assert browser.get(f"/v1{path}").status == (404 if path != "/plans" else 200), path


def test_a_parameter_that_is_none_is_422(lived: Pages) -> None:
    """Nothing that was asked for is silently left out."""
    browser = lived.browser(Role.VIEWER)
    for target in ("/?limit=0", "/runs?limit=x", "/audit?before=-1", "/v1/audit?limit=1001", "/v1/plans?nonsense=1"):
        assert browser.get(target).status == 422, target


def test_script_in_names_is_text(made: Pages) -> None:
    """A VM, an owner, an evidence and reasons that would be script are shown as they are, on every page."""
    made.cloud.ok("plan", "--by", "ann")
    (plan,) = made.records.plans()
    sha256 = made.keep(plan, name=EVIL, owner=EVIL, reason=EVIL)
    approver, operator = made.browser(Role.APPROVER), made.browser(Role.OPERATOR)
    made.approve(approver, sha256, reason=EVIL)
    operator.post("/stop", {"csrf": operator.csrf, "reason": EVIL})
    made.records.note("kept by link", {"words": EVIL, EVIL: EVIL}, who=EVIL, now_s=made.cloud.now_s)
    for page in ("/", f"/plans/{sha256}", "/runs", "/audit", "/audit?check=1", "/stop"):
        got = operator.get(page)
        assert got.status == 200
        assert "<script" not in got.text, page
        assert "default-src 'none'" in got.headers["content-security-policy"]
    assert "&lt;script&gt;" in operator.get(f"/plans/{sha256}").text
    assert operator.get("/audit").text.count("&lt;script&gt;") >= 4


@pytest.mark.parametrize("path", [path for path, _ in ACTIONS if path != "/stop"])
def test_get_on_an_action_405(lived: Pages, path: str) -> None:
    """What changes something is never done by following a link."""
    for method in ("GET", "HEAD"):
        got = lived.browser(Role.ADMIN).ask(method, path)
        assert (got.status, got.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(("path", "kind"), ACTIONS)
def test_post_without_csrf_token_403(lived: Pages, path: str, kind: Kind) -> None:
    """A form that no page of ours made does nothing, whoever's browser sends it."""
    browser = lived.browser(Role.ADMIN)
    for csrf in ("", "0" * 64, lived.browser(Role.OPERATOR).csrf):
        if kind is Kind.PAGE:
            got = browser.post(path, {"csrf": csrf, "reason": "x", "seen": "x"})
        else:
            browser.csrf = csrf
            got = browser.call("POST", path, {})
        assert got.status == 403, csrf
        assert "form" in got.text
    assert lived.backing.switch.read() is None


@pytest.mark.parametrize(("path", "kind"), ACTIONS)
def test_foreign_origin_403(lived: Pages, path: str, kind: Kind) -> None:
    """Another site's page changes nothing, even with the right token."""
    browser = lived.browser(Role.ADMIN)
    sent = "application/json" if kind is Kind.API else "application/x-www-form-urlencoded"
    body = b"{}" if kind is Kind.API else f"csrf={browser.csrf}&reason=x".encode()
    for origin in ("https://evil.example", "null", f"https://{HOST}"):
        headers = (f"Content-Type: {sent}", f"Origin: {origin}", f"Fallow-Csrf: {browser.csrf}")
        assert browser.ask("POST", path, *headers, body=body).status == 403, origin
    assert lived.backing.switch.read() is None


def test_another_name_of_the_server_403(lived: Pages) -> None:
    """A name that somebody else made point here is none of ours."""
    assert lived.browser(Role.ADMIN).ask("GET", "/", host="evil.example").status == 403


def test_the_log_page_by_page(made: Pages) -> None:
    """Newest first, no line twice, none left out, and links to plans."""
    for number in range(120):
        made.records.note("noted", {"number": number}, who="ann", now_s=made.cloud.now_s)
    browser = made.browser(Role.VIEWER)
    pages = [browser.get(f"/audit{before}").text for before in ("", "?before=71", "?before=21")]
    shown = [[int(part.split('"')[0]) for part in page.split('id="line-')[1:]] for page in pages]
    assert [number for page in shown for number in page] == list(range(120, 0, -1))
    assert ("Older lines" in pages[2], "Newer lines" in pages[0], "Newer lines" in pages[1]) == (False, False, True)


def test_programs_read_the_log_to_its_end(lived: Pages) -> None:
    """`after` and `next` lead through all of it, once."""
    browser, found, after = lived.browser(Role.VIEWER), list[int](), 0
    while after is not None:
        got = browser.get(f"/v1/audit?after={after}&limit=7").json
        found += [entry["number"] for entry in got["entries"]]
        after = got["next"]
    assert found == [line.number for line in lived.lines]


def tamper(made: Pages, number: int, **values: object) -> None:
    """Somebody changes a line behind the program's back."""
    table = tables.audit
    with made.backing.engine().begin() as connection:
        for name in connection.scalars(sa.text("select name from sqlite_master where type = 'trigger'")):
            connection.execute(sa.text(f'drop trigger "{name}"'))
        connection.execute(sa.update(table).where(table.c.number == number).values(**values))


def test_a_line_that_was_changed_shows(made: Pages) -> None:
    """The check names it, and the page is no longer green."""
    for number in range(10):
        made.records.note("noted", {"number": number}, who="ann", now_s=made.cloud.now_s)
    browser = made.browser(Role.VIEWER)
    good = browser.get("/audit?check=1").text
    assert "Lines 1 to 10 are as they were written." in good
    assert f"10:{made.lines[-1].sha256}" in good
    tamper(made, 4, who="bob")
    page = browser.get("/audit?check=1").text
    assert "Not as it was written" in page
    assert "Line 4 its hash does not fit" in page
    assert browser.get("/audit").status == 200


def test_a_check_takes_a_bounded_time(made: Pages) -> None:
    """Of a long log the newest lines are looked at, and what was not is told."""
    for number in range(30):
        made.records.note("noted", {"number": number}, who="ann", now_s=made.cloud.now_s)
    found = check_newest(made.records, most=10)
    assert (found.first, found.last, found.broken, found.is_whole) == (21, 30, None, False)
    tamper(made, 5, who="bob")
    assert check_newest(made.records, most=10).broken is None
    broken = check_newest(made.records, most=29).broken
    assert broken is not None
    assert broken.number == 5


def test_a_log_that_was_cut_off_shows(lived: Pages, made: Pages) -> None:
    """Plans and runs remember lines that are no longer there."""
    sha256 = made.suspending()
    assert sha256
    head = newest_number(made.records)
    assert check_newest(made.records).broken is None
    tamper(made, head, who="x")
    with made.backing.engine().begin() as connection:
        connection.execute(sa.delete(tables.audit).where(tables.audit.c.number > head - 2))
    broken = check_newest(made.records).broken
    assert broken is not None
    assert broken.number > head - 2
    assert check_newest(lived.records).broken is None


def test_the_newest_line_is_found_without_reading_the_log(made: Pages) -> None:
    """Whatever its number is; and a page before the first line is empty."""
    records: Records = made.records
    for count in range(9):
        assert newest_number(records) == count
        assert [entry.number for entry in lines_before(records, count + 1, 3)] == list(
            range(count, max(count - 3, 0), -1)
        )
        records.note("noted", {}, who="ann", now_s=made.cloud.now_s)


def test_a_body_that_is_no_document_is_shown_as_it_is(made: Pages) -> None:
    """Whoever wrote nonsense over a line is found, and the page still works."""
    made.records.note("noted", {}, who="ann", now_s=made.cloud.now_s)
    tamper(made, 1, body="{" * 5000)
    assert "{{{" in made.browser(Role.VIEWER).get("/audit").text


def test_a_program_approves_with_a_token(made: Pages) -> None:
    """Scope approve of an approver is enough; scope write of the same account is not; no csrf value is needed."""
    sha256 = made.suspending()
    path, seen = f"/v1/plans/{sha256}/approve", made.seen(sha256)
    browser = made.browser(None)
    write = made.token(Role.APPROVER, Scope.WRITE)
    sent = (f'If-Match: "{seen}"', "Content-Type: application/json")
    assert browser.ask("POST", path, f"Authorization: Bearer {write}", *sent, body=b"{}").status == 403
    approve = f"Authorization: Bearer {made.token(Role.APPROVER, Scope.APPROVE)}"
    assert browser.ask("POST", path, approve, "Content-Type: application/json", body=b"{}").status == 428
    got = browser.ask("POST", path, approve, *sent, body=b'{"reason": "nightly"}')
    assert (got.status, got.json["new"], got.json["approvals_counting"]) == (200, True, ["approver-ann"])
    (told,) = [json.loads(line.body) for line in made.lines if line.what == "approval told of"]
    assert (told["via"], told["reason"]) == ("api-token", "nightly")
