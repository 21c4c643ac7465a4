"""Everything that a command needs to look and to act, opened together and closed together."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import sqlalchemy as sa

from agent.settings import ConfigError
from aggregator.fleet_db import open_fleet_read_only, reading
from orchestrate.checks import FreshChecks
from orchestrate.config import OrchestrateConfig
from orchestrate.database import SqlRecords, check_clock
from orchestrate.driver import Driver
from orchestrate.drivers.registry import open_driver
from orchestrate.executor import Executor, Result
from orchestrate.live_nodes import LiveNodes
from orchestrate.moves import MOVES, release_room
from orchestrate.orders import Timeouts
from orchestrate.plan import Plan, Step
from orchestrate.reconcile import reconcile
from orchestrate.records import Action, Lease, Records, StaleLease
from orchestrate.report_events import tell_report
from orchestrate.schema import open_orchestrate_db
from orchestrate.sites import Sites
from orchestrate.sources import Sources
from reports.node_doors import NodeDoors, connector
from reports.node_rows import read_nodes
from reports.nodes import Node
from reports.report_cli import check_window
from reports.schema import open_report_db
from reports.words import time_words

# A run renews it while it works; where its program was killed, the next one waits for its end.
LEASE_LIFE_S = 120.0

Notify = Callable[[Step, Plan], str]
OnStep = Callable[[Action], object]


class LeaseHeld(Exception):
    """Somebody else leads, and two must not act beside each other."""

    def __init__(self, lease: Lease | None) -> None:
        who = "another controller" if lease is None else lease.holder
        until = "" if lease is None else f" until {time_words(lease.expires_s)}"
        super().__init__(f"{who} leads{until}: two controllers do not act beside each other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A controller at work.

    Args:
        report_engine: of `reports.schema.open_report_db`.
        holder: of the lease; no other process has the same.
    """

    config: OrchestrateConfig
    sources: Sources
    records: Records
    sites: Sites
    report_engine: sa.Engine
    clock: Callable[[], float]
    holder: str
    timeouts: Timeouts = field(default_factory=Timeouts)

    @contextmanager
    def leading(self) -> Iterator[Lease]:
        """The lease, with what earlier ones left open settled as far as can be; given up at the end.

        Raises: LeaseHeld; StaleLease: it was lost at once, or this machine's clock is wrong.
        """
        check_clock(self.report_engine, now_s=self.clock())
        lease = self.records.acquire(self.holder, now_s=self.clock(), life_s=LEASE_LIFE_S)
        if lease is None:
            raise LeaseHeld(self.records.leader())
        try:
            self.settle_old(lease)
            yield lease
        finally:
            with suppress(StaleLease):
                self.records.release(lease, now_s=self.clock())

    def notifier(self) -> Notify:
        """Tells owners as the settings say."""
        return _notifier(self.config, self.clock)

    def settle_old(self, lease: Lease) -> tuple[Action, ...]:
        """Finds out what became of actions that were left open, and tells the report. Raises: StaleLease."""
        settled = reconcile(
            self.records,
            self.sites.drivers,
            lease,
            by=self.holder,
            clock=self.clock,
            timeouts=self.timeouts,
            lease_life_s=LEASE_LIFE_S,
        )
        for action in settled:
            run = self.records.find_run(action.run_id)
            if run is not None:
                tell_report(self.report_engine, [action], kind=run.kind, by=run.by)
        return settled

    def apply(
        self,
        plan: Plan,
        lease: Lease,
        *,
        by: str,
        notify: Notify,
        unattended: bool = False,
        on_step: OnStep = lambda _action: None,
    ) -> Result:
        """Applies a plan under the lease and tells the report what it gave back or took.

        Args: unattended: nobody asked for this very run.

        Raises: StaleLease: nothing was done; ValueError: it was applied before.
        """
        executor = Executor(
            self.records,
            self.sites.drivers,
            FreshChecks(self.sources, unattended=unattended),
            notify=notify,
            clock=self.clock,
            stopped=self.sources.stopped,
            timeouts=self.timeouts,
            lease_life_s=LEASE_LIFE_S,
        )
        result = executor.apply(plan, lease, by=by, on_step=on_step)
        if plan.kind in MOVES:
            release_room(self.sources, plan, by=by)
        tell_report(self.report_engine, result.actions, kind=plan.kind, by=by)
        return result


def _notifier(config: OrchestrateConfig, clock: Callable[[], float]) -> Notify:
    """Tells owners as the settings say. The key of their links is made at the first notice."""

    def notify(step: Step, plan: Plan) -> str:
        from orchestrate.owners.links import KEY_FILE_NAME, LinkKey  # noqa: PLC0415
        from orchestrate.owners.notify import Notifier  # noqa: PLC0415

        config.data_dir.mkdir(mode=0o700, exist_ok=True)
        key = LinkKey.load_or_create(config.data_dir / KEY_FILE_NAME)
        return Notifier(config.owners.notify, config.owners.links, key, clock=clock)(step, plan)

    return notify


@contextmanager
def open_records(config: OrchestrateConfig) -> Iterator[Records]:
    """What the controller remembers, for commands that ask no hypervisor.

    Raises: ConfigError: no fleet database; sqlalchemy.exc.OperationalError: its server does not answer.
    """
    engine = open_orchestrate_db(config.report.fleet_url, config.report.data_dir)
    try:
        yield SqlRecords(engine)
    finally:
        engine.dispose()


@contextmanager
def open_control(
    config: OrchestrateConfig, *, clock: Callable[[], float], pause: Callable[[float], None]
) -> Iterator[Control]:
    """All of it; connects to the fleet database, and to hypervisors once they are asked.

    Raises:
        ConfigError: no drivers, one that cannot be opened, no fleet database, or windows that the aggregator lacks.
        sqlalchemy.exc.OperationalError: the server of the fleet database does not answer.
    """
    if not config.drivers:
        raise ConfigError("no hypervisors: the configuration has no [[orchestrate.drivers]] (--config FILE)")
    report = config.report
    with ExitStack() as stack:
        report_engine = open_report_db(report.fleet_url, report.data_dir)
        stack.callback(report_engine.dispose)
        writer = open_orchestrate_db(report.fleet_url, report.data_dir)
        stack.callback(writer.dispose)
        reader = open_fleet_read_only(report.fleet_url, report.data_dir)
        stack.callback(reader.dispose)
        check_window(reader, report.window_days, config.policies)
        records = SqlRecords(writer)
        sites = Sites(_open_drivers(config, clock), clock=clock, pause=pause)
        stack.callback(sites.close)

        def nodes() -> tuple[Node, ...]:
            with reading(reader) as connection:
                return read_nodes(connection)

        doors = NodeDoors(nodes, report.serve, clock=clock, connect=connector(report, clock=clock))
        sources = Sources(
            config=config,
            engine=reader,
            live=LiveNodes(doors.to_ask, clock=clock),
            sites=sites,
            records=records,
            clock=clock,
        )
        yield Control(
            config=config,
            sources=sources,
            records=records,
            sites=sites,
            report_engine=report_engine,
            clock=clock,
            holder=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}",
        )


def _open_drivers(config: OrchestrateConfig, clock: Callable[[], float]) -> Mapping[str, Driver]:
    """Raises: ConfigError: every one that cannot be opened."""
    found: dict[str, Driver] = {}
    problems: list[str] = []
    for each in config.drivers:
        try:
            found[each.name] = open_driver(each, clock=clock)
        except ConfigError as error:
            problems += error.problems
    if problems:
        for driver in found.values():
            driver.close()
        raise ConfigError(problems)
    return found
