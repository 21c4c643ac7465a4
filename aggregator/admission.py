"""Whether a VM that holds a good join token may enrol: pure rules over what is known of it. docs/enrolment.md says why.

A join token is bound to a VM, a pool or a network, or to nothing. What the VM says of itself is then held against the
inventory and against who has the id already; where they do not agree, a person decides.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_network

from agent.wire import is_vm_id
from aggregator.addresses import Proxies

HEARD_RECENTLY_S = 3600.0
_MAX_POOL_CHARS = 256

_MAC = re.compile(r"[0-9a-f]{12}")
# Of nobody, or of everybody.
_NO_MACS = frozenset({"000000000000", "ffffffffffff"})


class Check(StrEnum):
    """What an enrolment is held against; the setting `enrolment.check`."""

    AUTO = "auto"  # who has the id; the inventory too, once there is one
    INVENTORY = "inventory"  # both, also while the inventory is empty
    OFF = "off"  # neither: whoever holds a join token may take any id


class Kind(StrEnum):
    """What a join token may be bound to."""

    VM = "vm"
    POOL = "pool"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class Bound:
    """What a join token is bound to. Made by `parse_bound` alone: `value` is a VM id, a pool's name or a network."""

    kind: Kind
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """The VM that asks, as the door and its request have it.

    Attributes:
        peer: address that the connection comes from; None is unknown and in no network.
        macs: as `clean_macs` leaves them.
    """

    vm: str
    peer: str | None
    macs: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the fleet database and memory hold of the id that a VM asks for.

    Attributes:
        enrolled: it has had a token.
        macs: those it enrolled with.
        heard_s: when its newest push came; None: never, or unknown.
        inventory_macs: None where the inventory does not know the VM; empty where it knows no MAC of it.
        pools: that the inventory names for it, and its tags.
        has_inventory: the inventory names any VM at all.
    """

    enrolled: bool
    macs: frozenset[str]
    heard_s: float | None
    inventory_macs: frozenset[str] | None
    pools: frozenset[str]
    has_inventory: bool


def parse_check(text: object) -> Check:
    """The setting `enrolment.check`. Raises: ValueError."""
    if not isinstance(text, str) or text not in set(Check):
        raise ValueError(f"{text!r} is none of {', '.join(Check)}")
    return Check(text)


def parse_bound(kind: Kind, text: str) -> Bound:
    """What `--vm`, `--pool` or `--network` names, in its one spelling. Raises: ValueError."""
    if kind is Kind.NETWORK:
        try:
            return Bound(kind, str(ip_network(text)))
        except ValueError as error:
            raise ValueError(f"{text!r} is not a network such as 10.1.0.0/16 ({error})") from error
    if kind is Kind.VM:
        if not is_vm_id(text):
            raise ValueError(f"{text!r} is not a VM id")
    elif not text.strip() or not text.isprintable() or len(text) > _MAX_POOL_CHARS:
        raise ValueError(f"{text[:80]!r} is not the name of a pool")
    return Bound(kind, text.strip())


def clean_mac(text: str) -> str | None:
    """`aa:bb:cc:dd:ee:ff` of one in any usual spelling; None where it is none, or one that names no card."""
    digits = re.sub(r"[:.-]", "", text.strip().lower())
    if not _MAC.fullmatch(digits) or digits in _NO_MACS:
        return None
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def clean_macs(texts: Iterable[str]) -> frozenset[str]:
    """Those of the texts that are MACs, in one spelling."""
    return frozenset(mac for mac in map(clean_mac, texts) if mac is not None)


def fits(bound: Bound | None, asking: Asking, pools: Collection[str]) -> bool:
    """Whether a join token that is bound so may let this VM in."""
    if bound is None:
        return True
    if bound.kind is Kind.VM:
        return bound.value == asking.vm
    if bound.kind is Kind.POOL:
        return bound.value in pools
    return Proxies([ip_network(bound.value)]).includes(asking.peer or "")


def doubt(asking: Asking, known: Known, *, bound: Bound | None, check: Check, now_s: float) -> str | None:
    """Why a person must decide on this VM; None: it may come in.

    A join token that an admin made for exactly this VM is their word that its id may change hands. It is not their
    word on the inventory.
    """
    if check is Check.OFF:
        return None
    why = None
    if known.has_inventory or check is Check.INVENTORY:
        why = _against_inventory(asking, known)
    if why is None and known.enrolled and not (bound is not None and bound.kind is Kind.VM):
        why = _against_owner(asking, known, now_s)
    return why


def _against_inventory(asking: Asking, known: Known) -> str | None:
    if known.inventory_macs is None:
        return "the inventory does not know it"
    if known.inventory_macs and not known.inventory_macs & asking.macs:
        return "it has none of the MACs that the inventory knows"
    return None


def _against_owner(asking: Asking, known: Known, now_s: float) -> str | None:
    # A time ahead of us is a clock that was set back: then nobody can tell that it was long ago.
    if known.heard_s is not None and now_s - known.heard_s < HEARD_RECENTLY_S:
        return "a VM that pushed within the last hour has this id"
    if known.macs and not known.macs & asking.macs:
        return "it has none of the MACs that this id enrolled with"
    return None
