"""`fallow-agent`: the agent of one VM, and the fleets that tests and demos need."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.config import AgentConfig

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE = 0, 1, 2, 69

EXAMPLES = """\
examples:
  fallow-agent once --json
  fallow-agent enroll --aggregator https://fallow.example:8899 --ca ca.pem --join-token-file join.token
  fallow-agent run --config /etc/fallow/agent.toml
  fallow-agent status --json
"""

# Commands with a module of their own, which is loaded for that command alone.
FLEETS: Mapping[str, tuple[str, str]] = {
    "simulate": ("agent.simulate", "push what a fleet of simulated VMs would"),
    "replay": ("agent.replay", "push recorded VMs as if they ran now"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns: 0 done, 1 failed, 2 usage or configuration, 69 the aggregator is unreachable."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = _parser(words).parse_args(words)
    from agent.settings import ConfigError

    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except ConfigError as error:
        for problem in error.problems:
            print(f"fallow-agent: {problem}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_FAILED
    except BrokenPipeError:
        # Whoever read the results has gone; without this Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="fallow-agent", description="Watches the VM it runs in.", epilog=EXAMPLES, formatter_class=raw
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, text: str, run: Callable[[argparse.Namespace], int], examples: str
    ) -> argparse.ArgumentParser:
        epilog = f"examples:\n{examples}"
        sub = commands.add_parser(name, help=text, description=f"{text}.", epilog=epilog, formatter_class=raw)
        sub.set_defaults(run=run)
        return sub

    run = command("run", "take a sample a minute and push it", _run, "  fallow-agent run --config agent.toml\n")
    _add_settings(run)
    _add_join_token(run)

    once = command("once", "print one sample of this machine", _once, "  fallow-agent once --json --seconds 1\n")
    once.add_argument("--json", action="store_true", help="one JSON object, as it would be pushed")
    once.add_argument("--seconds", metavar="S", type=_seconds, default=5.0, help="how long to measure (default 5)")

    enroll = command(
        "enroll",
        "exchange a join token for a token of this VM",
        _enroll,
        "  fallow-agent enroll --aggregator https://fallow.example:8899 --join-token-file join.token\n"
        "  fallow-agent enroll --rotate\n",
    )
    _add_settings(enroll)
    _add_join_token(enroll)
    enroll.add_argument("--rotate", action="store_true", help="exchange the present token for a new one")

    status = command(
        "status",
        "tell how the running agent fares; 1 if it does not run or its samples do not arrive",
        _status,
        "  fallow-agent status --json\n",
    )
    _add_settings(status)
    status.add_argument("--json", action="store_true", help="one JSON object")

    for name, (module, text) in FLEETS.items():
        fleet = commands.add_parser(name, help=text, description=f"{text}.", formatter_class=raw)
        if words[:1] == [name]:
            loaded = importlib.import_module(module)
            loaded.add_options(fleet)
            fleet.set_defaults(run=loaded.run)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    # Left out where not given, so that the file's setting stands.
    add = parser.add_argument
    nothing = argparse.SUPPRESS
    add("--config", metavar="FILE", type=Path, help="TOML file; options overrule it")
    add("--aggregator", metavar="URL", default=nothing, help="https://HOST:8899 (default http://127.0.0.1:8899)")
    add("--insecure-plain", action="store_true", default=nothing, help="allow plain http:// to another machine")
    add("--ca", metavar="FILE", default=nothing, help="PEM certificates to trust instead of the system's")
    add("--state", metavar="DIR", default=nothing, help="token, spool and status (default /var/lib/fallow-agent)")
    add("--vm-id", metavar="ID", default=nothing, help="id of this VM, where the machine has none of its own")


def _add_join_token(parser: argparse.ArgumentParser) -> None:
    from agent.enroll import JOIN_TOKEN_VARIABLE

    text = f"file that holds the join token, mode 0600; - is stdin; else the variable {JOIN_TOKEN_VARIABLE}"
    parser.add_argument("--join-token-file", metavar="FILE", default=argparse.SUPPRESS, help=text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0.1 and 3600")
    return seconds


def _config(options: argparse.Namespace) -> AgentConfig:
    from agent.config import OPTIONS, parse_config
    from agent.settings import load_toml

    table = load_toml(options.config) if options.config is not None else {}
    given = {name: name.removeprefix("--").replace("-", "_") for name in OPTIONS}
    line = {name: getattr(options, key) for name, key in given.items() if hasattr(options, key)}
    return parse_config(table, source=str(options.config), options=line)


def _join_token(config: AgentConfig) -> Callable[[], str] | None:
    """Reads the join token; None: none is configured. Raises ConfigError: stdin is empty."""
    from agent.enroll import JOIN_TOKEN_VARIABLE
    from agent.settings import ConfigError, read_secret

    path = config.join_token_file
    if path is not None and str(path) != "-":
        return lambda: read_secret(path)
    token = (os.environ.get(JOIN_TOKEN_VARIABLE, "") if path is None else sys.stdin.readline()).strip()
    if path is not None and not token:
        raise ConfigError("--join-token-file: nothing on stdin")
    return (lambda: token) if token else None


def _run(options: argparse.Namespace) -> int:
    import gc
    import random
    import signal
    import time

    from agent.identity import IdentityError
    from agent.service import AlreadyRunningError, credentials_folder, lock_state, make_agent

    config = _config(options)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    join_token = _join_token(config)
    try:
        lock = lock_state(config)
        agent = make_agent(
            config,
            root=Path("/"),
            credentials=credentials_folder(os.environ),
            join_token=join_token,
            clock=time.time,
            mono=time.monotonic,
            chance=random.SystemRandom().random,
        )
    except (AlreadyRunningError, IdentityError, OSError) as error:
        print(f"fallow-agent: {error}", file=sys.stderr)
        return EXIT_FAILED
    # What is there now stays: no later collection needs to walk through it.
    gc.collect()
    gc.freeze()
    ends = {signal.SIGTERM, signal.SIGINT}
    # Blocked in every thread and fetched here: a handler could run while a lock is held.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    agent.run(lambda seconds: signal.sigtimedwait(ends, seconds) is not None)
    os.close(lock)
    return EXIT_DONE


def _once(options: argparse.Namespace) -> int:
    import time

    from agent.readings import SystemReadings
    from agent.sample import FIELDS
    from agent.sampler import make_sample
    from agent.wire import DEFAULT_INTERVAL_S, encode_sample

    readings = SystemReadings()
    before, before_s = readings.reading(), time.monotonic()
    time.sleep(options.seconds)
    after, after_s = readings.reading(), time.monotonic()
    ts = int(time.time() // DEFAULT_INTERVAL_S) * DEFAULT_INTERVAL_S
    sample = make_sample(before, after, ts=ts, elapsed_s=after_s - before_s, busiest_ratio=0.0)
    if sample is None:
        print("fallow-agent: the CPU counters of this machine went back: try again", file=sys.stderr)
        return EXIT_FAILED
    if options.json:
        print(encode_sample(sample))
        return EXIT_DONE
    for name in ("ts", *(field.name for field in FIELDS)):
        value = getattr(sample, name)
        print(f"{name:24} {'-' if value is None else f'{value:.6g}' if isinstance(value, float) else value}")
    return EXIT_DONE


def _enroll(options: argparse.Namespace) -> int:
    from agent.enroll import (
        JOIN_TOKEN_VARIABLE,
        EnrolmentError,
        enrol,
        gather_evidence,
        load_credential,
        rotate,
        save_credential,
    )
    from agent.identity import IdentityError, boot_id
    from agent.push import UnreachableError
    from agent.readings import addresses
    from agent.service import credentials_folder, identify, make_link
    from agent.settings import ConfigError

    config = _config(options)
    link = make_link(config)
    try:
        # Before the join token is spent: its answer needs a place to stay.
        config.state.mkdir(mode=0o750, parents=True, exist_ok=True)
        if not os.access(config.state, os.W_OK):
            raise ConfigError(f"--state: {config.state}: not writable")
        if options.rotate:
            present = load_credential(config.credential_path)
            if present is None:
                raise ConfigError(f"--rotate: {config.credential_path}: not enrolled yet")
            credential = rotate(link.post, present)
        else:
            join_token = _join_token(config)
            if join_token is None:
                raise ConfigError(f"--join-token-file: missing, and {JOIN_TOKEN_VARIABLE} is not set")
            root = Path("/")
            identity = identify(config, root=root, credentials=credentials_folder(os.environ))
            ips, macs = addresses()
            evidence = gather_evidence(ips=ips, macs=macs, boot=boot_id(root))
            credential = enrol(link.post, join_token=join_token(), identity=identity, evidence=evidence)
        save_credential(config.credential_path, credential)
    except UnreachableError as error:
        print(f"fallow-agent: {error}", file=sys.stderr)
        return EXIT_UNREACHABLE
    except (EnrolmentError, IdentityError, OSError) as error:
        print(f"fallow-agent: {error}", file=sys.stderr)
        return EXIT_UNREACHABLE if isinstance(error, EnrolmentError) and error.retryable else EXIT_FAILED
    finally:
        link.close()
    print(credential.vm)
    return EXIT_DONE


def _status(options: argparse.Namespace) -> int:
    import time
    from dataclasses import asdict

    from agent.status import read_status, verdict

    config = _config(options)
    try:
        status = read_status(config.status_path)
    except OSError as error:
        print(f"fallow-agent: {config.status_path}: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    if status is None:
        print(f"fallow-agent: {config.status_path}: no agent has run on this state folder", file=sys.stderr)
        return EXIT_FAILED
    now_s = time.time()
    problem = verdict(status, now_s=now_s)
    table = {**asdict(status), "ok": problem is None, "problem": problem}
    if options.json:
        print(json.dumps(table))
    else:
        for name, value in table.items():
            age = f"  ({now_s - value:.0f} s ago)" if name.endswith(("_s", "_ts")) and _is_time(name, value) else ""
            print(f"{name:26} {'-' if value is None else value}{age}")
    return EXIT_DONE if problem is None else EXIT_FAILED


def _is_time(name: str, value: object) -> bool:
    return name != "interval_s" and isinstance(value, int | float)


if __name__ == "__main__":
    sys.exit(main())
