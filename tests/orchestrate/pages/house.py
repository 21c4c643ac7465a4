"""The controller's pages over the small cloud of `control_house`, spoken to in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrate.pages.app import make_handlers
from orchestrate.pages.backing import Backing
from orchestrate.pages.files import load_page_files, page_environment
from orchestrate.pages.refusals import RefusalLog
from orchestrate.pages.routes import ROUTES
from orchestrate.plan import Plan
from orchestrate.records import AuditEntry, Records
from orchestrate.schema import open_orchestrate_db
from reports.people.administration import Actor
from reports.people.gate import Gate, open_gate
from reports.people.roles import Role, Scope
from reports.people.sessions import SESSION_COOKIE, csrf_secret
from reports.schema import open_report_db
from reports.web.door import Doorkeeper, make_site
from reports.web.login_pages import Desk
from reports.web.renderer import Renderer
from reports.web.security import Csrf, Surface
from reports.web.static import StaticFiles
from tests.aggregator.admin_fakes import InlineReactor
from tests.orchestrate.control_house import GRACE_S, House, house
from tests.reports.fleets import Spec
from tests.reports.people.persons import quick_hasher
from tests.reports.web.wire import Browser, Got

STATIC: StaticFiles = load_page_files()
# Every plan that takes something needs two people.
TWO = "[orchestrate.approval]\ntwo_persons_above = 0"
HOST = "127.0.0.1:8903"


@dataclass
class Pages:
    """The pages, and the cloud whose plans they show; its clock is theirs."""

    cloud: House
    backing: Backing
    gate: Gate
    site: Any
    reactor: InlineReactor

    @property
    def records(self) -> Records:
        return self.backing.records

    @property
    def lines(self) -> list[AuditEntry]:
        """The audit log."""
        return list(self.records.audit(limit=100_000))

    def browser(self, role: Role | None, name: str | None = None) -> Browser:
        """One in which somebody of this role is logged in; None: nobody. Args: name: the role's unless told."""
        found = Browser(self.site, self.reactor, host=HOST)
        if role is None:
            return found
        account, now_s = name or f"{role.value}-ann", self.cloud.now_s
        self._ensure(account, role)
        session = self.gate.begin_session(account, "192.0.2.1", now_s, how="test")
        found.cookie, found.csrf = f"{SESSION_COOKIE}={session.token}", csrf_secret(session.token)
        return found

    def token(self, role: Role, scope: Scope, name: str | None = None) -> str:
        """An API token of somebody of this role."""
        account = name or f"{role.value}-ann"
        self._ensure(account, role)
        _, text = self.gate.people.make_token(account, "a test", scope, 3600.0, self._actor())
        return text

    def approve(self, browser: Browser, sha256: str, *, reason: str = "", seen: str | None = None) -> Got:
        """What the form on the plan's page sends, as it stands there now."""
        fields = {"csrf": browser.csrf, "seen": self.seen(sha256) if seen is None else seen, "reason": reason}
        return browser.post(f"/plans/{sha256}/approve", fields)

    def seen(self, sha256: str) -> str:
        """What a form made now carries, taken from the answer of the API."""
        return str(self.browser(Role.VIEWER).get(f"/v1/plans/{sha256}").headers["etag"]).strip('"')

    def suspending(self, *, by: str = "ann") -> str:
        """The hash of a plan that suspends the idle VM, whose grace is over."""
        self.cloud.run()
        self.cloud.now_s += GRACE_S
        planned = self.cloud.read("plan", "--by", by)
        assert {step["verb"] for step in planned["plan"]["steps"]} == {"suspend"}
        return str(planned["sha256"])

    def keep(self, plan: Plan, **changes: Any) -> str:
        """Keeps a plan with these changes; its hash."""
        steps = tuple(replace(step, **changes) for step in plan.steps)
        return self.records.add_plan(replace(plan, steps=steps))

    def _ensure(self, account: str, role: Role) -> None:
        if account not in {one.name for one in self.gate.people.accounts()}:
            self.gate.people.add(account, role, None, self._actor())

    def _actor(self) -> Actor:
        return Actor(name="the test", now_s=self.cloud.now_s)


@contextmanager
def plan_pages(folder: Path, specs: list[Spec] | None = None, *, more: str = TWO) -> Iterator[Pages]:
    """Pages over a cloud of these VMs. Args: more: settings beside the usual ones."""
    with house(folder, specs, more=more) as cloud, pages_of(cloud) as made:
        yield made


@contextmanager
def pages_of(cloud: House) -> Iterator[Pages]:
    """Pages over a cloud that is there."""
    config = cloud.config()
    report = config.report
    reactor = InlineReactor()
    people = open_report_db(report.fleet_url, report.data_dir)
    control = open_orchestrate_db(report.fleet_url, report.data_dir)
    environment = page_environment(report.zone, STATIC.address)
    backing = Backing(config=config, engine=lambda: control, environment=environment, clock=lambda: cloud.now_s)
    gate = open_gate(people, hasher=quick_hasher())
    desk = Desk(gate=gate, renderer=Renderer(environment), zone=report.zone, clock=lambda: cloud.now_s)
    refusals = RefusalLog(lambda: backing.records)
    handlers, error_page = make_handlers(backing, desk, refusals)
    keeper = Doorkeeper(
        gate=gate,
        surface=Surface(),
        clock=lambda: cloud.now_s,
        csrf=Csrf(b"secret of a test"),
        on_refusal=refusals.note_role,
    )
    site = make_site(handlers, error_page, STATIC, keeper=keeper, reactor=reactor, threads=reactor, routes=ROUTES)
    try:
        yield Pages(cloud=cloud, backing=backing, gate=gate, site=site, reactor=reactor)
    finally:
        people.dispose()
        control.dispose()
