"""Zone maps: what is remembered about all tasks of a block, so that filters pass over most of a block at once.

A zone map holds as long as its block gets no entry. In orderings by `timestamp` that is all: a task that changes gets
a new entry there. In the others it does not, so their zone maps know only of finished tasks. The store tells of
finished tasks that change all the same, and unfinished ones are tested each time. Event loop only.
"""

from collections.abc import Iterable, Sequence
from itertools import compress
from math import inf
from operator import attrgetter, sub
from typing import Final, NamedTuple

from ...records import READY_STATES, Task
from ..query import Match
from ..task_fields import ZONE_MAPPED_TIMES, ZONE_MAPPED_VALUES
from .blocks import Block, Entry
from .bucket_columns import TimeBuckets, ValueBuckets
from .orders import Known, Missing
from .store import TaskStore

Ranges = dict[str, tuple[float | None, float | None]]
Values = list[tuple[str, str]]

#: So few tasks are looked at each time though they may have finished since.
_MAX_OPEN_PLACES: Final = 64

#: After how many uses a zone map is checked for age: testing the tasks once more is expensive.
_USES_PER_CHECK: Final = 8

#: A zone map is made anew once of so many of its tasks one has finished since.
_AGED: Final = 8

#: Of so many tasks that have changed the blocks are looked up; after more, nothing is remembered of any block.
MAX_DISTURBED: Final = 5_000

#: By so much the sum of a time and a difference of two may miss the other time, in seconds.
_ROUNDING: Final = 0.001

#: Stands for a task that is gone, or of which the zone map is to know nothing.
_NOBODY: Final = Task("")


class Asked(NamedTuple):
    """What a query asks of tasks: what zone maps know of, and whether a task is a match in all but the search."""

    ranges: Ranges
    values: Values
    match: Match


class ZoneMap:
    """What is known of a block; each field is looked at when it is first asked for.

    `open` are the places of tasks of which it knows nothing, as they had not finished, and these tasks.
    """

    __slots__ = ("asked", "buckets", "complete", "open", "times")

    def __init__(self, open_places: list[tuple[int, Task]]) -> None:
        self.open = open_places
        self.times: dict[str, TimeBuckets] = {}
        self.buckets: dict[str, ValueBuckets] = {}
        self.complete = False  # every field is known
        self.asked = 0  # how often it was

    def has_aged(self) -> bool:
        """Tell, now and then when it is asked, whether many tasks have finished since it was made."""
        self.asked += 1
        if self.asked % _USES_PER_CHECK or len(self.open) <= _MAX_OPEN_PLACES:
            return False
        return _AGED * sum(task.state in READY_STATES for _, task in self.open) > len(self.open)


class OffsetBounds:
    """How long after a time of theirs the `timestamp` of all tasks is that have ever been indexed."""

    __slots__ = ("get", "least", "most")

    def __init__(self, field: str) -> None:
        self.get = attrgetter(field)
        self.least, self.most = inf, -inf

    def widen(self, tasks: list[Task], timestamps: list[float]) -> None:
        """Let it be true of more tasks."""
        times = list(map(self.get, tasks))
        try:
            offsets = list(map(sub, timestamps, times))
        except TypeError:  # a task without it
            offsets = [end - time for end, time in zip(timestamps, times, strict=True) if time is not None]
        if offsets:
            self.least = min(self.least, min(offsets) - _ROUNDING)
            self.most = max(self.most, max(offsets) + _ROUNDING)


class ZoneMaps:
    """Makes zone maps and picks entries by them; in `lasting` orderings tasks may change without an entry."""

    def __init__(self, tasks: TaskStore, lasting: Sequence[Known | Missing] = ()) -> None:
        self._tasks = tasks
        self._lasting = lasting
        self._looked = 0
        self._offset_bounds = {field: OffsetBounds(field) for field in ZONE_MAPPED_TIMES}

    def spent(self) -> int:
        """Tell how many tasks have been looked at since this was last asked, to know more of their blocks."""
        looked, self._looked = self._looked, 0
        return looked

    def note(self, tasks: list[Task], timestamps: list[float]) -> None:
        """Take note of how far the times of tasks that are indexed are from their `timestamp`."""
        for bounds in self._offset_bounds.values():
            bounds.widen(tasks, timestamps)

    def span(self, ranges: Ranges, field: str = "timestamp") -> tuple[float | None, float | None]:
        """Return bounds for a zone map-mapped time, or `timestamp`, of all tasks within some ranges; else none."""
        low, high = -inf, inf
        for known, (start, end) in ranges.items():
            bounds = self._offset_bounds[known]
            low = low if start is None else max(low, start + bounds.least)
            high = high if end is None else min(high, end + bounds.most)
        if field in self._offset_bounds:
            low, high = low - self._offset_bounds[field].most, high - self._offset_bounds[field].least
        elif field != "timestamp":
            return None, None
        return (low if low > -inf else None), (high if high < inf else None)

    def within(self, block: Block, asked: Asked, lasting: bool = False) -> list[Entry]:
        """List the entries of a block, in their order, whose task may be within all ranges and have all values.

        With `lasting`, the block is of an ordering where tasks may change without an entry.
        """
        if self._tasks.disturbed:
            self.forget_disturbed()
        zone_map: ZoneMap | None = block.zone_map
        if zone_map and zone_map.has_aged():
            zone_map = block.zone_map = None
        try:
            return _pick(block, zone_map, asked) if zone_map else self._learn_and_pick(block, asked, lasting)
        except KeyError:  # a field that nobody has asked for yet
            return self._learn_and_pick(block, asked, lasting)

    def _learn_and_pick(self, block: Block, asked: Asked, lasting: bool) -> list[Entry]:
        return _pick(block, self._learn(block, asked.ranges, [field for field, _ in asked.values], lasting), asked)

    def complete(self, block: Block, lasting: bool = False) -> None:
        """Look at every field of a block's tasks, in an idle moment, so that nobody has to wait for it later."""
        self._learn(block, ZONE_MAPPED_TIMES, ZONE_MAPPED_VALUES, lasting)

    def forget_disturbed(self) -> None:
        """Forget the zone maps that know of a task that has changed; a removed one only returns with entries."""
        disturbed = self._tasks.disturbed
        tasks = [task for task_id in disturbed if (task := self._tasks.get(task_id)) is not None]
        for ordering in self._lasting:
            if len(disturbed) > MAX_DISTURBED:
                blocks = ordering.blocks
            else:
                keys = [(key, task.uuid) for task in tasks if (key := ordering.key_of(task)) is not None]
                blocks = list(filter(None, map(ordering.block_of, keys)))
            for block in blocks:
                block.zone_map = None
        disturbed.clear()

    def _learn(self, block: Block, times: Iterable[str], facets: Iterable[str], lasting: bool) -> ZoneMap:
        """Look at the tasks of a block for those of the fields that its zone map does not know."""
        if self._tasks.disturbed:
            self.forget_disturbed()
        ids = block.ids
        self._looked += len(ids)
        tasks = [task or _NOBODY for task in map(self._tasks.finished.get, ids)]
        unfinished = self._tasks.unfinished.get
        others = [(at, unfinished(ids[at])) for at, task in enumerate(tasks) if task is _NOBODY]
        are_open = [(at, task) for at, task in others if task is not None]
        zone_map: ZoneMap = block.zone_map or ZoneMap(are_open if lasting else [])
        block.zone_map = zone_map
        if not lasting:
            for at, task in are_open:
                tasks[at] = task
        for at, _ in zone_map.open:  # it may have finished since, but what was looked at before does not know of it
            tasks[at] = _NOBODY
        unknown = [at for at, task in enumerate(tasks) if task is _NOBODY]
        for field in times:
            if field not in zone_map.times:
                zone_map.times[field] = TimeBuckets(tasks, field)
        for field in facets:
            if field not in zone_map.buckets:
                zone_map.buckets[field] = ValueBuckets(tasks, field, unknown)
        zone_map.complete = len(zone_map.times) == len(ZONE_MAPPED_TIMES) and len(zone_map.buckets) == len(
            ZONE_MAPPED_VALUES
        )
        return zone_map


def _pick(block: Block, zone_map: ZoneMap, asked: Asked) -> list[Entry]:
    bits = -1
    for field, bounds in asked.ranges.items():
        bits &= zone_map.times[field].select(*bounds)
    for field, value in asked.values:
        bits &= zone_map.buckets[field].select(value)
    if bits == -1:
        return block.cut()
    match = asked.match
    hits = [at for at, task in zone_map.open if match(task)]
    if not bits and not hits:
        return []
    selected = bytearray(bits.to_bytes(len(block)))
    for at in hits:
        selected[at] = 1
    if 2 * selected.count(1) > len(block):
        return list(compress(block, selected))
    keys, ids = block.keys, block.ids
    return [(keys[at], ids[at]) for at in compress(range(len(ids)), selected)]
