"""Zones: what is remembered about all tasks of a block, so that filters pass over most of a block at once.

A zone holds for as long as its block gets no entry. In orderings by `timestamp` that is all, for there a task that
changes gets a new entry. In the others it does not, so their zones know only of tasks that have finished: of one that
changes all the same the store tells, and those that have not finished are looked at each time. Event loop only.
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
from .bucket_columns import Codes, Times
from .orders import Known, Missing
from .store import TaskStore

Ranges = dict[str, tuple[float | None, float | None]]
Values = list[tuple[str, str]]

#: So few tasks are looked at each time though they may have finished since.
_FEW: Final = 64

#: Each time that a zone was asked so often, it is seen whether it has aged: to look at the tasks once more is dear.
_OFTEN: Final = 8

#: A zone is made anew once of so many of its tasks one has finished since.
_AGED: Final = 8

#: Of so many tasks that have changed the blocks are looked up; after more, nothing is remembered of any block.
MOST_DISTURBED: Final = 5_000

#: By so much the sum of a time and a difference of two may miss the other time, in seconds.
_ROUNDING: Final = 0.001

#: Stands for a task that is gone, or of which the zone is to know nothing.
_NOBODY: Final = Task("")


class Asked(NamedTuple):
    """What a query asks of tasks: what zones know of, and whether a task is a match in all but the search."""

    ranges: Ranges
    values: Values
    match: Match


class Zone:
    """What is known of a block; each field is looked at when it is first asked for.

    `open` are the places of tasks of which it knows nothing, as they had not finished, and these tasks.
    """

    __slots__ = ("asked", "codes", "complete", "open", "times")

    def __init__(self, open_places: list[tuple[int, Task]]) -> None:
        self.open = open_places
        self.times: dict[str, Times] = {}
        self.codes: dict[str, Codes] = {}
        self.complete = False  # every field is known
        self.asked = 0  # how often it was

    def has_aged(self) -> bool:
        """Tell, now and then when it is asked, whether many tasks have finished since it was made."""
        self.asked += 1
        if self.asked % _OFTEN or len(self.open) <= _FEW:
            return False
        return _AGED * sum(task.state in READY_STATES for _, task in self.open) > len(self.open)


class Lag:
    """How long after a time of theirs the `timestamp` of all tasks is that have ever been indexed."""

    __slots__ = ("get", "least", "most")

    def __init__(self, field: str) -> None:
        self.get = attrgetter(field)
        self.least, self.most = inf, -inf

    def widen(self, tasks: list[Task], timestamps: list[float]) -> None:
        """Let it be true of more tasks."""
        times = list(map(self.get, tasks))
        try:
            lags = list(map(sub, timestamps, times))
        except TypeError:  # a task without it
            lags = [end - time for end, time in zip(timestamps, times, strict=True) if time is not None]
        if lags:
            self.least = min(self.least, min(lags) - _ROUNDING)
            self.most = max(self.most, max(lags) + _ROUNDING)


class Zones:
    """Makes zones, and picks entries by them; `lasting` are the orderings where tasks may change without an entry."""

    def __init__(self, tasks: TaskStore, lasting: Sequence[Known | Missing] = ()) -> None:
        self._tasks = tasks
        self._lasting = lasting
        self._looked = 0
        self._lags = {field: Lag(field) for field in ZONE_MAPPED_TIMES}

    def spent(self) -> int:
        """Tell how many tasks have been looked at since this was last asked, to know more of their blocks."""
        looked, self._looked = self._looked, 0
        return looked

    def note(self, tasks: list[Task], timestamps: list[float]) -> None:
        """Take note of how far the times of tasks that are indexed are from their `timestamp`."""
        for lag in self._lags.values():
            lag.widen(tasks, timestamps)

    def span(self, ranges: Ranges, field: str = "timestamp") -> tuple[float | None, float | None]:
        """Return bounds for a zone-mapped time, or `timestamp`, of all tasks within some ranges; else none."""
        low, high = -inf, inf
        for known, (start, end) in ranges.items():
            lag = self._lags[known]
            low = low if start is None else max(low, start + lag.least)
            high = high if end is None else min(high, end + lag.most)
        if field in self._lags:
            low, high = low - self._lags[field].most, high - self._lags[field].least
        elif field != "timestamp":
            return None, None
        return (low if low > -inf else None), (high if high < inf else None)

    def within(self, block: Block, asked: Asked, lasting: bool = False) -> list[Entry]:
        """List the entries of a block, in their order, whose task may be within all ranges and have all values.

        With `lasting`, the block is of an ordering where tasks may change without an entry.
        """
        if self._tasks.disturbed:
            self.forget_disturbed()
        zone: Zone | None = block.zone
        if zone and zone.has_aged():
            zone = block.zone = None
        try:
            return _pick(block, zone, asked) if zone else self._learn_and_pick(block, asked, lasting)
        except KeyError:  # a field that nobody has asked for yet
            return self._learn_and_pick(block, asked, lasting)

    def _learn_and_pick(self, block: Block, asked: Asked, lasting: bool) -> list[Entry]:
        return _pick(block, self._learn(block, asked.ranges, [field for field, _ in asked.values], lasting), asked)

    def complete(self, block: Block, lasting: bool = False) -> None:
        """Look at every field of a block's tasks, in an idle moment, so that nobody has to wait for it later."""
        self._learn(block, ZONE_MAPPED_TIMES, ZONE_MAPPED_VALUES, lasting)

    def forget_disturbed(self) -> None:
        """Forget the zones that know of a task that has changed; one that is gone can only come back with entries."""
        disturbed = self._tasks.disturbed
        tasks = [task for task_id in disturbed if (task := self._tasks.get(task_id)) is not None]
        for ordering in self._lasting:
            if len(disturbed) > MOST_DISTURBED:
                blocks = ordering.blocks
            else:
                keys = [(key, task.uuid) for task in tasks if (key := ordering.key_of(task)) is not None]
                blocks = list(filter(None, map(ordering.block_of, keys)))
            for block in blocks:
                block.zone = None
        disturbed.clear()

    def _learn(self, block: Block, times: Iterable[str], facets: Iterable[str], lasting: bool) -> Zone:
        """Look at the tasks of a block for those of the fields that its zone does not know."""
        if self._tasks.disturbed:
            self.forget_disturbed()
        ids = block.ids
        self._looked += len(ids)
        tasks = [task or _NOBODY for task in map(self._tasks.finished.get, ids)]
        unfinished = self._tasks.unfinished.get
        others = [(at, unfinished(ids[at])) for at, task in enumerate(tasks) if task is _NOBODY]
        are_open = [(at, task) for at, task in others if task is not None]
        zone: Zone = block.zone or Zone(are_open if lasting else [])
        block.zone = zone
        if not lasting:
            for at, task in are_open:
                tasks[at] = task
        for at, _ in zone.open:  # it may have finished since, but what was looked at before does not know of it
            tasks[at] = _NOBODY
        unknown = [at for at, task in enumerate(tasks) if task is _NOBODY]
        for field in times:
            if field not in zone.times:
                zone.times[field] = Times(tasks, field)
        for field in facets:
            if field not in zone.codes:
                zone.codes[field] = Codes(tasks, field, unknown)
        zone.complete = len(zone.times) == len(ZONE_MAPPED_TIMES) and len(zone.codes) == len(ZONE_MAPPED_VALUES)
        return zone


def _pick(block: Block, zone: Zone, asked: Asked) -> list[Entry]:
    bits = -1
    for field, bounds in asked.ranges.items():
        bits &= zone.times[field].select(*bounds)
    for field, value in asked.values:
        bits &= zone.codes[field].select(value)
    if bits == -1:
        return block.cut()
    match = asked.match
    hits = [at for at, task in zone.open if match(task)]
    if not bits and not hits:
        return []
    selected = bytearray(bits.to_bytes(len(block)))
    for at in hits:
        selected[at] = 1
    if 2 * selected.count(1) > len(block):
        return list(compress(block, selected))
    keys, ids = block.keys, block.ids
    return [(keys[at], ids[at]) for at in compress(range(len(ids)), selected)]
