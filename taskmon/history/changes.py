"""Changes: the tasks that have changed and are not written yet. Event loop only.

A task that changed four times since it was last written is here once. One that has left the memory stays until it is
written; when it comes back meanwhile, knowing little, what it was before is kept beside it.
"""

import asyncio
from collections.abc import Iterable
from itertools import islice
from math import inf
from typing import Final

from ..monitor.state import RECONCILED
from ..records import Event, Task, Worker
from .batches import Row
from .columns import FIELDS, merge_tasks, to_row

#: Tasks that are copied before others may run: a fraction of a millisecond.
TASKS_PER_SLICE: Final = 200

_UUID: Final = FIELDS.index("uuid")
_RECONCILED: Final = FIELDS.index("reconciled")


class Changes:
    """The tasks that wait to be written, and those that are being written."""

    def __init__(self, keeping: bool = False) -> None:
        """Begin with none; `keeping` has them noted in a journal as well."""
        #: The latest time of a task without a name: it may have left the memory and lost it, not so in the database.
        self.horizon = -inf
        self._dirty: dict[str, Task] = {}
        self._writing: dict[str, Task] = {}
        self._earlier: dict[str, Task] = {}  # what unwritten tasks were before they left the memory and came back
        self._adopted: set[str] = set()  # unwritten tasks that were orphaned and then found
        self._adopting: set[str] = set()  # those of them that are being written
        self._fresh: dict[str, Task] | None = {} if keeping else None  # what the journal does not have

    def __len__(self) -> int:
        """Count the tasks that are not written."""
        return len(self._dirty) + len(self._writing)

    @property
    def waiting(self) -> int:
        """How many tasks wait, those left out that are being written."""
        return len(self._dirty)

    def get(self, task_id: str) -> Task | None:
        """Give a task that is not written yet, whether State still holds it or not."""
        return self._dirty.get(task_id) or self._writing.get(task_id)

    def recall(self, task: Task) -> Task:
        """Add to a task what is not written yet of its time before it left the memory."""
        for place in (self._earlier, self._writing, self._dirty):
            earlier = place.get(task.uuid)
            if earlier is not None and earlier is not task:
                task = merge_tasks(earlier, task)
        return task

    def note(self, changes: list[tuple[Event, Task | Worker | None]]) -> None:
        """Note what changed."""
        dirty, fresh = self._dirty, self._fresh
        for _, record in changes:
            if type(record) is Task:
                noted = dirty.setdefault(record.uuid, record)
                if noted is not record:  # it left the memory, and has come back knowing little
                    self._keep(noted)
                    dirty[record.uuid] = record
                if fresh is not None:
                    fresh[record.uuid] = record
        if changes and changes[0][0].type == RECONCILED:  # it comes alone
            self._note_adopted(changes[0][1])

    def add(self, tasks: Iterable[Task]) -> None:
        """Let tasks be written that have not changed."""
        for task in tasks:
            self._dirty.setdefault(task.uuid, task)

    def drop(self, count: int) -> None:
        """Give up those that wait longest: which State still holds may be written yet, when they change."""
        for task_id in list(islice(self._dirty, count)):
            del self._dirty[task_id]
            self._earlier.pop(task_id, None)
            self._adopted.discard(task_id)

    # Keeping

    @property
    def fresh(self) -> int:
        """How many tasks have changed that the journal does not have."""
        return len(self._fresh or ())

    def take_fresh(self) -> list[Task]:
        """Take the tasks that have changed since the last time, to be noted in the journal."""
        if not self._fresh:
            return []
        fresh, self._fresh = self._fresh, {}
        return list(fresh.values())

    def copy_fresh(self, tasks: list[Task]) -> tuple[list[Row], list[str]]:
        """Copy some of them; list whose marks are to be taken away."""
        tasks = [self.recall(task) for task in tasks]
        adopted = self._adopted | self._adopting
        return list(map(to_row, tasks)), [one.uuid for one in tasks if one.uuid in adopted and one.reconciled is None]

    def put_back_fresh(self, tasks: list[Task]) -> None:
        """Have tasks noted the next time: they could not be."""
        if self._fresh is not None:
            self._fresh = {task.uuid: task for task in tasks} | self._fresh

    def forget_fresh(self) -> None:
        """Let go what the journal does not have: it is too much."""
        if self._fresh is not None:
            self._fresh = {}

    # Writing: `take`, `copy`, and in the end `put_back` or `forget`

    def take(self, most: int) -> list[Task]:
        """Take those that wait longest, to be written."""
        tasks = list(islice(self._dirty.values(), most))
        self._writing = {task.uuid: task for task in tasks}
        for task_id in self._writing:
            del self._dirty[task_id]
        return tasks

    async def copy(self, tasks: list[Task]) -> tuple[list[Row], list[str]]:
        """Copy what was taken, which goes on changing, some at a time; list whose marks are to be taken away."""
        rows: list[Row] = []
        adopted: list[str] = []
        for start in range(0, len(tasks), TASKS_PER_SLICE):
            some = tasks[start : start + TASKS_PER_SLICE]
            if self._earlier:
                some = [self._recall_last(task) for task in some]
            copied = list(map(to_row, some))
            rows += copied
            if self._adopted:
                adopted += self._take_adopted(copied)
            for task in some:
                if task.name is None and (task.timestamp or 0.0) > self.horizon:
                    self.horizon = task.timestamp or 0.0
            await asyncio.sleep(0)
        return rows, adopted

    def put_back(self) -> None:
        """Let what was taken wait again: it could not be written."""
        for task_id, task in self._writing.items():
            if self._dirty.setdefault(task_id, task) is not task:
                self._keep(task)
        self._adopted |= self._adopting
        self.forget()

    def forget(self) -> None:
        """Let go what was taken: it is written."""
        self._writing = {}
        self._adopting = set()

    def _keep(self, earlier: Task) -> None:
        self._earlier[earlier.uuid] = self.recall(earlier) if earlier.uuid in self._earlier else earlier

    def _note_adopted(self, task: Task | Worker | None) -> None:
        if type(task) is Task and task.reconciled is None:
            self._adopted.add(task.uuid)

    def _take_adopted(self, rows: list[Row]) -> list[str]:
        """List those that are not orphaned any more; who is orphaned again meanwhile, is as it is written."""
        known = {row[_UUID]: row for row in rows if row[_UUID] in self._adopted}
        self._adopted -= known.keys()
        self._adopting |= known.keys()
        return [task_id for task_id, row in known.items() if row[_RECONCILED] is None]

    def _recall_last(self, task: Task) -> Task:
        """Give a task with what it was before; while it is being written, that is kept with it."""
        if task.uuid not in self._earlier:
            return task
        self._writing[task.uuid] = merged = merge_tasks(self._earlier.pop(task.uuid), task)
        return merged
