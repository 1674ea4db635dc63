"""Facets: the tasks grouped by the values of a field, each group in the order of `timestamp`. Event loop only."""

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any, Final

from ...records import Task
from ..task_fields import SPARSE
from .blocks import BLOCK, Entry
from .ordering import SHARE, Ordering
from .store import TaskStore

Value = str | int | None
Get = Callable[[Task], Any]

#: A group of so many entries is looked at when one of its tasks is evicted, where there are more groups than this.
_SMALL_GROUP: Final = 8
CROWDED: Final = 1_000

#: What it costs to visit a group, in entries looked at: most are small.
_VISIT: Final = 8


class Group(Ordering):
    """The tasks that share one value of a facet, by `timestamp`."""

    __slots__ = ("field", "get", "value")

    def __init__(self, tasks: TaskStore, field: str, get: Get, value: Value) -> None:
        super().__init__(tasks)
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


class Facet:
    """The groups of one field."""

    __slots__ = ("field", "get", "groups", "grown", "is_due", "kept", "outdated", "tasks")

    def __init__(self, tasks: TaskStore, field: str) -> None:
        self.tasks = tasks
        self.field = field
        self.get: Get = attrgetter(field)
        self.groups: dict[Value, Group] = {}
        self.grown = 0  # entries added since the last sweep
        self.kept = 0  # entries that it kept
        self.outdated = tasks.outdated  # as it was when it began
        self.is_due = False  # somebody is going to sweep it

    @property
    def wants_sweep(self) -> bool:
        """Tell whether as many entries have come since the last sweep as it kept, and a good share may be stale.

        Small groups never want a sweep themselves.
        """
        may_be_stale = self.tasks.outdated - self.outdated
        return not self.is_due and self.grown > self.kept + BLOCK and SHARE * may_be_stale > self.grown

    def add(self, tasks: list[Task], keys: list[float], ids: list[str]) -> Iterable[Group]:
        """Put each entry of at least one task into the group of its value; give the groups that grew."""
        values = list(map(self.get, tasks))
        if values.count(values[0]) == len(values):
            return self._add_to_one(values[0], keys, ids)
        return self._add_to_many(values, keys, ids)

    def _add_to_one(self, value: Value, keys: list[float], ids: list[str]) -> Iterable[Group]:
        if value is None and self.field in SPARSE:
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
        if self.field in SPARSE:
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

    def forget(self, task: Task) -> None:
        """Forget the group of a task that is held no more, if it is small and none of its tasks is held."""
        group = self.groups.get(self.get(task))
        if group is not None and len(group) <= _SMALL_GROUP and self.tasks.have_none(group.recent_ids):
            del self.groups[group.value]

    def sweep(self) -> Iterator[int]:
        """Sweep every group, and forget those in which nothing is left; each step yields what it cost."""
        self.outdated = self.tasks.outdated
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
