"""Ordering: entries kept sorted at a tenth of a microsecond each, at the price that some of them are stale.

An entry is `(key, task id)`. Nobody takes an entry out when its task changes: it goes stale, readers pass over it,
and `sweep` drops it later. So writing is an append, and sorting happens for a whole block of entries at once. Which
entries are fresh a subclass tells. Event loop only.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
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


class Block(list[Entry]):
    """A sorted stretch of entries; `zone` is what the owner remembers about all its tasks, None when not known."""

    __slots__ = ("zone",)
    zone: Any

    def __init__(self, entries: list[Entry]) -> None:
        super().__init__(entries)
        self.zone = None


class Ordering(ABC):
    """Entries in ascending order. A small ordering lives in `recent` alone, a large one in `blocks`."""

    __slots__ = ("blocks", "filled", "kept", "lasts", "recent", "sweeping")

    #: Recent entries are merged into the blocks once they would fill so many.
    patience: int = 1

    def __init__(self) -> None:
        self.recent: list[Entry] = []  # in any order, always the same list
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
        return self.filled + len(self.recent)

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
        """Sort what is recent and, if there is much of it, merge it into the blocks."""
        self.recent.sort()
        if not self.recent or (not self.blocks and len(self.recent) < BLOCK):
            return
        recent = self.recent[:]
        self.recent.clear()
        self.filled += len(recent)
        start = 0
        while start < len(recent):
            at = bisect_left(self.lasts, recent[start])
            if at == len(self.blocks):
                self._append(recent[start:])
                return
            end = bisect_left(recent, self.lasts[at], start + 1)
            self._insert(at, recent[start:end])
            start = end

    def _append(self, entries: list[Entry]) -> None:
        """Add sorted entries that come after all others."""
        if self.blocks and len(self.blocks[-1]) + len(entries) < 2 * BLOCK:
            self.blocks[-1].zone = None
            self.blocks[-1] += entries
            self.lasts[-1] = entries[-1]
            return
        for start in range(0, len(entries), BLOCK):
            self.blocks.append(Block(entries[start : start + BLOCK]))
            self.lasts.append(self.blocks[-1][-1])

    def _insert(self, at: int, entries: list[Entry]) -> None:
        """Add sorted entries, none after the block's last one, to the block `at`; split it when it is full."""
        block = self.blocks[at]
        block.zone = None
        if len(entries) < _SCATTERED:
            for entry in entries:
                insort(block, entry)
        else:
            block += entries
            block.sort()
        if len(block) >= 2 * BLOCK:
            parts = [Block(block[start : start + BLOCK]) for start in range(0, len(block), BLOCK)]
            self.blocks[at : at + 1] = parts
            self.lasts[at : at + 1] = [part[-1] for part in parts]

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
        first = 0 if low is None else bisect_left(self.lasts, (low,))
        stop = len(self.blocks) if high is None else bisect_left(self.lasts, (nextafter(high, inf),)) + 1
        parts: list[Block] = self.blocks[first:stop]
        for block in reversed(parts) if descending else parts:
            yield from _pieces(_cut(block if pick is None else pick(block), descending, low, high))
        if not self.blocks:
            yield from _pieces(_cut(self.recent, descending, low, high))

    def count(self, low: float | None, high: float | None) -> int:
        """Count the entries with `low <= key <= high`, about: up to a block too many at either end."""
        self.settle()
        if not self.blocks:
            return len(_cut(self.recent, False, low, high))
        first = 0 if low is None else bisect_left(self.lasts, (low,))
        stop = len(self.blocks) if high is None else bisect_left(self.lasts, (nextafter(high, inf),)) + 1
        return sum(map(len, self.blocks[first:stop]))

    def sweep(self) -> Iterator[int]:
        """Drop the stale entries of the blocks that have a good share of them, a block a step.

        Each step yields how many entries it looked at.
        """
        self.sweeping = True
        self.settle()
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
        sample = block[::_SAMPLED]
        if len(self.fresh(sample)) == len(sample) and not any(map(eq, sample, block[1::_SAMPLED])):
            return True
        left = distinct(self.fresh(block))
        self.filled += len(left) - len(block)
        if len(left) == len(block):
            return True
        before = self.blocks[at - 1] if at else None
        if left and (before is None or len(before) + len(left) > BLOCK):
            self.blocks[at] = Block(left)
            self.lasts[at] = left[-1]
            return True
        if before is not None and left:
            self.blocks[at - 1] = Block(before + left)
            self.lasts[at - 1] = left[-1]
        del self.blocks[at], self.lasts[at]
        return False


def _cut(entries: list[Entry], descending: bool, low: float | None, high: float | None) -> list[Entry]:
    """Copy the entries within the bounds, in the order asked for."""
    start = 0 if low is None else bisect_left(entries, (low,))
    stop = len(entries) if high is None else bisect_left(entries, (nextafter(high, inf),))
    cut = entries[start:stop]
    if descending:
        cut.reverse()
    return cut


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
