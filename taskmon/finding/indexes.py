"""Indexes: the orders and groups of tasks by which `finder.py` answers without looking at every task.

Tasks that change are only noted; they are indexed some at a time, as a rule once they have finished, so that a task
which saw four events is indexed once. Whoever asks has to `flush` first. `tidy` drops what went stale, a little at a
time. Event loop only.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from itertools import compress, islice
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

#: So many tasks are indexed together, which bounds how long others wait.
FLUSH_AT: Final = 200

#: So many tasks that have not finished wait until they do, or until somebody asks: each is indexed once then, and not
#: once an event.
LINGER: Final = 6_000

#: Entries that are looked at for staleness, for each task that is indexed, while a sweep is due that cannot wait for
#: an idle moment. A new task has up to 17 entries; as 32 are far more, memory is bounded.
_TIDY_PER_TASK: Final = 32

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

    __slots__ = ("field", "get", "tasks")

    def __init__(self, tasks: TaskStore, field: str) -> None:
        super().__init__()
        self.tasks = tasks
        self.field = field
        self.get: Get = attrgetter(field)

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

    def note(self, tasks: list[Task], born: list[float], ids: list[str]) -> None:
        """Add the entries of those tasks that lack the value so far; later they can only get one."""
        lacking = [value is None for value in map(self.get, tasks)]
        if all(lacking):
            self.extend(born, ids)
        elif any(lacking):
            self.extend(list(compress(born, lacking)), list(compress(ids, lacking)))

    def fresh(self, entries: list[Entry]) -> list[Entry]:
        """Keep the entries whose task still lacks the value."""
        finished, unfinished, get = self.tasks.finished.get, self.tasks.unfinished.get, self.get
        return [e for e in entries if (t := finished(e[1]) or unfinished(e[1])) and t.born == e[0] and get(t) is None]

    def says(self, entry: Entry, task: Task) -> bool:
        """Tell whether the task lacks the value."""
        return bool(task.born == entry[0] and self.get(task) is None)


class Facet:
    """The groups of one field."""

    __slots__ = ("field", "get", "groups", "grown", "kept", "sweeping", "tasks")

    def __init__(self, tasks: TaskStore, field: str) -> None:
        self.tasks = tasks
        self.field = field
        self.get: Get = attrgetter(field)
        self.groups: dict[Value, Group] = {}
        self.grown = 0  # entries added since the last sweep
        self.kept = 0  # entries that it kept
        self.sweeping = False

    @property
    def wants_sweep(self) -> bool:
        """Tell whether as many entries have come since the last sweep as it kept: small groups never want one."""
        return not self.sweeping and self.grown > self.kept + BLOCK

    def add(self, tasks: list[Task], keys: list[float], ids: list[str]) -> Iterable[Group]:
        """Put each task's entry into the group of its value; give the groups that grew."""
        values = list(map(self.get, tasks))
        if not values or values.count(values[0]) == len(values):
            return self._add_to_one(values[0], keys, ids) if values else ()
        return self._add_to_many(values, keys, ids)

    def _add_to_one(self, value: Value, keys: list[float], ids: list[str]) -> Iterable[Group]:
        if value is None and self.field in _SPARSE:
            return ()
        self.grown += len(ids)
        group = self.groups.get(value) or self._make_group(value)
        group.extend(keys, ids)
        return (group,)

    def _add_to_many(self, values: list[Value], keys: list[float], ids: list[str]) -> Iterable[Group]:
        self.grown += len(ids)
        added: dict[Value, tuple[list[float], list[str]]] = {}
        for value, key, task_id in zip(values, keys, ids, strict=True):
            try:
                value_keys, value_ids = added[value]
            except KeyError:
                added[value] = [key], [task_id]
            else:
                value_keys.append(key)
                value_ids.append(task_id)
        if self.field in _SPARSE:
            added.pop(None, None)
        groups = [self.groups.get(value) or self._make_group(value) for value in added]
        for group, entries in zip(groups, added.values(), strict=True):
            group.extend(*entries)
        return groups

    def _make_group(self, value: Value) -> Group:
        group = self.groups[value] = self.new_group(value)
        return group

    def new_group(self, value: Value) -> Group:
        """Make a group without putting it in its place."""
        return Group(self.tasks, self.field, self.get, value)

    def sweep(self) -> Iterator[int]:
        """Sweep every group, and forget those in which nothing is left; each step yields what it cost."""
        self.sweeping = True
        grown = self.grown
        kept = 0
        for group in list(self.groups.values()):
            yield from group.sweep()
            if group:
                kept += len(group)
            elif self.groups.get(group.value) is group:
                del self.groups[group.value]
            yield _VISIT
        self.grown -= grown
        self.kept = kept
        self.sweeping = False


class RootFacet(Facet):
    """The groups of `root_id`. A task that is its own and nobody else's root, as most are, needs no group."""

    __slots__ = ()

    def add(self, tasks: list[Task], keys: list[float], ids: list[str]) -> Iterable[Group]:
        """Put the entries of all tasks that have a root with other tasks into the root's group."""
        groups = self.groups
        places = [
            at
            for at, task in enumerate(tasks)
            if (root := task.root_id) is not None and (root != task.uuid or root in groups)
        ]
        if not places:
            return ()
        return super().add([tasks[at] for at in places], [keys[at] for at in places], [ids[at] for at in places])

    def new_group(self, value: Value) -> Group:
        """Make a group that has the root itself in it, if that is held."""
        group = super().new_group(value)
        root = self.tasks.get(str(value))
        if root is not None and root.timestamp is not None:
            group.add(root.timestamp, root.uuid)
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
        # What waits to be indexed, by id: tasks that have finished, others that have changed, and all new ones.
        self.ended: dict[str, Task] = {}
        self.changed: dict[str, Task] = {}
        self.created: dict[str, Task] = {}
        self.walks: dict[int, Before] = {}
        self.tidied = True
        self.owed = 0  # entries to look at that the flushes have left to `pay`
        self._unswept = 0  # tasks that were created or have changed since the last sweep of everything began
        self._large = (self.by_time, self.orphaned, *self.known.values(), *self.missing.values())
        self._due: deque[Ordering | Facet] = deque()
        self._sweeps = self._sweep_forever()

    def flush(self) -> None:
        """Index all that has changed."""
        while self.flush_some():
            pass

    def flush_some(self) -> bool:
        """Index some of what has changed, what finished first; tell whether more is left."""
        self._index(list(islice((self.ended or self.changed).values(), FLUSH_AT)))
        return bool(self.ended or self.changed)

    def load(self, tasks: list[Task]) -> None:
        """Index new tasks all at once."""
        self.created.update([(task.uuid, task) for task in tasks])
        self._index(tasks)

    def _index(self, tasks: list[Task]) -> None:
        if not tasks:
            return
        ids = [task.uuid for task in tasks]
        for task_id in ids:
            self.ended.pop(task_id, None)
            self.changed.pop(task_id, None)
        keys: list[Any] = [task.timestamp for task in tasks]
        self.by_time.extend(keys, ids)
        for known in self.known.values():
            known.extend([], [])
        grown: list[Ordering | Facet] = [*self._large, *self.facets.values()]
        for facet in self.facets.values():
            grown += facet.add(tasks, keys, ids)
        created = self._index_created(ids)
        for swept in grown:
            if swept.wants_sweep:
                swept.sweeping = True
                self._due.append(swept)
        self._unswept += len(tasks) + created
        self.tidied = False
        if self._due:
            self.owed += _TIDY_PER_TASK * (len(tasks) + created)

    def _index_created(self, ids: list[str]) -> int:
        """Index what those tasks lack that are new; tell how many are."""
        pop = self.created.pop
        created = [task for task_id in ids if (task := pop(task_id, None)) is not None]
        if created:
            born, ids = [task.born for task in created], [task.uuid for task in created]
            for missing in self.missing.values():
                missing.note(created, born, ids)
            self._tasks.shelve(created)
        return len(created)

    def forget(self, task_id: str) -> None:
        """Let a task that is evicted wait no longer."""
        for waiting in (self.ended, self.changed, self.created):
            waiting.pop(task_id, None)

    def remember(self, task_id: str, task: Task | None) -> None:
        """Let every walk know what a task is like, None for not there, before it is made, changes or is evicted."""
        unaware = [before for before in self.walks.values() if task_id not in before]
        if unaware:
            was = None if task is None else copy(task)
            for before in unaware:
                before[task_id] = was

    def pay(self) -> None:
        """Do a share of the sweeps that are due: all at once would hold up too much else."""
        share = max(BLOCK, self.owed // 8)
        self.owed = max(0, self.owed - share) if self._due else 0
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
        everything: list[Ordering | Facet] = [*self._large, *self.facets.values()]
        for swept in everything:
            for cost in swept.sweep():
                yield cost
                yield from self._sweep_due()
