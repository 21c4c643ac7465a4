"""A report as the plain text of a mail: what an admin forwards to an owner without adding a word. Pure."""

from __future__ import annotations

import textwrap

from reports.report import Listed, Report
from reports.report_words import EMPTY_FLEET, head_lines, total_lines
from reports.verdicts import Settings
from reports.vm_words import vm_paragraph, vm_title
from reports.words import count_words, vcpu_words

_WIDTH = 76
_INDENT = "   "
_ADVICE = "This report is advice: it has stopped, changed or deleted nothing."
_KEEP = (
    "Is one of these VMs still needed as it is? Then tell whoever sent you this, with the reason and the date until "
    "which to keep it."
)


def subject(report: Report) -> str:
    """One line, without any name that somebody else chose."""
    totals = report.totals
    if not totals.vms:
        return "fallow: the fleet is empty"
    fleet = count_words(totals.vms, "VM")
    vcpus = totals.freed_together.vcpus
    amount = f"back {vcpu_words(vcpus)} vCPU" if vcpus else "capacity back"
    return f"fallow: {f'{totals.reclaimable:,}' if totals.reclaimable else 'none'} of {fleet} can give {amount}"


def to_mail(report: Report) -> str:
    """Totals first, then a paragraph a VM, in lines of at most 76 characters but for long names."""
    if report.totals.vms == 0:
        return f"{_wrap(head_lines(report)[0])}\n\n{_wrap(EMPTY_FLEET)}\n"
    settings = report.question.settings
    blocks = [
        [*head_lines(report), _ADVICE],
        *([line] for line in total_lines(report)),
    ]
    texts = ["\n".join(map(_wrap, block)) for block in blocks]
    texts += [_vm(listed, settings) for listed in report.listed]
    if any(listed.rank is not None for listed in report.listed):
        texts.append(_wrap(_KEEP))
    return "\n\n".join(texts) + "\n"


def _vm(listed: Listed, settings: Settings) -> str:
    number = "" if listed.rank is None else f"{listed.rank}. "
    title = _wrap(f"{number}{vm_title(listed.judgement)}", later=_INDENT)
    return f"{title}\n{_wrap(vm_paragraph(listed.judgement, settings), first=_INDENT, later=_INDENT)}"


def _wrap(text: str, *, first: str = "", later: str = "") -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
