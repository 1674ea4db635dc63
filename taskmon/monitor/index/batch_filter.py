"""Look: which of some tasks match a query, a few milliseconds' worth at a time. Event loop only."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Final

from ...records import Task
from ..query import Match
from .prefilter import Sieve, let_all, let_none
from .texts import TooLong

#: Tasks that are looked at together at first, and at the most: more would not save any more time.
_FIRST: Final = 256
_MOST: Final = 1024

#: How long a look at some tasks may take before fewer, and more, are looked at the next time, in seconds.
_LONG: Final = 0.003
_SHORT: Final = 0.001


class Look:
    """Looks at tasks, through a sieve if there is one: long texts make it take fewer of them at a time."""

    def __init__(self, match: Match, sieve: Sieve | None, is_slow: bool) -> None:
        self._match = match
        self._sift = let_all if sieve is None else sieve.sift
        self._is_slow = is_slow
        self._size = _FIRST
        self.groups = () if sieve is None else sieve.groups

    @property
    def is_vain(self) -> bool:
        """Whether no task can match."""
        return self._sift is let_none

    def through(self, tasks: Sequence[Task]) -> Iterator[list[Task]]:
        """Yield the tasks that match, in their order, some at a time."""
        at = 0
        while at < len(tasks):
            part = list(tasks[at : at + self._size])
            began = perf_counter()
            try:
                let = self._sift(part)
            except TooLong:
                self._size = max(1, len(part) // 2)
                yield []
                continue
            at += len(part)
            took = perf_counter() - began
            if took > _LONG:
                self._size = max(1, self._size // 2)
            elif took < _SHORT:
                self._size = min(self._size + self._size // 4 + 1, _MOST)
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
            if perf_counter() - began > _LONG:
                yield found
                found, began = [], perf_counter()
        yield found
