"""Many tasks at once, as at the start: into the store and the indexes, a few thousand at a time. Event loop only."""

from collections.abc import Iterator
from typing import Final

from ..outcomes import ORPHANED
from ..records import READY_STATES, Task
from .indexes import Indexes
from .store import TaskStore

#: So many tasks are put in at a time: indexes are merged less often then.
_TOGETHER: Final = 20_000


def load_tasks(store: TaskStore, indexes: Indexes, tasks: list[Task]) -> Iterator[None]:
    """Put tasks in that are not held yet, in the order in which they would be evicted; yield after some."""
    for start in range(0, len(tasks), _TOGETHER):
        some = tasks[start : start + _TOGETHER]
        store.finished.update([(task.uuid, task) for task in some if task.state in READY_STATES])
        store.unfinished.update([(task.uuid, task) for task in some if task.state not in READY_STATES])
        for known in indexes.known.values():
            values = zip(map(known.get, some), some, strict=True)
            known.recent += [(value, task.uuid) for value, task in values if value is not None]
        indexes.orphaned.extend([(task.timestamp, task.uuid) for task in some if task.reconciled == ORPHANED])
        indexes.created += some
        indexes.changed.update([(task.uuid, task) for task in some])
        indexes.flush()
        indexes.owed = 0  # nothing is stale
        yield
