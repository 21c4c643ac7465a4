"""`/audit`: who did what, page by page, and whether the newest lines are as they were written."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrate.cli_parts import PROGRAM
from orchestrate.pages.backing import Backing
from orchestrate.pages.lines import audit_line
from orchestrate.pages.log_lines import Checked, check_newest, lines_before, newest_number
from orchestrate.pages.views import AuditView, CheckLine
from orchestrate.records import Records
from reports.web.answers import Answer, Asked, Handler
from reports.web.params import check_names, href, read_whole

LINES = 50
_MOST_LINES = 9_999_999_999


class AuditPages:
    """The audit log."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {"audit": self.audit}

    def audit(self, asked: Asked) -> Answer:
        """A page of it; `?check=1` looks whether the chain holds."""
        check_names(asked.query, "before", "check")
        backing = self._backing
        records = backing.records
        end = newest_number(records) + 1
        before = min(read_whole(asked.query, "before", end, 1, _MOST_LINES), end)
        rows = lines_before(records, before, LINES)
        newer = min(before + LINES, end)
        view = AuditView(
            frame=backing.frame(asked, "Audit log", "audit", stop=backing.switch.read()),
            rows=tuple(map(audit_line, rows)),
            check=_check_line(records) if asked.query.get("check") == "1" else None,
            check_href=href("/audit", {"check": "1"}),
            newer_href=None if before >= end else href("/audit", {"before": str(newer)} if newer < end else None),
            older_href=href("/audit", {"before": str(rows[-1].number)}) if rows and rows[-1].number > 1 else None,
        )
        return backing.page(view)


def _check_line(records: Records) -> CheckLine:
    checked = check_newest(records)
    if not checked.last:
        return CheckLine(is_good=checked.broken is None, words="There is no line yet.", head="")
    head = records.audit(after=checked.last - 1, limit=1)
    shown = f"{head[0].number}:{head[0].sha256}" if head else ""
    return CheckLine(is_good=checked.broken is None, words=_check_words(checked), head=shown)


def _check_words(checked: Checked) -> str:
    if checked.broken is not None:
        return f"Line {checked.broken.number:,} {checked.broken.words}."
    lines = f"Lines {checked.first:,} to {checked.last:,} are as they were written."
    if checked.is_whole:
        return lines
    return f"{lines} Older ones were not looked at here: {PROGRAM} audit verify looks at all of them."
