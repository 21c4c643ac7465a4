"""What the stores do not hold yet, and each VM's last samples. Pure; all rows stay packed.

One byte array a VM holds, in the order of arrival: a tail that is stored already, what a running flush has
taken, what came since. Nothing is removed before it is stored, so a flush that fails has nothing to put back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from aggregator.buffer_entry import Added, Entry, PushLike
from aggregator.lives import Lives, life_of
from aggregator.problems import Problem
from aggregator.rows import ROW_BYTES, row_ts, unpack_rows
from aggregator.summary import Heard, Taken, flags_of

LIVE_ROWS = 10
_FORGET_SILENT_S = 86400.0
_FORMER_BOOTS = 4
_MOST_COUNTED = 20_000
_ONE = Added(1, 0, 0)
_NONE = Added(0, 0, 0)


class Buffer:
    """Samples between their acknowledgement and their store.

    Args:
        max_rows: unstored rows held before pushes are refused with 503.
        on_identity_conflict: told once of each VM as which two machines push.
        on_new_life: told of VMs, and their life, whose push is the first sign that they were forgotten and came back.

    Attributes:
        lives: what is known of the VMs' lives; memory holds rows of the newest alone.
        forgotten_rows: acknowledged, or read from the journal, and let go of: their VM was forgotten.
    """

    def __init__(
        self,
        *,
        max_rows: int,
        on_identity_conflict: Callable[[str], object] = lambda _vm: None,
        on_new_life: Callable[[str, int], object] = lambda _vm, _life: None,
    ) -> None:
        self.lives = Lives()
        self._on_new_life = on_new_life
        self._entries: dict[str, Entry] = {}
        self._max_rows = max_rows
        self._on_identity_conflict = on_identity_conflict
        self._clones: frozenset[str] = frozenset()
        self._removals = 0
        self._order: tuple[int, list[str]] = -1, []  # ids, sorted, and how many removals there had been
        self.unstored_rows = self.forgotten_rows = 0
        self.newest_received_s = 0.0

    def __len__(self) -> int:
        """VMs known in memory."""
        return len(self._entries)

    def __contains__(self, vm_id: str) -> bool:
        """Whether memory knows this VM."""
        return vm_id in self._entries

    @property
    def fullness(self) -> float:
        """Unstored rows / the most that are held."""
        return self.unstored_rows / self._max_rows

    def admit(self, push: PushLike, _received_s: float) -> Problem | None:
        """Whether a push may be journalled: None, or the answer that says why not.

        A boot that comes back with samples from after another one began is a second machine with one identity. An
        old boot that only sends samples from before is a spool that drains.
        """
        # A batch larger than the whole buffer passes while that is empty: refused, it would come back for ever.
        if self.unstored_rows and self.unstored_rows + push.count > self._max_rows:
            return Problem(503, "buffer-full", "the stores are behind; try again later", retry_after_s=30)
        entry = self._entries.get(push.vm)
        if (entry is None or entry.generation != push.generation) and self._is_over(push):
            return Problem(401, "forgotten", f"the token of {push.vm} counts no more (forgotten): enrol again")
        if entry is None or (entry.boot == push.boot and not entry.identity_conflict):
            return None
        if not entry.identity_conflict:
            if push.boot not in entry.former_boots or push.newest_ts <= entry.first_ts:
                return None
            entry.identity_conflict = entry.news = True
            self._on_identity_conflict(push.vm)
        detail = f"two boots push as {push.vm} at the same time: both machines must enrol again"
        return Problem(409, "identity-conflict", detail)

    def clones_found(self, vm_ids: Iterable[str]) -> None:
        """All VMs as which two machines push, as the fleet database has them: memory forgets them at a restart.

        They are flagged; that their token is refused is not for memory to say. One that is no longer among them was
        enrolled again, perhaps through another aggregator.
        """
        known, self._clones = self._clones, frozenset(vm_ids)
        for vm_id in known ^ self._clones:
            if vm_id not in self._clones:
                self.enrolled(vm_id)
            elif (entry := self._entries.get(vm_id)) is not None:
                entry.news = True

    def enrolled(self, vm_id: str) -> None:
        """A VM has a new identity: what its boots did before no longer counts."""
        entry = self._entries.get(vm_id)
        if entry is not None:
            entry.identity_conflict = False
            entry.boot = ""
            entry.former_boots = ()
            entry.news = True

    def add(self, push: PushLike, received_s: float) -> Added:
        """Takes in a push that is durable. A second sample of one (VM, ts) is never kept.

        Nothing is kept of a VM that was forgotten after the push's token was given out.
        """
        entry = self._entries.get(push.vm)
        if entry is None or entry.generation != push.generation:
            if self._is_over(push):
                self.forgotten_rows += push.count
                return _NONE
            entry = self._entry(push, entry)
        # The last to come is the newest, whatever our clock says: it may have been set back.
        entry.received_s = self.newest_received_s = received_s
        entry.skew_s = received_s - push.sent_s
        if push.boot != entry.boot:
            self._note_boot(entry, push)
        if push.count == 1 and push.newest_ts > entry.newest_ts:
            entry.rows += push.rows
            entry.newest_ts = push.newest_ts
            self.unstored_rows += 1
            return _ONE
        return self._add_carefully(entry, push)

    def _is_over(self, push: PushLike) -> bool:
        return self.lives.is_over(push.vm, life_of(push.generation))

    def _entry(self, push: PushLike, entry: Entry | None) -> Entry:
        """Where a push goes that is the first of its VM here, or of its token."""
        life = life_of(push.generation)
        if self.lives.learn(push.vm, life):
            # Nobody is given a token of a life before the one before it was forgotten.
            self.forget_before(push.vm, life)
            entry = None
            self._on_new_life(push.vm, life)
        if entry is None:
            entry = self._entries[push.vm] = Entry(bytearray(), push.boot, push.oldest_ts, 0, 0.0, 0.0, push.generation)
        entry.generation = push.generation
        return entry

    @staticmethod
    def _note_boot(entry: Entry, push: PushLike) -> None:
        # Not only what is newer than all: of two machines, one may always come second with the same minute.
        if push.boot in entry.former_boots or push.newest_ts < entry.first_ts:
            return
        if entry.boot:
            entry.former_boots = (*entry.former_boots, entry.boot)[-_FORMER_BOOTS:]
        entry.boot, entry.first_ts = push.boot, push.oldest_ts

    def _add_carefully(self, entry: Entry, push: PushLike) -> Added:
        held = entry.rows if push.oldest_ts <= entry.newest_ts else bytearray()
        known = {row_ts(held, index): index for index in range(len(held) // ROW_BYTES)}
        fresh: dict[int, bytes] = {}
        duplicates = conflicts = 0
        for at in range(0, len(push.rows), ROW_BYTES):
            row = push.rows[at : at + ROW_BYTES]
            ts = row_ts(row, 0)
            index = known.get(ts)
            first = held[index * ROW_BYTES : (index + 1) * ROW_BYTES] if index is not None else fresh.get(ts)
            if first is None:
                fresh[ts] = row
            elif first == row:
                duplicates += 1
            else:
                conflicts += 1
        entry.rows += b"".join(fresh.values())
        if fresh:
            times = list(fresh)
            entry.late = entry.late or times[0] <= entry.newest_ts or times != sorted(times)
        entry.newest_ts = max(entry.newest_ts, push.newest_ts)
        entry.conflicts += conflicts
        self.unstored_rows += len(fresh)
        return Added(len(fresh), duplicates, conflicts)

    def vm_ids(self) -> list[str]:
        """VMs known in memory, in the order in which they came. Any thread."""
        return list(self._entries)

    def take(self, vm_ids: Iterable[str] | None = None, wanted: Callable[[str], bool] = lambda _vm: True) -> list[str]:
        """Marks everything unstored of VMs as taken by a flush; returns which of them have some.

        Args:
            vm_ids: only those of them; None: of all.
            wanted: only those it is true of, and those whose figures became doubtful.
        """
        owing: list[str] = []
        for vm_id in self.vm_ids() if vm_ids is None else vm_ids:
            entry = self._entries.get(vm_id)
            if entry is None or not (entry.news or wanted(vm_id)):
                continue
            entry.taken_bytes = len(entry.rows)
            entry.taken_conflicts = entry.conflicts
            entry.taken_news = entry.taken_news or entry.news
            entry.news = False
            if entry.taken_bytes > entry.stored_bytes or entry.conflicts or entry.taken_news:
                owing.append(vm_id)
        return owing

    def waiting(self) -> Iterator[Heard]:
        """When VMs were last heard of that have rows that no flush has taken, as it is when one is asked for."""
        for vm_id in self.vm_ids():
            entry = self._entries.get(vm_id)
            if entry is not None and len(entry.rows) > entry.taken_bytes:
                yield Heard(vm_id, entry.newest_ts, entry.received_s, entry.skew_s)

    def taken(self, vm_id: str) -> Taken | None:
        """The rows of one VM that `take` marked; None for a VM that memory does not know."""
        entry = self._entries.get(vm_id)
        if entry is None:
            return None
        rows = bytes(entry.rows[entry.stored_bytes : entry.taken_bytes])
        in_conflict = entry.identity_conflict or vm_id in self._clones
        life = life_of(entry.generation)
        return Taken(vm_id, rows, entry.taken_conflicts, entry.received_s, entry.skew_s, in_conflict, life=life)

    def stored(self, vm_id: str) -> None:
        """The store now holds what was taken: only the last rows stay, for those who look at the present."""
        entry = self._entries.get(vm_id)
        if entry is None:
            return
        self.unstored_rows -= (entry.taken_bytes - entry.stored_bytes) // ROW_BYTES
        entry.conflicts -= entry.taken_conflicts
        end = entry.taken_bytes
        if entry.late:
            kept = _newest_rows(bytes(entry.rows[:end]))
            entry.rows[:end] = kept
            entry.stored_bytes = entry.taken_bytes = len(kept)
            entry.late = len(entry.rows) > len(kept)
        else:
            surplus = max(0, min(end, len(entry.rows) - LIVE_ROWS * ROW_BYTES))
            del entry.rows[:surplus]
            entry.stored_bytes = entry.taken_bytes = end - surplus
        entry.taken_conflicts = 0
        entry.taken_news = False

    def owes(self, vm_id: str) -> bool:
        """Whether a store lacks something of a VM that is in memory."""
        entry = self._entries.get(vm_id)
        return entry is not None and (len(entry.rows) > entry.stored_bytes or entry.conflicts > 0)

    def forget(self, vm_id: str) -> None:
        """Drops a VM that an admin forgot, unstored rows too."""
        entry = self._entries.pop(vm_id, None)
        if entry is not None:
            self._removals += 1
            dropped = (len(entry.rows) - entry.stored_bytes) // ROW_BYTES
            self.unstored_rows -= dropped
            self.forgotten_rows += dropped

    def forget_before(self, vm_id: str, life: int) -> None:
        """Drops what is held of a VM if it is of a life before this one."""
        entry = self._entries.get(vm_id)
        if entry is not None and life_of(entry.generation) < life:
            self.forget(vm_id)

    def forget_silent(self, vm_ids: Iterable[str], now_s: float) -> int:
        """Drops those that have been silent for a day and owe nothing; returns how many."""
        dropped = 0
        for vm_id in vm_ids:
            entry = self._entries.get(vm_id)
            if (
                entry is not None
                and entry.received_s < now_s - _FORGET_SILENT_S
                and len(entry.rows) == entry.stored_bytes
                and not (entry.conflicts or entry.news or entry.taken_news or entry.identity_conflict)
            ):
                del self._entries[vm_id]
                dropped += 1
        self._removals += dropped
        return dropped

    def heard_between(self, from_s: float, to_s: float) -> int:
        """How many VMs had their newest push taken between two times of our clock, Unix seconds; at most 20,000."""
        heard = (1 for entry in self._entries.values() if from_s <= entry.received_s <= to_s)
        return sum(islice(heard, _MOST_COUNTED))

    def skews_s(self, most: int = 1_000) -> list[float]:
        """Clock skews of the VMs in memory: of all, or of about `most` that are spread evenly over them."""
        entries = list(self._entries.values())
        return [entry.skew_s for entry in entries[:: max(1, len(entries) // most)]]

    def samples(self, vm_id: str) -> Iterator[dict[str, float | int | None]]:
        """Rows of one VM in memory, in wire fields: all that its store may lack, and some that it has. Any thread."""
        entry = self._entries.get(vm_id)
        return unpack_rows(bytes(entry.rows)) if entry else iter(())

    def live(
        self, since_s: float, *, vm: str | None = None, after: str = "", limit: int | None = None
    ) -> list[dict[str, object]]:
        """VMs heard of since then, by id: when, with what skew, and their last samples, newest last. Any thread.

        Args:
            vm: this one alone.
            after: ids above it alone, of the VMs that were here when a page without it was asked for last.
            limit: at most so many.
        """
        order = self._in_order(anew=not after) if vm is None else [vm]
        found: list[dict[str, object]] = []
        for at in range(bisect_right(order, after), len(order)):
            vm_id = order[at]
            if limit is not None and len(found) >= limit:
                break
            entry = self._entries.get(vm_id)
            if entry is not None and entry.received_s >= since_s:
                found.append(_live(vm_id, entry, is_clone=vm_id in self._clones))
        return found

    def _in_order(self, *, anew: bool) -> list[str]:
        """Ids, sorted; those of a look's first page do for all that follow. Any thread: nothing here is changed."""
        removals, order = self._order
        if anew or removals < 0:
            # Read before the ids are: at worst they are sorted as a whole once more.
            removals_now = self._removals
            known = self.vm_ids()
            # While none goes, those in order are the first that came.
            fresh = known[len(order) :] if removals == removals_now else known
            if removals != removals_now or fresh:
                order = sorted(order + sorted(fresh) if removals == removals_now else fresh)
                self._order = removals_now, order
        return order


def _live(vm_id: str, entry: Entry, *, is_clone: bool) -> dict[str, object]:
    in_conflict = entry.identity_conflict or is_clone
    return {
        "vm": vm_id,
        "last_seen_s": entry.received_s,
        "skew_s": entry.skew_s,
        "flags": flags_of(entry.skew_s, identity_conflict=in_conflict, replaced=False),
        "boot": entry.boot or None,
        "samples": list(unpack_rows(_newest_rows(bytes(entry.rows)))),
    }


def _newest_rows(rows: bytes) -> bytes:
    """The last LIVE_ROWS of them by ts, rising."""
    starts = sorted(range(0, len(rows), ROW_BYTES), key=lambda at: row_ts(rows, at // ROW_BYTES))
    return b"".join(rows[at : at + ROW_BYTES] for at in starts[-LIVE_ROWS:])
