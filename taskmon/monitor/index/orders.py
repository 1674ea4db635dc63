"""The orders of all tasks: by `timestamp`, and by each field that tasks have or lack. Event loop only."""

from collections.abc import Callable
from itertools import compress
from operator import attrgetter
from typing import Any

from ...records import Task
from .blocks import Entry
from .ordering import Ordering
from .store import TaskStore

Get = Callable[[Task], Any]


class ByTime(Ordering):
    """All tasks by `timestamp`."""

    __slots__ = ()

    def __init__(self, tasks: TaskStore) -> None:
        super().__init__(tasks)

    def fresh(self, entries: list[Entry]) -> list[Entry]:
        """Keep the entries whose task still has that `timestamp`."""
        finished, unfinished = self.tasks.finished.get, self.tasks.unfinished.get
        return [e for e in entries if (t := finished(e[1]) or unfinished(e[1])) and t.timestamp == e[0]]

    def says(self, entry: Entry, task: Task) -> bool:
        """Tell whether the task has that `timestamp`."""
        return bool(task.timestamp == entry[0])


class Known(Ordering):
    """The tasks that have a value in one field, by it."""

    __slots__ = ("field", "get")

    def __init__(self, tasks: TaskStore, field: str) -> None:
        super().__init__(tasks)
        self.field = field
        self.get: Get = attrgetter(field)

    def key_of(self, task: Task) -> float | None:
        """Give the key of the entry that a task has here, None where it has none."""
        key: float | None = self.get(task)
        return key

    def fresh(self, entries: list[Entry]) -> list[Entry]:
        """Keep the entries whose task still has that value."""
        finished, unfinished, get = self.tasks.finished.get, self.tasks.unfinished.get, self.get
        return [e for e in entries if (t := finished(e[1]) or unfinished(e[1])) and get(t) == e[0]]

    def most_stale(self) -> int:
        """Tell how many entries may have gone stale: any, as events add entries here before a task is indexed."""
        return len(self)

    def says(self, entry: Entry, task: Task) -> bool:
        """Tell whether the task has that value."""
        return bool(self.get(task) == entry[0])


class Missing(Ordering):
    """The tasks that lack a value in one field, by `born`: so one that was evicted and comes back is there once."""

    __slots__ = ("get",)

    def __init__(self, tasks: TaskStore, field: str) -> None:
        super().__init__(tasks)
        self.get: Get = attrgetter(field)

    def note(self, tasks: list[Task], born: list[float], ids: list[str]) -> None:
        """Add the entries of those tasks that lack the value so far; later they can only get one."""
        values = list(map(self.get, tasks))
        lacking = values.count(None)
        if lacking == len(tasks):
            self.extend(born, ids)
        elif lacking:
            chosen = [value is None for value in values]
            self.extend(list(compress(born, chosen)), list(compress(ids, chosen)))

    def key_of(self, task: Task) -> float | None:
        """Give the key of the entry that a task has here, None where it has none."""
        return task.born if self.get(task) is None else None

    def fresh(self, entries: list[Entry]) -> list[Entry]:
        """Keep the entries whose task still lacks the value."""
        finished, unfinished, get = self.tasks.finished.get, self.tasks.unfinished.get, self.get
        return [e for e in entries if (t := finished(e[1]) or unfinished(e[1])) and t.born == e[0] and get(t) is None]

    def says(self, entry: Entry, task: Task) -> bool:
        """Tell whether the task lacks the value."""
        return bool(task.born == entry[0] and self.get(task) is None)
