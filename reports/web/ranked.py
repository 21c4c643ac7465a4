"""The stored verdicts of a fleet in memory, so that any page of the list takes milliseconds however it is asked for.

A database reads and orders a whole scope for most questions; here its columns lie ready from one judging run to the
next. The answers are those of `reports.verdict_table.read_page`; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from aggregator.histogram import Floats
from reports.ranking import Page, groups, is_falling, wanted_verdicts
from reports.report import Question, Sort
from reports.tables import verdict
from reports.verdict_table import Stored
from reports.verdicts import Verdict

# About 400 bytes a VM; the pages of larger fleets are read from the database.
MAX_VMS = 250_000
_VERDICTS = tuple(Verdict)
_NUMBERS: Mapping[Sort, sa.Column[float]] = {
    Sort.SCORE: verdict.c.score,
    Sort.VCPUS: verdict.c.vcpus,
    Sort.MEMORY: verdict.c.mem_bytes,
    Sort.DISK: verdict.c.disk_bytes,
    Sort.MONEY: verdict.c.money_per_month,
    Sort.ENERGY: verdict.c.energy_kwh_per_month,
    Sort.CONFIDENCE: verdict.c.confidence_ratio,
    Sort.CPU: verdict.c.cpu_mean_ratio,
}
_TEXTS: Mapping[Sort, sa.Column[str]] = {Sort.NAME: verdict.c.name, Sort.OWNER: verdict.c.owner}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """The verdicts of one run, by rising VM id.

    Attributes:
        codes: (n,) places in the order of `Verdict`.
        values: (n,) by what lists are ordered: numbers, or the places of texts among themselves; NaN is not known.
        owners: (n,) places of the owners in `owner_places`, -1 for none.
        search: what a search looks in.
    """

    vm_ids: Sequence[str]
    codes: npt.NDArray[np.int8]
    values: Mapping[Sort, Floats]
    owners: npt.NDArray[np.int64]
    owner_places: Mapping[str, int]
    search: Sequence[str]

    def page(self, question: Question) -> Page:
        """The VMs that a question lists, in its order."""
        wanted = [_VERDICTS.index(each) for each in wanted_verdicts(question)]
        chosen = np.isin(self.codes, wanted)
        if question.owner is not None:
            chosen &= self.owners == self.owner_places.get(question.owner, -2)
        rows = np.flatnonzero(chosen)
        if question.search:
            text = question.search.casefold()
            rows = np.array([row for row in rows.tolist() if text in self.search[row]], np.int64)
        values = self.values[question.sort][rows]
        # Both sorts keep the order of equals, which is that of the ids; what is not known comes last.
        order = np.argsort(-values if is_falling(question) else values, kind="stable")
        places = groups(question)
        group = np.array([places[each] for each in _VERDICTS], np.int8)[self.codes[rows[order]]]
        order = order[np.argsort(group, kind="stable")]
        upto = None if question.top is None else question.offset + question.top
        found = rows[order[question.offset : upto]].tolist()
        return Page(tuple(self.vm_ids[row] for row in found), len(rows))


def read_ranked(connection: sa.Connection, stored: Stored) -> Ranked:
    """The verdicts of a run. Raises: sqlalchemy.exc.DBAPIError."""
    columns = (verdict.c.vm_id, verdict.c.verdict, verdict.c.search, *_TEXTS.values(), *_NUMBERS.values())
    query = sa.select(*columns).where(verdict.c.scope == stored.run.scope).order_by(verdict.c.vm_id)
    rows = connection.execute(query).all()
    vm_ids, verdicts, search, names, owners, *numbers = zip(*rows, strict=True) if rows else [()] * len(columns)
    places = {each.value: place for place, each in enumerate(_VERDICTS)}
    owner_places = _places(owners)
    values: dict[Sort, Floats] = {
        sort: np.array(column, np.float64) for sort, column in zip(_NUMBERS, numbers, strict=True)
    }
    for sort, column in ((Sort.NAME, names), (Sort.OWNER, owners)):
        known = _places(column)
        values[sort] = np.array([np.nan if text is None else known[text] for text in column], np.float64)
    return Ranked(
        vm_ids=vm_ids,
        codes=np.array([places[text] for text in verdicts], np.int8),
        values=values,
        owners=np.array([owner_places.get(text, -1) for text in owners], np.int64),
        owner_places=owner_places,
        search=search,
    )


def _places(texts: Sequence[str | None]) -> dict[str, int]:
    """The place of each text among the different ones."""
    return {text: place for place, text in enumerate(sorted({text for text in texts if text is not None}))}
