"""The commands of `fallow-report`: the composition root of each.

What a command alone needs loads when it runs, so that `--help` stays light.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from reports.config import ReportConfig

if TYPE_CHECKING:
    from reports.deliver.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a command may use of the process that it runs in.

    Args:
        clock: Unix seconds.
        width, colour: of text on `out`; None where lines may have any length.
        arguments: options that make another command read the same fleet by the same settings.
    """

    clock: Callable[[], float]
    out: TextIO
    err: TextIO
    width: int | None
    colour: bool
    arguments: tuple[str, ...]


Run = Callable[[argparse.Namespace, ReportConfig, Surroundings], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command. `options` adds what it takes beside where the fleet and the configuration are."""

    summary: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Run


def _report_options(parser: argparse.ArgumentParser) -> None:
    from reports.report_cli import add_options

    add_options(parser)


def _report(options: argparse.Namespace, config: ReportConfig, around: Surroundings) -> int:
    from reports.report_cli import run

    return run(options, config, out=around.out, clock=around.clock, width=around.width, colour=around.colour)


def _compare_options(parser: argparse.ArgumentParser) -> None:
    from reports.compare_cli import add_compare_options

    add_compare_options(parser)


def _compare(options: argparse.Namespace, config: ReportConfig, around: Surroundings) -> int:
    from reports.compare_cli import run_compare

    return run_compare(options, config, out=around.out, clock=around.clock, width=around.width, colour=around.colour)


def _policies_options(parser: argparse.ArgumentParser) -> None:
    from reports.compare_cli import add_policies_options

    add_policies_options(parser)


def _policies(options: argparse.Namespace, config: ReportConfig, around: Surroundings) -> int:
    from reports.compare_cli import run_policies

    return run_policies(options, config, out=around.out)


def _keep_options(parser: argparse.ArgumentParser) -> None:
    from reports.keep_cli import add_options

    add_options(parser)


def _keep(options: argparse.Namespace, config: ReportConfig, around: Surroundings) -> int:
    from reports.keep_cli import run

    return run(
        options,
        config,
        clock=around.clock,
        zone=config.zone,
        out=around.out,
        err=around.err,
        width=around.width,
        colour=around.colour,
    )


def _judge_options(parser: argparse.ArgumentParser) -> None:
    from reports.judge_cli import add_options

    add_options(parser)


def _judge(options: argparse.Namespace, config: ReportConfig, around: Surroundings) -> int:
    from reports.judge_cli import run

    return run(
        options,
        config,
        clock=around.clock,
        out=around.out,
        err=around.err,
        width=around.width,
        colour=around.colour,
    )


def _schedule_options(parser: argparse.ArgumentParser) -> None:
    from reports.deliver.cli import add_options

    add_options(parser)


def _schedule(options: argparse.Namespace, config: ReportConfig, around: Surroundings) -> int:
    from reports.deliver.cli import run
    from reports.deliver.service import serve
    from reports.documents import make_document
    from reports.schema import open_report_db

    def document(now_s: float, since_s: float | None) -> Document:
        return make_document(config, now_s, since_s)

    return run(
        options,
        config.deliveries,
        zone=config.zone,
        open_engine=lambda: open_report_db(config.fleet_url, config.data_dir),
        make_document=document,
        serve=serve,
        clock=around.clock,
        out=around.out,
        err=around.err,
        width=around.width,
    )


def _user_options(parser: argparse.ArgumentParser) -> None:
    from reports.people.user_cli import add_options

    add_options(parser)


def _user(options: argparse.Namespace, config: ReportConfig, around: Surroundings) -> int:
    from reports.people.user_cli import open_terminal, run

    terminal = open_terminal(around.out, around.err, width=around.width, colour=around.colour)
    return run(options, config, terminal, clock=around.clock)


def _nodes_options(parser: argparse.ArgumentParser) -> None:
    from reports.nodes_cli import add_options

    add_options(parser)


def _nodes(options: argparse.Namespace, config: ReportConfig, around: Surroundings) -> int:
    from reports.nodes_cli import run

    return run(options, config, clock=around.clock, out=around.out, width=around.width, colour=around.colour)


def _serve_options(parser: argparse.ArgumentParser) -> None:
    from reports.web.cli import add_options

    add_options(parser)


def _serve(options: argparse.Namespace, config: ReportConfig, around: Surroundings) -> int:
    from apscheduler.schedulers.twisted import TwistedScheduler
    from twisted.internet import reactor

    from reports.web.cli import serve
    from reports.web.service import PagesService

    def make_service(config: ReportConfig) -> PagesService:
        scheduler = TwistedScheduler(reactor=reactor, timezone="UTC")
        return PagesService(config, around.arguments, reactor=reactor, scheduler=scheduler, clock=around.clock)

    return serve(options, config, err=around.err, reactor=reactor, make_service=make_service)


COMMANDS: Mapping[str, Command] = {
    "": Command(
        summary="Ranks the VMs that lie fallow, with the figures beside their limits.",
        options=_report_options,
        run=_report,
    ),
    "compare": Command(
        summary="Judges the fleet by several policies, side by side.", options=_compare_options, run=_compare
    ),
    "policies": Command(
        summary="Lists the policies, or shows the rules of one.", options=_policies_options, run=_policies
    ),
    "keep": Command(summary="Keeps VMs from being reclaimed until a date.", options=_keep_options, run=_keep),
    "judge": Command(
        summary="Judges recorded VMs, or the fleet for later reports.", options=_judge_options, run=_judge
    ),
    "nodes": Command(
        summary="Lists the aggregators of the fleet, and what each holds.", options=_nodes_options, run=_nodes
    ),
    "schedule": Command(
        summary="Delivers reports by mail, webhook or into a directory.", options=_schedule_options, run=_schedule
    ),
    "user": Command(summary="Keeps accounts, API tokens and the record of both.", options=_user_options, run=_user),
    "serve": Command(summary="Serves the pages and their JSON API.", options=_serve_options, run=_serve),
}
