"""A report that goes out: its subject, its bytes and the names of its files."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reports.deliver.document import Form, report_of_file
from tests.reports.deliver.values import DUE_S, document


def test_files_are_named_by_the_time_of_the_report() -> None:
    """UTC, to the second, without a colon."""
    assert document(DUE_S + 0.9).file_name(Form.HTML) == "fallow-2026-11-21T070000Z.html"


def test_files_of_one_report_belong_together() -> None:
    """Whatever the form, what they have in common is found in the name."""
    found = {report_of_file(document().file_name(form)) for form in Form}
    assert found == {"fallow-2026-11-21T070000Z"}


@given(st.text())
def test_no_other_name_is_taken_for_a_report(name: str) -> None:
    """Only names of ours are, also where ours is but a part of one."""
    ours = document().file_name(Form.CSV)
    assert report_of_file(name) is None
    if name:
        assert report_of_file(ours + name) is None
        assert report_of_file(name + ours) is None


@given(st.text())
def test_a_headline_is_one_printable_line(subject: str) -> None:
    """Whatever VMs are called, nothing in it ends a line; it stays short."""
    headline = document(subject=subject).headline
    assert headline.isprintable()
    assert len(headline) <= 200


def test_what_utf_8_cannot_hold_does_not_stop_a_report() -> None:
    """A lone surrogate becomes a question mark."""
    assert document(csv="vm\r\n\ud800\r\n").body(Form.CSV) == b"vm\r\n?\r\n"
