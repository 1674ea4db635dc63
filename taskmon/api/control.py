"""Endpoints that change workers and running tasks. Event loop only."""

import time
from collections.abc import Mapping
from datetime import tzinfo
from typing import Any, ClassVar, Final

from ..auth import Role
from ..cluster.control import Control
from ..cluster.inspection import POOL_SETTLES, QUEUES_SETTLE
from ..errors import CommandRefused, InvalidArgument, Unavailable, UnknownTaskName, UnknownWorker, WorkerTimeout
from ..http.answers import Message
from ..http.base import ApiHandler
from ..http.serializers import message_body
from ..parameters import ID_SCHEMA, Parameter, Pattern, Schema, Seconds, Text, Whole, as_text, parse_id

_MAX_POOL: Final = 10_000
_MAX_LIMIT: Final = 1_000_000_000.0


class Rate(Pattern):
    """A rate limit; a number of JSON is one a second."""

    def from_json(self, argument: str, value: object) -> str:
        """Write numbers as texts."""
        return as_text(argument, value)

    def described(self) -> Schema:
        """Describe a number, and the pattern."""
        return {"anyOf": [{"type": "number", "minimum": 0, "exclusiveMaximum": 1e9}, self.schema()]}


_RATE: Final = Rate(r"[0-9]{1,9}(?:\.[0-9]{1,9})?(?:/[smh])?", "must be a number, or one with /s, /m or /h, as 10/m")
_QUEUE: Final = Pattern(r"[\w.@:-]{1,255}", "must be 1 to 255 letters, digits and . _ - : @")


class Hostname(Text):
    """The hostname of a worker; an empty one is a slip, and does not mean all workers."""

    def is_absent(self, value: object) -> bool:
        """Take an empty text for one."""
        return False

    def parse(self, argument: str, value: str, zone: tzinfo) -> str:
        """Return the hostname."""
        return parse_id(argument, value)

    def schema(self) -> Schema:
        """Describe a text that is not empty."""
        return dict(ID_SCHEMA)


class TimeLimit(Seconds):
    """A time limit in seconds; 0 or none removes it."""

    def parse(self, argument: str, value: object, zone: tzinfo) -> float:
        """Return the seconds, 0 for no limit."""
        removes = isinstance(value, str) and value.strip().lower() == "none"
        return 0.0 if removes else super().parse(argument, value, zone)

    def text(self) -> str:
        """Return the pattern of a number, and of none in any case."""
        return super().text() + r"|\s*[Nn][Oo][Nn][Ee]\s*"


_WHERE: Final = Parameter("workername", Hostname(), "The worker; without it all workers.")
_ITSELF: Final = Parameter("workername", Text(), "The worker that the path names, once more.")
_N: Final = Parameter("n", Whole(1, _MAX_POOL), "How many processes or threads.", default=1)
_OF_QUEUE: Final = Parameter("queue", _QUEUE, "The name of the queue.", required=True)


# Tasks


class TaskCommand(ApiHandler):
    """The base of every command about a task, to one worker or to all."""

    role = Role.OPERATOR
    answer_type = Message
    errors = (UnknownWorker, UnknownTaskName, CommandRefused, Unavailable, WorkerTimeout)

    async def post(self, task_name: str) -> None:
        """Give the command and answer what the workers say."""
        given = self.given()
        hostname = given["workername"]
        if hostname is not None:
            _require_worker(self, hostname)
        try:
            message = await self.command(task_name, hostname, given)
        finally:
            self.services.inspector.expect_change(None if hostname is None else [hostname], QUEUES_SETTLE)
        self.answer(message_body(message))

    async def command(self, task_name: str, hostname: str | None, given: Mapping[str, Any]) -> str:
        """Give the command, to all workers if no hostname is given; tell what to answer."""
        raise NotImplementedError


class TaskTimeout(TaskCommand):
    """POST `/api/task/timeout/<name>`: sets the time limits of a task."""

    takes = (
        _WHERE,
        Parameter("soft", TimeLimit(_MAX_LIMIT), "Seconds after which the task gets an exception; 0 or none: never."),
        Parameter("hard", TimeLimit(_MAX_LIMIT), "Seconds after which its process is ended; 0 or none: never."),
        Parameter("type", Pattern("soft|hard", "must be soft or hard"), "Which of the two must be there."),
    )

    async def command(self, task_name: str, hostname: str | None, given: Mapping[str, Any]) -> str:
        """Set the time limits of a task: one that is not given stays as it is."""
        soft, hard, kind = given["soft"], given["hard"], given["type"]
        if kind is not None and given[kind] is None:
            raise InvalidArgument(kind, "must be given, as type names it")
        if soft is None and hard is None:
            raise InvalidArgument("soft", "or hard must be given: seconds, or 0 or none to remove the limit")
        if soft and hard and soft > hard:
            raise InvalidArgument("soft", "must not be above hard", as_text("soft", soft))
        return await self.services.control.time_limit(task_name, soft, hard, hostname, _online(self))


class TaskRateLimit(TaskCommand):
    """POST `/api/task/rate-limit/<name>`: sets the rate limit of a task."""

    takes = (_WHERE, Parameter("ratelimit", _RATE, "A number a second, or with /s, /m or /h.", required=True))

    async def command(self, task_name: str, hostname: str | None, given: Mapping[str, Any]) -> str:
        """Set the rate limit of a task."""
        return await self.services.control.rate_limit(task_name, given["ratelimit"], hostname, _online(self))


# Workers


class WorkerCommand(ApiHandler):
    """The base of every command to one worker: 404 when it is not known."""

    role = Role.ADMIN
    answer_type = Message
    errors = (UnknownWorker, CommandRefused, Unavailable, WorkerTimeout)
    takes: ClassVar[tuple[Parameter, ...]] = (_ITSELF,)
    #: Whether the command cannot be undone.
    irreversible: ClassVar[bool] = False
    #: Seconds after which the worker is asked about itself anew; None where the command changes nothing of that.
    settles: ClassVar[float | None] = None

    async def post(self, hostname: str) -> None:
        """Give the command and answer what came of it."""
        _require_worker(self, hostname)
        given = self.given()
        if given["workername"] not in (None, hostname):
            raise InvalidArgument("workername", "must be the worker that the path names", given["workername"])
        if self.irreversible:
            self.audit_intent()
        try:
            message = await self.command(self.services.control, hostname, given)
        finally:  # one that is silent may have done it all the same
            self.services.inspector.expect_change([hostname], self.settles or QUEUES_SETTLE)
        if self.settles is not None:
            self.services.inspector.ask_again(hostname, self.settles)
        self.answer(message_body(message))

    async def command(self, control: Control, hostname: str, given: Mapping[str, Any]) -> str:
        """Give the command; tell what to answer."""
        raise NotImplementedError


class WorkerShutdown(WorkerCommand):
    """POST `/api/worker/shutdown/<worker>`: shuts a worker down."""

    irreversible = True

    async def command(self, control: Control, hostname: str, given: Mapping[str, Any]) -> str:
        """Shut the worker down."""
        await control.shutdown(hostname)
        return "Shutting down!"


class WorkerPoolRestart(WorkerCommand):
    """POST `/api/worker/pool/restart/<worker>`: restarts the pool of a worker."""

    irreversible = True
    settles = POOL_SETTLES

    async def command(self, control: Control, hostname: str, given: Mapping[str, Any]) -> str:
        """Restart its pool."""
        await control.pool_restart(hostname)
        return f"Restarting '{hostname}' worker's pool"


class WorkerPoolGrow(WorkerCommand):
    """POST `/api/worker/pool/grow/<worker>`: adds to the pool of a worker."""

    takes = (_N, _ITSELF)
    settles = POOL_SETTLES

    async def command(self, control: Control, hostname: str, given: Mapping[str, Any]) -> str:
        """Add to its pool."""
        await control.pool_grow(hostname, given["n"])
        return f"Growing '{hostname}' worker's pool by {given['n']}"


class WorkerPoolShrink(WorkerCommand):
    """POST `/api/worker/pool/shrink/<worker>`: takes from the pool of a worker."""

    takes = (_N, _ITSELF)
    settles = POOL_SETTLES

    async def command(self, control: Control, hostname: str, given: Mapping[str, Any]) -> str:
        """Take from its pool."""
        await control.pool_shrink(hostname, given["n"])
        return f"Shrinking '{hostname}' worker's pool by {given['n']}"


class WorkerPoolAutoscale(WorkerCommand):
    """POST `/api/worker/pool/autoscale/<worker>`: sets the bounds of the pool of a worker."""

    takes = (
        Parameter("min", Whole(0, _MAX_POOL), "How small the pool may become.", required=True),
        Parameter("max", Whole(1, _MAX_POOL), "How large the pool may become, not below min.", required=True),
        _ITSELF,
    )
    settles = POOL_SETTLES

    async def command(self, control: Control, hostname: str, given: Mapping[str, Any]) -> str:
        """Set the bounds of its pool."""
        minimum, maximum = given["min"], given["max"]
        if minimum > maximum:
            raise InvalidArgument("min", "must not be above max", str(minimum))
        await control.autoscale(hostname, minimum, maximum)
        return f"Autoscaling '{hostname}' worker (min={minimum}, max={maximum})"


class WorkerAddConsumer(WorkerCommand):
    """POST `/api/worker/queue/add-consumer/<worker>`: has a worker consume from a queue."""

    takes = (_OF_QUEUE, _ITSELF)
    settles = QUEUES_SETTLE

    async def command(self, control: Control, hostname: str, given: Mapping[str, Any]) -> str:
        """Have it consume from a queue."""
        return await control.add_consumer(hostname, given["queue"])


class WorkerCancelConsumer(WorkerCommand):
    """POST `/api/worker/queue/cancel-consumer/<worker>`: has a worker leave a queue."""

    takes = (_OF_QUEUE, _ITSELF)
    settles = QUEUES_SETTLE

    async def command(self, control: Control, hostname: str, given: Mapping[str, Any]) -> str:
        """Have it no longer consume from a queue."""
        return await control.cancel_consumer(hostname, given["queue"])


# What is asked of the state


def _require_worker(handler: ApiHandler, hostname: str) -> None:
    if hostname not in handler.services.state.workers:
        raise UnknownWorker(hostname)


def _online(handler: ApiHandler) -> list[str]:
    """List the workers that should answer when all are asked."""
    now = time.time()
    return [worker.hostname for worker in handler.services.state.workers.values() if worker.alive(now)]
