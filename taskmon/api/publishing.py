"""The endpoints that publish tasks and answer results. Event loop only."""

from typing import Any, Final

from celery.states import PENDING

from ..auth import Role
from ..cluster.calling import OPTIONS, Call, parse_call, parse_seconds
from ..cluster.publishing import PublishedTask
from ..cluster.stored import Result
from ..errors import InvalidArgument, NoAnswer, Refused, Unavailable, UnknownTask
from ..serializers import message_body, published_body, result_body
from .arguments import read_object, refuse_unknown
from .base import ApiHandler

#: Seconds that `apply` waits for a result: when nothing else is asked for, and at the most.
DEFAULT_TIMEOUT: Final = 30.0
MOST_TIMEOUT: Final = 60.0


class Publishing(ApiHandler):
    """What the routes that publish have in common."""

    def read_call(self, name: str, *more: str) -> tuple[Call, dict[str, object]]:
        """Read the body, and the arguments named by `more` besides, from the query string too."""
        body = read_object(self.request)
        refuse_unknown(body, (*OPTIONS, *more))
        query = self.arguments()
        refuse_unknown(query, more)
        call = parse_call(name, body, self.services.zone)
        return call, {name: body[name] if body.get(name) is not None else query.get(name) for name in more}

    async def answer_published(self, task: PublishedTask) -> None:
        """Answer the id of a task, and its state where there is a result backend to ask."""
        state = None
        results = self.services.results
        if results.available:
            try:
                state = (await results.get(task.task_id)).state
            except (Unavailable, InvalidArgument):
                state = None  # it is published all the same
        self.answer(published_body(task.task_id, state))


class TaskApply(Publishing):
    """POST `/api/task/apply/<name>`."""

    role = Role.OPERATOR

    async def post(self, name: str) -> None:
        """Publish a task that the Celery app has, and answer its result."""
        call, given = self.read_call(name, "timeout")
        timeout = _parse_timeout(given["timeout"], DEFAULT_TIMEOUT)
        self.services.publisher.require(name)
        if (await self.services.results.get(call.task_id)).ready:
            raise Refused("There is a result of a task with this task_id already")
        task = await self.services.publisher.apply_async(call)
        if task.ignored:
            self.answer(result_body(task.task_id, PENDING, ready=True))
            return
        self.answer(_to_body(await self._wait(task.task_id, timeout)))

    async def _wait(self, task_id: str, timeout: float) -> Result:
        """Wait for a result; whatever goes wrong, the answer names the id, since the task is published."""
        try:
            result = await self.services.results.wait(task_id, timeout)
        except Unavailable as exc:
            raise NoAnswer(
                f"The task is published, but its result is not known: {exc}", **{"task-id": task_id}
            ) from exc
        if not result.ready:
            details = {"task-id": task_id, "state": result.state}
            raise NoAnswer(f"The task is published, but not finished within {timeout:g} s", **details)
        return result


class TaskAsyncApply(Publishing):
    """POST `/api/task/async-apply/<name>`."""

    role = Role.OPERATOR

    async def post(self, name: str) -> None:
        """Publish a task that the Celery app has."""
        call, _ = self.read_call(name)
        await self.answer_published(await self.services.publisher.apply_async(call))


class TaskSend(Publishing):
    """POST `/api/task/send-task/<name>`."""

    role = Role.OPERATOR

    async def post(self, name: str) -> None:
        """Publish a task of any name."""
        call, _ = self.read_call(name)
        await self.answer_published(await self.services.publisher.send_task(call))


class TaskRetry(Publishing):
    """POST `/api/task/retry/<id>`."""

    role = Role.OPERATOR

    async def post(self, task_id: str) -> None:
        """Publish a finished task again, under a new id."""
        self.parameters()
        try:
            task = self.services.state.get(task_id)
        except UnknownTask as exc:
            raise UnknownTask(task_id, self.services.why_unknown(exc.reason)) from exc
        await self.answer_published(await self.services.publisher.publish_again(task))


class TaskResult(ApiHandler):
    """GET `/api/task/result/<id>`."""

    role = Role.VIEWER

    async def get(self, task_id: str) -> None:
        """Answer the state of a task and, once it is ready, its result."""
        timeout = _parse_timeout(self.arguments().get("timeout"), 0.0)
        results = self.services.results
        self.answer(_to_body(await (results.wait(task_id, timeout) if timeout else results.get(task_id))))


class TaskAbort(ApiHandler):
    """POST `/api/task/abort/<id>`."""

    role = Role.OPERATOR

    async def post(self, task_id: str) -> None:
        """Ask a task that is abortable to stop, by its state."""
        self.parameters()
        await self.services.results.abort(task_id)
        self.answer(message_body(f"Aborted '{task_id}'"))


def _to_body(result: Result) -> dict[str, Any]:
    about = {"value": result.value, "traceback": result.traceback, "reason": result.reason}
    return result_body(result.task_id, result.state, ready=result.ready, **about)


def _parse_timeout(value: object, default: float) -> float:
    return default if value is None or value == "" else parse_seconds("timeout", value, MOST_TIMEOUT)
