"""How far the controller may go with which VMs, as plain settings; the defaults allow nothing. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from orchestrate.inventory import Vm
from orchestrate.limits import Limits
from orchestrate.records import Rung
from orchestrate.sighting import Sighting


class Approve(StrEnum):
    """Who says yes to a plan. AUTO: the running service may apply what only such groups are in."""

    PERSON = "person"
    AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """VMs with rules of their own. What is not told fits every VM; of a list, one has to fit.

    Args:
        tags: of the agent's or the hypervisor's side. names: glob patterns, whatever the case.
        policy: that must have made the verdict; None: the report's.
        up_to: the last rung of the ladder for these VMs.
        grace_s: from the notice to the suspension. stop_grace_s: from there to the stop.
        unknown_owner: VMs without a known owner are in it too.

    Raises: ValueError: it names no VMs, or a wait is negative.
    """

    name: str
    tags: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    policy: str | None = None
    up_to: Rung = Rung.REPORT
    grace_s: float = 7 * 86_400.0
    stop_grace_s: float = 30 * 86_400.0
    unknown_owner: bool = False
    approve: Approve = Approve.PERSON

    def __post_init__(self) -> None:
        if not (self.tags or self.owners or self.names):
            raise ValueError(f'group {self.name}: says of no VM: give tags, owners or names (names = ["*"] is all)')
        if not (self.grace_s >= 0 and self.stop_grace_s >= 0):
            raise ValueError(f"group {self.name}: a grace is negative")

    def fits(self, vm: Vm, sighting: Sighting) -> bool:
        """Whether the VM is one of its."""
        owner = sighting.owner or vm.owner
        names = [name.casefold() for name in (vm.name, sighting.name) if name]
        return (
            (not self.tags or not {*vm.tags, *sighting.tags}.isdisjoint(self.tags))
            and (not self.owners or owner in self.owners)
            and (not self.names or any(fnmatchcase(name, each.casefold()) for name in names for each in self.names))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveSettings:
    """Whether VMs may be moved, and who says so. The default is a report."""

    allowed: bool = False
    approve: Approve = Approve.PERSON


@dataclass(frozen=True, slots=True, kw_only=True)
class ReclaimSettings:
    """Everything that decisions rest on beside the world.

    Args:
        groups: the first that fits a VM is its own; a VM in none is reported only.
        fresh_s: the newest sample, and a reading from outside, must be younger.
        min_days: of data, and of age. min_coverage_ratio: of the policy's window.
        max_skew_s: how far a VM's clock may be off.
        recent_cpu_ratio: a VM above it in one of the newest minutes is in use.
        agree_cpu_ratio: how far the agent's and the hypervisor's CPU may be apart.
        emulation_cores: what a VM's process may take beside its guest.
        agree_net_factor, agree_net_bytes_per_s: traffic from outside is at most so many times the agent's, and this.
        outage_ratio: a greater share of the fleet silent or judged anew is an outage.
        batch: the best so many of what is due go into a plan, notices and the rest each; None: all.
        exclude_tags: leave alone. pin_tags: do not move.
        relief, consolidation: what plans that move VMs may do.
        two_persons_above: a plan that takes something from more VMs needs the yes of two people who logged in, and
            of whoever made it none; None: the first yes is enough for every plan.

    Raises: ValueError: two groups of one name.
    """

    groups: tuple[Group, ...] = ()
    fresh_s: float = 300.0
    min_days: float = 14.0
    min_coverage_ratio: float = 0.95
    max_skew_s: float = 120.0
    recent_cpu_ratio: float = 0.10
    agree_cpu_ratio: float = 0.10
    emulation_cores: float = 0.05
    agree_net_factor: float = 2.0
    agree_net_bytes_per_s: float = 10_000.0
    outage_ratio: float = 0.10
    batch: int | None = None
    exclude_tags: tuple[str, ...] = ("fallow:keep",)
    pin_tags: tuple[str, ...] = ("fallow:pin",)
    limits: Limits = field(default_factory=Limits)
    relief: MoveSettings = field(default_factory=MoveSettings)
    consolidation: MoveSettings = field(default_factory=MoveSettings)
    two_persons_above: int | None = 10

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"groups of one name: {', '.join(twice)}")


def group_of(vm: Vm, sighting: Sighting, groups: Sequence[Group]) -> Group | None:
    """The first that fits; None: the VM is reported only."""
    return next((group for group in groups if group.fits(vm, sighting)), None)


def group_named(name: str | None, groups: Sequence[Group]) -> Group | None:
    """None: there is none of that name now."""
    return next((group for group in groups if group.name == name), None)
