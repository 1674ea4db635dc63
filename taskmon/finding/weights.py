"""Weights: about how many bytes the tasks held take. Event loop only."""

from operator import attrgetter
from sys import getsizeof
from typing import Final

from ..records import Task

#: Bytes of a task with short texts, its entries in the indexes included, and those of a group of a facet.
TASK_BYTES: Final = 1_150
GROUP_BYTES: Final = 800

#: A task whose texts take more bytes than this is weighed by itself.
_LIGHT: Final = 512

_texts: Final = attrgetter("args", "kwargs", "result", "exception", "traceback")


class Weights:
    """What the texts of heavy tasks take; all other tasks count alike."""

    __slots__ = ("_heavy", "texts")

    def __init__(self) -> None:
        self.texts = 0
        self._heavy: dict[str, int] = {}

    def note(self, tasks: list[Task]) -> None:
        """Weigh tasks that are new or have changed."""
        heavy = self._heavy
        for task in tasks:
            weight = weigh(task)
            if weight > _LIGHT or task.uuid in heavy:
                self.texts += weight - heavy.get(task.uuid, 0)
                heavy[task.uuid] = weight

    def forget(self, task_id: str) -> None:
        """Leave out a task that is evicted."""
        self.texts -= self._heavy.pop(task_id, 0)


def weigh(task: Task) -> int:
    """Return how many bytes the texts of a task take that its sender may choose freely."""
    return sum(map(getsizeof, _texts(task)))
