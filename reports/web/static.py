"""Files of the pages: style, scripts and plotly, held in memory and addressed by what is in them.

An address holds a hash of the content, so that a browser keeps the file for good and still sees a new one at once.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

_TYPES: Mapping[str, str] = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "ico": "image/x-icon",
    "woff2": "font/woff2",
}
_SHOWN_DIGITS = 12
PLOTLY = "plotly.min.js"
PREFIX = "/static/"


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticFile:
    """One file. `compressed` is None where compressing saves nothing."""

    body: bytes
    compressed: bytes | None
    content_type: str


class StaticFiles:
    """All files that the pages load, by the last part of their address.

    Args:
        found: names and content of the files.
        plotly: version and content of plotly's script; None where it is not installed, and pages have no charts.
    """

    def __init__(self, found: Iterable[tuple[str, bytes]], plotly: tuple[str, bytes] | None) -> None:
        self._files: dict[str, StaticFile] = {}
        self._names: dict[str, str] = {}
        for name, body in found:
            stem, _, ending = name.rpartition(".")
            self._add(name, f"{stem}.{sha256(body).hexdigest()[:_SHOWN_DIGITS]}.{ending}", body)
        if plotly is not None:
            version, body = plotly
            self._add(PLOTLY, f"plotly-{re.sub('[^0-9A-Za-z.]', '-', version)}.min.js", body)

    def address(self, name: str) -> str:
        """Where a page finds the file of this name. Raises: KeyError: there is none."""
        return PREFIX + self._names[name]

    def get(self, addressed: str) -> StaticFile | None:
        """The file whose address ends so."""
        return self._files.get(addressed)

    def _add(self, name: str, addressed: str, body: bytes) -> None:
        # Without a time in it, so that the same file is always the same bytes.
        compressed = gzip.compress(body, mtime=0)
        self._names[name] = addressed
        self._files[addressed] = StaticFile(
            body=body,
            compressed=compressed if len(compressed) < len(body) else None,
            content_type=_TYPES[name.rpartition(".")[2]],
        )


def load_static_files() -> StaticFiles:
    """The files beside this module, and the script of the installed plotly."""
    folder: Traversable = files("reports.web").joinpath("static")
    found = [
        (entry.name, entry.read_bytes())
        for entry in folder.iterdir()
        if entry.is_file() and entry.name.rpartition(".")[2] in _TYPES
    ]
    return StaticFiles(found, _plotly())


def _plotly() -> tuple[str, bytes] | None:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("plotly"), files("plotly").joinpath("package_data", PLOTLY).read_bytes()
    except (PackageNotFoundError, ModuleNotFoundError, FileNotFoundError):
        return None
