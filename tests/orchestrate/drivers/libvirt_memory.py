"""A guest's saved memory, from which others are made: to read it back takes a second, to boot ten times as long."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO

from orchestrate.drivers.libvirt_links import load_libvirt

# Of libvirt's save images: magic, version, bytes of what follows, was it running, compression, where the cookie begins
# in what follows, 14 unused numbers. What follows is the domain as XML, the cookie, each ended by a zero; then QEMU's.
_HEADER = struct.Struct("<16s5I56x")
_MAGIC, _VERSION = b"LibvirtQemudSave", 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedMemory:
    """What a running guest was saved as. Args: path: of libvirt's save image."""

    path: Path

    def start(self, domain: Any, scratch: Path) -> None:
        """Starts a domain that is off as if it were the guest that was saved, with its own name, disk and console.

        Args: domain: of the same devices. scratch: a file to be made and removed.
        """
        xml = domain.XMLDesc(_xml_flags()).encode()
        try:
            with open(self.path, "rb") as image, open(scratch, "wb") as target:
                _rewrite(image, target, xml)
            domain.connect().restore(str(scratch))
        finally:
            scratch.unlink(missing_ok=True)


def _rewrite(image: BinaryIO, target: BinaryIO, xml: bytes) -> None:
    """The image with another domain in it. Raises: ValueError: it is none that we know."""
    magic, version, length, running, compressed, cookie_at = _HEADER.unpack(image.read(_HEADER.size))
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError(f"a save image of version {version}, not {_VERSION}")
    cookie = image.read(length)[cookie_at:] if cookie_at else b""
    told = xml + b"\0"
    target.write(
        _HEADER.pack(magic, version, len(told) + len(cookie), running, compressed, len(told) if cookie_at else 0)
    )
    target.write(told + cookie)
    copyfileobj(image, target, 1 << 20)


def _xml_flags() -> int:
    """As libvirt writes it into such an image: everything that is needed to start it on another host."""
    library = load_libvirt()
    flags: int = library.VIR_DOMAIN_XML_SECURE | library.VIR_DOMAIN_XML_INACTIVE | library.VIR_DOMAIN_XML_MIGRATABLE
    return flags
