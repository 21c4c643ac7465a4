"""The part of `bench bad-input` that asks a real aggregator over TCP."""

from __future__ import annotations

import itertools
import re
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from aggregator.fleet import revocation
from aggregator.fleet_db import migrate, open_fleet
from aggregator.store_files import read_samples, store_path
from aggregator.tokens import KEY_FILE_NAME, TokenKeys
from bench.bad_input_doors import REVOKED, answers_in
from bench.bad_input_findings import DAYS_BACK, VMS, Findings, Made, inputs, rss_bytes
from bench.bad_input_maker import Surroundings
from bench.demo import Doors
from bench.ingest import Aggregator, aggregator
from bench.load_driver import DriveError
from bench.outcome import Say
from bench.sink import minute_days_ago, vm_names

_AT_ONCE: Final = 64
_BATCH: Final = 1_024
_WITHIN_S: Final = 30.0
_FLUSH_WITHIN_S: Final = 300.0
_LOG_FAILURES: Final = re.compile(r"Traceback|Unhandled|\[[\w.]+#(?:critical|error)\]")


def over_tcp(folder: Path, seed: int, first: int, count: int, say: Say) -> Findings:
    """Asks `fallow-aggregator run`, many connections at once; what it acknowledged must be in its stores at the end."""
    refuse_beforehand(folder / "data")
    found = Findings()
    with aggregator(folder) as real:
        keys = TokenKeys.load_or_create(real.data_dir / KEY_FILE_NAME)
        shared = Surroundings(
            token=lambda vm: keys.make(vm, 1),
            vms=vm_names(VMS),
            start_ts=minute_days_ago(DAYS_BACK),
            now_s=time.time(),
        )
        coming = inputs(shared, seed, range(first, first + count))
        acknowledged: Counter[str] = Counter()
        began_s = time.monotonic()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while batch := list(itertools.islice(coming, _BATCH)):
                for made, answers in zip(batch, pool.map(lambda one: ask(real.address, one), batch), strict=True):
                    found.take(made, answers)
                    if made.kind.stored:
                        acknowledged[shared.vms[made.number % len(shared.vms)]] += made.kind.stored
                if not found.rss_half_bytes and found.inputs >= count // 2:
                    found.rss_half_bytes = rss_bytes(real.pid)
                    say(f"{found.inputs} of {count} inputs over TCP, {found.wrong_count} wrong")
        found.seconds = time.monotonic() - began_s
        found.rss_end_bytes = rss_bytes(real.pid)
        doors = doors_of(real)
        metrics = doors.ask("/metrics", method="GET", within_s=_WITHIN_S)
        doors.ask("/v1/flush", method="POST", within_s=_FLUSH_WITHIN_S)
        stored = {vm: len(read_samples(store_path(real.data_dir, vm), 0, 2**32)) for vm in shared.vms}
    differing = [vm for vm in shared.vms if stored[vm] != acknowledged[vm]]
    found.wrong_count += len(differing)
    for vm in differing[:1]:
        many = f"{stored[vm]} samples in its store, {acknowledged[vm]} acknowledged"
        found.wrong.append(f"WRONG {len(differing)} VMs such as {vm}: {many}")
    found.failures = mistakes_in(metrics) + sum(
        len(_LOG_FAILURES.findall(log.read_text("utf-8", "replace"))) for log in (folder / "logs").iterdir()
    )
    return found


def doors_of(real: Aggregator) -> Doors:
    """The doors of a running aggregator, with its admin token."""
    token = (real.data_dir / "admin.token").read_text("utf-8").strip()
    agents, admin = (f"{host}:{port}" for host, port in (real.address, real.admin))
    return Doors(agents, admin, token)


def refuse_beforehand(data: Path) -> None:
    """Makes a data directory whose fleet database refuses two VMs, as after a revocation and a conflict."""
    data.mkdir(mode=0o700)
    engine = open_fleet(None, data)
    try:
        migrate(engine)
        rows = [
            {"vm_id": vm, "below_generation": below, "reason": reason, "created_s": time.time()}
            for vm, (below, reason) in REVOKED.items()
        ]
        with engine.begin() as connection:
            connection.execute(sa.insert(revocation), rows)
    finally:
        engine.dispose()


def mistakes_in(metrics: str) -> int:
    """What the aggregator counts as its own mistakes. Raises: DriveError: it does not say."""
    match = re.search(r"^fallow_errors_total ([\d.e+]+)$", metrics, re.MULTILINE)
    if match is None:
        raise DriveError("the aggregator's metrics do not hold fallow_errors_total")
    return int(float(match[1]))


def ask(address: tuple[str, int], made: Made) -> bytes:
    """All that a door answers to one input on a connection of its own; up to the answers that are expected.

    Raises: DriveError: it neither answers nor closes.
    """
    wanted = len(made.kind.answers)
    # An address for every few connections, as agents have: a bound for each address must not be met here.
    source = f"127.0.{made.number // 200 % 200}.{made.number % 200 + 2}"
    try:
        with socket.create_connection(address, timeout=_WITHIN_S, source_address=(source, 0)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
                for piece in made.pieces:
                    sock.sendall(piece)
                if not wanted:
                    sock.shutdown(socket.SHUT_WR)
            return _read(sock, wanted)
    except TimeoutError as error:
        raise DriveError(f"no answer within {_WITHIN_S:g} s to {made.kind.name}, number {made.number}") from error


def _read(sock: socket.socket, wanted: int) -> bytes:
    answers = b""
    with suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            answers += piece
            if wanted and len(answers_in(answers)) >= wanted:
                break
    return answers
