"""The templates of the pages, and the filters that write numbers, sizes and times in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import tzinfo
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from reports.policy import Comparison
from reports.web.times import date_words, iso_words, time_words
from reports.words import NOT_MEASURED, duration_words, gib, money_words, number, printable

_COMPARED: Mapping[Comparison, str] = {
    Comparison.AT_MOST: "at most",
    Comparison.BELOW: "below",
    Comparison.AT_LEAST: "at least",
}


def make_environment(
    zone: tzinfo, asset: Callable[[str], str], *, shows_nodes: Callable[[], bool] = lambda: False
) -> Environment:
    """Templates of `reports/web/templates`, every one escaped, whatever its name ends in.

    Filters, all of which write a dash for None: `time`, `date`, `iso` (for `<time datetime>`; empty for None),
    `duration` (of seconds), `number(unit, beside=limit)`, `percent`, `rate`, `gib`, `count` (1,234), `vcpus`,
    `kwh`, `money(currency)`, `score`, `compared` (of a Comparison: `at most`), `printable` (a text without control
    characters). Globals: `asset("style.css")`, the address of a file of `reports/web/static`, and
    `asset("plotly.min.js")`; `shows_nodes()`.

    Args:
        zone: of the reader.
        asset: name of a static file -> its address. Raises KeyError for one that is not there.
        shows_nodes: whether the navigation has the page of nodes; it must not block.
    """
    environment = Environment(
        loader=PackageLoader("reports.web", "templates"),
        # By name would leave out `.html.j2`.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        time=partial(time_words, zone=zone),
        date=partial(date_words, zone=zone),
        iso=partial(iso_words, zone=zone),
        number=number,
        money=money_words,
        printable=printable,
        **{name: _or_dash(write) for name, write in _WRITERS.items()},
    )
    environment.globals["asset"] = asset
    environment.globals["shows_nodes"] = shows_nodes
    return environment


def _or_dash(write: Callable[..., str]) -> Callable[..., str]:
    def filtered(value: Any, *arguments: Any, **options: Any) -> str:
        return NOT_MEASURED if value is None else write(value, *arguments, **options)

    return filtered


_WRITERS: Mapping[str, Callable[..., str]] = {
    "duration": duration_words,
    "percent": lambda ratio: number(ratio, "ratio"),
    "rate": lambda bytes_per_s: number(bytes_per_s, "bytes_per_s"),
    "gib": gib,
    "count": lambda amount: f"{amount:,.0f}",
    "vcpus": lambda vcpus: f"{vcpus:,.1f}".removesuffix(".0"),
    "kwh": lambda kwh: f"{kwh:,.0f} kWh" if kwh >= 10 else f"{kwh:.1f} kWh",
    "score": lambda score: f"{score:,.1f}",
    "compared": _COMPARED.__getitem__,
}
