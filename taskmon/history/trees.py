"""The tasks of the database as a tree is gathered of them. Not on the event loop."""

from collections.abc import Iterator

from ..errors import UnknownTask
from ..monitor.query import TaskQuery
from ..records import Task
from .databases import Database
from .reading import Listing, read_children, read_task


class StoredTasks:
    """Asks the database what `gather_tree` asks of State, once for each task."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, Task | None] = {}

    def get(self, task_id: str) -> Task:
        """Give a task; raises UnknownTask."""
        if task_id not in self._known:
            self._known[task_id] = read_task(self._database, task_id)
        task = self._known[task_id]
        if task is None:
            raise UnknownTask(task_id, "never seen")
        return task

    def find_children(self, task_id: str, limit: int | None = None) -> Iterator[str]:
        """Yield the ids of the tasks whose parent is this one, oldest event first."""
        yield from read_children(self._database, [task_id], limit).get(task_id, [])

    def find(self, query: TaskQuery) -> Iterator[Task | None]:
        """Yield the tasks that a query asks for."""
        listing = Listing(self._database, query)
        while (found := listing.read()) is not None:
            for task in found:
                self._known[task.uuid] = task
                yield task
