"""Block: a chunk of an ordering's entries, the keys apart from the ids, sorted when somebody reads it.

An entry is `(key, task id)`. Event loop only.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import compress, islice
from operator import eq, le, lt
from typing import Any, Final

Entry = tuple[Any, str]

#: Entries in a block: more would make an insert into the middle dearer, fewer the search for the block.
BLOCK: Final = 1000


def sort_entries(keys: list[float], ids: list[str]) -> tuple[list[float], list[str]]:
    """Sort entries given as keys and ids apart: by key, then by id. Far cheaper than to sort pairs."""
    if all(map(lt, keys, islice(keys, 1, None))):
        return keys, ids
    if not all(map(le, keys, islice(keys, 1, None))):
        order = sorted(range(len(keys)), key=keys.__getitem__)
        keys, ids = [keys[at] for at in order], [ids[at] for at in order]
    equal = list(compress(range(len(keys)), map(eq, keys, islice(keys, 1, None))))
    return keys, _sort_equal(keys, ids, equal) if equal else ids


def _sort_equal(keys: list[float], ids: list[str], equal: list[int]) -> list[str]:
    """Sort the ids of equal keys, which are at these places and right behind them."""
    ids = ids.copy()
    end = 0
    for start in equal:
        if start >= end:
            end = bisect_right(keys, keys[start], start)
            ids[start:end] = sorted(ids[start:end])
    return ids


def split(entries: list[Entry]) -> tuple[list[float], list[str]]:
    """Give the keys and the ids of entries apart."""
    return [key for key, _ in entries], [task_id for _, task_id in entries]


class Block:
    """A chunk of entries, sorted when it is read; `zone_map` is what the owner remembers about all its tasks.

    Keys and ids are kept apart: an entry costs 16 bytes so, where a tuple and its key would cost 88.
    """

    __slots__ = ("_ids", "_is_sorted", "_keys", "zone_map")
    zone_map: Any

    def __init__(self, keys: Sequence[float], ids: list[str]) -> None:
        self._keys = array("d", keys)
        self._ids = ids
        self._is_sorted = True
        self.zone_map = None

    def _settle(self) -> None:
        if not self._is_sorted:
            keys, self._ids = sort_entries(self._keys.tolist(), self._ids)
            self._keys = array("d", keys)
            self._is_sorted = True

    @property
    def keys(self) -> "array[float]":
        """The keys, in order."""
        self._settle()
        return self._keys

    @property
    def ids(self) -> list[str]:
        """The ids, in the order of the keys."""
        self._settle()
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Entry]:
        return zip(self.keys, self.ids, strict=True)

    def cut(self, start: int = 0, stop: int | None = None) -> list[Entry]:
        """List the entries from one place to another."""
        return list(zip(self.keys[start:stop], self.ids[start:stop], strict=True))

    def sample(self, start: int, step: int) -> list[Entry]:
        """List one entry of so many, in whichever order they are: sorting a block only to look at it is dear."""
        return list(zip(self._keys[start::step], self._ids[start::step], strict=True))

    def repeats(self, step: int) -> bool:
        """Tell whether a sample shows that entries are there more than once; of an unsorted block look at all."""
        if self._is_sorted:
            return any(map(eq, self.sample(0, step), self.sample(1, step)))
        return len(set(self._ids)) < len(self._ids)

    def find(self, low: float | None, high: float | None) -> tuple[int, int]:
        """Tell between which places the entries with `low <= key <= high` are."""
        keys = self.keys
        start = 0 if low is None else bisect_left(keys, low)
        return start, len(keys) if high is None else bisect_right(keys, high)

    def add(self, keys: list[float], ids: list[str]) -> None:
        """Add entries somewhere; whoever reads next puts them in their places."""
        self._keys.fromlist(keys)
        self._ids += ids
        self._is_sorted = False
        self.zone_map = None

    def append(self, keys: list[float], ids: list[str]) -> None:
        """Add sorted entries that come after all others."""
        was_sorted = self._is_sorted
        self.add(keys, ids)
        self._is_sorted = was_sorted


def distinct(entries: list[Entry]) -> list[Entry]:
    """Drop repeated entries from sorted ones."""
    return list(dict.fromkeys(entries)) if len(entries) > 1 else entries
