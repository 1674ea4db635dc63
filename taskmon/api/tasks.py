"""The task endpoints: one task, a listing, the names. Event loop only."""

from collections.abc import Iterable
from heapq import merge
from itertools import islice
from typing import Final

from ..auth import Role
from ..errors import Unavailable, UnknownTask
from ..http.answers import TaskNames, TaskObject
from ..http.base import ApiHandler
from ..http.serializers import task_body, task_types_body
from ..http.time_slice import Turn
from ..monitor.query import Listing, make_query
from ..records import Task
from .listing import send_listing, warn_of_history

#: Names that are sorted, and merged, in one step.
_RUN: Final = 1000

#: What an answer has of the names of tasks: how many, and how many bytes they may take.
MAX_NAMES: Final = 50_000
MAX_NAMES_BYTES: Final = 4_000_000


class TaskInfo(ApiHandler):
    path = "/api/task/info/{task_id}"
    summary = "One task"
    role = Role.VIEWER
    response_type = TaskObject
    errors = (UnknownTask, Unavailable)

    async def get(self, task_id: str) -> None:
        """Answer the task object; 404 with a `reason` when the id is unknown."""
        history = self.services.history
        if history is not None and not history.is_all_in_memory:
            task = await self.services.find_task(self.monitor, task_id)
            children = await history.children([task])
            self._answer(task, children[task_id])
            return
        task = self.services.get_task(self.monitor, task_id)
        self._answer(task, await self._find_children(task_id))

    async def _find_children(self, task_id: str) -> list[str]:
        children: list[str] = []
        turn = Turn()
        for child in self.monitor.state.find_children(task_id):
            if child is not None:
                children.append(child)
            elif turn.over:
                await turn.give_way()
        return children

    def _answer(self, task: Task, children: list[str]) -> None:
        links = self.monitor.state.retries.links(task.uuid)
        self.answer(task_body(self.services.showing.show(task, self.current_user.role), children, links))


class TaskTypes(ApiHandler):
    path = "/api/task/types"
    summary = "The names of the tasks"
    role = Role.VIEWER
    response_type = TaskNames

    async def get(self) -> None:
        """Answer the names of all tasks, sorted; those for which there is no room are counted."""
        state, history = self.monitor.state, self.services.history
        names = state.task_names(MAX_NAMES)
        other = max(0, state.count_task_names() - MAX_NAMES)
        if history is not None and not history.is_all_in_memory:
            try:
                names.update(await history.task_names())
            except Unavailable:
                warn_of_history(self)
        kept = await _fit(names)
        self.answer(task_types_body(await _sort(kept), other + len(names) - len(kept)))


async def _fit(names: Iterable[str]) -> list[str]:
    """Return the names that fit into an answer, a slice at a time."""
    turn = Turn()
    kept, left = [], MAX_NAMES_BYTES
    for place, name in enumerate(names):
        # A character may take six bytes of JSON.
        left -= len(name) if name.isascii() and name.isprintable() else 6 * len(name)
        if left < 0 or place >= MAX_NAMES:
            break
        kept.append(name)
        if place % _RUN == 0 and turn.over:
            await turn.give_way()
    return kept


async def _sort(names: list[str]) -> list[str]:
    """Sort names, a slice at a time: there may be a hundred thousand."""
    turn = Turn()
    runs = []
    for start in range(0, len(names), _RUN):
        runs.append(sorted(names[start : start + _RUN]))
        if turn.over:
            await turn.give_way()
    merged, found = merge(*runs), []
    while some := list(islice(merged, _RUN)):
        found += some
        if turn.over:
            await turn.give_way()
    return found


class Tasks(ApiHandler):
    path = "/api/tasks"
    summary = "Tasks, filtered, sorted, in pages"
    role = Role.VIEWER
    parameters = Listing
    response_type = dict[str, TaskObject]

    async def get(self) -> None:
        """Answer an object of task objects by id, in order; a long one is sent while it is made."""
        await send_listing(self, self.restrict(make_query(self.parse_parameters())))
