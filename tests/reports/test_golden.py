"""One report in each of its forms, byte for byte: what a change does to the outputs is seen in the files."""

from __future__ import annotations

import pytest

from reports.mail import subject, to_mail
from reports.render import to_csv, to_json
from reports.terminal import to_text
from reports.verdicts import Verdict
from tests.reports.golden import FOLDER, compare_with_file, golden_report


def test_every_verdict_is_shown() -> None:
    """Else the files would not show much."""
    assert {listed.judgement.verdict for listed in golden_report().listed} == set(Verdict)


def test_text_for_a_terminal() -> None:
    """80 columns with a paragraph on each VM, 140 columns, and a file."""
    report = golden_report()
    narrow = to_text(report, width=80, colour=False, why=True)
    wide, file = (to_text(report, width=width, colour=False) for width in (140, None))
    compare_with_file("report.txt", f"{narrow}\n{'-' * 80}\n\n{wide}\n{'-' * 80}\n\n{file}")


def test_json() -> None:
    """Keys in their order, a VM a line."""
    compare_with_file("report.json", to_json(golden_report()))


def test_csv() -> None:
    """With its line ends."""
    compare_with_file("report.csv", to_csv(golden_report()))


def test_mail() -> None:
    """Subject, an empty line, text."""
    report = golden_report()
    compare_with_file("mail.txt", f"{subject(report)}\n\n{to_mail(report)}")


def test_a_file_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the message says how to write it anew."""
    monkeypatch.delenv("FALLOW_GOLDEN", raising=False)
    text = (FOLDER / "mail.txt").read_text(encoding="utf-8")
    compare_with_file("mail.txt", text)
    with pytest.raises(AssertionError, match="FALLOW_GOLDEN=write"):
        compare_with_file("mail.txt", text.replace("14 days", "15 days", 1))
