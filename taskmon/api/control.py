"""Endpoints that change workers and running tasks. Event loop only."""

import time
from datetime import tzinfo
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta

from ..auth import Role
from ..cluster.control import Control
from ..cluster.inspection import POOL_SETTLES, QUEUES_SETTLE
from ..cluster.publish_options import QUEUE_FORMAT
from ..errors import CommandRefused, InvalidArgument, Unavailable, UnknownTaskName, UnknownWorker, WorkerTimeout
from ..http.answers import Message
from ..http.base import ApiHandler
from ..http.serializers import message_body
from ..parameters import (
    ID_SCHEMA,
    Format,
    Parameters,
    as_text,
    matching,
    parse_seconds,
    read_id,
    seconds_pattern,
)

_MAX_POOL: Final = 10_000
_MAX_LIMIT: Final = 1_000_000_000.0


def _read_rate(argument: str, value: object, zone: tzinfo) -> str:
    """Return a rate limit as a text; a number of JSON is one a second."""
    return str(_RATE.read(argument, as_text(argument, value), zone))


def _read_limit(argument: str, value: object, zone: tzinfo) -> float:
    """Return a time limit in seconds; 0 or none removes it."""
    removes = isinstance(value, str) and value.strip().lower() == "none"
    return 0.0 if removes else parse_seconds(argument, value, _MAX_LIMIT)


_RATE: Final = matching(
    r"[0-9]{1,9}(?:\.[0-9]{1,9})?(?:/[smh])?", "must be a number, or one with /s, /m or /h, as 10/m"
)
_NUMBER: Final = {"type": "number", "minimum": 0}

TimeLimit = Annotated[
    float | None,
    Format(_read_limit, _NUMBER | {"maximum": _MAX_LIMIT}, seconds_pattern(_MAX_LIMIT) + r"|\s*[Nn][Oo][Nn][Ee]\s*"),
]
Rate = Annotated[
    str, Format(_read_rate, {"anyOf": [_NUMBER | {"exclusiveMaximum": 1e9}, _RATE.schema]}, form=_RATE.schema)
]
#: An empty hostname is a slip, and does not mean all workers.
Hostname = Annotated[str | None, Format(read_id, ID_SCHEMA, absent="null")]
Size = Annotated[int, Meta(ge=1, le=_MAX_POOL, description="How many processes or threads.")]


class Where(Parameters):
    """Which workers to tell."""

    workername: Annotated[Hostname, Meta(description="The worker; without it all workers.")] = None


class TimeLimits(Where):
    """The time limits of a task."""

    soft: Annotated[
        TimeLimit, Meta(description="Seconds after which the task gets an exception; 0 or none: never.")
    ] = None
    hard: Annotated[TimeLimit, Meta(description="Seconds after which its process is ended; 0 or none: never.")] = None
    type: Annotated[
        str | None,
        matching("soft|hard", "must be soft or hard"),
        Meta(description="Which of the two must be there."),
    ] = None


class RateLimit(Where, kw_only=True):
    """The rate limit of a task."""

    ratelimit: Annotated[Rate, Meta(description="A number a second, or with /s, /m or /h.")]


class OneWorker(Parameters):
    """The worker that the path names."""

    workername: Annotated[str | None, Meta(description="The worker that the path names, once more.")] = None


class PoolChange(OneWorker):
    """How much a pool grows or shrinks."""

    n: Size = 1


class PoolBounds(OneWorker, kw_only=True):
    """The bounds of a pool."""

    min: Annotated[int, Meta(ge=0, le=_MAX_POOL, description="How small the pool may become.")]
    max: Annotated[int, Meta(ge=1, le=_MAX_POOL, description="How large the pool may become, not below min.")]


class OneQueue(OneWorker, kw_only=True):
    """A queue of a worker."""

    queue: Annotated[str, QUEUE_FORMAT, Meta(description="The name of the queue.")]


# Tasks


class TaskCommand(ApiHandler):
    """The base of every command about a task, to one worker or to all."""

    role = Role.OPERATOR
    response_type = Message
    errors = (UnknownWorker, UnknownTaskName, CommandRefused, Unavailable, WorkerTimeout)

    async def post(self, task_name: str) -> None:
        """Give the command and answer what the workers say."""
        given = self.parse_parameters()
        hostname = given.workername
        if hostname is not None:
            _require_worker(self, hostname)
        try:
            message = await self.command(task_name, hostname, given)
        finally:
            self.monitor.inspector.expect_change(None if hostname is None else [hostname], QUEUES_SETTLE)
        self.answer(message_body(message))

    async def command(self, task_name: str, hostname: str | None, given: Any) -> str:
        """Give the command, to all workers if no hostname is given; tell what to answer."""
        raise NotImplementedError


class TaskTimeout(TaskCommand):
    path = "/api/task/timeout/{task_name}"
    summary = "Sets the time limits of a task"
    parameters = TimeLimits

    async def command(self, task_name: str, hostname: str | None, given: Any) -> str:
        """Set the time limits of a task: one that is not given stays as it is."""
        soft, hard, kind = given.soft, given.hard, given.type
        if kind is not None and getattr(given, kind) is None:
            raise InvalidArgument(kind, "must be given, as type names it")
        if soft is None and hard is None:
            raise InvalidArgument("soft", "or hard must be given: seconds, or 0 or none to remove the limit")
        if soft and hard and soft > hard:
            raise InvalidArgument("soft", "must not be above hard", as_text("soft", soft))
        return await self.monitor.control.time_limit(task_name, soft, hard, hostname, _online(self))


class TaskRateLimit(TaskCommand):
    path = "/api/task/rate-limit/{task_name}"
    summary = "Sets the rate limit of a task"
    parameters = RateLimit

    async def command(self, task_name: str, hostname: str | None, given: Any) -> str:
        """Set the rate limit of a task."""
        return await self.monitor.control.rate_limit(task_name, given.ratelimit, hostname, _online(self))


# Workers


class WorkerCommand(ApiHandler):
    """The base of every command to one worker: 404 when it is not known."""

    role = Role.ADMIN
    response_type = Message
    errors = (UnknownWorker, CommandRefused, Unavailable, WorkerTimeout)
    parameters: ClassVar[type[Parameters]] = OneWorker
    #: Whether the command cannot be undone.
    irreversible: ClassVar[bool] = False
    #: Seconds after which the worker is asked about itself anew; None where the command changes nothing of that.
    settles: ClassVar[float | None] = None

    async def post(self, hostname: str) -> None:
        """Give the command and answer what came of it."""
        _require_worker(self, hostname)
        given = self.parse_parameters()
        if given.workername not in (None, hostname):
            raise InvalidArgument("workername", "must be the worker that the path names", given.workername)
        if self.irreversible:
            self.audit_intent()
        try:
            message = await self.command(self.monitor.control, hostname, given)
        finally:  # one that is silent may have done it all the same
            self.monitor.inspector.expect_change([hostname], self.settles or QUEUES_SETTLE)
        if self.settles is not None:
            self.monitor.inspector.ask_again(hostname, self.settles)
        self.answer(message_body(message))

    async def command(self, control: Control, hostname: str, given: Any) -> str:
        """Give the command; tell what to answer."""
        raise NotImplementedError


class WorkerShutdown(WorkerCommand):
    path = "/api/worker/shutdown/{hostname}"
    summary = "Shuts a worker down"
    irreversible = True

    async def command(self, control: Control, hostname: str, given: Any) -> str:
        """Shut the worker down."""
        await control.shutdown(hostname)
        return "Shutting down!"


class WorkerPoolRestart(WorkerCommand):
    path = "/api/worker/pool/restart/{hostname}"
    summary = "Restarts the pool of a worker"
    irreversible = True
    settles = POOL_SETTLES

    async def command(self, control: Control, hostname: str, given: Any) -> str:
        """Restart its pool."""
        await control.pool_restart(hostname)
        return f"Restarting '{hostname}' worker's pool"


class WorkerPoolGrow(WorkerCommand):
    path = "/api/worker/pool/grow/{hostname}"
    summary = "Adds to the pool of a worker"
    parameters = PoolChange
    settles = POOL_SETTLES

    async def command(self, control: Control, hostname: str, given: Any) -> str:
        """Add to its pool."""
        await control.pool_grow(hostname, given.n)
        return f"Growing '{hostname}' worker's pool by {given.n}"


class WorkerPoolShrink(WorkerCommand):
    path = "/api/worker/pool/shrink/{hostname}"
    summary = "Takes from the pool of a worker"
    parameters = PoolChange
    settles = POOL_SETTLES

    async def command(self, control: Control, hostname: str, given: Any) -> str:
        """Take from its pool."""
        await control.pool_shrink(hostname, given.n)
        return f"Shrinking '{hostname}' worker's pool by {given.n}"


class WorkerPoolAutoscale(WorkerCommand):
    path = "/api/worker/pool/autoscale/{hostname}"
    summary = "Sets the bounds of the pool of a worker"
    parameters = PoolBounds
    settles = POOL_SETTLES

    async def command(self, control: Control, hostname: str, given: Any) -> str:
        """Set the bounds of its pool."""
        minimum, maximum = given.min, given.max
        if minimum > maximum:
            raise InvalidArgument("min", "must not be above max", str(minimum))
        await control.autoscale(hostname, minimum, maximum)
        return f"Autoscaling '{hostname}' worker (min={minimum}, max={maximum})"


class WorkerAddConsumer(WorkerCommand):
    path = "/api/worker/queue/add-consumer/{hostname}"
    summary = "Has a worker consume from a queue"
    parameters = OneQueue
    settles = QUEUES_SETTLE

    async def command(self, control: Control, hostname: str, given: Any) -> str:
        """Have it consume from a queue."""
        return await control.add_consumer(hostname, given.queue)


class WorkerCancelConsumer(WorkerCommand):
    path = "/api/worker/queue/cancel-consumer/{hostname}"
    summary = "Has a worker leave a queue"
    parameters = OneQueue
    settles = QUEUES_SETTLE

    async def command(self, control: Control, hostname: str, given: Any) -> str:
        """Have it no longer consume from a queue."""
        return await control.cancel_consumer(hostname, given.queue)


# What is asked of the state


def _require_worker(handler: ApiHandler, hostname: str) -> None:
    if hostname not in handler.monitor.state.workers:
        raise UnknownWorker(hostname)


def _online(handler: ApiHandler) -> list[str]:
    """List the workers that should answer when all are asked."""
    now = time.time()
    return [worker.hostname for worker in handler.monitor.state.workers.values() if worker.alive(now)]
