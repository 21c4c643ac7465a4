"""`fallow-report keep`: which VMs are left alone, by whose wish, why and until when.

SQLAlchemy and rich load when a command needs them, so that `--help` stays light.
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from agent.settings import ConfigError
from reports.exemptions import (
    Exemption,
    ExemptionIndex,
    ExemptionKind,
    ExemptionRefused,
    NotFound,
    UnknownVm,
    parse_until,
)
from reports.words import count_words, duration_words, iso_time, printable, time_words

if TYPE_CHECKING:
    import sqlalchemy as sa

    from reports.config import ReportConfig
    from reports.exemption_table import Exemptions

DONE, FAILED = 0, 1

Open = Callable[[str | None, Path], "sa.Engine"]

_USAGE = """\
{0} VM --until DATE --reason TEXT --owner WHO
       {0} (--tag TAG | --name PATTERN) --until DATE --reason TEXT --owner WHO
       {0} list [--all] [--json]
       {0} renew ID|VM --until DATE
       {0} end ID|VM [--by WHO]"""
_EXAMPLES = """\
examples:
  fallow-report keep web-1 --until 2027-03-31 --reason "audit" --owner ann
  fallow-report keep --tag production --until 365d --reason "people decide here" --owner ops
  fallow-report keep --name 'build-*' --until 30d --reason "busy at releases alone" --owner ci
  fallow-report keep list --all
  fallow-report keep renew web-1 --until 90d
  fallow-report keep end 3f9c2b1e
"""
# Each form of the command: the options that it needs, and those that it may have. `keep` itself is said by no word.
_FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "": (("until", "reason", "owner"), ("tag", "name", "allow_unknown")),
    "list": ((), ("all", "json")),
    "renew": (("until",), ()),
    "end": ((), ("by",)),
}
_OPTIONS = sorted({name for needed, allowed in _FORMS.values() for name in (*needed, *allowed)})


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `keep` takes, its usage and its examples; `run` says what goes together."""
    parser.usage = _USAGE.format(parser.prog)
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "words", nargs="*", metavar="VM", help="the VM's id, or a name that it alone has; or list, renew or end"
    )
    subject = parser.add_mutually_exclusive_group()
    subject.add_argument("--tag", help="keep every VM that has this tag")
    subject.add_argument(
        "--name", metavar="PATTERN", help="keep every VM whose name, host name or id fits, such as 'build-*'"
    )
    parser.add_argument(
        "--until", metavar="DATE", help="the last day (2026-12-31), a time (2026-12-31T18:00), or how long (30d)"
    )
    parser.add_argument("--reason", metavar="TEXT", help="why, for whoever asks later")
    parser.add_argument("--owner", metavar="WHO", help="who wants it")
    parser.add_argument("--allow-unknown", action="store_true", help="take the id of a VM that is not in the fleet yet")
    parser.add_argument("--by", metavar="WHO", help="end: who does (default: the user of this shell)")
    parser.add_argument("--all", action="store_true", help="list: those that were ended or have expired too")
    parser.add_argument("--json", action="store_true", help="list: print one JSON object")


def run(
    options: argparse.Namespace,
    config: ReportConfig,
    *,
    clock: Callable[[], float] = time.time,
    zone: tzinfo = UTC,
    out: TextIO | None = None,
    err: TextIO | None = None,
    width: int | None = None,
    colour: bool = False,
    whoami: Callable[[], str] = getpass.getuser,
    open_to_write: Open | None = None,
    open_to_read: Open | None = None,
) -> int:
    """Does what `options`, of a parser with `add_options`, say. 0: done; 1: there is no such VM or exemption.

    Args:
        zone: of dates, and of times that do not say theirs.
        out, err: stdout and stderr unless told.
        width, colour: of the list, as `terminal.to_text` takes them.
        whoami: the name that `--by` is unless told; may raise what `getpass.getuser` does.
        open_to_write: URL and data directory -> engine; `schema.open_report_db` unless told.
        open_to_read: the same; `aggregator.fleet_db.open_fleet_read_only` unless told.

    Raises:
        ConfigError: options that hold mistakes or do not go together; or of the two `open`s.
        sqlalchemy.exc.DBAPIError: of the fleet database.
    """
    from aggregator.fleet_db import open_fleet_read_only  # noqa: PLC0415
    from reports.exemption_table import Exemptions  # noqa: PLC0415
    from reports.schema import open_report_db  # noqa: PLC0415

    out, err, now_s = out or sys.stdout, err or sys.stderr, clock()
    form, target = _form(options)
    until_s = _until_s(options, now_s, zone)
    opener = (open_to_read or open_fleet_read_only) if form == "list" else (open_to_write or open_report_db)
    try:
        with _opened(opener, config) as engine:
            exemptions = Exemptions(engine)
            if form == "list":
                text = _list(exemptions, options, now_s, width=width, colour=colour)
            elif form == "renew":
                text = _renew(exemptions, target, until_s, now_s)
            elif form == "end":
                text = _end(exemptions, target, options.by or _user(whoami), now_s)
            else:
                text = _keep(engine, exemptions, target, options, until_s, now_s, err)
    except ExemptionRefused as error:
        raise ConfigError(f"keep: {error}") from error
    except NotFound as error:
        err.write(f"fallow-report: keep: {printable(str(error))}\n")
        return FAILED
    out.write(text)
    return DONE


def _form(options: argparse.Namespace) -> tuple[str, str]:
    """A key of `_FORMS`, and the VM or exemption that is named, if any. Raises ConfigError: every mistake at once."""
    words: list[str] = options.words
    form = words[0] if words and words[0] in _FORMS else ""
    targets = words[1:] if form else words
    said = f"keep {form}".rstrip()
    needed, allowed = _FORMS[form]
    given = [name for name in _OPTIONS if getattr(options, name) not in {None, False}]
    problems = [f"{said}: takes no {_flag(name)}" for name in given if name not in {*needed, *allowed}]
    problems += [f"{said}: needs {_flag(name)}" for name in needed if name not in given]
    wanted = 0 if form == "list" or {"tag", "name"} & set(given) else 1
    if len(targets) != wanted:
        what = "an id or a VM" if form else "a VM, --tag or --name"
        problems.append(f"{said}: needs {what}, and one alone" if wanted else f"{said}: takes no {targets[0]!r}")
    if problems:
        raise ConfigError(problems)
    return form, targets[0] if targets else ""


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _until_s(options: argparse.Namespace, now_s: float, zone: tzinfo) -> float:
    if options.until is None:
        return now_s  # the forms that may do without never look at it
    try:
        return parse_until(options.until, now_s=now_s, zone=zone)
    except ValueError as error:
        raise ConfigError(f"keep: --until: {error}") from error


def _user(whoami: Callable[[], str]) -> str | None:
    try:
        return whoami()
    except (OSError, KeyError):
        return None  # in a container the user may have no name


@contextmanager
def _opened(opener: Open, config: ReportConfig) -> Iterator[sa.Engine]:
    engine = opener(config.fleet_url, config.data_dir)
    try:
        yield engine
    finally:
        engine.dispose()


def _keep(
    engine: sa.Engine,
    exemptions: Exemptions,
    target: str,
    options: argparse.Namespace,
    until_s: float,
    now_s: float,
    err: TextIO,
) -> str:
    kind, subject = ExemptionKind.VM, target
    if options.tag is not None:
        kind, subject = ExemptionKind.TAG, options.tag
    elif options.name is not None:
        kind, subject = ExemptionKind.NAME, options.name
    else:
        try:
            subject = exemptions.find_vm(target)
        except UnknownVm:
            if not options.allow_unknown:
                raise
    kept = exemptions.add(
        kind,
        subject,
        reason=options.reason,
        owner=options.owner,
        until_s=until_s,
        now_s=now_s,
        allow_unknown=options.allow_unknown,
    )
    sentence = _sentence("renewed" if kept.is_renewal else "kept", kept.exemption)
    if kind is ExemptionKind.VM:
        return sentence
    count = _count_fitting(engine, kept.exemption)
    if not count:
        print(f"fallow-report: keep: no VM fits {_subject(kept.exemption)} now", file=err)
    return f"{sentence.rstrip()} ({count_words(count, 'VM')} now)\n"


def _count_fitting(engine: sa.Engine, one: Exemption) -> int:
    from reports.fleet import read_facts, snapshot  # noqa: PLC0415
    from reports.judging import find_kept  # noqa: PLC0415

    index = ExemptionIndex([one])
    with snapshot(engine) as connection:
        return sum(len(find_kept(facts, index)) for facts in read_facts(connection, (), with_evidence=False))


def _renew(exemptions: Exemptions, target: str, until_s: float, now_s: float) -> str:
    found = exemptions.find(target)
    return _sentence("renewed", exemptions.renew(found.id, until_s, now_s=now_s))


def _end(exemptions: Exemptions, target: str, by: str | None, now_s: float) -> str:
    ended = exemptions.end(exemptions.find(target).id, by, now_s=now_s)
    return f"ended {ended.id}: {_subject(ended)}\n"


def _sentence(done: str, one: Exemption) -> str:
    return f"{done} {one.id}: {_subject(one)}, until {time_words(one.until_s)}\n"


def _subject(one: Exemption) -> str:
    words = "" if one.kind is ExemptionKind.VM else f"{one.kind.value} "
    return printable(words + one.subject)


def _list(exemptions: Exemptions, options: argparse.Namespace, now_s: float, *, width: int | None, colour: bool) -> str:
    if options.all:
        found = sorted(exemptions.history(), key=lambda one: not one.is_in_force(now_s))
    else:
        found = exemptions.in_force(now_s)
    if options.json:
        return _to_json(found, now_s)
    if not found:
        return "No exemption is in force.\n" if not options.all else "There has been no exemption yet.\n"
    return _to_text(found, now_s, width=width, colour=colour)


def _to_json(found: Sequence[Exemption], now_s: float) -> str:
    lines = [json.dumps({**asdict(one), "state": _state(one, now_s)}) for one in found]
    head = json.dumps({"generated_at_s": now_s, "generated_at": iso_time(now_s)})
    body = ",\n".join(lines)
    return f'{head[:-1]}, "exemptions": [\n{body}\n]}}\n'


def _state(one: Exemption, now_s: float) -> str:
    if one.ended_s is not None:
        return "ended"
    return "in force" if one.is_in_force(now_s) else "expired"


def _to_text(found: Sequence[Exemption], now_s: float, *, width: int | None, colour: bool) -> str:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from reports.terminal import open_console  # noqa: PLC0415

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("id", no_wrap=True)
    table.add_column("keeps", overflow="fold")
    table.add_column("owner", overflow="fold")
    table.add_column("reason", overflow="fold")
    table.add_column("until", no_wrap=width is None)
    table.add_column("left")
    for one in found:
        cells = (one.id, _subject(one), one.owner, one.reason, time_words(one.until_s), _left(one, now_s))
        style = "" if one.is_in_force(now_s) else "dim"
        table.add_row(*(Text(printable(cell)) for cell in cells), style=style)
    buffer, console = open_console(width=width, colour=colour)
    console.print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _left(one: Exemption, now_s: float) -> str:
    if one.ended_s is not None:
        return f"ended {time_words(one.ended_s)}" + (f" by {one.ended_by}" if one.ended_by else "")
    left_s = one.until_s - now_s
    return duration_words(left_s) if left_s > 0 else f"expired {duration_words(-left_s)} ago"
