"""Every template, rendered with views of every kind: nothing undefined, everything escaped, sound for every reader."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from reports.web.renderer import Renderer
from reports.web.static import load_static_files
from reports.web.templates import make_environment
from reports.web.views import TEMPLATES, View
from tests.reports import samples
from tests.reports.web.sample_views import EVIL, every_view

VIEWS = dict(every_view())
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
# SVG's own elements are written closed in themselves.
LABELLED = {"input", "select", "textarea"}
FIGURE_ROW = re.compile(
    r'<tr( class="decides")?>\s*<th scope="row">([^<]*)</th>\s*'
    r'<td class="number">([^<]*)</td>\s*<td class="nowrap">([^<]*)</td>'
)


class Page(HTMLParser):
    """What a page holds, and whether its elements are nested soundly."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]


@cache
def renderer() -> Renderer:
    return Renderer(make_environment(samples.BERLIN, load_static_files().address))


def render(view: View) -> str:
    return renderer().page(view).body.decode()


@pytest.fixture(params=VIEWS)
def text(request: pytest.FixtureRequest) -> str:
    """Each view as its page."""
    return render(VIEWS[request.param])


def test_every_template_is_rendered() -> None:
    """The views of these tests are of every page there is."""
    assert {type(view) for view in VIEWS.values()} == set(TEMPLATES)


def test_a_page_is_sound(text: str) -> None:
    """Elements close in order, ids are there once, and what refers to an id finds it."""
    page = Page(text)
    assert page.open == []
    ids = Counter(attributes["id"] for _, attributes in page.found if "id" in attributes)
    assert [one for one, times in ids.items() if times > 1] == []
    for _, attributes in page.found:
        for name in ("for", "aria-labelledby", "aria-describedby"):
            for wanted in (attributes.get(name) or "").split():
                assert wanted in ids
        href = attributes.get("href") or ""
        if href.startswith("#"):
            assert href[1:] in ids


def test_a_page_is_for_every_reader(text: str) -> None:
    """One h1, one main, a language, headings without a leap, a name for every field, a scope for every heading."""
    page = Page(text)
    assert [len(page.of(tag)) for tag in ("h1", "main", "title")] == [1, 1, 1]
    assert page.of("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.found if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    labelled = {attributes.get("for") for attributes in page.of("label")}
    for attributes in page.of(*LABELLED):
        assert attributes.get("type") == "hidden" or attributes.get("id") in labelled
    assert all(attributes.get("scope") in {"row", "col"} for attributes in page.of("th"))
    for attributes in page.of("svg"):
        assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label")


def test_what_people_chose_is_text(text: str) -> None:
    """A name with a tag in it makes no element, in text or in attributes."""
    page = Page(text)
    assert all("src" in attributes and not attributes.get("onerror") for attributes in page.of("script"))
    assert page.of("b") == []
    assert EVIL not in text


def test_a_page_keeps_to_the_policy_of_content(text: str) -> None:
    """No script and no style stands in a page itself, and nothing comes from elsewhere."""
    page = Page(text)
    assert page.of("style") == []
    for _, attributes in page.found:
        assert not any(name == "style" or name.startswith("on") for name in attributes)
        for name in ("src", "href", "action"):
            address = attributes.get(name)
            assert address is None or address.startswith(("/", "#"))


@pytest.mark.parametrize("name", VIEWS)
def test_charts_are_loaded_where_they_are(name: str) -> None:
    """The charting library is on the pages of a VM and of a host alone, and holds nothing up."""
    scripts = Page(render(VIEWS[name])).of("script")
    assert bool(scripts) == (name == "host" or name.startswith("vm "))
    assert all("defer" in attributes for attributes in scripts)


@pytest.mark.parametrize("name", VIEWS)
def test_forms_that_post_carry_the_token(name: str) -> None:
    """Each form that changes something has the hidden field; searches do not have it."""
    text = render(VIEWS[name])
    for form in re.findall(r"<form.*?</form>", text, re.DOTALL):
        assert ('name="csrf" value="token"' in form) == ('method="post"' in form)


def test_a_refused_form_says_why() -> None:
    """What was typed is still there, the reason stands at its field, and the field is marked."""
    page = Page(render(VIEWS["exemptions"]))
    field = next(attributes for attributes in page.of("input") if attributes.get("name") == "subject")
    assert (field["value"], field["aria-invalid"]) == (EVIL, "true")
    assert f"{EVIL}: no such VM" in page.texts
    assert "nothing was changed" in page.texts


def test_an_empty_fleet_says_how_to_begin() -> None:
    """Each page that has nothing to show for want of VMs names the command that brings some."""
    for name in ("fleet of none", "vms of none", "health of none"):
        assert "fallow-aggregator join-token" in render(VIEWS[name])


def test_the_order_is_told() -> None:
    """The column by which the list is ordered says so, in which direction too, and no other does."""
    sorted_by = [
        attributes["aria-sort"] for attributes in Page(render(VIEWS["vms"])).of("th") if "aria-sort" in attributes
    ]
    assert sorted_by == ["descending"]


def test_every_figure_stands_beside_its_limit() -> None:
    """A VM's page has every figure of its policy, with the limit, and marks those that decided."""
    judgement = samples.report().listed[0].judgement
    text = render(VIEWS[f"vm {judgement.vm.vm_id}"])
    rows = FIGURE_ROW.findall(text)
    figures = [row for row in rows if row[3].startswith(("at ", "below"))]
    assert sorted(row[1] for row in figures) == sorted(figure.words for figure in judgement.figures)
    assert sum(bool(row[0]) for row in figures) == sum(figure.decides for figure in judgement.figures)
