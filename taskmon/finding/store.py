"""TaskStore: the tasks themselves, in the order in which they would be evicted. Event loop only."""

from collections import OrderedDict

from ..records import Task


class TaskStore:
    """Tasks by id: finished and unfinished ones apart, each with the one longest without an event first.

    Reading never changes the order.
    """

    __slots__ = ("finished", "unfinished")

    def __init__(self) -> None:
        self.finished: OrderedDict[str, Task] = OrderedDict()
        self.unfinished: OrderedDict[str, Task] = OrderedDict()

    def __len__(self) -> int:
        return len(self.finished) + len(self.unfinished)

    def get(self, task_id: str) -> Task | None:
        """Give the task of an id, or None."""
        return self.finished.get(task_id) or self.unfinished.get(task_id)

    def place(self, task: Task, was_finished: bool, is_finished: bool) -> None:
        """Put a task last, among the finished or the unfinished ones."""
        if is_finished:
            if was_finished:
                self.finished.move_to_end(task.uuid)
            else:
                self.finished[task.uuid] = self.unfinished.pop(task.uuid)
        elif was_finished:
            self.unfinished[task.uuid] = self.finished.pop(task.uuid)
        else:
            self.unfinished.move_to_end(task.uuid)

    def pop(self) -> Task:
        """Take out the task longest without an event, a finished one if there is any."""
        return (self.finished or self.unfinished).popitem(last=False)[1]
