"""Tells a fleet database what it has forgotten: that VMs were forgotten.

One that was restored from a backup of before lets them in with tokens of a life that is over, and every aggregator that
knows better drops what comes with these. So whoever knows of a later life than the database does has it begin that life
again: the next token is one that counts everywhere. What the backup brought back of the VMs
goes, but for the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from aggregator.generations import begin_lives, below, drop_figures, hold_summary, newest, refuse_below
from aggregator.lives import Lives, first_of
from aggregator.tokens import Revocations


def recall_lives(engine: sa.Engine, lives: Mapping[str, int], *, now_s: float) -> list[str]:
    """Refuses all tokens of before these lives; returns the VMs of which that was news. Blocking; each VM for itself.

    Raises:
        Refused: as `begin_lives`.
        sqlalchemy.exc.SQLAlchemyError: the database is away.
    """
    return [vm_id for vm_id, life in sorted(lives.items()) if _recall(engine, vm_id, life, now_s)]


def _recall(engine: sa.Engine, vm_id: str, life: int, now_s: float) -> bool:
    with engine.begin() as connection:
        if below(connection, vm_id) >= first_of(life):
            return False
        # As an admin forgets: whoever writes a summary now ends before this goes on, and so does another recall.
        newest(connection, vm_id)
        was_made = hold_summary(connection, vm_id)
        is_news = below(connection, vm_id) < first_of(life)
        if is_news:
            drop_figures(connection, vm_id)
            begin_lives(connection)
            refuse_below(connection, vm_id, first_of(life), "forgotten", now_s)
        elif was_made:
            drop_figures(connection, vm_id)
    return is_news


class Recall:
    """Compares what the fleet database says with what is known here. Called in the reactor's thread.

    Args:
        lives: as they are known here.
        write: as `recall_lives` with a database and a time. Blocks.
        may_write: whether the database may be told: it answers, and this aggregator is one of its fleet.
        owe: has the summaries of VMs told anew.
        refresh: has the revocations read again.
        in_thread: runs blocking work elsewhere.
    """

    _log = Logger()

    def __init__(
        self,
        lives: Lives,
        *,
        write: Callable[[Mapping[str, int]], list[str]],
        may_write: Callable[[], bool],
        owe: Callable[[Sequence[str]], object],
        refresh: Callable[[], object],
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
    ) -> None:
        self._lives = lives
        self._write = write
        self._may_write = may_write
        self._owe = owe
        self._refresh = refresh
        self._in_thread = in_thread
        self._is_writing = False

    def read(self, revocations: Revocations) -> None:
        """The fleet database was read: tells it what it does not know."""
        self.tell(self._lives.ahead_of(revocations.below))

    def tell(self, lives: Mapping[str, int]) -> None:
        """Tells the database of these. What fails, or comes while another telling runs, is left to the next reading."""
        if not lives or self._is_writing or not self._may_write():
            return

        def written(vm_ids: list[str]) -> None:
            if vm_ids:
                self._log.warn(
                    "the fleet database knew no more that {n} VMs were forgotten, such as {some}: was it restored from"
                    " a backup? Their tokens of before are refused again",
                    n=len(vm_ids),
                    some=vm_ids[0],
                )
                self._owe(vm_ids)
                self._refresh()

        def ended(_outcome: object) -> None:
            self._is_writing = False

        self._is_writing = True
        self._in_thread(partial(self._write, dict(lives))).addCallback(written).addErrback(
            lambda failure: self._log.warn(
                "the fleet database knows no more that {n} VMs were forgotten, and cannot be told: {error}",
                n=len(lives),
                error=failure.value,
            )
        ).addBoth(ended)
