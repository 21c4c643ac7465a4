"""Files of the pages: addressed by their content, and nothing but them."""

from __future__ import annotations

import gzip
import re

import pytest

from reports.web.static import PLOTLY, StaticFiles, load_static_files


def test_address_holds_the_content() -> None:
    """Another content has another address, so that a browser may keep each for good."""
    one = StaticFiles([("page.css", b"a{}")], None)
    other = StaticFiles([("page.css", b"b{}")], None)
    assert re.fullmatch(r"/static/page\.[0-9a-f]{12}\.css", one.address("page.css"))
    assert one.address("page.css") != other.address("page.css")
    found = one.get(one.address("page.css").removeprefix("/static/"))
    assert found is not None
    assert found.body == b"a{}"
    assert found.content_type == "text/css; charset=utf-8"


def test_compressed_is_the_same_file() -> None:
    """Large files are there compressed too, small ones are not made larger."""
    text = b"x" * 10_000
    files = StaticFiles([("page.js", text), ("tiny.js", b"1")], None)
    large = files.get(files.address("page.js").removeprefix("/static/"))
    tiny = files.get(files.address("tiny.js").removeprefix("/static/"))
    assert large is not None
    assert large.compressed is not None
    assert gzip.decompress(large.compressed) == text
    assert tiny is not None
    assert tiny.compressed is None


def test_plotly_is_addressed_by_its_version() -> None:
    """The script of the installed package, under a name that changes with it."""
    files = StaticFiles([], ("7.1.0+x/../y", b"plotly"))
    assert files.address(PLOTLY) == "/static/plotly-7.1.0-x-..-y.min.js"
    assert load_static_files().address(PLOTLY).startswith("/static/plotly-")


def test_unknown_files_are_not_there() -> None:
    """Names are looked up, never joined to a path."""
    files = StaticFiles([("page.css", b"a{}")], None)
    for name in ("page.css", "", "..", "../__init__.py", "/etc/passwd", "page.000000000000.css"):
        assert files.get(name) is None
    with pytest.raises(KeyError):
        files.address("other.css")


def test_only_files_for_browsers_are_served() -> None:
    """What else lies in the folder stays there."""
    files = load_static_files()
    for name in ("__init__.py", "__pycache__", "README.md"):
        with pytest.raises(KeyError):
            files.address(name)
