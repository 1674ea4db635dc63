"""The task endpoints: one task, a listing, the names. Event loop only."""

import asyncio
import time
from typing import Final

from tornado.iostream import StreamClosedError

from ..auth import Role
from ..errors import UnknownTask
from ..query import TaskQuery, parse_query
from ..serializers import task_body, task_member, task_types_body
from .base import ApiHandler

#: So long a listing is made before others may run, in seconds.
SLICE: Final = 0.005

#: Bytes of a listing that are sent together.
CHUNK: Final = 128 * 1024


class TaskInfo(ApiHandler):
    """GET `/api/task/info/<id>`."""

    role = Role.VIEWER

    def get(self, task_id: str) -> None:
        """Answer the task object; 404 with a `reason` when the id is unknown."""
        state = self.services.state
        try:
            task = state.get(task_id)
        except UnknownTask as exc:
            raise UnknownTask(task_id, self.services.why_unknown(exc.reason)) from exc
        self.answer(task_body(task, state.children(task_id)))


class TaskTypes(ApiHandler):
    """GET `/api/task/types`."""

    role = Role.VIEWER

    def get(self) -> None:
        """Answer the names of the tasks held, sorted."""
        self.answer(task_types_body(self.services.state.task_names()))


class Tasks(ApiHandler):
    """GET `/api/tasks`."""

    role = Role.VIEWER

    async def get(self) -> None:
        """Answer an object of task objects by id, in order; a long one is sent while it is made."""
        query = parse_query(self.arguments(), self.services.zone)
        try:
            await self._list(query)
        except StreamClosedError:
            return

    async def _list(self, query: TaskQuery) -> None:
        state = self.services.state
        separator, size = b"{", 0
        began = time.monotonic()
        for task in state.find(query):
            if task is not None:
                member = task_member(task, state.children(task.uuid))
                self.write(separator)
                self.write(member)
                separator, size = b",", size + len(member)
            if time.monotonic() - began > SLICE:
                await (self.flush() if size > CHUNK else asyncio.sleep(0))
                size = 0 if size > CHUNK else size
                began = time.monotonic()
        self.finish(b"{}" if separator == b"{" else b"}")
