"""Look: which of some tasks match a query, a few milliseconds' worth at a time. Event loop only."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Final

from ...records import Task
from ..query import Match
from .prefilter import Prefilter, let_all, let_none
from .texts import TooLong

#: Tasks that are looked at together at first, and at the most: more would not save any more time.
_MIN_BATCH: Final = 256
_MAX_BATCH: Final = 1024

#: How long a look at some tasks may take before fewer, and more, are looked at the next time, in seconds.
_TARGET_MAX: Final = 0.003
_TARGET_MIN: Final = 0.001


class BatchFilter:
    """Looks at tasks, through a prefilter if there is one: long texts make it take fewer of them at a time."""

    def __init__(self, match: Match, prefilter: Prefilter | None, is_slow: bool) -> None:
        self._match = match
        self._select = let_all if prefilter is None else prefilter.select
        self._is_slow = is_slow
        self._size = _MIN_BATCH
        self.groups = () if prefilter is None else prefilter.groups

    @property
    def is_vain(self) -> bool:
        """Whether no task can match."""
        return self._select is let_none

    def through(self, tasks: Sequence[Task]) -> Iterator[list[Task]]:
        """Yield the tasks that match, in their order, some at a time."""
        at = 0
        while at < len(tasks):
            part = list(tasks[at : at + self._size])
            began = perf_counter()
            try:
                let = self._select(part)
            except TooLong:
                self._size = max(1, len(part) // 2)
                yield []
                continue
            at += len(part)
            took = perf_counter() - began
            if took > _TARGET_MAX:
                self._size = max(1, self._size // 2)
            elif took < _TARGET_MIN:
                self._size = min(self._size + self._size // 4 + 1, _MAX_BATCH)
            yield from self._matching(let, began)

    def _matching(self, tasks: list[Task], began: float) -> Iterator[list[Task]]:
        match = self._match
        if not self._is_slow:
            yield [task for task in tasks if match(task)]
            return
        found = []
        for task in tasks:
            if match(task):
                found.append(task)
            if perf_counter() - began > _TARGET_MAX:
                yield found
                found, began = [], perf_counter()
        yield found
