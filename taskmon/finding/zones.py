"""Zones: what is remembered about all tasks of a block, so that filters pass over most of a block at once.

A zone holds for as long as its block gets no entry. That is enough for orderings by `timestamp`, where a task that
changes gets a new entry: the zones of others would go wrong unseen. Event loop only.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import compress
from operator import attrgetter
from typing import Final

from ..records import Task
from .blocks import Block, Entry
from .store import TaskStore

Value = str | int | None
Ranges = dict[str, tuple[float | None, float | None]]
Values = list[tuple[str, str]]

#: The times by which a zone knows the order of its tasks.
TIMES: Final = ("received", "started")

#: The facets of which a zone knows each task's value.
FACETS: Final = ("state", "name", "worker", "queue")

#: So many values of one facet fit into a zone; of a block with more, nothing is remembered of that facet.
_MOST_VALUES: Final = 256

#: For each code the table that makes 1 of it, and 0 of any other.
_ONLY: Final = [bytes(code == other for other in range(256)) for code in range(_MOST_VALUES)]

#: The values of a time in ascending order, and where in the block each of them is.
Times = tuple["array[float]", "array[int]"]

#: A code for each place of the block, and the code of each value; None where there are too many values.
Codes = tuple[bytes, dict[Value, int]] | None


class Zone:
    """What is known of a block; each field is looked at when it is first asked for."""

    __slots__ = ("codes", "times")

    def __init__(self) -> None:
        self.times: dict[str, Times] = {}
        self.codes: dict[str, Codes] = {}

    @property
    def complete(self) -> bool:
        """Tell whether every field is known."""
        return len(self.times) == len(TIMES) and len(self.codes) == len(FACETS)


class Zones:
    """Makes zones, and picks entries by them."""

    def __init__(self, tasks: TaskStore) -> None:
        self._tasks = tasks
        self._looked = 0

    def spent(self) -> int:
        """Tell how many tasks have been looked at since this was last asked, to know more of their blocks."""
        looked, self._looked = self._looked, 0
        return looked

    def within(self, block: Block, ranges: Ranges, values: Values) -> list[Entry]:
        """List the entries of a block, in their order, whose task may be within all ranges and have all values."""
        zone: Zone | None = block.zone
        try:
            return _pick(block, zone, ranges, values) if zone else self._learn_and_pick(block, ranges, values)
        except KeyError:  # a field that nobody has asked for yet
            return self._learn_and_pick(block, ranges, values)

    def _learn_and_pick(self, block: Block, ranges: Ranges, values: Values) -> list[Entry]:
        return _pick(block, self._learn(block, ranges, [field for field, _ in values]), ranges, values)

    def complete(self, block: Block) -> None:
        """Look at every field of a block's tasks, in an idle moment, so that nobody has to wait for it later."""
        self._learn(block, TIMES, FACETS)

    def _learn(self, block: Block, times: Iterable[str], facets: Iterable[str]) -> Zone:
        """Look at the tasks of a block for those of the fields that its zone does not know."""
        zone: Zone = block.zone or Zone()
        block.zone = zone
        tasks = list(map(self._tasks.get, block.ids))
        self._looked += len(tasks)
        for field in times:
            if field not in zone.times:
                zone.times[field] = _sort_places(tasks, field)
        for field in facets:
            if field not in zone.codes:
                zone.codes[field] = _encode(tasks, field)
        return zone


def _pick(block: Block, zone: Zone, ranges: Ranges, values: Values) -> list[Entry]:
    selected = _select(zone, values, len(block)) if values else None
    if values and selected is None:
        return []
    within = [_within(zone.times[field], *bounds) for field, bounds in ranges.items()]
    if not all(within):
        return []
    chosen: set[int] | None = None
    for places in within:
        if len(places) < len(block):
            chosen = set(places) if chosen is None else chosen.intersection(places)
    if chosen is None:
        return list(compress(block, selected)) if selected else block.cut()
    keys, ids = block.keys, block.ids
    return [(keys[at], ids[at]) for at in sorted(chosen) if selected is None or selected[at]]


def _within(times: Times, low: float | None, high: float | None) -> "array[int]":
    """Give the places whose time is within the bounds."""
    start = 0 if low is None else bisect_left(times[0], low)
    stop = len(times[0]) if high is None else bisect_right(times[0], high)
    return times[1][start:stop]


def _select(zone: Zone, values: Values, size: int) -> bytes | None:
    """Give a 1 for each place whose task may have all the values, a 0 for any other; None when no task has them."""
    bits = int.from_bytes(b"\x01" * size)
    for field, value in values:
        codes = zone.codes[field]
        if codes is None:
            continue
        code = codes[1].get(value)
        if code is None:
            return None
        bits &= int.from_bytes(codes[0].translate(_ONLY[code]))
        if not bits:
            return None
    return bits.to_bytes(size)


def _sort_places(tasks: list[Task | None], field: str) -> Times:
    """Sort the places in a list of tasks by the time that the task there has, leaving out those without one."""
    get = attrgetter(field)
    pairs = [(time, at) for at, task in enumerate(tasks) if task is not None and (time := get(task)) is not None]
    pairs.sort()
    return array("d", [time for time, _ in pairs]), array("H", [at for _, at in pairs])


def _encode(tasks: list[Task | None], field: str) -> Codes:
    """Give each value a code, and each place the code of its task's value."""
    get = attrgetter(field)
    codes: dict[Value, int] = {}
    found = [codes.setdefault(None if task is None else get(task), len(codes)) for task in tasks]
    return (bytes(found), codes) if len(codes) <= _MOST_VALUES else None
