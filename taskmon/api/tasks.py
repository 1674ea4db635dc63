"""The task endpoints: one task, a listing, the names. Event loop only."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING

import msgspec

from ..answers import TaskNames, TaskObject
from ..auth import Role
from ..errors import Unavailable, UnknownTask
from ..query import FILTERS, PAGING, make_query
from ..records import Task
from ..serializers import task_body, task_types_body
from .base import ApiHandler
from .listing import send_listing, warn_of_history

if TYPE_CHECKING:
    from ..history.history import History


class TaskInfo(ApiHandler):
    """GET `/api/task/info/<id>`: one task."""

    role = Role.VIEWER
    answer_type = TaskObject
    errors = (UnknownTask, Unavailable)

    def get(self, task_id: str) -> Awaitable[None] | None:
        """Answer the task object; 404 with a `reason` when the id is unknown."""
        history = self.services.history
        if history is not None and not history.is_all_in_memory:
            return self._find(history, task_id)
        self._answer(self.services.get_task(task_id), self.services.state.children(task_id))
        return None

    async def _find(self, history: "History", task_id: str) -> None:
        task = await self.services.find_task(task_id)
        children = await history.children([task])
        self._answer(task, children[task_id])

    def _answer(self, task: Task, children: list[str]) -> None:
        links = self.services.state.retries.links(task.uuid)
        self.answer(task_body(self.services.showing.show(task, self.current_user.role), children, links))


class TaskTypes(ApiHandler):
    """GET `/api/task/types`: the names of the tasks."""

    role = Role.VIEWER
    answer_type = TaskNames

    async def get(self) -> None:
        """Answer the names of all tasks, sorted."""
        names = self.services.state.task_names()
        history = self.services.history
        if history is not None and not history.is_all_in_memory:
            try:
                names = sorted({*names, *await history.task_names()})
            except Unavailable:
                warn_of_history(self)
        self.answer(task_types_body(names))


class Tasks(ApiHandler):
    """GET `/api/tasks`: tasks, filtered, sorted, in pages."""

    role = Role.VIEWER
    takes = FILTERS + PAGING
    answer_type = dict[str, TaskObject]

    async def get(self) -> None:
        """Answer an object of task objects by id, in order; a long one is sent while it is made."""
        query = make_query(self.given())
        if query.search is not None:
            guarded = self.services.showing.guard(query.search, self.current_user.role)
            query = msgspec.structs.replace(query, search=guarded)
        await send_listing(self, query)
