"""Indexes: the orders and groups of tasks by which `finder.py` answers without looking at every task.

Tasks that change are only noted; `flush` indexes them together, so a task that saw four events since the last flush
is indexed once. `tidy` drops what went stale, a little at a time. Event loop only.
"""

from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from itertools import islice
from operator import attrgetter
from typing import Any, Final

from ..outcomes import ORPHANED
from ..records import Task
from .ordering import BLOCK, Entry, Ordering
from .store import TaskStore
from .zones import Zones

Value = str | int | None
Get = Callable[[Task], Any]

#: What the tasks that have changed since a walk began were like then, by id; None for one that was not there.
Before = dict[str, Task | None]

#: The fields by whose value tasks are grouped, each group in the order of `timestamp`.
FACETS: Final = ("state", "name", "worker", "retries", "queue", "root_id", "parent_id")

#: The facets without a group for the tasks that lack a value: nothing is sorted by them.
_SPARSE: Final = frozenset({"queue", "root_id", "parent_id"})

#: The fields by which tasks are ordered, besides `timestamp` and the facets.
ORDERS: Final = ("received", "started", "succeeded", "failed", "runtime")

#: So many changed tasks are indexed together at the most, which bounds how long a question waits for them.
FLUSH_AT: Final = 200

#: Entries that are looked at for staleness for each task that is indexed, and once the indexes have grown stale
#: faster than idle moments can tidy them. A new task has up to 17 entries; as 32 are far more, memory is bounded.
_TIDY_PER_TASK: Final = 1
_TIDY_PER_TASK_PRESSED: Final = 32

#: The indexes are pressed once this many times as many tasks as are held have been created or have changed since
#: everything was last swept.
_PRESSED: Final = 6

#: What it costs to visit a group, in entries looked at: most are small.
_VISIT: Final = 8


class ByTime(Ordering):
    """All tasks by `timestamp`."""

    __slots__ = ("tasks",)

    def __init__(self, tasks: TaskStore) -> None:
        super().__init__()
        self.tasks = tasks

    def fresh(self, entries: list[Entry]) -> list[Entry]:
        """Keep the entries whose task still has that `timestamp`."""
        finished, unfinished = self.tasks.finished.get, self.tasks.unfinished.get
        return [e for e in entries if (t := finished(e[1]) or unfinished(e[1])) and t.timestamp == e[0]]

    def says(self, entry: Entry, task: Task) -> bool:
        """Tell whether the task has that `timestamp`."""
        return bool(task.timestamp == entry[0])


class Group(Ordering):
    """The tasks that share one value of a facet, by `timestamp`."""

    __slots__ = ("field", "get", "tasks", "value")

    def __init__(self, tasks: TaskStore, field: str, get: Get, value: Value) -> None:
        super().__init__()
        self.tasks = tasks
        self.field = field
        self.get = get
        self.value = value

    def fresh(self, entries: list[Entry]) -> list[Entry]:
        """Keep the entries whose task still has that `timestamp` and this value."""
        finished, unfinished = self.tasks.finished.get, self.tasks.unfinished.get
        get, value = self.get, self.value
        return [
            e
            for e in entries
            if (t := finished(e[1]) or unfinished(e[1])) and t.timestamp == e[0] and get(t) == value
        ]

    def says(self, entry: Entry, task: Task) -> bool:
        """Tell whether the task has that `timestamp` and this value."""
        return bool(task.timestamp == entry[0] and self.get(task) == self.value)


class Known(Ordering):
    """The tasks that have a value in one field, by it."""

    __slots__ = ("append", "field", "get", "is_scattered", "tasks")

    def __init__(self, tasks: TaskStore, field: str) -> None:
        super().__init__()
        self.tasks = tasks
        self.field = field
        self.is_scattered = field == "runtime"
        self.get: Get = attrgetter(field)
        #: Add one entry. It is settled by the next flush, so that this costs no more than appending to a list.
        self.append = self.recent.append

    def fresh(self, entries: list[Entry]) -> list[Entry]:
        """Keep the entries whose task still has that value."""
        finished, unfinished, get = self.tasks.finished.get, self.tasks.unfinished.get, self.get
        return [e for e in entries if (t := finished(e[1]) or unfinished(e[1])) and get(t) == e[0]]

    def says(self, entry: Entry, task: Task) -> bool:
        """Tell whether the task has that value."""
        return bool(self.get(task) == entry[0])


class Missing(Ordering):
    """The tasks that lack a value in one field, by `born`: so one that was evicted and comes back is there once."""

    __slots__ = ("get", "tasks")

    def __init__(self, tasks: TaskStore, field: str) -> None:
        super().__init__()
        self.tasks = tasks
        self.get: Get = attrgetter(field)

    def add(self, tasks: list[Task], entries: list[Entry]) -> None:
        """Add the entries of those tasks that lack the value so far; later they can only get one."""
        self.extend([entry for value, entry in zip(map(self.get, tasks), entries, strict=True) if value is None])

    def fresh(self, entries: list[Entry]) -> list[Entry]:
        """Keep the entries whose task still lacks the value."""
        finished, unfinished, get = self.tasks.finished.get, self.tasks.unfinished.get, self.get
        return [e for e in entries if (t := finished(e[1]) or unfinished(e[1])) and t.born == e[0] and get(t) is None]

    def says(self, entry: Entry, task: Task) -> bool:
        """Tell whether the task lacks the value."""
        return bool(task.born == entry[0] and self.get(task) is None)


class Facet:
    """The groups of one field."""

    __slots__ = ("field", "get", "groups", "tasks")

    def __init__(self, tasks: TaskStore, field: str) -> None:
        self.tasks = tasks
        self.field = field
        self.get: Get = attrgetter(field)
        self.groups: dict[Value, Group] = {}

    def add(self, tasks: list[Task], entries: list[Entry]) -> Iterator[Group]:
        """Put each task's entry into the group of its value; yield the groups that grew."""
        added: dict[Value, list[Entry]] = {}
        for value, entry in zip(map(self.get, tasks), entries, strict=True):
            try:
                added[value].append(entry)
            except KeyError:
                added[value] = [entry]
        if self.field in _SPARSE:
            added.pop(None, None)
        for value, group_entries in added.items():
            group = self.groups.get(value)
            if group is None:
                group = self.groups[value] = self.new_group(value)
            group.extend(group_entries)
            yield group

    def new_group(self, value: Value) -> Group:
        """Make a group without putting it in its place."""
        return Group(self.tasks, self.field, self.get, value)

    def drop(self, group: Group) -> None:
        """Forget a group in which nothing is left."""
        if not group and self.groups.get(group.value) is group:
            del self.groups[group.value]


class RootFacet(Facet):
    """The groups of `root_id`. A task that is its own and nobody else's root, as most are, needs no group."""

    __slots__ = ()

    def add(self, tasks: list[Task], entries: list[Entry]) -> Iterator[Group]:
        """Put the entries of all tasks that have a root with other tasks into the root's group."""
        groups = self.groups
        kin = [
            (task, entry)
            for task, entry in zip(tasks, entries, strict=True)
            if task.root_id is not None and (task.root_id != task.uuid or task.uuid in groups)
        ]
        return super().add([task for task, _ in kin], [entry for _, entry in kin])

    def new_group(self, value: Value) -> Group:
        """Make a group that has the root itself in it, if that is held."""
        group = super().new_group(value)
        root = self.tasks.get(str(value))
        if root is not None and root.timestamp is not None:
            group.extend([(root.timestamp, root.uuid)])
        return group


class Indexes:
    """What State keeps beside its tasks to find them."""

    def __init__(self, tasks: TaskStore) -> None:
        self._tasks = tasks
        self.by_time = ByTime(tasks)
        self.zones = Zones(tasks)
        self.facets = {
            field: RootFacet(tasks, field) if field == "root_id" else Facet(tasks, field) for field in FACETS
        }
        self.known = {field: Known(tasks, field) for field in ORDERS}
        self.missing = {field: Missing(tasks, field) for field in ORDERS}
        self.orphaned = Group(
            tasks, "reconciled", attrgetter("reconciled"), ORPHANED
        )  # an event ends it: no flush has to look
        self.changed: dict[str, Task] = {}
        self.created: list[Task] = []
        self.walks: dict[int, Before] = {}
        self.tidied = True
        self.owed = 0  # entries to look at that the flushes have left to `pay`
        self._unswept = 0  # tasks that were created or have changed since the last sweep of everything began
        self._due: deque[Ordering] = deque()
        self._sweeps = self._sweep_forever()

    def flush(self) -> None:
        """Index what has changed since the last flush."""
        if not self.changed:
            self._shelve()  # tasks that have been evicted, all of them
            return
        tasks = list(self.changed.values())
        indexed = len(tasks) + len(self.created)
        entries: list[Entry] = [(task.timestamp, task.uuid) for task in tasks]
        grown: list[Ordering] = [self.by_time, *self.known.values()]
        self.by_time.extend(entries)
        for known in self.known.values():
            known.extend([])
        for facet in self.facets.values():
            grown += facet.add(tasks, entries)
        if self.created:
            entries = [(task.born, task.uuid) for task in self.created]
            for missing in self.missing.values():
                missing.add(self.created, entries)
            grown += self.missing.values()
            self._shelve()
        self.changed.clear()
        for ordering in grown:
            if ordering.wants_sweep:
                ordering.sweeping = True
                self._due.append(ordering)
        self._unswept += indexed
        self.tidied = False
        pressed = self._unswept > _PRESSED * len(self._tasks) + FLUSH_AT
        self.owed += (_TIDY_PER_TASK_PRESSED if pressed else _TIDY_PER_TASK) * indexed

    def _shelve(self) -> None:
        if self.created:
            self._tasks.shelve(self.created)
            self.created = []

    def remember(self, task_id: str, task: Task | None) -> None:
        """Let every walk know what a task is like, None for not there, before it is made, changes or is evicted."""
        unaware = [before for before in self.walks.values() if task_id not in before]
        if unaware:
            was = None if task is None else copy(task)
            for before in unaware:
                before[task_id] = was

    def pay(self) -> None:
        """Do a share of the tidying that is owed: all at once would hold up too much else."""
        share = max(BLOCK, self.owed // 8)
        self.owed = max(0, self.owed - share)
        self.tidy(share)

    def tidy(self, entries: int) -> None:
        """Look at about so many entries for stale ones to drop; `tidied` tells when there is no more to look at."""
        while entries > 0 and not self.tidied:
            entries -= next(self._sweeps)

    def zone_blocks(self, count: int, sparing: int = 0) -> int:
        """Complete the zones of up to `count` more blocks by time, the last `sparing` left out; tell how many."""
        blocks = self.by_time.blocks[: len(self.by_time.blocks) - sparing]
        blocks = list(islice((b for b in blocks if b.zone is None or not b.zone.complete), count))
        for block in blocks:
            self.zones.complete(block)
        return len(blocks)

    def _sweep_forever(self) -> Iterator[int]:
        """Sweep what is due; then everything in turn, if anything has changed since the last time."""
        while True:
            yield from self._sweep_due()
            if self._unswept:
                swept = self._unswept
                yield from self._sweep_all()
                self._unswept -= swept
            else:
                self.tidied = True
                yield 1

    def _sweep_due(self) -> Iterator[int]:
        while self._due:
            yield from self._due.popleft().sweep()

    def _sweep_all(self) -> Iterator[int]:
        for ordering in (self.by_time, self.orphaned, *self.known.values(), *self.missing.values()):
            yield from ordering.sweep()
            yield from self._sweep_due()
        for facet in self.facets.values():
            for group in list(facet.groups.values()):
                yield from group.sweep()
                facet.drop(group)
                yield _VISIT
            yield from self._sweep_due()
