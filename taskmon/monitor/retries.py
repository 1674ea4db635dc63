"""Retries: which tasks were published again, and under which ids. Event loop only.

It is held in memory alone: after a new start it is not known which tasks were retried before.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..errors import CommandRefused

#: Retries that are remembered, the latest ones.
MAX_RETRIES: Final = 10_000


class Retries:
    """The tasks that were published again, and the one way to do so: only one request at a time retries a task."""

    def __init__(self, most: int = MAX_RETRIES) -> None:
        self._most = most
        self._retry_of: OrderedDict[str, str] = OrderedDict()  # new id to old id
        self._retried_as: dict[str, str] = {}  # old id to the latest new id
        self._under_way: set[str] = set()

    @contextmanager
    def begin(self, task_id: str, again: bool) -> Iterator[None]:
        """Keep other requests from retrying a task meanwhile; raises CommandRefused where one does or did.

        With `again`, it does not matter that it was done before.
        """
        if task_id in self._under_way:
            raise CommandRefused("The task is being retried by another request")
        known = self._retried_as.get(task_id)
        if known is not None and not again:
            raise CommandRefused(f"The task was retried already, as {known}; again=1 retries it once more")
        self._under_way.add(task_id)
        try:
            yield
        finally:
            self._under_way.discard(task_id)

    def note(self, task_id: str, new_id: str) -> None:
        """Remember that a task was published again."""
        self._retry_of[new_id] = task_id
        self._retried_as[task_id] = new_id
        if len(self._retry_of) > self._most:
            oldest, of = self._retry_of.popitem(last=False)
            if self._retried_as.get(of) == oldest:
                del self._retried_as[of]

    def links(self, task_id: str) -> tuple[str | None, str | None]:
        """Return the id of the task that a task was last retried as, and that of the one which it is a retry of."""
        if not self._retry_of:
            return None, None
        return self._retried_as.get(task_id), self._retry_of.get(task_id)
