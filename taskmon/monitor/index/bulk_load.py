"""Many tasks at once, as at the start: into the store and the indexes, a few thousand at a time. Event loop only."""

from collections.abc import Iterator
from itertools import compress
from typing import Final

from ...outcomes import ORPHANED
from ...records import Task
from .indexes import Indexes
from .store import TaskStore

#: So many tasks are put in at a time: indexes are merged less often then.
_TASKS_PER_MERGE: Final = 20_000


def load_tasks(store: TaskStore, indexes: Indexes, tasks: list[Task]) -> Iterator[None]:
    """Put tasks in that are not held yet, in the order in which they would be evicted; yield after some."""
    for start in range(0, len(tasks), _TASKS_PER_MERGE):
        some = tasks[start : start + _TASKS_PER_MERGE]
        ids = [task.uuid for task in some]
        store.load(some)
        for known in indexes.known.values():
            values = list(map(known.get, some))
            has = [value is not None for value in values]
            known.extend(list(compress(values, has)), list(compress(ids, has)))
        for task in some:
            if task.reconciled == ORPHANED and task.timestamp is not None:
                indexes.orphaned.add(task.timestamp, task.uuid)
        indexes.load(some)
        yield
