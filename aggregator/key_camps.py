"""Which keys are those of a fleet, and whose are not. Pure.

Nodes that are linked by common keys are one camp; a rotation never splits one. Where there are two, VMs decide: the
keys are theirs. No order of starts has a say, nor has who is there alone: rows of nodes that are away count as well.
Whose keys have VMs gives way only to a camp that clearly has more of them and serves them now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aggregator.key_marks import KeyMark


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHolder:
    """A node, there or away.

    Attributes:
        takes_pushes: it says so.
        marks: of its keys; none: it has not told, or told what cannot be read.
        home_vms: VMs whose history it keeps.
        heard_vms: VMs that it heard of within a day.
    """

    name: str
    is_there: bool
    takes_pushes: bool
    marks: tuple[KeyMark, ...]
    home_vms: int
    heard_vms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDifference:
    """How the keys of one node differ from another's.

    Attributes:
        words: said of `it`, in a clause.
        is_stranger: none of its keys is the fleet's: no token of the fleet's VMs is good there.
    """

    words: str
    is_stranger: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Camp:
    """Nodes that are linked by common keys, by name. `vms`: which have reason to hold these keys for theirs."""

    members: tuple[KeyHolder, ...]
    vms: int

    @property
    def serves(self) -> bool:
        return any(one.is_there and one.takes_pushes for one in self.members)

    @property
    def rank(self) -> tuple[int, int, str]:
        """The least is the greatest camp."""
        return -self.vms, -len(self.members), self.members[0].name

    def outweighs(self, other: _Camp) -> bool:
        """In VMs, and in nodes: one node whose key file was exchanged may well keep most histories."""
        return self.vms > other.vms and len(self.members) > len(other.members)


def keys_differ(marks: Iterable[Sequence[KeyMark]]) -> bool:
    """Whether `key_differences` could find anything among nodes with these marks, whatever else is said of them."""
    told = [of_one for of_one in marks if of_one]
    by_kid: dict[str, KeyMark] = {}
    is_same = all(by_kid.setdefault(mark.kid, mark) == mark for of_one in told for mark in of_one)
    return not is_same or len(_groups(told)) > 1


def key_differences(nodes: Iterable[KeyHolder]) -> dict[str, KeyDifference]:
    """Nodes whose keys are not those of the fleet, or not wholly, by name. Args: nodes: all, those away included."""
    told = sorted((one for one in nodes if one.marks), key=lambda one: one.name)
    has_homes = any(one.home_vms for one in told)
    camps = []
    for group in _groups([one.marks for one in told]):
        members = tuple(told[number] for number in group)
        vms = sum(one.home_vms if has_homes else one.heard_vms for one in members)
        camps.append(_Camp(members=members, vms=vms))
    found: dict[str, KeyDifference] = {}
    for camp in camps:
        difference = _judge(camp, sorted((one for one in camps if one is not camp), key=lambda one: one.rank))
        found |= _within(camp) if difference is None else {one.name: difference for one in camp.members}
    return found


def _judge(camp: _Camp, others: Sequence[_Camp]) -> KeyDifference | None:
    """What is wrong with the keys of a camp. Args: others: the greatest first."""
    with_vms = [one for one in others if one.vms]
    if not camp.vms and with_vms:
        # Though all of those may be away: their VMs would get nothing but refusals here.
        return _stranger(with_vms[0])
    if not camp.vms:
        # No VM could tell. All go by the same rule, so one camp goes on, and the same one after any restart.
        before = [one for one in others if one.serves and one.rank < camp.rank]
        return _stranger(before[0]) if before else None
    rivals = [one for one in with_vms if not camp.outweighs(one)]
    # To step back helps VMs only where others take their pushes.
    greater = [one for one in rivals if one.outweighs(camp) and one.serves]
    if greater:
        return _stranger(greater[0])
    if not rivals:
        return None
    words = (
        f"{_not_those_of(_donor(rivals[0]))}; there are VMs with either, so it goes on with its own: "
        f"all aggregators need the same token.key and admin.token"
    )
    return KeyDifference(words=words)


def _stranger(right: _Camp) -> KeyDifference:
    donor = _donor(right)
    if not donor.home_vms:
        advice = "all aggregators need the same token.key and admin.token"
    elif donor.is_there:
        advice = "copy token.key and admin.token from there"
    else:
        advice = "copy token.key and admin.token from there, or forget what is gone for good (nodes forget)"
    return KeyDifference(words=f"{_not_those_of(donor)}: {advice}", is_stranger=True)


def _donor(camp: _Camp) -> KeyHolder:
    """From whom keys may be copied: best from a home of VMs that is there."""
    return min(camp.members, key=lambda one: (not one.home_vms, not one.is_there, one.name))


def _not_those_of(donor: KeyHolder) -> str:
    return f"its token keys are not those of {donor.name}, so that VMs' tokens of one are refused by the other"


def _within(camp: _Camp) -> dict[str, KeyDifference]:
    """Nodes that are there and have another key under the same name, or another admin token."""
    found: dict[str, KeyDifference] = {}
    seen: dict[str, tuple[KeyMark, KeyHolder]] = {}
    for one in sorted(camp.members, key=lambda one: (not one.home_vms, one.name)):
        for mark in one.marks if one.is_there else ():
            other, holder = seen.setdefault(mark.kid, (mark, one))
            if other.key != mark.key:
                advice = "copy token.key from there" if holder.home_vms else "both need the same token.key"
                words = f"its key {mark.kid} is another than that of {holder.name}: {advice}"
                found.setdefault(one.name, KeyDifference(words=words))
            elif other.admin != mark.admin:
                words = f"its admin.token is another than that of {holder.name}: neither can ask the other"
                found.setdefault(one.name, KeyDifference(words=words))
    return found


def _groups(marks: Sequence[Sequence[KeyMark]]) -> list[list[int]]:
    """Places in `marks`, those together that are linked by common keys; each group in order."""
    groups: list[tuple[set[tuple[str, str]], list[int]]] = []
    for number, of_one in enumerate(marks):
        keys, places = {(mark.kid, mark.key) for mark in of_one}, [number]
        apart = []
        for group in groups:
            if group[0] & keys:
                keys, places = keys | group[0], [*group[1], *places]
            else:
                apart.append(group)
        groups = [*apart, (keys, sorted(places))]
    return [places for _, places in groups]
