"""What the tasks of a block have in one field: a byte for each of them, so that all are compared at once. Pure."""

from functools import lru_cache
from operator import attrgetter
from typing import Final

from ...records import Task

Value = str | int | None

#: The largest code: so many values of one facet fit into a block, and into so many parts it cuts the span of a time.
_MAX_BUCKET: Final = 255

#: For each code the table that makes 1 of it, and 0 of any other.
_ONLY: Final = [bytes(code == other for other in range(_MAX_BUCKET + 1)) for code in range(_MAX_BUCKET + 1)]

#: Times that lie closer together, in seconds, are not told apart.
_INSTANT: Final = 1e-6


class TimeBuckets:
    """A time of a block's tasks: a code for each place, the larger the later; 0 where there is none."""

    __slots__ = ("buckets", "first", "has_gaps", "last", "scale")

    def __init__(self, tasks: list[Task], field: str) -> None:
        times: list[float | None] = list(map(attrgetter(field), tasks))
        known = [time for time in times if time is not None]
        first, last = (min(known), max(known)) if known else (0.0, -1.0)
        scale = (_MAX_BUCKET - 1) / (last - first) if last - first > _INSTANT else 0.0
        self.first, self.last, self.scale = first, last, scale
        self.buckets = bytes([0 if time is None else 1 + int((time - first) * scale) for time in times])
        self.has_gaps = len(known) < len(times)

    def select(self, low: float | None, high: float | None) -> int:
        """Give a byte of 1 for each place whose time may be within the bounds, of 0 for any other; -1 for all."""
        first, last = self.first, self.last
        if first > last or (low is not None and low > last) or (high is not None and high < first):
            return 0
        start = 1 if low is None or low <= first else 1 + int((low - first) * self.scale)
        stop = _MAX_BUCKET if high is None or high >= last else 1 + int((high - first) * self.scale)
        if start > stop:
            return 0
        if start == 1 and stop == _MAX_BUCKET and not self.has_gaps:
            return -1
        return int.from_bytes(
            self.buckets.translate(bytes(start) + b"\1" * (stop + 1 - start) + bytes(_MAX_BUCKET - stop))
        )


class ValueBuckets:
    """The values of a facet in a block: a code for each place, and the code of each value; none for too many."""

    __slots__ = ("buckets", "table")

    def __init__(self, tasks: list[Task], field: str, unknown: list[int]) -> None:
        values: list[Value] = list(map(attrgetter(field), tasks))
        distinct = frozenset(values)
        self.table: dict[Value, int] | None = None
        self.buckets = b""
        if len(distinct) <= _MAX_BUCKET:
            self.table = _table(distinct)
            buckets = bytearray(map(self.table.__getitem__, values))
            for at in unknown:
                buckets[at] = 0
            self.buckets = bytes(buckets)

    def select(self, value: str) -> int:
        """Give a byte of 1 for each place that may have the value, of 0 for any other; -1 for all."""
        if self.table is None:
            return -1
        code = self.table.get(value)
        return 0 if code is None else int.from_bytes(self.buckets.translate(_ONLY[code]))


@lru_cache(maxsize=256)
def _table(values: frozenset[Value]) -> dict[Value, int]:
    """Give each value a code: one table for all blocks with the same values, as a rule most of them."""
    return {value: code for code, value in enumerate(values, 1)}
