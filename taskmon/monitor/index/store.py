"""TaskStore: the tasks themselves, in the order in which they would be evicted. Event loop only."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from ...records import READY_STATES, Task
from .queue import Queue

#: Tasks on a segment, about.
SEGMENT: Final = 1000

#: What an id is made of, as a rule.
PLAIN: Final = "0123456789abcdef-"

#: One task of so many may be evicted and still lie on a segment.
_DEAD: Final = 32


class TaskStore:
    """Tasks by id: finished and unfinished ones apart, each with the one longest without an event first.

    Reading never changes the order. The finished ones are in a plain dict with a queue beside it: an ordered dict
    takes more time for each task, and three times as much at once when it grows.

    The same tasks lie on `segments` in the order in which they were made, which is about that of their memory: so
    going through all of them takes a third of the time.
    """

    __slots__ = (
        "_clearing",
        "_in_segments",
        "_next",
        "_queue",
        "disturbed",
        "finished",
        "outdated",
        "plain_ids",
        "segments",
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
        self.segments: list[list[Task]] = []
        self._queue = Queue()  # the finished ones
        self._in_segments = 0  # tasks on the segments, evicted ones included
        self._next = 0  # the segment to clear next
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

    def add_segment(self, tasks: list[Task]) -> None:
        """Lay new tasks on a segment; the list is the store's from now on."""
        self._in_segments += len(tasks)
        if self.plain_ids:
            ids = "".join([task.uuid for task in tasks])
            self.plain_ids = not ids.encode(errors="replace").translate(None, PLAIN.encode())
        if self.segments and len(self.segments[-1]) + len(tasks) <= SEGMENT:
            self.segments[-1] += tasks
        else:
            self.segments.append(tasks)

    def clear(self, segments: int, spare: int = SEGMENT) -> None:
        """Drop the evicted tasks from some segments, the oldest first, once there are many of them: `spare` at least.

        A segment is never changed but at its end: whoever goes through one keeps it.
        """
        allowed = spare + len(self) // _DEAD
        self._clearing = self._clearing or self._in_segments - len(self) > allowed
        while segments > 0 and self._clearing:
            self._clear_next()
            self._clearing = 2 * (self._in_segments - len(self)) > allowed
            segments -= 1
        if not self._clearing:
            self._next = 0

    def _clear_next(self) -> None:
        at = self._next if self._next < len(self.segments) else 0
        segment = self.segments[at]
        left = [task for task in segment if self.get(task.uuid) is task]
        self._in_segments -= len(segment) - len(left)
        if at and len(self.segments[at - 1]) + len(left) <= SEGMENT:
            left = self.segments[at - 1] + left
            at -= 1
            del self.segments[at]
        self.segments[at] = left
        self._next = at + 1
