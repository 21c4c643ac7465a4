"""What a policy sees at a tick, and what it answers: the seam between the simulator and any policy.

A policy decides every 300 s from what was measured until then, never from what comes. One run uses one
policy object, made afresh by a factory, so that a policy may remember what it saw.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrate.simulation.park import Bools, Floats, Ints, Park

TICK_S = 300
GONE = -1


class Mode(enum.Enum):
    """`REFERENCE`: the published model, quirks included. `HONEST`: memory binds, and waking a host costs."""

    REFERENCE = "reference"
    HONEST = "honest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One live migration. Numbers of VM and host are their places in the park's columns."""

    vm: int
    host: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the run asks of every policy.

    Attributes:
        ram_binds: a move whose target lacks free memory is refused and counted.
        boot_s: a host without VMs takes so long before a VM can start to come; 0 where waking is free. It draws
            its full power meanwhile.
    """

    mode: Mode
    ram_binds: bool
    boot_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """The park at one tick. H hosts, V VMs; every array is read-only.

    Attributes:
        tick: 1, 2, .. of the run.
        now_s: since the start of the run.
        vms_on: each host's VMs in order of arrival, with those that are still migrating in (`flying`). VMs that
            have left for good are on no host.
        host_of: (V,) where each VM runs: the source while it migrates; GONE for one that has left.
        flying: VM -> the host it migrates to. Empty where every migration ends within the tick. A VM in flight
            cannot be moved, and its memory counts on both hosts.
        demand_mips: (V,) what each asks for now.
        history: (tick, V) demand over the VM's own MIPS, 0..1, at each tick so far, newest first. In reference
            mode interpolated a tenth of a second beyond the newest sample, as in the published model.
        samples: (tick + 1, V) the recorded samples until now, newest first: the same without that interpolation.
        used_ratio: (H,) of the CPU, as measured before anything is planned.
        allocated_mips: (H,) what its VMs get of it, those in flight to it counted as if they had come.
        needed_mips: (H,) what its VMs could use of it now; above the host's own where it is short.
        ram_used_bytes: (H,) memory of all of `vms_on`.
        awake: (H,) it draws power: it has a VM (in reference mode: one that does something).
    """

    tick: int
    now_s: float
    rules: Rules
    park: Park
    vms_on: Sequence[Sequence[int]]
    host_of: Ints
    flying: Mapping[int, int]
    demand_mips: Floats
    history: Floats
    samples: Floats
    used_ratio: Floats
    allocated_mips: Floats
    needed_mips: Floats
    ram_used_bytes: Floats
    awake: Bools


# The host of each VM at the start, before anything of its load is known.
Placement = Callable[[Park], Sequence[int]]


class Policy(Protocol):
    """Where VMs start and when they move."""

    def place(self, park: Park) -> Sequence[int]:
        """The host of each VM at the start; in honest mode every policy starts from one placement instead.

        Raises:
            CannotPlace: no host can take a VM.
        """
        ...

    def decide(self, view: View, /) -> Sequence[Move]:
        """The moves to start now, in order. What cannot be done is refused one by one, and counted."""
        ...


class CannotPlace(Exception):
    """The park is too small for its VMs; the text says which VM found no host."""
