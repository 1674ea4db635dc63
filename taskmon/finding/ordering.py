"""Ordering: entries kept sorted at a tenth of a microsecond each, at the price that some of them are stale.

An entry is `(key, task id)`. Nobody takes an entry out when its task changes: it goes stale, readers pass over it,
and `sweep` drops it later. So writing is an append, and sorting happens for a whole block of entries at once. Which
entries are fresh a subclass tells. Event loop only.
"""

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from math import inf, nextafter
from operator import eq
from typing import Any, Final

from ..records import Task

Entry = tuple[Any, str]

#: Entries in a block: more would make an insert into the middle dearer, fewer the search for the block.
BLOCK: Final = 1000


#: Fewer entries than that are put into a block one by one, more are sorted together with it.
_SCATTERED: Final = 64

#: Entries in a stretch: a page is often found in the first.
_STRETCH: Final = 256

#: One entry of so many is looked at to tell whether a block is worth sweeping.
_SAMPLED: Final = 64


#: A sample costs this share of what looking at the whole block would: its tasks lie far apart in memory.
_SAMPLE_COST: Final = 8


class Block:
    """A sorted stretch of entries; `zone` is what the owner remembers about all its tasks, None when not known.

    Keys and ids are kept apart: an entry costs 16 bytes so, where a tuple and its key would cost 88.
    """

    __slots__ = ("ids", "keys", "zone")
    zone: Any

    def __init__(self, entries: list[Entry]) -> None:
        self.keys = array("d", [key for key, _ in entries])
        self.ids = [task_id for _, task_id in entries]
        self.zone = None

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Entry]:
        return zip(self.keys, self.ids, strict=True)

    def cut(self, start: int = 0, stop: int | None = None, step: int = 1) -> list[Entry]:
        """List the entries from one place to another."""
        return list(zip(self.keys[start:stop:step], self.ids[start:stop:step], strict=True))

    def last(self) -> Entry:
        """Give the last entry."""
        return self.keys[-1], self.ids[-1]

    def find(self, low: float | None, high: float | None) -> tuple[int, int]:
        """Tell between which places the entries with `low <= key <= high` are."""
        start = 0 if low is None else bisect_left(self.keys, low)
        return start, len(self.keys) if high is None else bisect_right(self.keys, high)

    def append(self, entries: list[Entry]) -> None:
        """Add sorted entries that come after all others."""
        self.keys.extend([key for key, _ in entries])
        self.ids += [task_id for _, task_id in entries]
        self.zone = None

    def insert(self, entry: Entry) -> None:
        """Add an entry in its place."""
        key, task_id = entry
        first, last = bisect_left(self.keys, key), bisect_right(self.keys, key)
        place = bisect_left(self.ids, task_id, first, last)
        self.keys.insert(place, key)
        self.ids.insert(place, task_id)
        self.zone = None


class Ordering(ABC):
    """Entries in ascending order. A small ordering lives in `recent` alone.

    In a large one, entries go from `recent`, which is in any order, to `pending`, which is sorted, and from there to
    their blocks, a few at a time: entries that are scattered over all blocks would else hold everything up at once.
    """

    __slots__ = ("blocks", "filled", "kept", "lasts", "pending", "recent", "sweeping")

    #: Recent entries are sorted once they would fill so many blocks: merging more at once costs each less.
    patience: int = 3

    def __init__(self) -> None:
        self.recent: list[Entry] = []  # in any order, always the same list
        self.pending: list[Entry] = []  # in order, to be merged into the blocks
        self.blocks: list[Block] = []
        self.lasts: list[Entry] = []  # the last entry of each block
        self.filled = 0  # entries in the blocks
        self.kept = 0  # entries that the last sweep kept
        self.sweeping = False

    @abstractmethod
    def fresh(self, entries: list[Entry]) -> list[Entry]:
        """Keep those entries that still say the truth about their task, in their order."""

    @abstractmethod
    def says(self, entry: Entry, task: Task) -> bool:
        """Tell whether an entry says the truth about this task, whatever is held."""

    def __len__(self) -> int:
        """Count the entries, stale ones included."""
        return self.filled + len(self.pending) + len(self.recent)

    @property
    def wants_sweep(self) -> bool:
        """Tell whether as many entries have come since the last sweep as it kept: half may be stale."""
        return not self.sweeping and self.filled > 2 * self.kept + BLOCK

    def extend(self, entries: list[Entry]) -> None:
        """Add entries in any order."""
        self.recent += entries
        if len(self.recent) >= self.patience * BLOCK:
            self.settle()

    def settle(self) -> None:
        """Sort what is recent, and if there is much of it, put what comes after all blocks into new ones."""
        recent = self.recent
        recent.sort()
        if not recent or (not self.blocks and len(recent) < BLOCK):
            return
        self.pending += recent
        recent.clear()
        self.pending.sort()
        after = bisect_left(self.pending, self.lasts[-1]) if self.lasts else 0
        if after < len(self.pending):
            self._append(self.pending[after:])
            del self.pending[after:]

    def merge(self, entries: int) -> None:
        """Merge about so many pending entries into their blocks, the last ones first."""
        while self.pending and entries > 0:
            at = bisect_left(self.lasts, self.pending[-1])
            if at == len(self.blocks):  # what a sweep has dropped was the last
                self._append(self.pending)
                self.pending = []
                return
            start = bisect_right(self.pending, self.lasts[at - 1]) if at else 0
            entries -= len(self.pending) - start
            self._insert(at, self.pending[start:])
            del self.pending[start:]

    def _append(self, entries: list[Entry]) -> None:
        """Add sorted entries that come after all others."""
        self.filled += len(entries)
        if self.blocks and len(self.blocks[-1]) + len(entries) < 2 * BLOCK:
            self.blocks[-1].append(entries)
            self.lasts[-1] = entries[-1]
            return
        for start in range(0, len(entries), BLOCK):
            self.blocks.append(Block(entries[start : start + BLOCK]))
            self.lasts.append(self.blocks[-1].last())

    def _insert(self, at: int, entries: list[Entry]) -> None:
        """Add sorted entries, none after the block's last one, to the block `at`; split it when it is full."""
        block = self.blocks[at]
        self.filled += len(entries)
        if len(entries) < _SCATTERED and len(block) + len(entries) < 2 * BLOCK:
            for entry in entries:
                block.insert(entry)
            return
        entries += block
        entries.sort()
        size = len(entries) if len(entries) < 2 * BLOCK else BLOCK
        parts = [Block(entries[start : start + size]) for start in range(0, len(entries), size)]
        self.blocks[at : at + 1] = parts
        self.lasts[at : at + 1] = [part.last() for part in parts]

    def stretches(
        self,
        *,
        descending: bool = False,
        low: float | None = None,
        high: float | None = None,
        pick: Callable[[Block], list[Entry]] | None = None,
    ) -> Iterator[list[Entry]]:
        """Yield all entries with `low <= key <= high` in order, a stretch at a time.

        `pick` may leave out entries of a block, keeping their order. Entries added meanwhile may be missed.
        """
        self.settle()
        blocks, late = self._blocks_within(low, high), _cut(self.pending, low, high)
        for at in reversed(range(len(blocks))) if descending else range(len(blocks)):
            block = blocks[at]
            entries = block.cut(*block.find(low, high)) if pick is None else _cut(pick(block), low, high)
            if late:
                entries = _join(entries, late, blocks, at)
            if descending:
                entries.reverse()
            yield from _pieces(entries)
        if not blocks:
            entries = _cut(self.recent, low, high) or late
            yield from _pieces(entries[::-1] if descending else entries)

    def _blocks_within(self, low: float | None, high: float | None) -> list[Block]:
        """List the blocks that may hold entries with `low <= key <= high`."""
        first = 0 if low is None else bisect_left(self.lasts, (low,))
        stop = len(self.blocks) if high is None else bisect_left(self.lasts, (nextafter(high, inf),)) + 1
        return self.blocks[first:stop]

    def count(self, low: float | None, high: float | None) -> int:
        """Count the entries with `low <= key <= high`, about: up to a block too many at either end."""
        self.settle()
        late = len(_cut(self.pending, low, high))
        return late + sum(map(len, self._blocks_within(low, high))) or len(_cut(self.recent, low, high))

    def sweep(self) -> Iterator[int]:
        """Drop the stale entries of the blocks that have a good share of them, a block a step.

        Each step yields how many entries it looked at.
        """
        self.sweeping = True
        self.settle()
        while self.pending:
            self.merge(BLOCK)
            yield BLOCK
        if not self.blocks:
            looked = len(self.recent)
            self.recent[:] = distinct(self.fresh(self.recent))
            yield looked
        at = 0
        while at < len(self.blocks):
            block = self.blocks[at]
            at += self._sweep_block(at)
            swept = not at or self.blocks[at - 1] is not block
            yield len(block) if swept else len(block) // _SAMPLE_COST
        self.kept = len(self)
        self.sweeping = False

    def _sweep_block(self, at: int) -> bool:
        """Drop a block's stale and repeated entries, if a sample has any; tell whether the next is at `at + 1`."""
        block = self.blocks[at]
        sample = block.cut(step=_SAMPLED)
        if len(self.fresh(sample)) == len(sample) and not any(map(eq, sample, block.cut(1, step=_SAMPLED))):
            return True
        left = distinct(self.fresh(block.cut()))
        self.filled += len(left) - len(block)
        if len(left) == len(block):
            return True
        before = self.blocks[at - 1] if at else None
        if left and (before is None or len(before) + len(left) > BLOCK):
            self.blocks[at] = Block(left)
            self.lasts[at] = left[-1]
            return True
        if before is not None and left:
            self.blocks[at - 1] = Block(before.cut() + left)
            self.lasts[at - 1] = left[-1]
        del self.blocks[at], self.lasts[at]
        return False


def _cut(entries: list[Entry], low: float | None, high: float | None) -> list[Entry]:
    """Copy the entries within the bounds."""
    start = 0 if low is None else bisect_left(entries, (low,))
    stop = len(entries) if high is None else bisect_left(entries, (nextafter(high, inf),))
    return entries[start:stop]


def _join(entries: list[Entry], late: list[Entry], blocks: list[Block], at: int) -> list[Entry]:
    """Add to the entries of a block the late ones that belong there; some may have come there meanwhile."""
    start = bisect_right(late, blocks[at - 1].last()) if at else 0
    stop = bisect_right(late, blocks[at].last()) if at + 1 < len(blocks) else len(late)
    return distinct(sorted(entries + late[start:stop])) if start < stop else entries


def _pieces(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Cut entries into stretches; none gives one that is empty."""
    if len(entries) <= _STRETCH:
        yield entries
        return
    for start in range(0, len(entries), _STRETCH):
        yield entries[start : start + _STRETCH]


def distinct(entries: list[Entry]) -> list[Entry]:
    """Drop repeated entries from sorted ones."""
    return list(dict.fromkeys(entries)) if len(entries) > 1 else entries
