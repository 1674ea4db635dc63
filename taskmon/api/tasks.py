"""The task endpoints: one task, a listing, the names. Event loop only."""

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Final

import msgspec

from ..answers import TaskNames, TaskObject
from ..auth import Role
from ..errors import UnknownTask
from ..query import FILTERS, PAGING, make_query
from ..records import Task
from ..serializers import task_body, task_members, task_types_body
from .base import ApiHandler
from .turns import send_members

#: Tasks that are encoded together at the most, and characters of their texts.
BATCH: Final = 16
TEXT: Final = 100_000


_texts: Final = attrgetter("args", "kwargs", "result", "exception", "traceback")


class TaskInfo(ApiHandler):
    """GET `/api/task/info/<id>`: one task."""

    role = Role.VIEWER
    answer_type = TaskObject
    errors = (UnknownTask,)

    def get(self, task_id: str) -> None:
        """Answer the task object; 404 with a `reason` when the id is unknown."""
        state = self.services.state
        try:
            task = state.get(task_id)
        except UnknownTask as exc:
            raise UnknownTask(task_id, self.services.why_unknown(exc.reason)) from exc
        shown = self.services.showing.show(task, self.current_user.role)
        self.answer(task_body(shown, state.children(task_id)))


class TaskTypes(ApiHandler):
    """GET `/api/task/types`: the names of the tasks."""

    role = Role.VIEWER
    answer_type = TaskNames

    def get(self) -> None:
        """Answer the names of the tasks held, sorted."""
        self.answer(task_types_body(self.services.state.task_names()))


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
        await send_members(self, self._members(self.services.state.find(query)))

    def _members(self, found: Iterable[Task | None]) -> Iterator[bytes | None]:
        """Encode tasks a few at a time, and no later than others may run."""
        children, show, role = self.services.state.children, self.services.showing.show, self.current_user.role
        batch: list[tuple[Task, list[str]]] = []
        length = 0
        for task in found:
            if task is not None:
                task = show(task, role)
                batch.append((task, children(task.uuid)))
                length += sum(map(len, filter(None, _texts(task))))
            if batch and (task is None or len(batch) >= BATCH or length > TEXT):
                yield task_members(batch)
                batch, length = [], 0
            elif task is None:
                yield None
        if batch:
            yield task_members(batch)
