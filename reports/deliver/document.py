"""One report in every form in which it goes out. Pure; who makes it is handed in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from reports.words import printable

_MAX_SUBJECT_CHARS = 200
_FILE_NAME = re.compile(r"(fallow-[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{6}Z)\.(?:html|json|csv)", re.ASCII)


class Form(StrEnum):
    """How a report is written down. The value ends the names of its files."""

    HTML = "html"
    JSON = "json"
    CSV = "csv"

    @property
    def media_type(self) -> str:
        return "application/json" if self is Form.JSON else f"text/{self.value}; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A report that is ready to go out.

    Args:
        subject: may hold whatever a VM is called; `headline` is what goes out.
        text: for a mail program that shows no HTML.
        html: a page that needs no other file.
        generated_s: time of the report, Unix seconds.
    """

    subject: str
    text: str
    html: str
    json: str
    csv: str
    generated_s: float

    @property
    def headline(self) -> str:
        """The subject as one line without anything that could end a header or move a cursor."""
        return printable(self.subject.strip())[:_MAX_SUBJECT_CHARS]

    def body(self, form: Form) -> bytes:
        """UTF-8; what that cannot hold becomes a question mark."""
        return {Form.HTML: self.html, Form.JSON: self.json, Form.CSV: self.csv}[form].encode("utf-8", "replace")

    def file_name(self, form: Form) -> str:
        """`fallow-2026-11-21T070000Z.html`: names sort as the reports' times do."""
        return f"fallow-{datetime.fromtimestamp(self.generated_s, UTC):%Y-%m-%dT%H%M%SZ}.{form.value}"


# Called in any thread with the time of the report, and the time from which it tells what has changed (None: it does
# not tell); raises what the fleet database raises.
MakeDocument = Callable[[float, float | None], Document]


def report_of_file(name: str) -> str | None:
    """What the files of one report have in common in their names; None for a name that `file_name` does not give."""
    match = _FILE_NAME.fullmatch(name)
    return match[1] if match else None
