"""Weights: by how many bytes what tasks take has grown since memory is short. Event loop only."""

from operator import attrgetter
from sys import getsizeof
from typing import Final

from ...records import Task

#: Bytes of a task with short texts, its entries in the indexes included, and those of a group of a facet.
TASK_BYTES: Final = 1_150
GROUP_BYTES: Final = 800

_texts: Final = attrgetter("args", "kwargs", "result", "exception", "traceback", "name")


class Weights:
    """What has come of texts, less what has gone, in `texts`. To weigh tasks before memory is short would cost time.

    A task that came before and changes later counts as new, though it takes no more: too much is evicted then.
    """

    __slots__ = ("_known", "texts")

    def __init__(self) -> None:
        self.texts = 0
        self._known: dict[str, int] = {}

    def note(self, tasks: list[Task]) -> None:
        """Weigh tasks that are new or have changed."""
        known = self._known
        for task in tasks:
            weight = weigh(task)
            self.texts += weight - known.get(task.uuid, 0)
            known[task.uuid] = weight

    def forget(self, task: Task) -> None:
        """Leave out a task that is evicted."""
        weight = self._known.pop(task.uuid, None)
        self.texts -= weigh(task) if weight is None else weight

    def clear(self) -> None:
        """Forget all weights: there is room again."""
        self.texts = 0
        self._known.clear()


def weigh(task: Task) -> int:
    """Return how many bytes the texts of a task take that its sender may choose freely."""
    return sum(map(getsizeof, _texts(task)))
