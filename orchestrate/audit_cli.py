"""`fallow-orchestrate audit`: what was done by whom, and whether the log of it is as it was written."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Sequence

from agent.settings import ConfigError, parse_count
from orchestrate.cli_parts import fail
from orchestrate.config import OrchestrateConfig
from orchestrate.records import AuditEntry, Records
from orchestrate.surroundings import Surroundings
from reports.program import DONE
from reports.report_cli import option
from reports.words import count_words, printable, time_words

_LIST, _VERIFY = "list", "verify"
_SHOWN = 50
_EXAMPLES = """\
examples:
  fallow-orchestrate audit                                 the newest lines
  fallow-orchestrate audit list --after 1000 --json        lines 1001 and on, for programs
  fallow-orchestrate audit verify                          is every line as it was written?
  fallow-orchestrate audit verify --expect 812:3f9c…       and is this line, which somebody noted, still there?
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `audit` takes; `run` says what goes together."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "what", nargs="?", choices=(_LIST, _VERIFY), default=_LIST, help="list (default), or verify the whole log"
    )
    parser.add_argument("--after", metavar="N", type=option(parse_count), help="list: lines after number N")
    parser.add_argument("--limit", metavar="N", type=option(parse_count), help="list: at most so many (default: 50)")
    parser.add_argument(
        "--expect",
        metavar="NUMBER:HASH",
        action="append",
        default=[],
        help="verify: a line as somebody noted it; may be said again",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Prints lines of the log, or checks all of it. Returns: 1: it is not as it was written."""
    verifies = options.what == _VERIFY
    wrong = {"--expect": options.expect and not verifies, "--after": options.after and verifies}
    wrong["--limit"] = options.limit and verifies
    if problems := [f"audit {options.what}: takes no {name}" for name, given in wrong.items() if given]:
        raise ConfigError(problems)
    return _verify(options, config, around) if verifies else _list(options, config, around)


def _list(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.control import open_records  # noqa: PLC0415
    from orchestrate.documents import audit_document, to_text  # noqa: PLC0415

    limit = options.limit or _SHOWN
    with open_records(config) as records:
        entries = _newest(records, limit) if options.after is None else records.audit(after=options.after, limit=limit)
    if options.json:
        around.out.write(to_text({"entries": [audit_document(entry) for entry in entries]}))
        return DONE
    for entry in entries:
        line = f"{entry.number:>6}  {time_words(entry.at_s)}  {entry.who}  {entry.what}  {entry.body}"
        around.out.write(f"{printable(line)}\n")
    if not entries:
        around.out.write("The log has no such line.\n")
    return DONE


def _newest(records: Records, limit: int) -> Sequence[AuditEntry]:
    """The last so many lines. Plans and runs remember lines near the end, so that not all of the log is read."""
    near = max((anchor.number for anchor in records.anchors()), default=0)
    after = max(near - limit, 0)
    kept: deque[AuditEntry] = deque(maxlen=limit)
    while page := records.audit(after=after):
        kept.extend(page)
        after = page[-1].number
    return tuple(kept)


def _verify(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    from orchestrate.audit import parse_anchor, verify_log  # noqa: PLC0415
    from orchestrate.control import open_records  # noqa: PLC0415
    from orchestrate.documents import to_text  # noqa: PLC0415

    try:
        expected = [parse_anchor(text) for text in options.expect]
    except ValueError as error:
        raise ConfigError(f"--expect: {error}") from error
    with open_records(config) as records:
        found = verify_log(
            lambda after, limit: records.audit(after=after, limit=limit), [*records.anchors(), *expected]
        )
    broken = found.broken
    if options.json:
        told = None if broken is None else {"number": broken.number, "words": broken.words}
        around.out.write(to_text({"lines": found.lines, "head": str(found.head), "broken": told}))
    else:
        around.out.write(f"{count_words(found.lines, 'line')} as written; note the last one elsewhere: {found.head}\n")
    return DONE if broken is None else fail(around, f"audit: line {broken.number} {broken.words}")
