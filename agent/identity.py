"""Which VM this is, and which boot of it. Every file is found below a root that is handed in.

An id comes from the hypervisor, else from the cloud, else from the installation (`SOURCES`, best first). The id that
a VM enrolled with stays its id for as long as the same source still says so; another value there means that the disk
was cloned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.wire import is_vm_id

SMBIOS = "smbios"
CLOUD = "cloud-instance"
MACHINE = "machine-id"
GIVEN = "given"
SOURCES = (SMBIOS, CLOUD, MACHINE)
CREDENTIAL = "product_uuid"

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
# What boards and documentation carry instead of an id of their own; many VMs would claim to be the same one.
_PLACEHOLDER_UUIDS = frozenset(
    {
        "00020003-0004-0005-0006-000700080009",
        "03000200-0400-0500-0006-000700080009",
        "03020100-0504-0706-0809-0a0b0c0d0e0f",
        "00010203-0405-0607-0809-0a0b0c0d0e0f",
        "01234567-89ab-cdef-0123-456789abcdef",
        "4c4c4544-0000-2010-8020-80c04f202020",
        "11111111-2222-3333-4444-555555555555",
        "00112233-4455-6677-8899-aabbccddeeff",
        "11223344-5566-7788-99aa-bbccddeeff00",
        "ffeeddcc-bbaa-9988-7766-554433221100",
        "fedcba98-7654-3210-fedc-ba9876543210",
        "deadbeef-dead-beef-dead-beefdeadbeef",
    }
)
_PLACEHOLDER_PREFIXES = ("12345678-1234-",)
_PLACEHOLDER_WORDS = frozenset(
    {"uninitialized", "not-settable", "not-present", "not-specified", "none", "null", "unknown"}
)
_PLACEHOLDER_INSTANCES = frozenset(
    {"i-abcdefg", "iid-abcdefg", "iid-datasource", "iid-datasource-none", "iid-local01", "instance-id", "nocloud"}
)


class IdentityError(Exception):
    """No id that could name this VM was found."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The id of a VM, and which of SOURCES (or GIVEN, by its owner) it came from."""

    vm: str
    source: str


def is_placeholder(vm_id: str) -> bool:
    """Whether many machines carry this id, lower-cased: as the identity of one it would make them one VM."""
    if _UUID.fullmatch(vm_id) or _MACHINE_ID.fullmatch(vm_id):
        # One or two different digits were typed, not drawn.
        typed = len(set(vm_id) - {"-"}) <= 2
        return typed or vm_id in _PLACEHOLDER_UUIDS or vm_id.startswith(_PLACEHOLDER_PREFIXES)
    return vm_id in _PLACEHOLDER_INSTANCES or vm_id in _PLACEHOLDER_WORDS


def smbios_uuid(text: str) -> str | None:
    """A product UUID, lower-cased; None where it is none or a known placeholder."""
    uuid = text.strip().lower()
    return uuid if _UUID.fullmatch(uuid) and not is_placeholder(uuid) else None


def cloud_instance(text: str) -> str | None:
    """A cloud instance id, lower-cased; None where it cannot name a VM or is a known placeholder."""
    instance = text.strip().lower()
    return instance if is_vm_id(instance) and not is_placeholder(instance) else None


def machine_id(text: str) -> str | None:
    """A machine id; None where it is none (`uninitialized` in an image that has not booted yet)."""
    found = text.strip().lower()
    return found if _MACHINE_ID.fullmatch(found) and not is_placeholder(found) else None


def in_container(root: Path) -> bool:
    """Whether this is a container, whose UUID would be its host's."""
    if any((root / name).exists() for name in ("run/systemd/container", ".dockerenv", "run/.containerenv")):
        return True
    environ = _read(root / "proc/1/environ")
    return any(entry.startswith("container=") and entry != "container=" for entry in environ.split("\0"))


def find_identities(root: Path, *, credentials: Path | None) -> dict[str, Identity]:
    """What each of SOURCES says; sources without a usable id are absent.

    Args:
        root: `/`, or a tree like it.
        credentials: folder of systemd's LoadCredential; None: not started with one.
    """
    uuid = None
    if not in_container(root):
        uuid = smbios_uuid(_read(credentials / CREDENTIAL)) if credentials is not None else None
        uuid = uuid or smbios_uuid(_read(root / "sys/class/dmi/id/product_uuid"))
    instance = cloud_instance(_read(root / "run/cloud-init/.instance-id")) or cloud_instance(
        _read(root / "var/lib/cloud/data/instance-id")
    )
    found = {SMBIOS: uuid, CLOUD: instance, MACHINE: machine_id(_read(root / "etc/machine-id"))}
    return {source: Identity(vm, source) for source, vm in found.items() if vm is not None}


def resolve(found: Mapping[str, Identity], *, enrolled: Identity | None, given: str | None) -> Identity:
    """Who this VM is.

    Args:
        found: see `find_identities`.
        enrolled: what it enrolled as; None: not yet.
        given: the id its owner set, which overrules all.

    Returns: `enrolled` unless its own source now says otherwise (a clone), then and at first the best source.
    Raises: IdentityError: nothing to go by.
    """
    if given is not None:
        return Identity(given, GIVEN)
    # A source that cannot be read today (started by hand, not as root) proves nothing; nor does an id once given.
    if enrolled is not None and found.get(enrolled.source, enrolled) == enrolled:
        return enrolled
    for source in SOURCES:
        if source in found:
            return found[source]
    raise IdentityError(
        "no id for this VM: no usable SMBIOS product UUID, cloud instance id or machine id; name it with --vm-id"
    )


def boot_id(root: Path) -> str:
    """Id of this boot. Raises IdentityError: the kernel does not say."""
    found = _read(root / "proc/sys/kernel/random/boot_id").strip()
    if not _UUID.fullmatch(found):
        raise IdentityError(f"{root / 'proc/sys/kernel/random/boot_id'}: no boot id")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
