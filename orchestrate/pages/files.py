"""Templates of the controller's pages and the files that they load: the report's look, with another navigation."""

from __future__ import annotations

from collections.abc import Callable
from datetime import tzinfo
from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader

from reports.web.static import StaticFiles
from reports.web.templates import make_environment

_FILES = (
    ("reports.web", "theme.css"),
    ("reports.web", "style.css"),
    ("reports.web", "icon.svg"),
    ("orchestrate.pages", "pages.css"),
)


def page_environment(zone: tzinfo, asset: Callable[[str], str]) -> Environment:
    """Templates of `orchestrate/pages/templates`, then those of the report's pages, every one escaped.

    So `base.html.j2` is the controller's, also for the report's pages about accounts; `report/base.html.j2` is the
    report's own.

    Args: as for `reports.web.templates.make_environment`.
    """
    report = PackageLoader("reports.web", "templates")
    loaders = [PackageLoader("orchestrate.pages", "templates"), report, PrefixLoader({"report": report})]
    return make_environment(zone, asset).overlay(loader=ChoiceLoader(loaders))


def load_page_files() -> StaticFiles:
    """The style of the pages. There is no script."""
    found = [(name, files(package).joinpath("static").joinpath(name).read_bytes()) for package, name in _FILES]
    return StaticFiles(found, None)
