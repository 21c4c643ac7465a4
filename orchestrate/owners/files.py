"""Templates of what owners are shown, in mails and on their pages, and the files that these pages load."""

from __future__ import annotations

from collections.abc import Callable
from datetime import tzinfo
from importlib.resources import files

from jinja2 import Environment, PackageLoader

from reports.web.static import StaticFiles
from reports.web.templates import make_environment

# Colours and plain elements are those of the report.
_FILES = (
    ("reports.web", "theme.css"),
    ("reports.web", "icon.svg"),
    ("orchestrate.owners", "owner.css"),
    ("orchestrate.owners", "owner.js"),
)


def owner_environment(zone: tzinfo, asset: Callable[[str], str]) -> Environment:
    """Templates of `orchestrate/owners/templates`, every one escaped, with the filters of the report's pages.

    Args: as for `reports.web.templates.make_environment`.
    """
    return make_environment(zone, asset).overlay(loader=PackageLoader("orchestrate.owners", "templates"))


def no_file(name: str) -> str:
    """For what has to stand alone, such as a mail. Raises: KeyError."""
    raise KeyError(f"{name}: nothing is fetched here")


def load_owner_files() -> StaticFiles:
    """The style and the script of the owners' pages."""
    found = [(name, files(package).joinpath("static").joinpath(name).read_bytes()) for package, name in _FILES]
    return StaticFiles(found, None)
