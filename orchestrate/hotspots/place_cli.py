"""`fallow-orchestrate place`: where a new VM fits, why not elsewhere, and the room held for it on demand.

numpy and rich load when the command runs.
"""

from __future__ import annotations

import argparse
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

from agent.settings import ConfigError, parse_duration_s, parse_size_bytes, parse_text
from reports.quantities import parse_positive_amount
from reports.report_cli import option
from reports.words import count_words, duration_words, gib, iso_time, printable, time_words

if TYPE_CHECKING:
    from orchestrate.hotspots.hosts import Site
    from orchestrate.hotspots.ledger import Holds, Ledger
    from orchestrate.hotspots.placement import Placement, Request
    from orchestrate.records import Hold

DONE, FAILED = 0, 1
# Between a look and the promise another may have taken the room.
_TRIES = 3
RULES = ("staged", "best-fit", "first-fit", "round-robin", "weighted-random")
_EXAMPLES = """\
policies:
  staged           where nothing is promised twice, else by the p95 of the VMs, else by the p95 of the host (default)
  best-fit         the fullest host that it fits
  first-fit        the first host that it fits, by id
  round-robin      the next host that it fits, after the newest hold
  weighted-random  any host that it fits, the likelier the more memory is left (--seed repeats a choice)

examples:
  fallow-orchestrate place --vcpus 4 --memory 8GiB
  fallow-orchestrate place --vcpus 4 --memory 8GiB --hold 15min --name build-7
  fallow-orchestrate place --vcpus 2 --memory 4GiB --policy best-fit --json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `place` takes; `run` does it."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--vcpus", metavar="N", type=option(_vcpus), required=True, help="vCPUs of the new VM")
    parser.add_argument("--memory", metavar="SIZE", type=option(parse_size_bytes), required=True, help="such as 8GiB")
    parser.add_argument(
        "--disk", metavar="SIZE", type=option(parse_size_bytes), help="noted only: drivers do not tell of storage"
    )
    parser.add_argument("--policy", choices=RULES, default=RULES[0], help="how a host is chosen (default: staged)")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="of weighted-random (default: 1)")
    parser.add_argument(
        "--hold", metavar="TIME", type=option(parse_duration_s), help="keep the room for so long, such as 15min"
    )
    parser.add_argument("--name", metavar="TEXT", type=option(parse_text), help="what the room is held for")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(
    options: argparse.Namespace,
    *,
    look: Callable[[Sequence[Hold]], Sequence[Site]],
    records: Holds,
    by: str,
    out: TextIO,
    clock: Callable[[], float],
    use_ratio: float = 0.75,
    new_id: Callable[[], str] = lambda: secrets.token_hex(4),
) -> int:
    """Chooses a host, prints it with why each other was passed, and holds the room with `--hold`.

    Args:
        look: all sites as they are now, made with these holds.
        records: where holds are kept. by: who asks, for the audit log.

    Returns: 0 a host was found; 1 it fits nowhere, or others were quicker.

    Raises: ConfigError: `--name` without `--hold`. StaleSite: looking took too long.
    """
    from orchestrate.hotspots.ledger import Ledger  # noqa: PLC0415
    from orchestrate.hotspots.placement import Request, place, rule_named  # noqa: PLC0415

    if options.name is not None and options.hold is None:
        raise ConfigError("place: --name goes with --hold")
    request = Request(vcpus=options.vcpus, mem_bytes=options.memory, disk_bytes=options.disk)
    ledger = Ledger(records, by=by, clock=clock)
    for _ in range(_TRIES):
        holds = ledger.counting()
        newest = max(holds, key=lambda hold: (hold.made_s, hold.hold_id), default=None)
        after = None if newest is None else (newest.driver, newest.host_id)
        sites = look(holds)
        found = place(sites, request, rule_named(options.policy, seed=options.seed, after=after), use_ratio=use_ratio)
        if found.host_id is None or options.hold is None:
            out.write(_to_json(found, request, None) if options.json else _to_text(found, request, None))
            return DONE if found.host_id is not None else FAILED
        held = _hold(ledger, sites, found, request, options, new_id())
        if held is not None:
            out.write(_to_json(found, request, held) if options.json else _to_text(found, request, held))
            return DONE
    out.write(_none(options, request))
    return FAILED


def _vcpus(text: object) -> float:
    try:
        return parse_positive_amount(float(str(text)))
    except ValueError:
        raise ValueError(f"{text!r} is not a number of vCPUs above 0") from None


def _hold(
    ledger: Ledger, sites: Sequence[Site], found: Placement, request: Request, options: argparse.Namespace, hold_id: str
) -> Hold | None:
    from orchestrate.hotspots.ledger import Wish  # noqa: PLC0415

    assert found.host_id is not None
    wish = Wish(
        hold_id=hold_id,
        host_id=found.host_id,
        vcpus=request.vcpus,
        mem_bytes=request.mem_bytes,
        what=options.name or "a new VM",
    )
    site = next(site for site in sites if site.driver == found.driver)
    held = ledger.promise(site, [wish], life_s=options.hold)
    return None if held is None else held[0]


def _none(options: argparse.Namespace, request: Request) -> str:
    words = f"others took the room {_TRIES} times before it could be held: try again"
    if options.json:
        return json.dumps({**asdict(request), "host_id": None, "words": words}) + "\n"
    return f"{_asked(request)}: {words}\n"


def _to_json(found: Placement, request: Request, held: Hold | None) -> str:
    document = {"request": asdict(request), **asdict(found), "hold": None if held is None else asdict(held)}
    if held is not None:
        document["hold"] = {**asdict(held), "expires": iso_time(held.expires_s)}
    return json.dumps(document) + "\n"


def _asked(request: Request) -> str:
    return f"{request.vcpus:g} vCPUs, {gib(request.mem_bytes)}"


def _to_text(found: Placement, request: Request, held: Hold | None) -> str:
    lines = []
    if found.host_id is None:
        lines.append(f"{_asked(request)}: does not fit: {found.words}")
    else:
        lines.append(f"{_asked(request)}: {found.host_id} of {found.driver}")
        lines.append(f"  {found.words}")
    if held is not None:
        life = duration_words(held.expires_s - held.made_s)
        lines.append(f"  held for {life}, until {time_words(held.expires_s)} (hold {held.hold_id}: {held.what})")
    if request.disk_bytes is not None:
        lines.append(f"  {gib(request.disk_bytes)} of disk: not checked, drivers do not tell of storage")
    if found.passed:
        lines.append(f"passed over {count_words(len(found.passed), 'host')}:")
        lines += [f"  {each.host_id} of {each.driver}: {each.words}" for each in found.passed]
    return "".join(f"{printable(line)}\n" for line in lines)
