"""What hypervisors say exists: enrolments are held against it. Values, a CSV reader, and the table. Blocking.

Each source (a hypervisor, a site, a file) replaces all that it said before. A VM that two sources know, as while it
moves, has the MACs of both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from agent.settings import ConfigError
from agent.wire import is_vm_id
from aggregator.admission import clean_mac, clean_macs
from aggregator.fleet import inventory_vm
from aggregator.fleet_db import reading
from aggregator.vms_csv import parse_table, parse_text, parse_vm

MAX_SOURCE_CHARS = 64
_INSERT_ROWS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryVm:
    """One VM as one source knows it.

    Attributes:
        vm: the hypervisor's UUID of it, lower-cased: what its agent enrols as.
        macs: of its cards, in any usual spelling; none: unknown.
        pool, host: where it runs, in the source's words.
    """

    vm: str
    macs: tuple[str, ...] = ()
    pool: str | None = None
    host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryRow:
    """One row of the table: `InventoryVm` with its source and when that was asked, Unix seconds."""

    vm: str
    source: str
    macs: tuple[str, ...]
    pool: str | None
    host: str | None
    seen_s: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What all sources together know of one VM."""

    macs: frozenset[str]
    pools: frozenset[str]


class Inventory:
    """The table `inventory_vm`.

    Args: engine: of `fleet_db.open_fleet`, migrated; of `open_fleet_read_only` for `rows` alone.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def put(self, source: str, rows: Sequence[InventoryVm], now_s: float) -> int:
        """Replaces what `source` said before; returns how many VMs it knows now.

        Nothing but a look that went well may come here: with no row of any source left, `auto` checks nothing.

        Raises: ValueError: a source without a name, or an id that no VM can have.
        """
        if not 0 < len(source) <= MAX_SOURCE_CHARS or not source.isprintable():
            raise ValueError(f"{source[:80]!r} is not the name of a source (1 to {MAX_SOURCE_CHARS} characters)")
        values = [{"source": source, "seen_s": now_s, **row} for row in _merged(rows)]
        with self._engine.begin() as connection:
            connection.execute(sa.delete(inventory_vm).where(inventory_vm.c.source == source))
            for start in range(0, len(values), _INSERT_ROWS):
                connection.execute(sa.insert(inventory_vm), values[start : start + _INSERT_ROWS])
        return len(values)

    def rows(self) -> list[InventoryRow]:
        """Everything, by VM and source."""
        with reading(self._engine) as connection:
            found = connection.execute(sa.select(inventory_vm).order_by(inventory_vm.c.vm_id, inventory_vm.c.source))
            return [
                InventoryRow(
                    vm=row.vm_id,
                    source=row.source,
                    macs=tuple(json.loads(row.macs)),
                    pool=row.pool,
                    host=row.host,
                    seen_s=row.seen_s,
                )
                for row in found
            ]


def seen(connection: sa.Connection, vm_id: str) -> Seen | None:
    """What the inventory knows of one VM; None: nothing."""
    columns = (inventory_vm.c.macs, inventory_vm.c.pool)
    rows = connection.execute(sa.select(*columns).where(inventory_vm.c.vm_id == vm_id)).all()
    if not rows:
        return None
    macs = clean_macs(mac for row in rows for mac in json.loads(row.macs))
    return Seen(macs, frozenset(row.pool for row in rows if row.pool is not None))


def has_any(connection: sa.Connection) -> bool:
    """Whether any source names any VM."""
    return connection.execute(sa.select(inventory_vm.c.vm_id).limit(1)).first() is not None


def _parse_macs(cell: str) -> tuple[str, ...]:
    macs = []
    for text in filter(None, (part.strip() for part in cell.split(";"))):
        mac = clean_mac(text)
        if mac is None:
            raise ValueError(f"{text[:80]!r} is not a MAC address")
        macs.append(mac)
    return tuple(sorted(set(macs)))


_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "vm": parse_vm,
    "macs": _parse_macs,
    "pool": parse_text,
    "host": parse_text,
}
COLUMNS: tuple[str, ...] = tuple(_PARSERS)


def parse_inventory_csv(text: str, *, source: str) -> list[InventoryVm]:
    """VMs of a CSV with a header: `vm` is required; `macs` stand as `a;b`.

    Args: source: the file's name, for the mistakes.

    Raises: ConfigError: every mistake with its line and column, up to 100 of them.
    """
    rows = parse_table(text, source=source, parsers=_PARSERS)
    return [
        InventoryVm(vm=row["vm_id"], macs=row.get("macs", ()), pool=row.get("pool"), host=row.get("host"))
        for row in rows
    ]


def parse_source(text: str) -> str:
    """The name of a source, for a command line. Raises: ConfigError."""
    if not 0 < len(text) <= MAX_SOURCE_CHARS or not text.isprintable():
        raise ConfigError(f"--source: {text[:80]!r} is not 1 to {MAX_SOURCE_CHARS} printable characters")
    return text


def _merged(rows: Iterable[InventoryVm]) -> list[dict[str, object]]:
    # A source may show a VM twice while it moves between hosts.
    macs: dict[str, frozenset[str]] = {}
    first: dict[str, InventoryVm] = {}
    for row in rows:
        if not is_vm_id(row.vm):
            raise ValueError(f"{row.vm[:80]!r} is not a VM id")
        macs[row.vm] = macs.get(row.vm, frozenset()) | clean_macs(row.macs)
        first.setdefault(row.vm, row)
    return [
        {"vm_id": vm_id, "macs": json.dumps(sorted(macs[vm_id])), "pool": row.pool, "host": row.host}
        for vm_id, row in sorted(first.items())
    ]
