"""docs/design.md names every module there is, once, and none that is not."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("agent", "aggregator", "reports", "orchestrate")
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
# A row of the table: its first cell names one module or several.
ROW = re.compile(r"^\| (`[^|]+) \|", re.MULTILINE)


def named(text: str) -> list[str]:
    """The modules in the first cells of the table, in order."""
    return [name for cell in ROW.findall(text) for name in re.findall(r"`([\w.]+)`", cell)]


def modules() -> set[str]:
    """What each package holds itself; `__init__` says what the package is, migrations are named by their number."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.stem != "__init__" and (path.parent / "__init__.py").exists()
    }


def test_the_table_names_every_module_once() -> None:
    """A module without a line, a line without a module, and a second line for one are mistakes."""
    assert Counter(named(DESIGN)) == Counter(modules())


def test_names_are_read_from_first_cells_alone() -> None:
    """Several names may share a row; what other cells mention counts for nothing."""
    text = "| module | holds |\n|---|---|\n| `a.b`, `a.__main__` | `c.d` |\ntext about `e.f`\n| `a.g` | x |\n"
    assert named(text) == ["a.b", "a.__main__", "a.g"]


def test_the_readme_leads_to_every_document() -> None:
    """Whoever reads the README finds each page of docs/."""
    links = set(re.findall(r"\]\((docs/[\w.-]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")} - links == set()
