"""The task endpoints: one task, a listing, the names. Event loop only."""

from ..auth import Role
from ..errors import UnknownTask
from ..query import parse_query
from ..serializers import task_body, task_member, task_types_body
from .base import ApiHandler
from .turns import send_members


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
        state = self.services.state
        await send_members(
            self,
            (None if task is None else task_member(task, state.children(task.uuid)) for task in state.find(query)),
        )
