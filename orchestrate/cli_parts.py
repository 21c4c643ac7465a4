"""What the commands share: which plan, which VM and who is meant, and how an answer is printed."""

from __future__ import annotations

import argparse
import getpass
import shlex
from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatchcase

from agent.settings import ConfigError
from orchestrate.inventory import VmRef
from orchestrate.plan import Plan
from orchestrate.records import Records
from orchestrate.surroundings import Surroundings
from orchestrate.words import short
from orchestrate.world import World
from reports.program import FAILED, complain
from reports.words import count_words, time_words

PROGRAM = "fallow-orchestrate"
MIN_HASH_DIGITS = 6
_HEX = frozenset("0123456789abcdef")
_WILD = frozenset("*?[")
_NAMED = 5


class Unfound(Exception):
    """What was named is not there, or is not the only one of that name. The text says so for people."""


def parse_hash(text: object) -> str:
    """The beginning of a hash. Raises: ValueError: too short to mean one plan, or no hash."""
    digits = str(text).lower()
    if not MIN_HASH_DIGITS <= len(digits) <= 64 or not _HEX.issuperset(digits):
        raise ValueError(f"{text!r} is not a hash, nor its beginning of {MIN_HASH_DIGITS} digits at least")
    return digits


def parse_who(text: object) -> str:
    """A name of a person or a program. Raises: ValueError: empty, or it cannot be printed."""
    name = str(text).strip()
    if not name or not name.isprintable() or len(name) > 200:
        raise ValueError(f"{text!r} is no name")
    return name


def find_plan(records: Records, prefix: str) -> Plan:
    """The plan whose hash begins so. Raises: Unfound."""
    found = records.find_plans(prefix)
    if not found:
        raise Unfound(f"{prefix}: there is no plan whose hash begins so")
    if len(found) > 1:
        shown = ", ".join(f"{short(plan.sha256)} of {time_words(plan.made_s)}" for plan in found[:_NAMED])
        raise Unfound(f"{prefix}: begins the hash of {count_words(len(found), 'plan')} ({shown}): give more digits")
    return found[0]


def find_vms(world: World, texts: Sequence[str]) -> frozenset[VmRef]:
    """The hypervisors' VMs that are meant: by UUID, `driver/uuid`, agent's id, name, or a pattern over names.

    Raises: Unfound: one fits no VM, or is the name of several.
    """
    found: set[VmRef] = set()
    for text in texts:
        fitting = _fitting(world, text)
        if not fitting:
            raise Unfound(f"{text}: no hypervisor shows such a VM")
        if len(fitting) > 1 and not _is_pattern(text):
            shown = ", ".join(str(ref) for ref in sorted(fitting)[:_NAMED])
            raise Unfound(f"{text}: is the name of {count_words(len(fitting), 'VM')} ({shown}): say which by its UUID")
        found |= fitting
    return frozenset(found)


def _fitting(world: World, text: str) -> set[VmRef]:
    exact = {ref for ref in world.vms if text.lower() in {ref.uuid, str(ref).lower()}}
    match = world.matches.by_vm_id.get(text)
    if match is not None:
        exact.add(match.ref)
    if exact:
        return exact
    pattern = text.casefold()
    if _is_pattern(text):
        return {ref for ref in world.vms if any(fnmatchcase(name, pattern) for name in _names(world, ref))}
    return {ref for ref in world.vms if pattern in _names(world, ref)}


def _names(world: World, ref: VmRef) -> Collection[str]:
    scene = world.scene(ref)
    told = (scene.vm and scene.vm.name, scene.sighting and scene.sighting.name)
    return {name.casefold() for name in told if name}


def _is_pattern(text: str) -> bool:
    return not _WILD.isdisjoint(text)


def fits_all(text: str) -> bool:
    """A pattern that every VM fits, such as `*`."""
    return bool(text) and set(text) <= {"*", "?"}


def who(options: argparse.Namespace, whoami: Callable[[], str] = getpass.getuser) -> str:
    """`--by`, else the user of this shell. Raises: ConfigError: nobody knows."""
    if options.by is not None:
        return str(options.by)
    try:
        return parse_who(whoami())
    except (OSError, KeyError, ValueError):
        raise ConfigError("--by: is missing, and this shell's user has no name") from None


def add_by(parser: argparse.ArgumentParser) -> None:
    """`--by WHO`, for commands that the audit log tells of."""
    from reports.report_cli import option  # noqa: PLC0415

    parser.add_argument(
        "--by", metavar="WHO", type=option(parse_who), help="who does it (default: the user of this shell)"
    )


def next_command(around: Surroundings, *words: str) -> str:
    """A command line that reads the same fleet by the same settings."""
    return shlex.join((PROGRAM, *words, *around.arguments))


def fail(around: Surroundings, problem: object) -> int:
    """Tells why a command did not do what it was to do. Returns: FAILED."""
    return complain(around.err, PROGRAM, FAILED, problem)
