"""`fallow-aggregator`: takes in what agents push. Heavy imports wait until a command needs them.

A flush worker imports this module again when it is spawned, so it must stay light.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aggregator.config import AggregatorConfig

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 69

_EXAMPLES = """examples:
  fallow-aggregator run --data /var/lib/fallow --listen 0.0.0.0:8899 --tls-cert cert.pem --tls-key key.pem
  fallow-aggregator token mint --data /var/lib/fallow --uses 50 --ttl 24h
  fallow-aggregator token pending --data /var/lib/fallow
  fallow-aggregator vms list --data /var/lib/fallow
  fallow-aggregator check --config /etc/fallow/aggregator.toml
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    from aggregator import inventory_cli, nodes_cli, rows_cli, stores_cli, token_cli, vms_cli
    from aggregator.config import AggregatorConfig, option_name

    parser = argparse.ArgumentParser(
        prog="fallow-aggregator",
        description="Takes in what agents push and keeps one store per VM.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    run = subparsers.add_parser("run", help="run the service", description="Runs until SIGTERM; needs no file.")
    run.add_argument("--config", type=Path, metavar="FILE", help="TOML settings; options given here go over them")
    for item in fields(AggregatorConfig):
        key = item.metadata["key"]
        told: dict[str, Any] = {"metavar": "VALUE"}
        if isinstance(item.default, bool):
            told = {"action": "store_const", "const": "true"}
        run.add_argument(option_name(key), dest=key, help=_HELP.get(key, f"setting {key}"), **told)
    run.set_defaults(command=_run)
    token_cli.add_parsers(subparsers)
    inventory_cli.add_parsers(subparsers)
    vms_cli.add_parsers(subparsers)
    stores_cli.add_parsers(subparsers)
    rows_cli.add_parsers(subparsers)
    nodes_cli.add_parsers(subparsers)
    return parser


_HELP = {
    "data": "data directory (default: $FALLOW_DATA, else /var/lib/fallow)",
    "listen": "HOST:PORT of the agents' door (default 127.0.0.1:8899)",
    "admin": "HOST:PORT of the admin door (default 127.0.0.1:8900)",
    "tls.cert": "PEM certificate chain of the doors; read again when it changes",
    "tls.key": "PEM private key, readable by its owner alone",
    "tls.client_ca": "PEM authorities: agents need a certificate of one of them",
    "plain_behind_proxy": "plain text to other machines is wanted: a proxy before the doors ends TLS",
    "proxies": "networks of proxies whose X-Forwarded-For is believed (10.0.0.0/8,192.0.2.7)",
    "enrolment.check": "what VMs that enrol are held against: auto, inventory or off (default auto)",
    "fleet.url": "fleet database (default: SQLite in the data directory)",
    "node.name": "this aggregator's name among those of the fleet (default: made once, kept in the data directory)",
    "node.url": "where the others and the report ask its admin door (default: as it listens)",
    "node.ca": "PEM authorities of the others' admin doors (default: the system's)",
    "join.interval": "how often histories that another aggregator holds in part are joined (default 1min)",
    "join.after": "how long a large part is left where it is (default 1h)",
    "flush.interval": "how often stores are written (default 15min)",
    "flush.turns": "each VM's samples are stored by every Nth flush (default 4)",
    "flush.workers": "worker processes (default 1)",
    "summary.windows": "windows of the summaries (default 1d,3d,7d,14d,30d)",
    "retention.raw": "how long samples are kept (default 14d)",
    "retention.hours": "how long hourly rollups are kept (default 400d)",
    "buffer.samples": "samples held in memory before pushes get 503 (default 4000000)",
    "limits.per_address": "connections of one address (default: a tenth of all)",
    "limits.per_token": "pushes of one VM at once (default 32)",
    "journal.segment": "size of a journal segment (default 64MiB)",
}


def _run(options: argparse.Namespace) -> int:
    import gc
    import logging
    import signal
    import time

    from apscheduler.schedulers.twisted import TwistedScheduler
    from twisted.internet import reactor as the_reactor
    from twisted.internet.defer import Deferred
    from twisted.internet.error import CannotListenError
    from twisted.logger import globalLogBeginner, textFileLogObserver

    from agent.settings import ConfigError
    from aggregator.door_limits import raise_descriptor_limit
    from aggregator.journal import JournalError
    from aggregator.service import AggregatorService

    try:
        config = _read_config(options)
    except ConfigError as error:
        return _complain(error, EXIT_USAGE)
    observers: list[Any] = [textFileLogObserver(sys.stderr)]
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    # The one global; its type depends on the platform.
    reactor: Any = the_reactor
    # It would count on the wall clock: set back by a day, every timer would stand still for a day.
    reactor.seconds = time.monotonic
    status = 0
    try:
        service = AggregatorService(
            config,
            reactor=reactor,
            scheduler=TwistedScheduler(reactor=reactor, timezone="UTC"),
            clock=time.time,
            descriptors=raise_descriptor_limit(),
        )
    except Exception as error:
        return _explain(error)

    def failed(failure: object) -> None:
        nonlocal status
        status = EXIT_FAILED
        value = getattr(failure, "value", failure)
        if isinstance(value, CannotListenError | ConfigError | JournalError | OSError):
            _complain(value, status)
        else:
            print(f"fallow-aggregator: cannot start: {failure}", file=sys.stderr)
        reactor.stop()

    def begin() -> None:
        Deferred.fromCoroutine(service.start()).addErrback(failed)

    # What is alive now lives as long as the process: no need to walk it at every collection.
    gc.collect()
    gc.freeze()
    # Nearly all that a push allocates goes by reference counting; walking what is left that often costs a tenth of it.
    gc.set_threshold(50_000, 20, 50)
    reactor.callWhenRunning(begin)
    signal.signal(signal.SIGHUP, lambda _number, _frame: reactor.callFromThread(service.look_at_certificate))
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(service.stop()))
    reactor.run()
    return status


def _explain(error: Exception) -> int:
    """Says on stderr why there can be no service; returns the exit status. Raises `error` where it is our mistake."""
    from agent.settings import ConfigError
    from aggregator.data_lock import DataDirectoryBusyError
    from aggregator.fleet_errors import AWAY, is_refusal, trouble
    from aggregator.journal import JournalError
    from aggregator.nodes import NodeNameTakenError
    from aggregator.problems import Refused

    match error:
        case ConfigError():
            return _complain(error, EXIT_USAGE)
        case DataDirectoryBusyError() | JournalError() | NodeNameTakenError():
            return _complain(error, EXIT_FAILED)
        case Refused():
            return _complain(error, EXIT_UNREACHABLE)
    if is_refusal(error):
        return _complain(trouble(error), EXIT_USAGE)
    if isinstance(error, AWAY):
        return _complain(trouble(error), EXIT_UNREACHABLE)
    raise error


def _read_config(options: argparse.Namespace) -> AggregatorConfig:
    from aggregator.config import AggregatorConfig, load_config

    given = {
        item.metadata["key"]: value
        for item in fields(AggregatorConfig)
        if (value := getattr(options, item.metadata["key"])) is not None
    }
    return load_config(options.config, given)


def _complain(error: object, status: int) -> int:
    for line in str(error).splitlines():
        print(f"fallow-aggregator: {line}", file=sys.stderr)
    return status


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = build_parser().parse_args(arguments)
    status: int = options.command(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
