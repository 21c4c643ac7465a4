"""What a domain's XML says about a VM: size, addresses, owner, and why it may not be touched. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree

from orchestrate.inventory import Shield

# Elements owner, mail, tag (any number), and lock, ha, template, which shield the VM.
NAMESPACE = "urn:fallow:vm"
TEMPLATE_TAG = "template"
_SHIELDS = {"lock": Shield.LOCKED, "ha": Shield.HIGH_AVAILABILITY, "template": Shield.TEMPLATE}
# A device of the host itself, given to the VM by other elements than <hostdev>.
_GIVEN_INTERFACES = frozenset({"hostdev", "vdpa"})
_GIVEN_DISKS = frozenset({"nvme", "vhostvdpa"})
_UNITS_BYTES = {
    "b": 1,
    "bytes": 1,
    "kb": 10**3,
    "k": 1 << 10,
    "kib": 1 << 10,
    "mb": 10**6,
    "m": 1 << 20,
    "mib": 1 << 20,
    "gb": 10**9,
    "g": 1 << 30,
    "gib": 1 << 30,
    "tb": 10**12,
    "t": 1 << 40,
    "tib": 1 << 40,
}
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A VM as its XML describes it. Args: mem_bytes: the most it may have, its balloon empty. The rest: as in Vm."""

    uuid: str
    name: str
    vcpus: int
    mem_bytes: int
    owner: str | None
    mail: str | None
    tags: tuple[str, ...]
    macs: tuple[str, ...]
    shields: frozenset[Shield]


def is_uuid(text: str) -> bool:
    """Lower case and with hyphens, as we write them; libvirt would find a VM by other spellings too."""
    return _UUID.match(text) is not None


def parse_domain(text: str) -> Described:
    """The VM. Raises: ValueError: not the XML of a domain."""
    try:
        # libvirt wrote it out of its own structures: no entities, no documents from elsewhere.
        root = ElementTree.fromstring(text)  # noqa: S314
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"not the XML of a domain: {error}") from error
    uuid, name = _text(root.find("uuid")), _text(root.find("name"))
    if root.tag != "domain" or name is None or uuid is None or not is_uuid(uuid.lower()):
        raise ValueError("not the XML of a domain: no name or no UUID")
    labels = _labels(root)
    tags = tuple(dict.fromkeys(labels.get("tag", ())))
    return Described(
        uuid=uuid.lower(),
        name=name,
        vcpus=_vcpus(root),
        mem_bytes=_mem_bytes(root),
        owner=_one(labels, "owner"),
        mail=_one(labels, "mail"),
        tags=tags,
        macs=_macs(root),
        shields=_shields(root, labels, tags),
    )


def _labels(root: ElementTree.Element) -> dict[str, list[str]]:
    """What stands in our namespace, by name; an element without text is there with an empty one left out."""
    labels: dict[str, list[str]] = {}
    for element in root.iterfind(f"metadata//{{{NAMESPACE}}}*"):
        texts = labels.setdefault(element.tag.rpartition("}")[2], [])
        text = _text(element)
        if text is not None:
            texts.append(text)
    return labels


def _one(labels: dict[str, list[str]], name: str) -> str | None:
    return next(iter(labels.get(name, ())), None)


def _vcpus(root: ElementTree.Element) -> int:
    element = root.find("vcpu")
    text = None if element is None else element.get("current") or _text(element)
    if text is None or not text.isdecimal():
        raise ValueError(f"not the XML of a domain: vcpu is {text!r}")
    return int(text)


def _mem_bytes(root: ElementTree.Element) -> int:
    element = root.find("memory")
    text = _text(element)
    unit = "KiB" if element is None else element.get("unit", "KiB")
    if text is None or not text.isdecimal() or unit.lower() not in _UNITS_BYTES:
        raise ValueError(f"not the XML of a domain: memory is {text!r} {unit}")
    return int(text) * _UNITS_BYTES[unit.lower()]


def _macs(root: ElementTree.Element) -> tuple[str, ...]:
    found = (mac.get("address", "").lower() for mac in root.iterfind("devices/interface/mac"))
    return tuple(dict.fromkeys(mac for mac in found if _MAC.match(mac)))


def _shields(root: ElementTree.Element, labels: dict[str, list[str]], tags: tuple[str, ...]) -> frozenset[Shield]:
    shields = {shield for name, shield in _SHIELDS.items() if name in labels}
    if TEMPLATE_TAG in tags:
        shields.add(Shield.TEMPLATE)
    if _has_given_device(root):
        shields.add(Shield.PASSTHROUGH)
    # A disk that is being copied elsewhere; by whom and for what is not said.
    if root.find("devices/disk/mirror") is not None:
        shields.add(Shield.BACKUP)
    return frozenset(shields)


def _has_given_device(root: ElementTree.Element) -> bool:
    return (
        root.find("devices/hostdev") is not None
        or any(each.get("type") in _GIVEN_INTERFACES for each in root.iterfind("devices/interface"))
        or any(each.get("type") in _GIVEN_DISKS for each in root.iterfind("devices/disk"))
    )


def _text(element: ElementTree.Element | None) -> str | None:
    text = "" if element is None else (element.text or "").strip()
    return text or None
