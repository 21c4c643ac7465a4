"""Names, owners and tags of VMs from a CSV file: text → rows. Pure; docs/enrolment.md describes the columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from agent.settings import ConfigError
from agent.wire import is_vm_id

MAX_TEXT_CHARS = 256
MAX_TAGS = 64
V = TypeVar("V")

_MAX_PROBLEMS = 100  # beyond that the file is of another kind, and a longer list helps nobody


def parse_text(cell: str) -> str | None:
    """A label; None when empty. Raises ValueError: too long, or not printable."""
    text = cell.strip()
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"is longer than {MAX_TEXT_CHARS} characters")
    if not text.isprintable():
        raise ValueError(f"{text[:80]!r} holds characters that cannot be printed")
    return text or None


def parse_mail(cell: str) -> str | None:
    """A mail address; None when empty. Raises ValueError: no single `@` with something on both sides, or a space."""
    text = parse_text(cell)
    if text is None:
        return None
    local, at, domain = text.partition("@")
    if not local or not at or not domain or "@" in domain or " " in text:
        raise ValueError(f"{text!r} is not a mail address")
    return text


def parse_tags(cell: str) -> tuple[str, ...]:
    """Tags from `a;b`, sorted, each once. Raises ValueError: as `parse_text`, or over MAX_TAGS."""
    tags = {tag for tag in (parse_text(part) for part in cell.split(";")) if tag is not None}
    if len(tags) > MAX_TAGS:
        raise ValueError(f"holds more than {MAX_TAGS} tags")
    return tuple(sorted(tags))


def parse_vm(cell: str) -> str:
    """A VM id, as it stands. Raises ValueError."""
    if not is_vm_id(cell):
        raise ValueError(f"{cell[:80]!r} is not a VM id")
    return cell


def _parse_power_state(cell: str) -> str | None:
    text = cell.strip()
    if text not in {"", "on", "off"}:
        raise ValueError(f"{text[:80]!r} is neither on nor off")
    return text or None


_PARSERS: Final[Mapping[str, Callable[[str], str | None]]] = {
    "vm": parse_vm,
    "name": parse_text,
    "owner": parse_text,
    "mail": parse_mail,
    "tags": lambda cell: json.dumps(parse_tags(cell)),
    "power_state": _parse_power_state,
}
COLUMNS: tuple[str, ...] = tuple(_PARSERS)


def parse_vms_csv(text: str, *, source: str) -> list[dict[str, str | None]]:
    """One mapping per line, with the columns of the header alone, keyed as the table `vm` has them.

    An empty cell is None: it clears what was known; a column that is absent leaves it. A byte order mark is skipped.

    Args: source: the file's name, for the mistakes.

    Raises: ConfigError: every mistake with its line and column, up to 100 of them.
    """
    return parse_table(text, source=source, parsers=_PARSERS)


def parse_table(text: str, *, source: str, parsers: Mapping[str, Callable[[str], V]]) -> list[dict[str, V]]:
    """One mapping per line of a CSV whose lines are VMs; as `parse_vms_csv`.

    Args: parsers: column → what reads its cells and raises ValueError; `vm` is among them, and its key is `vm_id`.

    Raises: ConfigError: as `parse_vms_csv`.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    problems: list[str] = []
    rows: list[dict[str, V]] = []
    try:
        header = next(reader, [])
        problems += _header_problems(header, source, tuple(parsers))
        if problems:
            raise ConfigError(problems)
        first_lines: dict[V, int] = {}
        for cells in reader:
            if not cells:
                continue
            where = f"{source}: line {reader.line_num}"
            row, wrong = _parse_row(header, cells, where, parsers)
            problems += wrong
            vm_id = row.get("vm_id")
            if vm_id is not None and first_lines.setdefault(vm_id, reader.line_num) != reader.line_num:
                problems.append(f"{where}: vm: {vm_id!r} is on line {first_lines[vm_id]} already")
            rows.append(row)
            if len(problems) >= _MAX_PROBLEMS:
                break
    except csv.Error as error:
        problems.append(f"{source}: line {reader.line_num}: {error}")
    if problems:
        raise ConfigError(problems[:_MAX_PROBLEMS])
    return rows


def _header_problems(header: list[str], source: str, columns: tuple[str, ...]) -> list[str]:
    where = f"{source}: line 1"
    problems = [
        f"{where}: {name[:80]!r} is not a column (columns: {', '.join(columns)})"
        for name in header
        if name not in columns
    ]
    problems += [f"{where}: {name}: stands twice" for name in columns if header.count(name) > 1]
    if "vm" not in header:
        problems.append(f"{where}: vm: this column is required")
    return problems


def _parse_row(
    header: list[str], cells: list[str], where: str, parsers: Mapping[str, Callable[[str], V]]
) -> tuple[dict[str, V], list[str]]:
    if len(cells) != len(header):
        return {}, [f"{where}: has {len(cells)} cells, the header {len(header)}"]
    row: dict[str, V] = {}
    problems: list[str] = []
    for name, cell in zip(header, cells, strict=True):
        try:
            row["vm_id" if name == "vm" else name] = parsers[name](cell)
        except ValueError as error:
            problems.append(f"{where}: {name}: {error}")
    return row, problems
