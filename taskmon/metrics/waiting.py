"""Waiting: of each queue the oldest task that was sent and that no worker has received. Event loop only.

To note a task costs an append; the rest is done for many at a time. A task that is received is not looked for:
whatever stands first in its line, or is come upon by a sweep, is dropped once it waits no more.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final

from celery.states import PENDING

from taskmon.errors import UnknownTask
from taskmon.records import Task

from .labels import OTHER
from .views import StateView

#: So many queues have a line of their own; the others share one.
MAX_LINES: Final = 1_000

#: So many tasks are noted before they are put in line.
SETTLE_AT: Final = 1_000

# Entries looked at for each that is added: as they are 2, no more than half of the entries are stale for long.
_SWEEP: Final = 2
_LONGEST_NAME: Final = 255

_Entry = tuple[float, Task]


def _waits(entry: _Entry) -> bool:
    """Tell whether a task still is as it was when it was sent: nothing came since, it was not sent again."""
    sent, task = entry
    return task.state == PENDING and task.sent == sent


class _Line:
    """The tasks of one queue in the order of their events, those that a sweep has passed before those ahead of it."""

    __slots__ = ("ahead", "passed")

    def __init__(self) -> None:
        self.passed: deque[_Entry] = deque()
        self.ahead: deque[_Entry] = deque()

    def __len__(self) -> int:
        return len(self.passed) + len(self.ahead)

    def sweep(self, count: int) -> None:
        """Look at so many entries and drop those that wait no more."""
        for _ in range(min(count, len(self))):  # each drops one entry at the most
            if not self.ahead:
                self.passed, self.ahead = self.ahead, self.passed
            entry = self.ahead.popleft()
            if _waits(entry):
                self.passed.append(entry)

    def first(self, state: StateView) -> float | None:
        """Tell when the task was sent that waits longest. One that State has evicted may long have ended."""
        for entries in (self.passed, self.ahead):
            while entries:
                if _waits(entries[0]) and _holds(state, entries[0][1]):
                    return entries[0][0]
                entries.popleft()
        return None


class Waiting:
    """The lines of all queues. `note` takes every task of a `task-sent`."""

    def __init__(self, state: StateView) -> None:
        self.fresh: list[Task] = []
        self.note = self.fresh.append
        self._state = state
        self._lines: dict[str, _Line] = {}

    def settle(self) -> None:
        """Put what was noted in line, and drop what waits no more."""
        if len(self._lines) >= MAX_LINES:
            self._lines = {name: line for name, line in self._lines.items() if line}
        added: dict[str, int] = {}
        for task in [task for task in self.fresh if task.state == PENDING]:  # mostly a few of them
            if task.sent is not None and task.queue is not None:
                name = self._name(task.queue)
                self._lines[name].ahead.append((task.sent, task))
                added[name] = added.get(name, 0) + 1
        self.fresh.clear()
        for name, count in added.items():
            self._lines[name].sweep(_SWEEP * count)
            self._lines[name].first(self._state)

    def oldest(self) -> Iterator[tuple[str, float | None]]:
        """Yield each queue with the time, by its sender's clock, when the task was sent that waits longest there."""
        self.settle()
        for name, line in self._lines.items():
            yield name, line.first(self._state)

    def _name(self, queue: str) -> str:
        """Give the name of the line for a queue, and make that line if there is room."""
        if queue not in self._lines:
            if len(queue) > _LONGEST_NAME or len(self._lines) >= MAX_LINES:
                queue = OTHER
            self._lines.setdefault(queue, _Line())
        return queue


def _holds(state: StateView, task: Task) -> bool:
    try:
        return state.get(task.uuid) is task
    except UnknownTask:
        return False
