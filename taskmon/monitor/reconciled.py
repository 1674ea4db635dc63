"""Reconciled: the tasks of State of which more was found out than their events say. Event loop only.

It keeps State's indexes and counts right while a task is settled or orphaned, and while an event takes that back.
"""

import time
from collections.abc import Callable

from celery.states import RECEIVED

from ..outcomes import FINISHED, ORPHANED, Outcome, contradicts, resolve, unresolve
from ..records import Event, Task
from .index.indexes import Indexes
from .index.store import TaskStore


class Reconciled:
    """Part of State: `count_prefetched` counts a task of a worker, `note` is told of each task that changes here.

    `orphaned` is how many of the tasks held are, `settled_total` and `orphaned_total` how many have been. Tasks are
    given by ids of unfinished tasks that are held.
    """

    def __init__(
        self,
        tasks: TaskStore,
        indexes: Indexes,
        count_prefetched: Callable[[Task, int], None],
        note: Callable[[Task], None],
    ) -> None:
        self.orphaned = 0
        self.orphaned_total = 0
        self.settled_total = 0
        self._tasks = tasks
        self._indexes = indexes
        self._count_prefetched = count_prefetched
        self._note = note

    def resolve(self, task_id: str, outcome: Outcome) -> None:
        """Let a task be finished, as the result backend says."""
        task = self._begin(task_id)
        self.release(task)
        if task.state == RECEIVED:
            self._count_prefetched(task, -1)
        resolve(task, outcome)
        self.settled_total += 1
        task.seen = time.time()
        self._tasks.place(task, False, True)
        field = FINISHED[outcome.state]
        if outcome.finished is not None and field in self._indexes.known:
            self._indexes.known[field].add(outcome.finished, task_id)
        self._change(task)

    def orphan(self, task_id: str) -> None:
        """Mark a task as one that nobody has."""
        task = self._begin(task_id)
        if task.reconciled == ORPHANED:
            return
        if task.state == RECEIVED:
            self._count_prefetched(task, -1)
        task.reconciled = ORPHANED
        self.orphaned += 1
        self.orphaned_total += 1
        if task.timestamp is not None:
            self._indexes.orphaned.add(task.timestamp, task_id)
        self._change(task)

    def adopt(self, task_id: str) -> None:
        """Take the mark away: somebody has the task."""
        task = self._begin(task_id)
        if task.reconciled == ORPHANED:
            self.release(task)
            self._change(task)

    def release(self, task: Task) -> None:
        """Count a task no longer as orphaned, if it is: an event has come, or it is evicted."""
        if task.reconciled == ORPHANED:
            task.reconciled = None
            self.orphaned -= 1
            if task.state == RECEIVED:
                self._count_prefetched(task, 1)

    def meet(self, task: Task, event: Event) -> None:
        """Let an event that is about to be merged win over what was found out of its task."""
        if task.reconciled == ORPHANED:
            self.release(task)
        elif contradicts(task, event):
            field = unresolve(task)
            self._tasks.place(task, True, False)
            if field in self._indexes.missing:
                self._indexes.missing[field].add(task.born, task.uuid)

    def _begin(self, task_id: str) -> Task:
        task = self._tasks.unfinished[task_id]
        if self._indexes.scans:
            self._indexes.remember(task_id, task)
        return task

    def _change(self, task: Task) -> None:
        self._indexes.changed[task.uuid] = task
        self._note(task)
