"""Look: which of some tasks match a query, a few milliseconds' worth at a time. Event loop only."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Final, TypeVar

from ..query import Match
from ..records import Task
from .sieve import Sieve, let_none

Item = TypeVar("Item")

#: Tasks that are looked at together at first, and at the most: more would not save any more time.
_FIRST: Final = 256
_MOST: Final = 1024

#: How long a look at some tasks may take before fewer, and more, are looked at the next time, in seconds.
_LONG: Final = 0.003
_SHORT: Final = 0.001


class Look:
    """Looks at tasks, through a sieve if there is one: long texts make it take fewer of them at a time."""

    def __init__(self, match: Match, sieve: Sieve | None = None) -> None:
        self._match = match
        self.sieve = sieve
        self._size = _FIRST

    @property
    def is_vain(self) -> bool:
        """Whether no task can match."""
        return self.sieve is not None and self.sieve.sift is let_none

    def parts(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """Cut items, each of which stands for a task, into as many as may be looked at together."""
        at = 0
        while at < len(items):
            part = items[at : at + self._size]
            at += len(part)
            yield part

    def __call__(self, tasks: list[Task]) -> list[Task]:
        """Give the tasks that match, in their order."""
        began = perf_counter()
        match = self._match
        if self.sieve is not None:
            tasks = self.sieve.sift(tasks)
        found = [task for task in tasks if match(task)]
        took = perf_counter() - began
        if took > _LONG:
            self._size = max(1, int(self._size * _SHORT / took))
        elif took < _SHORT:
            self._size = min(2 * self._size, _MOST)
        return found
