"""Prefetched: how many tasks wait in each worker. Event loop only."""

from collections import defaultdict
from collections.abc import Collection
from typing import Final

from ..records import Task

#: So many counts, by worker and name, are kept though they may be zero.
_MAX_COUNTS: Final = 10_000


class Prefetched:
    """Counts the tasks that a worker has received and not started; State says which these are."""

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._most = _MAX_COUNTS

    def __len__(self) -> int:
        """Count the counts that are kept."""
        return len(self._counts)

    def count(self, task: Task, change: int) -> None:
        """Count a task, by 1 or -1, unless it has an eta: such a one waits on purpose."""
        if task.eta is None and task.worker is not None:
            self._counts[task.worker, task.name or ""] += change

    def of(self, workers: Collection[str]) -> dict[tuple[str, str], int]:
        """Give the counts of these workers that are not zero, by hostname and task name."""
        return {key: count for key, count in self._counts.items() if count and key[0] in workers}

    def forget_zeros(self) -> None:
        """Forget the counts that are zero, once there are many."""
        if len(self._counts) > self._most:
            for key in [key for key, count in self._counts.items() if not count]:
                del self._counts[key]
            self._most = _MAX_COUNTS + 2 * len(self._counts)
