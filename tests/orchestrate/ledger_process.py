"""A program of its own that asks for room on one host, again and again, beside others like it.

`python -m tests.orchestrate.ledger_process FOLDER NAME TIMES [URL]`: says `ready`, waits for a line on its stdin, and
then tells in JSON which of its promises were granted. It gives up every other one of those again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from orchestrate.database import SqlRecords
from orchestrate.hotspots.hosts import HostSettings, Readings, Site, site_of
from orchestrate.hotspots.ledger import Ledger, Wish
from orchestrate.schema import open_orchestrate_db
from tests.orchestrate.hotspots.hot_fleets import GIB, NOW_S, hosts, inventory_of

LIFE_S = 600.0
HOST, HOST_GIB, WISH_GIB = "hv1", 16, 3


def now_s() -> float:
    return NOW_S


def empty_host() -> Site:
    """One host without VMs, read just now."""
    machines = hosts(HOST, cores=64, mem_gib=HOST_GIB)
    return site_of(inventory_of([], machines, now_s=NOW_S), Readings(), HostSettings(), now_s=NOW_S)


def main(folder: Path, name: str, times: int, url: str | None) -> None:
    engine = open_orchestrate_db(url, folder)
    records, site = SqlRecords(engine), empty_host()
    ledger = Ledger(records, by=name, clock=now_s)
    print("ready", flush=True)
    sys.stdin.readline()
    granted = []
    for number in range(times):
        hold_id = f"{name}-{number}"
        wish = Wish(hold_id=hold_id, host_id=HOST, vcpus=1.0, mem_bytes=WISH_GIB * GIB, what=hold_id)
        if ledger.promise(site, [wish], life_s=LIFE_S) is None:
            continue
        if number % 2:
            records.drop_hold(hold_id, by=name, now_s=NOW_S)
        else:
            granted.append(hold_id)
    print(json.dumps(granted), flush=True)
    engine.dispose()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)
