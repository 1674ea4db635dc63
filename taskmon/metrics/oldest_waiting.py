"""Waiting: of each queue the oldest task that was sent and that no worker has received. Event loop only.

To note a task costs an append; the rest is done for many at a time. A task that is received is not looked for:
whatever stands first in its line, or is come upon by a sweep, is dropped once it waits no more.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Final

from celery.states import PENDING

from ..errors import UnknownTask
from ..monitor.state import State
from ..records import Task
from .labels import OTHER

#: So many queues have a line of their own; the others share one.
MAX_LINES: Final = 1_000

#: So many tasks are noted before they are put in line.
SORT_AT: Final = 1_000

# Entries looked at for each that is added: as they are 2, no more than half of the entries are stale for long.
_SWEEP: Final = 2
_BLOCK: Final = 1_000
_MAX_NAME_LENGTH: Final = 255

_Entry = tuple[float, Task]


def _waiting(entries: list[_Entry]) -> list[_Entry]:
    """Keep the tasks that are as they were when they were sent: nothing came since, nor were they sent again."""
    return [entry for entry in entries if entry[1].state == PENDING and entry[1].sent == entry[0]]


class _Line:
    """The tasks of one queue in the order of their events, in blocks: those that a sweep has passed come first."""

    __slots__ = ("ahead", "passed")

    def __init__(self) -> None:
        self.passed: deque[list[_Entry]] = deque()
        self.ahead: deque[list[_Entry]] = deque()

    def __len__(self) -> int:
        return sum(map(len, self.passed)) + sum(map(len, self.ahead))

    def add(self, entries: list[_Entry]) -> None:
        """Let tasks queue up, and drop about as many that wait no more, if there are."""
        self.ahead.append(entries)
        left = _SWEEP * len(entries)
        while left > 0 and (self.ahead or self.passed):
            if not self.ahead:
                self.passed, self.ahead = self.ahead, self.passed
            block = self.ahead.popleft()
            left -= len(block)
            self._pass(_waiting(block))

    def _pass(self, block: list[_Entry]) -> None:
        if self.passed and len(self.passed[-1]) + len(block) <= _BLOCK:
            self.passed[-1].extend(block)
        elif block:
            self.passed.append(block)

    def first(self, is_evicted: Callable[[Task], bool]) -> float | None:
        """Tell when the task was sent that waits longest. One that State has evicted may long have ended."""
        for blocks in (self.passed, self.ahead):
            while blocks:
                block = blocks[0] = _waiting(blocks[0])
                if block and is_evicted(block[0][1]):
                    # State evicts in the same order, so there is no need to ask it of each.
                    del block[: bisect_left(block, True, key=lambda entry: not is_evicted(entry[1]))]
                if block:
                    return block[0][0]
                blocks.popleft()
        return None


class Waiting:
    """The lines of all queues. `note` takes every task of a `task-sent`."""

    def __init__(self, state: State) -> None:
        self.fresh: list[Task] = []
        self.note = self.fresh.append
        self._state = state
        self._lines: dict[str, _Line] = {}

    def settle(self) -> None:
        """Put what was noted in line, and drop what waits no more."""
        if len(self._lines) >= MAX_LINES:
            self._lines = {name: line for name, line in self._lines.items() if line}
        entries = [(sent, task) for task in self.fresh if task.state == PENDING and (sent := task.sent) is not None]
        entries.sort(key=itemgetter(0))  # one that was sent again meanwhile is not where it was
        added: dict[str, list[_Entry]] = {}
        for entry in entries:
            queue = entry[1].queue
            if queue in added:
                added[queue].append(entry)
            elif queue is not None:
                added[queue] = [entry]
        self.fresh.clear()
        for queue, more in added.items():
            line = self._line(queue)
            line.add(more)
            line.first(self._is_evicted)

    def oldest(self) -> Iterator[tuple[str, float | None]]:
        """Yield each queue with the time, by its sender's clock, when the task was sent that waits longest there."""
        self.settle()
        for name, line in self._lines.items():
            yield name, line.first(self._is_evicted)

    def _line(self, queue: str) -> _Line:
        """Give the line for a queue; one for all those for which there is no room."""
        if queue not in self._lines and (len(queue) > _MAX_NAME_LENGTH or len(self._lines) >= MAX_LINES):
            queue = OTHER
        return self._lines.setdefault(queue, _Line())

    def _is_evicted(self, task: Task) -> bool:
        """Tell whether State no longer holds a task."""
        try:
            return self._state.get(task.uuid) is not task
        except UnknownTask:
            return True
