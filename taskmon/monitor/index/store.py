"""TaskStore: the tasks themselves, in the order in which they would be evicted. Event loop only."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from ...records import READY_STATES, Task
from .queue import Queue

#: Tasks on a shelf, about.
SHELF: Final = 1000

#: What an id is made of, as a rule.
PLAIN: Final = "0123456789abcdef-"

#: One task of so many may be evicted and still lie on a shelf.
_DEAD: Final = 32


class TaskStore:
    """Tasks by id: finished and unfinished ones apart, each with the one longest without an event first.

    Reading never changes the order. The finished ones are in a plain dict with a queue beside it: an ordered dict
    takes more time for each task, and three times as much at once when it grows.

    The same tasks lie on `shelves` in the order in which they were made, which is about that of their memory: so
    going through all of them takes a third of the time.
    """

    __slots__ = (
        "_clearing",
        "_next",
        "_queue",
        "_shelved",
        "disturbed",
        "finished",
        "outdated",
        "plain_ids",
        "shelves",
        "unfinished",
    )

    def __init__(self) -> None:
        self.finished: dict[str, Task] = {}
        self.unfinished: OrderedDict[str, Task] = OrderedDict()
        #: How often a task was evicted or indexed anew: of each ordering an entry may be stale for that.
        self.outdated = 0
        #: Tasks that changed though they had finished: `zone_maps.py` reads and clears it.
        self.disturbed: set[str] = set()
        self.plain_ids = True  # no id has ever had anything but `PLAIN` in it
        self.shelves: list[list[Task]] = []
        self._queue = Queue()  # the finished ones
        self._shelved = 0  # tasks on the shelves, evicted ones included
        self._next = 0  # the shelf to clear next
        self._clearing = False

    def __len__(self) -> int:
        return len(self.finished) + len(self.unfinished)

    def get(self, task_id: str) -> Task | None:
        """Give the task of an id, or None."""
        return self.finished.get(task_id) or self.unfinished.get(task_id)

    def have_none(self, task_ids: list[str]) -> bool:
        """Tell whether none of these tasks is held."""
        return self.finished.keys().isdisjoint(task_ids) and self.unfinished.keys().isdisjoint(task_ids)

    def place(self, task: Task, was_finished: bool, is_finished: bool) -> None:
        """Put a task that has changed last, among the finished or the unfinished ones."""
        if was_finished:
            self.disturbed.add(task.uuid)
        if is_finished:
            if was_finished:
                self._queue.move_to_end(task.uuid)
            else:
                self.finished[task.uuid] = self.unfinished.pop(task.uuid)
                self._queue.add(task.uuid)
        elif was_finished:
            self.unfinished[task.uuid] = self.finished.pop(task.uuid)
            self._queue.remove(task.uuid)
        else:
            self.unfinished.move_to_end(task.uuid)

    def pop(self) -> Task:
        """Take out the task longest without an event, a finished one if there is any."""
        self.outdated += 1
        if self.finished:
            return self.finished.pop(self._queue.pop())
        return self.unfinished.popitem(last=False)[1]

    def load(self, tasks: Iterable[Task]) -> None:
        """Take tasks that are not held yet, each as the last."""
        for task in tasks:
            if task.state in READY_STATES:
                self.finished[task.uuid] = task
                self._queue.add(task.uuid)
            else:
                self.unfinished[task.uuid] = task

    def shelve(self, tasks: list[Task]) -> None:
        """Lay new tasks on a shelf; the list is the store's from now on."""
        self._shelved += len(tasks)
        if self.plain_ids:
            ids = "".join([task.uuid for task in tasks])
            self.plain_ids = not ids.encode(errors="replace").translate(None, PLAIN.encode())
        if self.shelves and len(self.shelves[-1]) + len(tasks) <= SHELF:
            self.shelves[-1] += tasks
        else:
            self.shelves.append(tasks)

    def clear(self, shelves: int, spare: int = SHELF) -> None:
        """Drop the evicted tasks from some shelves, the oldest first, once there are many of them: `spare` at least.

        A shelf is never changed but at its end: whoever goes through one keeps it.
        """
        allowed = spare + len(self) // _DEAD
        self._clearing = self._clearing or self._shelved - len(self) > allowed
        while shelves > 0 and self._clearing:
            self._clear_next()
            self._clearing = 2 * (self._shelved - len(self)) > allowed
            shelves -= 1
        if not self._clearing:
            self._next = 0

    def _clear_next(self) -> None:
        at = self._next if self._next < len(self.shelves) else 0
        shelf = self.shelves[at]
        left = [task for task in shelf if self.get(task.uuid) is task]
        self._shelved -= len(shelf) - len(left)
        if at and len(self.shelves[at - 1]) + len(left) <= SHELF:
            left = self.shelves[at - 1] + left
            at -= 1
            del self.shelves[at]
        self.shelves[at] = left
        self._next = at + 1
