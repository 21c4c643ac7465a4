"""A report as text for a terminal or a file. Pure."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from reports.judgement import Judgement
from reports.report import Report
from reports.report_words import EMPTY_FLEET, head_lines, total_lines
from reports.savings_words import KnownSavings, known_savings
from reports.verdicts import Verdict
from reports.vm_words import vm_paragraph, vm_title
from reports.words import NOT_MEASURED, gib, money_words, number, printable, vcpu_words

# Where nothing bounds a line, such as in a file: wider than any table.
_UNBOUNDED_COLUMNS = 100_000
_BARS = "▁▂▃▄▅▆▇█"
# What the highest bar may stand for.
_SCALES = (0.05, 0.1, 0.25, 0.5, 1.0)
# Texts that are longer are folded where the table is too wide.
_NAME_COLUMNS = 20
_ID_COLUMNS = 20
_VERDICT_COLUMNS = (12, 18, 33)
_MIDDLING, _WIDE = 100, 140
_REASON_COLUMNS = 40
_VM = "VM"
_INDENT = "  "
_MORE = "--top N lists more, --all every VM."
STYLES: Mapping[Verdict, str] = {
    Verdict.IDLE: "green",
    Verdict.SCHEDULED: "blue",
    Verdict.OVERSIZED: "magenta",
    Verdict.ACTIVE: "cyan",
    Verdict.INSUFFICIENT: "yellow",
    Verdict.EXCLUDED: "dim",
}


def to_text(report: Report, *, width: int | None, colour: bool, why: bool = False) -> str:
    """The table and, below it, the totals.

    Args:
        width: columns of the terminal; None where lines may have any length.
        colour: whether escape sequences may be used.
        why: whether a paragraph on each VM stands below the table.
    """
    buffer, console = open_console(width=width, colour=colour)
    if report.totals.vms == 0:
        console.print(EMPTY_FLEET)
        return buffer.getvalue()
    for words in head_lines(report):
        console.print(words)
    if report.listed:
        console.print()
        for line in _table(report, console, width):
            console.print(line, soft_wrap=True)
    for listed in report.listed if why else ():
        console.print()
        console.print(Text(vm_title(listed.judgement), style="bold"))
        paragraph = Text(vm_paragraph(listed.judgement, report.question.settings))
        for line in _folded(paragraph, (width or _UNBOUNDED_COLUMNS) - len(_INDENT), console):
            console.print(Text(_INDENT).append_text(line), soft_wrap=True)
    console.print()
    for words in total_lines(report, more=_MORE):
        console.print(words)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def open_console(*, width: int | None, colour: bool) -> tuple[io.StringIO, Console]:
    """A console that writes into the buffer, as every text output of the report does."""
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=width or _UNBOUNDED_COLUMNS,
        force_terminal=colour,
        color_system="auto" if colour else None,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    return buffer, console


def sparkline(values: Sequence[float | None], *, full: float = 1.0) -> str:
    """A bar a value; a space where nothing is known. Heights are shares of `full`, so that lines compare."""
    return "".join(
        " " if value is None else _BARS[min(int(value / full * len(_BARS)), len(_BARS) - 1)] for value in values
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """One column of the table.

    Args:
        cells: a text a listed VM.
        columns: of the terminal that it needs at least; text that is wider is folded, figures never are.
        rank: columns of a higher rank go first where there is no room; None is always shown.
    """

    header: str
    cells: tuple[Text, ...]
    columns: int
    folds: bool = False
    rank: int | None = None

    @property
    def widest(self) -> int:
        """Columns of the terminal that it needs at most."""
        return max(cell_len(line) for text in (self.header, *map(str, self.cells)) for line in text.split("\n"))


def _table(report: Report, console: Console, width: int | None) -> Iterator[Text]:
    """The lines of the table. rich has tables too, which take several times as long."""
    columns = _fitting(_columns(report, width), width)
    place = next(place for place, column in enumerate(columns) if column.header == _VM)
    shown = {column.header for column in columns}
    named = [
        _with_names(cell, listed.judgement, shown, columns[place].columns)
        for cell, listed in zip(columns[place].cells, report.listed, strict=True)
    ]
    columns[place] = replace(columns[place], cells=tuple(named))
    widths = _widths(columns, width)
    header = [
        _folded(Text(column.header, style="bold"), given, console)
        for column, given in zip(columns, widths, strict=True)
    ]
    height = max(map(len, header))
    yield from _row_lines([[Text()] * (height - len(cell)) + cell for cell in header], columns, widths)
    for row in zip(*(column.cells for column in columns), strict=True):
        yield from _row_lines(
            [_folded(cell, given, console) for cell, given in zip(row, widths, strict=True)], columns, widths
        )


def _folded(cell: Text, width: int, console: Console) -> list[Text]:
    """A cell's lines, none wider than its column."""
    if "\n" not in cell.plain and cell.cell_len <= width:
        return [cell]
    return list(cell.wrap(console, width, overflow="fold"))


def _row_lines(cells: Sequence[Sequence[Text]], columns: Sequence[_Column], widths: Sequence[int]) -> Iterator[Text]:
    """The lines of a row whose cells have one line or several."""
    for place in range(max(map(len, cells))):
        line = Text()
        for lines, column, width in zip(cells, columns, widths, strict=True):
            text = lines[place] if place < len(lines) else Text()
            blank = " " * (width - text.cell_len)
            line.append("" if column.folds else blank).append_text(text).append(f"{blank if column.folds else ''} ")
        line.rstrip()
        yield line


def _with_names(cell: Text, judgement: Judgement, shown: set[str], columns: int) -> Text:
    """What has no column of its own stands below the id; the size in a line of its own where it takes two."""
    texts = {"name": _name(judgement), "owner": judgement.vm.owner or "", "size": _size(judgement)}
    missing = {
        header: printable(text)
        for header, text in texts.items()
        if header not in shown and text not in {"", NOT_MEASURED}
    }
    size = missing.pop("size", "")
    names = ", ".join(missing.values())
    join = ", " if cell_len(names) + cell_len(size) + 2 <= columns else "\n"
    below = join.join(part for part in (names, size) if part)
    return cell.copy().append(f"\n{below}", style="dim") if below else cell


def _fitting(columns: Sequence[_Column], width: int | None) -> list[_Column]:
    """Those for which there is room, the most important ones first; an empty one says nothing."""
    said = [column for column in columns if column.rank is None or any(cell.plain for cell in column.cells)]
    kept = [column for column in said if column.rank is None]
    for column in sorted((each for each in said if each.rank is not None), key=lambda each: each.rank or 0):
        if width is None or _needed(kept) + 1 + column.columns <= width:
            kept.append(column)
    headers = {column.header for column in kept}
    return [column for column in said if column.header in headers]


def _needed(columns: Sequence[_Column]) -> int:
    """Columns of the terminal, one between each two."""
    return sum(column.columns + 1 for column in columns) - 1


def _widths(columns: Sequence[_Column], width: int | None) -> list[int]:
    """Columns of the terminal for each; what is left over goes to text that would be folded."""
    if width is None:
        return [column.widest for column in columns]
    left = width - _needed(columns)
    widths = []
    for column in columns:
        more = max(min(left, column.widest - column.columns), 0) if column.folds else 0
        widths.append(column.columns + more)
        left -= more
    return widths


def _columns(report: Report, width: int | None) -> list[_Column]:
    """Every column there is, in the order in which they stand."""
    judgements = [listed.judgement for listed in report.listed]
    room = width or _UNBOUNDED_COLUMNS
    of_one = report.question.verdict is not None
    verdict_columns = _REASON_COLUMNS if of_one else _VERDICT_COLUMNS[(room >= _MIDDLING) + (room >= _WIDE)]
    names, owners = [printable(_name(one)) for one in judgements], [printable(one.vm.owner or "") for one in judgements]
    return [
        _column("#", [str(listed.rank or "") for listed in report.listed]),
        _column(_VM, [printable(one.vm.vm_id) for one in judgements], least=_ID_COLUMNS, most=room * 9 // 20),
        _column("name", names, 5, most=_NAME_COLUMNS),
        _column("owner", owners, 6, most=_NAME_COLUMNS),
        _column("verdict", [_verdict(one, of_one=of_one) for one in judgements], most=verdict_columns),
        _column("size", [_size(one) for one in judgements], 9),
        *_freed_columns(report),
        _statistic(judgements, "CPU\nmean", "cpu_busy_mean_ratio", 7),
        _statistic(judgements, "CPU\np95", "cpu_busy_p95_ratio", 3),
        _statistic(judgements, "mem\nmean", "mem_used_mean_ratio", 8),
        _statistic(judgements, "net\nmean", "net_io_mean_bytes_per_s", 11, "bytes_per_s"),
        _column("cover-\nage", [_coverage(one) for one in judgements], 10),
        _spark_column(judgements, hours=6 if room >= _WIDE else 12),
    ]


def _column(
    header: str, texts: Sequence[str | Text], rank: int | None = None, *, least: int = 0, most: int | None = None
) -> _Column:
    """Args: most: columns of text that may be folded; None for figures, which may not."""
    cells = tuple(Text(text) if isinstance(text, str) else text for text in texts)
    column = _Column(header=header, cells=cells, columns=0, folds=most is not None, rank=rank)
    widest = max(column.widest, least)
    return replace(column, columns=widest if most is None else min(widest, most))


def _statistic(judgements: Sequence[Judgement], header: str, name: str, rank: int, unit: str = "ratio") -> _Column:
    return _column(header, [number(one.statistics.get(name), unit) for one in judgements], rank)


def _freed_columns(report: Report) -> list[_Column]:
    currency = report.question.settings.prices.currency
    # VMs that give nothing back have empty cells there, and those whose size is not known a dash.
    freed = [(one.judgement, known_savings(one.judgement)) if one.rank else None for one in report.listed]

    def texts(write: Callable[[Judgement, KnownSavings], str]) -> list[str]:
        return ["" if each is None else write(*each) for each in freed]

    columns = [
        _column("frees\nvCPU", texts(lambda _, saved: _known(saved.vcpus, vcpu_words)), 0),
        _column("frees\nmemory", texts(lambda _, saved: _known(saved.mem_bytes, gib)), 0),
    ]
    if currency is not None:
        header = f"{printable(currency)}\na month"
        columns.append(_column(header, texts(lambda _, saved: money_words(saved.money_per_month, None)), 2))
    columns.append(_column("confi-\ndence", texts(lambda one, _: number(one.confidence_ratio or None, "ratio")), 1))
    return columns


def _known(value: float | None, write: Callable[[float], str]) -> str:
    return NOT_MEASURED if value is None else write(value)


def _spark_column(judgements: Sequence[Judgement], *, hours: int) -> _Column:
    """The week from Monday 00:00 UTC on; a bar is the mean of so many hours, 6 or 12, of four weeks."""
    weeks = [one.spark if hours == 6 else _halved(one.spark) for one in judgements]
    highest = max((value for week in weeks for value in week if value is not None), default=0.0)
    full = next((scale for scale in _SCALES if scale >= highest), highest)
    header = f"CPU, Mon–Sun,\n█ is {number(full, 'ratio')}"
    texts = [
        Text(sparkline(week, full=full)) if any(value is not None for value in week) else Text("") for week in weeks
    ]
    return _column(header, texts, 4)


def _halved(values: Sequence[float | None]) -> list[float | None]:
    """The mean of each two."""
    pairs = ([value for value in pair if value is not None] for pair in zip(values[::2], values[1::2], strict=True))
    return [sum(pair) / len(pair) if pair else None for pair in pairs]


def _name(judgement: Judgement) -> str:
    return judgement.vm.name or judgement.vm.hostname or ""


def _size(judgement: Judgement) -> str:
    size = judgement.size
    return NOT_MEASURED if size is None else f"{vcpu_words(size.vcpus)} vCPU, {gib(size.mem_bytes)}"


def _verdict(judgement: Judgement, *, of_one: bool) -> Text:
    words = judgement.verdict.value
    # What keeps a VM from being judged stands nowhere else in the table.
    if judgement.verdict is Verdict.INSUFFICIENT:
        words = judgement.reason if of_one else f"{words}: {judgement.cause.words}"
    elif judgement.verdict is Verdict.EXCLUDED:
        words = judgement.reason[:1].lower() + judgement.reason[1:]
    return Text(printable(words), style=STYLES[judgement.verdict])


def _coverage(judgement: Judgement) -> Text:
    coverage = judgement.figure("coverage")
    words = number(coverage.value, "ratio", beside=coverage.limit)
    return Text(words, style="" if coverage.ok else "bold red")
