"""What `simulate` and `replay` share as commands: options, progress, signals, and what they say at the end."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO, TypeVar

from agent.connection import Address, parse_address
from agent.enroll import JOIN_TOKEN_VARIABLE
from agent.load import Load, LoadError, Tally, UnreachableError
from agent.settings import ConfigError, parse_count, parse_duration_s, read_secret
from agent.traces import TraceError
from agent.wire import MAX_SAMPLES_PER_BATCH

log = logging.getLogger(__name__)

T = TypeVar("T")

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE = 0, 1, 2, 69
DEFAULT_BATCH = 480


def option(parse: Callable[[str], T]) -> Callable[[str], T]:
    """A parser for argparse, which shows the text of an ArgumentTypeError but hides that of a ValueError."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


def parse_batch(text: str) -> int:
    """Samples in a push. Raises: ValueError: less than 1, or more than the wire takes."""
    batch = parse_count(text)
    if batch > MAX_SAMPLES_PER_BATCH:
        raise ValueError(f"{batch} is more than a push may carry ({MAX_SAMPLES_PER_BATCH})")
    return batch


def parse_factor(text: str) -> float | None:
    """How much faster than the wall a clock runs; None for `max` or 0: as fast as the aggregator takes it.

    Raises: ValueError: neither, or negative.
    """
    if text == "max":
        return None
    try:
        factor = float(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is neither a number nor max") from error
    if not (math.isfinite(factor) and factor >= 0):
        raise ValueError(f"{text} is not a factor of at least 0")
    return factor or None


def parse_time_s(text: str) -> int:
    """Unix seconds of an ISO 8601 time; UTC where it names no zone. Raises: ValueError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time (such as 2026-11-21T08:00:00Z)") from error
    return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def add_delivery_options(parser: argparse.ArgumentParser) -> None:
    """Options on where batches go and how, the same for every command that sends for many VMs."""
    add = parser.add_argument
    add("--aggregator", metavar="URL", required=True, help="http://HOST:PORT or https://HOST:PORT")
    add("--ca", metavar="FILE", type=Path, help="certificates to trust instead of the system's")
    add("--insecure-plain", action="store_true", help="allow http to another machine")
    add(
        "--join-token-file",
        metavar="FILE",
        help=f"enrols the VMs; - is standard input; without it the variable {JOIN_TOKEN_VARIABLE} is read",
    )
    batch_help = f"most samples in one push, up to {MAX_SAMPLES_PER_BATCH} (default {DEFAULT_BATCH})"
    add("--batch", metavar="N", type=option(parse_batch), default=DEFAULT_BATCH, help=batch_help)
    add("--connections", metavar="N", type=option(parse_count), default=8, help="kept open at once (default 8)")
    add(
        "--patience",
        metavar="DURATION",
        type=option(parse_duration_s),
        default=120.0,
        help="how long one push may be put off before the aggregator counts as unreachable (default 2min)",
    )
    add("--gzip", action="store_true", help="compress batches: for slow networks, not for loopback")
    add("--manifest", metavar="FILE", type=Path, help="write what each VM is, as JSON")
    add("--json", action="store_true", help="print the final counts as one JSON object")


def read_join_token(where: str | None, *, environ: Mapping[str, str], stdin: TextIO) -> str:
    """The join token from a file, standard input or the environment. Raises: ConfigError."""
    if where == "-":
        token = stdin.readline().strip()
        if not token:
            raise ConfigError("--join-token-file: standard input is empty")
        return token
    if where is not None:
        try:
            return read_secret(Path(where))
        except ConfigError as error:
            raise ConfigError(f"--join-token-file: {error}") from error
    token = environ.get(JOIN_TOKEN_VARIABLE, "").strip()
    if not token:
        raise ConfigError(f"--join-token-file: not given, and {JOIN_TOKEN_VARIABLE} is not set")
    return token


def write_manifest(path: Path | None, content: object) -> None:
    """Writes `content` as JSON, if there is a path. Raises: ConfigError: it cannot be written."""
    if path is None:
        return
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--manifest: {error}") from error


class Progress:
    """Says on `stream` how far it is: one rewritten line on a terminal, a plain one now and then elsewhere."""

    def __init__(self, stream: TextIO, *, total: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._total = total
        self._clock = clock
        self._tty = stream.isatty()
        self._began_s = self._said_s = clock()

    def __call__(self, tally: Tally) -> None:
        """Shows the tally, unless it was shown a moment ago."""
        if self._clock() - self._said_s >= (1.0 if self._tty else 5.0):
            self._say(tally)

    def finish(self, tally: Tally) -> None:
        """Shows the last state and leaves the line."""
        self._say(tally)
        if self._tty:
            self._stream.write("\n")

    @property
    def seconds(self) -> float:
        return self._clock() - self._began_s

    def _say(self, tally: Tally) -> None:
        self._said_s = self._clock()
        share = f"{100 * tally.samples / self._total:.0f} %, " if self._total else ""
        rate = tally.samples / max(self.seconds, 1e-9)
        text = f"{share}{tally.samples} samples of {tally.vms} VMs, {rate:.0f} samples/s"
        self._stream.write(f"\r{text}\x1b[K" if self._tty else f"{text}\n")
        self._stream.flush()


def deliver(
    options: argparse.Namespace,
    produce: Callable[[Load], Awaitable[None]],
    *,
    total: int | None,
    endless: bool = False,
    extra: Mapping[str, object] | None = None,
) -> int:
    """Sends what `produce` makes until it ends or a signal stops it, and prints the counts.

    Args: total: samples to come, None for no end known.  endless: a stop is how it ends, not a failure.
        extra: further members of the final JSON object.
    Returns: an exit code.  Raises: ConfigError, LoadError.
    """
    progress = Progress(sys.stderr, total=total)
    load = Load(
        _address(options),
        join_token=read_join_token(options.join_token_file, environ=os.environ, stdin=sys.stdin),
        boot=secrets.token_hex(8),
        connections=options.connections,
        patience_s=math.inf if endless else options.patience,
        compress=options.gzip,
        source=random.Random(),  # noqa: S311 - jitter
        on_answer=progress,
    )

    async def until_stopped() -> bool:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, load.stop)
        return await load.deliver(produce)

    try:
        whole = asyncio.run(until_stopped())
    finally:
        progress.finish(load.tally)
    tally = load.tally
    if options.json:
        counts = {
            "vms": tally.vms,
            "samples": tally.samples,
            "stored": tally.stored,
            "duplicate": tally.duplicate,
            "rejected": tally.rejected,
            "seconds": round(progress.seconds, 3),
        }
        sys.stdout.write(json.dumps(counts | dict(extra or {})) + "\n")
    else:
        sys.stdout.write(
            f"{tally.samples} samples of {tally.vms} VMs in {progress.seconds:.1f} s: "
            f"{tally.stored} stored, {tally.duplicate} duplicate, {tally.rejected} rejected\n"
        )
    if tally.refused_batches:
        log.error("%d batches were refused", tally.refused_batches)
        return EXIT_FAILED
    if not whole and not endless:
        log.error("stopped before the end")
        return EXIT_FAILED
    return EXIT_DONE


def guarded(command: Callable[[], int]) -> int:
    """Runs a command; what a user or the network did wrong becomes a line on stderr and an exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        return command()
    except ConfigError as error:
        return _fail(error, EXIT_USAGE)
    except UnreachableError as error:
        return _fail(error, EXIT_UNREACHABLE)
    except (LoadError, TraceError) as error:
        return _fail(error, EXIT_FAILED)


def _fail(error: Exception, code: int) -> int:
    sys.stderr.write(f"fallow-agent: {error}\n")
    return code


def _address(options: argparse.Namespace) -> Address:
    return parse_address(options.aggregator, ca=options.ca, insecure_plain=options.insecure_plain)
