"""Plans: what is to be done, why, and how it is undone. Pure values with a canonical JSON form and its hash.

What was previewed is what runs: `apply` takes a plan by its hash, which covers every step with its evidence.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

from orchestrate.driver import Verb
from orchestrate.inventory import VmRef, VmState
from orchestrate.sighting import Figure

LIFE_S = 86_400.0
FORMAT = 1


class PlanKind(StrEnum):
    """What a plan is for; it decides which rules hold for it."""

    RECLAIM = "reclaim"
    RELIEF = "relief"
    CONSOLIDATE = "consolidate"
    # Both give back: they take no capacity from anybody, and an outage of monitoring does not stop them.
    UNDO = "undo"
    WAKE = "wake"


class Mark(StrEnum):
    """Steps that change nothing at a hypervisor."""

    MARK = "mark"
    UNMARK = "unmark"
    NOTIFY = "notify"


# What undoes each step; None: nothing has to be. Every verb has its place here.
INVERSE: dict[Verb | Mark, Verb | Mark | None] = {
    Mark.MARK: Mark.UNMARK,
    Mark.UNMARK: Mark.MARK,
    Mark.NOTIFY: None,
    Verb.SUSPEND: Verb.RESUME,
    Verb.RESUME: Verb.SUSPEND,
    Verb.STOP: Verb.START,
    Verb.START: Verb.STOP,
    Verb.MIGRATE_LIVE: Verb.MIGRATE_LIVE,
    Verb.MIGRATE_COLD: Verb.MIGRATE_COLD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the VM must still be just before the step. `boot`: of the agent; None where not known."""

    state: VmState
    host_id: str
    boot: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do.

    Args:
        number: from 1, in the order of doing.
        vm_id: the agent's id; None for a VM without an agent.
        owner, mail: as known when the plan was made; the owner a limit counts for.
        target_host_id: of a migration.
        inverse: the verb that undoes it, recorded before acting; None where there is nothing to undo.
        reason: a sentence. figures: the evidence, rule by rule.
        group: whose rules allowed it; None where no ladder is climbed.
        grace_s: how long the VM stays as this step leaves it, at least, before the next one takes more.
        freed_vcpus, freed_mem_bytes, money_per_month: what it gives back; None is not known.
    """

    number: int
    verb: Verb | Mark
    ref: VmRef
    name: str
    vm_id: str | None
    owner: str | None
    mail: str | None = None
    expected: Expected
    target_host_id: str | None = None
    inverse: Verb | Mark | None
    reason: str
    figures: tuple[Figure, ...] = ()
    policy: str | None = None
    group: str | None = None
    grace_s: float | None = None
    freed_vcpus: float | None = None
    freed_mem_bytes: float | None = None
    money_per_month: float | None = None

    @property
    def is_disruptive(self) -> bool:
        """It takes something from the VM's users, so that limits count it."""
        return isinstance(self.verb, Verb) and self.verb not in {Verb.RESUME, Verb.START}


# Without slots, so that its hash can be kept: a plan is asked for it at every turn, and can be long.
@dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps that are approved and run together, or not at all.

    Args:
        made_by: who asked for it.
        settings_sha256: of the settings it was made under; others refuse it.
        undoes: the run that an undo brings back.
        notes: what the reader should know beside the steps, such as VMs that were left out and why.
    """

    kind: PlanKind
    made_s: float
    expires_s: float
    made_by: str
    settings_sha256: str
    steps: tuple[Step, ...]
    undoes: str | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """64 hex digits over the canonical JSON: what an approval and a run name."""
        return hashlib.sha256(encode_plan(self).encode()).hexdigest()


def encode_plan(plan: Plan) -> str:
    """Canonical JSON: sorted keys, no blanks, ASCII."""
    return _canonical({"format": FORMAT, **_fields(plan)})


def decode_plan(text: str) -> Plan:
    """The plan of `encode_plan`. Raises: ValueError: it is none, or of another format."""
    try:
        document = _document(text)
        if document.pop("format") != FORMAT:
            raise ValueError("the plan is of another version of this program")
        steps = tuple(_step(step) for step in document.pop("steps"))
        kind, notes = PlanKind(document.pop("kind")), tuple(document.pop("notes"))
        return Plan(kind=kind, steps=steps, notes=notes, **document)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a plan: {error}") from error


def encode_step(step: Step) -> str:
    """Canonical JSON of one step alone, as an action keeps it."""
    return _canonical(_fields(step))


def decode_step(text: str) -> Step:
    """The step of `encode_step`. Raises: ValueError: it is none."""
    try:
        return _step(_document(text))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a step: {error}") from error


def renumbered(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The same steps, numbered from 1 in their order."""
    return tuple(replace(step, number=number) for number, step in enumerate(steps, 1))


def _canonical(document: Mapping[str, Any]) -> str:
    # As `asdict` would tell it, without its deep copies.
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_fields)


def _document(text: str) -> Any:
    # Python's JSON knows NaN and infinity: a plan that ends at neither would never expire.
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a number that can be written down")
    return value


def _fields(value: Any) -> dict[str, object]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _step(document: Mapping[str, Any]) -> Step:
    fields = dict(document)
    expected = fields.pop("expected")
    inverse = fields.pop("inverse")
    return Step(
        verb=_verb(fields.pop("verb")),
        inverse=None if inverse is None else _verb(inverse),
        ref=VmRef(**fields.pop("ref")),
        expected=Expected(**{**expected, "state": VmState(expected["state"])}),
        figures=tuple(Figure(**figure) for figure in fields.pop("figures")),
        **fields,
    )


def _verb(text: str) -> Verb | Mark:
    return Mark(text) if text in set(Mark) else Verb(text)
