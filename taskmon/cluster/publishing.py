"""Publishing: tasks go to the broker of a Celery app. Asked on the event loop; one thread of the lane publishes.

No task is ever run here.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from amqp.exceptions import PreconditionFailed
from celery import Celery
from celery.backends.base import DisabledBackend
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.exceptions import EncodeError
from kombu.messaging import Producer

from ..broker_faults import is_blocked
from ..errors import CommandRefused, InvalidArgument, Unavailable, UnknownTaskName, UnreadableArguments
from ..records import Task
from .announcing import Announcement, announcing
from .blocking_pool import LIMIT, BlockingPool
from .connections import LATEST_RETRY, MAX_IDLE, BrokerAway, away_errors, drop_connection, open_connection, say_why
from .destinations import Destinations
from .publish_options import Call
from .replies import declare_result_queue, remove_result_queue
from .republish import find_destination, read_recorded

_WHAT: Final = "The broker"

#: The id of a task goes out as the correlation id of its message, of which AMQP limits the length.
_MAX_AMQP_ID_BYTES: Final = 255


@dataclass(frozen=True, slots=True)
class PublishedTask:
    """A task that the broker has taken; nobody will hear of its result when it is `ignored`."""

    task_id: str
    ignored: bool = False


def _nothing() -> None:
    return


class _SilentBackend(DisabledBackend):  # type: ignore[misc]
    """What `app.backend` is while publishing: Celery's others begin to listen for the result of each task.

    On Redis that is a subscription that nobody would read from. Results are read elsewhere.
    """

    thread_safe = False

    def __init__(self, celery_app: Celery) -> None:
        self.app = celery_app


class Publisher:
    """Publishes tasks for one Celery app, to `destinations` alone.

    Workers send results to `reply_queue`, if there is one.
    """

    def __init__(
        self, celery_app: Celery, lane: BlockingPool, destinations: Destinations, reply_queue: Queue | None = None
    ) -> None:
        self._app = celery_app
        self._destinations = destinations
        self._lane = lane
        self._reply_queue = reply_queue
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        self._used = 0.0

    def require(self, name: str) -> None:
        """Raise UnknownTaskName for a task that the Celery app does not have."""
        if name not in self._app.tasks:
            raise UnknownTaskName(name)

    async def apply_async(
        self, call: Call, limit: float = LIMIT, *, before: Callable[[], None] = _nothing
    ) -> PublishedTask:
        """Publish a task that the Celery app has, with all that the app says of it, within `limit` seconds.

        `before` is called on the event loop once nothing is left but to publish it, here and below.
        Raises UnknownTaskName, PermissionDenied, InvalidArgument, CommandRefused or Unavailable: then it is not
        published, or, when the broker goes just then, perhaps not.
        """
        self.require(call.name)
        if self._app.conf.task_always_eager:
            raise CommandRefused(
                "The Celery app runs tasks where they are called (task_always_eager): taskmon runs none"
            )
        await self._destinations.require(call.options)
        return await self._call(partial(self._publish, call, self._apply), before, limit)

    async def send_task(self, call: Call, *, before: Callable[[], None] = _nothing) -> PublishedTask:
        """Publish a task of any name; raises as `apply_async` does."""
        await self._destinations.require(call.options)
        return await self._call(partial(self._publish, call, self._send), before)

    async def publish_again(
        self, task: Task, task_id: str, *, before: Callable[[], None] = _nothing
    ) -> PublishedTask:
        """Publish a task again under a new id, as events recorded it; raises CommandRefused if that is too little."""
        name, options = find_destination(task)
        await self._destinations.require(options, is_seen=True)

        def publish(announce: Callable[[], None]) -> PublishedTask:
            args, kwargs = read_recorded("args", task.args), read_recorded("kwargs", task.kwargs)
            try:
                return self._publish(Call(name, args, kwargs, options, task_id=task_id), self._send, announce)
            except CommandRefused as exc:
                if isinstance(exc.__cause__, EncodeError):
                    raise UnreadableArguments(str(exc)) from exc
                raise

        return await self._call(publish, before)

    async def close(self) -> None:
        """Let the connection go."""
        if self._connection is None:
            return
        with suppress(Unavailable):
            await self._lane.call(self._leave, 0.3)

    async def _call(
        self, publish: Callable[[Callable[[], None]], PublishedTask], before: Callable[[], None], limit: float = LIMIT
    ) -> PublishedTask:
        announcement = Announcement(before)
        try:
            return await self._lane.call(partial(publish, announcement.make), limit)
        except BrokerAway as exc:
            raise Unavailable(_WHAT, str(exc)) from exc
        finally:
            announcement.withdraw()

    # In the thread

    def _publish(self, call: Call, send: Callable[..., Any], announce: Callable[[], None]) -> PublishedTask:
        """Publish, a second time when a connection that was open proves lost."""
        began = time.monotonic()
        if began - self._used > MAX_IDLE:
            self._disconnect()
        was_open = self._connection is not None
        try:
            return self._attempt(call, send, announce)
        except BrokerAway as exc:
            if not was_open or not call.retry or is_blocked(exc) or time.monotonic() - began > LATEST_RETRY:
                raise
            return self._attempt(call, send, announce)

    def _attempt(self, call: Call, send: Callable[..., Any], announce: Callable[[], None]) -> PublishedTask:
        connection = self._connect()
        if connection.transport.driver_type == "amqp" and len(call.task_id.encode()) > _MAX_AMQP_ID_BYTES:
            raise InvalidArgument("task_id", f"may have {_MAX_AMQP_ID_BYTES} bytes on this broker", call.task_id)
        try:
            try:
                published = self._hand_over(call, send, announce)
            except PreconditionFailed:  # the queue is there, declared otherwise than the app would
                self._disconnect()
                connection = self._connect()
                published = self._hand_over(call, send, announce, declare=[])
        except away_errors(connection) as exc:
            self._disconnect()
            raise BrokerAway(say_why(exc)) from exc
        except connection.channel_errors as exc:
            self._disconnect()
            raise CommandRefused(f"The broker refuses the task: {say_why(exc)}") from exc
        except EncodeError as exc:
            raise CommandRefused(
                f"The arguments cannot be sent as {self._app.conf.task_serializer}: {say_why(exc)}"
            ) from exc
        self._used = time.monotonic()
        return published

    def _hand_over(
        self, call: Call, send: Callable[..., Any], announce: Callable[[], None], **more: Any
    ) -> PublishedTask:
        options = {**call.options, **more, "task_id": call.task_id, "producer": self._producer, "retry": False}
        if "queue" in options:
            options["queue"] = self._find_queue(options["queue"])
        if self._reply_queue is not None and self._connection is not None:
            # Each time: it goes when nobody has looked into it for long.
            declare_result_queue(self._connection.default_channel, self._reply_queue)
            options["reply_to"] = self._reply_queue.name
        with announcing(self._producer, announce):
            sent = send(call, options)
        return PublishedTask(getattr(sent, "id", None) or call.task_id, bool(getattr(sent, "ignored", False)))

    def _apply(self, call: Call, options: Mapping[str, Any]) -> Any:
        task = self._app.tasks[call.name]
        check = getattr(task, "__header__", None)
        if task.typing and check is not None:
            try:
                check(*call.args, **call.kwargs)
            except TypeError as exc:
                raise InvalidArgument("args", f"and kwargs must suit the task ({exc})") from exc
        return task.apply_async(args=call.args, kwargs=call.kwargs, **options)

    def _send(self, call: Call, options: Mapping[str, Any]) -> Any:
        return self._app.send_task(call.name, args=call.args, kwargs=call.kwargs, **options)

    def _find_queue(self, name: str) -> Queue:
        """Give a queue as the app describes it; one that it does not know is not added to those that it knows."""
        queues = self._app.amqp.queues
        known = name in queues
        try:
            queue: Queue = queues[name]
        except KeyError as exc:
            raise InvalidArgument("queue", "must be one of the app's task_queues", name) from exc
        if not known:
            queues.pop(name, None)
        return queue

    def _connect(self) -> Connection:
        if self._connection is None:
            self._app._backend = _SilentBackend(self._app)  # of this thread alone
            self._connection = open_connection(self._app)
            self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)
        return self._connection

    def _leave(self) -> None:
        """Disconnect for good: nobody will read the results of what was published."""
        if self._connection is not None and self._reply_queue is not None:
            with suppress(Exception):
                remove_result_queue(self._connection.default_channel, self._reply_queue)
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            drop_connection(self._connection)
            self._connection = self._producer = None
