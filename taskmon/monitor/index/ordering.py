"""Ordering: entries kept sorted at a tenth of a microsecond each, at the price that some of them are stale.

An entry is `(key, task id)`. Nobody takes an entry out when its task changes: it goes stale, readers pass over it,
and `sweep` drops it later. So writing is an append, and sorting happens for a whole block of entries at once. Which
entries are fresh a subclass tells. Event loop only.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from math import inf, nextafter
from typing import Final

from ...records import Task
from .blocks import BLOCK, Block, Entry, distinct, sort_entries, split
from .store import TaskStore

#: So many recent entries are put into their blocks: more at once cost each less.
SORT_AT: Final = 2 * BLOCK

#: So many blocks are split at once, as long as none is far too long: blocks that fill up alike get full together.
_SPLITS: Final = 3

#: Entries in a chunk: a page is often found in the first.
_CHUNK: Final = 256

#: One entry of so many may be stale without a sweep.
SHARE: Final = 4

#: One entry of so many is looked at to tell whether a block is worth sweeping.
_SAMPLED: Final = 64


#: A sample costs this share of what looking at the whole block would: its tasks lie far apart in memory.
_SAMPLE_COST: Final = 8


class Ordering(ABC):
    """Entries in ascending order. A small ordering lives in what is recent alone, a large one in `blocks`."""

    __slots__ = (
        "blocks",
        "filled",
        "is_due",
        "kept",
        "lasts",
        "outdated",
        "recent_ids",
        "recent_keys",
        "sort_pending",
        "tasks",
    )

    def __init__(self, tasks: TaskStore) -> None:
        self.tasks = tasks
        # What is recent, in any order: always the same lists.
        self.recent_keys: list[float] = []
        self.recent_ids: list[str] = []
        self.blocks: list[Block] = []
        self.lasts: list[Entry] = []  # the last entry of each block
        self.filled = 0  # entries in the blocks
        self.kept = 0  # entries that the last sweep kept
        self.outdated = tasks.outdated  # as it was when the last sweep began
        self.sort_pending = False  # somebody is going to sort it
        self.is_due = False  # somebody is going to sweep it

    @abstractmethod
    def fresh(self, entries: list[Entry]) -> list[Entry]:
        """Keep those entries that still say the truth about their task, in their order."""

    @abstractmethod
    def says(self, entry: Entry, task: Task) -> bool:
        """Tell whether an entry says the truth about this task, whatever is held."""

    def __len__(self) -> int:
        """Count the entries, stale ones included."""
        return self.filled + len(self.recent_ids)

    @property
    def recent(self) -> list[Entry]:
        """The entries that are in no block."""
        return list(zip(self.recent_keys, self.recent_ids, strict=True))

    @property
    def wants_sweep(self) -> bool:
        """Tell whether as many entries have come since the last sweep as it kept, and a good share may be stale."""
        return not self.is_due and self.filled > 2 * self.kept + BLOCK and SHARE * self.most_stale() > self.filled

    def most_stale(self) -> int:
        """Tell how many entries may have gone stale since the last sweep."""
        return self.tasks.outdated - self.outdated

    def add(self, key: float, task_id: str) -> None:
        """Add one entry."""
        self.recent_keys.append(key)
        self.recent_ids.append(task_id)

    def extend(self, keys: list[float], ids: list[str]) -> None:
        """Add entries in any order; whoever reads has them sorted, or whoever finds the ordering full."""
        self.recent_keys += keys
        self.recent_ids += ids

    def sort_recent(self) -> None:
        """Sort what is recent if there is little of it, else put it into blocks."""
        if not self.recent_ids:
            return
        keys, ids = sort_entries(self.recent_keys, self.recent_ids)
        if not self.blocks and len(ids) < BLOCK:
            self.recent_keys[:], self.recent_ids[:] = keys, ids
            return
        at = self._count_until(self.lasts[-1], keys, ids) if self.lasts else 0
        self._insert(keys[:at], ids[:at])
        self._append(keys[at:], ids[at:])
        self.recent_keys.clear()
        self.recent_ids.clear()

    def _append(self, keys: list[float], ids: list[str]) -> None:
        """Add sorted entries that come after all others."""
        if not ids:
            return
        self.filled += len(ids)
        if self.blocks and len(self.blocks[-1]) + len(ids) < 2 * BLOCK:
            self.blocks[-1].append(keys, ids)
            self.lasts[-1] = keys[-1], ids[-1]
            return
        for start in range(0, len(ids), BLOCK):
            self._place(len(self.blocks), 0, keys[start : start + BLOCK], ids[start : start + BLOCK])

    def _place(self, at: int, replaced: int, keys: list[float], ids: list[str]) -> None:
        """Put a block of sorted entries at its place, in place of so many others."""
        self.blocks[at : at + replaced] = [Block(keys, ids)]
        self.lasts[at : at + replaced] = [(keys[-1], ids[-1])]

    def _insert(self, keys: list[float], ids: list[str]) -> None:
        """Add sorted entries, none after all others, each to its block; split those that get full."""
        self.filled += len(ids)
        blocks, lasts = self.blocks, self.lasts
        start = at = splits = 0
        while start < len(ids):
            at = bisect_left(lasts, (keys[start], ids[start]), at)
            block = blocks[at]
            end = self._count_until(lasts[at], keys, ids, start + 1)
            block.add(keys[start:end], ids[start:end])
            if len(block) >= (2 if splits < _SPLITS else 3) * BLOCK:
                self._split(at)
                splits += 1
            start = end

    def _count_until(self, last: Entry, keys: list[float], ids: list[str], start: int = 0) -> int:
        """Count the entries, of sorted ones, that come no later than another; so many of them are known to."""
        end = bisect_right(keys, last[0], start)
        while end > start and keys[end - 1] == last[0] and ids[end - 1] > last[1]:
            end -= 1
        return end

    def _split(self, at: int) -> None:
        keys, ids = self.blocks[at].keys, self.blocks[at].ids
        parts = [(keys[start : start + BLOCK], ids[start : start + BLOCK]) for start in range(0, len(ids), BLOCK)]
        self.blocks[at : at + 1] = [Block(*part) for part in parts]
        self.lasts[at : at + 1] = [(part_keys[-1], part_ids[-1]) for part_keys, part_ids in parts]

    def block_of(self, entry: Entry) -> Block | None:
        """Give the block that has the first entry like this one, if a block has it."""
        at = bisect_left(self.lasts, entry)
        return self.blocks[at] if at < len(self.blocks) else None

    def chunks(
        self,
        *,
        descending: bool = False,
        low: float | None = None,
        high: float | None = None,
        pick: Callable[[Block], list[Entry]] | None = None,
    ) -> Iterator[list[Entry]]:
        """Yield all entries with `low <= key <= high` in order, a chunk at a time.

        `pick` may leave out entries of a block, keeping their order. Entries added meanwhile may be missed.
        """
        self.sort_recent()
        first, stop = self._span(low, high)
        blocks, lasts = self.blocks[first:stop], self.lasts[first:stop]
        for at in reversed(range(len(blocks))) if descending else range(len(blocks)):
            block = blocks[at]
            entries = block.cut(*block.find(low, high)) if pick is None else _cut(pick(block), low, high)
            entries = _between(entries, lasts[at - 1] if at else None, lasts[at] if at + 1 < len(lasts) else None)
            if descending:
                entries.reverse()
            yield from _pieces(entries)
        if not blocks:
            entries = _cut(self.recent, low, high)
            yield from _pieces(entries[::-1] if descending else entries)

    def _span(self, low: float | None, high: float | None) -> tuple[int, int]:
        """Tell between which places the blocks are that may hold entries with `low <= key <= high`."""
        first = 0 if low is None else bisect_left(self.lasts, (low,))
        return first, len(self.blocks) if high is None else bisect_left(self.lasts, (nextafter(high, inf),)) + 1

    def count(self, low: float | None, high: float | None) -> int:
        """Count the entries with `low <= key <= high`, about: up to a block too many at either end."""
        self.sort_recent()
        first, stop = self._span(low, high)
        return sum(map(len, self.blocks[first:stop])) or len(_cut(self.recent, low, high))

    def sweep(self) -> Iterator[int]:
        """Drop the stale entries of the blocks that have a good share of them, a block a step.

        Each step yields how many entries it looked at.
        """
        self.outdated = self.tasks.outdated
        recent = len(self.recent_ids)
        self.sort_recent()
        yield recent
        if not self.blocks:
            looked = len(self)
            self.recent_keys[:], self.recent_ids[:] = split(distinct(self.fresh(self.recent)))
            yield looked
        at = 0
        while at < len(self.blocks):
            block = self.blocks[at]
            at += self._sweep_block(at)
            swept = not at or self.blocks[at - 1] is not block
            yield len(block) if swept else len(block) // _SAMPLE_COST
        self.kept = len(self)

    def _sweep_block(self, at: int) -> bool:
        """Drop a block's stale and repeated entries, if a sample has any; tell whether the next is at `at + 1`."""
        block = self.blocks[at]
        sample = block.sample(0, _SAMPLED)
        fresh = len(self.fresh(sample))
        if fresh == len(sample) and not block.repeats(_SAMPLED):
            return True
        left = [] if not fresh and self.tasks.have_none(block.ids) else distinct(self.fresh(block.cut()))
        self.filled += len(left) - len(block)
        if len(left) == len(block):
            return True
        before = self.blocks[at - 1] if at else None
        if left and (before is None or len(before) + len(left) > BLOCK):
            self._place(at, 1, *split(left))
            return True
        if before is not None and left:
            self._place(at - 1, 2, *split(before.cut() + left))
            return False
        del self.blocks[at], self.lasts[at]
        return False


def _cut(entries: list[Entry], low: float | None, high: float | None) -> list[Entry]:
    """Copy the entries within the bounds."""
    start = 0 if low is None else bisect_left(entries, (low,))
    stop = len(entries) if high is None else bisect_left(entries, (nextafter(high, inf),))
    return entries[start:stop]


def _between(entries: list[Entry], after: Entry | None, last: Entry | None) -> list[Entry]:
    """Leave out the entries that came to a block while somebody reads, and would not have been in it before."""
    if entries and after is not None and entries[0] <= after:
        entries = entries[bisect_right(entries, after) :]
    if entries and last is not None and entries[-1] > last:
        entries = entries[: bisect_right(entries, last)]
    return entries


def _pieces(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Cut entries into chunks; none gives one that is empty."""
    if len(entries) <= _CHUNK:
        yield entries
        return
    for start in range(0, len(entries), _CHUNK):
        yield entries[start : start + _CHUNK]
