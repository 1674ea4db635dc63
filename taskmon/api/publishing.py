"""The endpoints that publish tasks and answer results. Event loop only."""

from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Annotated, Any, ClassVar, Final
from uuid import uuid4

from celery.states import PENDING
from msgspec import Meta

from ..auth import Role
from ..cluster.blocking_pool import Deadline
from ..cluster.publish_options import PublishOptions, make_call
from ..cluster.publishing import PublishedTask
from ..cluster.result_decoding import Result
from ..errors import (
    CommandRefused,
    ForeignTask,
    InvalidArgument,
    PermissionDenied,
    Unavailable,
    UnknownTask,
    UnknownTaskName,
    WorkerTimeout,
    shown,
)
from ..http.answers import Message, Published, ResultObject
from ..http.base import ApiHandler, Scope
from ..http.serializers import message_body, published_body, result_body
from ..parameters import Parameters

#: Seconds that `apply` waits for a result: when nothing else is asked for, and at the most.
DEFAULT_TIMEOUT: Final = 30.0
MAX_TIMEOUT: Final = 60.0


class ApplyOptions(PublishOptions):
    """What a request may say of a task whose result it waits for."""

    timeout: Annotated[float, Meta(le=MAX_TIMEOUT, description="How many seconds to wait for the result.")] = (
        DEFAULT_TIMEOUT
    )


class RetryOptions(Parameters):
    """How to publish a task again."""

    again: Annotated[bool, Meta(description="Whether to publish it even if it was retried before.")] = False


class ResultOptions(Parameters):
    """How to ask for a result."""

    timeout: Annotated[float, Meta(le=MAX_TIMEOUT, description="How many seconds to wait until it is ready.")] = 0.0


class Publishing(ApiHandler):
    """What the routes that publish have in common."""

    role = Role.OPERATOR
    scope: ClassVar[Scope] = "publish"
    parameters: ClassVar[type[Parameters]] = PublishOptions
    expects_json = True
    response_type: ClassVar[Any] = Published

    def require_allowed(self, task_name: str) -> None:
        """Raise PermissionDenied where --publish-tasks does not list a task for the user's role or a lower one."""
        rules = self.services.settings.publish_tasks
        user = self.current_user
        role = max(user.role, Role.OPERATOR) if user.scopes else user.role  # a scope that allows it has been found
        if rules and not any(
            Role.parse(name) <= role and fnmatchcase(task_name, pattern)
            for name, _, pattern in (rule.partition("=") for rule in rules)
        ):
            raise PermissionDenied(
                f"The role {role} may not publish the task {shown(task_name)}: --publish-tasks lists what it may"
            )

    async def publish(self, task_id: str, publish: Callable[..., Awaitable[PublishedTask]]) -> PublishedTask:
        """Wait until a task is published; the audit log names it, also where it cannot be known whether it is."""
        try:
            task = await publish(before=partial(self.audit_intent, new_task_id=task_id))
        except Unavailable:
            self.audited["new_task_id"] = task_id
            raise
        self.audited["new_task_id"] = task.task_id
        return task

    async def answer_published(self, task: PublishedTask, deadline: Deadline) -> None:
        """Answer the id of a task, and its state where there is a result backend that answers in time."""
        state = None
        results = self.monitor.results
        if results.available:
            try:
                state = (await results.get(task.task_id, deadline.left)).state
            except (Unavailable, InvalidArgument):
                state = None  # it is published all the same
        self.answer(published_body(task.task_id, state))


class TaskApply(Publishing):
    path = "/api/task/apply/{task_name}"
    summary = "Publishes a task and waits for its result"
    parameters = ApplyOptions
    response_type = ResultObject
    errors = (UnknownTaskName, CommandRefused, Unavailable, WorkerTimeout)

    async def post(self, task_name: str) -> None:
        """Publish a task that the Celery app has, and answer its result."""
        given: ApplyOptions = self.parse_parameters()
        self.require_allowed(task_name)
        call, timeout = make_call(task_name, given), given.timeout
        self.monitor.publisher.require(task_name)
        deadline = Deadline()
        if (await self.monitor.results.get(call.task_id, deadline.left)).ready:
            raise CommandRefused("There is a result of a task with this task_id already")
        task = await self.publish(call.task_id, partial(self.monitor.publisher.apply_async, call, deadline.left))
        if task.ignored:
            self.answer(result_body(task.task_id, PENDING, ready=True))
            return
        self.answer(_to_body(self, await self._wait(task.task_id, timeout)))

    async def _wait(self, task_id: str, timeout: float) -> Result:
        """Wait for a result; whatever goes wrong, the answer names the id, since the task is published."""
        try:
            result = await self.monitor.results.wait(task_id, timeout)
        except Unavailable as exc:
            raise WorkerTimeout(
                f"The task is published, but its result is not known: {exc}", task_id=task_id
            ) from exc
        if not result.ready:
            message = f"The task is published, but not finished within {timeout:g} s"
            raise WorkerTimeout(message, task_id=task_id, state=result.state)
        return result


class TaskAsyncApply(Publishing):
    path = "/api/task/async-apply/{task_name}"
    summary = "Publishes a task"
    errors = (UnknownTaskName, CommandRefused, Unavailable)

    async def post(self, task_name: str) -> None:
        """Publish a task that the Celery app has."""
        self.require_allowed(task_name)
        call, deadline = make_call(task_name, self.parse_parameters()), Deadline()
        task = await self.publish(call.task_id, partial(self.monitor.publisher.apply_async, call))
        await self.answer_published(task, deadline)


class TaskSend(Publishing):
    path = "/api/task/send-task/{task_name}"
    summary = "Publishes a task of any name"
    errors = (CommandRefused, Unavailable)

    async def post(self, task_name: str) -> None:
        """Publish a task of any name."""
        self.require_allowed(task_name)
        call, deadline = make_call(task_name, self.parse_parameters()), Deadline()
        task = await self.publish(call.task_id, partial(self.monitor.publisher.send_task, call))
        await self.answer_published(task, deadline)


class TaskRetry(Publishing):
    path = "/api/task/retry/{task_id}"
    summary = "Publishes a finished or orphaned task again"
    scope: ClassVar[Scope] = "read"  # no scope allows it: it would publish arguments that others wrote
    parameters = RetryOptions
    expects_json = False
    errors = (UnknownTask, CommandRefused, Unavailable)

    async def post(self, task_id: str) -> None:
        """Publish a finished or orphaned task again, under a new id."""
        again, deadline, new_id = self.parse_parameters().again, Deadline(), str(uuid4())
        retries = self.monitor.state.retries
        with retries.begin(task_id, again):
            try:
                task = await self.services.find_task(self.monitor, task_id)
            except ForeignTask as exc:
                raise CommandRefused(f"The task belongs to another cluster, {exc.cluster}: retry it there") from exc
            self.require_allowed(task.name or "")
            published = await self.publish(new_id, partial(self.monitor.publisher.publish_again, task, new_id))
            retries.note(task_id, published.task_id)
        await self.answer_published(published, deadline)


class TaskResult(ApiHandler):
    path = "/api/task/result/{task_id}"
    summary = "The result of a task"
    role = Role.VIEWER
    parameters = ResultOptions
    response_type = ResultObject
    errors = (UnknownTask, Unavailable)

    async def get(self, task_id: str) -> None:
        """Answer the state of a task and, once it is ready, its result."""
        timeout = self.parse_parameters().timeout
        results = self.monitor.results
        self.answer(_to_body(self, await (results.wait(task_id, timeout) if timeout else results.get(task_id))))


class TaskAbort(ApiHandler):
    path = "/api/task/abort/{task_id}"
    summary = "Asks an abortable task to stop"
    role = Role.OPERATOR
    response_type = Message
    errors = (UnknownTask, CommandRefused, Unavailable)

    async def post(self, task_id: str) -> None:
        """Ask a task that is abortable to stop, by its state."""
        self.parse_parameters()
        self.audit_intent()
        await self.monitor.results.abort(task_id)
        self.answer(message_body(f"Aborted '{task_id}'"))


def _to_body(handler: ApiHandler, result: Result) -> ResultObject:
    """Give a result as far as who asks may see it."""
    showing, role = handler.services.showing, handler.current_user.role
    return result_body(
        result.task_id,
        result.state,
        ready=result.ready,
        value=showing.value(result.value, role),
        traceback=showing.text(result.traceback, role),
        reason=showing.reason(result.reason, role),
    )
