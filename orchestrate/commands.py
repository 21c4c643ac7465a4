"""The commands of `fallow-orchestrate`: the composition root of each.

What a command alone needs loads when it runs, so that `--help` stays light.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrate.surroundings import Surroundings

if TYPE_CHECKING:
    from orchestrate.config import OrchestrateConfig


Options = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace, "OrchestrateConfig", Surroundings], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command. `options` adds what it takes beside where the fleet and the configuration are."""

    summary: str
    options: Options
    run: Run


def _plan_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.plan_cli import add_plan_options

    add_plan_options(parser)


def _plan(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.plan_cli import run_plan

    return run_plan(options, config, around)


def _plans_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.plan_cli import add_plans_options

    add_plans_options(parser)


def _plans(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.plan_cli import run_plans

    return run_plans(options, config, around)


def _show_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.plan_cli import add_show_options

    add_show_options(parser)


def _show(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.plan_cli import run_show

    return run_show(options, config, around)


def _approve_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.plan_cli import add_approve_options

    add_approve_options(parser)


def _approve(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.plan_cli import run_approve

    return run_approve(options, config, around)


def _apply_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.run_cli import add_apply_options

    add_apply_options(parser)


def _apply(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.run_cli import run_apply

    return run_apply(options, config, around)


def _undo_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.run_cli import add_undo_options

    add_undo_options(parser)


def _undo(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.run_cli import run_undo

    return run_undo(options, config, around)


def _wake_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.run_cli import add_wake_options

    add_wake_options(parser)


def _wake(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.run_cli import run_wake

    return run_wake(options, config, around)


def _resolve_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.run_cli import add_resolve_options

    add_resolve_options(parser)


def _resolve(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.run_cli import run_resolve

    return run_resolve(options, config, around)


def _status_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.status_cli import add_status_options

    add_status_options(parser)


def _status(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.status_cli import run_status

    return run_status(options, config, around)


def _inventory_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.status_cli import add_inventory_options

    add_inventory_options(parser)


def _inventory(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.status_cli import run_inventory

    return run_inventory(options, config, around)


def _audit_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.audit_cli import add_options

    add_options(parser)


def _audit(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.audit_cli import run

    return run(options, config, around)


def _simulate_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.simulation.cli import add_options

    add_options(parser)


def _simulate(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.simulation.cli import run

    return run(
        options,
        data_dir=config.report.data_dir,
        out=around.out,
        err=around.err,
        width=around.width,
        colour=around.colour,
        clock=around.clock,
    )


def _watch_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.watch_cli import add_watch_options

    add_watch_options(parser)


def _watch(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.watch_cli import run_once, run_watch

    if options.once:
        return run_once(config, around)

    from apscheduler.schedulers.background import BackgroundScheduler
    from twisted.internet import reactor

    from orchestrate.service import WatchService
    from reports.deliver.service import DaemonThreads

    def make_service(log: Callable[[str], None]) -> WatchService:
        # A turn that hangs at a hypervisor must not keep the program from ending.
        scheduler = BackgroundScheduler(executors={"default": DaemonThreads()}, timezone="UTC")
        return WatchService(
            config, config.owners.watch, reactor=reactor, scheduler=scheduler, clock=around.clock, log=log
        )

    return run_watch(config, around, reactor=reactor, make_service=make_service)


def _serve_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.pages_cli import add_serve_options

    add_serve_options(parser)


def _serve(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from twisted.internet import reactor

    from orchestrate.pages.service import PlanPagesService
    from orchestrate.pages_cli import run_serve

    def make_service(told: OrchestrateConfig) -> PlanPagesService:
        return PlanPagesService(told, reactor=reactor, clock=around.clock)

    return run_serve(options, config, around, reactor=reactor, make_service=make_service)


def _place_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.cli_parts import add_by
    from orchestrate.hotspots.place_cli import add_options

    add_options(parser)
    add_by(parser)


def _place(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.cli_parts import fail, who
    from orchestrate.control import open_control
    from orchestrate.hotspots.ledger import StaleSite
    from orchestrate.hotspots.place_cli import run
    from orchestrate.moves import sites_now

    by = who(options)
    with open_control(config, clock=around.clock, pause=around.pause) as control:
        sources = control.sources
        try:
            return run(
                options,
                look=lambda holds: sites_now(sources, sources.world(all_minutes=True), holds),
                records=control.records,
                by=by,
                out=around.out,
                clock=around.clock,
                use_ratio=config.hotspots.planning.use_ratio,
            )
        except StaleSite as error:
            return fail(around, error)


def _detect_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.hotspots.detect_cli import add_options

    add_options(parser)


def _detect(options: argparse.Namespace, _config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.hotspots.detect_cli import run

    return run(options, out=around.out, err=around.err, width=around.width, colour=around.colour)


def _copy_fleet_options(parser: argparse.ArgumentParser) -> None:
    from orchestrate.copy_fleet_cli import add_options

    add_options(parser)


def _copy_fleet(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.copy_fleet_cli import run

    return run(options, config, around)


COMMANDS: Mapping[str, Command] = {
    "plan": Command(
        summary="Tells what would be done now, why, and what is left out.", options=_plan_options, run=_plan
    ),
    "plans": Command(summary="Lists the newest plans.", options=_plans_options, run=_plans),
    "show": Command(summary="Prints one plan whole.", options=_show_options, run=_show),
    "approve": Command(summary="Notes somebody's yes to a plan.", options=_approve_options, run=_approve),
    "apply": Command(
        summary="Does exactly what an approved plan says, each step re-checked just before.",
        options=_apply_options,
        run=_apply,
    ),
    "undo": Command(summary="Brings back what a run took.", options=_undo_options, run=_undo),
    "wake": Command(summary="Gives one VM back: resumes or starts it.", options=_wake_options, run=_wake),
    "status": Command(
        summary="Tells who leads, what is under way and what waits for a person.", options=_status_options, run=_status
    ),
    "resolve": Command(
        summary="Notes what a person found of an action whose outcome is not known.",
        options=_resolve_options,
        run=_resolve,
    ),
    "inventory": Command(
        summary="Lists hosts and VMs with the agents that run in them.", options=_inventory_options, run=_inventory
    ),
    "audit": Command(summary="Lists what was done by whom, or verifies that log.", options=_audit_options, run=_audit),
    "watch": Command(
        summary="The service: looks every minute, applies what is approved, serves the owners' links.",
        options=_watch_options,
        run=_watch,
    ),
    "serve": Command(
        summary="Serves plans, approvals, runs, the audit log and the kill switch to people who log in.",
        options=_serve_options,
        run=_serve,
    ),
    "place": Command(
        summary="Tells on which host a new VM fits, and holds the room for it.", options=_place_options, run=_place
    ),
    "detect": Command(
        summary="Replays recorded load by the detectors of hot hosts.", options=_detect_options, run=_detect
    ),
    "simulate": Command(
        summary="Replays load over a park of hosts, by several policies.", options=_simulate_options, run=_simulate
    ),
    "copy-fleet": Command(
        summary="Copies the fleet database to an empty one, such as from SQLite to PostgreSQL.",
        options=_copy_fleet_options,
        run=_copy_fleet,
    ),
}
